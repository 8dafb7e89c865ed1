//! `patch_embed`: latents to tokens, a convolution whose stride is its size.
//!
//! Shader: `shaders/embed/patch_embed.wgsl`. Twin: [`twins::patch_embed`]. It serves
//! `patch_embedding` of diffusers' `transformer_wan.py`.

use super::case::{Case, CaseInput, Op};
use super::twins;
use super::window::window;
use crate::graph::{
    Binding, Call, Cost, DeviceKind, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin,
    Value, Var,
};
use crate::tensor::DType;

/// x \[1, C, F, H, W\] f32 -> tokens \[batch, (F/pt)(H/ph)(W/pw), dim\] f32 in (frame, row, column) order, every row of
/// the batch the same.
///
/// Inputs in order: x, w \[dim, C pt ph pw\] (f32, f16 or bf16; a row of a convolution's weight \[dim, C, pt, ph, pw\]),
/// bias \[dim\] f32.
#[derive(Clone, Copy, Debug)]
pub struct PatchEmbed {
    /// Frames, rows and columns of a patch; they divide those of x.
    pub patch: [usize; 3],
    /// How often the tokens are repeated.
    pub batch: usize,
}

const SOURCE: Source = Source { path: "embed/patch_embed", text: include_str!("../../shaders/embed/patch_embed.wgsl") };
/// Invocations of a workgroup.
const WIDTH: usize = 64;

/// Tokens and channels of an invocation: software drivers read lane by lane, so there more sums share what is read.
fn each(profile: &DeviceProfile) -> [usize; 2] {
    if profile.kind == DeviceKind::Cpu { [8, 4] } else { [4, 2] }
}

/// C, F, H and W of x.
fn dims(x: &TensorType) -> Result<[usize; 4], String> {
    match (x.shape.dims(), x.dtype) {
        (&[1, c, f, h, w], DType::F32) if x.shape.count() > 0 => Ok([c, f, h, w]),
        _ => Err(format!("x must be f32 [1, C, F, H, W], not {x}")),
    }
}

