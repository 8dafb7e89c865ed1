//! Pictures to latents: a video through the VAE's encoder, for frames that are known and for video to video.
//!
//! Video to video is `WanVideoToVideoPipeline` of diffusers (SDEdit, arXiv:2108.01073): the video's latents with the noise
//! of a step in the middle, and the steps from there on.

use super::known::sha256;
use super::stream::{Chunk, Chunks, record};
use super::{Conditioning, Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::{Frame, GivenVideo, resize};
use crate::sampling::{Solver, randn};
use crate::tensor::{DType, HostTensor};

/// What a model makes of a video that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoUse {
    /// The run begins with it, under noise (video to video).
    Start,
}

impl Conditioning {
    /// What a model that is so conditioned makes of a given video.
    pub fn video(self) -> VideoUse {
        match self {
            Self::None | Self::Timesteps | Self::Channels => VideoUse::Start,
        }
    }
}

impl Settings {
    /// Whether the run begins with a video instead of with noise alone.
    pub(super) fn from_video(&self) -> bool {
        !self.video.is_empty()
    }

    /// The first step that is run: not the first with video to video (`get_timesteps` of diffusers).
    pub(super) fn first_step(&self) -> usize {
        if !self.from_video() {
            return 0;
        }
        self.steps - ((self.steps as f64 * self.strength) as usize).min(self.steps)
    }

    /// The steps that are run.
    pub(super) fn solver(&self) -> Result<Solver> {
        Solver::starting_at(&self.sampler, self.steps, self.first_step())
    }

    /// What a recipe says of the video.
    pub(super) fn given_video(&self) -> Option<GivenVideo> {
        let frames = self.video.get(..self.frames)?;
        let (count, strength) = (frames.len() as u32, self.strength);
        Some(GivenVideo { count, sha256: sha256(frames), strength })
    }
}

/// The sample \[1, C, F, h, w\] that a run begins with: noise, or a video with the noise of the first step that is run.
pub fn start(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<HostTensor> {
    let noise = settings.noise.clone().unwrap_or_else(|| randn(settings.latents, settings.seed));
    if !settings.from_video() {
        return Ok(noise);
    }
    let frames = settings.latents[2];
    let encoded = encode(gpu, model, settings, frames, &|frame| settings.video.get(frame), observer)?;
    let clean = encoded.only(&vec![true; frames]).to_f32();
    let noised = settings.solver()?.noised(&clean, &noise.to_f32());
    Ok(HostTensor::from_f32(settings.latents, &noised))
}

/// Latents of a video, frame by frame: \[h, w, C\] of each that was encoded.
pub(super) struct Encoded {
    shape: [usize; 5],
    frames: Vec<Vec<f32>>,
}

impl Encoded {
    /// \[1, C, F, h, w\] f32: the frames that are `wanted`, zeros for the others.
    pub(super) fn only(&self, wanted: &[bool]) -> HostTensor {
        let [_, channels, all, rows, columns] = self.shape;
        let mut values = vec![0f32; channels * all * rows * columns];
        for (f, frame) in self.frames.iter().enumerate().filter(|(f, _)| wanted[*f]) {
            for (i, value) in frame.iter().enumerate() {
                let (pixel, channel) = (i / channels, i % channels);
                values[(channel * all + f) * rows * columns + pixel] = *value;
            }
        }
        HostTensor::from_f32(self.shape, &values)
    }
}

/// Encodes the first `steps` latent frames of the video that shows `picture(frame)`, or grey.
pub(super) fn encode<'a>(
    gpu: &Gpu,
    model: &Model,
    settings: &'a Settings,
    steps: usize,
    picture: &dyn Fn(usize) -> Option<&'a Frame>,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Encoded> {
    let factor = model.frames_per_latent();
    let size = [settings.height, settings.width];
    let encoder = Chunks::new(gpu, steps > 1, |first| chunk(model, size, first))?;
    let mut frames = Vec::with_capacity(steps);
    let grey = vec![0f32; size[0] * size[1] * 3];
    // Pictures are stretched once, however often they are shown.
    let mut stretched: Option<(*const Frame, Vec<f32>)> = None;
    for f in 0..steps {
        let shown = if f == 0 { 0..1 } else { 1 + (f - 1) * factor..1 + f * factor };
        let count = shown.len();
        let mut pixels = Vec::with_capacity(count * grey.len());
        for frame in shown {
            let Some(picture) = picture(frame) else {
                pixels.extend_from_slice(&grey);
                continue;
            };
            if stretched.as_ref().is_none_or(|(of, _)| !std::ptr::eq(*of, picture)) {
                stretched = Some((picture, values(&resize(picture, settings.width as u32, settings.height as u32)?)));
            }
            pixels.extend(stretched.iter().flat_map(|(_, values)| values));
        }
        let program = encoder.program(f == 0);
        program.write("pixels", &HostTensor::from_f32([count, size[0], size[1], 3], &pixels))?;
        program.run(&mut |done| {
            let fraction = (f as f64 + done) / steps as f64;
            observer(Event::Progress { phase: Phase::Encode, step: f, steps, fraction })
        })?;
        let z = program.read("latents")?.to_f32();
        if !z.iter().all(|v| v.is_finite()) {
            return Err(Error::model(model.name(), "the VAE made NaN or infinity of the given pictures"));
        }
        frames.push(z);
    }
    observer(Event::Progress { phase: Phase::Encode, step: steps, steps, fraction: 1.0 })?;
    Ok(Encoded { shape: settings.latents, frames })
}

/// Encodes the pixels of one latent frame, of so many rows and columns, to normalised latents.
pub(super) fn chunk(model: &Model, [rows, columns]: [usize; 2], first: bool) -> Result<Chunk> {
    let encoder = model.vae_encoder()?;
    record(|graph, stream| {
        let config = encoder.config();
        let vector = |values: Vec<f32>| graph.constant(HostTensor::from_f32([values.len()], &values));
        let minus_mean = vector(config.mean.iter().map(|mean| -mean).collect());
        let scale = vector(config.std.iter().map(|std| 1.0 / std).collect());
        let count = if first { 1 } else { model.frames_per_latent() };
        let pixels = graph.input("pixels", [count, rows, columns, 3], DType::F32);
        let mean = encoder.forward(pixels, first, stream);
        graph.output("latents", mean.add(minus_mean).mul(scale));
    })
}

/// \[H, W, 3\] in -1..1, rounded as diffusers' `VaeImageProcessor` rounds.
fn values(picture: &Frame) -> Vec<f32> {
    picture.rgb.iter().map(|&v| 2.0 * (f32::from(v) / 255.0) - 1.0).collect()
}
