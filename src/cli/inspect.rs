//! `mutoscope inspect`: what the files of a model are.

use std::path::PathBuf;

use clap::Args;
use mutoscope::pipeline::{Inspection, PartReport, RunReport};
use mutoscope::weights::layout::Network;
use mutoscope::weights::{Config, Lora};
use serde_json::{Map, Value, json};

use super::model::PartArguments;
use super::output::{bytes, line};
use super::{Outcome, Stop};

const EXAMPLES: &str = "\
Examples:
  mutoscope inspect Wan2.1-T2V-1.3B
  mutoscope inspect ComfyUI/models
  mutoscope inspect wan2.2_ti2v_5B_fp16.safetensors --tensors
  mutoscope inspect Wan2.1-T2V-1.3B --json | jq .run
  mutoscope inspect --transformer wan-Q4_K_M.gguf --text-encoder umt5.safetensors --vae wan_2.1_vae.safetensors";

/// What is said of a LoRA file, which is no part of a model.
const LORA: &str = "a LoRA, which changes a model: give it to `mutoscope generate` with --lora";

/// Show what was recognised in the files of a model, what is missing, and what it would run with
///
/// No weights are read, only names, types and shapes.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// A folder or a file, as for `generate --model` [default: the small model inside the binary]
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,

    /// List every tensor: its name here, in the file if that is another, its type, shape and size
    #[arg(long)]
    tensors: bool,

    /// All of it as one line of JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    parts: PartArguments,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Outcome {
    let mut found = Inspection::of(&arguments.parts.files(arguments.path.clone()))?;
    for (path, reason) in &mut found.others {
        if Lora::open(&*path).is_ok() {
            *reason = LORA.to_owned();
        }
    }
    if arguments.json {
        line(as_json(&found, arguments.tensors))?;
        return Ok(0);
    }
    if let ([], [(path, LORA)]) =
        (&found.parts[..], &found.others.iter().map(|(p, r)| (p, &**r)).collect::<Vec<_>>()[..])
    {
        line(format_args!("{}: {LORA}", path.display()))?;
        return Ok(0);
    }
    let kind = found.kind.map(|kind| format!(": {kind}")).unwrap_or_default();
    let complete = if found.problems.is_empty() { "complete" } else { "not complete" };
    line(format_args!("{}{kind}, {complete}, {} of weights", found.name, bytes(found.bytes())))?;
    for part in &found.parts {
        show_part(part, arguments.tensors)?;
    }
    match &found.tokenizer {
        Some(place) => line(format_args!("\ntokenizer: {}", place.display()))?,
        None => line("\ntokenizer: none")?,
    }
    for licence in &found.licences {
        line(format_args!("licence: {}", licence.display()))?;
    }
    if let Some(run) = &found.run {
        show_run(run)?;
    }
    if !found.problems.is_empty() {
        line("\nwhat is wrong:")?;
        found.problems.iter().try_for_each(|problem| line(format_args!("  {problem}")))?;
    }
    if !found.others.is_empty() {
        line("\nof no use:")?;
        let mut others = found.others.iter();
        others.try_for_each(|(path, reason)| line(format_args!("  {}: {reason}", path.display())))?;
    }
    Ok(0)
}

fn show_part(part: &PartReport, tensors: bool) -> Result<(), Stop> {
    let types = part.types();
    let total = part.bytes().max(1);
    let types: Vec<String> =
        types.iter().map(|(name, bytes)| format!("{name} {:.1} %", *bytes as f64 * 100.0 / total as f64)).collect();
    let prefix = if part.prefix.is_empty() { String::new() } else { format!(" below `{}`", part.prefix) };
    line(format_args!("\n{} ({}): {}", part.role, part.network, part.place.display()))?;
    line(format_args!(
        "  names: {}{prefix}; {} parameters in {} tensors, {}: {}",
        part.layout.name(),
        count(part.elements()),
        part.tensors.len(),
        bytes(part.bytes()),
        types.join(", ")
    ))?;
    if let Some(settings) = &part.settings {
        line(format_args!("  {}", dimensions(part.network, settings)))?;
    }
    part.corrections.iter().try_for_each(|correction| line(format_args!("  corrected: {correction}")))?;
    if tensors {
        for tensor in &part.tensors {
            let stored = if tensor.stored == tensor.name { String::new() } else { format!(" <- {}", tensor.stored) };
            let size = bytes(tensor.bytes);
            line(format_args!("    {} {} {:?} {size}{stored}", tensor.name, tensor.dtype, tensor.dims))?;
        }
        return Ok(());
    }
    for group in part.groups() {
        let (count, size) = (group.count, bytes(group.bytes));
        line(format_args!("    {:<44} {count:>5} x {:<8} {size:>11}", group.name, group.dtype))?;
    }
    Ok(())
}

