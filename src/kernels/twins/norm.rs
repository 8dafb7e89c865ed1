//! Twins of `layer_norm`, `rms_norm` and `l2_norm`.

use crate::graph::Twin;
use crate::kernels::norm::{Affine, L2Norm, LayerNorm, RmsNorm};
use crate::kernels::table::Repeat;

/// Applies `norm` to every row; it is told the row's number.
fn by_row(x: &Twin, norm: impl Fn(usize, &[f64]) -> Vec<f64>) -> Vec<f64> {
    x.values.chunks_exact(x.shape.last().max(1)).enumerate().flat_map(|(row, values)| norm(row, values)).collect()
}

/// (x - mean) / sqrt(var + eps), then * a + b, or * (1 + b) + a with the row of both that `Repeat` says.
pub fn layer_norm(kernel: &LayerNorm, inputs: &[Twin]) -> Vec<f64> {
    let x = &inputs[0];
    by_row(x, |row, values| {
        let c = values.len() as f64;
        let mean = values.iter().sum::<f64>() / c;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c;
        let normal = values.iter().map(|v| (v - mean) / (variance + f64::from(kernel.eps)).sqrt());
        let table = |i: usize| {
            let at = Repeat::of(inputs[i].shape, x.shape).map_or(0, |repeat| repeat.row(row)) * values.len();
            &inputs[i].values[at..at + values.len()]
        };
        match kernel.affine {
            Affine::None => normal.collect(),
            Affine::Weights => normal.zip(table(1)).zip(table(2)).map(|((v, w), b)| v * w + b).collect(),
            Affine::Modulation => {
                normal.zip(table(1)).zip(table(2)).map(|((v, shift), scale)| v * (1.0 + scale) + shift).collect()
            }
        }
    })
}

/// x / sqrt(mean(x^2) + eps) * w
pub fn rms_norm(kernel: &RmsNorm, x: &Twin, w: &Twin) -> Vec<f64> {
    by_row(x, |_, values| {
        let mean = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
        values.iter().zip(&w.values).map(|(v, w)| v / (mean + f64::from(kernel.eps)).sqrt() * w).collect()
    })
}

/// x / max(|x|, eps) * sqrt(C) * w, then SiLU if the kernel says so.
pub fn l2_norm(kernel: &L2Norm, eps: f64, x: &Twin, w: &Twin) -> Vec<f64> {
    by_row(x, |_, values| {
        let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt().max(eps);
        let scaled = values.iter().zip(&w.values).map(|(v, w)| v / norm * (values.len() as f64).sqrt() * w);
        scaled.map(|v| if kernel.silu { v / (1.0 + (-v).exp()) } else { v }).collect()
    })
}
