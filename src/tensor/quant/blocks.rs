//! GGUF's blocks of 32 elements, `block_q4_0` to `block_q8_0` of `ggml-common.h`.
//!
//! Halves come first: the scale d and, for types that end in 1, the least value m. Then, for five bits, a word with
//! the fifth bit of each element. Then nibbles: those of elements 0 to 15 are the lower ones, of 16 to 31 the upper.

use super::half;

/// Elements of a block.
const N: usize = 32;

fn nibble(nibbles: &[u8], i: usize) -> u8 {
    let byte = nibbles[i % 16];
    if i < 16 { byte & 15 } else { byte >> 4 }
}

fn fifth(bits: &[u8], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

/// d (q - 8): d, 16 bytes of nibbles.
pub(super) fn q4_0(block: &[u8; 18]) -> [f32; N] {
    let d = half(block, 0);
    std::array::from_fn(|i| d * (f32::from(nibble(&block[2..], i)) - 8.0))
}

/// d q + m: d, m, 16 bytes of nibbles.
pub(super) fn q4_1(block: &[u8; 20]) -> [f32; N] {
    let (d, m) = (half(block, 0), half(block, 2));
    std::array::from_fn(|i| d * f32::from(nibble(&block[4..], i)) + m)
}

/// d (q - 16): d, 4 bytes of fifth bits, 16 bytes of nibbles.
pub(super) fn q5_0(block: &[u8; 22]) -> [f32; N] {
    let d = half(block, 0);
    std::array::from_fn(|i| d * (f32::from(nibble(&block[6..], i) | fifth(&block[2..], i)) - 16.0))
}

/// d q + m: d, m, 4 bytes of fifth bits, 16 bytes of nibbles.
pub(super) fn q5_1(block: &[u8; 24]) -> [f32; N] {
    let (d, m) = (half(block, 0), half(block, 2));
    std::array::from_fn(|i| d * f32::from(nibble(&block[8..], i) | fifth(&block[4..], i)) + m)
}

/// d q: d, 32 signed bytes.
pub(super) fn q8_0(block: &[u8; 34]) -> [f32; N] {
    let d = half(block, 0);
    std::array::from_fn(|i| d * f32::from(block[2 + i] as i8))
}

/// The inverse of a scale, and 0 for that of nothing.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// d is the largest magnitude over 127; halves are rounded away from zero.
pub(super) fn to_q8_0(values: &[f32; N]) -> [u8; 34] {
    let d = values.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
    let inverse = inverse(d);
    let mut block = [0; 34];
    block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    block
}

/// d is such that the value of largest magnitude, the first of them, becomes 0, which stands for -8 d.
pub(super) fn to_q4_0(values: &[f32; N]) -> [u8; 18] {
    let largest = values.iter().fold(0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let d = largest / -8.0;
    let inverse = inverse(d);
    let q = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let mut block = [0; 18];
    block[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    for (i, byte) in block[2..].iter_mut().enumerate() {
        *byte = q(values[i]) | q(values[i + 16]) << 4;
    }
    block
}
