//! `layer_norm`, `rms_norm` and `l2_norm`: every row of C elements, made comparable.
//!
//! Shaders: `shaders/norm/*.wgsl` with `shaders/lib/rows.wgsl`. Twins: [`twins::norm`].

mod cases;

use super::case::Op;
use super::table::Repeat;
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceKind, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin,
    Value, Var,
};
use crate::tensor::DType;

/// What follows the normalisation of [`LayerNorm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Affine {
    /// Nothing.
    None,
    /// * w + b, of \[C\] each.
    Weights,
    /// * (1 + scale) + shift, of \[R, C\] or \[C\] each, shared out over the rows by [`Repeat`] (adaLN, arXiv:2212.09748).
    Modulation,
}

/// y = (x - mean) / sqrt(var + eps) over the last dimension of x \[..., C\] (f32), then [`Affine`]; arXiv:1607.06450.
///
/// Inputs: x; with weights w, b; with a modulation shift, scale (f32).
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
    /// What follows.
    pub affine: Affine,
    /// Element type of the output, f32 or f16.
    pub out: DType,
}

/// y = x / sqrt(mean(x^2) + eps) * w over the last dimension of x \[..., C\] (f32 or f16), w \[C\] (f32); arXiv:1910.07467.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// Added to the mean of the squares.
    pub eps: f32,
    /// Element type of the output, f32 or f16.
    pub out: DType,
}

/// y = x / max(|x|_2, 1e-12) * sqrt(C) * w over the last dimension of x \[..., C\], w \[C\], then SiLU or not; all f32.
/// The channel norm of the VAE (`WanRMS_norm` in diffusers' `autoencoder_kl_wan.py`).
#[derive(Clone, Copy, Debug)]
pub struct L2Norm {
    /// Whether x sigmoid(x) follows.
    pub silu: bool,
}

/// The norm that no row is divided by less than: PyTorch's `F.normalize`.
const L2_EPS: f32 = 1e-12;

const LAYER: Source = Source { path: "norm/layer_norm", text: include_str!("../../shaders/norm/layer_norm.wgsl") };
const RMS: Source = Source { path: "norm/rms_norm", text: include_str!("../../shaders/norm/rms_norm.wgsl") };
const L2: Source = Source { path: "norm/l2_norm", text: include_str!("../../shaders/norm/l2_norm.wgsl") };

/// How a row is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sharing {
    /// Invocations of a workgroup.
    width: usize,
    /// Neighbours among them that share a row: a power of two.
    group: usize,
    /// How they add up, a name that `lib/rows.wgsl` knows.
    reduce: &'static str,
}

impl Sharing {
    /// For rows of `units` vectors.
    fn of(units: usize, profile: &DeviceProfile) -> Self {
        if profile.kind == DeviceKind::Cpu {
            // Its invocations are lanes of one vector unit: a row each, and nobody waits for anybody.
            return Self { width: 8, group: 1, reduce: "none" };
        }
        let group = units.div_ceil(4).next_power_of_two().min(256);
        let width = group.max(64);
        let reduce = match profile.subgroups {
            _ if group == 1 => "none",
            Some((least, most)) if group <= least as usize && width.is_multiple_of(most as usize) => "shuffle",
            Some((least, most)) if least >= 4 && group == width && most as usize <= width => "subgroup",
            _ => "tree",
        };
        Self { width, group, reduce }
    }
}

/// The parts of a launch in which the three norms differ.
struct Norm<'a> {
    label: &'static str,
    source: Source,
    constants: &'a [(&'static str, Value)],
    eps: f32,
}

