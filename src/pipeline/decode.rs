//! Latents to frames, one latent frame at a time.

use super::stream::{Chunk, Chunks, record};
use super::{Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::Frame;
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
    let decoder = Chunks::new(gpu, frames > 1, |first| chunk(model, [rows, columns], first))?;
    let values = latents.to_f32();
    let mut index = 0;
    for f in 0..frames {
        // [C, F, h, w] -> [h, w, C] of one frame; the device undoes the normalisation.
        let pixel = |i: usize, c: usize| values[(c * frames + f) * rows * columns + i];
        let z: Vec<f32> = (0..rows * columns).flat_map(|i| (0..channels).map(move |c| pixel(i, c))).collect();
        let program = decoder.program(f == 0);
        program.write("latents", &HostTensor::from_f32([1, rows, columns, channels], &z))?;
        program.run(&mut |done| {
            let fraction = (f as f64 + done) / frames as f64;
            observer(Event::Progress { phase: Phase::Decode, step: f, steps: frames, fraction })
        })?;
        for frame in pictures(&gpu.read(program.output("pixels")?)?)? {
            observer(Event::Frame { index, frame: &frame })?;
            index += 1;
        }
    }
    observer(Event::Progress { phase: Phase::Decode, step: frames, steps: frames, fraction: 1.0 })
}

/// Decodes one latent frame of so many rows and columns.
fn chunk(model: &Model, [rows, columns]: [usize; 2], first: bool) -> Result<Chunk> {
    record(|graph, stream| {
        let config = model.vae.config();
        let channels = config.mean.len();
        let z = graph.input("latents", [1, rows, columns, channels], DType::F32);
        let mean = graph.constant(HostTensor::from_f32([channels], &config.mean));
        let std = graph.constant(HostTensor::from_f32([channels], &config.std));
        graph.output("pixels", model.vae.forward(z.mul(std).add(mean), first, stream).to_rgb8());
    })
}

/// Refuses sizes that the device cannot decode, before anything is computed.
pub fn check_memory(gpu: &Gpu, model: &Model, settings: &Settings) -> Result<()> {
    let [_, _, frames, rows, columns] = settings.latents;
    gpu.fits(&chunk(model, [rows, columns], frames == 1)?.0)
}

/// \[T, H, W\] pixels of four bytes -> T pictures.
fn pictures(pixels: &HostTensor) -> Result<Vec<Frame>> {
    let [frames, height, width] = [0, 1, 2].map(|axis| pixels.shape()[axis]);
    let rgb: Vec<u8> = pixels.bytes().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let broken = |e: Error| Error::Internal(e.to_string());
    let picture = |t: usize| rgb[t * height * width * 3..(t + 1) * height * width * 3].to_vec();
    (0..frames).map(|t| Frame::new(width as u32, height as u32, picture(t)).map_err(broken)).collect()
}
