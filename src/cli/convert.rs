//! `mutoscope convert`: weights in another type or container.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use mutoscope::pipeline::conversion_metadata;
use mutoscope::tensor::DType;
use mutoscope::weights::{Converted, conversion_type, convert, open_for_conversion};
use mutoscope::{Error, Result};
use serde_json::json;

use super::progress::Reporter;
use super::{Outcome, output};

const EXAMPLES: &str = "\
Examples:
  mutoscope convert Wan2.1-T2V-14B-Diffusers/transformer wan-14b-q4_k.gguf --type q4_k
  mutoscope convert wan2.1_t2v_1.3B_bf16.safetensors wan-fp8.safetensors --type fp8
  mutoscope convert Wan2.1-T2V-14B-Diffusers/text_encoder umt5-xxl-q8_0.gguf --type q8_0
  mutoscope convert Wan2.1_VAE.pth wan_vae.safetensors --type f32

IN is read whatever it is written in. GGUF is for transformers, in the names of Wan's authors, and for text encoders, in those
of llama.cpp and with the tokenizer inside, as ComfyUI-GGUF and stable-diffusion.cpp take them; safetensors keeps the names
that IN has, and fp8 is scaled as ComfyUI has it. Quantised become the matrices inside the blocks, and in GGUF the token table
(Q8_0); other embeddings, heads, norms, biases and modulation stay what they are.";

/// Write a network's weights in another type or container.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// A file of weights, or the folder of one network
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The new file; .gguf is GGUF, everything else safetensors. One of that name is replaced when the new one is complete
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// q8_0, q4_0 or q4_k (GGUF), fp8 (safetensors), bf16, f16 or f32
    #[arg(long = "type", value_name = "TYPE", value_parser = conversion_type)]
    to: DType,

    /// The tokenizer that a text encoder's GGUF gets: its folder, tokenizer.json or spiece.model [default: the one within IN,
    /// or beside it]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,

    /// What was done as one line of JSON
    #[arg(long)]
    json: bool,

    /// No progress, no summary: only errors
    #[arg(long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Outcome {
    let cancelled = Arc::new(AtomicBool::new(false));
    super::generate::listen(&cancelled);
    let mut reporter = Reporter::new(arguments.json, arguments.quiet);
    let done = run_with(arguments, &cancelled, &mut reporter);
    reporter.end();
    let done = done?;
    if arguments.json {
        let types =
            done.types.iter().map(|(name, (count, bytes))| (name.clone(), json!({"tensors": count, "bytes": bytes})));
        let types: serde_json::Map<String, serde_json::Value> = types.collect();
        let out = arguments.output.display().to_string();
        output::line(json!({"event": "done", "out": out, "read": done.read, "written": done.written, "types": types}))?;
    } else if !arguments.quiet {
        for (name, (count, bytes)) in &done.types {
            output::note(format_args!("{count:5} tensors of {name}, {:.1} MB", *bytes as f64 / 1e6));
        }
        for (name, count) in &done.instead {
            output::note(format_args!(
                "{count} matrices are {name} instead of {}: their rows are no whole blocks",
                arguments.to
            ));
        }
        let (read, written) = (done.read as f64 / 1e6, done.written as f64 / 1e6);
        output::note(format_args!("{}: {written:.1} MB, from {read:.1} MB", arguments.output.display()));
    }
    Ok(0)
}

fn into_gguf(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

fn run_with(arguments: &Arguments, cancelled: &AtomicBool, reporter: &mut Reporter) -> Result<Converted> {
    let archive = open_for_conversion(&arguments.input)?;
    let beside = conversion_metadata(&archive, &arguments.input, arguments.tokenizer.as_deref())?;
    if let Some(reason) = beside.without_tokenizer.filter(|_| into_gguf(&arguments.output)) {
        reporter.note(&format!("the new file has no tokenizer in it: {reason}"));
    }
    convert(&archive, &arguments.output, arguments.to, &beside.metadata, &mut |done, total| {
        if cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        reporter.bytes("convert", done, total)
    })
}
