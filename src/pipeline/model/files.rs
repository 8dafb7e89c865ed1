//! Which files a model is to be put together from.

use std::path::{Path, PathBuf};

use crate::weights::layout::Network;

/// The files of a model: a whole, and parts that are named one by one, which go before those of the whole. Each is a file
/// or a folder, in any layout that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFiles {
    /// A folder with a whole pipeline, a folder with loose files, or one file, beside which the rest is looked for.
    pub model: Option<PathBuf>,
    /// UMT5.
    pub text_encoder: Option<PathBuf>,
    /// The transformer; of two, the one for high noise, or a folder with both.
    pub transformer: Option<PathBuf>,
    /// The transformer for low noise.
    pub transformer_low: Option<PathBuf>,
    /// The VAE.
    pub vae: Option<PathBuf>,
    /// CLIP, for models that see pictures by it.
    pub image_encoder: Option<PathBuf>,
    /// The tokenizer: its folder, `tokenizer.json` or `spiece.model`.
    pub tokenizer: Option<PathBuf>,
}

impl ModelFiles {
    /// A whole model.
    pub fn new(model: impl AsRef<Path>) -> Self {
        Self { model: Some(model.as_ref().to_path_buf()), ..Self::default() }
    }

    /// Whether nothing is named, so that the model inside the binary is meant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The part that is named for a network; the low-noise transformer is not among them.
    pub(super) fn part(&self, network: Network) -> Option<&Path> {
        let path = match network {
            Network::Transformer => &self.transformer,
            Network::TextEncoder => &self.text_encoder,
            Network::Vae => &self.vae,
            Network::ImageEncoder => &self.image_encoder,
        };
        path.as_deref()
    }

    /// The path that the whole is named after.
    pub(super) fn main(&self) -> Option<&Path> {
        self.model.as_deref().or(self.transformer.as_deref()).or_else(|| self.all().next())
    }

    /// Every path that is named.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        let parts = [&self.model, &self.transformer, &self.transformer_low, &self.text_encoder, &self.vae];
        parts.into_iter().chain([&self.image_encoder, &self.tokenizer]).flatten().map(PathBuf::as_path)
    }
}

/// The option of the command line that names a network's file.
pub(super) fn option(network: Network) -> &'static str {
    match network {
        Network::Transformer => "--transformer",
        Network::TextEncoder => "--text-encoder",
        Network::Vae => "--vae",
        Network::ImageEncoder => "--clip",
    }
}
