//! Twins of `concat` and `permute`.

use crate::graph::Twin;

/// One after the other.
pub fn concat(all: &[Twin]) -> Vec<f64> {
    all.iter().flat_map(|x| &x.values).copied().collect()
}

/// x with y.shape\[i\] = x.shape\[axes\[i\]\].
pub fn permute(axes: &[usize], x: &Twin) -> Vec<f64> {
    let dims = x.shape.dims();
    let strides: Vec<usize> = (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect();
    let mut y = Vec::with_capacity(x.values.len());
    let mut at = vec![0; axes.len()];
    for _ in 0..x.values.len() {
        y.push(x.values[at.iter().zip(axes).map(|(i, &axis)| i * strides[axis]).sum::<usize>()]);
        // The next coordinates, counted up like the digits of a number.
        for (digit, &axis) in at.iter_mut().zip(axes).rev() {
            *digit += 1;
            if *digit < dims[axis] {
                break;
            }
            *digit = 0;
        }
    }
    y
}
