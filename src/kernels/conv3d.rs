//! `conv3d`: causal 3-D convolution over channels-last video, as implicit GEMM.
//!
//! Shaders: `shaders/conv/conv3d.wgsl`, `shaders/conv/conv3d_staged.wgsl`. Twin: [`twins::conv3d`].
//! The layer it serves: `WanCausalConv3d` of diffusers' `autoencoder_kl_wan.py`.

mod cases;
mod dispatch;

pub use cases::CONV3D;

use super::twins;
use crate::graph::{Call, Cost, DeviceProfile, Kernel, Launch, TensorType, Twin, Var};
use crate::tensor::DType;

/// y = conv(front ++ x, w) + bias + residual.
///
/// x is \[T, H, W, C\] f32; w is \[O, kt, kh, kw, C\] f32, f16 or bf16; y is \[T', H', W', O\] f32. The convolution sees
/// F + T frames, the first F of them `prev` \[F, H, W, C\] or zeros, each with its rows and columns repeated `upsample`
/// times and then padded by zeros: T' = (F + T - kt) / stride + 1, H' = (upsample H + pads - kh) / stride + 1.
///
/// Inputs in order: x, w, `prev` if there is one, bias \[O\] f32 if there is one, residual (of y's type) if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3d {
    /// Frames of zeros before x; 0 with `prev`.
    pub front: usize,
    /// Whether frames before x are an input.
    pub prev: bool,
    /// Strides in frames, rows and columns.
    pub stride: [usize; 3],
    /// Zeros before and after the rows, before and after the columns.
    pub pad: [[usize; 2]; 2],
    /// 1, or 2 to double rows and columns (`nearest-exact`) before the convolution.
    pub upsample: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether a residual is added.
    pub residual: bool,
}

/// What comes before the first frame.
#[derive(Clone, Copy, Debug)]
pub enum Front<'g> {
    /// So many frames of zeros.
    Zeros(usize),
    /// These frames \[F, H, W, C\]: the cache of a causal convolution.
    Frames(Var<'g>),
}

/// How [`Var::conv3d`] convolves.
#[derive(Clone, Copy, Debug)]
pub struct ConvOptions<'g> {
    /// What comes before the first frame.
    pub front: Front<'g>,
    /// Strides in frames, rows and columns.
    pub stride: [usize; 3],
    /// Zeros before and after the rows, before and after the columns.
    pub pad: [[usize; 2]; 2],
    /// 1, or 2 to double rows and columns (`nearest-exact`) before the convolution.
    pub upsample: usize,
    /// \[O\]
    pub bias: Option<Var<'g>>,
    /// Added to the result: \[T', H', W', O\].
    pub residual: Option<Var<'g>>,
}

impl Default for ConvOptions<'_> {
    fn default() -> Self {
        Self { front: Front::Zeros(0), stride: [1; 3], pad: [[0; 2]; 2], upsample: 1, bias: None, residual: None }
    }
}

impl<'g> Var<'g> {
    /// The convolution of `self` \[T, H, W, C\] with `w` \[O, kt, kh, kw, C\]: see [`Conv3d`].
    #[track_caller]
    pub fn conv3d(self, w: Var<'g>, options: ConvOptions<'g>) -> Var<'g> {
        let ConvOptions { front, stride, pad, upsample, bias, residual } = options;
        let (front, prev) = match front {
            Front::Zeros(frames) => (frames, None),
            Front::Frames(frames) => (0, Some(frames)),
        };
        let kernel = Conv3d {
            front,
            prev: prev.is_some(),
            stride,
            pad,
            upsample,
            bias: bias.is_some(),
            residual: residual.is_some(),
        };
        let inputs: Vec<Var<'g>> = [Some(self), Some(w), prev, bias, residual].into_iter().flatten().collect();
        self.graph().apply(kernel, &inputs)
    }
}

/// The sizes of one convolution.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Frames, rows, columns and channels of x.
    x: [usize; 4],
    /// Frames before x.
    front: usize,
    /// Taps in time, rows and columns.
    taps: [usize; 3],
    /// Frames, rows, columns and channels of y.
    y: [usize; 4],
}

impl Sizes {
    /// Products that one output element sums.
    fn depth(&self) -> usize {
        self.taps.iter().product::<usize>() * self.x[3]
    }
}

