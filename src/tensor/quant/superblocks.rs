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
