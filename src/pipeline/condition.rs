//! Frames that are known beforehand: a picture to begin or to end with, a video to go on from, all by one mechanism.
//!
//! A model that was trained with a timestep for every token (`expand_timesteps` of diffusers' `WanPipeline` and
//! `WanImageToVideoPipeline`; Wan 2.2 TI2V-5B) is given the latents of known frames clean, at timestep 0, and makes the
//! others to fit them. Any set of frames can be known. One is enough for its whole latent frame; the frames of such a
//! latent frame, and of all before it, that are not known are filled with the nearest that is, so that the causal
//! encoder sees a video that stands still where nothing is known. For the first frame alone this is what diffusers does.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::stream::{Chunk, Chunks, record};
use super::{Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::{Frame, KnownFrames, resize};
use crate::tensor::{DType, HostTensor};

/// Frames of a video that are known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The first of them, by its number from 0, or counted from the video's end: -1 is the last frame.
    pub start: isize,
    /// What they show, one after the other. Another size than the video's is stretched to it as diffusers does it.
    pub pixels: Vec<Frame>,
}

impl Known {
    /// A picture to begin with.
    pub fn first(picture: Frame) -> Self {
        Self { start: 0, pixels: vec![picture] }
    }

    /// A picture to end with.
    pub fn last(picture: Frame) -> Self {
        Self { start: -1, pixels: vec![picture] }
    }

    /// What a recipe says of them.
    pub(super) fn recipe(&self) -> KnownFrames {
        let mut hash = Sha256::new();
        for picture in &self.pixels {
            hash.update(format!("{}x{}\n", picture.width, picture.height));
            hash.update(&picture.rgb);
        }
        let Range { start, end } = self.frames();
        let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        KnownFrames { start: start as u32, count: (end - start) as u32, sha256 }
    }

    /// Which frames of the video, once none is counted from its end.
    fn frames(&self) -> Range<usize> {
        let start = self.start.unsigned_abs();
        start..start + self.pixels.len()
    }

    /// The picture at a frame of the video.
    fn picture(&self, frame: usize) -> Option<&Frame> {
        self.pixels.get(frame.checked_sub(self.frames().start)?)
    }
}

/// The latents of known frames.
#[derive(Clone, Debug)]
pub struct Condition {
    /// \[1, C, F, h, w\] f32, normalised; zeros where nothing is known.
    pub latents: HostTensor,
    /// \[F\]: which latent frames are known.
    pub known: Vec<bool>,
}

impl Condition {
    /// Latents \[1, C, F, h, w\] with the known frames in their place.
    pub fn apply(&self, latents: &HostTensor) -> HostTensor {
        let mask = self.unknown().to_f32();
        let values = latents.to_f32().into_iter().zip(self.latents.to_f32()).zip(mask);
        let values: Vec<f32> = values.map(|((x, known), unknown)| if unknown == 0.0 { known } else { x }).collect();
        HostTensor::from_f32(latents.shape(), &values)
    }

    /// \[1, C, F, h, w\] f32: 1 where nothing is known, else 0.
    pub fn unknown(&self) -> HostTensor {
        let shape = self.latents.shape();
        let [channels, frames, pixels] = [shape[1], shape[2], shape[3] * shape[4]];
        let frame = |f: usize| std::iter::repeat_n(if self.known[f] { 0.0 } else { 1.0 }, pixels);
        let values: Vec<f32> = (0..channels).flat_map(|_| (0..frames).flat_map(frame)).collect();
        HostTensor::from_f32(shape, &values)
    }
}

/// The known frames of a video of so many frames in their order, none counted from its end.
///
/// # Errors
/// When they are not in the video, overlap, or have no pictures.
pub(super) fn placed(known: &[Known], frames: usize) -> Result<Vec<Known>> {
    let refuse = |reason: String| Err(Error::request("known frames", reason));
    let mut placed: Vec<Known> = Vec::with_capacity(known.len());
    for part in known {
        let count = part.pixels.len();
        let start =
            if part.start < 0 { frames.checked_add_signed(part.start) } else { Some(part.start.unsigned_abs()) };
        match start {
            _ if count == 0 => return refuse(format!("there is no picture for frame {}", part.start)),
            Some(start) if start.saturating_add(count) <= frames => {
                placed.push(Known { start: start as isize, pixels: part.pixels.clone() });
            }
            _ => {
                let many = if count == 1 { "1 picture".to_owned() } else { format!("{count} pictures") };
                return refuse(format!("{many} from frame {} on are not in a video of {frames} frames", part.start));
            }
        }
    }
    placed.sort_by_key(|part| part.start);
    let overlap = placed.windows(2).find(|pair| pair[0].frames().end > pair[1].frames().start);
    if let Some([one, other]) = overlap {
        return refuse(format!("frames {:?} and {:?} overlap", one.frames(), other.frames()));
    }
    Ok(placed)
}

/// For each latent frame whether it is known, when `factor` frames make a latent one, but the first.
fn known_latents(known: &[Known], latents: usize, factor: usize) -> Vec<bool> {
    let frames = |f: usize| if f == 0 { 0..1 } else { 1 + (f - 1) * factor..1 + f * factor };
    let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    (0..latents).map(|f| known.iter().any(|part| meet(&part.frames(), &frames(f)))).collect()
}

