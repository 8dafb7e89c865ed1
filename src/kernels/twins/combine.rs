//! Twin of `linear_combination`.

use crate::graph::Twin;

/// The sum of c\[i\] x_i over the terms with c\[i\] != 0; the last input is c.
pub fn linear_combination(inputs: &[Twin]) -> Vec<f64> {
    let Some((coefficients, terms)) = inputs.split_last() else { return Vec::new() };
    let used = || terms.iter().zip(&coefficients.values).filter(|(_, c)| **c != 0.0);
    (0..terms[0].values.len()).map(|i| used().map(|(x, c)| c * x.values[i]).sum()).collect()
}
