//! The small model inside the binary: the same Wan architecture, trained from scratch by `tools/train`.

use crate::error::Result;

/// The files of the embedded model, by their paths in a pipeline folder.
///
/// # Errors
/// When this build has none (the feature `embedded` is off).
#[cfg(feature = "embedded")]
pub fn files() -> Result<&'static [(&'static str, &'static [u8])]> {
    macro_rules! files {
        ($($path:literal),* $(,)?) => {
            &[$(($path, include_bytes!(concat!("model/", $path)))),*]
        };
    }
    Ok(files![
        "model_index.json",
        "defaults.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ])
}

/// The files of the embedded model: this build has none.
///
/// # Errors
/// Always.
#[cfg(not(feature = "embedded"))]
pub fn files() -> Result<&'static [(&'static str, &'static [u8])]> {
    let reason = "this build has no model inside (its feature `embedded` is off); give --model DIR";
    Err(crate::Error::request("--model", reason))
}
