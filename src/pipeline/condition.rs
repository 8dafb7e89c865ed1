//! What a run is told of frames that are known beforehand: a picture to begin or to end with, a video to go on from, all
//! by one mechanism.
//!
//! The VAE encodes one video, as long as the one to be made, in which known frames are in their place. How the latents
//! reach the transformer, and what is in the other frames, is the model's [`Conditioning`]. Any set of frames can be known;
//! for the first, and where diffusers takes it the last, this is what `WanImageToVideoPipeline` does.

use super::known::{known_latents, nearest};
use super::pictures::encode;
use super::{Event, Model, Settings, control};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::Var;
use crate::tensor::HostTensor;

/// How a model is told of known frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditioning {
    /// It is not: it makes videos from text alone.
    None,
    /// Clean latents in their place, whose tokens have timestep 0 (`expand_timesteps`: Wan 2.2 TI2V-5B). One known frame is
    /// enough for its whole latent frame; what is not known stands still, showing the nearest frame that is.
    Timesteps,
    /// Further channels of its input: for each latent frame which of its frames are known, then the latents of a video
    /// that is grey where nothing is (Wan 2.2 I2V-A14B). Wan 2.1 I2V also sees the first known frame by CLIP, and FLF2V the
    /// first and the last.
    Channels,
    /// A video that a branch of the transformer reads (VACE): with a mask of what is to be made in it, and with references.
    /// Known frames are frames of it of which nothing is to be made; what is not known is grey.
    Control,
}

/// What a run is told of known frames.
#[derive(Clone, Debug)]
pub enum Condition {
    /// By [`Conditioning::Timesteps`].
    Timesteps {
        /// \[1, C, F, h, w\] f32, normalised; zeros where nothing is known.
        latents: HostTensor,
        /// \[F\]: which latent frames are known.
        known: Vec<bool>,
    },
    /// By [`Conditioning::Channels`].
    Channels {
        /// \[1, M + C, F, h, w\] f32: M mask channels before those of the latents.
        channels: HostTensor,
        /// What CLIP sees of them, \[1, P, I\] f32, in models whose blocks attend to it.
        pictures: Option<HostTensor>,
    },
    /// By [`Conditioning::Control`].
    Control {
        /// \[1, I, F, h, w\] f32: what the branch reads.
        latents: HostTensor,
        /// How loudly each of its blocks speaks.
        scales: Vec<f32>,
    },
}

impl Condition {
    /// The transformer's timesteps at a step's `time`: one, or one for each latent frame.
    pub fn times(&self, time: f32) -> Vec<f32> {
        match self {
            Self::Timesteps { known, .. } => known.iter().map(|&known| if known { 0.0 } else { time }).collect(),
            Self::Channels { .. } | Self::Control { .. } => vec![time],
        }
    }

    /// What the transformer sees of the latents \[1, C, F, h, w\] that the sampler has.
    pub fn input<'g>(&self, latents: Var<'g>) -> Var<'g> {
        let graph = latents.graph();
        match self {
            Self::Timesteps { latents: clean, known } => {
                latents.mul(graph.constant(unknown(clean, known))).add(graph.constant(clean.clone()))
            }
            Self::Channels { channels, .. } => {
                let without_batch = |shape: crate::tensor::Shape| [shape[1], shape[2], shape[3], shape[4]];
                let further = graph.constant(channels.clone());
                let joined = latents
                    .reshape(without_batch(latents.shape()))
                    .concat(&[further.reshape(without_batch(further.shape()))]);
                let [channels, frames, rows, columns] = [0, 1, 2, 3].map(|axis| joined.shape()[axis]);
                joined.reshape([1, channels, frames, rows, columns])
            }
            Self::Control { .. } => latents,
        }
    }

    /// What the blocks attend to beside the text.
    pub fn pictures(&self) -> Option<&HostTensor> {
        match self {
            Self::Timesteps { .. } | Self::Control { .. } => None,
            Self::Channels { pictures, .. } => pictures.as_ref(),
        }
    }

    /// What the control's branch reads, and how loudly its blocks speak.
    pub fn control(&self) -> Option<(&HostTensor, &[f32])> {
        match self {
            Self::Timesteps { .. } | Self::Channels { .. } => None,
            Self::Control { latents, scales } => Some((latents, scales)),
        }
    }

    /// The result: the latents \[1, C, F, h, w\] that the sampler left, with those in their place that are known exactly.
    pub fn result(&self, latents: HostTensor) -> HostTensor {
        let Self::Timesteps { latents: clean, known } = self else { return latents };
        let mask = unknown(clean, known).to_f32();
        let values = latents.to_f32().into_iter().zip(clean.to_f32()).zip(mask);
        let values: Vec<f32> = values.map(|((x, clean), unknown)| if unknown == 0.0 { clean } else { x }).collect();
        HostTensor::from_f32(latents.shape(), &values)
    }
}

