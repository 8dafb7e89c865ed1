//! Quantised elements on the host: expanded to `f32`, exactly as the `gguf` package and PyTorch expand them, and made
//! from it.

mod blocks;
mod fp8;
mod superblocks;

use super::DType;

/// Expands whole blocks of a quantised type to the values that they stand for, without a tensor's scale. What follows
/// the last whole block is left out; types that are not quantised give nothing.
pub(super) fn expand(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::U32 => Vec::new(),
        DType::F8E4M3 => bytes.iter().map(|&byte| fp8::e4m3(byte)).collect(),
        DType::F8E5M2 => bytes.iter().map(|&byte| fp8::e5m2(byte)).collect(),
        DType::Q4_0 => each(bytes, blocks::q4_0),
        DType::Q4_1 => each(bytes, blocks::q4_1),
        DType::Q5_0 => each(bytes, blocks::q5_0),
        DType::Q5_1 => each(bytes, blocks::q5_1),
        DType::Q8_0 => each(bytes, blocks::q8_0),
        DType::Q2K => each(bytes, superblocks::q2_k),
        DType::Q3K => each(bytes, superblocks::q3_k),
        DType::Q4K => each(bytes, superblocks::q4_k),
        DType::Q5K => each(bytes, superblocks::q5_k),
        DType::Q6K => each(bytes, superblocks::q6_k),
    }
}

/// Blocks of `BYTES` bytes, each expanded to `ELEMENTS` values.
fn each<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    expand: fn(&[u8; BYTES]) -> [f32; ELEMENTS],
) -> Vec<f32> {
    bytes.as_chunks::<BYTES>().0.iter().flat_map(expand).collect()
}

/// Quantises whole blocks of finite values; what follows the last whole block is left out. `None` for types that can
/// only be read. Q8_0 and Q4_0 give the bytes that the `gguf` package gives, fp8 those of PyTorch (but numbers that are
/// too large become the largest).
pub(super) fn quantise(dtype: DType, values: &[f32]) -> Option<Vec<u8>> {
    Some(match dtype {
        DType::F8E4M3 => together(values, |[value]| [fp8::to_e4m3(*value)]),
        DType::F8E5M2 => together(values, |[value]| [fp8::to_e5m2(*value)]),
        DType::Q4_0 => together(values, blocks::to_q4_0),
        DType::Q8_0 => together(values, blocks::to_q8_0),
        DType::Q4K => together(values, superblocks::to_q4_k),
        _ => return None,
    })
}

/// Blocks, each by itself, shared out to all processors: a network has billions of elements.
fn together<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    quantise: fn(&[f32; ELEMENTS]) -> [u8; BYTES],
) -> Vec<u8> {
    let blocks = values.as_chunks::<ELEMENTS>().0;
    let mut bytes = vec![0; blocks.len() * BYTES];
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = blocks.len().div_ceil(workers).max(LEAST_SHARE / ELEMENTS);
    std::thread::scope(|scope| {
        for (blocks, bytes) in blocks.chunks(share).zip(bytes.as_chunks_mut::<BYTES>().0.chunks_mut(share)) {
            let work = move || blocks.iter().zip(bytes).for_each(|(block, bytes)| *bytes = quantise(block));
            // A smaller last share, which is all of a small tensor, is this thread's own.
            if blocks.len() < share { work() } else { drop(scope.spawn(work)) }
        }
    });
    bytes
}

/// Elements that are worth a thread.
const LEAST_SHARE: usize = 1 << 16;

/// Where the halves of a block lie, for those who make blocks up.
pub(crate) fn halves(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::F32 | DType::F16 | DType::BF16 | DType::U32 | DType::F8E4M3 | DType::F8E5M2 => &[],
    }
}

/// The half-precision number at a place of a block.
fn half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
