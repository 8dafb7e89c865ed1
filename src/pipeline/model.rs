//! A model: the parts of a pipeline folder, or of the one inside the binary.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Conditioning;
use crate::error::{Error, Result};
use crate::models::umt5::{Umt5, Umt5Config};
use crate::models::wan_transformer::{WanTransformer, WanTransformerConfig};
use crate::models::wan_vae::{WanVaeConfig, WanVaeDecoder, WanVaeEncoder};
use crate::sampling::SamplerConfig;
use crate::text::Tokenizer;
use crate::weights::{Archive, Config, Fingerprint};

/// A text-to-video model on the host: weights mapped, nothing on a device yet. It can be shared by many requests.
pub struct Model {
    name: String,
    pub(super) tokenizer: Tokenizer,
    pub(super) text_encoder: Umt5,
    pub(super) transformer: WanTransformer,
    /// The low-noise expert of models with two.
    pub(super) transformer_low: Option<Expert>,
    pub(super) vae: WanVaeDecoder,
    /// Read when it is first needed: most runs do without.
    vae_encoder: OnceLock<WanVaeEncoder>,
    conditioning: Conditioning,
    sampler: SamplerConfig,
    defaults: Defaults,
    archives: Vec<(&'static str, Archive)>,
    texts: Vec<(String, Vec<u8>)>,
    hash: OnceLock<String>,
}

/// A second transformer, for timesteps below a boundary.
pub(super) struct Expert {
    pub transformer: WanTransformer,
    /// Share of the training timesteps from which on the first transformer is used.
    pub boundary: f64,
}

/// What a model makes when a request leaves it open.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Columns of pixels.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Frames of video.
    pub frames: usize,
    /// Frames a second.
    pub fps: f64,
    /// Denoising steps.
    pub steps: usize,
    /// Strength of guidance.
    pub guidance: f64,
    /// The same for a low-noise expert, when it differs.
    pub guidance_low: Option<f64>,
    /// What the video does not show.
    pub negative: String,
}

impl Default for Defaults {
    /// `WanPipeline`'s of diffusers: 81 frames of 832x480 at 16 a second in 50 steps.
    fn default() -> Self {
        Self {
            width: 832,
            height: 480,
            frames: 81,
            fps: 16.0,
            steps: 50,
            guidance: 5.0,
            guidance_low: None,
            negative: String::new(),
        }
    }
}

impl Defaults {
    fn read(config: &Config) -> Result<Self> {
        let usual = Self::default();
        Ok(Self {
            width: config.get_or("width", usual.width)?,
            height: config.get_or("height", usual.height)?,
            frames: config.get_or("frames", usual.frames)?,
            fps: config.get_or("fps", usual.fps)?,
            steps: config.get_or("steps", usual.steps)?,
            guidance: config.get_or("guidance", usual.guidance)?,
            guidance_low: config.get_optional("guidance_low")?,
            negative: config.get_or("negative", usual.negative)?,
        })
    }
}

/// Where a model's files come from.
enum Source<'a> {
    Folder(&'a Path),
    Memory(&'a [(&'static str, &'static [u8])]),
}

impl Source<'_> {
    /// A file's bytes, `None` when there is no such file.
    fn optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(folder.join(name), error)),
            },
            Self::Memory(files) => Ok(files.iter().find(|(other, _)| *other == name).map(|(_, bytes)| bytes.to_vec())),
        }
    }

    fn file(&self, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::model(self.path(name), "this file of the model folder is missing");
        self.optional(name)?.ok_or_else(missing)
    }

    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Memory(_) => Path::new("embedded").join(name),
        }
    }

    fn config(&self, name: &str) -> Result<Config> {
        let text = String::from_utf8(self.file(name)?)
            .map_err(|_| Error::model(self.path(name), "this is not a JSON object: it is not UTF-8"))?;
        Config::parse(self.path(name), &text)
    }

    fn archive(&self, part: &str, stem: &str) -> Result<Archive> {
        match self {
            Self::Folder(folder) => Archive::open(folder.join(part), stem),
            Self::Memory(files) => {
                let name = format!("{part}/{stem}.safetensors");
                let bytes = files.iter().find(|(other, _)| *other == name).map(|(_, bytes)| *bytes);
                let bytes = bytes.ok_or_else(|| Error::model(self.path(&name), "this part of the model is missing"))?;
                let bytes = crate::tensor::Bytes::new(std::sync::Arc::new(bytes));
                Archive::from_parts(self.path(part), [(name.as_str(), bytes)])
            }
        }
    }
}

