//! Every case of every kernel against its twin, on the device at hand and under shrunken profiles.

use mutoscope::graph::{DeviceKind, DeviceProfile};
use mutoscope::kernels::ALL;
use mutoscope::ops::check;

use crate::device::gpu;

const SEED: u64 = 20_250_101;

/// Runs all cases of all kernels whose name contains `MUTOSCOPE_KERNEL` (default: all) under a profile.
fn run_all(profile: impl Fn(&DeviceProfile) -> DeviceProfile) {
    let filter = std::env::var("MUTOSCOPE_KERNEL").unwrap_or_default();
    let gpu = gpu();
    let gpu = gpu.restricted(profile(gpu.profile()));
    let (mut run, mut failures) = (0, Vec::new());
    for op in ALL.iter().filter(|op| op.name.contains(&filter)) {
        for case in (op.cases)() {
            // Restricting the profile below f16 leaves out the cases that store f16: nothing could run them.
            if !case.runs_on(gpu.profile()) {
                continue;
            }
            run += 1;
            match check::run(&gpu, &case, SEED) {
                Ok(outcome) => {
                    if let Some(failure) = outcome.failure {
                        failures.push(format!("{} {}: {failure}", op.name, case.label));
                    }
                }
                Err(error) => failures.push(format!("{} {}: {error}", op.name, case.label)),
            }
        }
    }
    println!("{run} cases, seed {SEED}, {}", gpu.profile().name);
    assert!(run > 0, "no case was run");
    assert!(failures.is_empty(), "{} of {run} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_case_on_the_device() {
    run_all(Clone::clone);
}

#[test]
fn every_case_with_webgpu_defaults() {
    run_all(DeviceProfile::shrunk);
}

#[test]
fn every_case_in_small_windows() {
    run_all(|profile| DeviceProfile { max_binding: 256 << 10, max_groups: 300, ..profile.shrunk() });
}

/// The variants that only GPUs are given, on whatever device there is.
#[test]
fn every_case_as_on_a_discrete_gpu() {
    run_all(|profile| DeviceProfile { kind: DeviceKind::Discrete, ..profile.clone() });
}