/// The known frame nearest to `frame`, the earlier of two.
fn nearest(known: &[Known], frame: usize) -> Option<(&Known, usize)> {
    let closest = |part: &Known| frame.clamp(part.frames().start, part.frames().end - 1);
    let all = known.iter().map(|part| (part, closest(part)));
    all.min_by_key(|(_, at)| (frame.abs_diff(*at), *at))
}

/// Encodes the known frames of `settings`, up to the last latent frame that has any; `None` when nothing is known.
pub fn encode(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Option<Condition>> {
    let [_, channels, frames, rows, columns] = settings.latents;
    let factor = model.frames_per_latent();
    let known = known_latents(&settings.known, frames, factor);
    let Some(last) = known.iter().rposition(|&known| known) else { return Ok(None) };
    let steps = last + 1;
    let size = [settings.height, settings.width];
    let encoder = Chunks::new(gpu, steps > 1, |first| chunk(model, size, first))?;
    let mut latents = vec![0f32; channels * frames * rows * columns];
    // Pictures are stretched once, however often they are shown.
    let mut stretched: Option<(*const Frame, Vec<f32>)> = None;
    for f in 0..steps {
        let shown = if f == 0 { 0..1 } else { 1 + (f - 1) * factor..1 + f * factor };
        let count = shown.len();
        let mut pixels = Vec::with_capacity(count * size[0] * size[1] * 3);
        for frame in shown {
            let nearest = nearest(&settings.known, frame).and_then(|(part, at)| part.picture(at));
            let Some(picture) = nearest else { return Ok(None) };
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
        if !known[f] {
            continue;
        }
        // [h, w, C] of one frame -> [C, F, h, w].
        let z = program.read("latents")?.to_f32();
        if !z.iter().all(|v| v.is_finite()) {
            return Err(Error::model(model.name(), "the VAE made NaN or infinity of the given pictures"));
        }
        for (i, value) in z.into_iter().enumerate() {
            let (pixel, channel) = (i / channels, i % channels);
            latents[(channel * frames + f) * rows * columns + pixel] = value;
        }
    }
    observer(Event::Progress { phase: Phase::Encode, step: steps, steps, fraction: 1.0 })?;
    Ok(Some(Condition { latents: HostTensor::from_f32(settings.latents, &latents), known }))
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
    let one = known_latents(&settings.known, settings.latents[2], model.frames_per_latent()).iter().rposition(|&k| k);
    gpu.fits(&chunk(model, [settings.height, settings.width], one == Some(0))?.0)
}

/// \[H, W, 3\] in -1..1, rounded as diffusers' `VaeImageProcessor` rounds.
fn values(picture: &Frame) -> Vec<f32> {
    picture.rgb.iter().map(|&v| 2.0 * (f32::from(v) / 255.0) - 1.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(start: isize, count: usize) -> Known {
        let picture = Frame::new(1, 1, vec![7; 3]).expect("a picture");
        Known { start, pixels: vec![picture; count] }
    }

    #[test]
    fn a_latent_frame_is_known_with_any_of_its_frames() {
        assert_eq!(known_latents(&[known(0, 1)], 3, 4), [true, false, false]);
        assert_eq!(known_latents(&[known(8, 1)], 3, 4), [false, false, true]);
        assert_eq!(known_latents(&[known(0, 5)], 3, 4), [true, true, false]);
        assert_eq!(known_latents(&[known(0, 6)], 3, 4), [true, true, true]);
        assert_eq!(known_latents(&[], 2, 4), [false, false]);
    }

    #[test]
    fn what_is_not_known_stands_still() {
        let parts = [known(0, 2), known(7, 1)];
        let at = |frame| nearest(&parts, frame).map(|(_, at)| at);
        assert_eq!([0, 1, 2, 4, 5, 6, 7].map(at), [0, 1, 1, 1, 7, 7, 7].map(Some));
        assert!(nearest(&[], 3).is_none());
    }

    #[test]
    fn frames_are_counted_from_either_end() {
        let starts = |parts: &[Known]| {
            let placed = placed(parts, 12).unwrap_or_else(|e| panic!("{e}"));
            placed.iter().map(|part| (part.start, part.pixels.len())).collect::<Vec<_>>()
        };
        assert_eq!(starts(&[known(-1, 1), known(4, 5), known(0, 1)]), [(0, 1), (4, 5), (11, 1)]);
        assert_eq!(starts(&[known(-12, 12)]), [(0, 12)]);
    }

    #[test]
    fn sets_that_cannot_be_are_refused() {
        for (parts, word) in [
            (vec![known(3, 0)], "no picture for frame 3"),
            (vec![known(4, 9)], "9 pictures from frame 4 on"),
            (vec![known(12, 1)], "video of 12"),
            (vec![known(-13, 1)], "frame -13"),
            (vec![known(-1, 2)], "frame -1"),
            (vec![known(isize::MAX, 2)], "not in a video"),
            (vec![known(isize::MIN, 2)], "not in a video"),
            (vec![known(0, 4), known(3, 2)], "overlap"),
            (vec![known(-1, 1), known(11, 1)], "overlap"),
        ] {
            let error = placed(&parts, 12).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
