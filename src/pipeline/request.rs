//! What is asked for, and what that comes to for a model.

use std::str::FromStr;
use std::sync::Arc;

use super::{Checkpoint, Conditioning, Defaults, Known, Model, Tile, Tiling, VideoUse, known};
use crate::error::{Error, Result};
use crate::graph::{DeviceKind, DeviceProfile};
use crate::media::Frame;
use crate::sampling::{Guidance, MAX_STEPS, Sampler, SamplerConfig};
use crate::tensor::{DType, HostTensor};

/// What a video is to be. Everything but the prompt has a default of the model's.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What it shows.
    pub prompt: String,
    /// What it does not show.
    pub negative: Option<String>,
    /// Columns and rows of pixels. If open, the model's size, in the shape of the video or the first known picture that is
    /// given.
    pub size: Option<(usize, usize)>,
    /// Number of frames; or give `seconds`.
    pub frames: Option<usize>,
    /// Length, rounded to a number of frames that the model can make.
    pub seconds: Option<f64>,
    /// Frames a second.
    pub fps: Option<f64>,
    /// Denoising steps.
    pub steps: Option<usize>,
    /// Strength of classifier-free guidance; 1 is off.
    pub guidance: Option<f64>,
    /// The same for the low-noise expert of models with two.
    pub guidance_low: Option<f64>,
    /// Shift of the noise levels.
    pub shift: Option<f64>,
    /// The sampler.
    pub sampler: Option<Sampler>,
    /// Seed of the noise: that of a `torch.Generator` on the CPU.
    pub seed: u64,
    /// Precision of matrix products.
    pub precision: Precision,
    /// Noise to start from instead of the seed's: \[1, C, F, h, w\] f32.
    pub noise: Option<HostTensor>,
    /// Frames that are known beforehand: a picture to begin with, a video to go on from (see [`Known`]).
    pub known: Vec<Known>,
    /// A video to make another from, if not empty; for models that read one (VACE) the control video. Without a length the
    /// result is as long, but for frames at the end that make no latent one; another size is stretched, as diffusers does
    /// it. What of a length a control video does not have is to be made.
    pub video: Arc<[Frame]>,
    /// How far the result may go from the video, above 0 to 1: that share of the steps is run. 0.8 if open.
    pub strength: Option<f64>,
    /// Whether the VAE works on tiles of the pictures.
    pub tiling: Tiling,
    /// Where to save the state of the run while it goes on; [`Engine::resume`](super::Engine::resume) takes it up again.
    pub checkpoint: Option<Checkpoint>,
    /// What of the control video is to be made, where white: a mask for each of its frames, or one for all. Without one,
    /// everything is, and the video guides it. Only for models that read a control video (VACE), as what follows.
    pub mask: Arc<[Frame]>,
    /// Pictures of what the video is to show, of any size.
    pub references: Arc<[Frame]>,
    /// How loudly the control speaks: one number, or one for each block that reads it; 1 if open.
    pub control_scales: Vec<f32>,
}

impl Request {
    /// A request with the model's defaults.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), ..Self::default() }
    }

    /// How many frames the video will have.
    ///
    /// # Errors
    /// [`Error::Request`] when the length or the rate cannot be.
    pub fn length(&self, model: &Model) -> Result<usize> {
        frames(model, self, rate(model, self)?)
    }

    /// Columns and rows that the video will have; they are not checked.
    pub fn dimensions(&self, model: &Model) -> (usize, usize) {
        let defaults = model.defaults();
        let [_, rows, columns] = model.pixels_per_token();
        let picture = self.video.first().or_else(|| self.known.first().and_then(|part| part.pixels.first()));
        let usual = || picture.map(|picture| size_like(picture, defaults, [rows, columns]));
        self.size.or_else(usual).unwrap_or((defaults.width, defaults.height))
    }
}

/// Precision of matrix products and attention; sums, norms, modulation, the sampler, the text encoder and the VAE are
/// always in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f16 on GPUs that have it, f32 elsewhere.
    #[default]
    Auto,
    /// f32.
    F32,
    /// f16.
    F16,
}

impl Precision {
    /// The element type that it means on a device.
    ///
    /// # Errors
    /// [`Error::Request`] when f16 is asked of a device without it.
    pub fn resolve(self, profile: &DeviceProfile) -> Result<DType> {
        match self {
            Self::F32 => Ok(DType::F32),
            Self::Auto if profile.f16 && profile.kind != DeviceKind::Cpu => Ok(DType::F16),
            Self::Auto => Ok(DType::F32),
            Self::F16 if profile.f16 => Ok(DType::F16),
            Self::F16 => {
                Err(Error::request("--precision", format!("{} has no f16 shaders; use f32 or auto", profile.name)))
            }
        }
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            _ => {
                Err(Error::request("--precision", format!("there is no precision `{name}`; there are auto, f32, f16")))
            }
        }
    }
}

