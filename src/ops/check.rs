//! Comparing a kernel on a device with its twin.
//!
//! Every comparison is by normalised error in `f64` against the twin, with the output poisoned beforehand and fenced by
//! sentinels; a reference that is constant or tiny is refused, since anything would match it; and a negative control,
//! the same output with one element in 16 moved, must be found wrong.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Graph, Recording, Twin};
use crate::kernels::{Case, CaseInput, Fill};
use crate::tensor::{HostTensor, quant};

/// How a case fared on a device.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// |y - twin| / |twin|
    pub error: f64,
    /// `None` when it passed, else why not.
    pub failure: Option<String>,
}

/// Runs a case and compares it with the twin. The inputs follow from `seed` alone.
///
/// # Errors
/// What the device reports; a kernel that is merely wrong is an [`Outcome`].
pub fn run(gpu: &Gpu, case: &Case, seed: u64) -> Result<Outcome> {
    let inputs = inputs(case, seed);
    let recording = recording(case)?;
    let guarded = gpu
        .run_guarded(&recording, &inputs)?
        .pop()
        .ok_or_else(|| Error::Internal("a case without an output".into()))?;
    let twins: Vec<Twin> = inputs.iter().map(Twin::from).collect();
    let want = case.kernel.twin(&twins);
    let got = guarded.value.to_f64();
    let mut outcome = judge(&got, &want, case.tolerance.error);
    if !guarded.intact {
        outcome.failure.get_or_insert("wrote outside its output".into());
    }
    Ok(outcome)
}

/// A graph of the case's kernel alone.
///
/// # Errors
/// When the kernel refuses its own case.
pub fn recording(case: &Case) -> Result<Recording> {
    let graph = Graph::new();
    let inputs: Vec<_> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, input)| graph.input(&format!("x{i}"), input.shape, input.dtype))
        .collect();
    let output = graph.apply_at(case.kernel.clone(), &inputs, std::panic::Location::caller());
    graph.output("y", output);
    graph.finish()
}

/// Compares elements with the twin's, with a negative control.
pub fn judge(got: &[f64], want: &[f64], tolerance: f64) -> Outcome {
    let fail = |error, failure: String| Outcome { error, failure: Some(failure) };
    if got.len() != want.len() {
        return fail(f64::INFINITY, format!("{} elements where the twin has {}", got.len(), want.len()));
    }
    let mean = want.iter().sum::<f64>() / want.len().max(1) as f64;
    let spread = want.iter().map(|v| (v - mean).abs()).fold(0.0, f64::max);
    if want.iter().any(|v| !v.is_finite()) || (want.len() > 1 && spread < 1e-9) || want.iter().all(|v| *v == 0.0) {
        return fail(f64::INFINITY, "the twin's output is degenerate: the case proves nothing".into());
    }
    if let Some(at) = got.iter().position(|v| !v.is_finite()) {
        return fail(f64::INFINITY, format!("element {at} of {} was not written or is not finite", got.len()));
    }
    let error = distance(got, want);
    let mut moved = got.to_vec();
    let scale = want.iter().map(|v| v * v).sum::<f64>().sqrt() / (want.len() as f64).sqrt();
    moved.iter_mut().step_by(16).for_each(|v| *v += scale);
    if distance(&moved, want) <= tolerance {
        return fail(error, format!("the tolerance {tolerance:e} cannot tell a wrong output from a right one"));
    }
    if error > tolerance {
        let worst = (0..got.len()).max_by(|&a, &b| (got[a] - want[a]).abs().total_cmp(&(got[b] - want[b]).abs()));
        let at = worst.unwrap_or(0);
        let reason = format!("error {error:.2e} > {tolerance:.0e}; worst element {at}: {} for {}", got[at], want[at]);
        return fail(error, reason);
    }
    Outcome { error, failure: None }
}

/// |a - b| / |b|
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let norm: f64 = b.iter().map(|b| b.powi(2)).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