fn as_json(found: &Inspection, tensors: bool) -> Value {
    let others: Vec<Value> =
        found.others.iter().map(|(path, reason)| json!({ "place": path, "reason": reason })).collect();
    json!({
        "name": found.name,
        "kind": found.kind,
        "complete": found.problems.is_empty(),
        "bytes": found.bytes(),
        "parts": found.parts.iter().map(|part| part_as_json(part, tensors)).collect::<Vec<_>>(),
        "tokenizer": found.tokenizer,
        "licences": found.licences,
        "run": found.run.as_ref().map(run_as_json),
        "problems": found.problems,
        "others": others,
    })
}

fn part_as_json(part: &PartReport, tensors: bool) -> Value {
    let types: Map<String, Value> = part.types().into_iter().map(|(name, bytes)| (name, bytes.into())).collect();
    let groups: Vec<Value> = if tensors {
        let tensor = |tensor: &mutoscope::pipeline::TensorReport| {
            json!({
                "name": tensor.name, "stored": tensor.stored, "type": tensor.dtype, "shape": tensor.dims,
                "bytes": tensor.bytes,
            })
        };
        part.tensors.iter().map(tensor).collect()
    } else {
        let groups = part.groups().into_iter();
        groups
            .map(|group| {
                json!({
                    "name": group.name, "type": group.dtype, "tensors": group.count, "parameters": group.elements,
                    "bytes": group.bytes,
                })
            })
            .collect()
    };
    json!({
        "role": part.role,
        "network": part.network.name(),
        "place": part.place,
        "names": part.layout.name(),
        "prefix": part.prefix,
        "parameters": part.elements(),
        "tensors": part.tensors.len(),
        "bytes": part.bytes(),
        "types": types,
        "settings": part.settings.clone().map(Config::into_values),
        "corrections": part.corrections,
        (if tensors { "list" } else { "groups" }): groups,
    })
}

fn run_as_json(run: &RunReport) -> Value {
    let RunReport { defaults, sampler, inputs } = run;
    json!({
        "width": defaults.width, "height": defaults.height, "frames": defaults.frames, "fps": defaults.fps,
        "steps": defaults.steps, "sampler": sampler.sampler.to_string(), "guidance": defaults.guidance,
        "guidance_low": defaults.guidance_low, "shift": sampler.shift, "shift_480p": defaults.shift_480p,
        "negative": defaults.negative, "takes": inputs,
    })
}

/// The dimensions that make a network what it is.
fn dimensions(network: Network, settings: &Config) -> String {
    let keys: &[(&str, &str)] = match network {
        Network::Transformer => &[
            ("num_layers", "blocks"),
            ("num_attention_heads", "heads"),
            ("attention_head_dim", "features each"),
            ("ffn_dim", "inside blocks"),
            ("in_channels", "channels in"),
            ("out_channels", "out"),
            ("text_dim", "of text"),
            ("image_dim", "of CLIP"),
            ("vace_in_channels", "of control"),
        ],
        Network::TextEncoder => &[
            ("num_layers", "blocks"),
            ("d_model", "features"),
            ("num_heads", "heads"),
            ("d_ff", "features inside"),
            ("vocab_size", "tokens"),
        ],
        Network::Vae => &[("z_dim", "latent channels")],
        Network::ImageEncoder => &[
            ("num_hidden_layers", "blocks"),
            ("hidden_size", "features"),
            ("num_attention_heads", "heads"),
            ("image_size", "pixels a side"),
        ],
    };
    let number = |(key, word): &(&str, &str)| Some(format!("{} {word}", settings.get::<u64>(key).ok()?));
    keys.iter().filter_map(number).collect::<Vec<_>>().join(", ")
}

fn show_run(run: &RunReport) -> Result<(), Stop> {
    let RunReport { defaults, sampler, inputs } = run;
    let low = defaults.guidance_low.map(|low| format!(" ({low} at low noise)")).unwrap_or_default();
    let small = defaults.shift_480p.map(|shift| format!(" ({shift} at 480p)")).unwrap_or_default();
    line(format_args!(
        "\nruns with: {}x{}, {} frames at {} a second, {} steps of {}, guidance {}{low}, shift {}{small}",
        defaults.width,
        defaults.height,
        defaults.frames,
        defaults.fps,
        defaults.steps,
        sampler.sampler,
        defaults.guidance,
        sampler.shift
    ))?;
    if !defaults.negative.is_empty() {
        line(format_args!("negative prompt: {}", defaults.negative))?;
    }
    line(format_args!("takes: {}", inputs.join(", ")))
}

/// A number of parameters as people say it.
fn count(number: u64) -> String {
    match number {
        0..100_000 => number.to_string(),
        100_000..1_000_000_000 => format!("{:.1} million", number as f64 / 1e6),
        _ => format!("{:.2} billion", number as f64 / 1e9),
    }
}
