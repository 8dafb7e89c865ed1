//! `to_rgb8`: pixels of a decoded video as packed bytes, so that a quarter of the data is read back.
//!
//! Shader: `shaders/conv/to_rgb8.wgsl`. Twin: [`twins::to_rgb8`]. The reference is
//! `VideoProcessor.postprocess_video` of diffusers followed by `(images * 255).round()` of its `numpy_to_pil`.

use super::case::{Case, CaseInput, Fill, Op};
use super::twins;
use super::window::window;
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

/// \[T, H, W, 3\] f32 in -1..1 -> \[T, H, W\] u32: r | g << 8 | b << 16 | 255 << 24, where each byte is
/// round(clamp(x / 2 + 0.5, 0, 1) * 255) with halves to the even. NaN gives 0.
#[derive(Clone, Copy, Debug)]
pub struct ToRgb8;

const SOURCE: Source = Source { path: "conv/to_rgb8", text: include_str!("../../shaders/conv/to_rgb8.wgsl") };
const WIDTH: usize = 64;

impl Kernel for ToRgb8 {
    fn name(&self) -> &'static str {
        "to_rgb8"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let &[x] = inputs else { return Err(format!("takes 1 operand, not {}", inputs.len())) };
        match (x.shape.dims(), x.dtype) {
            (&[t, h, w, 3], DType::F32) if u32::try_from(x.shape.count()).is_ok() => {
                Ok(TensorType::new([t, h, w], DType::U32))
            }
            _ => Err(format!("takes f32 [T, H, W, 3] of fewer than 2^32 elements, not {x}")),
        }
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let count = call.output.shape.count();
        let step = match profile.max_binding.saturating_sub(profile.offset_alignment) as usize / 12 {
            0 => return Err("a pixel does not fit a binding".into()),
            pixels => pixels,
        };
        let mut launch = Launch::default();
        for start in (0..count).step_by(step) {
            let end = count.min(start + step);
            let (x, x_base) = window(3 * start..3 * end, 4, profile);
            let (y, y_base) = window(start..end, 4, profile);
            launch.dispatches.push(Dispatch {
                shader: Shader {
                    source: SOURCE,
                    label: "to_rgb8",
                    constants: [("WIDTH", Value::Int(WIDTH as u32))].into(),
                    needs: Needs::default(),
                },
                bindings: vec![Binding::input(0).window(x), Binding::output().window(y)],
                params: [end - start, 3 * start - x_base, start - y_base].map(|v| v as u32).to_vec(),
                groups: profile.grid((end - start).div_ceil(WIDTH))?,
            });
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * 15.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::to_rgb8::to_rgb8(&inputs[0])
    }
}

impl<'g> Var<'g> {
    /// Pixels of -1..1 \[T, H, W, 3\] as packed bytes \[T, H, W\] u32: see [`ToRgb8`].
    #[track_caller]
    pub fn to_rgb8(self) -> Var<'g> {
        self.graph().apply(ToRgb8, &[self])
    }
}

/// `to_rgb8` in [`ALL`](super::ALL).
pub const TO_RGB8: Op = Op { name: "to_rgb8", summary: "pixels of -1..1 as packed bytes", cases };

fn cases() -> Vec<Case> {
    let case = |dims: [usize; 3], fill: Fill| {
        let [t, h, w] = dims;
        let input = CaseInput::normal([t, h, w, 3], DType::F32).fill(fill);
        let exact = "packed bytes are whole numbers of about 2^32, and all of them must be the twin's: \
                     one step of one red in 75,000 pixels moves the distance by 8e-13";
        Case::new(format!("{t}x{h}x{w}_{fill:?}"), ToRgb8, vec![input]).tolerance(1e-13, exact)
    };
    vec![
        case([1, 1, 1], Fill::Uniform(-1.0, 1.0)),
        case([1, 1, 3], Fill::Normal(0.5)),
        case([2, 3, 5], Fill::Uniform(-1.1, 1.1)),
        case([1, 8, 8], Fill::Normal(1.0)),
        case([3, 17, 31], Fill::Normal(0.6)),
        case([1, 64, 129], Fill::Uniform(-1.0, 1.0)),
        case([5, 1, 77], Fill::Uniform(-0.01, 0.01)),
        case([5, 120, 125], Fill::Uniform(-1.2, 1.2)),
        case([1, 240, 312], Fill::Normal(0.5)).bench(),
    ]
}
