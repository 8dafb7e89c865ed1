//! `concat` and `permute`: elements moved, not changed.
//!
//! Shaders: `shaders/pointwise/concat.wgsl`, `shaders/pointwise/permute.wgsl`. Twins:
//! [`twins::layout`].

use super::case::{Case, CaseInput, Fill, Op};
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::{DType, Shape};

/// y = a, then b, and so on, along the outermost dimension.
///
/// Inputs: two or more, \[A, ...\], \[B, ...\] and so on, of one type (f32, f16 or u32). Output: \[A + B + ..., ...\].
#[derive(Clone, Copy, Debug)]
pub struct Concat;

/// y = x with its dimensions reordered: y.shape\[i\] = x.shape\[axes\[i\]\] (NumPy's `transpose`); f32.
#[derive(Clone, Debug)]
pub struct Permute {
    /// The axes of the input in the output's order.
    pub axes: Vec<usize>,
}

impl Permute {
    /// Extents of the output's dimensions and their strides in the input, neighbours that stay together merged.
    fn merged(&self, x: Shape) -> Vec<(usize, usize)> {
        let stride = |axis: usize| x.dims()[axis + 1..].iter().product::<usize>();
        let mut dims: Vec<(usize, usize)> = Vec::new();
        for &axis in &self.axes {
            let (extent, stride) = (x[axis], stride(axis));
            match dims.last_mut() {
                _ if extent == 1 => {}
                Some(last) if last.1 == extent * stride => *last = (last.0 * extent, stride),
                _ => dims.push((extent, stride)),
            }
        }
        if dims.is_empty() {
            dims.push((1, 1));
        }
        dims
    }
}

const CONCAT_SOURCE: Source =
    Source { path: "pointwise/concat", text: include_str!("../../shaders/pointwise/concat.wgsl") };
const PERMUTE_SOURCE: Source =
    Source { path: "pointwise/permute", text: include_str!("../../shaders/pointwise/permute.wgsl") };

/// Invocations of a workgroup.
const WIDTH: usize = 64;

impl Concat {
    /// Copies the i-th input to elements `place..` of the output.
    fn copy(
        &self,
        input: usize,
        ty: &TensorType,
        place: usize,
        profile: &DeviceProfile,
    ) -> Result<Vec<Dispatch>, String> {
        let size = ty.dtype.block_bytes();
        let halves = size == 2 && place % 2 == 1;
        // What is not moved within words is copied in words: f16 in pairs, a last odd one with whatever follows it,
        // since that is either padding or written by the next operand.
        let (unit, count, place) = if halves {
            (2, ty.shape.count(), place)
        } else {
            (
                4,
                ty.shape.count() * size / 4 + usize::from(!(ty.shape.count() * size).is_multiple_of(4)),
                place * size / 4,
            )
        };
        let vec = if !halves && count % 4 == 0 && place % 4 == 0 { 4 } else { 1 };
        let constants =
            vec![("VEC", Value::Int(vec as u32)), ("HALVES", halves.into()), ("WIDTH", Value::Int(WIDTH as u32))];
        let shader =
            Shader { source: CONCAT_SOURCE, label: "concat", constants: constants.into(), needs: Needs::default() };
        // Windows of y end on aligned bytes, so that no word of 16-bit elements is shared by two of them.
        let block = profile.offset_alignment.max(16) as usize / unit;
        let most = window::room(profile) as usize / unit / block * block;
        if most == 0 {
            return Err(format!("the device binds no more than {} bytes", profile.max_binding));
        }
        let end = place + count;
        let mut dispatches = Vec::new();
        let mut start = place;
        while start < end {
            let stop = end.min((start / block * block) + most);
            let (x, x_at) = window::aligned(start - place..stop - place, unit, profile);
            let (y, y_at) = window::aligned(start..stop, unit, profile);
            let invocations = if halves { (y_at + stop - start).div_ceil(2) - y_at / 2 } else { (stop - start) / vec };
            dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings: vec![Binding::input(input).window(x), Binding::output().window(y)],
                params: [(stop - start) / vec, x_at / vec, y_at / vec].map(|n| n as u32).to_vec(),
                groups: profile.grid(invocations.div_ceil(WIDTH))?,
            });
            start = stop;
        }
        Ok(dispatches)
    }
}

