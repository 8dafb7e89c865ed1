//! A model: networks, tokenizer and settings, put together from parts wherever they come from.

mod candidate;
mod conversion;
mod defaults;
mod files;
mod inspect;
mod inventory;
mod kind;
mod lora;
mod parts;
mod pipeline;
mod scan;
mod vocabulary;

use std::path::Path;
use std::sync::OnceLock;

pub use conversion::{Beside, conversion_metadata};
pub use defaults::Defaults;
pub use files::ModelFiles;
pub use inspect::{Inspection, PartReport, RunReport, TensorGroup, TensorReport};
use inventory::Inventory;
pub use lora::{Experts, LoraFile};
use parts::{Part, Parts};

use super::Conditioning;
use super::clip::ImageEncoder;
use crate::error::{Error, Result};
use crate::media::UsedLora;
use crate::models::umt5::Umt5;
use crate::models::wan_transformer::WanTransformer;
use crate::models::wan_vae::{WanVaeDecoder, WanVaeEncoder};
use crate::sampling::SamplerConfig;
use crate::text::Tokenizer;
use crate::weights::{Archive, Fingerprint};

/// A text-to-video model on the host: weights mapped, nothing on a device yet. It can be shared by many requests.
pub struct Model {
    name: String,
    pub(super) tokenizer: Tokenizer,
    pub(super) text_encoder: Umt5,
    pub(super) transformer: WanTransformer,
    /// The low-noise expert of models with two.
    pub(super) transformer_low: Option<Expert>,
    pub(super) vae: WanVaeDecoder,
    /// Of models whose transformer sees pictures by CLIP.
    pub(super) image_encoder: Option<ImageEncoder>,
    /// Read when it is first needed: most runs do without.
    vae_encoder: OnceLock<WanVaeEncoder>,
    conditioning: Conditioning,
    sampler: SamplerConfig,
    defaults: Defaults,
    archives: Vec<(&'static str, Archive)>,
    texts: Vec<(String, Vec<u8>)>,
    corrections: Vec<String>,
    loras: Vec<UsedLora>,
    unused_by_loras: Vec<String>,
    hash: OnceLock<String>,
}

/// A second transformer, for timesteps below a boundary.
pub(super) struct Expert {
    pub transformer: WanTransformer,
    /// Share of the training timesteps from which on the first transformer is used.
    pub boundary: f64,
}

impl Model {
    /// Opens a model: a folder in the diffusers layout, one of its authors', one with loose files, or a single file, beside
    /// which the rest is looked for (see [`ModelFiles`] for naming parts).
    ///
    /// # Errors
    /// As for [`Model::open_files`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_files(&ModelFiles::new(path))
    }

    /// Opens a model from the files that are named; the model inside the binary when none is.
    ///
    /// # Errors
    /// When a part is missing, broken, of another kind of model or there more than once: with what was found, what is
    /// missing, and the option of the command line that gives it.
    pub fn open_files(files: &ModelFiles) -> Result<Self> {
        match files.is_empty() {
            true => Self::embedded(),
            false => Self::load(Inventory::of(files)?.parts()?),
        }
    }

    /// The small model inside the binary.
    ///
    /// # Errors
    /// When this build has none (the feature `embedded` is off).
    pub fn embedded() -> Result<Self> {
        Self::load(Inventory::embedded()?.parts()?)
    }

