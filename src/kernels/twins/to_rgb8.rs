//! Twin of `to_rgb8`.

use crate::graph::Twin;

/// Packed pixels. In `f32`, since the reference rounds in `f32` before it rounds to bytes: whether a value just beside
/// a half goes up or down is decided there, and devices must decide alike.
pub fn to_rgb8(x: &Twin) -> Vec<f64> {
    let pack = |pixel: &[f64]| {
        let packed = pixel.iter().rev().fold(255, |packed: u32, &value| packed << 8 | byte(value as f32));
        f64::from(packed)
    };
    x.values.chunks_exact(3).map(pack).collect()
}

fn byte(x: f32) -> u32 {
    // Rust's conversion takes NaN to 0.
    ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_numpy() {
        // (np.clip(np.float32(x) / 2 + np.float32(0.5), 0, 1) * 255).round()
        for (x, want) in [(-1.0, 0), (1.0, 255), (0.0, 128), (-2.0, 0), (7.0, 255), (0.5, 191), (-0.5, 64), (0.1, 140)]
        {
            assert_eq!(byte(x), want, "{x}");
        }
        assert_eq!(byte(f32::NAN), 0);
        let x = Twin { shape: [1, 1, 1, 3].into(), values: vec![-1.0, 1.0, 0.0] };
        assert_eq!(to_rgb8(&x), [f64::from(0xff80_ff00_u32)]);
    }
}
