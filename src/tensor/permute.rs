//! Reordering a convolution's weights for the kernels.

use super::{HostTensor, Shape};

/// `[o, i, taps...]` as PyTorch stores a convolution, to `[o, taps..., i]` as the channels-last kernels read it.
/// `None` unless there are at least two dimensions and the type is a plain one.
pub(super) fn channels_last(weight: &HostTensor) -> Option<HostTensor> {
    let shape = weight.shape();
    if weight.dtype().is_quantised() {
        return None;
    }
    let [o, i, taps @ ..] = shape.dims() else { return None };
    let dims: Vec<usize> = [&[*o][..], taps, &[*i]].concat();
    let taps = taps.iter().product();
    let bytes = match weight.dtype().block_bytes() {
        2 => transpose::<2>(weight.bytes(), *i, taps),
        _ => transpose::<4>(weight.bytes(), *i, taps),
    };
    HostTensor::from_bytes(Shape::checked(&dims)?, weight.dtype(), bytes.into())
}

/// Transposes every `[inner, taps]` matrix of elements of `SIZE` bytes.
fn transpose<const SIZE: usize>(bytes: &[u8], inner: usize, taps: usize) -> Vec<u8> {
    let elements = bytes.as_chunks::<SIZE>().0;
    let mut out = Vec::with_capacity(bytes.len());
    for matrix in elements.chunks_exact((inner * taps).max(1)) {
        for tap in 0..taps {
            matrix.iter().skip(tap).step_by(taps).for_each(|element| out.extend_from_slice(element));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn every_element_lands_where_its_indices_say() {
        let (o, i, kt, kh, kw) = (3, 4, 2, 3, 5);
        let values: Vec<f32> = (0..o * i * kt * kh * kw).map(|v| v as f32).collect();
        let weight = HostTensor::from_f32([o, i, kt, kh, kw], &values);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let weight = weight.cast(dtype);
            let before = weight.to_f32();
            let permuted = channels_last(&weight).expect("five dimensions");
            assert_eq!((permuted.shape().dims(), permuted.dtype()), (&[o, kt, kh, kw, i][..], dtype));
            let after = permuted.to_f32();
            for (index, value) in before.iter().enumerate() {
                let (channel, tap) = (index / (kt * kh * kw) % i, index % (kt * kh * kw));
                let out = index / (i * kt * kh * kw);
                assert_eq!(after[(out * kt * kh * kw + tap) * i + channel], *value);
            }
        }
    }

    #[test]
    fn empty_and_flat_tensors_are_no_trouble() {
        for dims in [[0, 4, 3], [4, 0, 3], [4, 3, 0]] {
            let permuted = channels_last(&HostTensor::from_f32(dims, &[])).expect("three dimensions");
            assert_eq!(permuted.shape().dims(), [dims[0], dims[2], dims[1]]);
        }
        let flat = HostTensor::from_f32([2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(channels_last(&flat).map(|t| t.to_f32()), Some(flat.to_f32()));
        assert!(channels_last(&HostTensor::from_f32([2], &[1.0, 2.0])).is_none());
    }
}
