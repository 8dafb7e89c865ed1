//! What a video is to be, as options that `generate` and `plan` share.

use std::path::PathBuf;

use clap::Args;
use mutoscope::media::Rate;
use mutoscope::pipeline::{EngineOptions, Model, Precision, Request};
use mutoscope::sampling::{Sampler, SamplerConfig};
use mutoscope::weights::load_tensor;
use mutoscope::{Error, Result};

use super::control::{self, ControlArguments};
use super::known::{self, KnownArguments};
use super::lora::{self, LoraArguments};
use super::model::ModelArguments;
use super::tiling::TilingArguments;
use super::values;
use super::video::{self, VideoArguments};

/// The model, the request, and the device to run it on.
#[derive(Args)]
pub struct RequestArguments {
    /// What the video shows, in plain words
    #[arg(value_name = "PROMPT")]
    prompt: String,

    #[command(flatten)]
    model: ModelArguments,

    /// What the video does not show [default: the model's]
    ///
    /// Only used with guidance above 1.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    negative: Option<String>,

    /// Size in pixels [default: the model's, 832x480 for Wan 2.1]
    ///
    /// Sides must be multiples of what one token of the model covers, 16 for Wan 2.1. A size that does not fit is refused
    /// with the nearest that do.
    #[arg(long, value_name = "WxH", value_parser = values::size, allow_hyphen_values = true)]
    size: Option<(usize, usize)>,

    /// Number of frames [default: the model's, 81 for Wan 2.1]
    ///
    /// Wan makes 1, 5, 9, 13... frames: four to a latent frame, and one for the first.
    #[arg(long, value_name = "N", value_parser = values::frames, allow_hyphen_values = true)]
    frames: Option<usize>,

    /// Length instead of a number of frames; the nearest that the model can make
    #[arg(long, value_name = "S", conflicts_with = "frames", value_parser = values::positive, allow_hyphen_values = true)]
    seconds: Option<f64>,

    /// Frames a second [default: the model's, 16 for Wan 2.1]
    ///
    /// 0.01 to 1000; what a format cannot hold is refused (GIF: 50 at most). It changes how fast the frames are shown, and
    /// with --seconds how many are made.
    #[arg(long, value_name = "N", value_parser = values::positive, allow_hyphen_values = true)]
    fps: Option<f64>,

    /// Denoising steps [default: the model's, 50 for Wan 2.1]
    ///
    /// More take longer and add detail; 20 to 30 are enough for a first look, and distilled models need 4 to 8.
    #[arg(long, value_name = "N", value_parser = values::steps, allow_hyphen_values = true)]
    steps: Option<usize>,

    /// Strength of classifier-free guidance [default: the model's, 5 for Wan 2.1]
    ///
    /// How closely to follow the prompt: 3 to 8 is usual. Above 1 every step runs the transformer twice; 1 turns it off.
    #[arg(long, value_name = "G", value_parser = values::strength, allow_hyphen_values = true)]
    guidance: Option<f64>,

    /// The same for the low-noise transformer, in models that have two [default: as --guidance]
    #[arg(long, value_name = "G", value_parser = values::strength, allow_hyphen_values = true)]
    guidance_low: Option<f64>,

    /// Shift of the noise levels [default: the model's]
    ///
    /// Above 1, more of the steps go to high noise, where the layout is decided: 3 suits small pictures, 5 to 12 large ones.
    #[arg(long, value_name = "S", value_parser = values::positive, allow_hyphen_values = true)]
    shift: Option<f64>,

    /// The sampler: unipc, unipc-wan or euler [default: the model's]
    ///
    /// unipc is UniPC on the noise levels of diffusers, unipc-wan on those of Wan's own program, euler the plain steps
    /// that distilled models are made for.
    #[arg(long, value_name = "NAME", value_parser = sampler)]
    sampler: Option<Sampler>,

