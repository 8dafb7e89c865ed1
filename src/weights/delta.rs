//! What is added to a stored weight: low-rank products and whole differences, as LoRA files hold them.

use crate::tensor::{DType, HostTensor};

/// scale * up down, added to a weight \[N, ...\] of N rows of K elements (LoRA, arXiv:2106.09685).
#[derive(Clone, Debug)]
pub(super) struct LowRank {
    /// \[R, K\]
    pub down: HostTensor,
    /// \[N, R\]
    pub up: HostTensor,
    pub scale: f32,
}

/// Something added to a weight's elements.
#[derive(Clone, Debug)]
pub(super) enum Delta {
    /// A low-rank product.
    LowRank(LowRank),
    /// So many times a tensor of as many elements.
    Whole(HostTensor, f32),
}

impl LowRank {
    /// Whether two more products beside a matrix product cost less than half of it. Then nothing is merged: the
    /// weight stays what it is, in its file and on the GPU, and the sum is exact all the same. From there on a merged copy
    /// is cheaper.
    pub fn is_low(&self) -> bool {
        let [r, k] = [0, 1].map(|axis| self.down.shape().dims().get(axis).copied().unwrap_or(1));
        let n = self.up.shape().dims().first().copied().unwrap_or(1);
        2 * r.saturating_mul(n.saturating_add(k)) < n.saturating_mul(k)
    }

    /// The factors as weights of layers: down \[R, K\] and up \[N, R\], which has the scale in it.
    pub fn factors(&self) -> [HostTensor; 2] {
        let up = if self.scale == 1.0 {
            self.up.clone()
        } else {
            let scaled: Vec<f32> = self.up.to_f32().iter().map(|v| v * self.scale).collect();
            HostTensor::from_f32(self.up.shape(), &scaled)
        };
        [self.down.clone(), up]
    }
}

impl Delta {
    /// The weight with this added, in f32; sums are in f64.
    pub fn add(&self, weight: &HostTensor) -> Option<HostTensor> {
        let mut values = weight.to_f32();
        match self {
            Self::Whole(difference, scale) => {
                let difference = difference.to_f32();
                if difference.len() != values.len() {
                    return None;
                }
                for (value, difference) in values.iter_mut().zip(difference) {
                    *value = (f64::from(*value) + f64::from(*scale) * f64::from(difference)) as f32;
                }
            }
            Self::LowRank(LowRank { down, up, scale }) => {
                let (r, k) = (down.shape().dims().first().copied()?, down.shape().last());
                let (down, up) = (down.to_f64(), up.to_f64());
                if r == 0 || k == 0 || up.len() / r != values.len() / k {
                    return None;
                }
                let mut sums = vec![0.0; k];
                for (row, up) in values.chunks_exact_mut(k).zip(up.chunks_exact(r)) {
                    sums.fill(0.0);
                    for (down, up) in down.chunks_exact(k).zip(up) {
                        sums.iter_mut().zip(down).for_each(|(sum, down)| *sum += up * down);
                    }
                    for (value, sum) in row.iter_mut().zip(&sums) {
                        *value = (f64::from(*value) + f64::from(*scale) * sum) as f32;
                    }
                }
            }
        }
        Some(HostTensor::from_f32(weight.shape(), &values))
    }
}

/// A factor as a matrix in a type that every kernel with weights reads; `None` when its elements are no such matrix.
pub(super) fn matrix(tensor: &HostTensor, rows: usize, columns: usize) -> Option<HostTensor> {
    (tensor.dtype() != DType::U32).then(|| tensor.expand().reshape([rows, columns])).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_differences_are_added() {
        let weight = HostTensor::from_f32([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).cast(DType::BF16);
        let down = HostTensor::from_f32([1, 3], &[1.0, 0.0, -1.0]);
        let up = HostTensor::from_f32([2, 1], &[10.0, 20.0]);
        let low = LowRank { down, up, scale: 0.5 };
        assert!(!low.is_low());
        assert_eq!(low.factors()[1].to_f32(), [5.0, 10.0]);
        let merged = Delta::LowRank(low).add(&weight).expect("it fits");
        assert_eq!((merged.dtype(), merged.to_f32()), (DType::F32, vec![6.0, 2.0, -2.0, 14.0, 5.0, -4.0]));
        let whole = Delta::Whole(HostTensor::from_f32([6], &[1.0; 6]), -2.0);
        assert_eq!(whole.add(&weight).expect("it fits").to_f32(), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        assert!(Delta::Whole(HostTensor::from_f32([5], &[1.0; 5]), 1.0).add(&weight).is_none());
    }
}
