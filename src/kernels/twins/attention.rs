//! Twin of `attention`.

use crate::graph::Twin;
use crate::kernels::attention::Attention;

/// y\[b, i, n, :\] = sum_j softmax_j(scale q\[b, i, n, :\] . k\[b, j, n, :\] + bias) v\[b, j, n, :\]
///
/// The biases follow q, k and v in `inputs` in the order of the kernel's fields.
pub fn attention(kernel: &Attention, inputs: &[Twin]) -> Vec<f64> {
    let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
    let key_bias = kernel.key_bias.then(|| &inputs[3].values);
    let rel_bias = kernel.rel_bias.then(|| &inputs[if kernel.key_bias { 4 } else { 3 }].values);
    let [batches, queries, channels] = [q.shape[0], q.shape[1], q.shape[2]];
    let (keys, heads) = (k.shape[1], kernel.heads);
    let head_dim = channels / heads;
    let mut y = vec![0.0; q.values.len()];
    let mut logits = vec![0.0; keys];
    for b in 0..batches {
        for i in 0..queries {
            for n in 0..heads {
                let from = (b * queries + i) * channels + n * head_dim;
                let row = &q.values[from..from + head_dim];
                let key = |j: usize| (b * keys + j) * channels + n * head_dim;
                for (j, logit) in logits.iter_mut().enumerate() {
                    let other = &k.values[key(j)..key(j) + head_dim];
                    *logit = f64::from(kernel.scale) * row.iter().zip(other).map(|(q, k)| q * k).sum::<f64>();
                    *logit += key_bias.map_or(0.0, |bias| bias[b * keys + j]);
                    *logit += rel_bias.map_or(0.0, |bias| bias[(j + queries - 1 - i) * heads + n]);
                }
                let max = logits.iter().fold(f64::MIN, |max, &logit| max.max(logit));
                logits.iter_mut().for_each(|logit| *logit = (*logit - max).exp());
                let sum: f64 = logits.iter().sum();
                for (j, probability) in logits.iter().enumerate() {
                    let value = &v.values[key(j)..key(j) + head_dim];
                    let out = y[from..from + head_dim].iter_mut();
                    out.zip(value).for_each(|(y, v)| *y += probability / sum * v);
                }
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys, one dimension: softmax(ln 3, 0) = (3/4, 1/4).
    #[test]
    fn two_keys_by_hand() {
        let twin = |shape: [usize; 3], values: &[f64]| Twin { shape: shape.into(), values: values.to_vec() };
        let kernel = Attention { heads: 1, scale: 0.5, key_bias: false, rel_bias: false };
        let inputs = [twin([1, 1, 1], &[2.0]), twin([1, 2, 1], &[3f64.ln(), 0.0]), twin([1, 2, 1], &[8.0, 4.0])];
        assert!((attention(&kernel, &inputs)[0] - 7.0).abs() < 1e-12);
        let biased = Attention { key_bias: true, ..kernel };
        let bias = Twin { shape: [1, 2].into(), values: vec![-(3f64.ln()), 0.0] };
        let [q, k, v] = inputs;
        assert!((attention(&biased, &[q, k, v, bias])[0] - 6.0).abs() < 1e-12, "a bias that evens them out");
    }
}
