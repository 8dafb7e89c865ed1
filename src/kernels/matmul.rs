//! `matmul`: linear layers, with everything that follows a sum in the same pass.
//!
//! Shaders: `shaders/matmul/`, one for each `plan::Variant`. Twin: [`twins::matmul`].

mod cases;
mod plan;

use super::case::Op;
use super::pointwise::Activation;
use super::table::Repeat;
use super::twins;
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, TensorType, Twin, Value, Var,
};
use crate::tensor::{DType, Shape};

/// y = residual + gate * act(scale * x w^T + bias), where what is switched off is left out.
///
/// Inputs in order: x \[..., K\] (f32, f16), w \[N, K\] (any type but integers), bias \[N\], residual \[..., N\],
/// gate \[R, N\] (f32, shared out over the rows of y by [`Repeat`]). y \[..., N\] is of type `out`. Sums are f32. An f32 x
/// is multiplied in f32; an f16 x may be multiplied in f16, with w rounded to it.
#[derive(Clone, Copy, Debug)]
pub struct Matmul {
    /// Whether there is a bias.
    pub bias: bool,
    /// Applied to the sum with its bias.
    pub activation: Activation,
    /// Whether there is a residual.
    pub residual: bool,
    /// Whether there is a gate; only with a residual.
    pub gate: bool,
    /// Element type of y: f32 or f16.
    pub out: DType,
    /// What stored elements of w are multiplied by to give its values: 1 for all but scaled fp8. Twins are given values.
    pub scale: f32,
}

/// What becomes of the sums of [`Var::matmul`]: residual + gate * act(sum + bias).
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'g> {
    /// \[N\], f32.
    pub bias: Option<Var<'g>>,
    /// Applied to the sum with its bias.
    pub activation: Activation,
    /// As the output, f32.
    pub residual: Option<Var<'g>>,
    /// \[R, N\] or \[N\], f32, shared out over the rows by [`Repeat`]; only with a residual.
    pub gate: Option<Var<'g>>,
    /// Element type of the output; f32 if not said.
    pub out: Option<DType>,
}

/// The inputs of a [`Matmul`] by their meaning.
struct Operands {
    bias: Option<usize>,
    residual: Option<usize>,
    gate: Option<usize>,
}

impl Matmul {
    fn operands(&self) -> Operands {
        let mut next = 2;
        let mut take = |wanted: bool| {
            wanted.then(|| {
                next += 1;
                next - 1
            })
        };
        Operands { bias: take(self.bias), residual: take(self.residual), gate: take(self.gate) }
    }
}

