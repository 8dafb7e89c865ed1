//! The shapes that `conv3d` is tested and measured on.

use super::Conv3d;
use crate::kernels::{Case, CaseInput, Op};
use crate::tensor::DType::{self, BF16, F16, F32};

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
    [shapes(), options(), windows()].concat()
}

/// Taps, channels and element types.
fn shapes() -> Vec<Case> {
    let mut cases = vec![
        case(PLAIN, [1, 1, 1, 1], 3, [1, 1, 1], 0, F32),
        case(PLAIN, [1, 1, 1, 4], 3, [1, 1, 1], 0, F16),
        case(FIRST, [1, 1, 1, 1], 2, [3, 3, 3], 0, F32),
        case(SAME, [1, 2, 17, 8], 5, [1, 3, 3], 0, F32),
        // One channel in, one out: taps alone.
        case(FIRST, [2, 5, 9, 1], 1, [3, 3, 3], 0, F32),
        // A workgroup's worth of everything, and one more.
        case(PLAIN, [1, 8, 16, 16], 64, [1, 1, 1], 0, F32),
        case(PLAIN, [1, 43, 3, 20], 65, [1, 1, 1], 0, F32),
        case(FIRST, [2, 11, 12, 64], 72, [3, 3, 3], 0, BF16),
        // Of a video autoencoder: in, through, up in time, to pixels; deeper than wide.
        case(FIRST, [1, 16, 18, 3], 96, [3, 3, 3], 0, F32),
        case(FIRST, [1, 6, 10, 16], 48, [3, 3, 3], 0, F32),
        case(FIRST, [1, 7, 9, 96], 32, [3, 3, 3], 0, F32),
        case(PLAIN, [4, 5, 7, 24], 48, [3, 1, 1], 0, F32),
        case(FIRST, [2, 9, 13, 32], 3, [3, 3, 3], 0, F32),
        case(FIRST, [2, 9, 13, 24], 12, [3, 3, 3], 0, F32),
        case(PLAIN, [1, 3, 4, 384], 24, [1, 1, 1], 0, F32),
    ];
    // Every type of weights, by vectors of channels and by single ones; few and many output channels; even and odd.
    for dtype in [F32, F16, BF16] {
        for (c, o) in [(16, 24), (5, 9), (3, 40), (12, 3), (7, 4), (10, 33)] {
            cases.push(case(FIRST, [2, 7, 11, c], o, [3, 3, 3], 0, dtype));
        }
        cases.push(case(PLAIN, [2, 5, 13, 6], 17, [1, 1, 1], 0, dtype));
        cases.push(case(PLAIN, [2, 5, 13, 8], 40, [1, 1, 1], 0, dtype));
    }
    // Taps that no layer of today has.
    cases.push(case(PLAIN, [3, 6, 7, 4], 8, [2, 2, 2], 0, F32));
    cases.push(case(PLAIN, [1, 9, 9, 3], 20, [1, 5, 4], 0, F32));
    cases.push(case(PLAIN, [5, 4, 4, 8], 6, [5, 1, 2], 0, F32));
    cases
}

