//! What a device can do at best, measured: arithmetic with nothing to read, and traffic with nothing to compute.

use super::perf::{self, Measurement};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{
    Binding, Call, Cost, DeviceKind, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, Source, TensorType, Twin,
    Value,
};
use crate::kernels::pointwise::{Activation, Pointwise, PointwiseOp};
use crate::kernels::{Case, CaseInput};
use crate::tensor::DType;

/// The two roofs of a device (doi:10.1145/1498765.1498785), as measured on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofline {
    /// Floating-point operations a second: f32 multiply-adds in registers. Matrix units can do more.
    pub flops: f64,
    /// Bytes a second: two large tensors read and a third written. What fits a cache can be faster.
    pub bytes: f64,
}

impl Roofline {
    /// Measures a device, in about a second.
    ///
    /// # Errors
    /// What the device reports.
    pub fn measure(gpu: &Gpu) -> Result<Self> {
        let arithmetic = perf::measure(gpu, &arithmetic(gpu.profile()), 0.4)?;
        let traffic = perf::measure(gpu, &traffic(gpu.profile()), 0.4)?;
        Ok(Self { flops: arithmetic.flops_per_second(), bytes: traffic.bytes_per_second() })
    }

    /// Seconds that this much work takes at least.
    pub fn least_seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.flops).max(cost.bytes / self.bytes)
    }

    /// Share of the roofline that a measurement reached: 1 is as fast as can be.
    pub fn share(&self, measurement: &Measurement) -> f64 {
        self.least_seconds(measurement.cost) / measurement.seconds
    }
}

/// The case that measures arithmetic: some milliseconds on any kind of device.
pub fn arithmetic(profile: &DeviceProfile) -> Case {
    let count = if profile.kind == DeviceKind::Cpu { 1 << 14 } else { 1 << 20 };
    Case::new(format!("{count}"), Peak, vec![CaseInput::normal([count], DType::F32)]).bench()
}

/// The case that measures traffic: tensors larger than any cache.
pub fn traffic(profile: &DeviceProfile) -> Case {
    let bytes = if profile.kind == DeviceKind::Cpu { 32 << 20 } else { 128 << 20 };
    let count = bytes.min(profile.max_binding).min(profile.max_buffer) as usize / 4 / 4096 * 4096;
    let add = Pointwise { op: PointwiseOp::Add, activation: Activation::Identity, out: DType::F32 };
    let input = || CaseInput::normal([count], DType::F32);
    Case::new(format!("{count}"), add, vec![input(), input()]).bench()
}

/// Multiply-adds in registers: no operation of a model, so not among [`ALL`](crate::kernels::ALL).
#[derive(Clone, Copy, Debug)]
struct Peak;

const SOURCE: Source = Source { path: "probe/peak", text: include_str!("../../shaders/probe/peak.wgsl") };
/// Invocations of a workgroup.
const WIDTH: usize = 64;
/// Chains of vec4, and multiply-adds of each.
const CHAINS: u32 = 8;
const ROUNDS: u32 = 256;
/// c -> A c + B: near enough to the identity that c stays of its size.
const A: f32 = 0.9999;
const B: f32 = 0.0001;

impl Kernel for Peak {
    fn name(&self) -> &'static str {
        "peak"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        match inputs {
            [x] if x.dtype == DType::F32 => Ok(*x),
            _ => Err("takes one f32 tensor".into()),
        }
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let count = call.output.shape.count();
        let shader = Shader {
            source: SOURCE,
            label: self.name(),
            constants: [
                ("WIDTH", Value::Int(WIDTH as u32)),
                ("CHAINS", Value::Int(CHAINS)),
                ("ROUNDS", Value::Int(ROUNDS)),
            ]
            .into(),
            needs: Needs::default(),
        };
        Ok(Launch::from(Dispatch {
            shader,
            bindings: vec![Binding::input(0), Binding::output()],
            params: vec![count as u32, A.to_bits(), B.to_bits()],
            groups: profile.grid(count.div_ceil(WIDTH))?,
        }))
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        let per_element = f64::from(CHAINS * 4) * f64::from(ROUNDS) * 2.0;
        Cost::of(call, call.output.shape.count() as f64 * per_element)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        let chain = |x: f64| (0..ROUNDS).fold(x, |c, _| c * f64::from(A) + f64::from(B));
        let element = |x: f64| (0..CHAINS * 4).map(|lane| chain(x + f64::from(lane) * 0.25)).sum();
        inputs.iter().flat_map(|x| x.values.iter().map(|&x| element(x))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_roof_counts() {
        let roofline = Roofline { flops: 100.0, bytes: 10.0 };
        assert_eq!(roofline.least_seconds(Cost { flops: 400.0, bytes: 10.0 }), 4.0);
        assert_eq!(roofline.least_seconds(Cost { flops: 100.0, bytes: 20.0 }), 2.0);
        let cost = Cost { flops: 100.0, bytes: 20.0 };
        let measurement = Measurement { cost, seconds: 4.0, runs: 1, shaders: Vec::new() };
        assert_eq!(roofline.share(&measurement), 0.5);
    }
}