impl Kernel for PatchEmbed {
    fn name(&self) -> &'static str {
        "patch_embed"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, w, bias] = inputs else { return Err(format!("takes 3 operands, not {}", inputs.len())) };
        let [c, f, h, columns] = dims(x)?;
        let [pt, ph, pw] = self.patch;
        if self.batch == 0
            || self.patch.contains(&0)
            || !f.is_multiple_of(pt)
            || !h.is_multiple_of(ph)
            || !columns.is_multiple_of(pw)
        {
            return Err(format!("patches of {:?} do not tile {}", self.patch, x.shape));
        }
        let &[dim, depth] = w.shape.dims() else {
            return Err(format!("w must be [dim, C pt ph pw], not {w}"));
        };
        if depth != c * pt * ph * pw || dim == 0 || !w.dtype.is_float() {
            return Err(format!("w must be f32, f16 or bf16 [dim, {}], not {w}", c * pt * ph * pw));
        }
        if *bias != TensorType::f32([dim]) {
            return Err(format!("the bias must be {}, not {bias}", TensorType::f32([dim])));
        }
        let y = TensorType::f32([self.batch, f / pt * (h / ph) * (columns / pw), dim]);
        let most = y.shape.count().max(x.shape.count()).max(w.shape.count());
        if u32::try_from(most).is_err() {
            return Err(format!("a tensor of {most} elements is more than 32-bit indices reach"));
        }
        Ok(y)
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let [c, f, h, w] = dims(&call.inputs[0])?;
        let [rows, dim] = [call.output.shape.rows(), call.output.shape.last()];
        let dtype = call.inputs[1].dtype;
        if call.inputs[1].bytes() > profile.max_binding {
            return Err(format!("weights of {} bytes are more than a binding holds", call.inputs[1].bytes()));
        }
        let [tokens, channels] = each(profile);
        let most = profile.max_binding.saturating_sub(profile.offset_alignment) as usize;
        let depth = call.inputs[1].shape.last();
        // Rows of y, and channels of x, that fit a binding each.
        let affordable = (profile.dispatch_flops / (2 * dim * depth) as f64) as usize;
        let row_step = (most / (4 * dim)).min(affordable.max(tokens));
        let c_step = most / (4 * f * h * w);
        if row_step == 0 || c_step == 0 {
            return Err("a token, or a channel of the video, does not fit a binding of this device".into());
        }
        let mut launch = Launch::default();
        for row in (0..rows).step_by(row_step) {
            let row_end = rows.min(row + row_step);
            let (y, y_base) = window(row * dim..row_end * dim, 4, profile);
            for c0 in (0..c).step_by(c_step) {
                let c_end = c.min(c0 + c_step);
                let (x, x_base) = window(c0 * f * h * w..c_end * f * h * w, 4, profile);
                let tiles = dim.div_ceil(WIDTH * channels);
                let length = call.output.shape[1];
                let params =
                    [row, row_end - row, length, dim, c0, c_end, x_base, y_base, f, h, w, tiles].map(|v| v as u32);
                launch.dispatches.push(Dispatch {
                    shader: Shader {
                        source: SOURCE,
                        label: "patch_embed",
                        constants: [
                            ("WT", Value::Name(profile.storage(dtype))),
                            ("PT", Value::Int(self.patch[0] as u32)),
                            ("PH", Value::Int(self.patch[1] as u32)),
                            ("PW", Value::Int(self.patch[2] as u32)),
                            ("DEPTH", Value::Int(depth as u32)),
                            ("ADD", Value::Bool(c0 > 0)),
                            ("WIDTH", Value::Int(WIDTH as u32)),
                            ("P", Value::Int(tokens as u32)),
                            ("Q", Value::Int(channels as u32)),
                        ]
                        .into(),
                        needs: Needs { f16: dtype == DType::F16 && profile.f16, ..Needs::default() },
                    },
                    bindings: [Binding::input(0).window(x), Binding::input(1)]
                        .into_iter()
                        .chain((c0 == 0).then(|| Binding::input(2)))
                        .chain([Binding::output().window(y.clone())])
                        .collect(),
                    params: params.to_vec(),
                    groups: profile.grid((row_end - row).div_ceil(tokens) * tiles)?,
                });
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        let depth = call.inputs.get(1).map_or(0, |w| w.shape.last());
        Cost::of(call, 2.0 * call.output.shape.count() as f64 * depth as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::patch_embed::patch_embed(self, &inputs[0], &inputs[1], &inputs[2])
    }
}

impl<'g> Var<'g> {
    /// Tokens \[batch, L, dim\] of the video `self` \[1, C, F, H, W\]: see [`PatchEmbed`].
    #[track_caller]
    pub fn patch_embed(self, w: Var<'g>, bias: Var<'g>, patch: [usize; 3], batch: usize) -> Var<'g> {
        self.graph().apply(PatchEmbed { patch, batch }, &[self, w, bias])
    }
}

/// `patch_embed` in [`ALL`](super::ALL).
pub const PATCH_EMBED: Op = Op { name: "patch_embed", summary: "patches of latents times weights: tokens", cases };

fn cases() -> Vec<Case> {
    let case = |x: [usize; 4], patch: [usize; 3], dim: usize, batch: usize, dtype: DType| {
        let [c, f, h, w] = x;
        let inputs = vec![
            CaseInput::normal([1, c, f, h, w], DType::F32),
            CaseInput::normal([dim, c * patch.iter().product::<usize>()], dtype),
            CaseInput::normal([dim], DType::F32),
        ];
        let label = format!("{c}x{f}x{h}x{w}_patch{patch:?}_{dim}_batch{batch}_{dtype}");
        Case::new(label, PatchEmbed { patch, batch }, inputs)
    };
    let wan = [1, 2, 2];
    vec![
        case([1, 1, 1, 1], [1, 1, 1], 3, 1, DType::F32),
        case([3, 1, 2, 2], wan, 5, 1, DType::F32),
        case([16, 3, 6, 10], wan, 48, 1, DType::F32),
        case([16, 3, 6, 10], wan, 48, 2, DType::BF16),
        case([36, 2, 8, 6], wan, 65, 2, DType::F16),
        case([5, 4, 6, 9], [2, 3, 1], 33, 3, DType::F32),
        case([3, 2, 4, 4], [2, 2, 2], 257, 1, DType::BF16),
        // Windows over tokens...
        case([16, 3, 30, 52], wan, 320, 2, DType::F32),
        // ...and over channels.
        case([17, 5, 40, 26], wan, 24, 1, DType::F16),
        case([16, 2, 60, 104], wan, 256, 1, DType::F32).bench(),
    ]
}
