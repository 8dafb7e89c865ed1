//! Latents to frames, one latent frame at a time.

use super::stream::{Chunk, Chunks, Weights, record};
use super::tiles::{Grid, Seams, TilePrograms};
use super::{Event, Model, Phase, Tile};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::Frame;
use crate::tensor::{DType, HostTensor};

/// Decodes latents \[1, C, F, h, w\] and hands each frame to the observer.
///
/// The VAE is causal, so memory is that of one latent frame and of the few frames that each layer remembers, however
/// long the video; with tiles, that of one of them, and on the host that of the pictures.
pub fn decode(
    gpu: &Gpu,
    model: &Model,
    latents: &HostTensor,
    tile: Option<Tile>,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let latents = Latents::new(latents);
    let [_, frames, rows, columns] = latents.dims;
    let grid = Tile::of_decoder(tile, model, [rows, columns]);
    if grid.count() > 1 {
        decode_tiles(gpu, model, &latents, &grid, observer)?;
    } else {
        decode_whole(gpu, model, &latents, observer)?;
    }
    let steps = frames * grid.count();
    observer(Event::Progress { phase: Phase::Decode, step: steps, steps, fraction: 1.0 })
}

/// Latents on the host.
struct Latents {
    /// C, F, h, w.
    dims: [usize; 4],
    values: Vec<f32>,
}

impl Latents {
    fn new(latents: &HostTensor) -> Self {
        Self { dims: [1, 2, 3, 4].map(|axis| latents.shape()[axis]), values: latents.to_f32() }
    }

    /// \[C, F, h, w\] -> \[1, h, w, C\] of some rows and columns of one frame; the device undoes the normalisation.
    fn part(&self, f: usize, [y, x]: [std::ops::Range<usize>; 2]) -> HostTensor {
        let [channels, frames, rows, columns] = self.dims;
        let at = |c: usize, row: usize, column: usize| self.values[((c * frames + f) * rows + row) * columns + column];
        let shape = [1, y.len(), x.len(), channels];
        let pixels = y.flat_map(|row| x.clone().map(move |column| (row, column)));
        let values: Vec<f32> =
            pixels.flat_map(|(row, column)| (0..channels).map(move |c| at(c, row, column))).collect();
        HostTensor::from_f32(shape, &values)
    }
}

fn decode_whole(
    gpu: &Gpu,
    model: &Model,
    latents: &Latents,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let [_, frames, rows, columns] = latents.dims;
    let decoder = Chunks::new(gpu, frames > 1, |first| chunk(model, [rows, columns], first, Pixels::Bytes))?;
    let mut index = 0;
    for f in 0..frames {
        let program = decoder.program(f == 0);
        program.write("latents", &latents.part(f, [0..rows, 0..columns]))?;
        program.run(&mut |done| {
            let fraction = (f as f64 + done) / frames as f64;
            observer(Event::Progress { phase: Phase::Decode, step: f, steps: frames, fraction })
        })?;
        for frame in pictures(&gpu.read(program.output("pixels")?)?)? {
            observer(Event::Frame { index, frame: &frame })?;
            index += 1;
        }
    }
    Ok(())
}

