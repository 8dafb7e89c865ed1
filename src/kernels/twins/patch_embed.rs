//! Twin of `patch_embed`.

use crate::graph::Twin;
use crate::kernels::patch_embed::PatchEmbed;

/// Tokens \[batch, L, dim\] of x \[1, C, F, H, W\].
pub fn patch_embed(kernel: &PatchEmbed, x: &Twin, w: &Twin, bias: &Twin) -> Vec<f64> {
    let [channels, frames, rows, columns] = [1, 2, 3, 4].map(|axis| x.shape[axis]);
    let [pt, ph, pw] = kernel.patch;
    let depth = w.shape[1];
    let mut tokens = Vec::new();
    for f in 0..frames / pt {
        for h in 0..rows / ph {
            for v in 0..columns / pw {
                let mut patch = Vec::with_capacity(depth);
                for c in 0..channels {
                    for (i, j) in (0..pt * ph).map(|n| (n / ph, n % ph)) {
                        let start = ((c * frames + f * pt + i) * rows + h * ph + j) * columns + v * pw;
                        patch.extend_from_slice(&x.values[start..start + pw]);
                    }
                }
                let rows = w.values.chunks_exact(depth).zip(&bias.values);
                tokens.extend(rows.map(|(row, b)| b + row.iter().zip(&patch).map(|(w, x)| w * x).sum::<f64>()));
            }
        }
    }
    tokens.repeat(kernel.batch)
}
