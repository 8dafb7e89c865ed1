//! Tensors in host memory: owned, or a window of a mapped file.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::{DType, Shape};

/// Shared bytes: a window of anything that can lend a slice (a `Vec<u8>`, a mapped file, the binary itself).
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let range = 0..(*owner).as_ref().len();
        Self { owner, range }
    }

    /// A window of these bytes, relative to their own start; `None` when it reaches past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let (start, end) = (self.range.start.checked_add(range.start)?, self.range.start.checked_add(range.end)?);
        (start <= end && end <= self.range.end).then(|| Self { owner: self.owner.clone(), range: start..end })
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(Arc::new(bytes))
    }
}

/// A tensor in host memory, row-major; its bytes need not be aligned.
#[derive(Clone)]
pub struct HostTensor {
    shape: Shape,
    dtype: DType,
    bytes: Bytes,
}

impl HostTensor {
    /// A tensor over existing bytes (little-endian); `None` unless they are exactly as many as shape and type need.
    pub fn from_bytes(shape: impl Into<Shape>, dtype: DType, bytes: Bytes) -> Option<Self> {
        let shape = shape.into();
        (shape.count().checked_mul(dtype.size())? == bytes.len()).then_some(Self { shape, dtype, bytes })
    }

    /// A tensor of `f32` values.
    ///
    /// # Panics
    /// When their number is not the shape's.
    #[track_caller]
    pub fn from_f32(shape: impl Into<Shape>, values: &[f32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.count(), values.len(), "{shape} holds {} values", shape.count());
        Self { shape, dtype: DType::F32, bytes: bytemuck::cast_slice::<f32, u8>(values).to_vec().into() }
    }

    /// A tensor of `u32` values.
    ///
    /// # Panics
    /// When their number is not the shape's.
    #[track_caller]
    pub fn from_u32(shape: impl Into<Shape>, values: &[u32]) -> Self {
        let shape = shape.into();
        assert_eq!(shape.count(), values.len(), "{shape} holds {} values", shape.count());
        Self { shape, dtype: DType::U32, bytes: bytemuck::cast_slice::<u32, u8>(values).to_vec().into() }
    }

    /// Its dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its elements as little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes under another shape; `None` when the number of elements differs.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Option<Self> {
        let shape = shape.into();
        (shape.count() == self.shape.count()).then(|| Self { shape, ..self.clone() })
    }

    /// Indices `range` of the outermost dimension, over the same bytes; `None` when there are none such.
    pub fn rows(&self, range: Range<usize>) -> Option<Self> {
        let mut dims = self.shape.dims().to_vec();
        let first = dims.first_mut()?;
        if range.start > range.end || range.end > *first {
            return None;
        }
        let row = self.shape.count() / (*first).max(1) * self.dtype.size();
        *first = range.len();
        let bytes = self.bytes.slice(range.start * row..range.end * row)?;
        Self::from_bytes(dims.as_slice(), self.dtype, bytes)
    }

    /// Elements as `f32` (integers are converted by value).
    pub fn to_f32(&self) -> Vec<f32> {
        self.map(|v| v, |v| v as f32)
    }

    /// Elements as `f64` (integers are converted by value).
    pub fn to_f64(&self) -> Vec<f64> {
        self.map(f64::from, f64::from)
    }

    /// Elements as `u32`: the bits of 32-bit types, `None` for 16-bit ones.
    pub fn to_u32(&self) -> Option<Vec<u32>> {
        (self.dtype.size() == 4)
            .then(|| self.bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// The same values in another floating-point type, rounded to nearest even. `U32` tensors stay as they are.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.dtype || !dtype.is_float() || !self.dtype.is_float() {
            return self.clone();
        }
        let values = self.to_f32();
        let bytes: Vec<u8> = match dtype {
            DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self { shape: self.shape, dtype, bytes: bytes.into() }
    }

    fn map<T>(&self, float: impl Fn(f32) -> T, integer: impl Fn(u32) -> T) -> Vec<T> {
        let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
        match self.dtype {
            DType::F32 => self.bytes.chunks_exact(4).map(|b| float(f32::from_le_bytes(four(b)))).collect(),
            DType::F16 => {
                self.bytes.chunks_exact(2).map(|b| float(f16::from_le_bytes([b[0], b[1]]).to_f32())).collect()
            }
            DType::BF16 => {
                self.bytes.chunks_exact(2).map(|b| float(bf16::from_le_bytes([b[0], b[1]]).to_f32())).collect()
            }
            DType::U32 => self.bytes.chunks_exact(4).map(|b| integer(u32::from_le_bytes(four(b)))).collect(),
        }
    }
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_round_to_nearest_even_and_keep_shape() {
        let t = HostTensor::from_f32([2, 2], &[1.0, -0.1, 65504.0, 1.0e-8]);
        let half = t.cast(DType::F16);
        assert_eq!(half.shape(), t.shape());
        assert_eq!(half.to_f32(), [1.0, f16::from_f32(-0.1).to_f32(), 65504.0, 0.0]);
        assert_eq!(t.cast(DType::BF16).to_f64()[1], f64::from(bf16::from_f32(-0.1).to_f32()));
    }

    #[test]
    fn windows_of_bytes_stay_inside() {
        let bytes = Bytes::from(vec![0u8; 10]);
        let inner = bytes.slice(2..6).expect("inside");
        assert_eq!(inner.len(), 4);
        assert!(inner.slice(0..5).is_none(), "past the end of the window, though inside the owner");
        assert!(HostTensor::from_bytes([2], DType::F32, inner).is_none());
    }
}
