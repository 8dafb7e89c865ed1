//! Classifier-free guidance (arXiv:2207.12598).

use crate::{Error, Result};

/// How far past the unconditional prediction to go: `u + g (c - u)`, where the step's expert decides which g.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    high: f32,
    low: f32,
}

impl Guidance {
    /// Guidance for the high-noise expert (or the only one) and, where it differs, for the low-noise one.
    ///
    /// # Errors
    /// When a value is not finite or is negative.
    pub fn new(high: f64, low: Option<f64>) -> Result<Self> {
        let check = |argument: &str, value: f64| {
            let narrow = value as f32;
            if narrow.is_finite() && value >= 0.0 {
                Ok(narrow)
            } else {
                Err(Error::request(argument, format!("{value} is not a usable strength; 1 is off, 3 to 8 is usual")))
            }
        };
        let low = low.map(|value| check("--guidance-low", value)).transpose()?;
        let high = check("--guidance", high)?;
        Ok(Self { high, low: low.unwrap_or(high) })
    }

    /// Whether the unconditional pass is run at all: above 1, and as in diffusers the high-noise value decides.
    pub fn is_on(&self) -> bool {
        self.high > 1.0
    }

    /// g for the expert at hand.
    pub fn scale(&self, low_noise: bool) -> f32 {
        if low_noise { self.low } else { self.high }
    }

    /// Weights `(u, c)` of the unconditional and the conditional prediction; `(0, 1)` when guidance is off.
    pub fn weights(&self, low_noise: bool) -> (f32, f32) {
        if self.is_on() { (1.0 - self.scale(low_noise), self.scale(low_noise)) } else { (0.0, 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_up_to_one() {
        for scale in [0.0, 0.5, 1.0] {
            let guidance = Guidance::new(scale, Some(7.0)).expect("usable");
            assert!(!guidance.is_on());
            assert_eq!(guidance.weights(true), (0.0, 1.0));
        }
        let guidance = Guidance::new(4.0, Some(3.0)).expect("usable");
        assert_eq!(guidance.weights(false), (-3.0, 4.0));
        assert_eq!(guidance.weights(true), (-2.0, 3.0));
        assert_eq!(Guidance::new(5.0, None).expect("usable").scale(true), 5.0);
    }

    #[test]
    fn unusable_values_are_named() {
        for value in [f64::NAN, f64::INFINITY, -1.0, 1e300] {
            let error = Guidance::new(value, None).expect_err("unusable").to_string();
            assert!(error.starts_with("--guidance:"), "{error}");
            let error = Guidance::new(5.0, Some(value)).expect_err("unusable").to_string();
            assert!(error.starts_with("--guidance-low:"), "{error}");
        }
    }
}
