//! How fast a kernel is on a device.

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::{Call, Cost, DeviceProfile};
use crate::kernels::{Case, CaseInput};
use crate::ops::check;

/// How fast a case was.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Its least work and traffic.
    pub cost: Cost,
    /// Median seconds of one run.
    pub seconds: f64,
    /// How many runs there were, warm-up aside.
    pub runs: usize,
    /// The shaders that it took, by their labels, in order.
    pub shaders: Vec<&'static str>,
}

impl Measurement {
    /// Floating-point operations a second.
    pub fn flops_per_second(&self) -> f64 {
        self.cost.flops / self.seconds
    }

    /// Bytes a second, each needed byte counted once.
    pub fn bytes_per_second(&self) -> f64 {
        self.cost.bytes / self.seconds
    }
}

/// A sample lasts at least this long: that a run is over is noticed up to 2 ms late.
const SAMPLE_SECONDS: f64 = 0.1;
/// The fewest samples to take a median of.
const LEAST_SAMPLES: usize = 3;
/// The most runs in a sample.
const MOST_REPEATS: usize = 10_000;

/// Compiles a case, warms up, and runs it again and again for about `seconds`, at least three times.
///
/// # Errors
/// What the device reports.
pub fn measure(gpu: &Gpu, case: &Case, seconds: f64) -> Result<Measurement> {
    let recording = check::recording(case)?;
    let program = gpu.compile(&recording, &[])?;
    for ((name, _), value) in recording.inputs().zip(check::inputs(case, 0)) {
        program.write(name, &value)?;
    }
    // The first run touches memory for the first time and corrects the estimate of what one submission may hold.
    program.run(&mut |_| Ok(()))?;
    let mut repeats = 1;
    let mut sample = program.time(repeats)?;
    while sample * (repeats as f64) < SAMPLE_SECONDS && repeats < MOST_REPEATS {
        // Not at once: the time of a few short runs is mostly that of noticing their end.
        let more = (1.5 * SAMPLE_SECONDS / (sample * repeats as f64).max(1e-9)).clamp(2.0, 16.0);
        repeats = (repeats * more.ceil() as usize).min(MOST_REPEATS);
        sample = program.time(repeats)?;
    }
    let mut samples = vec![sample];
    let mut spent = sample * repeats as f64;
    while samples.len() < LEAST_SAMPLES || spent < seconds {
        let sample = program.time(repeats)?;
        spent += sample * repeats as f64;
        samples.push(sample);
    }
    samples.sort_by(f64::total_cmp);
    let median = samples.get(samples.len() / 2).copied().unwrap_or(sample);
    let cost = with_call(case, |call| Ok(case.kernel.cost(call)))?;
    Ok(Measurement {
        cost,
        seconds: median.max(1e-9),
        runs: samples.len() * repeats,
        shaders: shaders(case, gpu.profile())?,
    })
}

/// The shaders that a case takes on a device of this profile, by their labels, each once, in order.
///
/// # Errors
/// When the kernel refuses its case on such a device.
pub fn shaders(case: &Case, profile: &DeviceProfile) -> Result<Vec<&'static str>> {
    let launch = with_call(case, |call| case.kernel.launch(call, profile))?;
    let mut labels: Vec<&'static str> = Vec::new();
    for dispatch in &launch.dispatches {
        if !labels.contains(&dispatch.shader.label) {
            labels.push(dispatch.shader.label);
        }
    }
    Ok(labels)
}

fn with_call<T>(case: &Case, use_call: impl FnOnce(&Call<'_>) -> Result<T, String>) -> Result<T> {
    let kernel = case.kernel.name();
    let failed = |reason: String| Error::Kernel { kernel: kernel.into(), reason };
    let inputs: Vec<_> = case.inputs.iter().map(CaseInput::ty).collect();
    let output = case.kernel.infer(&inputs).map_err(failed)?;
    use_call(&Call { inputs: &inputs, output }).map_err(failed)
}
