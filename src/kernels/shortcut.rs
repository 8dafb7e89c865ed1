//! `average_down` and `duplicate_up`: ways around a block that changes the size of a video, without weights.
//!
//! Shaders: `shaders/conv/average_down.wgsl`, `shaders/conv/duplicate_up.wgsl`. Twins: [`twins::shortcut`]. They serve
//! `AvgDown3D` and `DupUp3D` of diffusers' `autoencoder_kl_wan.py`, the residual VAE of Wan 2.2.

use std::ops::Range;

use super::case::{Case, CaseInput, Op};
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

/// y = base + mean_G(x \[T, H, W, C\] with the frames, rows and columns of a block as channels).
///
/// The channels of a block are in (c, frame, row, column) order, and every G = C ft fs fs / O of them are averaged to
/// one of the O channels of base and y \[T', H / fs, W / fs, O\]. Frames of zeros in front fill the first block.
///
/// Inputs: x, base, both f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AverageDown {
    /// Frames, and rows and columns, of a block.
    pub factor: [usize; 2],
}

/// y = base + x \[T, H, W, C\] with every channel repeated O ft fs fs / C times, the repetitions spread over blocks of ft
/// frames, fs rows and fs columns in (channel, frame, row, column) order; base and y \[T ft, H fs, W fs, O\].
///
/// Inputs: x, base, both f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DuplicateUp {
    /// Frames, and rows and columns, of a block.
    pub factor: [usize; 2],
    /// Whether a video begins here: of its first block only the last frame is there, so y has T ft - (ft - 1) frames.
    pub first: bool,
}

const AVERAGE: Source =
    Source { path: "conv/average_down", text: include_str!("../../shaders/conv/average_down.wgsl") };
const DUPLICATE: Source =
    Source { path: "conv/duplicate_up", text: include_str!("../../shaders/conv/duplicate_up.wgsl") };
/// Invocations of a workgroup.
const WIDTH: usize = 64;

fn dims(ty: &TensorType) -> Result<[usize; 4], String> {
    match (ty.shape.dims(), ty.dtype) {
        (&[t, h, w, c], DType::F32) if ty.shape.count() > 0 && u32::try_from(ty.shape.count()).is_ok() => {
            Ok([t, h, w, c])
        }
        _ => Err(format!("takes f32 [T, H, W, C], not {ty}")),
    }
}

/// Rows of a frame of y that fit the windows of all operands; they begin at multiples of `unit`.
fn row_blocks(rows: usize, unit: usize, row_bytes: u64, profile: &DeviceProfile) -> Result<Vec<Range<usize>>, String> {
    let blocks = window::rows(rows.div_ceil(unit), row_bytes * unit as u64, profile)?;
    Ok(blocks.into_iter().map(|block| block.start * unit..rows.min(block.end * unit)).collect())
}

impl AverageDown {
    /// Channels that are averaged to one.
    fn group(&self, x: [usize; 4], base: [usize; 4]) -> usize {
        let [ft, fs] = self.factor;
        x[3] * ft * fs * fs / base[3]
    }
}

