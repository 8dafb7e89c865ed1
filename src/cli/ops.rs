//! `mutoscope ops`: the kernels, whether they are right on this device, and how fast.

use std::time::Instant;

use clap::{Args, Subcommand};
use mutoscope::gpu::{Gpu, GpuOptions};
use mutoscope::kernels::{ALL, Op};
use mutoscope::ops::{Roofline, check, perf};
use mutoscope::{Error, Result};
use serde_json::json;

use super::{EXIT_WRONG_KERNEL, Outcome, output};

/// List the kernels, check them against plain loops on this device, or measure them.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every kernel, with what it computes and its number of cases
    List {
        /// One JSON object a line: {"kernel","summary","cases","bench"}
        #[arg(long)]
        json: bool,
    },
    /// Run every kernel's cases on this device and compare them with plain loops in f64
    ///
    /// A line per kernel with its worst normalised error |y - twin| / |twin|, then the cases that failed and why. Cases that
    /// the device cannot run (f16 activations without f16 shaders) are counted as skipped. Exit code 1 when any failed.
    Test(Selection),
    /// Measure every kernel's larger cases on this device
    ///
    /// The median time of a run, GFLOP/s, GB/s (each needed byte counted once), and the share of the roofline: the time
    /// that f32 multiply-adds at their measured peak or memory at its measured rate would take at least, whichever is
    /// longer, over the time it took. Kernels on matrix units, and data that fits a cache, can pass 100%.
    Perf(Selection),
}

#[derive(Args)]
struct Selection {
    /// Only this kernel (`mutoscope ops list` has the names)
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// JSON, one object a line; the last of `ops test` is {"passed":N,"failed":N,"kernels":N}, in cases and kernels
    #[arg(long)]
    json: bool,

    /// The GPU, by its number in `mutoscope doctor` or a part of its name [default: the fastest kind]
    #[arg(long, value_name = "NAME|INDEX", allow_hyphen_values = true)]
    device: Option<String>,
}

/// Seed of the made-up inputs.
const SEED: u64 = 0;
/// Seconds for which each case is measured.
const MEASURE_SECONDS: f64 = 0.3;

/// Runs the command.
pub fn run(arguments: &Arguments) -> Outcome {
    match &arguments.command {
        Command::List { json } => list(*json),
        Command::Test(selection) => test(selection),
        Command::Perf(selection) => measure(selection),
    }
}

fn list(json: bool) -> Outcome {
    for op in ALL {
        let cases = (op.cases)();
        let bench = cases.iter().filter(|case| case.bench).count();
        let Op { name, summary, .. } = op;
        if json {
            let line = json!({"kernel": name, "summary": summary, "cases": cases.len(), "bench": bench});
            output::line(line)?;
        } else {
            output::line(format_args!("{name:<20} {:>4} cases  {summary}", cases.len()))?;
        }
    }
    Ok(0)
}

impl Selection {
    /// The kernels that are meant.
    fn kernels(&self) -> Result<Vec<&'static Op>> {
        let Some(name) = &self.name else { return Ok(ALL.iter().collect()) };
        let found: Vec<&Op> = ALL.iter().filter(|op| op.name == name.as_str()).collect();
        if found.is_empty() {
            let near = near(name);
            let tell = if near.is_empty() { String::new() } else { format!("; near it: {}", near.join(", ")) };
            let reason = format!("there is no kernel `{name}`{tell} (`mutoscope ops list` has all)");
            return Err(Error::request("NAME", reason));
        }
        Ok(found)
    }

    fn open(&self) -> Result<Gpu> {
        Gpu::open(&GpuOptions { device: self.device.clone(), checked: super::checked(), memory: None })
    }
}

/// Kernels with a name like this one.
fn near(name: &str) -> Vec<&'static str> {
    let name = name.to_lowercase();
    if let Some(op) = ALL.iter().find(|op| op.name == name) {
        return vec![op.name];
    }
    let like = |op: &&Op| {
        let part = !name.is_empty() && op.name.contains(&name);
        part || distance(op.name, &name) <= 1 + name.chars().count() / 4
    };
    ALL.iter().filter(like).map(|op| op.name).collect()
}

/// Letters to insert, delete or replace to get from one word to another (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(x != *y)).min(*cell + 1).min(left + 1);
            diagonal = std::mem::replace(cell, best);
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

