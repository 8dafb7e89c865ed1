//! What a run is told of frames that are known beforehand: a picture to begin or to end with, a video to go on from, all
//! by one mechanism.
//!
//! The VAE encodes one video, as long as the one to be made, in which known frames are in their place. How the latents
//! reach the transformer, and what is in the other frames, is the model's [`Conditioning`]. Any set of frames can be known;
//! for the first, and where diffusers takes it the last, this is what `WanImageToVideoPipeline` does.

use super::known::{known_latents, nearest};
use super::stream::{Chunk, Chunks, record};
use super::{Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Var;
use crate::media::{Frame, resize};
use crate::tensor::{DType, HostTensor};

/// How a model is told of known frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditioning {
    /// It is not: it makes videos from text alone.
    None,
    /// Clean latents in their place, whose tokens have timestep 0 (`expand_timesteps`: Wan 2.2 TI2V-5B). One known frame is
    /// enough for its whole latent frame; what is not known stands still, showing the nearest frame that is.
    Timesteps,
    /// Further channels of its input: for each latent frame which of its frames are known, then the latents of a video
    /// that is grey where nothing is (Wan 2.2 I2V-A14B).
    Channels,
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
    /// By [`Conditioning::Channels`]: \[1, M + C, F, h, w\] f32, M mask channels before those of the latents.
    Channels(HostTensor),
}

impl Condition {
    /// The transformer's timesteps at a step's `time`: one, or one for each latent frame.
    pub fn times(&self, time: f32) -> Vec<f32> {
        match self {
            Self::Timesteps { known, .. } => known.iter().map(|&known| if known { 0.0 } else { time }).collect(),
            Self::Channels(_) => vec![time],
        }
    }

    /// What the transformer sees of the latents \[1, C, F, h, w\] that the sampler has.
    pub fn input<'g>(&self, latents: Var<'g>) -> Var<'g> {
        let graph = latents.graph();
        match self {
            Self::Timesteps { latents: clean, known } => {
                latents.mul(graph.constant(unknown(clean, known))).add(graph.constant(clean.clone()))
            }
            Self::Channels(further) => {
                let without_batch = |shape: crate::tensor::Shape| [shape[1], shape[2], shape[3], shape[4]];
                let further = graph.constant(further.clone());
                let joined = latents
                    .reshape(without_batch(latents.shape()))
                    .concat(further.reshape(without_batch(further.shape())));
                let [channels, frames, rows, columns] = [0, 1, 2, 3].map(|axis| joined.shape()[axis]);
                joined.reshape([1, channels, frames, rows, columns])
            }
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

/// What the model is told of the known frames of `settings`; `None` when nothing is known.
pub fn condition(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Option<Condition>> {
    let frames = settings.latents[2];
    let known = known_latents(&settings.known, frames, model.frames_per_latent());
    let Some(last) = known.iter().rposition(|&known| known) else { return Ok(None) };
    Ok(match model.conditioning() {
        Conditioning::None => None,
        Conditioning::Timesteps => {
            let still = |frame| nearest(&settings.known, frame).and_then(|(part, at)| part.picture(at));
            let latents = encode(gpu, model, settings, last + 1, &still, observer)?;
            Some(Condition::Timesteps { latents: latents.only(&known), known })
        }
        Conditioning::Channels => {
            let grey = |frame| settings.known.iter().find_map(|part| part.picture(frame));
            let latents = encode(gpu, model, settings, frames, &grey, observer)?;
            Some(Condition::Channels(with_mask(model, settings, &latents.only(&vec![true; frames]))))
        }
    })
}

/// Latents of a video, frame by frame: \[h, w, C\] of each that was encoded.
struct Encoded {
    shape: [usize; 5],
    frames: Vec<Vec<f32>>,
}

impl Encoded {
    /// \[1, C, F, h, w\] f32: the frames that are `wanted`, zeros for the others.
    fn only(&self, wanted: &[bool]) -> HostTensor {
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
fn encode<'a>(
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

/// Encodes the pixels of one latent frame, of so many rows and columns, to normalised latents.
fn chunk(model: &Model, [rows, columns]: [usize; 2], first: bool) -> Result<Chunk> {
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

/// Refuses sizes that the device cannot encode, before anything is computed.
pub fn check_memory(gpu: &Gpu, model: &Model, settings: &Settings) -> Result<()> {
    if settings.known.is_empty() {
        return Ok(());
    }
    let latents = known_latents(&settings.known, settings.latents[2], model.frames_per_latent());
    let one = match model.conditioning() {
        Conditioning::Channels => latents.len() == 1,
        Conditioning::None | Conditioning::Timesteps => latents.iter().rposition(|&known| known) == Some(0),
    };
    gpu.fits(&chunk(model, [settings.height, settings.width], one)?.0)
}

/// \[H, W, 3\] in -1..1, rounded as diffusers' `VaeImageProcessor` rounds.
fn values(picture: &Frame) -> Vec<f32> {
    picture.rgb.iter().map(|&v| 2.0 * (f32::from(v) / 255.0) - 1.0).collect()
}