/// A request with every default filled in, checked against the model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What it shows.
    pub prompt: String,
    /// What it does not show; empty for nothing.
    pub negative: String,
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
    /// The same for the low-noise expert, when it differs.
    pub guidance_low: Option<f64>,
    /// The sampler with its shift.
    pub sampler: SamplerConfig,
    /// Seed of the noise.
    pub seed: u64,
    /// Noise to start from instead.
    pub noise: Option<HostTensor>,
    /// Frames that are known beforehand, in the order of the video.
    pub known: Vec<Known>,
    /// The video that it is made from, at least as many frames; empty for none.
    pub video: Arc<[Frame]>,
    /// How far it may go from that video; of no account for a control video.
    pub strength: f64,
    /// What of a control video is to be made, where white: one mask for all frames, or as many as are used; empty for
    /// everything.
    pub mask: Arc<[Frame]>,
    /// Pictures of what the video is to show.
    pub references: Arc<[Frame]>,
    /// How loudly each block speaks that reads the control video; empty for models that read none.
    pub control_scales: Vec<f32>,
    /// Whether the VAE may work on tiles.
    pub tiling: Tiling,
    /// The tiles that it works on. With [`Tiling::Auto`] the device decides, when the run begins.
    pub tile: Option<Tile>,
    /// Shape of the latents \[1, C, F, h, w\].
    pub latents: [usize; 5],
}

/// Sides and lengths beyond which nobody means it.
const MAX_SIDE: usize = 16_384;
/// The largest area that counts as 480p: 832x480, and a little more for other shapes, whose sides are rounded.
const AREA_480P: usize = 832 * 480 * 21 / 20;

impl Settings {
    /// Fills in what the request leaves open, and checks all of it.
    ///
    /// # Errors
    /// [`Error::Request`] that names the setting, what is wrong with it, and what would work.
    pub fn resolve(model: &Model, request: &Request) -> Result<Self> {
        let defaults = model.defaults();
        let [_, rows, columns] = model.pixels_per_token();
        check_known(model, request)?;
        let (width, height) = request.dimensions(model);
        check_side("width", width, columns, model.longest_axis())?;
        check_side("height", height, rows, model.longest_axis())?;

        let fps = rate(model, request)?;
        let frames = frames(model, request, fps)?;
        let known = known::placed(&request.known, frames)?;
        let control_scales = control_scales(model, request, frames)?;
        let steps = request.steps.unwrap_or(defaults.steps);
        if !(1..=MAX_STEPS).contains(&steps) {
            return Err(Error::request("--steps", format!("{steps} steps cannot be run; take 1 to {MAX_STEPS}")));
        }
        let strength = strength(model, request, frames, steps)?;
        let guidance = request.guidance.unwrap_or(defaults.guidance);
        let guidance_low = request.guidance_low.or(defaults.guidance_low);
        if request.guidance_low.is_some() && !model.has_two_experts() {
            let reason = "this model has one transformer; only models with a high-noise and a low-noise one take it";
            return Err(Error::request("--guidance-low", reason));
        }
        Guidance::new(guidance, guidance_low)?;
        let tile = match request.tiling {
            Tiling::On(tile) => tile.check(model).map(|()| Some(tile))?,
            Tiling::Auto | Tiling::Off => None,
        };

        let mut sampler = model.sampler().clone();
        if let Some(wanted) = request.sampler {
            sampler = sampler.with_sampler(wanted);
        }
        let shift_480p = defaults.shift_480p.filter(|_| width * height <= AREA_480P);
        if let Some(shift) = request.shift.or(shift_480p) {
            sampler = sampler.with_shift(shift)?;
        }
        let mut latents = model.latent_shape(width, height, frames);
        latents[2] += request.references.len();
        if latents[2] > model.longest_axis() {
            let reason = format!("{} references and {frames} frames are more than it takes", request.references.len());
            return Err(Error::request("--reference", reason));
        }
        if let Some(noise) = &request.noise {
            if noise.shape().dims() != latents || noise.dtype() != DType::F32 {
                let reason = format!("these settings need latents f32{latents:?}, the file has {noise:?}");
                return Err(Error::request("--latents", reason));
            }
            if !noise.to_f32().iter().all(|v| v.is_finite()) {
                return Err(Error::request("--latents", "the latents contain NaN or infinity"));
            }
        }
        Ok(Self {
            prompt: request.prompt.clone(),
            negative: request.negative.clone().unwrap_or_else(|| defaults.negative.clone()),
            width,
            height,
            frames,
            fps,
            steps,
            guidance,
            guidance_low,
            sampler,
            seed: request.seed,
            noise: request.noise.clone(),
            known,
            video: request.video.clone(),
            mask: request.mask.clone(),
            references: request.references.clone(),
            control_scales,
            strength,
            tiling: request.tiling,
            tile,
            latents,
        })
    }

