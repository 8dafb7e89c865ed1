//! GGUF's blocks of 256 elements, `block_q2_K` to `block_q6_K` of `ggml-common.h`.
//!
//! Groups of 16 or 32 elements have small integers for scales (and for least values), of which the block's halves d
//! (and e, which ggml calls dmin) are the unit. Bits of elements that are 32 (in 4-bit types also 64) apart share bytes.

use super::half;

/// Elements of a block.
const N: usize = 256;

/// Bits 0 and 1 of element i: of 128 elements, those of each 32 are two bits further up in the same 32 bytes.
fn two(bits: &[u8], i: usize) -> u8 {
    bits[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3
}

/// Four bits of element i: of 64 elements, the first 32 are the lower nibbles of 32 bytes, the others the upper.
fn four(nibbles: &[u8], i: usize) -> u8 {
    nibbles[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15
}

/// The one bit of element i: each 32 elements are one bit further up in the same 32 bytes.
fn one(bits: &[u8], i: usize) -> u8 {
    bits[i % 32] >> (i / 32) & 1
}

/// The 6-bit scale and least value of the j-th of eight groups, from 12 bytes: those of the first four are the lower
/// six bits of a byte each; the others have their lower four bits in the last four bytes and their upper two above
/// the former.
fn scale_and_min(packed: &[u8], j: usize) -> [f32; 2] {
    let [scale, min] = match j {
        0..4 => [packed[j] & 63, packed[j + 4] & 63],
        _ => {
            let low = packed[j + 4];
            [low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4]
        }
    };
    [f32::from(scale), f32::from(min)]
}

/// 16 bytes of scales (lower nibble) and least values (upper), 64 of elements, d, e.
pub(super) fn q2_k(block: &[u8; 84]) -> [f32; N] {
    let (d, e) = (half(block, 80), half(block, 82));
    std::array::from_fn(|i| {
        let group = block[i / 16];
        d * f32::from(group & 15) * f32::from(two(&block[16..], i)) - e * f32::from(group >> 4)
    })
}

/// 32 bytes of third bits, 64 of elements, 12 of scales, d. Four is subtracted where the third bit is *not* set.
pub(super) fn q3_k(block: &[u8; 110]) -> [f32; N] {
    let d = half(block, 108);
    let scales = &block[96..108];
    std::array::from_fn(|i| {
        let group = i / 16;
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let q = f32::from(two(&block[32..], i) | one(block, i) << 2) - 4.0;
        d * (f32::from(low | high << 4) - 32.0) * q
    })
}

/// d, e, 12 bytes of scales and least values, 128 of nibbles.
pub(super) fn q4_k(block: &[u8; 144]) -> [f32; N] {
    let (d, e) = (half(block, 0), half(block, 2));
    std::array::from_fn(|i| {
        let [scale, min] = scale_and_min(&block[4..], i / 32);
        d * scale * f32::from(four(&block[16..], i)) - e * min
    })
}

/// d, e, 12 bytes of scales and least values, 32 of fifth bits, 128 of nibbles.
pub(super) fn q5_k(block: &[u8; 176]) -> [f32; N] {
    let (d, e) = (half(block, 0), half(block, 2));
    std::array::from_fn(|i| {
        let [scale, min] = scale_and_min(&block[4..], i / 32);
        d * scale * f32::from(four(&block[48..], i) | one(&block[16..], i) << 4) - e * min
    })
}

/// 128 bytes of nibbles (of 128 elements, the first 64 are the lower ones of 64 bytes), 64 of fifth and sixth bits,
/// 16 signed scales, d.
pub(super) fn q6_k(block: &[u8; 210]) -> [f32; N] {
    let d = half(block, 208);
    std::array::from_fn(|i| {
        let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        let q = f32::from(low | two(&block[128..], i) << 4) - 32.0;
        d * f32::from(block[192 + i / 16] as i8) * q
    })
}

/// A group's values.
type Group = [f32; 32];

/// A sum in eight lanes, which processors add at once.
fn sum(terms: Group) -> f32 {
    let lanes: [f32; 8] = std::array::from_fn(|i| terms[i] + terms[i + 8] + (terms[i + 16] + terms[i + 24]));
    lanes.iter().sum()
}

/// A scale and a least value (negated, so never below 0) for the 4-bit elements of a group.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    min: f32,
}

impl Fit {
    /// The elements that are nearest to the values.
    fn q(&self, values: &Group) -> Group {
        /// Numbers around it are whole: adding and subtracting it rounds to the nearest one.
        const WHOLE: f32 = 12_582_912.0;
        let inverse = if self.scale == 0.0 { 0.0 } else { 1.0 / self.scale };
        values.map(|v| ((v + self.min) * inverse).clamp(0.0, 15.0) + WHOLE - WHOLE)
    }

    /// The sum of squared errors with such elements.
    fn error(&self, values: &Group, q: &Group) -> f32 {
        sum(std::array::from_fn(|i| (self.scale * q[i] - self.min - values[i]).powi(2)))
    }

    /// From the least to the greatest value; zero is always between them.
    fn of_range(values: &Group) -> Self {
        let (least, most) = values.iter().fold((0f32, 0f32), |(a, b), &v| (a.min(v), b.max(v)));
        Self { scale: (most - least) / 15.0, min: -least }
    }

    /// Scale and least value that are best, by least squares, for such elements.
    fn refined(values: &Group, q: &Group) -> Option<Self> {
        let n = values.len() as f32;
        let (q1, v1) = (sum(*q), sum(*values));
        let (q2, qv) = (sum(q.map(|q| q * q)), sum(std::array::from_fn(|i| q[i] * values[i])));
        let determinant = n * q2 - q1 * q1;
        let scale = (n * qv - q1 * v1) / determinant;
        let min = (scale * q1 - v1) / n;
        match determinant > 0.0 && scale > 0.0 {
            true if min >= 0.0 => Some(Self { scale, min }),
            // A least value above zero cannot be stored: the best line through zero.
            true => Some(Self { scale: qv / q2, min: 0.0 }),
            false => None,
        }
    }

    /// The best of fits to ranges a little narrower and wider than the values', each refined.
    fn best(values: &Group) -> Self {
        let plain = Self::of_range(values);
        let mut best = (plain.error(values, &plain.q(values)), plain);
        for step in -3..=5 {
            let mut q = Self { scale: plain.scale * (1.0 - 0.04 * step as f32), ..plain }.q(values);
            for _ in 0..2 {
                let Some(refined) = Self::refined(values, &q) else { break };
                q = refined.q(values);
                let error = refined.error(values, &q);
                if error < best.0 {
                    best = (error, refined);
                }
            }
        }
        best.1
    }
}

/// Each group's scale and least value by [`Fit::best`], then those as six bits of the block's, then the elements again.
pub(super) fn to_q4_k(values: &[f32; N]) -> [u8; 144] {
    let groups = values.as_chunks::<32>().0;
    let fits: Vec<Fit> = groups.iter().map(Fit::best).collect();
    let unit = |of: fn(&Fit) -> f32| half::f16::from_f32(fits.iter().map(of).fold(0.0, f32::max) / 63.0);
    let (d, e) = (unit(|fit| fit.scale), unit(|fit| fit.min));
    let mut block = [0; 144];
    block[..2].copy_from_slice(&d.to_le_bytes());
    block[2..4].copy_from_slice(&e.to_le_bytes());
    let six = |value: f32, unit: half::f16| match unit.to_f32() {
        0.0 => 0,
        unit => (value / unit).round_ties_even().clamp(0.0, 63.0) as u8,
    };
    for (j, (fit, group)) in fits.iter().zip(groups).enumerate() {
        let (scale, min) = (six(fit.scale, d), six(fit.min, e));
        let packed = &mut block[4..16];
        if j < 4 {
            packed[j] |= scale;
            packed[j + 4] |= min;
        } else {
            packed[j + 4] |= scale & 15 | (min & 15) << 4;
            packed[j - 4] |= scale >> 4 << 6;
            packed[j] |= min >> 4 << 6;
        }
        let stored = Fit { scale: d.to_f32() * f32::from(scale), min: e.to_f32() * f32::from(min) };
        for (i, q) in stored.q(group).into_iter().enumerate() {
            block[16 + j / 2 * 32 + i] |= (q as u8) << (j % 2 * 4);
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with the plain rule: ranges from the least to the greatest value.
    fn plain(values: &[f32; N]) -> Vec<f32> {
        let fits: Vec<Fit> = values.as_chunks::<32>().0.iter().map(Fit::of_range).collect();
        let unit = |of: fn(&Fit) -> f32| half::f16::from_f32(fits.iter().map(of).fold(0.0, f32::max) / 63.0).to_f32();
        let (d, e) = (unit(|fit| fit.scale), unit(|fit| fit.min));
        let six = |value: f32, unit: f32| if unit == 0.0 { 0.0 } else { (value / unit).round().min(63.0) * unit };
        let stored = fits.iter().map(|fit| Fit { scale: six(fit.scale, d), min: six(fit.min, e) });
        stored
            .zip(values.as_chunks::<32>().0)
            .flat_map(|(fit, group)| fit.q(group).map(|q| fit.scale * q - fit.min))
            .collect()
    }

    fn error(a: &[f32], b: &[f32]) -> f64 {
        let [difference, norm] = [&|a: f32, b: f32| a - b, &|_: f32, b: f32| b] as [&dyn Fn(f32, f32) -> f32; 2];
        let sum =
            |of: &dyn Fn(f32, f32) -> f32| a.iter().zip(b).map(|(&a, &b)| f64::from(of(a, b)).powi(2)).sum::<f64>();
        (sum(difference) / sum(norm)).sqrt()
    }

    #[test]
    fn q4_k_is_closer_than_ranges_from_least_to_greatest() {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for seed in 0..64u32 {
            let mut state = seed;
            let mut uniform = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            };
            let width = 10f32.powi(seed as i32 % 7 - 4);
            let values: [f32; N] = std::array::from_fn(|_| width * (0..6).map(|_| uniform()).sum::<f32>());
            let (fitted, plain) = (error(&q4_k(&to_q4_k(&values)), &values), error(&plain(&values), &values));
            assert!(fitted < plain, "seed {seed}: {fitted} and not under {plain}");
            (ours, theirs) = (ours + fitted, theirs + plain);
        }
        assert!(ours < 0.95 * theirs, "relative error {:.4} on average, {:.4} by ranges", ours / 64.0, theirs / 64.0);
    }

    #[test]
    fn q4_k_of_odd_blocks_is_sound() {
        let same = |values: [f32; N]| error(&q4_k(&to_q4_k(&values)), &values);
        assert!(q4_k(&to_q4_k(&[0.0; N])).iter().all(|v| *v == 0.0));
        assert!(same([0.25; N]) < 1e-3, "one value, above zero");
        assert!(same([-0.25; N]) < 1e-3, "one value, below zero");
        assert!(same(std::array::from_fn(|i| 1.0 + i as f32 / 256.0)) < 0.04, "none near zero");
        assert!(same(std::array::from_fn(|i| if i == 77 { 1e4 } else { 0.0 })) < 1e-3, "one value alone");
    }
}
