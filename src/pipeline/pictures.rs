//! Pictures to latents: a video through the VAE's encoder, for frames that are known and for video to video.

use std::collections::HashMap;
use std::ops::Range;

use super::known::known_latents;
use super::stream::{Chunk, Chunks, Weights, record};
use super::tiles::{Grid, Seams, TilePrograms};
use super::{Conditioning, Event, Model, Phase, Settings, Tile};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::{Frame, resize};
use crate::tensor::{DType, HostTensor};

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
    encode_tiles(gpu, model, settings.latents, settings.tile, (steps, picture), observer)
}

/// The same for latents of a shape, on tiles.
pub(super) fn encode_tiles<'a>(
    gpu: &Gpu,
    model: &Model,
    latents: [usize; 5],
    tile: Option<Tile>,
    (steps, picture): (usize, &dyn Fn(usize) -> Option<&'a Frame>),
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Encoded> {
    let size = [latents[3], latents[4]].map(|side| side * model.pixels_per_latent());
    let mut pictures = Pictures { size, picture, stretched: HashMap::new() };
    encode_source(gpu, model, latents, tile, (steps, &mut pictures), observer)
}

/// What the VAE's encoder is shown.
pub(super) trait Source {
    /// Appends these rows and columns of a frame of the video, \[rows, columns, 3\] in -1..1.
    fn append(
        &mut self,
        frame: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<()>;
}

/// The same of whatever is shown.
pub(super) fn encode_source(
    gpu: &Gpu,
    model: &Model,
    latents: [usize; 5],
    tile: Option<Tile>,
    (steps, source): (usize, &mut dyn Source),
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Encoded> {
    let [_, channels, _, rows, columns] = latents;
    let unit = model.pixels_per_latent();
    let grid = Tile::of_encoder(tile, model, [rows, columns]);
    let record = |shape: [usize; 2], first: bool| chunk(model, shape, first);
    let mut programs = TilePrograms::new(gpu, steps > 1, &record);
    let mut frames = vec![vec![0f32; rows * columns * channels]; steps];
    let mut seams: Vec<Seams> = (0..steps).map(|_| Seams::new(&grid, 1, 1, channels)).collect();
    let total = steps * grid.count();
    let mut done = 0;
    for place in grid.places() {
        let [y, x] = grid.at(place);
        let shape = [y.len(), x.len()];
        let encoder = programs.begin(shape)?;
        for (f, (frame, seams)) in frames.iter_mut().zip(&mut seams).enumerate() {
            let [pixel_rows, pixel_columns] = [&y, &x].map(|side| side.start * unit..side.end * unit);
            let shown = shown(f, model.frames_per_latent());
            let size = [shown.len(), pixel_rows.len(), pixel_columns.len(), 3];
            let mut values = Vec::with_capacity(size.iter().product());
            if gpu.is_rehearsal() {
                values.resize(size.iter().product(), 0.0);
            } else {
                for frame in shown {
                    source.append(frame, &pixel_rows, &pixel_columns, &mut values)?;
                }
            }
            let pixels = HostTensor::from_f32(size, &values);
            let program = encoder.program(f == 0);
            program.write("pixels", &pixels)?;
            program.run(&mut |part| {
                let fraction = (done as f64 + part) / total as f64;
                observer(Event::Progress { phase: Phase::Encode, step: done, steps: total, fraction })
            })?;
            done += 1;
            let mut z = program.read("latents")?.to_f32();
            if !z.iter().all(|v| v.is_finite()) {
                return Err(Error::model(model.name(), "the VAE made NaN or infinity of the given pictures"));
            }
            seams.blend(&mut z, shape, place);
            // What the next tiles cover anew is overwritten by them.
            for (row, values) in y.clone().zip(z.chunks_exact(shape[1] * channels)) {
                let start = (row * columns + x.start) * channels;
                frame[start..start + values.len()].copy_from_slice(values);
            }
        }
    }
    observer(Event::Progress { phase: Phase::Encode, step: total, steps: total, fraction: 1.0 })?;
    Ok(Encoded { shape: latents, frames })
}

/// The frames of video that a latent frame is made of.
fn shown(latent: usize, factor: usize) -> Range<usize> {
    if latent == 0 { 0..1 } else { 1 + (latent - 1) * factor..1 + latent * factor }
}

/// Pictures at the size of the video, and grey where there is none. Those that need it are stretched once, however often
/// they are shown.
struct Pictures<'a, 'f> {
    size: [usize; 2],
    picture: &'f dyn Fn(usize) -> Option<&'a Frame>,
    stretched: HashMap<*const Frame, Frame>,
}

impl Source for Pictures<'_, '_> {
    fn append(
        &mut self,
        frame: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let Some(picture) = (self.picture)(frame) else {
            values.resize(values.len() + rows.len() * columns.len() * 3, 0.0);
            return Ok(());
        };
        let width = self.size[1];
        let picture = self.stretched(picture)?;
        for row in picture.rgb.chunks_exact(width * 3).skip(rows.start).take(rows.len()) {
            values.extend(row[columns.start * 3..columns.end * 3].iter().map(|&v| value(v)));
        }
        Ok(())
    }
}

/// -1..1, rounded as diffusers' `VaeImageProcessor` rounds.
pub(super) fn value(byte: u8) -> f32 {
    2.0 * (f32::from(byte) / 255.0) - 1.0
}

impl Pictures<'_, '_> {
    fn stretched<'s>(&'s mut self, picture: &'s Frame) -> Result<&'s Frame> {
        let [height, width] = self.size;
        if [picture.height as usize, picture.width as usize] == self.size {
            return Ok(picture);
        }
        match self.stretched.entry(std::ptr::from_ref(picture)) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(new) => {
                Ok(new.insert(resize(picture, width as u32, height as u32)?))
            }
        }
    }
}

/// Encodes the pixels of one latent frame, of so many rows and columns of latents, to normalised latents.
pub(super) fn chunk(model: &Model, shape: [usize; 2], first: bool) -> Result<Chunk> {
    let encoder = model.vae_encoder()?;
    record(|graph, stream| {
        let config = encoder.config();
        let vector = |values: Vec<f32>| graph.constant(HostTensor::from_f32([values.len()], &values));
        let minus_mean = vector(config.mean.iter().map(|mean| -mean).collect());
        let scale = vector(config.std.iter().map(|std| 1.0 / std).collect());
        let count = if first { 1 } else { model.frames_per_latent() };
        let [rows, columns] = shape.map(|side| side * model.pixels_per_latent());
        let pixels = graph.input("pixels", [count, rows, columns, 3], DType::F32);
        let mean = encoder.forward(pixels, first, stream);
        graph.output("latents", mean.add(minus_mean).mul(scale));
    })
}

/// Latent frames that a run has to encode.
pub(super) fn steps(model: &Model, settings: &Settings) -> usize {
    let all = settings.video_latents()[2];
    let known = known_latents(&settings.known, all, model.frames_per_latent());
    match (known.iter().rposition(|&known| known), model.conditioning()) {
        (_, Conditioning::Control) => all,
        _ if settings.from_video() => all,
        (None, _) => 0,
        (Some(_), Conditioning::Channels) => all,
        (Some(last), Conditioning::None | Conditioning::Timesteps) => last + 1,
    }
}

/// Refuses sizes of which the device cannot encode so many latent frames on these tiles, before anything is computed.
pub(super) fn check_memory(
    gpu: &Gpu,
    model: &Model,
    [_, _, _, rows, columns]: [usize; 5],
    steps: usize,
    tile: Option<Tile>,
    weights: Weights,
) -> Result<()> {
    let grid: Grid = Tile::of_encoder(tile, model, [rows, columns]);
    if steps == 0 {
        return Ok(());
    }
    Chunks::check_memory(gpu, steps > 1, weights, |first| chunk(model, grid.largest(), first))
}