impl Kernel for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [a, others @ ..] = inputs else { return Err("takes two tensors or more, not 0".into()) };
        if others.is_empty() {
            return Err("takes two tensors or more, not 1".into());
        }
        if let Some(b) =
            inputs.iter().find(|b| b.dtype != a.dtype || !matches!(b.dtype, DType::F32 | DType::F16 | DType::U32))
        {
            return Err(format!("takes tensors of one type, f32, f16 or u32, not {} and {}", a.dtype, b.dtype));
        }
        let Some((_, rest)) = a.shape.dims().split_first() else {
            return Err("scalars have no dimension to join".into());
        };
        let joins = |b: &&TensorType| {
            b.shape.dims().split_first().is_some_and(|(_, other)| other == rest) && b.shape.count() > 0
        };
        if let Some(b) = inputs.iter().find(|b| !joins(b)) {
            return Err(format!("{} and {} do not join along their first dimension", a.shape, b.shape));
        }
        let all = inputs.iter().map(|ty| ty.shape[0]).sum();
        let dims: Vec<usize> = [all].iter().chain(rest).copied().collect();
        Ok(TensorType::new(dims.as_slice(), a.dtype))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let mut dispatches = Vec::new();
        let mut place = 0;
        for (i, ty) in call.inputs.iter().enumerate() {
            dispatches.extend(self.copy(i, ty, place, profile)?);
            place += ty.shape.count();
        }
        Ok(Launch { dispatches, ..Launch::default() })
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, 0.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::layout::concat(inputs)
    }
}

impl Kernel for Permute {
    fn name(&self) -> &'static str {
        "permute"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let [x] = inputs else { return Err(format!("takes one tensor, not {}", inputs.len())) };
        let rank = x.shape.rank();
        if self.axes.len() != rank || (0..rank).any(|axis| !self.axes.contains(&axis)) {
            return Err(format!("axes {:?} do not name each dimension of {} once", self.axes, x.shape));
        }
        if x.dtype != DType::F32 || x.shape.count() == 0 {
            return Err(format!("takes an f32 tensor with elements, not {x}"));
        }
        let dims: Vec<usize> = self.axes.iter().map(|&axis| x.shape[axis]).collect();
        Ok(TensorType::f32(dims.as_slice()))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let count = call.output.shape.count();
        if count > u32::MAX as usize {
            return Err(format!("{} has more elements than shaders can count", call.output.shape));
        }
        let mut dims = self.merged(call.inputs[0].shape);
        // Vectors can be moved whole when the innermost dimension stays innermost.
        let inner = dims.last().copied().unwrap_or((1, 1));
        let vec = if inner.1 == 1 && inner.0 % 4 == 0 { 4 } else { 1 };
        let last = dims.len() - 1;
        for (d, (extent, stride)) in dims.iter_mut().enumerate() {
            if d == last {
                *extent /= vec;
            } else {
                *stride /= vec;
            }
        }
        let run = dims.last().map_or(1, |&(extent, _)| window::run(extent, profile));
        let constants = vec![
            ("RUN", Value::Int(run as u32)),
            ("RANK", Value::Int(dims.len() as u32)),
            ("VEC", Value::Int(vec as u32)),
            ("WIDTH", Value::Int(WIDTH as u32)),
        ];
        let shader =
            Shader { source: PERMUTE_SOURCE, label: self.name(), constants: constants.into(), needs: Needs::default() };
        let runs = window::rows(count / vec / run, (vec * run) as u64 * 4, profile)?;
        let windows: Vec<_> = runs.iter().map(|runs| runs.start * run..runs.end * run).collect();
        let mut launch = Launch::default();
        for y in &windows {
            for x in &windows {
                let (x_bytes, x_at) = window::aligned(x.start * vec..x.end * vec, 4, profile);
                let (y_bytes, y_at) = window::aligned(y.start * vec..y.end * vec, 4, profile);
                let sizes = [y.start, y.len(), y_at / vec, x.start, x.len(), x_at / vec];
                let dims = dims.iter().flat_map(|&(extent, stride)| [extent, stride]);
                launch.dispatches.push(Dispatch {
                    shader: shader.clone(),
                    bindings: vec![Binding::input(0).window(x_bytes), Binding::output().window(y_bytes)],
                    params: sizes.into_iter().chain(dims).map(|n| n as u32).collect(),
                    groups: profile.grid((y.len() / run).div_ceil(WIDTH))?,
                });
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, 0.0)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::layout::permute(&self.axes, &inputs[0])
    }
}

