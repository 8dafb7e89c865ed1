//! Twin of `rope`.

use crate::graph::Twin;

/// (x0, x1) -> (x0 cos - x1 sin, x0 sin + x1 cos) for the interleaved pairs of x \[B, L, N * D\]; cos, sin \[L, D/2\].
pub fn rope(heads: usize, x: &Twin, cos: &Twin, sin: &Twin) -> Vec<f64> {
    let (rows, channels) = (x.shape[1], x.shape[2]);
    let pairs = channels / heads / 2;
    let rotate = |(i, pair): (usize, &[f64])| {
        let angle = i / (channels / 2) % rows * pairs + i % pairs;
        let (c, s) = (cos.values[angle], sin.values[angle]);
        [pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c]
    };
    x.values.chunks_exact(2).enumerate().flat_map(rotate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn() {
        let twin = |shape: &[usize], values: &[f64]| Twin { shape: shape.into(), values: values.to_vec() };
        let x = twin(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let (cos, sin) = (twin(&[2, 1], &[1.0, 0.0]), twin(&[2, 1], &[0.0, 1.0]));
        assert_eq!(rope(2, &x, &cos, &sin), [1.0, 2.0, 3.0, 4.0, -6.0, 5.0, -8.0, 7.0]);
    }
}
