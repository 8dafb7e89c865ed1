//! `linear_combination`: the sampler's arithmetic.
//!
//! Shader: `shaders/pointwise/linear_combination.wgsl`. Twin: [`twins::combine`].

use super::case::{Case, CaseInput, Op};
use super::{twins, window};
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

/// y = sum over i of coefficients\[i\] x_i. Terms whose coefficient is zero are left out, whatever they hold.
///
/// Inputs: one to six terms of one shape, then the coefficients, one each; all f32.
#[derive(Clone, Copy, Debug)]
pub struct LinearCombination;

const SOURCE: Source = Source {
    path: "pointwise/linear_combination",
    text: include_str!("../../shaders/pointwise/linear_combination.wgsl"),
};

/// Invocations of a workgroup.
const WIDTH: usize = 64;
/// With the coefficients and the output, as many storage buffers as every device can bind.
const MOST_TERMS: usize = 6;

impl Kernel for LinearCombination {
    fn name(&self) -> &'static str {
        "linear_combination"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let Some((coefficients, terms)) = inputs.split_last() else {
            return Err("takes terms and coefficients".into());
        };
        if terms.is_empty() || terms.len() > MOST_TERMS {
            return Err(format!("takes 1 to {MOST_TERMS} terms, not {}", terms.len()));
        }
        if inputs.iter().any(|ty| ty.dtype != DType::F32) || coefficients.shape.count() != terms.len() {
            return Err(format!("takes f32 terms and one f32 coefficient for each of {}", terms.len()));
        }
        if terms[0].shape.count() == 0 || terms.iter().any(|ty| ty != &terms[0]) {
            return Err("the terms must have one shape".into());
        }
        Ok(terms[0])
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let count = call.output.shape.count();
        let terms = call.inputs.len() - 1;
        let vec = if count.is_multiple_of(4) { 4 } else { 1 };
        let constants = vec![
            ("TERMS", Value::Int(terms as u32)),
            ("VEC", Value::Int(vec as u32)),
            ("WIDTH", Value::Int(WIDTH as u32)),
        ];
        let shader =
            Shader { source: SOURCE, label: self.name(), constants: constants.into(), needs: Needs::default() };
        // Elements that make whole aligned windows.
        let block = (profile.offset_alignment as usize / 4).max(4);
        let most = window::room(profile) as usize / 4 / block * block;
        if most == 0 {
            return Err(format!("the device binds no more than {} bytes", profile.max_binding));
        }
        let mut launch = Launch::default();
        for start in (0..count).step_by(most) {
            let length = most.min(count - start);
            let (bytes, _) = window::aligned(start..start + length, 4, profile);
            let mut bindings: Vec<_> = (0..terms).map(|i| Binding::input(i).window(bytes.clone())).collect();
            bindings.push(Binding::input(terms));
            bindings.push(Binding::output().window(bytes));
            launch.dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings,
                params: vec![(length / vec) as u32],
                groups: profile.grid((length / vec).div_ceil(WIDTH))?,
            });
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        Cost::of(call, call.output.shape.count() as f64 * 2.0 * (call.inputs.len() - 1) as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::combine::linear_combination(inputs)
    }
}

impl<'g> Var<'g> {
    /// The sum of coefficients\[i\] * terms\[i\], for one to six terms of one shape; all f32. Terms whose coefficient is
    /// exactly zero are left out, whatever they hold.
    #[track_caller]
    pub fn linear_combination(terms: &[Var<'g>], coefficients: Var<'g>) -> Var<'g> {
        let inputs: Vec<Var<'g>> = terms.iter().copied().chain([coefficients]).collect();
        coefficients.graph().apply(LinearCombination, &inputs)
    }
}

/// `linear_combination` in [`ALL`](super::ALL).
pub const LINEAR_COMBINATION: Op =
    Op { name: "linear_combination", summary: "sum of c[i] x_i: the sampler's arithmetic", cases };

fn cases() -> Vec<Case> {
    let case = |shape: &[usize], terms: usize| {
        let mut inputs = vec![CaseInput::normal(shape, DType::F32); terms];
        inputs.push(CaseInput::normal([terms], DType::F32));
        Case::new(format!("{shape:?}_{terms}_terms"), LinearCombination, inputs)
    };
    vec![
        case(&[1], 1),
        case(&[4], 1),
        case(&[3, 5], 2),
        case(&[2, 3, 4], 2),
        case(&[67], 3),
        case(&[68], 3),
        case(&[16, 3, 7, 9], 4),
        case(&[16, 2, 8, 8], 5),
        case(&[7, 11, 13], 6),
        case(&[129, 65], 6),
        case(&[300, 257], 3),
        case(&[16, 5, 30, 52], 4),
        case(&[16, 21, 60, 104], 4).bench(),
    ]
}
