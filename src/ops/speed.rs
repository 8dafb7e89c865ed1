//! How fast a device is at what models spend their time on: what estimates are made of.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::perf;
use super::roofline::traffic;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Ledger};
use crate::graph::Cost;
use crate::kernels::{self, CaseInput};
use crate::tensor::{DType, HostTensor};

/// Measured speeds of a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speeds {
    /// Floating-point operations a second of `matmul`, on its largest benchmark in the precision that runs use.
    pub matmul: f64,
    /// The same of `attention`.
    pub attention: f64,
    /// The same of `conv3d`.
    pub conv3d: f64,
    /// Bytes a second that kernels read and write.
    pub traffic: f64,
    /// Bytes a second from the host's memory to the device's.
    pub upload: f64,
}

/// Bytes of the upload that is timed.
const UPLOAD: usize = 64 << 20;

impl Speeds {
    /// Measures a device, in a few seconds.
    ///
    /// # Errors
    /// What the device reports.
    pub fn measure(gpu: &Gpu, precision: DType) -> Result<Self> {
        let flops = |kernel| Ok::<_, Error>(largest(gpu, kernel, precision)?.flops_per_second());
        Ok(Self {
            matmul: flops("matmul")?,
            attention: flops("attention")?,
            conv3d: flops("conv3d")?,
            traffic: perf::measure(gpu, &traffic(gpu.profile()), 0.4)?.bytes_per_second(),
            upload: upload(gpu)?,
        })
    }

    /// Seconds that the work of a ledger takes about: each kernel at the speed of its kind, and weights that pass through
    /// the device meanwhile. How fast a disk gives weights that the system does not hold in memory is not in it.
    pub fn seconds(&self, ledger: &Ledger) -> f64 {
        let of = |kernel: &str, cost: Cost| match kernel {
            "matmul" => (cost.flops / self.matmul).max(cost.bytes / self.traffic),
            "attention" => (cost.flops / self.attention).max(cost.bytes / self.traffic),
            "conv3d" => (cost.flops / self.conv3d).max(cost.bytes / self.traffic),
            _ => cost.bytes / self.traffic,
        };
        let work: f64 = ledger.kernels.iter().map(|(kernel, tally)| of(kernel, tally.cost)).sum();
        work.max(ledger.streamed as f64 / self.upload)
    }
}

/// The benchmark case of a kernel with the most work.
fn largest(gpu: &Gpu, kernel: &str, precision: DType) -> Result<perf::Measurement> {
    let missing = || Error::Internal(format!("{kernel} has no benchmark"));
    let op = kernels::ALL.iter().find(|op| op.name == kernel).ok_or_else(missing)?;
    let cases: Vec<kernels::Case> =
        (op.cases)().into_iter().filter(|case| case.bench && case.runs_on(gpu.profile())).collect();
    let of = |case: &kernels::Case| {
        let inputs: Vec<_> = case.inputs.iter().map(CaseInput::ty).collect();
        let output = case.kernel.infer(&inputs).ok()?;
        let exact = case.inputs.first().is_some_and(|input| input.ty().dtype == precision);
        let flops = case.kernel.cost(&crate::graph::Call { inputs: &inputs, output }).flops;
        Some((exact, flops))
    };
    let best = cases.iter().filter_map(|case| Some((of(case)?, case)));
    let best = best.max_by(|((a, x), _), ((b, y), _)| a.cmp(b).then(x.total_cmp(y)));
    let (_, case) = best.ok_or_else(missing)?;
    perf::measure(gpu, case, 0.4)
}

fn upload(gpu: &Gpu) -> Result<f64> {
    let count = UPLOAD.min(gpu.profile().max_buffer as usize) / 4;
    let tensor = HostTensor::from_u32([count], &vec![0x5a5a_5a5a; count]);
    let target = gpu.upload("upload", &tensor)?;
    let start = Instant::now();
    gpu.write(&target, &tensor)?;
    gpu.finish()?;
    Ok((count * 4) as f64 / start.elapsed().as_secs_f64().max(1e-9))
}
