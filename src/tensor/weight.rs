//! A parameter of a model: a named tensor with an identity.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::permute::channels_last;
use super::{DType, HostTensor, Shape};

/// A parameter of a model, held by graphs as a leaf. Cloning is cheap and keeps the identity, so whoever puts weights
/// on a device does so once per [`Weight::id`], however many graphs use it.
#[derive(Clone)]
pub struct Weight(Arc<Inner>);

struct Inner {
    id: u64,
    name: String,
    shape: Shape,
    dtype: DType,
    stored: HostTensor,
    /// The dimensions of a convolution whose taps are to go before its inputs.
    permuted: Option<Shape>,
}

impl Weight {
    /// A parameter with a new identity, under its full dotted name (`blocks.0.attn1.to_q.weight`).
    pub fn new(name: impl Into<String>, value: HostTensor) -> Self {
        Self::with_shape(name.into(), value.shape(), value.dtype(), value, None)
    }

    /// A convolution's weight, stored as PyTorch stores it, as `[o, i, taps...]` of the elements of `stored`, and used as
    /// `[o, taps..., i]`. Quantised ones are [expanded](HostTensor::expand). Both are done whenever the elements are asked
    /// for, so that no copy of a mapped file is kept. `None` when the numbers of elements differ.
    pub fn channels_last(name: impl Into<String>, stored: HostTensor, dims: impl Into<Shape>) -> Option<Self> {
        let full = dims.into();
        let [o, i, taps @ ..] = full.dims() else { return None };
        let dims: Vec<usize> = [&[*o][..], taps, &[*i]].concat();
        let fits = full.count() == stored.shape().count();
        let shape = Shape::checked(&dims).filter(|_| fits)?;
        Some(Self::with_shape(name.into(), shape, stored.expanded_dtype(), stored, Some(full)))
    }

    /// What a loader hands out in place of a tensor that it could not load: it has the shape and type that were asked
    /// for, and no bytes. The loader has kept the error and its `finish` returns it, so a placeholder is never run.
    pub fn placeholder(name: impl Into<String>, shape: impl Into<Shape>, dtype: DType) -> Self {
        let nothing = HostTensor::from_bytes([0], dtype, Vec::new().into());
        let nothing = nothing.unwrap_or_else(|| HostTensor::from_u32([0], &[]));
        Self::with_shape(name.into(), shape.into(), dtype, nothing, None)
    }

    fn with_shape(name: String, shape: Shape, dtype: DType, stored: HostTensor, permuted: Option<Shape>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Inner { id, name, shape, dtype, stored, permuted }))
    }

    /// The i-th of `parts` equal parts along the outermost dimension, as a weight of its own over the same bytes.
    pub fn part(&self, i: usize, parts: usize) -> Self {
        let name = format!("{}[{i}/{parts}]", self.name());
        let mut dims = self.shape().dims().to_vec();
        let rows = dims.first().map_or(0, |rows| rows / parts.max(1));
        if let Some(first) = dims.first_mut() {
            *first = rows;
        }
        match self.value().rows(i * rows..(i + 1) * rows) {
            Some(value) if !self.is_placeholder() => Self::new(name, value),
            _ => Self::placeholder(name, dims.as_slice(), self.dtype()),
        }
    }

    /// A number that no other weight of this process has; clones share it.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The full dotted name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.0.shape
    }

    /// The element type it is stored in, here and on the GPU.
    pub fn dtype(&self) -> DType {
        self.0.dtype
    }

    /// What the stored elements are multiplied by ([`HostTensor::scale`]). Whoever puts them on a device hands it to the
    /// kernel that reads them there.
    pub fn scale(&self) -> f32 {
        if self.0.permuted.is_some() { 1.0 } else { self.0.stored.scale() }
    }

    /// The elements, often a window of a mapped file; empty for a [placeholder](Self::placeholder).
    pub fn value(&self) -> HostTensor {
        let stored = &self.0.stored;
        let permuted = self.0.permuted.and_then(|full| channels_last(&stored.expand().reshape(full)?));
        permuted.unwrap_or_else(|| stored.clone())
    }

    /// Whether this is a [placeholder](Self::placeholder), which has no elements to put anywhere.
    pub fn is_placeholder(&self) -> bool {
        self.0.stored.shape().count() != self.0.shape.count()
    }
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}{}", self.name(), self.dtype(), self.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_shared<T: Send + Sync + Clone>(_: &T) {}

    #[test]
    fn clones_share_an_identity_and_others_do_not() {
        let a = Weight::new("a", HostTensor::from_f32([2], &[1.0, 2.0]));
        let b = Weight::new("a", HostTensor::from_f32([2], &[1.0, 2.0]));
        assert_shared(&a);
        assert_eq!(a.id(), a.clone().id());
        assert_ne!(a.id(), b.id());
        assert_eq!(format!("{a:?}"), "a f32[2]");
        assert!(!a.is_placeholder());
    }

    #[test]
    fn a_placeholder_keeps_the_shape_and_holds_nothing() {
        for dtype in DType::ALL {
            let weight = Weight::placeholder("x", [1 << 20, 1 << 20], dtype);
            assert_eq!((weight.shape().count(), weight.dtype()), (1 << 40, dtype));
            assert_eq!((weight.value().bytes().len(), weight.value().dtype()), (0, dtype));
            assert!(weight.is_placeholder());
        }
    }
}