    /// Guidance as the sampler applies it.
    pub(super) fn guidance(&self) -> Result<Guidance> {
        Guidance::new(self.guidance, self.guidance_low)
    }
}

/// Refuses known frames where the model takes none, and none where it needs some.
fn check_known(model: &Model, request: &Request) -> Result<()> {
    match model.conditioning() {
        Conditioning::None if !request.known.is_empty() => {
            let reason = format!(
                "`{}` makes videos from text alone; pictures take a model such as Wan 2.2 TI2V-5B (with expand_timesteps \
                 in its model_index.json), I2V-A14B, or Wan 2.1 I2V, FLF2V or VACE",
                model.name()
            );
            Err(Error::request("known frames", reason))
        }
        Conditioning::Channels if request.known.is_empty() => {
            let reason = format!("`{}` animates a picture: give it one with --image", model.name());
            Err(Error::request("known frames", reason))
        }
        _ if model.takes_both_ends() && request.known.iter().map(|part| part.pixels.len()).sum::<usize>() < 2 => {
            let reason = format!(
                "`{}` goes from one picture to another: give it both, with --image and --end-image",
                model.name()
            );
            Err(Error::request("known frames", reason))
        }
        _ => Ok(()),
    }
}

/// `strength` of diffusers' `WanVideoToVideoPipeline` when it is left open.
const STRENGTH: f64 = 0.8;

/// The strength, checked against the video that it is about.
fn strength(model: &Model, request: &Request, frames: usize, steps: usize) -> Result<f64> {
    let strength = request.strength.unwrap_or(STRENGTH);
    if request.video.is_empty() {
        let reason = "this is how far to go from a video; give one with --video";
        return if request.strength.is_none() { Ok(strength) } else { Err(Error::request("--strength", reason)) };
    }
    match model.conditioning().video() {
        VideoUse::Start => {}
        VideoUse::Control if request.strength.is_none() => return Ok(strength),
        VideoUse::Control => {
            let reason = format!("`{}` reads the video as its control; --control-scale says how loudly", model.name());
            return Err(Error::request("--strength", reason));
        }
    }
    if request.video.len() < frames {
        let reason = format!("the video has {} frames, and {frames} are asked of it", request.video.len());
        return Err(Error::request("--frames", reason));
    }
    if !(strength > 0.0 && strength <= 1.0) {
        return Err(Error::request(
            "--strength",
            format!("{strength} is not above 0 and at most 1; 0.5 to 0.9 is usual"),
        ));
    }
    if steps as f64 * strength < 1.0 {
        let least = 1.0 / steps as f64;
        let reason =
            format!("with {steps} steps, {strength} leaves none to run; take {least:.3} or more, or more steps");
        return Err(Error::request("--strength", reason));
    }
    Ok(strength)
}

/// How loudly each of the model's blocks speaks that read the control video, once what is given beside it is checked.
fn control_scales(model: &Model, request: &Request, frames: usize) -> Result<Vec<f32>> {
    let Request { mask, references, control_scales: scales, video, .. } = request;
    if model.conditioning().video() != VideoUse::Control {
        let given = [
            ("--mask", mask.is_empty()),
            ("--reference", references.is_empty()),
            ("--control-scale", scales.is_empty()),
        ];
        let Some((name, _)) = given.iter().find(|(_, empty)| !empty) else { return Ok(Vec::new()) };
        let reason = format!("`{}` does not take it; Wan 2.1 VACE and other VACE models do", model.name());
        return Err(Error::request(*name, reason));
    }
    let used = video.len().min(frames);
    if !mask.is_empty() && video.is_empty() {
        let reason = "this is what of a video is to be made; give one with --video";
        return Err(Error::request("--mask", reason));
    }
    if mask.len() > 1 && mask.len() < used {
        let reason =
            format!("there are {} masks for {used} frames of video; give one for each, or one for all", mask.len());
        return Err(Error::request("--mask", reason));
    }
    let unit = model.pixels_per_latent();
    if let Some(small) = references.iter().find(|picture| (picture.width.min(picture.height) as usize) < unit) {
        let reason =
            format!("a picture of {}x{} is too small; {unit} pixels a side are the least", small.width, small.height);
        return Err(Error::request("--reference", reason));
    }
    let depth = model.control_depth();
    if !scales.iter().all(|scale| scale.is_finite()) {
        return Err(Error::request("--control-scale", "it is not a number"));
    }
    match scales.as_slice() {
        [] => Ok(vec![1.0; depth]),
        [one] => Ok(vec![*one; depth]),
        all if all.len() == depth => Ok(all.to_vec()),
        all => {
            let reason = format!(
                "{} are given; `{}` takes one, or {depth}, one for each block that reads it",
                all.len(),
                model.name()
            );
            Err(Error::request("--control-scale", reason))
        }
    }
}

