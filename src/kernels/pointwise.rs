//! `add`, `mul` and `activate`: one element in, one element out, the second operand repeated over rows.
//!
//! Shader: `shaders/pointwise/pointwise.wgsl`. Twin: [`twins::pointwise`].

use super::case::{Case, CaseInput, Op};
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceKind, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin,
    Value, Var,
};
use crate::tensor::DType;

/// An activation function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// The value itself.
    #[default]
    Identity,
    /// x sigmoid(x)
    Silu,
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), arXiv:1606.08415: PyTorch's `gelu(approximate="tanh")`.
    GeluTanh,
    /// 0.5 x (1 + erf(x / sqrt 2)): PyTorch's `gelu`.
    GeluErf,
    /// x sigmoid(1.702 x): the approximation of arXiv:1606.08415 that OpenAI's CLIP uses.
    QuickGelu,
}

impl Activation {
    /// The function's name in shaders (`lib/activation.wgsl`); empty for the identity.
    pub const fn function(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_tanh",
            Self::GeluErf => "gelu_erf",
            Self::QuickGelu => "quick_gelu",
        }
    }
}

/// What [`Pointwise`] does with its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PointwiseOp {
    /// act(a) + b
    Add,
    /// act(a) * b
    Mul,
    /// act(a)
    Activate,
}

/// y = act(a) op b. The elements of `b` \[R, C\] repeat over those of `a` \[..., C\]: b's count divides a's, and the
/// element i of `a` meets the element i mod count(b) of `b`. y is of type `out`.
#[derive(Clone, Copy, Debug)]
pub struct Pointwise {
    /// What is done.
    pub op: PointwiseOp,
    /// Applied to `a` first.
    pub activation: Activation,
    /// Element type of the output.
    pub out: DType,
}

const SOURCE: Source =
    Source { path: "pointwise/pointwise", text: include_str!("../../shaders/pointwise/pointwise.wgsl") };

/// Invocations of a workgroup, and vectors that each of them computes.
fn sharing(profile: &DeviceProfile) -> (usize, usize) {
    // A software driver takes its time for every workgroup and for every index that it divides: few of either.
    if profile.kind == DeviceKind::Cpu { (8, 64) } else { (64, 4) }
}

