//! `unpatchify`: what the transformer says of each token, put back where the token's patch lies.
//!
//! Shader: `shaders/embed/unpatchify.wgsl`. Twin: [`twins::unpatchify`]. The order of a
//! token's elements is that of diffusers' `WanTransformer3DModel.forward`.

use std::ops::Range;

use super::case::{Case, CaseInput, Op};
use super::twins;
use super::window::window;
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

/// \[B, L, pt ph pw C\] f32, elements of a token in (pt, ph, pw, C) order -> \[B, C, F, H, W\] f32.
#[derive(Clone, Copy, Debug)]
pub struct Unpatchify {
    /// Patches in frames, rows and columns: \[F/pt, H/ph, W/pw\].
    pub grid: [usize; 3],
    /// Frames, rows and columns of a patch.
    pub patch: [usize; 3],
}

const SOURCE: Source = Source { path: "embed/unpatchify", text: include_str!("../../shaders/embed/unpatchify.wgsl") };
const WIDTH: usize = 64;

impl Unpatchify {
    /// The dispatch for the elements `bound` of y, which are the given channels of the given pixels (counted over the
    /// batch) and need the tokens `tokens` (counted likewise).
    fn dispatch(
        &self,
        call: &Call<'_>,
        profile: &DeviceProfile,
        bound: Range<usize>,
        pixels: Range<usize>,
        channels: Range<usize>,
        tokens: Range<usize>,
    ) -> Result<Dispatch, String> {
        let row = call.inputs[0].shape.last();
        let (x, x_base) = window(tokens.start * row..tokens.end * row, 4, profile);
        let (y, y_base) = window(bound, 4, profile);
        let [c, f, h, w] = [1, 2, 3, 4].map(|axis| call.output.shape[axis]);
        Ok(Dispatch {
            shader: Shader {
                source: SOURCE,
                label: "unpatchify",
                constants: [
                    ("WIDTH", Value::Int(WIDTH as u32)),
                    ("PT", Value::Int(self.patch[0] as u32)),
                    ("PH", Value::Int(self.patch[1] as u32)),
                    ("PW", Value::Int(self.patch[2] as u32)),
                ]
                .into(),
                needs: Needs::default(),
            },
            bindings: vec![Binding::input(0).window(x), Binding::output().window(y)],
            params: [pixels.start, pixels.len(), channels.start, channels.end, x_base, y_base, c, f, h, w]
                .map(|v| v as u32)
                .to_vec(),
            groups: profile.grid(pixels.len().div_ceil(WIDTH))?,
        })
    }
}

impl Kernel for Unpatchify {
    fn name(&self) -> &'static str {
        "unpatchify"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let &[x] = inputs else { return Err(format!("takes 1 operand, not {}", inputs.len())) };
        let tokens: usize = self.grid.iter().product();
        let area: usize = self.patch.iter().product();
        match (x.shape.dims(), x.dtype) {
            (&[b, l, row], DType::F32)
                if l == tokens && area > 0 && row.is_multiple_of(area) && u32::try_from(x.shape.count()).is_ok() =>
            {
                let [f, h, w] = [0, 1, 2].map(|axis| self.grid[axis] * self.patch[axis]);
                Ok(TensorType::f32([b, row / area, f, h, w]))
            }
            _ => Err(format!("a grid of {:?} patches of {:?} does not fit {x}", self.grid, self.patch)),
        }
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let x = &call.inputs[0];
        let [batch, length, row] = [0, 1, 2].map(|axis| x.shape[axis]);
        let [c, f, h, w] = [1, 2, 3, 4].map(|axis| call.output.shape[axis]);
        if x.bytes() <= profile.max_binding {
            let (all, pixels) = (0..call.output.shape.count(), 0..batch * f * h * w);
            return Ok(self.dispatch(call, profile, all, pixels, 0..c, 0..batch * length)?.into());
        }
        // Rows of patches in one frame of one channel: their tokens and their pixels are each contiguous.
        let most = profile.max_binding.saturating_sub(profile.offset_alignment) as usize;
        let [_, grid_rows, grid_columns] = self.grid;
        let step = most / (4 * row * grid_columns);
        if step == 0 {
            return Err(format!("a row of {grid_columns} tokens does not fit a binding of this device"));
        }
        let mut launch = Launch::default();
        for plane in 0..batch * c * f {
            let (of_batch, channel, frame) = (plane / (c * f), plane / f % c, plane % f);
            let patch_frame = of_batch * self.grid[0] + frame / self.patch[0];
            for start in (0..grid_rows).step_by(step) {
                let end = grid_rows.min(start + step);
                let rows =
                    |first: usize| (first * h + start * self.patch[1]) * w..(first * h + end * self.patch[1]) * w;
                let tokens =
                    (patch_frame * grid_rows + start) * grid_columns..(patch_frame * grid_rows + end) * grid_columns;
                let pixels = rows(of_batch * f + frame);
                let channels = channel..channel + 1;
                launch.dispatches.push(self.dispatch(call, profile, rows(plane), pixels, channels, tokens)?);
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, 0.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::unpatchify::unpatchify(self, &inputs[0])
    }
}

impl<'g> Var<'g> {
    /// The video \[B, C, F, H, W\] whose patches are the tokens `self` \[B, L, pt ph pw C\]: see [`Unpatchify`].
    #[track_caller]
    pub fn unpatchify(self, grid: [usize; 3], patch: [usize; 3]) -> Var<'g> {
        self.graph().apply(Unpatchify { grid, patch }, &[self])
    }
}

/// `unpatchify` in [`ALL`](super::ALL).
pub const UNPATCHIFY: Op = Op { name: "unpatchify", summary: "tokens back to the video they are patches of", cases };

fn cases() -> Vec<Case> {
    let case = |b: usize, grid: [usize; 3], patch: [usize; 3], c: usize| {
        let [l, area] = [grid, patch].map(|sizes| sizes.iter().product::<usize>());
        let input = CaseInput::normal([b, l, area * c], DType::F32);
        Case::new(format!("{b}x{grid:?}_patch{patch:?}_{c}"), Unpatchify { grid, patch }, vec![input])
    };
    let wan = [1, 2, 2];
    vec![
        case(1, [1, 1, 1], [1, 1, 1], 1),
        case(1, [1, 1, 1], wan, 3),
        case(1, [3, 4, 5], wan, 16),
        case(2, [3, 4, 5], wan, 16),
        case(3, [2, 3, 7], [2, 3, 1], 5),
        case(1, [2, 2, 2], [2, 2, 2], 48),
        // Windows over frames, and over rows of a frame.
        case(2, [3, 20, 26], wan, 16),
        case(1, [2, 30, 52], wan, 48),
        case(1, [2, 9, 31], [2, 2, 2], 17),
        case(2, [5, 30, 52], wan, 16).bench(),
    ]
}