impl Conv3d {
    /// Index of the bias among the inputs, if there is one.
    fn bias_at(&self) -> Option<usize> {
        self.bias.then_some(2 + usize::from(self.prev))
    }

    /// Index of the residual among the inputs, if there is one.
    fn residual_at(&self) -> Option<usize> {
        self.residual.then_some(2 + usize::from(self.prev) + usize::from(self.bias))
    }

    fn sizes(&self, inputs: &[TensorType]) -> Result<Sizes, String> {
        let wanted = 2 + [self.prev, self.bias, self.residual].into_iter().filter(|&given| given).count();
        if inputs.len() != wanted {
            return Err(format!("takes {wanted} operands, not {}", inputs.len()));
        }
        let dims = |ty: &TensorType, what: &str| -> Result<[usize; 4], String> {
            match (ty.shape.dims(), ty.dtype) {
                (&[t, h, w, c], DType::F32) if ty.shape.count() > 0 => Ok([t, h, w, c]),
                _ => Err(format!("{what} must be f32 [T, H, W, C], not {ty}")),
            }
        };
        let x = dims(&inputs[0], "x")?;
        let &[o, kt, kh, kw, c] = inputs[1].shape.dims() else {
            return Err(format!("w must be [O, kt, kh, kw, C], not {}", inputs[1]));
        };
        if !inputs[1].dtype.is_float() || inputs[1].shape.count() == 0 {
            return Err(format!("w must be f32, f16 or bf16 and not empty, not {}", inputs[1]));
        }
        if c != x[3] {
            return Err(format!("w takes {c} channels and x has {}", x[3]));
        }
        let front = if self.prev {
            let prev = dims(&inputs[2], "the frames before x")?;
            if prev[1..] != x[1..] || self.front != 0 {
                return Err(format!("{} cannot come before {}", inputs[2], inputs[0]));
            }
            prev[0]
        } else {
            self.front
        };
        if !matches!(self.upsample, 1 | 2) || self.stride.contains(&0) {
            return Err(format!("upsampling is 1 or 2 and strides are at least 1, not {self:?}"));
        }
        let out = |what: &str, size: usize, taps: usize, stride: usize| {
            let steps = size.checked_sub(taps).ok_or_else(|| format!("{size} {what} are fewer than {taps} taps"))?;
            Ok::<usize, String>(steps / stride + 1)
        };
        let [[top, bottom], [left, right]] = self.pad;
        let y = [
            out("frames", front + x[0], kt, self.stride[0])?,
            out("rows", x[1] * self.upsample + top + bottom, kh, self.stride[1])?,
            out("columns", x[2] * self.upsample + left + right, kw, self.stride[2])?,
            o,
        ];
        let y_ty = TensorType::f32(y);
        if let Some(bias) = self.bias_at().map(|i| inputs[i])
            && bias != TensorType::f32([o])
        {
            return Err(format!("the bias must be {}, not {bias}", TensorType::f32([o])));
        }
        if let Some(residual) = self.residual_at().map(|i| inputs[i])
            && residual != y_ty
        {
            return Err(format!("the residual must be {y_ty}, not {residual}"));
        }
        let most = inputs.iter().map(|ty| ty.shape.count()).fold(y_ty.shape.count(), usize::max);
        if u32::try_from(most).is_err() {
            return Err(format!("a tensor of {most} elements is more than 32-bit indices reach"));
        }
        Ok(Sizes { x, front, taps: [kt, kh, kw], y })
    }
}

impl Kernel for Conv3d {
    fn name(&self) -> &'static str {
        "conv3d"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        Ok(TensorType::f32(self.sizes(inputs)?.y))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        dispatch::launch(self, call, profile)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        let Ok(sizes) = self.sizes(call.inputs) else { return Cost::default() };
        // Frames of zeros are never multiplied.
        let zeros = if self.prev { 0 } else { sizes.front };
        let live = |t: usize| sizes.taps[0] - zeros.saturating_sub(t * self.stride[0]).min(sizes.taps[0]);
        let frames = (0..sizes.y[0]).map(live).sum::<usize>() as f64;
        let [_, h, w, o] = sizes.y;
        let plane = (h * w * o) as f64;
        Cost::of(call, 2.0 * frames * plane * (sizes.depth() / sizes.taps[0]) as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::conv3d::conv3d(self, inputs)
    }
}