    fn load(parts: Parts) -> Result<Self> {
        let text_encoder = parts.text_encoder.text_encoder()?;
        let transformer = parts.transformer.transformer()?;
        let vae = parts.vae.vae()?;
        // A patch of several latent frames would have to be known in part.
        let conditioning = if transformer.control_channels().is_some() {
            Conditioning::Control
        } else if parts.index.expand_timesteps && transformer.patch()[0] == 1 {
            Conditioning::Timesteps
        } else if transformer.in_channels() > transformer.out_channels() {
            Conditioning::Channels
        } else {
            Conditioning::None
        };
        let transformer_low = match (&parts.transformer_low, parts.index.boundary) {
            (Some(part), Some(boundary)) => Some(Expert { transformer: part.transformer()?, boundary }),
            _ => None,
        };
        if conditioning == Conditioning::Control && transformer.sees_pictures() {
            let reason = "it reads a control video, and pictures by CLIP beside: no pipeline knows how to give it both";
            return Err(Error::model(parts.transformer.archive.path(), reason));
        }
        let image_encoder = image_encoder(&parts, &transformer)?;
        let model = Self {
            corrections: parts.networks().flat_map(Part::corrected).collect(),
            archives: parts.networks().map(|part| (part.role, part.archive.clone())).collect(),
            name: parts.name,
            tokenizer: parts.tokenizer,
            text_encoder,
            transformer,
            transformer_low,
            vae,
            image_encoder,
            vae_encoder: OnceLock::new(),
            conditioning,
            sampler: parts.sampler,
            defaults: parts.defaults,
            texts: parts.texts,
            loras: Vec::new(),
            unused_by_loras: Vec::new(),
            hash: OnceLock::new(),
        };
        model.check_fit(&parts.tokenizer_path, parts.transformer.archive.path())?;
        Ok(model)
    }

    /// Whether the parts fit each other.
    fn check_fit(&self, tokenizer: &Path, path: &Path) -> Result<()> {
        let transformers = [Some(&self.transformer), self.transformer_low.as_ref().map(|low| &low.transformer)];
        for transformer in transformers.into_iter().flatten() {
            let (takes, gives) = (transformer.in_channels(), transformer.out_channels());
            let (z, masks) = (self.vae.channels(), self.vae.temporal_factor());
            let further = if self.conditioning == Conditioning::Channels { masks + z } else { 0 };
            if takes != z + further || gives != z {
                let reason = format!(
                    "it takes {takes} channels and gives {gives}, and the VAE has {z}: with this VAE, a transformer takes \
                     {z}, or {} with a picture, and gives {z}",
                    2 * z + masks
                );
                return Err(Error::model(path, reason));
            }
            let unit = self.pixels_per_latent();
            let control = (self.conditioning == Conditioning::Control).then_some(2 * z + unit * unit);
            if transformer.control_channels() != control
                || transformer.control_depth() != self.transformer.control_depth()
            {
                let reason = format!(
                    "it reads a control video of {} channels in {} blocks, and with this VAE it would be {}, in as many blocks \
                     of both transformers, if there are two",
                    transformer.control_channels().unwrap_or(0),
                    transformer.control_depth(),
                    2 * z + unit * unit,
                );
                return Err(Error::model(path, reason));
            }
            if transformer.image_dim() != self.transformer.image_dim() {
                return Err(Error::model(path, "its two transformers do not see pictures alike"));
            }
            if transformer.text_dim() != self.text_encoder.dim() {
                let reason = format!(
                    "it takes text of {} features, the text encoder gives {}",
                    transformer.text_dim(),
                    self.text_encoder.dim()
                );
                return Err(Error::model(path, reason));
            }
        }
        if self.tokenizer.vocabulary() > self.text_encoder.vocabulary() {
            let reason = format!(
                "it has {} tokens, the text encoder knows {}",
                self.tokenizer.vocabulary(),
                self.text_encoder.vocabulary()
            );
            return Err(Error::model(tokenizer, reason));
        }
        Ok(())
    }

    /// The folder's name, or `embedded`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it makes when a request leaves it open.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Where its `config.json` files say what its tensors belie, in words; the tensors are followed.
    pub fn corrections(&self) -> &[String] {
        &self.corrections
    }

    /// The sampler of its scheduler config.
    pub fn sampler(&self) -> &SamplerConfig {
        &self.sampler
    }

    /// Whether it has a second transformer for low noise.
    pub fn has_two_experts(&self) -> bool {
        self.transformer_low.is_some()
    }