impl Model {
    /// Opens a pipeline folder in the diffusers layout.
    ///
    /// # Errors
    /// When a part is missing or broken, or the folder holds another kind of pipeline.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let meta = std::fs::metadata(folder).map_err(|error| Error::io(folder, error))?;
        if !meta.is_dir() {
            return Err(Error::model(
                folder,
                "a model is a folder in the diffusers layout, with model_index.json in it",
            ));
        }
        let name =
            folder.file_name().map_or_else(|| folder.display().to_string(), |n| n.to_string_lossy().into_owned());
        Self::load(name, &Source::Folder(folder))
    }

    /// The small model inside the binary.
    ///
    /// # Errors
    /// When this build has none (the feature `embedded` is off).
    pub fn embedded() -> Result<Self> {
        Self::load("embedded".into(), &Source::Memory(crate::embedded::files()?))
    }

    fn load(name: String, source: &Source<'_>) -> Result<Self> {
        let index = source.config("model_index.json")?;
        let expand_timesteps = index.get_or("expand_timesteps", false)?;
        match index.class() {
            Some("WanPipeline") => {}
            Some("WanImageToVideoPipeline") => {}
            Some(other) => {
                let reason =
                    format!("`{other}` is not supported yet, only `WanPipeline` and `WanImageToVideoPipeline`");
                return Err(index.error("_class_name", reason));
            }
            None => return Err(index.error("_class_name", "is missing: this is no diffusers pipeline")),
        }
        let json = |file: &str| source.file(file);
        let tokenizer_config = source.optional("tokenizer/tokenizer_config.json")?;
        let tokenizer_json = source.optional("tokenizer/tokenizer.json")?;
        let tokenizer = match (&tokenizer_json, source) {
            (Some(text), _) => {
                let path = source.path("tokenizer/tokenizer.json");
                Tokenizer::from_bytes(path, text, tokenizer_config.as_deref())?
            }
            // Says what is there instead and what to do.
            (None, _) => Tokenizer::open(source.path("tokenizer"))?,
        };

        let transformer_config = source.config("transformer/config.json")?;
        let text_config = source.config("text_encoder/config.json")?;
        let vae_config = source.config("vae/config.json")?;
        let text_archive = source.archive("text_encoder", "model")?;
        let transformer_archive = source.archive("transformer", "diffusion_pytorch_model")?;
        let vae_archive = source.archive("vae", "diffusion_pytorch_model")?;
        let mut archives = vec![
            ("text_encoder", text_archive.clone()),
            ("transformer", transformer_archive.clone()),
            ("vae", vae_archive.clone()),
        ];
        let text_encoder = Umt5::load(&text_archive, Umt5Config::read(&text_config)?)?;
        let transformer = WanTransformer::load(&transformer_archive, WanTransformerConfig::read(&transformer_config)?)?;
        let vae = WanVaeDecoder::load(&vae_archive, WanVaeConfig::read(&vae_config)?)?;
        // A patch of several latent frames would have to be known in part.
        let conditioning = if expand_timesteps && transformer.patch()[0] == 1 {
            Conditioning::Timesteps
        } else if transformer.in_channels() > transformer.out_channels() {
            Conditioning::Channels
        } else {
            Conditioning::None
        };

        let boundary: Option<f64> = index.get_optional("boundary_ratio")?;
        let transformer_low = match boundary {
            Some(boundary) if source.optional("transformer_2/config.json")?.is_some() => {
                let archive = source.archive("transformer_2", "diffusion_pytorch_model")?;
                let config = WanTransformerConfig::read(&source.config("transformer_2/config.json")?)?;
                archives.push(("transformer_2", archive.clone()));
                Some(Expert { transformer: WanTransformer::load(&archive, config)?, boundary })
            }
            Some(_) => return Err(index.error("boundary_ratio", "is set, but there is no transformer_2")),
            None => None,
        };

        let sampler_path = source.path("scheduler/scheduler_config.json");
        let sampler_text = source.file("scheduler/scheduler_config.json")?;
        let sampler = SamplerConfig::from_json(&sampler_path, &sampler_text)?;
        let defaults = match source.optional("defaults.json")? {
            Some(_) => Defaults::read(&source.config("defaults.json")?)?,
            None => Defaults::default(),
        };
        let model = Self {
            name,
            tokenizer,
            text_encoder,
            transformer,
            transformer_low,
            vae,
            vae_encoder: OnceLock::new(),
            conditioning,
            sampler,
            defaults,
            archives,
            texts: vec![
                ("transformer/config.json".into(), json("transformer/config.json")?),
                ("text_encoder/config.json".into(), json("text_encoder/config.json")?),
                ("vae/config.json".into(), json("vae/config.json")?),
                ("tokenizer/tokenizer.json".into(), tokenizer_json.unwrap_or_default()),
            ],
            hash: OnceLock::new(),
        };
        model.check_fit(source)?;
        Ok(model)
    }

    /// Whether the parts fit each other.
    fn check_fit(&self, source: &Source<'_>) -> Result<()> {
        let misfit = |part: &str, reason: String| Err(Error::model(source.path(part), reason));
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
                return misfit("transformer", reason);
            }
            if transformer.text_dim() != self.text_encoder.dim() {
                let reason = format!(
                    "it takes text of {} features, the text encoder gives {}",
                    transformer.text_dim(),
                    self.text_encoder.dim()
                );
                return misfit("transformer", reason);
            }
        }
        if self.tokenizer.vocabulary() > self.text_encoder.vocabulary() {
            let reason = format!(
                "it has {} tokens, the text encoder knows {}",
                self.tokenizer.vocabulary(),
                self.text_encoder.vocabulary()
            );
            return misfit("tokenizer", reason);
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

    /// The sampler of its scheduler config.
    pub fn sampler(&self) -> &SamplerConfig {
        &self.sampler
    }

    /// Whether it has a second transformer for low noise.
    pub fn has_two_experts(&self) -> bool {
        self.transformer_low.is_some()
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
            self.archives.iter().fold(with_texts, |f, (name, archive)| f.archive(name, archive)).finish()
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

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.name)
    }
}
