//! Twin of `unpatchify`.

use crate::graph::Twin;
use crate::kernels::unpatchify::Unpatchify;

/// The video \[B, C, F, H, W\] of the tokens x \[B, L, pt ph pw C\].
pub fn unpatchify(kernel: &Unpatchify, x: &Twin) -> Vec<f64> {
    let [pt, ph, pw] = kernel.patch;
    let [gf, gh, gw] = kernel.grid;
    let channels = x.shape[2] / (pt * ph * pw);
    let [frames, rows, columns] = [gf * pt, gh * ph, gw * pw];
    let mut y = vec![0.0; x.values.len()];
    let mut values = x.values.iter();
    // In x's order: b, f, h, v, i, j, k, c.
    for token in 0..x.shape[0] * gf * gh * gw {
        let (b, f, h, v) = (token / (gf * gh * gw), token / (gh * gw) % gf, token / gw % gh, token % gw);
        for tap in 0..pt * ph * pw {
            let (i, j, k) = (tap / (ph * pw), tap / pw % ph, tap % pw);
            for c in 0..channels {
                let at = (((b * channels + c) * frames + f * pt + i) * rows + h * ph + j) * columns + v * pw + k;
                y[at] = values.next().copied().unwrap_or(f64::NAN);
            }
        }
    }
    y
}