impl<'g> Var<'g> {
    /// self \[A, ...\], then the others \[B, ...\] in order, along the outermost dimension; all f32, f16 or u32.
    #[track_caller]
    pub fn concat(self, others: &[Var<'g>]) -> Var<'g> {
        self.graph().apply(Concat, &[&[self], others].concat())
    }

    /// Dimensions reordered: the result's i-th is axes\[i\] of self (NumPy's `transpose`); f32.
    #[track_caller]
    pub fn permute(self, axes: &[usize]) -> Var<'g> {
        self.graph().apply(Permute { axes: axes.to_vec() }, &[self])
    }
}

/// `concat` in [`ALL`](super::ALL).
pub const CONCAT: Op =
    Op { name: "concat", summary: "a, then b, and so on, along the outermost dimension", cases: concat_cases };
/// `permute` in [`ALL`](super::ALL).
pub const PERMUTE: Op = Op { name: "permute", summary: "dimensions reordered", cases: permute_cases };

fn concat_cases() -> Vec<Case> {
    use DType::{F16, F32, U32};
    let of = |shapes: &[&[usize]], ty: DType| {
        let fill = if ty == U32 { Fill::Below(100_000) } else { Fill::Normal(1.0) };
        let label: String = shapes.iter().map(|shape| format!("{shape:?}_")).collect();
        let inputs = shapes.iter().map(|&shape| CaseInput::normal(shape, ty).fill(fill)).collect();
        Case::new(format!("{label}{ty}"), Concat, inputs)
    };
    let case = |a: &[usize], b: &[usize], ty: DType| of(&[a, b], ty);
    vec![
        case(&[2, 12], &[3, 12], F32),
        case(&[1], &[1], F32),
        case(&[3, 5], &[2, 5], F32),
        case(&[1, 2, 3, 7], &[2, 2, 3, 7], F32),
        case(&[7], &[4], U32),
        case(&[8], &[12], U32),
        case(&[3, 8], &[2, 8], F16),
        case(&[3, 5], &[3, 5], F16),
        case(&[4, 5], &[3, 5], F16),
        case(&[1], &[4], F16),
        case(&[301, 233], &[100, 233], F32),
        case(&[17, 96], &[1031, 96], F32),
        case(&[301, 461], &[302, 461], F16),
        of(&[&[3, 5], &[1, 5], &[4, 5]], F16),
        of(&[&[1], &[1], &[1], &[1], &[1]], F32),
        of(&[&[128, 24], &[128, 24], &[44, 24]], F32),
        case(&[2, 60, 104, 96], &[1, 60, 104, 96], F32).bench(),
    ]
}

fn permute_cases() -> Vec<Case> {
    let case = |x: &[usize], axes: &[usize]| {
        let kernel = Permute { axes: axes.to_vec() };
        Case::new(format!("{x:?}_by_{axes:?}"), kernel, vec![CaseInput::normal(x, DType::F32)])
    };
    vec![
        case(&[3, 5], &[1, 0]),
        case(&[8, 12], &[1, 0]),
        case(&[7], &[0]),
        case(&[1, 1], &[1, 0]),
        case(&[2, 3, 4], &[0, 2, 1]),
        case(&[2, 3, 8], &[1, 0, 2]),
        case(&[4, 3, 5, 7], &[3, 0, 2, 1]),
        case(&[2, 5, 6, 2, 12], &[0, 3, 1, 2, 4]),
        case(&[2, 3, 4, 5, 6, 7], &[5, 3, 1, 0, 2, 4]),
        case(&[2, 3, 1, 5, 2, 4], &[3, 0, 4, 2, 1, 5]),
        case(&[16, 3, 8, 9], &[1, 2, 3, 0]),
        case(&[257, 301], &[1, 0]),
        case(&[2, 40, 30, 36], &[2, 1, 0, 3]),
        case(&[13, 18, 30, 16], &[3, 0, 1, 2]),
        case(&[1560, 1536], &[1, 0]).bench(),
        // Of a video autoencoder that doubles its frames.
        case(&[1, 60, 104, 2, 192], &[0, 3, 1, 2, 4]).bench(),
    ]
}
