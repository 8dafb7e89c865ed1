//! `rope`: rotary position embedding of queries and keys (arXiv:2104.09864), interleaved pairs.
//!
//! Shader: `shaders/attention/rope.wgsl`. Twin: [`twins::rope`].

use super::attention::aligned;
use super::case::{Case, CaseInput, Op};
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

/// y = x with every pair (x0, x1) of a head turned: (x0 cos - x1 sin, x0 sin + x1 cos).
///
/// Inputs: x \[B, L, N * D\] (f32 or f16), cos and sin \[L, D/2\] (f32). Output: as x.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Heads, N.
    pub heads: usize,
}

const SOURCE: Source = Source { path: "attention/rope", text: include_str!("../../shaders/attention/rope.wgsl") };

/// Invocations of a workgroup.
const WIDTH: usize = 64;

impl Kernel for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x, cos, sin] = inputs else { return Err(format!("takes x, cos and sin, not {} tensors", inputs.len())) };
        if !matches!(x.dtype, DType::F32 | DType::F16) || cos.dtype != DType::F32 || sin.dtype != DType::F32 {
            return Err("takes x in f32 or f16, cos and sin in f32".into());
        }
        let &[_, rows, channels] = x.shape.dims() else { return Err(format!("x is [B, L, N * D], not {}", x.shape)) };
        if x.shape.count() == 0 || self.heads == 0 || channels % (2 * self.heads) != 0 {
            return Err(format!("{} does not hold {} heads of an even size", x.shape, self.heads));
        }
        let table = [rows, channels / self.heads / 2];
        if cos.shape.dims() != table || sin.shape.dims() != table {
            return Err(format!("cos and sin are {table:?} for x {}, not {} and {}", x.shape, cos.shape, sin.shape));
        }
        Ok(*x)
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let ty = call.output;
        if ty.dtype == DType::F16 && !profile.f16 {
            return Err("f16 activations need a device with f16 shaders".into());
        }
        let (batches, rows, channels) = (ty.shape[0], ty.shape[1], ty.shape[2]);
        let head_dim = channels / self.heads;
        let pairs = if head_dim.is_multiple_of(4) { 2 } else { 1 };
        let unit_bytes = 2 * pairs * ty.dtype.block_bytes();
        // Units to an invocation.
        let units = window::run(head_dim / 2 / pairs, profile);
        let (row_bytes, table_bytes) = (channels * ty.dtype.block_bytes(), head_dim / 2 * 4);
        let most = profile.max_binding as usize;
        // All batches at once if they fit; else one batch at a time, in windows of rows whose starts are aligned down.
        let whole = batches * rows * row_bytes <= most && rows * table_bytes <= most;
        let room = most.saturating_sub(profile.offset_alignment as usize);
        let step = if whole { rows } else { rows.min(room / row_bytes).min(room / table_bytes) };
        if step == 0 {
            return Err(format!("rows of {row_bytes} bytes do not fit the device's largest binding of {most} bytes"));
        }
        let constants = vec![
            ("T", Value::Name(profile.storage(ty.dtype))),
            ("PAIRS", Value::Int(pairs as u32)),
            ("HALF", Value::Int((head_dim / 2) as u32)),
            ("WIDTH", Value::Int(WIDTH as u32)),
            ("UNITS", Value::Int(units as u32)),
        ];
        let needs = Needs { f16: ty.dtype == DType::F16, ..Needs::default() };
        let shader = Shader { source: SOURCE, label: self.name(), constants: constants.into(), needs };
        let mut launch = Launch::default();
        for batch in 0..if whole { 1 } else { batches } {
            for start in (0..rows).step_by(step) {
                let in_window = step.min(rows - start);
                let x_rows = if whole { batches * rows } else { in_window };
                let first = batch * rows + start;
                let (x, x_at) = aligned(first * row_bytes, (first + x_rows) * row_bytes, unit_bytes, profile);
                let (table, table_at) = aligned(start * table_bytes, (start + in_window) * table_bytes, 4, profile);
                let row_units = channels / (2 * pairs);
                let count = x_rows * row_units;
                launch.dispatches.push(Dispatch {
                    shader: shader.clone(),
                    bindings: vec![
                        Binding::input(0).window(x.clone()),
                        Binding::input(1).window(table.clone()),
                        Binding::input(2).window(table),
                        Binding::output().window(x),
                    ],
                    params: vec![count as u32, in_window as u32, row_units as u32, x_at, table_at],
                    groups: profile.grid((count / units).div_ceil(WIDTH))?,
                });
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * 3.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::rope::rope(self.heads, &inputs[0], &inputs[1], &inputs[2])
    }
}

impl<'g> Var<'g> {
    /// Rotary embedding of the interleaved pairs of every head: (x0, x1) -> (x0 cos - x1 sin, x0 sin + x1 cos), with
    /// self \[B, L, N * D\] and cos, sin \[L, D/2\] in f32; the same type out (arXiv:2104.09864).
    #[track_caller]
    pub fn rope(self, cos: Var<'g>, sin: Var<'g>, heads: usize) -> Var<'g> {
        self.graph().apply(Rope { heads }, &[self, cos, sin])
    }
}

/// `rope` in [`ALL`](super::ALL).
pub const ROPE: Op = Op { name: "rope", summary: "rotary embedding, interleaved pairs", cases };

fn cases() -> Vec<Case> {
    let case = |batches: usize, rows: usize, heads: usize, head_dim: usize, ty: DType| {
        let inputs = vec![
            CaseInput::normal([batches, rows, heads * head_dim], ty),
            CaseInput::normal([rows, head_dim / 2], DType::F32),
            CaseInput::normal([rows, head_dim / 2], DType::F32),
        ];
        Case::new(format!("{batches}x{rows}x{heads}x{head_dim}_{ty}"), Rope { heads }, inputs)
    };
    vec![
        case(1, 1, 1, 2, DType::F32),
        case(2, 3, 5, 2, DType::F32),
        case(1, 7, 3, 6, DType::F32),
        case(3, 5, 2, 12, DType::F32),
        case(2, 33, 3, 10, DType::F16),
        case(2, 65, 4, 32, DType::F16),
        case(1, 100, 1, 64, DType::F32),
        case(3, 301, 3, 30, DType::F32),
        case(2, 259, 2, 128, DType::F32),
        case(1, 700, 3, 94, DType::F16),
        case(1, 1560, 12, 128, DType::F32).bench(),
        case(1, 1560, 12, 128, DType::F16).bench(),
    ]
}
