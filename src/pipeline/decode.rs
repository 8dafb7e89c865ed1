//! Latents to frames, one latent frame at a time.

use super::{Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Program, Tensor};
use crate::graph::{Graph, Recording, TensorType};
use crate::media::Frame;
use crate::nn::Stream;
use crate::tensor::{DType, HostTensor};

/// Decodes latents \[1, C, F, h, w\] and hands each frame to the observer.
///
/// The VAE is causal, so memory is that of one latent frame and of the few frames that each layer remembers, however
/// long the video.
pub fn decode(
    gpu: &Gpu,
    model: &Model,
    latents: &HostTensor,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let dims = latents.shape();
    let [channels, frames, rows, columns] = [1, 2, 3, 4].map(|axis| dims[axis]);
    let mut decoder = Decoder::new(gpu, model, [rows, columns], frames > 1)?;
    let values = latents.to_f32();
    let mut index = 0;
    for f in 0..frames {
        // [C, F, h, w] -> [h, w, C] of one frame; the device undoes the normalisation.
        let pixel = |i: usize, c: usize| values[(c * frames + f) * rows * columns + i];
        let z: Vec<f32> = (0..rows * columns).flat_map(|i| (0..channels).map(move |c| pixel(i, c))).collect();
        let z = HostTensor::from_f32([1, rows, columns, channels], &z);
        let pictures = decoder.next(f == 0, &z, &mut |done| {
            let fraction = (f as f64 + done) / frames as f64;
            observer(Event::Progress { phase: Phase::Decode, step: f, steps: frames, fraction })
        })?;
        for frame in pictures {
            observer(Event::Frame { index, frame: &frame })?;
            index += 1;
        }
    }
    observer(Event::Progress { phase: Phase::Decode, step: frames, steps: frames, fraction: 1.0 })
}

/// The VAE on a device: a program for the first latent frame, one for all others, and what they remember.
struct Decoder<'a> {
    gpu: &'a Gpu,
    first: Program,
    next: Option<Program>,
}

/// The graph that decodes one latent frame, and the frames that its layers remember.
fn record(model: &Model, [rows, columns]: [usize; 2], first: bool) -> Result<(Recording, Vec<(String, TensorType)>)> {
    let graph = Graph::new();
    let config = model.vae.config();
    let channels = config.mean.len();
    let z = graph.input("latents", [1, rows, columns, channels], DType::F32);
    let mean = graph.constant(HostTensor::from_f32([channels], &config.mean));
    let std = graph.constant(HostTensor::from_f32([channels], &config.std));
    let stream = Stream::new(&graph);
    let video = model.vae.forward(z.mul(std).add(mean), first, &stream);
    graph.output("pixels", video.to_rgb8());
    let states = stream.into_states();
    Ok((graph.finish()?, states))
}

/// Refuses sizes that the device cannot decode, before anything is computed.
pub fn check_memory(gpu: &Gpu, model: &Model, settings: &Settings) -> Result<()> {
    let [_, _, frames, rows, columns] = settings.latents;
    gpu.fits(&record(model, [rows, columns], frames == 1)?.0)
}

impl<'a> Decoder<'a> {
    fn new(gpu: &'a Gpu, model: &Model, size: [usize; 2], more: bool) -> Result<Self> {
        let mut memory: Vec<(String, Tensor)> = Vec::new();
        let mut compile = |first: bool| {
            let (recording, states) = record(model, size, first)?;
            for (name, ty) in states {
                if !memory.iter().any(|(other, _)| *other == name) {
                    let tensor = gpu.allocate(&name, ty)?;
                    gpu.clear(&tensor)?;
                    memory.push((name, tensor));
                }
            }
            let used: Vec<(&str, &Tensor)> = memory.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            gpu.compile(&recording, &used)
        };
        let first = compile(true)?;
        let next = if more { Some(compile(false)?) } else { None };
        Ok(Self { gpu, first, next })
    }

    /// The frames of the next latent frame.
    fn next(&mut self, first: bool, z: &HostTensor, progress: &mut dyn FnMut(f64) -> Result<()>) -> Result<Vec<Frame>> {
        let program = match &self.next {
            Some(next) if !first => next,
            _ => &self.first,
        };
        program.write("latents", z)?;
        program.run(progress)?;
        let pixels = self.gpu.read(program.output("pixels")?)?;
        let [frames, height, width] = [0, 1, 2].map(|axis| pixels.shape()[axis]);
        let rgb: Vec<u8> = pixels.bytes().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
        let broken = |e: Error| Error::Internal(e.to_string());
        (0..frames)
            .map(|t| {
                let picture = rgb[t * height * width * 3..(t + 1) * height * width * 3].to_vec();
                Frame::new(width as u32, height as u32, picture).map_err(broken)
            })
            .collect()
    }
}
