//! Frames per second as an exact fraction.

use crate::error::{Error, Result};

/// Frames per second as `num / den` in lowest terms, both of 16 bits and not zero, as APNG stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    num: u16,
    den: u16,
}

/// Film and television rates that are written as decimals and mean `n * 1000 / 1001`.
const NTSC: [u16; 4] = [24, 30, 48, 60];

impl Rate {
    /// The simplest fraction for `fps`: 23.976 and 29.97 are taken as 24000/1001 and 30000/1001; everything else
    /// comes from its continued fraction, to within 1e-7 of its value where 16 bits allow.
    ///
    /// # Errors
    /// [`Error::Request`] for a rate that is not a number or outside 0.01 to 1000.
    pub fn new(fps: f64) -> Result<Self> {
        if !(0.01..=1000.0).contains(&fps) {
            return Err(Error::request("--fps", format!("{fps} frames a second; it takes 0.01 to 1000")));
        }
        // 0.005 is half of the last digit of "23.98"; 24 itself is 0.024 away.
        if let Some(whole) = NTSC.into_iter().find(|&n| (fps - f64::from(n) / 1.001).abs() < 0.005) {
            return Ok(Self { num: whole * 1000, den: 1001 });
        }
        // Convergents p/q of the continued fraction; (p0, q0) is the one before.
        let (mut p0, mut q0, mut p, mut q) = (0_u64, 1_u64, 1_u64, 0_u64);
        let mut rest = fps;
        loop {
            let digit = rest.floor();
            let (p2, q2) = (digit as u64 * p + p0, digit as u64 * q + q0);
            if p2 > u64::from(u16::MAX) || q2 > u64::from(u16::MAX) {
                break;
            }
            (p0, q0, p, q) = (p, q, p2, q2);
            if (fps - p as f64 / q as f64).abs() <= fps * 1e-7 {
                break;
            }
            rest = 1.0 / (rest - digit);
        }
        // The range above leaves both in 1..=65535: the first convergent with p > 0 is at most 1/100 or 1000/1.
        Ok(Self { num: (p as u16).max(1), den: (q as u16).max(1) })
    }

    /// Frames in [`Rate::den`] seconds.
    pub fn num(self) -> u16 {
        self.num
    }

    /// Seconds that [`Rate::num`] frames take.
    pub fn den(self) -> u16 {
        self.den
    }

    /// Frames per second.
    pub fn fps(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Result;

    #[test]
    fn known_rates() -> Result<()> {
        for (fps, num, den) in [
            (16.0, 16, 1),
            (24.0, 24, 1),
            (23.976, 24000, 1001),
            (23.98, 24000, 1001),
            (29.97, 30000, 1001),
            (59.94, 60000, 1001),
            (12.5, 25, 2),
            (7.1, 71, 10),
            (0.01, 1, 100),
            (0.3, 3, 10),
            (1000.0, 1000, 1),
        ] {
            assert_eq!(Rate::new(fps)?, Rate { num, den }, "{fps}");
        }
        Ok(())
    }

    #[test]
    fn absurd_rates() {
        for fps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9, 0.001] {
            assert!(matches!(Rate::new(fps), Err(Error::Request { .. })), "{fps}");
        }
    }

    proptest::proptest! {
        #[test]
        fn close(fps in 0.01_f64..1000.0) {
            let rate = Rate::new(fps).map_err(|e| proptest::test_runner::TestCaseError::fail(e.to_string()))?;
            // 0.005 is allowed near the television rates; 16 bits give at worst about 1/65535 elsewhere.
            proptest::prop_assert!((rate.fps() - fps).abs() < 0.0051 + fps / 65535.0, "{} for {fps}", rate.fps());
        }
    }
}
