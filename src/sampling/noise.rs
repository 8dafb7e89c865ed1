//! Gaussian noise, bit for bit that of `torch.randn` with a CPU generator.
//!
//! PyTorch draws fewer than 16 values one by one in double precision, and 16 or more in blocks of 16 in single
//! precision, with the Cephes approximations of logarithm, sine and cosine evaluated by fused multiply-adds (its path
//! for x86 with AVX2 and later; `aten/src/ATen/native/cpu/DistributionTemplates.h`). Both are followed here, so the
//! same seed starts the same video as a diffusers script.

use crate::tensor::{HostTensor, Shape};

/// `torch.randn(shape, generator=torch.Generator().manual_seed(seed))` in f32.
///
/// As in PyTorch, only the low 32 bits of the seed count.
pub fn randn(shape: impl Into<Shape>, seed: u64) -> HostTensor {
    Generator::new(seed).randn(shape)
}

/// A `torch.Generator` of the CPU: draws in sequence continue where the last one stopped.
#[derive(Clone)]
pub struct Generator {
    bits: Mt19937,
    /// The second value of the last Box-Muller pair, kept for the next draw of fewer than 16 values.
    spare: Option<f64>,
}

impl Generator {
    /// A generator after `manual_seed(seed)`.
    pub fn new(seed: u64) -> Self {
        Self { bits: Mt19937::new(seed as u32), spare: None }
    }

    /// The next `torch.randn(shape)` in f32.
    pub fn randn(&mut self, shape: impl Into<Shape>) -> HostTensor {
        let shape = shape.into();
        HostTensor::from_f32(shape, &self.normals(shape.count()))
    }

    /// The next `count` standard normal values, drawn as one tensor.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK {
            return (0..count).map(|_| self.normal() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            box_muller(block);
        }
        if !count.is_multiple_of(BLOCK) {
            // The last 16 values, some of them done already, are drawn afresh.
            let tail = &mut values[count - BLOCK..];
            tail.fill_with(|| self.uniform());
            box_muller(tail);
        }
        values
    }

    /// A uniform value in [0, 1) of 24 bits.
    fn uniform(&mut self) -> f32 {
        (self.bits.next() & 0x00ff_ffff) as f32 * (1.0 / 16_777_216.0)
    }

    /// A uniform value in [0, 1) of 53 bits.
    fn uniform_double(&mut self) -> f64 {
        let high = u64::from(self.bits.next());
        let low = u64::from(self.bits.next());
        (((high << 32) | low) & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        let angle = 2.0 * std::f64::consts::PI * self.uniform_double();
        let radius = (-2.0 * (-self.uniform_double()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

impl std::fmt::Debug for Generator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generator").finish_non_exhaustive()
    }
}

/// How many values the single-precision path makes at a time: 8 pairs.
const BLOCK: usize = 16;

/// 16 uniform values in [0, 1) to 16 normal ones: the first 8 give the radii, the last 8 the angles.
fn box_muller(block: &mut [f32]) {
    let (first, second) = block.split_at_mut(BLOCK / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * *b);
        // Adding zero turns -0 into +0, as the reference's multiply-add with mean 0 does.
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}

/// `a * b + c`, rounded once: the product is exact in f64, where the sum keeps 29 more bits than the result.
fn fma(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}

/// A polynomial of `x` by Horner's rule, highest power first.
fn horner<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    coefficients.into_iter().reduce(|y, c| fma(y, x, c)).unwrap_or_default()
}

/// Cephes `logf` for x in (0, 1]: x = 2^e m with m in [sqrt(1/2), sqrt(2)), then a polynomial in m - 1.
#[expect(clippy::excessive_precision, reason = "the constants as Cephes prints them")]
fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as i32 - 126;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0.5f32.to_bits());
    let mut m = mantissa - 1.0;
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        m += mantissa;
    }
    let e = exponent as f32;
    let square = m * m;
    let y = horner(
        m,
        [
            7.0376836292e-2,
            -1.1514610310e-1,
            1.1676998740e-1,
            -1.2420140846e-1,
            1.4249322787e-1,
            -1.6668057665e-1,
            2.0000714765e-1,
            -2.4999993993e-1,
            3.3333331174e-1,
        ],
    ) * m;
    // ln 2 in two parts, the larger of them exact in few bits.
    let y = fma(y, square, e * -2.12194440e-4) - 0.5 * square;
    fma(e, 0.693359375, m + y)
}