/// The made-up inputs of a case.
pub fn inputs(case: &Case, seed: u64) -> Vec<HostTensor> {
    let mut random = Random(seed ^ 0x6d75_746f);
    case.inputs.iter().map(|input| made_up(input, &mut random)).collect()
}

fn made_up(input: &CaseInput, random: &mut Random) -> HostTensor {
    let count = input.shape.count();
    match input.fill {
        Fill::Below(bound) => {
            let values: Vec<u32> = (0..count).map(|_| (random.next() % u64::from(bound.max(1))) as u32).collect();
            HostTensor::from_u32(input.shape, &values)
        }
        Fill::Uniform(low, high) => {
            let values: Vec<f32> = (0..count).map(|_| low + (high - low) * random.uniform() as f32).collect();
            stored(&values, input)
        }
        Fill::Normal(deviation) if input.dtype.block_elements() > 1 => {
            blocks(input, deviation, random).unwrap_or_else(|| HostTensor::from_f32(input.shape, &vec![0.0; count]))
        }
        Fill::Normal(deviation) => {
            let mut draw = || {
                let outlier = if random.next().is_multiple_of(64) { 10.0 } else { 1.0 };
                deviation * outlier * random.normal() as f32
            };
            let values: Vec<f32> = (0..count).map(|_| draw()).collect();
            stored(&values, input)
        }
    }
}

/// Random bits as blocks of a GGUF type, so that every scale and every bit occurs, whose halves are such that values
/// have about a deviation; one block in 16 is larger.
fn blocks(input: &CaseInput, deviation: f32, random: &mut Random) -> Option<HostTensor> {
    let (elements, size) = (input.dtype.block_elements(), input.dtype.block_bytes());
    let mut bytes = Vec::new();
    for _ in 0..input.shape.count() / elements {
        let mut block: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        let mut set = |factor: &mut dyn FnMut() -> f32| {
            for &at in quant::halves(input.dtype) {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(factor()).to_le_bytes());
            }
            HostTensor::from_bytes([elements], input.dtype, block.clone().into())
        };
        let values = set(&mut || 1.0)?.to_f64();
        let norm = (values.iter().map(|v| v * v).sum::<f64>() / elements as f64).sqrt();
        let unit = deviation / norm as f32 * if random.next().is_multiple_of(16) { 5.0 } else { 1.0 };
        set(&mut || unit * (random.uniform() as f32 - 0.5).signum() * (0.5 + random.uniform() as f32))?;
        bytes.extend(block);
    }
    HostTensor::from_bytes(input.shape, input.dtype, bytes.into())
}

/// Values of a case in the type and under the scale that it asks for.
fn stored(values: &[f32], input: &CaseInput) -> HostTensor {
    let tensor = HostTensor::from_f32(input.shape, values);
    if !input.dtype.is_fp8() {
        return tensor.cast(input.dtype);
    }
    let scaled: Vec<f32> = values.iter().map(|value| value / input.scale).collect();
    let scaled = HostTensor::from_f32(input.shape, &scaled).quantise(input.dtype);
    scaled.ok().and_then(|scaled| scaled.with_scale(input.scale)).unwrap_or(tensor)
}

/// splitmix64: small, fixed, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_outputs_are_found() {
        let want: Vec<f64> = (0..100).map(|i| (f64::from(i) * 0.7).sin()).collect();
        assert!(judge(&want, &want, 1e-5).failure.is_none());
        let mut one = want.clone();
        one[37] += 0.01;
        assert!(judge(&one, &want, 1e-5).failure.is_some(), "one element of a hundred");
        one[37] = f64::NAN;
        assert!(judge(&one, &want, 1e-5).failure.is_some(), "a poisoned element");
        assert!(judge(&[0.0; 9], &[0.0; 9], 1e-5).failure.is_some(), "a degenerate reference");
        assert!(judge(&want, &want, 10.0).failure.is_some(), "a tolerance that lets everything pass");
    }
}
