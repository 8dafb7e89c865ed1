//! The shapes that `conv3d` is tested and measured on.

use super::Conv3d;
use crate::kernels::{Case, CaseInput, Op};
use crate::tensor::DType::{self, F32};

/// `conv3d` in [`ALL`](crate::kernels::ALL).
pub const CONV3D: Op = Op { name: "conv3d", summary: "causal 3-D convolution over [T, H, W, C]", cases };

const PLAIN: Conv3d =
    Conv3d { front: 0, prev: false, stride: [1; 3], pad: [[0; 2]; 2], upsample: 1, bias: true, residual: false };
/// Zeros around 3x3 taps.
const SAME: Conv3d = Conv3d { pad: [[1; 2]; 2], ..PLAIN };
/// As at the start of a video.
const FIRST: Conv3d = Conv3d { front: 2, ..SAME };

/// A case: x, taps with output channels, frames of `prev` if the kernel has it, the weights' type.
fn case(kernel: Conv3d, x: [usize; 4], o: usize, taps: [usize; 3], prev: usize, dtype: DType) -> Case {
    let [t, h, w, c] = x;
    let [kt, kh, kw] = taps;
    let mut inputs = vec![CaseInput::normal(x, F32), CaseInput::normal([o, kt, kh, kw, c], dtype)];
    let mut label = format!("{t}x{h}x{w}x{c}_{o}_{kt}x{kh}x{kw}_{dtype}");
    if kernel.prev {
        inputs.push(CaseInput::normal([prev, h, w, c], F32));
        label += &format!("_prev{prev}");
    }
    if kernel.front > 0 {
        label += &format!("_front{}", kernel.front);
    }
    if kernel.stride != [1; 3] {
        label += &format!("_stride{:?}", kernel.stride);
    }
    if kernel.pad != [[0; 2]; 2] {
        label += &format!("_pad{:?}", kernel.pad);
    }
    if kernel.upsample > 1 {
        label += "_upsample";
    }
    if kernel.bias {
        inputs.push(CaseInput::normal([o], F32));
        label += "_bias";
    }
    if kernel.residual {
        // The residual has the output's shape, which the kernel tells when it is not asked for one.
        let types: Vec<_> = inputs.iter().map(CaseInput::ty).collect();
        let shape = Conv3d { residual: false, ..kernel }.sizes(&types).map_or([0; 4], |sizes| sizes.y);
        inputs.push(CaseInput::normal(shape, F32));
        label += "_residual";
    }
    Case::new(label, kernel, inputs)
}

fn cases() -> Vec<Case> {
    let taps = [3, 3, 3];
    let prev = Conv3d { prev: true, ..SAME };
    let mut cases = vec![
        // The least there is.
        case(PLAIN, [1, 1, 1, 1], 3, [1, 1, 1], 0, F32),
        case(Conv3d { bias: false, ..PLAIN }, [1, 1, 1, 4], 3, [1, 1, 1], 0, F32),
        case(Conv3d { front: 2, ..SAME }, [1, 1, 1, 1], 2, taps, 0, F32),
        // Typical, small: the decoder's first latent, its later ones, more frames at once.
        case(FIRST, [1, 9, 13, 16], 24, taps, 0, F32),
        case(prev, [1, 9, 13, 16], 24, taps, 2, F32),
        case(prev, [4, 9, 13, 16], 24, taps, 2, F32),
    ];
    cases.push(case(prev, [1, 30, 52, 96], 96, taps, 2, F32).bench());
    cases
}