impl Kernel for AverageDown {
    fn name(&self) -> &'static str {
        "average_down"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, base] = inputs else { return Err(format!("takes x and base, not {} tensors", inputs.len())) };
        let ([t, h, w, c], [frames, rows, columns, o]) = (dims(x)?, dims(base)?);
        let [ft, fs] = self.factor;
        let fits = matches!(ft, 1 | 2)
            && fs > 0
            && [frames, rows * fs, columns * fs] == [t.div_ceil(ft), h, w]
            && (c * ft * fs * fs).is_multiple_of(o);
        if fits { Ok(*base) } else { Err(format!("blocks of {:?} of {x} do not average to {base}", self.factor)) }
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let (x, base) = (dims(&call.inputs[0])?, dims(&call.inputs[1])?);
        let [ft, fs] = self.factor;
        let [frames, rows, columns, o] = base;
        let row_bytes = 4 * (columns * o).max(fs * x[2] * x[3]) as u64;
        let pad = frames * ft - x[0];
        let mut launch = Launch::default();
        for frame in 0..frames {
            // Of the first block, frames of zeros may be missing.
            let skip = if frame == 0 { pad } else { 0 };
            for block in row_blocks(rows, 1, row_bytes, profile)? {
                let constants = vec![
                    ("WIDTH", Value::Int(WIDTH as u32)),
                    ("FT", Value::Int(ft as u32)),
                    ("FS", Value::Int(fs as u32)),
                    ("SKIP", Value::Int(skip as u32)),
                    ("GROUP", Value::Int(self.group(x, base) as u32)),
                ];
                let shader = Shader {
                    source: AVERAGE,
                    label: "average_down",
                    constants: constants.into(),
                    needs: Needs::default(),
                };
                let count = block.len() * columns * o;
                let first = (frame * rows + block.start) * columns * o;
                let (y, y_at) = window::aligned(first..first + count, 4, profile);
                let mut bindings = Vec::new();
                let mut params = vec![count, columns, o, x[3]];
                for i in 0..ft {
                    let Some(t) = (frame * ft + i).checked_sub(pad) else {
                        params.push(0);
                        continue;
                    };
                    let row = x[2] * x[3];
                    let from = (t * x[1] + block.start * fs) * row;
                    let (bytes, at) = window::aligned(from..from + block.len() * fs * row, 4, profile);
                    bindings.push(Binding::input(0).window(bytes));
                    params.push(at);
                }
                bindings.extend([Binding::input(1).window(y.clone()), Binding::output().window(y)]);
                params.extend([y_at, y_at]);
                let params = params.into_iter().map(|v| v as u32).collect();
                launch.dispatches.push(Dispatch {
                    shader,
                    bindings,
                    params,
                    groups: profile.grid(count.div_ceil(WIDTH))?,
                });
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, (call.inputs[0].shape.count() + call.output.shape.count()) as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::shortcut::average_down(self, &inputs[0], &inputs[1])
    }
}

impl DuplicateUp {
    /// Frames of y that are left out.
    fn skipped(&self) -> usize {
        if self.first { self.factor[0] - 1 } else { 0 }
    }
}

impl Kernel for DuplicateUp {
    fn name(&self) -> &'static str {
        "duplicate_up"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, base] = inputs else { return Err(format!("takes x and base, not {} tensors", inputs.len())) };
        let ([t, h, w, c], [frames, rows, columns, o]) = (dims(x)?, dims(base)?);
        let [ft, fs] = self.factor;
        let fits = ft > 0
            && fs > 0
            && [frames + self.skipped(), rows, columns] == [t * ft, h * fs, w * fs]
            && (o * ft * fs * fs).is_multiple_of(c);
        if fits { Ok(*base) } else { Err(format!("{x} repeated in blocks of {:?} is not {base}", self.factor)) }
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let ([_, h, w, c], [frames, rows, columns, o]) = (dims(&call.inputs[0])?, dims(&call.inputs[1])?);
        let [ft, fs] = self.factor;
        let constants = vec![
            ("WIDTH", Value::Int(WIDTH as u32)),
            ("FT", Value::Int(ft as u32)),
            ("FS", Value::Int(fs as u32)),
            ("REPEATS", Value::Int((o * ft * fs * fs / c) as u32)),
        ];
        let shader =
            Shader { source: DUPLICATE, label: "duplicate_up", constants: constants.into(), needs: Needs::default() };
        let row_bytes = 4 * (columns * o).max(w * c) as u64;
        let mut launch = Launch::default();
        for frame in 0..frames {
            let source = frame + self.skipped();
            for block in row_blocks(rows, fs, row_bytes, profile)? {
                let count = block.len() * columns * o;
                let first = (frame * rows + block.start) * columns * o;
                let (y, y_at) = window::aligned(first..first + count, 4, profile);
                let from = (source / ft * h + block.start / fs) * w * c;
                let (x, x_at) = window::aligned(from..from + block.len().div_ceil(fs) * w * c, 4, profile);
                let sizes = [count, block.start, columns, o, c, source % ft, x_at, y_at, y_at];
                launch.dispatches.push(Dispatch {
                    shader: shader.clone(),
                    bindings: vec![
                        Binding::input(0).window(x),
                        Binding::input(1).window(y.clone()),
                        Binding::output().window(y),
                    ],
                    params: sizes.map(|size| size as u32).to_vec(),
                    groups: profile.grid(count.div_ceil(WIDTH))?,
                });
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::shortcut::duplicate_up(self, &inputs[0], &inputs[1])
    }
}

