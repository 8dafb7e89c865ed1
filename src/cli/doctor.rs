//! `mutoscope doctor`: what there is to run on, what will be used and why.

use std::time::Instant;

use clap::Args;
use mutoscope::gpu::{AdapterSummary, Gpu, GpuOptions, adapters, choose};
use mutoscope::graph::{DeviceKind, DeviceProfile};
use mutoscope::kernels::{ALL, Case};
use mutoscope::ops::{check, perf};
use mutoscope::pipeline::{Model, Precision};
use mutoscope::{Error, Result};
use serde_json::{Value, json};

use super::{Outcome, Stop, missing, output};

const NOTES: &str = "\
Examples:
  mutoscope doctor
  mutoscope doctor --device 1
  mutoscope doctor --json

It opens the chosen device and runs one kernel on it against plain loops on the processor. The exit code is 0 when that
works and 5 when there is no usable device.";

/// Show the GPUs of this machine, what will be used and why, and what to install when there is none.
#[derive(Args)]
#[command(after_long_help = NOTES)]
pub struct Arguments {
    /// The GPU, by its number or a part of its name [default: the fastest kind]
    #[arg(long, value_name = "NAME|INDEX", allow_hyphen_values = true)]
    device: Option<String>,

    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// What was found out about a device by opening it.
struct Opened {
    profile: DeviceProfile,
    /// Why the kernel that was tried is wrong, if it is.
    failure: Option<String>,
    tried: String,
    error: f64,
    /// Seconds from opening the device to the kernel's result.
    seconds: f64,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Outcome {
    let adapters = adapters();
    let index = match choose(&adapters, arguments.device.as_deref()) {
        Ok(index) => index,
        Err(error @ Error::NoAdapter(_)) => return no_adapter(&error, arguments.json),
        Err(error) => return Err(error.into()),
    };
    let opened = open(index)?;
    if arguments.json {
        output::line(report(arguments, &adapters, index, &opened))?;
    } else {
        describe(arguments, &adapters, index, &opened)?;
    }
    match opened.failure {
        Some(reason) => Err(Error::Kernel { kernel: opened.tried, reason }.into()),
        None => Ok(0),
    }
}

fn no_adapter(error: &Error, json: bool) -> Outcome {
    let advice = missing::advice();
    if json {
        let report = json!({"version": env!("CARGO_PKG_VERSION"), "adapters": [], "chosen": null, "advice": advice});
        output::line(report)?;
    } else {
        output::line(format_args!("mutoscope {}\n\nNo adapter was found.", env!("CARGO_PKG_VERSION")))?;
        advice.iter().try_for_each(|line| output::line(format_args!("  {line}")))?;
    }
    output::note("error: no Vulkan, Metal or DX12 adapter was found");
    Ok(error.exit_code())
}

fn open(index: usize) -> Result<Opened> {
    let start = Instant::now();
    let options = GpuOptions { device: Some(index.to_string()), checked: super::checked(), memory: None };
    let gpu = Gpu::open(&options)?;
    let (name, case) = small_case().ok_or_else(|| Error::Internal("there are no kernels".into()))?;
    let outcome = check::run(&gpu, &case, 0)?;
    Ok(Opened {
        profile: gpu.profile().clone(),
        failure: outcome.failure,
        tried: name.into(),
        error: outcome.error,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// The case to try: a matrix product, whatever the device can do.
fn small_case() -> Option<(&'static str, Case)> {
    let op = ALL.iter().find(|op| op.name == "matmul").or(ALL.first())?;
    let usable = |case: &Case| !case.bench && case.runs_on(&DeviceProfile::webgpu_floor());
    Some((op.name, (op.cases)().into_iter().find(usable)?))
}

fn kind(profile: &DeviceProfile) -> &'static str {
    match profile.kind {
        DeviceKind::Discrete => "discrete GPU",
        DeviceKind::Integrated => "integrated GPU",
        DeviceKind::Virtual => "virtual GPU",
        DeviceKind::Cpu => "software, on the processor",
        DeviceKind::Other => "unknown kind",
    }
}

fn why_chosen(arguments: &Arguments, adapters: &[AdapterSummary]) -> &'static str {
    match (&arguments.device, adapters.len()) {
        (Some(_), _) => "it is what --device names",
        (None, 1) => "it is the only one",
        (None, _) => "no other is of a faster kind; --device chooses another",
    }
}

/// What `--precision auto` means on a device, and why.
fn automatic(profile: &DeviceProfile) -> (&'static str, &'static str) {
    let name = Precision::Auto.resolve(profile).map_or("f32", |dtype| dtype.name());
    let why = match (name, profile.f16, profile.kind) {
        ("f16", ..) => "its shaders compute in f16, which halves memory and traffic",
        (_, true, DeviceKind::Cpu) => "a processor gains nothing from f16",
        (_, true, _) => "f32 is chosen for this kind of device",
        (_, false, _) => "its shaders have no f16",
    };
    (name, why)
}

/// The shaders that each kernel's measured cases (else all of its cases) take on a device.
fn variants(profile: &DeviceProfile) -> Vec<(&'static str, Vec<&'static str>)> {
    let of = |op: &mutoscope::kernels::Op| {
        let cases: Vec<Case> = (op.cases)().into_iter().filter(|case| case.runs_on(profile)).collect();
        let measured = cases.iter().any(|case| case.bench);
        let mut labels: Vec<&'static str> = Vec::new();
        for case in cases.iter().filter(|case| case.bench || !measured) {
            for label in perf::shaders(case, profile).unwrap_or_default() {
                if !labels.contains(&label) {
                    labels.push(label);
                }
            }
        }
        (op.name, labels)
    };
    ALL.iter().map(of).collect()
}

fn subgroups(profile: &DeviceProfile) -> String {
    match profile.subgroups {
        Some((least, most)) if least == most => format!("subgroups of {least}"),
        Some((least, most)) => format!("subgroups of {least} to {most}"),
        None => "no subgroups".into(),
    }
}

fn features(profile: &DeviceProfile) -> String {
    let f16 = if profile.f16 { "f16" } else { "no f16" };
    let timestamps = if profile.timestamps { "timestamps" } else { "no timestamps" };
    format!("{f16}, {}, {timestamps}", subgroups(profile))
}

fn describe(arguments: &Arguments, adapters: &[AdapterSummary], index: usize, opened: &Opened) -> Result<(), Stop> {
    output::line(format_args!("mutoscope {}\n\nAdapters", env!("CARGO_PKG_VERSION")))?;
    for (i, AdapterSummary { profile, driver }) in adapters.iter().enumerate() {
        let mark = if i == index { '*' } else { ' ' };
        output::line(format_args!("{mark} {i}: {} ({}, {})", profile.name, kind(profile), profile.backend))?;
        output::line(format_args!("     driver    {driver}"))?;
        output::line(format_args!("     features  {}", features(profile)))?;
        output::line(format_args!(
            "     limits    memory {}, binding {}, buffer {}, workgroup memory {}, {} invocations, {} storage buffers",
            profile.memory.map_or_else(|| "unknown".to_owned(), output::bytes),
            output::bytes(profile.max_binding),
            output::bytes(profile.max_buffer),
            output::bytes(u64::from(profile.max_workgroup_memory)),
            profile.max_invocations,
            profile.max_storage_buffers,
        ))?;
    }
    let profile = &opened.profile;
    let (precision, why) = automatic(profile);
    let coop = match profile.coop {
        Some(coop) => format!("{0}x{0}, f16 in, f32 out", coop.size),
        None => "none, or not to be trusted".into(),
    };
    output::line(format_args!("\nUsed: {index}: {}", profile.name))?;
    output::line(format_args!("  why         {}", why_chosen(arguments, adapters)))?;
    output::line(format_args!("  precision   auto means {precision}: {why}"))?;
    output::line(format_args!("  cooperative matrices: {coop}"))?;
    let embedded = if embedded() { "present" } else { "not in this build; generate needs --model DIR" };
    output::line(format_args!("  embedded model: {embedded}"))?;
    output::line("  kernels, with the shaders they take here:")?;
    for (kernel, labels) in variants(profile) {
        output::line(format_args!("    {kernel:<20} {}", labels.join(", ")))?;
    }
    match &opened.failure {
        None => output::line(format_args!(
            "\nIt works: {} is right to {:.0e}; opening the device and running it took {}.",
            opened.tried,
            opened.error,
            output::duration(opened.seconds),
        ))?,
        Some(_) => output::line("\nIt does not work: see the error. Update the driver, or choose another --device.")?,
    }
    if profile.kind == DeviceKind::Cpu {
        output::line("This is a software driver: right, but slow. On a machine with a GPU, install its driver:")?;
        missing::drivers().iter().try_for_each(|line| output::line(format_args!("  {line}")))?;
    }
    Ok(())
}

/// Whether the model inside the binary is there, and whole.
fn embedded() -> bool {
    Model::embedded().is_ok()
}

fn report(arguments: &Arguments, adapters: &[AdapterSummary], index: usize, opened: &Opened) -> Value {
    let adapter = |(i, AdapterSummary { profile, driver }): (usize, &AdapterSummary)| {
        json!({
            "index": i,
            "name": profile.name,
            "kind": kind(profile),
            "backend": profile.backend,
            "driver": driver,
            "f16": profile.f16,
            "subgroups": profile.subgroups.map(|(least, most)| [least, most]),
            "timestamps": profile.timestamps,
            "memory": profile.memory,
            "max_binding": profile.max_binding,
            "max_buffer": profile.max_buffer,
            "max_workgroup_memory": profile.max_workgroup_memory,
            "max_invocations": profile.max_invocations,
            "max_storage_buffers": profile.max_storage_buffers,
        })
    };
    let (precision, why) = automatic(&opened.profile);
    let variants: serde_json::Map<String, Value> =
        variants(&opened.profile).into_iter().map(|(kernel, labels)| (kernel.to_owned(), json!(labels))).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "adapters": adapters.iter().enumerate().map(adapter).collect::<Vec<_>>(),
        "chosen": {"index": index, "name": opened.profile.name, "why": why_chosen(arguments, adapters)},
        "precision": {"auto": precision, "why": why},
        "cooperative_matrices": opened.profile.coop.map(|coop| coop.size),
        "shaders": variants,
        "tried": {
            "kernel": opened.tried,
            "error": opened.error,
            "failure": opened.failure,
            "seconds": opened.seconds,
        },
        "embedded_model": embedded(),
    })
}