fn test(selection: &Selection) -> Outcome {
    let kernels = selection.kernels()?;
    let gpu = selection.open()?;
    if !selection.json {
        output::line(format_args!("{} ({}), seed {SEED}", gpu.profile().name, gpu.driver()))?;
    }
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for op in &kernels {
        let start = Instant::now();
        let before = [passed, failed, skipped];
        let mut worst: Option<f64> = None;
        let mut failures = Vec::new();
        for case in (op.cases)() {
            if !case.runs_on(gpu.profile()) {
                skipped += 1;
                continue;
            }
            let failure = match check::run(&gpu, &case, SEED) {
                Ok(outcome) => {
                    worst = Some(worst.map_or(outcome.error, |worst| worst.max(outcome.error)));
                    outcome.failure
                }
                // Nothing else can be asked of a device that is gone; any other error is the kernel's.
                Err(error @ Error::DeviceLost(_)) => return Err(error.into()),
                Err(error) => Some(error.to_string()),
            };
            match failure {
                None => passed += 1,
                Some(failure) => {
                    failed += 1;
                    failures.push((case.label, failure));
                }
            }
        }
        let [good, bad, left_out] = [passed - before[0], failed - before[1], skipped - before[2]];
        let seconds = start.elapsed().as_secs_f64();
        if selection.json {
            // JSON has no infinity: an output that was not written at all has no error.
            let worst = worst.filter(|worst| worst.is_finite());
            output::line(json!({
                "kernel": op.name, "passed": good, "failed": bad, "skipped": left_out, "error": worst,
                "seconds": seconds,
            }))?;
            for (label, failure) in &failures {
                output::line(json!({"kernel": op.name, "case": label, "failure": failure}))?;
            }
        } else {
            let verdict = if bad > 0 { "WRONG" } else { "ok" };
            let worst = worst.map_or_else(|| "-".into(), |worst| format!("{worst:.1e}"));
            let told = if left_out > 0 { format!(", {left_out} skipped: no f16 here") } else { String::new() };
            let ran = good + bad;
            let name = op.name;
            output::line(format_args!(
                "{name:<20} {verdict:<5} {good:>4} of {ran:<4} worst {worst:>8}  {seconds:6.1} s{told}"
            ))?;
            for (label, failure) in &failures {
                output::line(format_args!("    {label}: {failure}"))?;
            }
        }
    }
    if selection.json {
        output::line(json!({"passed": passed, "failed": failed, "kernels": kernels.len()}))?;
    } else {
        let count = kernels.len();
        output::line(format_args!("{passed} cases passed, {failed} failed, {skipped} skipped; {count} kernels"))?;
    }
    if passed + failed == 0 {
        return Err(Error::request("--device", "not one case could be run on this device").into());
    }
    Ok(if failed > 0 { EXIT_WRONG_KERNEL } else { 0 })
}

fn measure(selection: &Selection) -> Outcome {
    let kernels = selection.kernels()?;
    let gpu = selection.open()?;
    let roofline = Roofline::measure(&gpu)?;
    let Roofline { flops, bytes } = roofline;
    if selection.json {
        output::line(json!({
            "device": gpu.profile().name, "driver": gpu.driver(), "peak_gflops": flops / 1e9, "peak_gbytes": bytes / 1e9,
        }))?;
    } else {
        output::line(format_args!("{} ({})", gpu.profile().name, gpu.driver()))?;
        output::line(format_args!("roofline: {:.1} GFLOP/s (f32), {:.1} GB/s\n", flops / 1e9, bytes / 1e9))?;
        let head = ["kernel and case", "time", "GFLOP/s", "GB/s", "roof"];
        let [name, time, gflops, gbytes, roof] = head;
        output::line(format_args!("{name:<56} {time:>12} {gflops:>9} {gbytes:>8} {roof:>6}"))?;
    }
    let mut measured = 0;
    for op in &kernels {
        for case in (op.cases)().iter().filter(|case| case.bench && case.runs_on(gpu.profile())) {
            let result = perf::measure(&gpu, case, MEASURE_SECONDS)?;
            measured += 1;
            let (seconds, share) = (result.seconds, roofline.share(&result));
            let (gflops, gbytes) = (result.flops_per_second() / 1e9, result.bytes_per_second() / 1e9);
            if selection.json {
                output::line(json!({
                    "kernel": op.name, "case": case.label, "shaders": result.shaders, "seconds": seconds,
                    "runs": result.runs, "gflops": gflops, "gbytes": gbytes, "roofline": share,
                }))?;
            } else {
                let name = format!("{} {}", op.name, case.label);
                let time = format!("{:.3} ms", seconds * 1e3);
                let share = share * 100.0;
                output::line(format_args!("{name:<56} {time:>12} {gflops:>9.1} {gbytes:>8.1} {share:>5.0}%"))?;
            }
        }
    }
    if measured == 0 {
        let which = selection.name.as_deref().unwrap_or("all kernels");
        output::note(format_args!("{which}: no cases to measure on this device"));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood() {
        assert_eq!(near("matmlu"), ["matmul"]);
        assert_eq!(near("MATMUL"), ["matmul"]);
        assert!(near("quicksort").is_empty() && near("").is_empty());
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
