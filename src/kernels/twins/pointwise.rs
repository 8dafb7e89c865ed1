//! Twin of `add`, `mul` and `activate`.

use crate::graph::Twin;
use crate::kernels::pointwise::{Activation, Pointwise, PointwiseOp};

/// The activation function in `f64`.
pub fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
    }
}

/// erf by its Maclaurin series near zero and a continued fraction of erfc (Lentz's method) further out.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let magnitude = if a < 2.5 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        // erfc(a) = exp(-a^2) / sqrt(pi) / (a + (1/2)/(a + 1/(a + (3/2)/(a + ...))))
        let tail = (1..=80).rev().fold(a, |rest, k| a + 0.5 * f64::from(k) / rest);
        1.0 - (-a * a).exp() / std::f64::consts::PI.sqrt() / tail
    };
    magnitude.copysign(x)
}

/// y\[i\] = act(a\[i\]) op b\[i mod count(b)\]
pub fn pointwise(kernel: &Pointwise, a: &Twin, b: Option<&Twin>) -> Vec<f64> {
    let one = |(i, &x): (usize, &f64)| {
        let x = activate(kernel.activation, x);
        match (kernel.op, b) {
            (PointwiseOp::Add, Some(b)) => x + b.values[i % b.values.len()],
            (PointwiseOp::Mul, Some(b)) => x * b.values[i % b.values.len()],
            _ => x,
        }
    };
    a.values.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_matches_known_values() {
        for (x, want) in
            [(0.0, 0.0), (0.5, 0.520_499_877_813_046_5), (2.0, 0.995_322_265_018_952_7), (3.0, 0.999_977_909_503_001_4)]
        {
            assert!((super::erf(x) - want).abs() < 1e-13 && (super::erf(-x) + want).abs() < 1e-13, "erf({x})");
        }
    }
}