/// Each option, alone and together.
fn options() -> Vec<Case> {
    let x = [2, 7, 11, 8];
    let taps = [3, 3, 3];
    let prev = Conv3d { prev: true, ..SAME };
    let down = Conv3d { stride: [1, 2, 2], pad: [[0, 1]; 2], ..PLAIN };
    let up = Conv3d { upsample: 2, ..SAME };
    vec![
        case(Conv3d { bias: false, ..FIRST }, x, 20, taps, 0, F32),
        case(Conv3d { residual: true, ..FIRST }, x, 20, taps, 0, F32),
        case(Conv3d { residual: true, bias: false, ..FIRST }, [2, 7, 11, 5], 9, taps, 0, F32),
        // The causal cache, shorter and longer than the frames that follow.
        case(prev, [1, 9, 13, 16], 24, taps, 2, F32),
        case(prev, [4, 9, 13, 16], 40, taps, 2, F32),
        case(prev, [2, 5, 6, 5], 7, taps, 1, BF16),
        case(prev, [1, 5, 6, 8], 7, taps, 4, F32),
        case(Conv3d { residual: true, ..prev }, [1, 9, 13, 16], 24, taps, 2, F16),
        case(Conv3d { prev: true, ..PLAIN }, [1, 9, 13, 16], 32, [3, 1, 1], 2, F32),
        case(Conv3d { prev: true, stride: [2, 1, 1], ..PLAIN }, [4, 6, 5, 16], 16, [3, 1, 1], 1, F32),
        case(Conv3d { front: 1, ..PLAIN }, [1, 4, 5, 8], 8, [2, 1, 1], 0, F32),
        // More zeros than taps: a frame that sees nothing.
        case(Conv3d { front: 4, residual: true, ..SAME }, x, 6, taps, 0, F32),
        // Strides: an autoencoder's way down, and in time.
        case(down, [1, 8, 10, 16], 16, [1, 3, 3], 0, F32),
        case(down, [2, 9, 11, 5], 12, [1, 3, 3], 0, F32),
        case(Conv3d { stride: [2, 1, 1], ..PLAIN }, [5, 4, 6, 16], 16, [3, 1, 1], 0, F32),
        case(Conv3d { stride: [2, 3, 2], ..FIRST }, [4, 9, 13, 8], 24, taps, 0, F32),
        // Its way up: rows and columns doubled in the loader.
        case(up, [2, 6, 9, 16], 8, [1, 3, 3], 0, F32),
        case(up, [1, 5, 7, 3], 48, [1, 3, 3], 0, F16),
        case(Conv3d { upsample: 2, ..FIRST }, [2, 4, 5, 8], 3, taps, 0, F32),
        case(Conv3d { upsample: 2, stride: [1, 2, 1], ..PLAIN }, [1, 5, 6, 4], 40, [1, 2, 2], 0, F32),
        // Padding on each side alone, and more of it than there is of x.
        case(Conv3d { pad: [[2, 0], [0, 0]], ..PLAIN }, x, 10, [1, 3, 3], 0, F32),
        case(Conv3d { pad: [[0, 0], [0, 3]], ..PLAIN }, x, 40, [1, 3, 3], 0, F32),
        case(Conv3d { pad: [[5, 4], [3, 6]], ..PLAIN }, [1, 2, 3, 4], 33, [1, 3, 3], 0, F32),
    ]
}

/// Larger than the small bindings of the tests, in each direction.
fn windows() -> Vec<Case> {
    let taps = [3, 3, 3];
    let prev = Conv3d { prev: true, ..SAME };
    vec![
        // Frames of x and y; several time taps in a window of x.
        case(FIRST, [5, 30, 40, 16], 16, [3, 1, 1], 0, F32),
        case(prev, [5, 20, 31, 24], 20, taps, 2, F32),
        // A frame of x alone is too large, one of y alone, both.
        case(Conv3d { residual: true, ..FIRST }, [2, 60, 70, 17], 3, taps, 0, F32),
        case(SAME, [1, 50, 41, 5], 37, [1, 3, 3], 0, F32),
        case(Conv3d { residual: true, ..prev }, [2, 44, 52, 36], 33, taps, 2, F32),
        case(Conv3d { upsample: 2, ..SAME }, [1, 45, 60, 12], 9, [1, 3, 3], 0, F32),
        case(Conv3d { stride: [1, 2, 2], pad: [[0, 1]; 2], ..PLAIN }, [1, 91, 80, 12], 36, [1, 3, 3], 0, F32),
        // The weights.
        case(FIRST, [1, 4, 5, 96], 96, taps, 0, F32),
        case(Conv3d { prev: true, residual: true, ..SAME }, [1, 3, 4, 131], 70, taps, 2, BF16),
        case(prev, [1, 30, 52, 96], 96, taps, 2, F32).bench(),
        case(FIRST, [4, 64, 64, 16], 16, taps, 0, F32).bench(),
    ]
}
