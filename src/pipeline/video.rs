//! Video to video, `WanVideoToVideoPipeline` of diffusers (SDEdit, arXiv:2108.01073): the video's latents with the noise of
//! a step in the middle, and the steps from there on.

use super::known::sha256;
use super::pictures::encode;
use super::{Conditioning, Event, Model, Settings};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::media::GivenVideo;
use crate::sampling::{Solver, randn};
use crate::tensor::HostTensor;

/// What a model makes of a video that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoUse {
    /// The run begins with it, under noise (video to video).
    Start,
    /// The transformer reads it beside what it makes, where a mask does not say that it is to be made anew (VACE).
    Control,
}

impl Conditioning {
    /// What a model that is so conditioned makes of a given video.
    pub fn video(self) -> VideoUse {
        match self {
            Self::None | Self::Timesteps | Self::Channels => VideoUse::Start,
            Self::Control => VideoUse::Control,
        }
    }
}

impl Settings {
    /// Whether the run begins with a video instead of with noise alone.
    pub fn from_video(&self) -> bool {
        !self.video.is_empty() && self.control_scales.is_empty()
    }

    /// The first step that is run: not the first with video to video (`get_timesteps` of diffusers).
    pub(super) fn first_step(&self) -> usize {
        if !self.from_video() {
            return 0;
        }
        self.steps - ((self.steps as f64 * self.strength) as usize).min(self.steps)
    }

    /// How many steps are run.
    pub fn steps_to_run(&self) -> usize {
        self.steps - self.first_step()
    }

    /// The steps that are run.
    pub(super) fn solver(&self) -> Result<Solver> {
        Solver::starting_at(&self.sampler, self.steps, self.first_step())
    }

    /// What a recipe says of the video.
    pub(super) fn given_video(&self) -> Option<GivenVideo> {
        let frames = self.video.get(..self.frames.min(self.video.len())).filter(|frames| !frames.is_empty())?;
        let strength = self.from_video().then_some(self.strength);
        Some(GivenVideo { count: frames.len() as u32, sha256: sha256(frames), strength })
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