/// A size of about the default's area in the shape of a picture (the `max_area` of Wan's image-to-video examples).
fn size_like(picture: &Frame, defaults: &Defaults, [rows, columns]: [usize; 2]) -> (usize, usize) {
    let area = (defaults.width * defaults.height) as f64;
    let aspect = f64::from(picture.height) / f64::from(picture.width);
    let side = |length: f64, unit: usize| ((length / unit as f64).round() as usize).max(1) * unit;
    (side((area / aspect).sqrt(), columns), side((area * aspect).sqrt(), rows))
}

fn check_side(name: &str, side: usize, unit: usize, most_tokens: usize) -> Result<()> {
    let most = (most_tokens * unit).min(MAX_SIDE / unit * unit);
    if side == 0 || !side.is_multiple_of(unit) || side > most {
        let below = (side / unit * unit).clamp(unit, most);
        let above = (below + unit).min(most);
        let nearest = if below == above || side < below { format!("{below}") } else { format!("{below} or {above}") };
        let reason = format!(
            "a {name} of {side} does not work with this model, which takes multiples of {unit} up to {most}; the nearest is {nearest}"
        );
        return Err(Error::request("--size", reason));
    }
    Ok(())
}

impl Model {
    /// Rows, and columns, of pixels that a latent stands for.
    pub fn pixels_per_latent(&self) -> usize {
        self.vae.spatial_factor()
    }

    /// The most frames that a video may have.
    pub fn most_frames(&self) -> usize {
        1 + (self.longest_axis() - 1) * self.frames_per_latent()
    }
}

/// Frames a second.
fn rate(model: &Model, request: &Request) -> Result<f64> {
    let fps = request.fps.unwrap_or(model.defaults().fps);
    if !fps.is_finite() || fps <= 0.0 || fps > 1000.0 {
        return Err(Error::request("--fps", format!("{fps} is not a rate; 8 to 60 is usual")));
    }
    Ok(fps)
}

/// The number of frames: 1, 1 + f, 1 + 2 f... for a VAE that makes f frames of a latent one, as far as their latents can be
/// divided among patches of more than one.
fn frames(model: &Model, request: &Request, fps: f64) -> Result<usize> {
    let patch = model.transformer.patch()[0];
    let (least, unit) = (1 + (patch - 1) * model.frames_per_latent(), patch * model.frames_per_latent());
    let most = least + model.most_frames().saturating_sub(least) / unit * unit;
    if let Some(seconds) = request.seconds {
        if request.frames.is_some() {
            return Err(Error::request("--seconds", "give either --frames or --seconds, not both"));
        }
        if !seconds.is_finite() || seconds <= 0.0 || seconds * fps > most as f64 {
            let longest = most as f64 / fps;
            return Err(Error::request("--seconds", format!("{seconds} s cannot be made; up to {longest:.1} s can")));
        }
        let further = ((seconds * fps - least as f64).max(0.0) / unit as f64).round() as usize;
        return Ok(least + further * unit);
    }
    let whole = |frames: usize| least + (frames.clamp(least, most) - least) / unit * unit;
    let usual = if request.video.is_empty() { model.defaults().frames } else { whole(request.video.len()) };
    let frames = request.frames.unwrap_or(usual);
    if frames < least || frames > most || !(frames - least).is_multiple_of(unit) {
        let below = whole(frames);
        let above = (below + unit).min(most);
        let nearest = if frames < least || below == above { format!("{below}") } else { format!("{below} or {above}") };
        let reason = format!(
            "{frames} frames do not work with this model, which makes {least}, {}, {}... up to {most}; the nearest is {nearest}",
            least + unit,
            least + 2 * unit
        );
        return Err(Error::request("--frames", reason));
    }
    Ok(frames)
}