/// Tile by tile; frames come with the last one.
fn decode_tiles(
    gpu: &Gpu,
    model: &Model,
    latents: &Latents,
    grid: &Grid,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let [_, frames, rows, columns] = latents.dims;
    let (unit, factor) = (model.pixels_per_latent(), model.frames_per_latent());
    let [height, width] = [rows * unit, columns * unit];
    let record = |shape: [usize; 2], first: bool| chunk(model, shape, first, Pixels::Values);
    let mut programs = TilePrograms::new(gpu, frames > 1, &record);
    let count = 1 + (frames - 1) * factor;
    let mut canvases = vec![Vec::new(); count];
    let patch = model.vae.config().patch;
    let mut seams: Vec<Seams> = (0..count).map(|_| Seams::new(grid, unit, patch, 3)).collect();
    let steps = frames * grid.count();
    for (number, place) in grid.places().enumerate() {
        let [y, x] = grid.at(place);
        let decoder = programs.begin([y.len(), x.len()])?;
        let shape = [y.len() * unit, x.len() * unit];
        let mut pictures = canvases.iter_mut().zip(&mut seams).enumerate();
        for f in 0..frames {
            let step = number * frames + f;
            let program = decoder.program(f == 0);
            program.write("latents", &latents.part(f, [y.clone(), x.clone()]))?;
            program.run(&mut |done| {
                let fraction = (step as f64 + done) / steps as f64;
                observer(Event::Progress { phase: Phase::Decode, step, steps, fraction })
            })?;
            let pixels = program.read("pixels")?;
            if gpu.is_rehearsal() {
                continue;
            }
            let mut pixels = pixels.to_f32();
            for (tile, (index, (canvas, seams))) in
                pixels.chunks_exact_mut(shape[0] * shape[1] * 3).zip(pictures.by_ref())
            {
                seams.blend(tile, shape, place);
                canvas.resize(height * width * 3, 0);
                // What the next tiles cover anew is overwritten by them.
                for (row, values) in (y.start * unit..).zip(tile.chunks_exact(shape[1] * 3)) {
                    let start = (row * width + x.start * unit) * 3;
                    canvas[start..start + values.len()].iter_mut().zip(values).for_each(|(to, &v)| *to = byte(v));
                }
                if number + 1 == grid.count() {
                    let frame = Frame::new(width as u32, height as u32, std::mem::take(canvas));
                    observer(Event::Frame { index, frame: &frame.map_err(|e| Error::Internal(e.to_string()))? })?;
                }
            }
        }
    }
    Ok(())
}

/// A pixel's value in -1..1 as the kernel `to_rgb8` gives it.
fn byte(value: f32) -> u8 {
    // A cast gives 0 for NaN.
    ((value * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// What is read back of decoded pixels.
#[derive(Clone, Copy)]
pub(super) enum Pixels {
    /// \[T, H, W\] of packed bytes.
    Bytes,
    /// \[T, H, W, 3\] f32, roughly in -1..1.
    Values,
}

/// Decodes one latent frame of so many rows and columns.
pub(super) fn chunk(model: &Model, [rows, columns]: [usize; 2], first: bool, kind: Pixels) -> Result<Chunk> {
    record(|graph, stream| {
        let config = model.vae.config();
        let channels = config.mean.len();
        let z = graph.input("latents", [1, rows, columns, channels], DType::F32);
        let mean = graph.constant(HostTensor::from_f32([channels], &config.mean));
        let std = graph.constant(HostTensor::from_f32([channels], &config.std));
        let pixels = model.vae.forward(z.mul(std).add(mean), first, stream);
        graph.output(
            "pixels",
            match kind {
                Pixels::Bytes => pixels.to_rgb8(),
                Pixels::Values => pixels,
            },
        );
    })
}

/// Refuses sizes that the device cannot decode on these tiles, before anything is computed.
pub(super) fn check_memory(
    gpu: &Gpu,
    model: &Model,
    latents: [usize; 5],
    tile: Option<Tile>,
    weights: Weights,
) -> Result<()> {
    let [_, _, frames, rows, columns] = latents;
    let grid = Tile::of_decoder(tile, model, [rows, columns]);
    let kind = if grid.count() > 1 { Pixels::Values } else { Pixels::Bytes };
    Chunks::check_memory(gpu, frames > 1, weights, |first| chunk(model, grid.largest(), first, kind))
}

/// \[T, H, W\] pixels of four bytes -> T pictures.
fn pictures(pixels: &HostTensor) -> Result<Vec<Frame>> {
    let [frames, height, width] = [0, 1, 2].map(|axis| pixels.shape()[axis]);
    let rgb: Vec<u8> = pixels.bytes().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let broken = |e: Error| Error::Internal(e.to_string());
    let picture = |t: usize| rgb[t * height * width * 3..(t + 1) * height * width * 3].to_vec();
    (0..frames).map(|t| Frame::new(width as u32, height as u32, picture(t)).map_err(broken)).collect()
}
