//! `embedding`: rows of a table; `sinusoid`: features of a time.
//!
//! Shaders: `shaders/embed/*.wgsl`. Twins: [`twins::embed`].

use super::case::{Case, CaseInput, Fill, Op};
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

/// y\[l\] = table\[ids\[l\]\], zeros where an id is not below V.
///
/// Inputs: ids \[L...\] (u32), table \[V, C\] (f32, f16 or bf16). Output: \[L..., C\] f32.
#[derive(Clone, Copy, Debug)]
pub struct Embedding;

/// y\[r\] = \[cos(t\[r\] w), sin(t\[r\] w)\].
///
/// Inputs: t \[R\], frequencies w \[H\] (f32). Output: \[R, 2 H\] f32.
#[derive(Clone, Copy, Debug)]
pub struct Sinusoid;

const EMBEDDING_SOURCE: Source =
    Source { path: "embed/embedding", text: include_str!("../../shaders/embed/embedding.wgsl") };
const SINUSOID_SOURCE: Source =
    Source { path: "embed/sinusoid", text: include_str!("../../shaders/embed/sinusoid.wgsl") };

/// Invocations of a workgroup.
const WIDTH: usize = 64;

impl Kernel for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [ids, table] = inputs else { return Err(format!("takes ids and a table, not {} tensors", inputs.len())) };
        if ids.dtype != DType::U32 || !table.dtype.is_float() {
            return Err("takes u32 ids and a table of f32, f16 or bf16".into());
        }
        let &[v, c] = table.shape.dims() else { return Err(format!("a table is [V, C], not {}", table.shape)) };
        if ids.shape.count() == 0 || v == 0 || c == 0 || v > u32::MAX as usize {
            return Err(format!("cannot look {} up in {}", ids.shape, table.shape));
        }
        if ids.shape.rank() == crate::tensor::MAX_RANK {
            return Err(format!("ids {} have too many dimensions", ids.shape));
        }
        let dims: Vec<usize> = ids.shape.dims().iter().copied().chain([c]).collect();
        Ok(TensorType::f32(dims.as_slice()))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let (ids, table) = (call.inputs[0], call.inputs[1]);
        let (v, c) = (table.shape[0], table.shape[1]);
        let vec = if c % 4 == 0 { 4 } else { 1 };
        let constants = vec![
            // Weights in f16 are read packed: then no device needs f16 shaders for them.
            ("TABLE", Value::Name(if table.dtype == DType::F16 { "f16p" } else { table.dtype.name() })),
            ("VEC", Value::Int(vec as u32)),
            ("UNITS", Value::Int((c / vec) as u32)),
            ("WIDTH", Value::Int(WIDTH as u32)),
        ];
        let shader = Shader {
            source: EMBEDDING_SOURCE,
            label: self.name(),
            constants: constants.into(),
            needs: Needs::default(),
        };
        let mut launch = Launch::default();
        for rows in window::rows(ids.shape.count(), c as u64 * 4, profile)? {
            let (ids_window, ids_at) = window::aligned(rows.clone(), 4, profile);
            let (y_window, y_at) = window::aligned(rows.start * c..rows.end * c, 4, profile);
            let count = rows.len() * c / vec;
            for entries in window::rows(v, (c * table.dtype.block_bytes()) as u64, profile)? {
                let elements = entries.start * c..entries.end * c;
                let (table_window, table_at) = window::aligned(elements, table.dtype.block_bytes(), profile);
                let params = [count, ids_at, y_at / vec, entries.start, entries.len(), table_at / vec, v];
                launch.dispatches.push(Dispatch {
                    shader: shader.clone(),
                    bindings: vec![
                        Binding::input(0).window(ids_window.clone()),
                        Binding::input(1).window(table_window),
                        Binding::output().window(y_window.clone()),
                    ],
                    params: params.map(|n| n as u32).to_vec(),
                    groups: profile.grid(count.div_ceil(WIDTH))?,
                });
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        let (ids, table) = (call.inputs[0], call.inputs[1]);
        let read = ids.bytes() + call.output.shape.count() as u64 * table.dtype.block_bytes() as u64;
        Cost { flops: 0.0, bytes: (read + call.output.bytes()) as f64 }
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::embed::embedding(&inputs[0], &inputs[1])
    }
}

impl Kernel for Sinusoid {
    fn name(&self) -> &'static str {
        "sinusoid"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [t, w] = inputs else { return Err(format!("takes t and frequencies, not {} tensors", inputs.len())) };
        let vectors = t.shape.rank() == 1 && w.shape.rank() == 1 && t.shape.count() > 0 && w.shape.count() > 0;
        if !vectors || t.dtype != DType::F32 || w.dtype != DType::F32 {
            return Err("takes t [R] and frequencies [H] in f32".into());
        }
        Ok(TensorType::f32([t.shape[0], 2 * w.shape[0]]))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let (rows, half) = (call.inputs[0].shape[0], call.inputs[1].shape[0]);
        let constants = vec![("HALF", Value::Int(half as u32)), ("WIDTH", Value::Int(WIDTH as u32))];
        let shader = Shader {
            source: SINUSOID_SOURCE,
            label: self.name(),
            constants: constants.into(),
            needs: Needs::default(),
        };
        let mut launch = Launch::default();
        for rows in window::rows(rows, half as u64 * 8, profile)? {
            let (t_window, t_at) = window::aligned(rows.clone(), 4, profile);
            let (y_window, y_at) = window::aligned(rows.start * 2 * half..rows.end * 2 * half, 4, profile);
            let count = rows.len() * half;
            launch.dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings: vec![
                    Binding::input(0).window(t_window),
                    Binding::input(1),
                    Binding::output().window(y_window),
                ],
                params: vec![count as u32, t_at as u32, y_at as u32, 0],
                groups: profile.grid(count.div_ceil(WIDTH))?,
            });
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * 20.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::embed::sinusoid(&inputs[0], &inputs[1])
    }
}