impl Kernel for Pointwise {
    fn name(&self) -> &'static str {
        match self.op {
            PointwiseOp::Add => "add",
            PointwiseOp::Mul => "mul",
            PointwiseOp::Activate => "activate",
        }
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let operands = if self.op == PointwiseOp::Activate { 1 } else { 2 };
        if inputs.len() != operands {
            return Err(format!("takes {operands} operands, not {}", inputs.len()));
        }
        if !self.out.is_float() || inputs.iter().any(|ty| !matches!(ty.dtype, DType::F32 | DType::F16)) {
            return Err("takes and gives f32 and f16".into());
        }
        let a = inputs[0].shape;
        if let Some(b) = inputs.get(1).map(|ty| ty.shape) {
            let tail = &a.dims()[a.rank().saturating_sub(b.rank())..];
            if b.count() == 0 || !a.count().is_multiple_of(b.count()) || (b.dims() != tail && b.last() != a.last()) {
                return Err(format!("{b} does not repeat over {a}"));
            }
        }
        Ok(TensorType::new(a, self.out))
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let types: Vec<DType> = call.inputs.iter().map(|ty| ty.dtype).chain([call.output.dtype]).collect();
        if types.contains(&DType::F16) && !profile.f16 {
            return Err("f16 activations need a device with f16 shaders".into());
        }
        let count = call.output.shape.count();
        let b_count = call.inputs.get(1).map_or(count, |ty| ty.shape.count());
        let vec = if count.is_multiple_of(4) && b_count.is_multiple_of(4) { 4 } else { 1 };
        let size = types.iter().map(|t| t.block_bytes()).max().unwrap_or(4);
        // A repeated b that can be bound in whole is; else every window has its own part of it, and none crosses its end.
        let b_size = call.inputs.get(1).map_or(4, |ty| ty.dtype.block_bytes());
        let whole = b_count != count && b_count as u64 * b_size as u64 <= profile.max_binding;
        let in_vectors = |elements: usize| window::rows(elements / vec, (vec * size) as u64, profile);
        let windows = if whole || b_count == count {
            in_vectors(count)?
        } else {
            let one = in_vectors(b_count)?;
            let bases = (0..count / vec).step_by(b_count / vec);
            bases.flat_map(|base| one.iter().map(move |w| base + w.start..base + w.end)).collect()
        };
        let (width, per) = sharing(profile);
        let repeat = match b_count / vec {
            _ if !whole => "same",
            vectors if vectors >= width => "step",
            _ => "mod",
        };
        let shader = Shader {
            source: SOURCE,
            label: self.name(),
            constants: [
                ("OP", Value::Name(self.name())),
                ("ACTIVATION", Value::Name(self.activation.function())),
                ("A", Value::Name(profile.storage(call.inputs[0].dtype))),
                ("B", Value::Name(call.inputs.get(1).map_or("", |ty| profile.storage(ty.dtype)))),
                ("Y", Value::Name(profile.storage(call.output.dtype))),
                ("VEC", Value::Int(vec as u32)),
                ("REPEAT", Value::Name(repeat)),
                ("WIDTH", Value::Int(width as u32)),
                ("PER_INVOCATION", Value::Int(per as u32)),
            ]
            .into(),
            needs: Needs { f16: types.contains(&DType::F16), ..Needs::default() },
        };
        let mut launch = Launch::default();
        for range in windows {
            let elements = range.start * vec..range.end * vec;
            let (a, a_at) = window::aligned(elements.clone(), call.inputs[0].dtype.block_bytes(), profile);
            let (y, y_at) = window::aligned(elements.clone(), call.output.dtype.block_bytes(), profile);
            let mut bindings = vec![Binding::input(0).window(a)];
            let (mut b_first, mut b_at) = (0, 0);
            if whole {
                b_first = elements.start % b_count / vec;
                bindings.push(Binding::input(1));
            } else if call.inputs.len() > 1 {
                let start = elements.start % b_count;
                let (b, at) = window::aligned(start..start + elements.len(), b_size, profile);
                b_at = at / vec;
                bindings.push(Binding::input(1).window(b));
            }
            bindings.push(Binding::output().window(y));
            let sizes = [range.len(), a_at / vec, y_at / vec, b_count / vec, b_first, b_at];
            launch.dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings,
                params: sizes.map(|n| n as u32).to_vec(),
                groups: profile.grid(range.len().div_ceil(width * per))?,
            });
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        let per_element = if self.activation == Activation::Identity { 1.0 } else { 10.0 };
        Cost::of(call, call.output.shape.count() as f64 * per_element)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::pointwise::pointwise(self, &inputs[0], inputs.get(1))
    }
}

