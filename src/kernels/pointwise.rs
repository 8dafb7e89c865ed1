//! `add`, `mul` and `activate`: one element in, one element out, the second operand repeated over rows.
//!
//! Shader: `shaders/pointwise/pointwise.wgsl`. Twin: [`twins::pointwise`](super::twins::pointwise).

use super::case::{Case, CaseInput, Op};
use super::twins;
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
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
}

impl Activation {
    /// The function's name in shaders (`lib/activation.wgsl`); empty for the identity.
    pub const fn function(self) -> &'static str {
        match self {
            Self::Identity => "",
            Self::Silu => "silu",
            Self::GeluTanh => "gelu_tanh",
            Self::GeluErf => "gelu_erf",
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

/// Invocations of a workgroup, and elements that each of them computes: 16-bit elements are stored in pairs.
const WIDTH: usize = 64;
const PER_INVOCATION: usize = 4;

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
            if b.count() == 0 || a.count() % b.count() != 0 || (b.dims() != tail && b.last() != a.last()) {
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
        let b_count = call.inputs.get(1).map_or(1, |ty| ty.shape.count());
        // Windows hold whole repetitions of b when it is repeated, so that b starts at its first element in each.
        let unit = if b_count == count { 1 } else { b_count };
        let widest = types.iter().map(|t| t.size()).max().unwrap_or(4);
        let step = profile.window_rows(count / unit, (unit * widest) as u64)? * unit;
        let mut launch = Launch::default();
        for start in (0..count).step_by(step) {
            let length = step.min(count - start);
            let window =
                |ty: &TensorType| (start * ty.dtype.size()) as u64..((start + length) * ty.dtype.size()) as u64;
            let mut bindings = vec![Binding::input(0).window(window(&call.inputs[0]))];
            if let Some(b) = call.inputs.get(1) {
                let whole = Binding::input(1);
                bindings.push(if b_count == count { whole.window(window(b)) } else { whole });
            }
            bindings.push(Binding::output().window(window(&call.output)));
            launch.dispatches.push(Dispatch {
                shader: Shader {
                    source: SOURCE,
                    label: self.name(),
                    constants: vec![
                        ("OP", Value::Name(self.name())),
                        ("ACTIVATION", Value::Name(self.activation.function())),
                        ("A", Value::Name(profile.storage(call.inputs[0].dtype))),
                        ("B", Value::Name(call.inputs.get(1).map_or("", |ty| profile.storage(ty.dtype)))),
                        ("Y", Value::Name(profile.storage(call.output.dtype))),
                        ("WIDTH", Value::Int(WIDTH as u32)),
                        ("PER_INVOCATION", Value::Int(PER_INVOCATION as u32)),
                    ],
                    needs: Needs { f16: types.contains(&DType::F16), ..Needs::default() },
                },
                bindings,
                params: vec![length as u32, b_count as u32],
                groups: profile.grid(length.div_ceil(WIDTH * PER_INVOCATION))?,
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
    use Activation::{GeluErf, GeluTanh, Identity, Silu};
    let mut cases = Vec::new();
    let mut case = |a: &[usize], b: &[usize], activation, ty: DType, out: DType, bench: bool| {
        let mut inputs = vec![CaseInput::normal(a, ty)];
        if op != PointwiseOp::Activate {
            inputs.push(CaseInput::normal(b, DType::F32));
        }
        let label = format!("{a:?}_{b:?}_{activation:?}_{ty}_{out}");
        let mut case = Case::new(label, Pointwise { op, activation, out }, inputs);
        case.bench = bench;
        cases.push(case);
    };
    for activation in [Identity, Silu, GeluTanh, GeluErf] {
        case(&[2, 3, 5], &[5], activation, DType::F32, DType::F32, false);
    }
    case(&[1], &[1], Identity, DType::F32, DType::F32, false);
    case(&[7, 52], &[7, 52], Silu, DType::F32, DType::F32, false);
    case(&[2, 9, 36], &[9, 36], Identity, DType::F32, DType::F32, false);
    case(&[300, 257], &[257], Identity, DType::F32, DType::F32, false);
    case(&[3, 64], &[64], GeluTanh, DType::F16, DType::F16, false);
    case(&[5, 33], &[33], Identity, DType::F32, DType::F16, false);
    case(&[1560, 1536], &[1536], Silu, DType::F32, DType::F32, true);
    cases
}
