//! The parts that a model is put together from, wherever each of them comes from.

use std::path::PathBuf;

use super::Defaults;
use crate::error::Result;
use crate::models::clip_vision::{ClipVision, ClipVisionConfig};
use crate::models::umt5::{Umt5, Umt5Config};
use crate::models::wan_transformer::{WanTransformer, WanTransformerConfig};
use crate::models::wan_vae::{WanVaeConfig, WanVaeDecoder};
use crate::sampling::SamplerConfig;
use crate::text::Tokenizer;
use crate::weights::{Archive, Config};

/// Everything that a model is put together from, found and opened: the tensors of every network under the names of
/// diffusers and transformers, and the settings of each. No network has been built from them yet.
pub(super) struct Parts {
    /// What the model is called.
    pub name: String,
    /// The model of Wan's that it is, if it is one.
    pub kind: Option<&'static str>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Where it comes from, as errors name it.
    pub tokenizer_path: PathBuf,
    /// UMT5.
    pub text_encoder: Part,
    /// The transformer; of two, the one for high noise.
    pub transformer: Part,
    /// The transformer for low noise.
    pub transformer_low: Option<Part>,
    /// The VAE.
    pub vae: Part,
    /// The encoder of pictures that some transformers read beside the text: CLIP, in Wan 2.1 I2V and FLF2V.
    pub image_encoder: Option<Part>,
    /// What is done to pictures before that encoder (`preprocessor_config.json`); without it, what CLIP usually asks for.
    pub image_processor: Option<Config>,
    /// The settings of the pipeline as a whole.
    pub index: Index,
    /// The sampler.
    pub sampler: SamplerConfig,
    /// What the model makes when a request leaves it open.
    pub defaults: Defaults,
    /// The texts that decide what the model computes, by the names under which the fingerprint has them.
    pub texts: Vec<(String, Vec<u8>)>,
}

/// One network's files.
pub(super) struct Part {
    /// The folder that diffusers gives it: `transformer`, `vae`...
    pub role: &'static str,
    /// Its tensors.
    pub archive: Archive,
    /// Its settings.
    pub config: Config,
    /// Where its `config.json` was wrong, in words.
    pub corrections: Vec<String>,
}

impl Part {
    /// Where its `config.json` was wrong, with its name.
    pub fn corrected(&self) -> impl Iterator<Item = String> {
        self.corrections.iter().map(|correction| format!("{}: {correction}", self.role))
    }

    /// The transformer that it is.
    pub fn transformer(&self) -> Result<WanTransformer> {
        WanTransformer::load(&self.archive, WanTransformerConfig::read(&self.config)?)
    }

    /// The text encoder that it is.
    pub fn text_encoder(&self) -> Result<Umt5> {
        Umt5::load(&self.archive, Umt5Config::read(&self.config)?)
    }

    /// The VAE's decoder that it is.
    pub fn vae(&self) -> Result<WanVaeDecoder> {
        WanVaeDecoder::load(&self.archive, WanVaeConfig::read(&self.config)?)
    }

    /// The encoder of pictures that it is.
    pub fn image_encoder(&self) -> Result<ClipVision> {
        ClipVision::load(&self.archive, ClipVisionConfig::read(&self.config)?)
    }
}

/// What `model_index.json` says beyond the names of the parts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Index {
    /// The sampler's class.
    pub scheduler: Option<String>,
    /// Whether tokens have timesteps of their own (Wan 2.2 TI2V-5B).
    pub expand_timesteps: bool,
    /// Share of the training timesteps from which on the high-noise transformer is used, in models with two.
    pub boundary: Option<f64>,
}

impl Parts {
    /// The parts with weights, in the order of the fingerprint.
    pub fn networks(&self) -> impl Iterator<Item = &Part> {
        let always = [&self.text_encoder, &self.transformer, &self.vae];
        always.into_iter().chain(&self.transformer_low).chain(&self.image_encoder)
    }
}