/// \[1, C, F, h, w\] f32 as `like`: 1 where nothing is known, else 0.
fn unknown(like: &HostTensor, known: &[bool]) -> HostTensor {
    let shape = like.shape();
    let frame = |f: usize| std::iter::repeat_n(if known[f] { 0.0 } else { 1.0 }, shape[3] * shape[4]);
    let values: Vec<f32> = (0..shape[1]).flat_map(|_| (0..shape[2]).flat_map(frame)).collect();
    HostTensor::from_f32(shape, &values)
}

/// What the model is told of the known frames, or the control video, of `settings`; `None` when it is told nothing.
pub fn condition(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Option<Condition>> {
    if model.conditioning() == Conditioning::Control {
        let latents = control::latents(gpu, model, settings, observer)?;
        return Ok(Some(Condition::Control { latents, scales: settings.control_scales.clone() }));
    }
    let frames = settings.latents[2];
    let known = known_latents(&settings.known, frames, model.frames_per_latent());
    let Some(last) = known.iter().rposition(|&known| known) else { return Ok(None) };
    Ok(match model.conditioning() {
        Conditioning::None | Conditioning::Control => None,
        Conditioning::Timesteps => {
            let still = |frame| nearest(&settings.known, frame).and_then(|(part, at)| part.picture(at));
            let latents = encode(gpu, model, settings, last + 1, &still, observer)?;
            Some(Condition::Timesteps { latents: latents.only(&known), known })
        }
        Conditioning::Channels => {
            let grey = |frame| settings.known.iter().find_map(|part| part.picture(frame));
            let latents = encode(gpu, model, settings, frames, &grey, observer)?;
            let channels = with_mask(model, settings, &latents.only(&vec![true; frames]));
            let seen = model.image_encoder.as_ref().map(|encoder| encoder.see(gpu, model, settings, observer));
            Some(Condition::Channels { channels, pictures: seen.transpose()? })
        }
    })
}

/// Mask channels, one for each of a latent frame's frames, then the latents: \[1, M + C, F, h, w\]. The one frame of the
/// first latent frame stands in all of its mask channels.
fn with_mask(model: &Model, settings: &Settings, latents: &HostTensor) -> HostTensor {
    let [_, channels, frames, rows, columns] = settings.latents;
    let factor = model.frames_per_latent();
    let known = |frame: usize| settings.known.iter().any(|part| part.frames().contains(&frame));
    let mut values = Vec::with_capacity((factor + channels) * frames * rows * columns);
    for m in 0..factor {
        for f in 0..frames {
            let frame = if f == 0 { 0 } else { 1 + (f - 1) * factor + m };
            values.extend(std::iter::repeat_n(if known(frame) { 1.0 } else { 0.0 }, rows * columns));
        }
    }
    values.extend(latents.to_f32());
    HostTensor::from_f32([1, factor + channels, frames, rows, columns], &values)
}
