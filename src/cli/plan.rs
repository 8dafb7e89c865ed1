//! `mutoscope plan`: what a run will take of memory and time.

use clap::Args;
use mutoscope::Error;
use mutoscope::gpu::{AdapterSummary, Gpu, Ledger, adapters, choose};
use mutoscope::graph::DeviceProfile;
use mutoscope::ops::Speeds;
use mutoscope::pipeline::{EngineOptions, Model, Phase, Plan, Request, Settings};
use serde_json::{Value, json};

use super::request::RequestArguments;
use super::{Outcome, output, speeds};

const EXAMPLES: &str = "\
Examples:
  mutoscope plan \"a cat walks on grass\" --model Wan2.1-T2V-1.3B-Diffusers
  mutoscope plan \"a cat walks on grass\" --model Wan2.1-T2V-1.3B-Diffusers --vram 4GB --measure

Nothing is computed and no weight is read: the run is rehearsed on a device that only counts. What does not fit the
budget is worked around as the run will do it: weights pass through the device in every step where they cannot stay, each
part of the model goes when it is done. When nothing makes it fit, plan says what would: exit code 6.";

/// Tell what a run would take of memory, work and time, without running it.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    request: RequestArguments,

    /// Measure how fast the device is, for a few seconds, and remember it: without it times are told only if it was
    /// measured before
    #[arg(long)]
    measure: bool,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Outcome {
    let wanted = &arguments.request;
    wanted.check()?;
    let model = wanted.model()?;
    let request = wanted.request(&model)?;
    Settings::resolve(&model, &request)?;
    let options = wanted.options();
    let mut adapters = adapters();
    let index = choose(&adapters, options.device.as_deref())?;
    let adapter = adapters.swap_remove(index);
    let memory = match (adapter.profile.memory, options.memory) {
        (Some(device), Some(budget)) => Some(budget.min(device)),
        (device, budget) => budget.or(device),
    };
    let profile = DeviceProfile { memory, ..adapter.profile.clone() };
    let plan = Plan::new(&model, &request, &profile).map_err(|error| advise(error, &model, &request, &profile))?;
    let speeds = match arguments.measure {
        // The budget is the run's, not the measurement's.
        true => {
            let gpu = Gpu::open(&EngineOptions { memory: None, ..options })?;
            Some(speeds::measure(&gpu, &adapter, plan.precision)?)
        }
        false => speeds::known(&adapter, plan.precision),
    };
    if arguments.json {
        output::line(object(&plan, &model, &adapter, memory, speeds.as_ref()))?;
    } else {
        for line in lines(&plan, &model, &adapter, memory, speeds.as_ref()) {
            output::line(line)?;
        }
    }
    Ok(0)
}

/// Adds to "it does not fit" what would.
fn advise(error: Error, model: &Model, request: &Request, profile: &DeviceProfile) -> Error {
    let Error::OutOfMemory(reason) = error else { return error };
    let mut fitting = Vec::new();
    if let Some(bytes) = Plan::least_memory(model, request, profile) {
        fitting.push(format!("--vram {}MB", bytes.div_ceil(1 << 20)));
    }
    if let Some(frames) = Plan::longest(model, request, profile) {
        fitting.push(format!("--frames {frames}"));
    }
    let advice =
        if fitting.is_empty() { String::new() } else { format!(". It would fit with {}", fitting.join(", or with ")) };
    Error::OutOfMemory(format!("{reason}{advice}"))
}

fn seconds(plan: &Plan, phase: Phase, ledger: &Ledger, speeds: Option<&Speeds>) -> Option<f64> {
    // Each step moves its own weights: what one step waits for, another cannot hide.
    let steps = plan.repeats(phase).max(1) as f64;
    speeds.map(|speeds| speeds.seconds(ledger).max(ledger.streamed as f64 / steps / speeds.upload))
}

fn lines(
    plan: &Plan,
    model: &Model,
    adapter: &AdapterSummary,
    memory: Option<u64>,
    speeds: Option<&Speeds>,
) -> Vec<String> {
    let Settings { width, height, frames, fps, steps, .. } = &plan.settings;
    let budget = memory.map_or_else(String::new, |memory| format!(", at most {}", output::bytes(memory)));
    let mut lines = vec![
        format!("{width}x{height}, {frames} frames ({:.1} s), {steps} steps", *frames as f64 / fps),
        format!("model {}, {} on {}{budget}", model.name(), plan.precision, adapter.profile.name),
        String::new(),
        format!("{:<8} {:>12} {:>16} {:>14} {:>12}", "", "GPU memory", "read anew", "work", "about"),
    ];
    let mut total = Some(0.0);
    for (phase, ledger) in &plan.phases {
        let repeats = plan.repeats(*phase);
        let each = if repeats > 1 { " a step" } else { "" };
        let streamed = match ledger.streamed / repeats.max(1) as u64 {
            0 => "-".to_owned(),
            bytes => format!("{}{each}", output::bytes(bytes)),
        };
        let time = seconds(plan, *phase, ledger, speeds);
        total = total.zip(time).map(|(total, time)| total + time);
        lines.push(format!(
            "{:<8} {:>12} {:>16} {:>14} {:>12}",
            phase.name(),
            output::bytes(ledger.peak),
            streamed,
            output::flops(ledger.flops()),
            time.map_or_else(|| "-".to_owned(), output::duration),
        ));
    }
    lines.push(String::new());
    lines.push(format!(
        "in all   {} on the GPU at most, {} of weights in files, {} on the host besides",
        output::bytes(plan.peak()),
        output::bytes(model.bytes()),
        output::bytes(plan.host_bytes()),
    ));
    if let Some(tile) = plan.settings.tile {
        lines.push(format!("VAE      on tiles of {} pixels, {} from one to the next", tile.size, tile.stride));
    }
    lines.push(match total {
        Some(total) => format!("time     about {}", output::duration(total)),
        None => "time     unknown until this device is measured once: add --measure".into(),
    });
    lines
}

fn object(plan: &Plan, model: &Model, adapter: &AdapterSummary, memory: Option<u64>, speeds: Option<&Speeds>) -> Value {
    let phases: Vec<Value> = plan
        .phases
        .iter()
        .map(|(phase, ledger)| {
            let kernels: serde_json::Map<String, Value> = ledger
                .kernels
                .iter()
                .map(|(name, tally)| {
                    let cost = json!({"uses": tally.uses, "flops": tally.cost.flops, "bytes": tally.cost.bytes});
                    ((*name).to_owned(), cost)
                })
                .collect();
            json!({
                "phase": phase.name(),
                "repeats": plan.repeats(*phase),
                "gpu_bytes": ledger.peak,
                "streamed_bytes": ledger.streamed,
                "flops": ledger.flops(),
                "seconds": seconds(plan, *phase, ledger, speeds),
                "kernels": kernels,
            })
        })
        .collect();
    let Settings { width, height, frames, fps, steps, .. } = &plan.settings;
    json!({
        "model": model.name(), "device": adapter.profile.name, "precision": plan.precision.name(),
        "width": width, "height": height, "frames": frames, "fps": fps, "steps": steps,
        "budget": memory, "gpu_bytes": plan.peak(), "host_bytes": plan.host_bytes(), "weight_bytes": model.bytes(),
        "vae_tile": plan.settings.tile.map(|tile| tile.to_string()), "phases": phases,
    })
}