impl Norm<'_> {
    /// Dispatches over windows of rows. Inputs: x, then tables \[R, C\] of one shape.
    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let (x, y) = (call.inputs[0], call.output);
        let f16 = [x.dtype, y.dtype].contains(&DType::F16);
        if f16 && !profile.f16 {
            return Err("f16 activations need a device with f16 shaders".into());
        }
        let (rows, c) = (x.shape.rows(), x.shape.last());
        let vec = if c % 4 == 0 { 4 } else { 1 };
        let units = c / vec;
        let sharing = Sharing::of(units, profile);
        let repeat = call.inputs.get(1).map_or(Some(Repeat { rows: 1, each: 1 }), |t| Repeat::of(t.shape, x.shape));
        let repeat = repeat.ok_or("the table does not repeat over the rows")?;
        let row_bytes = (c * x.dtype.block_bytes().max(y.dtype.block_bytes())) as u64;
        // A table that can be bound in whole is; else every window has its own part of it, and none crosses its end.
        let whole_table = (repeat.rows * c * 4) as u64 <= profile.max_binding;
        let windows = if whole_table {
            window::rows(rows, row_bytes, profile)?
        } else {
            // A run at a time where rows share, else all rows that the table serves once.
            let block = if repeat.each > 1 { repeat.each } else { repeat.rows };
            let one = window::rows(block, row_bytes.max(c as u64 * 4), profile)?;
            (0..rows).step_by(block).flat_map(|base| one.iter().map(move |w| base + w.start..base + w.end)).collect()
        };
        let mut constants = vec![
            ("X", Value::Name(profile.storage(x.dtype))),
            ("Y", Value::Name(profile.storage(y.dtype))),
            ("C", Value::Int(c as u32)),
            ("VEC", Value::Int(vec as u32)),
            ("UNITS", Value::Int(units as u32)),
            ("WIDTH", Value::Int(sharing.width as u32)),
            ("GROUP", Value::Int(sharing.group as u32)),
            ("REDUCE", Value::Name(sharing.reduce)),
        ];
        constants.extend_from_slice(self.constants);
        let subgroups = matches!(sharing.reduce, "shuffle" | "subgroup");
        let needs = Needs { f16, subgroups, ..Needs::default() };
        let shader = Shader { source: self.source, label: self.label, constants: constants.into(), needs };
        let mut launch = Launch::default();
        for range in windows {
            let elements = range.start * c..range.end * c;
            let (x_window, x_at) = window::aligned(elements.clone(), x.dtype.block_bytes(), profile);
            let (y_window, y_at) = window::aligned(elements, y.dtype.block_bytes(), profile);
            let (table, first_row, repeat, table_at) = if whole_table {
                (None, range.start, repeat, 0)
            } else {
                let (first, last) = (repeat.row(range.start), repeat.row(range.end - 1));
                let (window, at) = window::aligned(first * c..(last + 1) * c, 4, profile);
                (Some(window), 0, Repeat { rows: last + 1 - first, ..repeat }, at)
            };
            let mut bindings = vec![Binding::input(0).window(x_window)];
            bindings.extend((1..call.inputs.len()).map(|i| Binding { window: table.clone(), ..Binding::input(i) }));
            bindings.push(Binding::output().window(y_window));
            let Repeat { rows: table_rows, each } = repeat;
            let sizes = [range.len(), x_at / vec, y_at / vec, first_row, table_rows, each, table_at / vec];
            launch.dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings,
                params: sizes.map(|size| size as u32).into_iter().chain([self.eps.to_bits()]).collect(),
                groups: profile.grid(range.len().div_ceil(sharing.width / sharing.group))?,
            });
        }
        Ok(launch)
    }
}

/// Whether x and the output are what a norm takes.
fn check(x: &TensorType, out: DType, half: bool) -> Result<(), String> {
    if x.shape.count() == 0 {
        return Err(format!("there is nothing to normalise in {}", x.shape));
    }
    if !(x.dtype == DType::F32 || half && x.dtype == DType::F16) || !matches!(out, DType::F32 | DType::F16) {
        return Err(format!("cannot normalise {} to {out}", x.dtype));
    }
    Ok(())
}

/// Whether a table \[R, C\] or \[C\] of f32 serves the rows of x \[..., C\].
fn check_table(name: &str, table: &TensorType, x: &TensorType, rows_allowed: bool) -> Result<(), String> {
    let c = x.shape.last();
    let fits = table.dtype == DType::F32
        && table.shape.last() == c
        && (table.shape.count() == c || rows_allowed && Repeat::of(table.shape, x.shape).is_some());
    let wanted = if rows_allowed { "[R, C] or [C], R a divisor of a batch's rows" } else { "[C]" };
    if fits { Ok(()) } else { Err(format!("{name} must be f32 {wanted} for {}, not {table}", x.shape)) }
}

impl Kernel for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match (self.affine, inputs) {
            (Affine::None, [x]) => check(x, self.out, false)?,
            (Affine::Weights, [x, w, b]) => {
                check(x, self.out, false)?;
                check_table("w", w, x, false)?;
                check_table("b", b, x, false)?;
            }
            (Affine::Modulation, [x, shift, scale]) => {
                check(x, self.out, false)?;
                check_table("shift", shift, x, true)?;
                check_table("scale", scale, x, true)?;
                if shift.shape.count() != scale.shape.count() {
                    return Err(format!("shift {} and scale {} differ", shift.shape, scale.shape));
                }
            }
            _ => return Err(format!("{} inputs do not go with {:?}", inputs.len(), self.affine)),
        }
        Ok(TensorType::new(inputs[0].shape, self.out))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let affine = match self.affine {
            Affine::None => "none",
            Affine::Weights => "weights",
            Affine::Modulation => "modulation",
        };
        let constants = &[("AFFINE", Value::Name(affine)), ("SUM", Value::Name("vec2<f32>"))];
        Norm { label: self.name(), source: LAYER, constants, eps: self.eps }.launch(call, profile)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * 8.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::norm::layer_norm(self, inputs)
    }
}

