//! Twin of `conv3d`.

use crate::graph::Twin;
use crate::kernels::conv3d::Conv3d;

/// The convolution in plain loops; inputs in the kernel's order.
pub fn conv3d(kernel: &Conv3d, inputs: &[Twin]) -> Vec<f64> {
    let (x, w) = (&inputs[0], &inputs[1]);
    let mut rest = inputs[2..].iter();
    let prev = kernel.prev.then(|| rest.next()).flatten();
    let bias = kernel.bias.then(|| rest.next()).flatten();
    let residual = kernel.residual.then(|| rest.next()).flatten();
    let [frames, rows, columns, channels] = [0, 1, 2, 3].map(|axis| x.shape[axis]);
    let [outputs, kt, kh, kw] = [0, 1, 2, 3].map(|axis| w.shape[axis]);
    let front = prev.map_or(kernel.front, |prev| prev.shape[0]);
    let [[top, bottom], [left, right]] = kernel.pad;
    let [st, sh, sw] = kernel.stride;
    let t_out = (front + frames - kt) / st + 1;
    let h_out = (rows * kernel.upsample + top + bottom - kh) / sh + 1;
    let w_out = (columns * kernel.upsample + left + right - kw) / sw + 1;

    // The channels that a tap sees, or none where the frame, the row or the column is padding.
    let pixel = |t: usize, row: usize, column: usize| -> Option<&[f64]> {
        let row = row.checked_sub(top)? / kernel.upsample;
        let column = column.checked_sub(left)? / kernel.upsample;
        let (source, t) = if t < front { (prev?, t) } else { (x, t - front) };
        let start = ((t * rows + row) * columns + column) * channels;
        (row < rows && column < columns).then(|| &source.values[start..start + channels])
    };
    let mut y = Vec::with_capacity(t_out * h_out * w_out * outputs);
    for (t, row, column) in positions(t_out, h_out, w_out) {
        let start = y.len();
        y.extend((0..outputs).map(|o| {
            bias.map_or(0.0, |bias| bias.values[o]) + residual.map_or(0.0, |residual| residual.values[start + o])
        }));
        for (a, b, c) in positions(kt, kh, kw) {
            let Some(pixel) = pixel(t * st + a, row * sh + b, column * sw + c) else { continue };
            for (o, sum) in y[start..].iter_mut().enumerate() {
                let tap = ((o * kt + a) * kh + b) * kw + c;
                let weights = &w.values[tap * channels..][..channels];
                *sum += pixel.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>();
            }
        }
    }
    y
}

/// All triples below three bounds, the last one fastest.
fn positions(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}
