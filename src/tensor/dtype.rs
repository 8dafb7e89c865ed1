//! Element types.

/// The type of a tensor's elements, on disk and on the GPU alike.
///
/// Elements lie in blocks: of one element for all but GGUF's types, whose blocks of 32 or 256 neighbours along the
/// innermost dimension share scales. Layouts: `ggml-common.h` of <https://github.com/ggml-org/ggml>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of an IEEE binary32; on the GPU two to a `u32`.
    BF16,
    /// Unsigned 32-bit integers (token ids, packed pixels).
    U32,
    /// 8 bits: sign, four of exponent, three of mantissa, no infinities (`float8_e4m3fn`, arXiv:2209.05433).
    F8E4M3,
    /// 8 bits: the upper half of an IEEE binary16 (`float8_e5m2`, arXiv:2209.05433).
    F8E5M2,
    /// GGUF, 32 to a block: d (q - 8) with 4-bit q.
    Q4_0,
    /// GGUF, 32 to a block: d q + m with 4-bit q.
    Q4_1,
    /// GGUF, 32 to a block: d (q - 16) with 5-bit q.
    Q5_0,
    /// GGUF, 32 to a block: d q + m with 5-bit q.
    Q5_1,
    /// GGUF, 32 to a block: d q with signed 8-bit q.
    Q8_0,
    /// GGUF, 256 to a block: d s q - e m with 2-bit q, and 4-bit s and m for each 16.
    Q2K,
    /// GGUF, 256 to a block: d s (q - 4) with 3-bit q, and signed 6-bit s for each 16.
    Q3K,
    /// GGUF, 256 to a block: d s q - e m with 4-bit q, and 6-bit s and m for each 32.
    Q4K,
    /// GGUF, 256 to a block: d s q - e m with 5-bit q, and 6-bit s and m for each 32.
    Q5K,
    /// GGUF, 256 to a block: d s (q - 32) with 6-bit q, and signed 8-bit s for each 16.
    Q6K,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::U32,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements of one block: 1, 32 or 256. A tensor's innermost dimension is a multiple of it.
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::U32 | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block: those of an element, for all but GGUF's types.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of `count` elements; `None` when these are no whole blocks, or more bytes than can be counted.
    pub const fn bytes_of(self, count: usize) -> Option<usize> {
        match count.is_multiple_of(self.block_elements()) {
            true => (count / self.block_elements()).checked_mul(self.block_bytes()),
            false => None,
        }
    }

    /// Lower-case name as kernels and listings use it (`f32`, `bf16`, `f8e4m3`, `q4_k`).
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U32 => "u32",
            Self::F8E4M3 => "f8e4m3",
            Self::F8E5M2 => "f8e5m2",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
        }
    }

    /// Whether it is a plain floating-point type, which every kernel with weights reads: `f32`, `f16`, `bf16`.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Whether it is a floating-point type of 8 bits.
    pub const fn is_fp8(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2)
    }

    /// Whether it is made for the weights of linear layers alone: fp8 and GGUF's blocks.
    pub const fn is_quantised(self) -> bool {
        !self.is_float() && !matches!(self, Self::U32)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        assert_eq!(DType::Q4K.bytes_of(512), Some(288));
        assert_eq!(DType::Q4K.bytes_of(500), None);
        assert_eq!(DType::F8E5M2.bytes_of(7), Some(7));
        assert_eq!(DType::F32.bytes_of(usize::MAX), None);
        for dtype in DType::ALL {
            assert_eq!(dtype.bytes_of(0), Some(0));
            assert_eq!(dtype.is_quantised(), !dtype.is_float() && dtype != DType::U32);
        }
    }
}