impl Kernel for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let Operands { bias, residual, gate } = self.operands();
        let wanted = 2 + [bias, residual, gate].iter().flatten().count();
        let &[x, w, ..] = inputs else { return Err(format!("takes {wanted} operands, not {}", inputs.len())) };
        if inputs.len() != wanted {
            return Err(format!("takes {wanted} operands, not {}", inputs.len()));
        }
        if gate.is_some() && residual.is_none() {
            return Err("a gate needs a residual".into());
        }
        if !matches!(x.dtype, DType::F32 | DType::F16) || !matches!(self.out, DType::F32 | DType::F16) {
            return Err(format!("takes and gives f32 and f16, not {} and {}", x.dtype, self.out));
        }
        if w.dtype == DType::U32 || inputs[2..].iter().any(|ty| ty.dtype != DType::F32) {
            return Err("takes floating-point or quantised weights, and f32 bias, residual and gate".into());
        }
        if self.scale != 1.0 && !w.dtype.is_fp8() {
            return Err(format!("{} weights have no scale of {}", w.dtype, self.scale));
        }
        if w.shape.rank() != 2 || x.shape.rank() == 0 || x.shape.last() != w.shape.last() {
            return Err(format!("x {} and w {} do not share a last dimension", x.shape, w.shape));
        }
        if x.shape.count() == 0 || w.shape.count() == 0 {
            return Err(format!("x {} or w {} has no elements", x.shape, w.shape));
        }
        if w.dtype.bytes_of(w.shape.last()).is_none() {
            return Err(format!("rows of {w} are no whole blocks"));
        }
        let columns = w.shape.rows();
        let y = x.shape.with_last(columns);
        if let Some(bias) = bias.map(|i| inputs[i].shape).filter(|bias| bias.dims() != [columns]) {
            return Err(format!("bias {bias} is not [{columns}]"));
        }
        if let Some(residual) = residual.map(|i| inputs[i].shape).filter(|r| *r != y) {
            return Err(format!("residual {residual} is not {y}"));
        }
        let unfit = |gate: &Shape| gate.last() != columns || Repeat::of(*gate, y).is_none();
        if let Some(gate) = gate.map(|i| inputs[i].shape).filter(unfit) {
            return Err(format!("gate {gate} does not repeat over {y}"));
        }
        Ok(TensorType::new(y, self.out))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let [x, w] = [call.inputs[0], call.inputs[1]];
        if !profile.f16 && (x.dtype == DType::F16 || self.out == DType::F16) {
            return Err("f16 activations need a device with f16 shaders".into());
        }
        let Operands { bias, residual, gate } = self.operands();
        let size = plan::Size { rows: x.shape.rows(), columns: w.shape.rows(), depth: x.shape.last() };
        let variant = plan::choose(size, x.dtype, profile);
        let repeat =
            gate.map(|i| Repeat::of(call.inputs[i].shape, call.output.shape).ok_or("the gate does not repeat"));
        let repeat = repeat.transpose()?;
        let bytes = plan::RowBytes {
            x: (size.depth * x.dtype.block_bytes()) as u64,
            w: w.dtype.bytes_of(size.depth).ok_or_else(|| format!("rows of {w} are no whole blocks"))? as u64,
            y: (size.columns * self.out.block_bytes()) as u64,
            f32: (size.columns * 4) as u64,
        };
        let f32_rows = plan::F32Rows { residual: residual.is_some(), gate: repeat };
        let parts = plan::parts(size, &bytes, &f32_rows, profile)?;

        let vector = size.depth.is_multiple_of(4);
        let fours = parts.iter().all(|part| part.columns.start.is_multiple_of(4));
        let wide = size.columns.is_multiple_of(4) && fours && variant.finishes_by_fours();
        let types = [x.dtype, w.dtype, self.out];
        let shader = Shader {
            source: variant.source(),
            label: variant.label(),
            constants: [
                ("X", Value::Name(profile.storage(x.dtype))),
                ("W", Value::Name(profile.storage(w.dtype))),
                ("Y", Value::Name(profile.storage(self.out))),
                ("QUANTISED", Value::Bool(w.dtype.is_quantised())),
                ("VEC", Value::Bool(vector)),
                ("WIDE", Value::Bool(wide)),
                ("BIAS", Value::Bool(self.bias)),
                ("ACTIVATION", Value::Name(self.activation.function())),
                ("RESIDUAL", Value::Bool(self.residual)),
                ("GATE", Value::Bool(self.gate)),
            ]
            .into_iter()
            .chain(variant.constants())
            .collect(),
            needs: Needs { f16: profile.f16 && types.contains(&DType::F16), ..variant.needs() },
        };
        let mut launch = Launch::default();
        for part in parts {
            let window = |rows: &std::ops::Range<usize>, row_bytes: u64| {
                rows.start as u64 * row_bytes..rows.end as u64 * row_bytes
            };
            let mut bindings = vec![
                Binding::input(0).window(window(&part.rows, bytes.x)),
                Binding::input(1).window(window(&part.columns, bytes.w)),
            ];
            bindings.extend(bias.map(Binding::input));
            bindings.extend(residual.map(|i| Binding::input(i).window(window(&part.rows, bytes.f32))));
            bindings.extend(gate.map(|i| match &part.gate {
                Some(rows) => Binding::input(i).window(window(rows, bytes.f32)),
                None => Binding::input(i),
            }));
            bindings.push(Binding::output().window(window(&part.rows, bytes.y)));
            let Repeat { rows: gate_rows, each } = match (&part.gate, repeat) {
                (Some(bound), Some(repeat)) => Repeat { rows: bound.len(), ..repeat },
                (_, repeat) => repeat.unwrap_or(Repeat { rows: 1, each: 1 }),
            };
            let first_row = if part.gate.is_some() { 0 } else { part.rows.start };
            let words = [
                part.rows.len(),
                part.columns.len(),
                size.depth,
                size.columns,
                part.columns.start,
                first_row,
                gate_rows,
                each,
            ];
            let params = words.iter().map(|&word| {
                u32::try_from(word).map_err(|_| format!("a dimension of {word} is more than a shader can count"))
            });
            let mut params = params.collect::<Result<Vec<_>, _>>()?;
            params.push(self.scale.to_bits());
            launch.dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings,
                params,
                groups: profile.grid(variant.groups(part.rows.len(), part.columns.len()))?,
            });
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, 2.0 * call.output.shape.count() as f64 * call.inputs[0].shape.last() as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::matmul::matmul(self, inputs)
    }
}

impl<'g> Var<'g> {
    /// residual + gate * act(self w^T + bias) for self \[..., K\] and w \[N, K\], as `nn.Linear` keeps it, of any type:
    /// scaled where its leaf is.
    #[track_caller]
    pub fn matmul(self, w: Var<'g>, epilogue: Epilogue<'g>) -> Var<'g> {
        let Epilogue { bias, activation, residual, gate, out } = epilogue;
        let kernel = Matmul {
            bias: bias.is_some(),
            activation,
            residual: residual.is_some(),
            gate: gate.is_some(),
            out: out.unwrap_or(DType::F32),
            scale: w.scale(),
        };
        let inputs: Vec<Var<'g>> = [Some(self), Some(w), bias, residual, gate].into_iter().flatten().collect();
        self.graph().apply(kernel, &inputs)
    }
}

/// `matmul` in [`ALL`](super::ALL).
pub const MATMUL: Op = Op { name: "matmul", summary: "residual + gate * act(x w^T + bias)", cases: cases::cases };