    /// Seed of the noise, 0 to 2^64-1
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::seed, allow_hyphen_values = true)]
    seed: u64,

    /// Precision of matrix products: auto, f32 or f16
    ///
    /// auto is f16 on GPUs that have it and f32 elsewhere (`mutoscope doctor` says which, and why). Sums are in f32
    /// always, and so are norms, the text encoder, the sampler and the VAE.
    #[arg(long, value_name = "P", default_value = "auto", value_parser = precision)]
    precision: Precision,

    /// The GPU, by its number in `mutoscope doctor` or a part of its name [default: the fastest kind]
    #[arg(long, value_name = "NAME|INDEX", allow_hyphen_values = true)]
    device: Option<String>,

    /// The most GPU memory to use, such as 8GB or 6.5GiB [default: what the device has, where it tells]
    ///
    /// What does not fit is worked around: weights are read anew from their files in every step, the text encoder goes when
    /// it is done. `mutoscope plan` says what a budget costs, and what is the least.
    #[arg(long, value_name = "BYTES", value_parser = values::bytes, allow_hyphen_values = true)]
    vram: Option<u64>,

    #[command(flatten)]
    known: KnownArguments,

    #[command(flatten)]
    lora: LoraArguments,

    #[command(flatten)]
    video: VideoArguments,

    #[command(flatten)]
    control: ControlArguments,

    #[command(flatten)]
    tiling: TilingArguments,

    /// Start from this noise instead of the seed's: tensor `latents` [1, C, F, h, w] in f32, of a safetensors file
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
}

fn sampler(name: &str) -> Result<Sampler, String> {
    name.parse().map_err(reason)
}

fn precision(name: &str) -> Result<Precision, String> {
    name.parse().map_err(reason)
}

/// Why a setting cannot be used, without its name, which clap adds.
fn reason(error: Error) -> String {
    match error {
        Error::Request { reason, .. } => reason,
        other => other.to_string(),
    }
}

impl RequestArguments {
    /// What a run that goes on asks for, perhaps of a model that has moved. The noise that it began with led to what was
    /// saved and is not needed again.
    pub fn resumed(self, model: Option<PathBuf>) -> Self {
        let model = ModelArguments { model: model.or(self.model.model), ..self.model };
        Self { model, latents: None, ..self }
    }

    /// Everything that can be checked without a model.
    pub fn check(&self) -> Result<()> {
        if let Some(fps) = self.fps {
            Rate::new(fps)?;
        }
        if let Some(shift) = self.shift {
            SamplerConfig::new(Sampler::UniPc).with_shift(shift)?;
        }
        if self.device.as_ref().is_some_and(|device| device.trim().is_empty()) {
            return Err(Error::request("--device", "give a number of `mutoscope doctor`, or a part of a GPU's name"));
        }
        Ok(())
    }

    /// Opens the model, with LoRA files added.
    pub fn model(&self) -> Result<Model> {
        lora::add(&self.lora, Model::open_files(&self.model.files())?)
    }

    /// The request, with every file of it read; [`Settings::resolve`](mutoscope::pipeline::Settings::resolve) checks it.
    pub fn request(&self, model: &Model) -> Result<Request> {
        let request = Request {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            size: self.size,
            frames: self.frames,
            seconds: self.seconds,
            fps: self.fps,
            steps: self.steps,
            guidance: self.guidance,
            guidance_low: self.guidance_low,
            shift: self.shift,
            sampler: self.sampler,
            seed: self.seed,
            precision: self.precision,
            noise: self.latents.as_deref().map(|path| load_tensor(path, "latents")).transpose()?,
            tiling: self.tiling.get(),
            ..Request::default()
        };
        let request = video::read(&self.video, model, request)?;
        let request = control::read(&self.control, model, request)?;
        let known = known::read(&self.known, || request.length(model))?;
        Ok(Request { known, ..request })
    }

    /// How to open the device.
    pub fn options(&self) -> EngineOptions {
        EngineOptions { device: self.device.clone(), checked: super::checked(), memory: self.vram }
    }
}
