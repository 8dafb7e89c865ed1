//! `--model` and the options that name its parts.

use std::path::PathBuf;

use clap::Args;
use mutoscope::pipeline::ModelFiles;

/// Which model, or which files make one up.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArguments {
    /// A Wan model: a folder or a file [default: the small model inside the binary]
    ///
    /// A folder in the layout of diffusers (model_index.json, transformer/, ...) or of Wan's authors, a folder of loose files
    /// such as ComfyUI's models/, or one file, beside which the rest is looked for. Files are safetensors, GGUF or PyTorch's
    /// .pth; what they are is told from their tensors. `mutoscope inspect PATH` shows what was recognised.
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,

    #[command(flatten)]
    pub parts: PartArguments,
}

/// The parts of a model, where they are not those of the whole.
#[derive(Args)]
#[command(next_help_heading = "Model")]
pub struct PartArguments {
    /// The transformer, instead of the model's: a file or folder; of two, the one for high noise, or a folder with both
    #[arg(long, value_name = "PATH")]
    transformer: Option<PathBuf>,

    /// The transformer for low noise (Wan 2.2 A14B)
    #[arg(long, value_name = "PATH")]
    transformer_low: Option<PathBuf>,

    /// The text encoder: UMT5
    #[arg(long, value_name = "PATH")]
    text_encoder: Option<PathBuf>,

    /// The VAE
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,

    /// CLIP, of models that see pictures by it (Wan 2.1 I2V and FLF2V)
    #[arg(long, value_name = "PATH")]
    clip: Option<PathBuf>,

    /// The tokenizer: its folder, tokenizer.json or spiece.model
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

impl ModelArguments {
    /// The files that are named.
    pub fn files(&self) -> ModelFiles {
        self.parts.files(self.model.clone())
    }
}

impl PartArguments {
    /// The files that are named, with those of a whole model.
    pub fn files(&self, model: Option<PathBuf>) -> ModelFiles {
        let Self { transformer, transformer_low, text_encoder, vae, clip, tokenizer } = self;
        ModelFiles {
            model,
            text_encoder: text_encoder.clone(),
            transformer: transformer.clone(),
            transformer_low: transformer_low.clone(),
            vae: vae.clone(),
            image_encoder: clip.clone(),
            tokenizer: tokenizer.clone(),
        }
    }
}