impl<'g> Var<'g> {
    /// self \[T', H / fs, W / fs, O\] + `x` \[T, H, W, C\] averaged over blocks of `factor` = \[ft, fs\]: see [`AverageDown`].
    #[track_caller]
    pub fn add_averaged(self, x: Var<'g>, factor: [usize; 2]) -> Var<'g> {
        self.graph().apply(AverageDown { factor }, &[x, self])
    }

    /// self \[T ft, H fs, W fs, O\] + `x` \[T, H, W, C\] repeated in blocks of `factor` = \[ft, fs\], only the last frame of
    /// the first block if the video begins here: see [`DuplicateUp`].
    #[track_caller]
    pub fn add_duplicated(self, x: Var<'g>, factor: [usize; 2], first: bool) -> Var<'g> {
        self.graph().apply(DuplicateUp { factor, first }, &[x, self])
    }
}

/// `average_down` in [`ALL`](super::ALL).
pub const AVERAGE_DOWN: Op =
    Op { name: "average_down", summary: "a smaller video plus averages of a larger one", cases: average_cases };
/// `duplicate_up` in [`ALL`](super::ALL).
pub const DUPLICATE_UP: Op =
    Op { name: "duplicate_up", summary: "a larger video plus repetitions of a smaller one", cases: duplicate_cases };

fn average_cases() -> Vec<Case> {
    let case = |[t, h, w, c]: [usize; 4], factor: [usize; 2], o: usize| {
        let [ft, fs] = factor;
        let base = [t.div_ceil(ft), h / fs, w / fs, o];
        let inputs = vec![CaseInput::normal([t, h, w, c], DType::F32), CaseInput::normal(base, DType::F32)];
        Case::new(format!("{:?}_by{factor:?}_to{o}", [t, h, w, c]), AverageDown { factor }, inputs)
    };
    vec![
        case([1, 1, 1, 1], [1, 1], 1),
        case([1, 2, 2, 1], [2, 2], 1),
        case([1, 4, 6, 5], [2, 2], 10),
        case([4, 4, 6, 5], [2, 2], 10),
        case([3, 4, 6, 5], [2, 2], 8),
        case([4, 6, 2, 8], [1, 2], 8),
        case([2, 3, 5, 12], [1, 1], 4),
        case([2, 3, 5, 12], [1, 1], 12),
        // Windows over the rows of a frame.
        case([4, 50, 62, 24], [2, 2], 24),
        case([1, 62, 50, 33], [2, 2], 44),
        case([4, 60, 104, 96], [2, 2], 192).bench(),
    ]
}

fn duplicate_cases() -> Vec<Case> {
    let case = |[t, h, w, c]: [usize; 4], factor: [usize; 2], o: usize, first: bool| {
        let [ft, fs] = factor;
        let kernel = DuplicateUp { factor, first };
        let base = [t * ft - kernel.skipped(), h * fs, w * fs, o];
        let inputs = vec![CaseInput::normal([t, h, w, c], DType::F32), CaseInput::normal(base, DType::F32)];
        let start = if first { "_first" } else { "" };
        Case::new(format!("{:?}_by{factor:?}_to{o}{start}", [t, h, w, c]), kernel, inputs)
    };
    vec![
        case([1, 1, 1, 1], [1, 1], 1, false),
        case([1, 1, 1, 1], [2, 2], 1, true),
        case([1, 2, 3, 10], [2, 2], 5, true),
        case([2, 2, 3, 10], [2, 2], 5, false),
        case([2, 3, 1, 8], [1, 2], 8, false),
        case([2, 3, 1, 8], [1, 2], 4, true),
        case([3, 2, 2, 4], [2, 1], 6, true),
        // Windows over the rows of a frame.
        case([2, 25, 31, 24], [2, 2], 24, false),
        case([1, 31, 25, 66], [1, 2], 33, true),
        case([2, 30, 52, 192], [2, 2], 96, false).bench(),
    ]
}
