//! Every kernel on the cases that it marks for measuring, on the device that `generate` would choose
//! (`MUTOSCOPE_DEVICE` chooses as `--device` does).
//!
//! Throughput is in elements, which are floating-point operations, for kernels that are bound by arithmetic (`Gelem/s`
//! is GFLOP/s), and in bytes read and written once for those that do none to speak of. A time is that of one run of a
//! compiled program of one kernel; runs of a sample are submitted together and waited for once.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use mutoscope::gpu::{Gpu, GpuOptions};
use mutoscope::graph::{Call, TensorType};
use mutoscope::kernels::ALL;
use mutoscope::ops::check;

const SEED: u64 = 20_250_101;

/// Below so many operations a byte, memory is what bounds a kernel.
const INTENSITY: f64 = 4.0;

fn kernels(criterion: &mut Criterion) {
    let options = GpuOptions { device: std::env::var("MUTOSCOPE_DEVICE").ok(), ..Default::default() };
    let gpu = Gpu::open(&options).unwrap_or_else(|error| panic!("benches need an adapter: {error}"));
    for op in ALL {
        let mut group = criterion.benchmark_group(op.name);
        group.sampling_mode(SamplingMode::Flat);
        for case in (op.cases)().into_iter().filter(|case| case.bench) {
            let inputs: Vec<TensorType> = case.inputs.iter().map(|input| input.ty()).collect();
            let recording = check::recording(&case).unwrap_or_else(|error| panic!("{}: {error}", case.label));
            let output = case.kernel.infer(&inputs).unwrap_or_else(|reason| panic!("{}: {reason}", case.label));
            let cost = case.kernel.cost(&Call { inputs: &inputs, output });
            let program = match gpu.compile(&recording, &[]) {
                Ok(program) => program,
                Err(error) => {
                    say(&format!("{} {} cannot run here: {error}", op.name, case.label));
                    continue;
                }
            };
            for (i, value) in check::inputs(&case, SEED).iter().enumerate() {
                program.write(&format!("x{i}"), value).unwrap_or_else(|error| panic!("{}: {error}", case.label));
            }
            let arithmetic = cost.flops > INTENSITY * cost.bytes;
            group.throughput(match arithmetic {
                true => Throughput::Elements(cost.flops as u64),
                false => Throughput::Bytes(cost.bytes as u64),
            });
            group.bench_function(&case.label, |bencher| {
                bencher.iter_custom(|runs| {
                    let one = program.time(runs as usize).unwrap_or_else(|error| panic!("{}: {error}", case.label));
                    Duration::from_secs_f64(one * runs as f64)
                });
            });
        }
        group.finish();
    }
    say(&format!("measured on {}, driver {}", gpu.profile().name, gpu.driver()));
}

#[expect(clippy::print_stderr, reason = "a bench is a program: it says what it could not measure")]
fn say(line: &str) {
    eprintln!("{line}");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