impl Kernel for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, w] = inputs else { return Err(format!("takes x and w, not {} tensors", inputs.len())) };
        check(x, self.out, true)?;
        check_table("w", w, x, false)?;
        Ok(TensorType::new(x.shape, self.out))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        Norm { label: self.name(), source: RMS, constants: &[("SUM", Value::Name("f32"))], eps: self.eps }
            .launch(call, profile)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * 4.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::norm::rms_norm(self, &inputs[0], &inputs[1])
    }
}

impl Kernel for L2Norm {
    fn name(&self) -> &'static str {
        "l2_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, w] = inputs else { return Err(format!("takes x and w, not {} tensors", inputs.len())) };
        check(x, DType::F32, false)?;
        check_table("w", w, x, false)?;
        Ok(*x)
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let constants = &[("SILU", Value::Bool(self.silu)), ("SUM", Value::Name("f32"))];
        Norm { label: self.name(), source: L2, constants, eps: L2_EPS }.launch(call, profile)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * if self.silu { 14.0 } else { 4.0 })
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::norm::l2_norm(self, f64::from(L2_EPS), &inputs[0], &inputs[1])
    }
}

impl<'g> Var<'g> {
    /// (self - mean) / sqrt(var + eps) over the last dimension of self \[..., C\] (f32), then * w + b if given (both
    /// \[C\], f32): PyTorch's `layer_norm` (arXiv:1607.06450).
    #[track_caller]
    pub fn layer_norm(self, affine: Option<(Var<'g>, Var<'g>)>, eps: f32, out: DType) -> Var<'g> {
        match affine {
            None => self.graph().apply(LayerNorm { eps, affine: Affine::None, out }, &[self]),
            Some((w, b)) => self.graph().apply(LayerNorm { eps, affine: Affine::Weights, out }, &[self, w, b]),
        }
    }

    /// Adaptive layer norm: (self - mean) / sqrt(var + eps) * (1 + scale) + shift over the last dimension of self
    /// \[..., C\] (f32), with shift and scale \[R, C\] or \[C\] (f32) shared out over the rows by [`Repeat`] (arXiv:2212.09748).
    #[track_caller]
    pub fn ada_norm(self, shift: Var<'g>, scale: Var<'g>, eps: f32, out: DType) -> Var<'g> {
        self.graph().apply(LayerNorm { eps, affine: Affine::Modulation, out }, &[self, shift, scale])
    }

    /// self / sqrt(mean(self^2) + eps) * w over the last dimension of self \[..., C\] (f32 or f16), w \[C\] in f32
    /// (arXiv:1910.07467).
    #[track_caller]
    pub fn rms_norm(self, w: Var<'g>, eps: f32, out: DType) -> Var<'g> {
        self.graph().apply(RmsNorm { eps, out }, &[self, w])
    }

    /// The VAE's channel norm, channels last: self / max(|self|_2, 1e-12) * sqrt(C) * w, then SiLU if `silu`; self
    /// \[..., C\] and w \[C\] in f32 (PyTorch's `F.normalize`; `WanRMS_norm` in diffusers' `autoencoder_kl_wan.py`).
    #[track_caller]
    pub fn l2_norm(self, w: Var<'g>, silu: bool) -> Var<'g> {
        self.graph().apply(L2Norm { silu }, &[self, w])
    }
}

/// `layer_norm` in [`ALL`](super::ALL).
pub const LAYER_NORM: Op = Op {
    name: "layer_norm",
    summary: "(x - mean) / sqrt(var + eps), then an affine map or adaLN",
    cases: cases::layer,
};
/// `rms_norm` in [`ALL`](super::ALL).
pub const RMS_NORM: Op = Op { name: "rms_norm", summary: "x / sqrt(mean(x^2) + eps) * w", cases: cases::rms };
/// `l2_norm` in [`ALL`](super::ALL).
pub const L2_NORM: Op =
    Op { name: "l2_norm", summary: "x / |x| * sqrt(C) * w, then SiLU: the VAE's", cases: cases::l2 };
