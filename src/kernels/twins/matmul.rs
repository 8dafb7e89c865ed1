//! Twin of `matmul`.

use super::pointwise::activate;
use crate::graph::Twin;
use crate::kernels::matmul::Matmul;
use crate::kernels::table::Repeat;

/// y\[m, n\] = residual\[m, n\] + gate\[the row for m, n\] act(sum over k of x\[m, k\] w\[n, k\] + bias\[n\])
pub fn matmul(kernel: &Matmul, inputs: &[Twin]) -> Vec<f64> {
    let (x, w) = (&inputs[0], &inputs[1]);
    let mut rest = inputs[2..].iter();
    let mut take = |wanted: bool| if wanted { rest.next() } else { None };
    let (bias, residual, gate) = (take(kernel.bias), take(kernel.residual), take(kernel.gate));
    let (depth, columns) = (x.shape.last(), w.shape.rows());
    let gate = gate.and_then(|gate| Some((gate, Repeat::of(gate.shape, x.shape.with_last(columns))?)));
    let mut y = Vec::with_capacity(x.shape.rows() * columns);
    for (m, row) in x.values.chunks_exact(depth).enumerate() {
        for (n, weights) in w.values.chunks_exact(depth).enumerate() {
            let mut value: f64 = row.iter().zip(weights).map(|(x, w)| x * w).sum();
            value += bias.map_or(0.0, |bias| bias.values[n]);
            value = activate(kernel.activation, value);
            value *= gate.map_or(1.0, |(gate, repeat)| gate.values[repeat.row(m) * columns + n]);
            value += residual.map_or(0.0, |residual| residual.values[m * columns + n]);
            y.push(value);
        }
    }
    y
}