    /// Whether it wants a picture to begin with and another to end with (Wan 2.1 FLF2V).
    pub fn takes_both_ends(&self) -> bool {
        self.image_encoder.as_ref().is_some_and(|encoder| encoder.sees_both_ends)
    }

    /// How many blocks read a control video (VACE); none in models that do not.
    pub fn control_depth(&self) -> usize {
        self.transformer.control_depth()
    }

    /// How it is told of frames that are known beforehand: a picture to begin with, a video to go on from.
    pub fn conditioning(&self) -> Conditioning {
        self.conditioning
    }

    /// The VAE's encoder.
    pub(super) fn vae_encoder(&self) -> Result<&WanVaeEncoder> {
        if let Some(encoder) = self.vae_encoder.get() {
            return Ok(encoder);
        }
        let archive = self.archives.iter().find(|(name, _)| *name == "vae").map(|(_, archive)| archive);
        let archive = archive.ok_or_else(|| Error::Internal("a model without a VAE".into()))?;
        let encoder = WanVaeEncoder::load(archive, self.vae.config().clone())?;
        Ok(self.vae_encoder.get_or_init(|| encoder))
    }

    /// A name for the exact content of the model (see [`Fingerprint`]); computed at the first call, which reads all of it.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let with_texts = self.texts.iter().fold(Fingerprint::new(), |f, (name, text)| f.text(name, text));
            let with_tensors = self.archives.iter().fold(with_texts, |f, (name, archive)| f.archive(name, archive));
            let lora = |f: Fingerprint, lora: &UsedLora| f.text("lora", lora.identity().as_bytes());
            self.loras.iter().fold(with_tensors, lora).finish()
        })
    }

    /// Bytes of all weights as stored.
    pub fn bytes(&self) -> u64 {
        self.archives.iter().map(|(_, archive)| archive.size()).sum()
    }

    /// Latent frames, pixel rows and pixel columns that one token stands for.
    pub(super) fn pixels_per_token(&self) -> [usize; 3] {
        let [pt, ph, pw] = self.transformer.patch();
        [pt, ph * self.vae.spatial_factor(), pw * self.vae.spatial_factor()]
    }

    /// Frames that a latent frame after the first becomes.
    pub(super) fn frames_per_latent(&self) -> usize {
        self.vae.temporal_factor()
    }

    /// Tokens that one axis may have.
    pub(super) fn longest_axis(&self) -> usize {
        self.transformer.longest_axis()
    }

    /// \[1, C, F, h, w\]
    pub(super) fn latent_shape(&self, width: usize, height: usize, frames: usize) -> [usize; 5] {
        let spatial = self.vae.spatial_factor();
        let latent_frames = (frames - 1) / self.vae.temporal_factor() + 1;
        [1, self.vae.channels(), latent_frames, height / spatial, width / spatial]
    }
}

/// CLIP for a transformer that sees pictures by it.
fn image_encoder(parts: &Parts, transformer: &WanTransformer) -> Result<Option<ImageEncoder>> {
    let Some(takes) = transformer.image_dim() else { return Ok(None) };
    let misfit = |reason: String| Error::model(parts.transformer.archive.path(), reason);
    let Some(part) = &parts.image_encoder else {
        return Err(misfit("it sees pictures by CLIP, and there is no image_encoder".into()));
    };
    let network = part.image_encoder()?;
    let (gives, tokens) = (network.dim(), network.tokens());
    if takes != gives {
        return Err(misfit(format!("it takes pictures of {takes} features, the image encoder gives {gives}")));
    }
    let positions = transformer.image_tokens();
    if positions.is_some_and(|positions| positions != 2 * tokens) {
        let reason = format!(
            "it has positions for {} tokens, and two pictures are {} of the image encoder's",
            positions.unwrap_or(0),
            2 * tokens
        );
        return Err(misfit(reason));
    }
    ImageEncoder::new(network, parts.image_processor.as_ref(), positions.is_some()).map(Some)
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.name)
    }
}
