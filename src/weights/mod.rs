//! Model files: tensors by name, read lazily from mapped files and checked before anyone trusts them.
//!
//! [`TensorFile`] is one file, whatever it is written in (safetensors, GGUF, PyTorch's), [`Archive`] all files of one
//! model part, [`Scope`] the dotted-name cursor that a model's constructor reads from, [`Config`] the JSON beside it. [`Fingerprint`] names the exact content for the
//! recipe of a video. Everything that comes from a file is untrusted: it is either read in full or refused with the
//! file, the tensor and the reason.

mod archive;
mod config;
mod convert;
mod delta;
mod file;
mod fingerprint;
mod folder;
mod gguf;
pub mod layout;
mod lora;
mod reader;
mod safetensors;
mod save;
mod scope;
mod torch;
mod value;

#[cfg(test)]
mod hostile;

pub use archive::{Archive, Source};
pub use config::Config;
pub use convert::{Converted, conversion_type, convert, open_for_conversion};
pub use file::{Container, RawTensor, TensorFile};
pub use fingerprint::Fingerprint;
pub use gguf::Metadata;
pub use lora::{Adapted, Lora};
pub use save::{load_tensor, save_checkpoint, save_safetensors};
pub use scope::Scope;
pub use value::Value;

/// `text` cut to a length that fits a message, with control characters (which could steer a terminal) replaced.
fn clip(text: &str) -> String {
    const LONGEST: usize = 160;
    let mut out: String = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

/// "`a`, `b`, `c` and 4 more" for messages.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let mut out = String::new();
    let mut rest = 0;
    for (i, name) in names.into_iter().enumerate() {
        if i >= SHOWN {
            rest += 1;
            continue;
        }
        if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&format!("`{}`", clip(name)));
    }
    if rest > 0 {
        out.push_str(&format!(" and {rest} more"));
    }
    out
}