/// Cephes `sinf` and `cosf` for x >= 0: x less a multiple of pi/2 in three parts, then a polynomial for each.
#[expect(clippy::excessive_precision, reason = "the constants as Cephes prints them")]
fn sin_cos(x: f32) -> (f32, f32) {
    let octant = ((x * 1.27323954473516) as u32 + 1) & !1;
    let j = octant as f32;
    let r = fma(j, -3.77489497744594108e-8, fma(j, -2.4187564849853515625e-4, fma(j, -0.78515625, x)));
    let z = r * r;
    let c = horner(z, [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]) * z;
    let c = fma(c, z, -0.5 * z) + 1.0;
    let s = fma(horner(z, [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]) * z, r, r);
    let (sin, cos) = if octant & 2 == 0 { (s, c) } else { (c, s) };
    let sin = if octant & 4 == 0 { sin } else { -sin };
    let cos = if octant.wrapping_sub(2) & 4 == 0 { -cos } else { cos };
    (sin, cos)
}

/// The Mersenne twister MT19937 (Matsumoto and Nishimura, 1998).
#[derive(Clone)]
struct Mt19937 {
    state: [u32; Self::N],
    at: usize,
}

impl Mt19937 {
    const N: usize = 624;
    const M: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::N];
        for j in 1..Self::N {
            let last = state[j - 1];
            state[j] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(j as u32);
        }
        Self { state, at: Self::N }
    }

    fn next(&mut self) -> u32 {
        if self.at == Self::N {
            for i in 0..Self::N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % Self::N] & 0x7fff_ffff);
                let twist = if y & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[i] = self.state[(i + Self::M) % Self::N] ^ (y >> 1) ^ twist;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twister_gives_the_published_value() {
        // C++11 [rand.predef]: the 10000th value of a default-seeded mt19937.
        let mut bits = Mt19937::new(5489);
        assert_eq!((0..10_000).map(|_| bits.next()).last(), Some(4_123_659_995));
    }

    #[test]
    fn only_the_low_half_of_a_seed_counts() {
        for count in [3, 17] {
            let low = Generator::new(5).normals(count);
            assert_eq!(low, Generator::new(5 + (1 << 32)).normals(count));
            assert_ne!(low, Generator::new(6).normals(count));
        }
    }

    #[test]
    fn functions_are_within_an_ulp_or_two() {
        for i in 0..(1 << 16) {
            let u = (i as f32 + 0.5) / 65536.0;
            assert!((f64::from(ln(u)) - f64::from(u).ln()).abs() <= 1.2e-7 * f64::from(u).ln().abs().max(1e-3), "{u}");
            let x = std::f32::consts::TAU * u;
            let (sin, cos) = sin_cos(x);
            assert!((f64::from(sin) - f64::from(x).sin()).abs() < 1.2e-7, "{x}");
            assert!((f64::from(cos) - f64::from(x).cos()).abs() < 1.2e-7, "{x}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let n = 100_000;
        let values = Generator::new(1).normals(n);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.02, "{mean} {square}");
    }

    #[test]
    fn small_draws_share_their_pairs_and_large_ones_do_not() {
        let mut one = Generator::new(9);
        let pair: Vec<f32> = (0..2).flat_map(|_| one.normals(1)).collect();
        assert_eq!(pair, Generator::new(9).normals(2));
        assert!(Generator::new(9).normals(0).is_empty());
        let mut mixed = Generator::new(9);
        let first = mixed.normals(1);
        mixed.normals(16);
        assert_eq!([first[0], mixed.normals(1)[0]], pair[..], "the spare survives a block draw");
    }
}
