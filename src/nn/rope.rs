//! Rotary position embedding over frames, rows and columns (arXiv:2104.09864, three axes as Wan divides them).

use crate::graph::Var;
use crate::tensor::HostTensor;

/// Cosines and sines of a graph's token grid.
#[derive(Clone, Copy, Debug)]
pub struct Rope<'g> {
    /// \[L, D/2\]
    pub cos: Var<'g>,
    /// \[L, D/2\]
    pub sin: Var<'g>,
}

impl<'g> Rope<'g> {
    /// Rotates x \[B, L, N D\].
    #[track_caller]
    pub fn apply(self, x: Var<'g>, heads: usize) -> Var<'g> {
        x.rope(self.cos, self.sin, heads)
    }
}

/// Tables of cosines and sines, each \[F H W, D/2\] f32, for tokens in (frame, row, column) order.
///
/// Of a head's D features, 2 (D // 6) each go to rows and columns and the rest to frames; angles are computed in f64, as
/// `WanRotaryPosEmbed` of diffusers' `transformer_wan.py` does.
pub fn rope_tables(grid: [usize; 3], head_dim: usize) -> (HostTensor, HostTensor) {
    let space = 2 * (head_dim / 6);
    let dims = [head_dim - 2 * space, space, space];
    let [frames, rows, columns] = grid;
    let mut angles = Vec::with_capacity(frames * rows * columns * (head_dim / 2));
    for f in 0..frames {
        for h in 0..rows {
            for w in 0..columns {
                for (position, dim) in [f, h, w].into_iter().zip(dims) {
                    let frequency = |i: usize| 1.0 / 10_000f64.powf((2 * i) as f64 / dim as f64);
                    angles.extend((0..dim / 2).map(|i| position as f64 * frequency(i)));
                }
            }
        }
    }
    let table = |f: fn(f64) -> f64| {
        let values: Vec<f32> = angles.iter().map(|&angle| f(angle) as f32).collect();
        HostTensor::from_f32([frames * rows * columns, head_dim / 2], &values)
    };
    (table(f64::cos), table(f64::sin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_get_their_share_of_the_head() {
        let (cos, sin) = rope_tables([2, 2, 2], 20);
        // D = 20: rows and columns 6 each, frames 8. The last token (1, 1, 1) turns each first pair by one radian.
        let (cos, sin) = (cos.to_f32(), sin.to_f32());
        let last = &cos[7 * 10..];
        for first in [0, 4, 7] {
            assert_eq!(last[first], 1f64.cos() as f32);
            assert_eq!(sin[7 * 10 + first], 1f64.sin() as f32);
        }
        assert!(sin[..10].iter().all(|&s| s == 0.0), "the first token is not turned");
    }
}