/// The frequencies of diffusers' `Timesteps` with `downscale_freq_shift` 0: 10000^(-i / (dim/2)) for i below dim/2, with
/// each step rounded to f32 as `get_timestep_embedding` rounds it. The exponential is the correctly rounded one; PyTorch's, in
/// its vector library, is now and then the neighbour of it (2 of 128 for dim 256).
pub fn sinusoid_frequencies(dim: usize) -> Vec<f32> {
    let half = dim / 2;
    let log_period = (-(10_000f64.ln())) as f32;
    (0..half).map(|i| f64::from(log_period * i as f32 / half as f32).exp() as f32).collect()
}

impl<'g> Var<'g> {
    /// Rows of a table: self \[L...\] (u32 ids), table \[V, C\] (f32, f16 or bf16), giving \[L..., C\] in f32. An id that
    /// is not below V gives zeros.
    #[track_caller]
    pub fn embedding(self, table: Var<'g>) -> Var<'g> {
        self.graph().apply(Embedding, &[self, table])
    }

    /// Sinusoidal features of times: self \[R\] and frequencies \[H\] in f32, giving \[R, 2 H\]: the cosines of
    /// t w, then the sines (arXiv:1706.03762; diffusers' `Timesteps` with `flip_sin_to_cos`).
    #[track_caller]
    pub fn sinusoid(self, frequencies: Var<'g>) -> Var<'g> {
        self.graph().apply(Sinusoid, &[self, frequencies])
    }
}

/// `embedding` in [`ALL`](super::ALL).
pub const EMBEDDING: Op = Op { name: "embedding", summary: "rows of a table by id", cases: embedding_cases };
/// `sinusoid` in [`ALL`](super::ALL).
pub const SINUSOID: Op = Op { name: "sinusoid", summary: "cosines and sines of times", cases: sinusoid_cases };

fn embedding_cases() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    let case = |ids: &[usize], v: usize, c: usize, below: u32, ty: DType| {
        let ids_input = CaseInput::normal(ids, DType::U32).fill(Fill::Below(below));
        let inputs = vec![ids_input, CaseInput::normal([v, c], ty)];
        Case::new(format!("{ids:?}_below_{below}_{v}x{c}_{ty}"), Embedding, inputs)
    };
    vec![
        case(&[5], 7, 12, 7, F32),
        case(&[1], 1, 2, 1, F32),
        case(&[2, 9], 11, 7, 11, F32),
        case(&[64], 32, 8, 48, F32),
        case(&[13], 10, 64, 20, BF16),
        case(&[13], 10, 63, 20, BF16),
        case(&[9], 40, 32, 40, F16),
        case(&[9], 40, 33, 57, F16),
        case(&[2, 3, 5], 32, 3, 32, BF16),
        case(&[23, 23], 32, 12, 32, F32),
        case(&[40], 3000, 65, 4000, F16),
        case(&[40], 3000, 65, 3000, BF16),
        case(&[301], 1031, 256, 1100, F32),
        case(&[512], 1000, 516, 1000, BF16).bench(),
    ]
}

fn sinusoid_cases() -> Vec<Case> {
    let case = |rows: usize, dim: usize, low: f32, high: f32| {
        let t = CaseInput::normal([rows], DType::F32).fill(Fill::Uniform(low, high));
        let w = CaseInput::normal([dim / 2], DType::F32).fill(Fill::Uniform(1e-4, 1.0));
        Case::new(format!("{rows}x{dim}_{low}_to_{high}"), Sinusoid, vec![t, w])
    };
    vec![
        case(1, 2, 1.0, 1000.0),
        case(1, 256, 999.0, 1000.0),
        case(1, 256, 0.0, 1.0),
        case(2, 256, 0.0, 1000.0),
        case(3, 6, 0.0, 1000.0),
        case(7, 34, -1000.0, 0.0),
        case(5, 64, -10.0, 10.0),
        case(65, 130, 0.0, 1000.0),
        case(100, 18, 900.0, 1100.0),
        case(1, 1026, 0.0, 1000.0),
        case(300, 256, 0.0, 1000.0),
        case(301, 222, 0.0, 4000.0),
        case(1200, 256, 0.0, 1000.0).bench(),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn frequencies_fall_from_one_by_a_constant_ratio() {
        // torch.exp(-math.log(10000) * torch.arange(4) / 4)
        let torch = [1.0, 0.1, 0.01, 0.001];
        for (ours, torch) in super::sinusoid_frequencies(8).iter().zip(torch) {
            assert!((ours / torch - 1.0f32).abs() < 1e-6, "{ours} for {torch}");
        }
        assert_eq!(super::sinusoid_frequencies(256).len(), 128);
    }
}