impl<'g> Var<'g> {
    /// `self + other`, with `other` \[R, C\] repeated over rows; f32.
    #[track_caller]
    #[expect(clippy::should_implement_trait, reason = "operators cannot name their caller in errors")]
    pub fn add(self, other: Var<'g>) -> Var<'g> {
        let kernel = Pointwise { op: PointwiseOp::Add, activation: Activation::Identity, out: DType::F32 };
        self.graph().apply(kernel, &[self, other])
    }

    /// `self * other`, with `other` \[R, C\] repeated over rows; f32.
    #[track_caller]
    #[expect(clippy::should_implement_trait, reason = "operators cannot name their caller in errors")]
    pub fn mul(self, other: Var<'g>) -> Var<'g> {
        let kernel = Pointwise { op: PointwiseOp::Mul, activation: Activation::Identity, out: DType::F32 };
        self.graph().apply(kernel, &[self, other])
    }

    /// `self + other`, with `other` \[R, C\] repeated over rows, in the type of `self`.
    #[track_caller]
    pub fn add_as(self, other: Var<'g>) -> Var<'g> {
        let kernel = Pointwise { op: PointwiseOp::Add, activation: Activation::Identity, out: self.dtype() };
        self.graph().apply(kernel, &[self, other])
    }

    /// act(self) * other: the gated unit of arXiv:2002.05202, in the type of `self`.
    #[track_caller]
    pub fn gated(self, activation: Activation, other: Var<'g>) -> Var<'g> {
        let kernel = Pointwise { op: PointwiseOp::Mul, activation, out: self.dtype() };
        self.graph().apply(kernel, &[self, other])
    }

    /// act(self), as f32.
    #[track_caller]
    pub fn activate(self, activation: Activation) -> Var<'g> {
        let kernel = Pointwise { op: PointwiseOp::Activate, activation, out: DType::F32 };
        self.graph().apply(kernel, &[self])
    }

    /// The same values as another type (f32 or f16).
    #[track_caller]
    pub fn cast(self, out: DType) -> Var<'g> {
        if out == self.dtype() {
            return self;
        }
        let kernel = Pointwise { op: PointwiseOp::Activate, activation: Activation::Identity, out };
        self.graph().apply(kernel, &[self])
    }
}

/// `add` in [`ALL`](super::ALL).
pub const ADD: Op = Op { name: "add", summary: "act(a) + b, b repeated over rows", cases: || cases(PointwiseOp::Add) };
/// `mul` in [`ALL`](super::ALL).
pub const MUL: Op = Op { name: "mul", summary: "act(a) * b, b repeated over rows", cases: || cases(PointwiseOp::Mul) };
/// `activate` in [`ALL`](super::ALL).
pub const ACTIVATE: Op = Op { name: "activate", summary: "act(a), and casts", cases: || cases(PointwiseOp::Activate) };

fn cases(op: PointwiseOp) -> Vec<Case> {
    use Activation::{GeluErf, GeluTanh, Identity, QuickGelu, Silu};
    let mut cases = Vec::new();
    let mut case = |a: &[usize], b: &[usize], activation, ty: DType, out: DType, bench: bool| {
        let mut inputs = vec![CaseInput::normal(a, ty)];
        if op != PointwiseOp::Activate {
            inputs.push(CaseInput::normal(b, if out == DType::F16 { ty } else { DType::F32 }));
        }
        let label = format!("{a:?}_{b:?}_{activation:?}_{ty}_{out}");
        let mut case = Case::new(label, Pointwise { op, activation, out }, inputs);
        case.bench = bench;
        cases.push(case);
    };
    for activation in [Identity, Silu, GeluTanh, GeluErf, QuickGelu] {
        case(&[2, 3, 5], &[5], activation, DType::F32, DType::F32, false);
    }
    case(&[2, 5, 16], &[2, 5, 16], Identity, DType::F16, DType::F16, false);
    case(&[9, 40], &[40], QuickGelu, DType::F32, DType::F32, false);
    case(&[1], &[1], Identity, DType::F32, DType::F32, false);
    case(&[7, 52], &[7, 52], Silu, DType::F32, DType::F32, false);
    case(&[2, 9, 36], &[9, 36], Identity, DType::F32, DType::F32, false);
    case(&[300, 257], &[257], Identity, DType::F32, DType::F32, false);
    case(&[3, 64], &[64], GeluTanh, DType::F16, DType::F16, false);
    case(&[5, 33], &[33], Identity, DType::F32, DType::F16, false);
    case(&[8, 300, 60], &[300, 60], Identity, DType::F32, DType::F32, false);
    case(&[3, 77, 300], &[77, 300], Identity, DType::F32, DType::F32, false);
    case(&[2, 70_001], &[70_001], Identity, DType::F32, DType::F32, false);
    case(&[2, 264, 265], &[264, 265], Silu, DType::F32, DType::F32, false);
    case(&[611, 132], &[611, 132], Identity, DType::F32, DType::F16, false);
    case(&[1560, 1536], &[1536], Silu, DType::F32, DType::F32, true);
    case(&[1560, 1536], &[1536], Identity, DType::F32, DType::F32, true);
    cases
}
