//! Cases that a kernel is tested and measured on.

use std::sync::Arc;

use crate::graph::{DeviceProfile, Kernel};
use crate::tensor::{DType, Shape};

/// A kernel's entry in [`ALL`](super::ALL).
pub struct Op {
    /// The kernel's name.
    pub name: &'static str,
    /// One line: what it computes.
    pub summary: &'static str,
    /// Its cases: typical, ragged, tiny, larger than a workgroup; each element type it takes.
    pub cases: fn() -> Vec<Case>,
}

/// One use of a kernel, with inputs to be made up.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it, unique within the kernel (`1024x1024x1024_bf16_bias`).
    pub label: String,
    /// The kernel with its settings.
    pub kernel: Arc<dyn Kernel>,
    /// Its inputs.
    pub inputs: Vec<CaseInput>,
    /// How far it may be from the twin.
    pub tolerance: Tolerance,
    /// Whether `ops perf` and the benches measure it (a size that means something), besides testing it.
    pub bench: bool,
}

/// An input to be made up from a fixed seed.
#[derive(Clone, Debug)]
pub struct CaseInput {
    /// Dimensions.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// What the elements look like.
    pub fill: Fill,
    /// What they are stored divided by (fp8; 1 for every other type).
    pub scale: f32,
}

/// What made-up elements look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// Normal with this deviation; one in 64 is an outlier ten times as large, so that a lost element shows.
    Normal(f32),
    /// Uniform between two bounds.
    Uniform(f32, f32),
    /// Whole numbers below a bound (`u32` inputs).
    Below(u32),
}

/// The largest normalised L2 distance to the twin, `|y - twin| / |twin|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The bound.
    pub error: f64,
    /// Why it is not the house's 1e-5 (f32) or 2e-3 (anything f16).
    pub reason: Option<&'static str>,
}

impl Tolerance {
    /// The house's bound for kernels that compute and store in f32 (inputs may be of any type: twins see them exactly).
    pub const F32: Self = Self { error: 1e-5, reason: None };
    /// The house's bound for kernels that store f16 or multiply in f16.
    pub const F16: Self = Self { error: 2e-3, reason: None };
}

impl Case {
    /// A case under the house's tolerance for what it stores: f16 when any floating-point input that is an activation
    /// or the output is f16, else f32.
    pub fn new(label: impl Into<String>, kernel: impl Kernel + 'static, inputs: Vec<CaseInput>) -> Self {
        let types: Vec<_> = inputs.iter().map(CaseInput::ty).collect();
        let stores_f16 = kernel.infer(&types).is_ok_and(|ty| ty.dtype == DType::F16);
        let takes_f16 = inputs.first().is_some_and(|input| input.dtype == DType::F16);
        let tolerance = if stores_f16 || takes_f16 { Tolerance::F16 } else { Tolerance::F32 };
        Self { label: label.into(), kernel: Arc::new(kernel), inputs, tolerance, bench: false }
    }

    /// Whether a device of this profile can run it: activations in f16, going in or coming out, need f16 shaders.
    /// (Weights in f16 do not: they are unpacked from 32-bit words.)
    pub fn runs_on(&self, profile: &DeviceProfile) -> bool {
        let types: Vec<_> = self.inputs.iter().map(CaseInput::ty).collect();
        let stores_f16 = self.kernel.infer(&types).is_ok_and(|ty| ty.dtype == DType::F16);
        let takes_f16 = self.inputs.first().is_some_and(|input| input.dtype == DType::F16);
        profile.f16 || !(stores_f16 || takes_f16)
    }

    /// The same, also measured.
    pub fn bench(self) -> Self {
        Self { bench: true, ..self }
    }

    /// The same with a tolerance of its own, and why.
    pub fn tolerance(self, error: f64, reason: &'static str) -> Self {
        Self { tolerance: Tolerance { error, reason: Some(reason) }, ..self }
    }
}

impl CaseInput {
    /// Normal elements with a deviation of one.
    pub fn normal(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self { shape: shape.into(), dtype, fill: Fill::Normal(1.0), scale: 1.0 }
    }

    /// The same stored divided by a scale (fp8).
    pub fn scale(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// The same shape and type with other elements.
    pub fn fill(self, fill: Fill) -> Self {
        Self { fill, ..self }
    }

    /// Shape and element type.
    pub fn ty(&self) -> crate::graph::TensorType {
        crate::graph::TensorType::new(self.shape, self.dtype)
    }
}
