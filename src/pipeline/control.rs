//! What a model with a branch for a control video (VACE, arXiv:2503.07598) is told: a video, a mask of what is to be made in
//! it, references. This is `preprocess_conditions`, `prepare_video_latents` and `prepare_masks` of diffusers'
//! `WanVACEPipeline`.
//!
//! The video goes through the VAE twice, once with what is to be made greyed out and once with all else; the mask comes in
//! as many further channels as a latent has pixels. References are latent frames before the video's, in the reverse of the
//! order in which they were given; what is made of them is thrown away in the end. Known frames are frames of the video of
//! which nothing is to be made, and where there is no video at all it is grey and everything is to be made.

use std::borrow::Cow;
use std::ops::Range;

use super::known::sha256;
use super::pictures::{Source, encode_source, value};
use super::{Event, Model, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::media::{Frame, resize};
use crate::tensor::HostTensor;

/// Values of a mask from which on something is to be made.
const MADE: u8 = 128;

/// The control video's latents \[1, 2 C + s s, R + F, h, w\] f32, when a latent stands for s x s pixels.
pub fn latents(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<HostTensor> {
    let shape = settings.video_latents();
    let [_, channels, frames, rows, columns] = shape;
    let (references, unit) = (settings.references.len(), model.pixels_per_latent());
    let sequence = Sequence::new(settings)?;
    let all = vec![true; frames];
    let mut passes = Passes { done: 0, total: references + if sequence.is_empty() { 1 } else { 2 } * frames, observer };
    let mut part = |reactive: bool| {
        let mut source = Part { sequence: &sequence, reactive };
        let encoded = encode_source(gpu, model, shape, settings.tile, (frames, &mut source), &mut |event| {
            passes.tell(event, frames)
        })?;
        passes.done += frames;
        Ok::<_, Error>(encoded.only(&all).to_f32())
    };
    let inactive = part(false)?;
    // Grey is grey, whether it is to be kept or to be made.
    let reactive = if sequence.is_empty() { inactive.clone() } else { part(true)? };
    let mut shown = Vec::with_capacity(references);
    for reference in settings.references.iter().rev() {
        let mut canvas = Canvas::new(reference, [settings.height, settings.width], unit)?;
        let one = [1, channels, 1, rows, columns];
        let encoded =
            encode_source(gpu, model, one, settings.tile, (1, &mut canvas), &mut |event| passes.tell(event, 1))?;
        passes.done += 1;
        shown.push(encoded.only(&[true]).to_f32());
    }

    let plane = rows * columns;
    let mut values = Vec::with_capacity((2 * channels + unit * unit) * (references + frames) * plane);
    for c in 0..channels {
        shown.iter().for_each(|latents| values.extend(&latents[c * plane..(c + 1) * plane]));
        values.extend(&inactive[c * frames * plane..(c + 1) * frames * plane]);
    }
    for c in 0..channels {
        values.resize(values.len() + references * plane, 0.0);
        values.extend(&reactive[c * frames * plane..(c + 1) * frames * plane]);
    }
    for (i, j) in (0..unit).flat_map(|i| (0..unit).map(move |j| (i, j))) {
        values.resize(values.len() + references * plane, 0.0);
        for f in 0..frames {
            // The frame in the middle of those that the latent frame's share of the video covers.
            let mask = &sequence.masks[(2 * f + 1) * settings.frames / (2 * frames)];
            let at = |y: usize, x: usize| ((y * unit + i) * settings.width + x * unit + j) * 3;
            values.extend((0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))).map(|(y, x)| mask.share(at(y, x))));
        }
    }
    Ok(HostTensor::from_f32([1, 2 * channels + unit * unit, references + frames, rows, columns], &values))
}

/// Progress of several passes through the encoder as that of one.
struct Passes<'o> {
    /// Latent frames of passes that are over, and of all.
    done: usize,
    total: usize,
    observer: &'o mut dyn FnMut(Event<'_>) -> Result<()>,
}

impl Passes<'_> {
    /// Hands on what a pass of so many latent frames tells.
    fn tell(&mut self, event: Event<'_>, frames: usize) -> Result<()> {
        let event = match event {
            Event::Progress { phase, step, steps, fraction } => {
                let tiles = steps / frames;
                let (before, steps) = (self.done * tiles, self.total * tiles);
                let done = before as f64 + fraction * (frames * tiles) as f64;
                Event::Progress { phase, step: before + step, steps, fraction: done / steps as f64 }
            }
            other => other,
        };
        (self.observer)(event)
    }
}

/// The control video, frame by frame, at the size of the video to be made.
struct Sequence<'a> {
    /// Grey where there is none.
    pictures: Vec<Option<Cow<'a, Frame>>>,
    masks: Vec<Mask<'a>>,
}

/// What of a frame is to be made.
#[derive(Clone)]
enum Mask<'a> {
    Nothing,
    Everything,
    /// Where it is white; each channel for itself.
    Picture(Cow<'a, Frame>),
}

impl Mask<'_> {
    /// Whether a value of the frame's RGB is to be made.
    fn made(&self, at: usize) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Picture(mask) => mask.rgb.get(at).is_some_and(|&v| v >= MADE),
        }
    }

    /// The same as the transformer is told it: in between as it stands.
    fn share(&self, at: usize) -> f32 {
        match self {
            Self::Nothing => 0.0,
            Self::Everything => 1.0,
            Self::Picture(mask) => mask.rgb.get(at).map_or(0.0, |&v| (value(v) + 1.0) / 2.0),
        }
    }
}

impl<'a> Sequence<'a> {
    fn new(settings: &'a Settings) -> Result<Self> {
        let sized = |picture: &'a Frame| {
            let (width, height) = (settings.width as u32, settings.height as u32);
            if (picture.width, picture.height) == (width, height) {
                return Ok(Cow::Borrowed(picture));
            }
            resize(picture, width, height).map(Cow::Owned)
        };
        // One mask for all frames is stretched once.
        let held = match &*settings.mask {
            [mask] => Some(Mask::Picture(sized(mask)?)),
            _ => None,
        };
        let (mut pictures, mut masks) = (Vec::new(), Vec::new());
        for frame in 0..settings.frames {
            let known = settings.known.iter().find_map(|part| part.picture(frame));
            let given = settings.video.get(frame);
            pictures.push(known.or(given).map(sized).transpose()?);
            masks.push(match (known, given, &held, settings.mask.get(frame)) {
                (Some(_), ..) => Mask::Nothing,
                (None, None, ..) => Mask::Everything,
                (None, Some(_), Some(held), _) => held.clone(),
                (None, Some(_), None, Some(mask)) => Mask::Picture(sized(mask)?),
                (None, Some(_), None, None) => Mask::Everything,
            });
        }
        Ok(Self { pictures, masks })
    }

    /// Whether there is no video, only grey.
    fn is_empty(&self) -> bool {
        self.pictures.iter().all(Option::is_none)
    }
}

/// The control video with what is to be made, or all else, greyed out.
struct Part<'s, 'a> {
    sequence: &'s Sequence<'a>,
    reactive: bool,
}

impl Source for Part<'_, '_> {
    fn append(
        &mut self,
        frame: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let Some((Some(picture), mask)) = self.sequence.pictures.get(frame).zip(self.sequence.masks.get(frame)) else {
            values.resize(values.len() + rows.len() * columns.len() * 3, 0.0);
            return Ok(());
        };
        let width = picture.width as usize;
        for row in rows.clone() {
            let range = (row * width + columns.start) * 3..(row * width + columns.end) * 3;
            let bytes = picture.rgb.get(range.clone()).unwrap_or_default().iter().zip(range);
            values.extend(bytes.map(|(&v, at)| if mask.made(at) == self.reactive { value(v) } else { 0.0 }));
        }
        Ok(())
    }
}

/// A reference in the middle of a white picture of the video's size, as large as it fits.
struct Canvas {
    /// \[H, W, 3\] in -1..1.
    values: Vec<f32>,
    width: usize,
}

impl Canvas {
    /// The reference is brought to multiples of `unit` first, as diffusers does with every picture.
    fn new(reference: &Frame, [height, width]: [usize; 2], unit: usize) -> Result<Self> {
        let [rows, columns] = [reference.height, reference.width].map(|side| side as usize / unit * unit);
        let picture = resize(reference, columns as u32, rows as u32)?;
        let scale = (height as f64 / rows as f64).min(width as f64 / columns as f64);
        let [new_rows, new_columns] = [rows, columns].map(|side| (side as f64 * scale) as usize);
        let (down, across) = (taps(rows, new_rows), taps(columns, new_columns));
        let (top, left) = ((height - new_rows) / 2, (width - new_columns) / 2);
        let mut values = vec![1f32; height * width * 3];
        let at = |y: usize, x: usize, c: usize| picture.rgb.get((y * columns + x) * 3 + c).map_or(0.0, |&v| value(v));
        for (y, down) in down.iter().enumerate() {
            for (x, across) in across.iter().enumerate() {
                for c in 0..3 {
                    let row = |y: usize| {
                        across.weights[0] * at(y, across.from[0], c) + across.weights[1] * at(y, across.from[1], c)
                    };
                    values[((top + y) * width + left + x) * 3 + c] =
                        down.weights[0] * row(down.from[0]) + down.weights[1] * row(down.from[1]);
                }
            }
        }
        Ok(Self { values, width })
    }
}

impl Source for Canvas {
    fn append(&mut self, _: usize, rows: &Range<usize>, columns: &Range<usize>, values: &mut Vec<f32>) -> Result<()> {
        for row in rows.clone() {
            let range = (row * self.width + columns.start) * 3..(row * self.width + columns.end) * 3;
            values.extend(self.values.get(range).unwrap_or_default());
        }
        Ok(())
    }
}

/// The two inputs that an output is made of.
struct Taps {
    from: [usize; 2],
    weights: [f32; 2],
}

/// PyTorch's `interpolate(mode="bilinear", align_corners=False)` along one axis, in f32 as there.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f32 / to as f32;
    let taps = |index: usize| {
        let centre = (scale * (index as f32 + 0.5) - 0.5).max(0.0);
        let first = (centre as usize).min(from - 1);
        let second = (first + 1).min(from - 1);
        let share = centre - first as f32;
        Taps { from: [first, second], weights: [1.0 - share, share] }
    };
    (0..to).map(taps).collect()
}

impl Settings {
    /// Shape of the video's own latents \[1, C, F, h, w\], without those of references.
    pub(super) fn video_latents(&self) -> [usize; 5] {
        let [one, channels, frames, rows, columns] = self.latents;
        [one, channels, frames - self.references.len(), rows, columns]
    }

    /// The video's own of the latents that a run leaves.
    pub(super) fn without_references<'l>(&self, latents: &'l HostTensor) -> Cow<'l, HostTensor> {
        let references = self.references.len();
        if references == 0 {
            return Cow::Borrowed(latents);
        }
        let plane = self.latents[3] * self.latents[4];
        let values = latents.to_f32();
        let kept: Vec<f32> = values
            .chunks_exact(self.latents[2] * plane)
            .flat_map(|frames| &frames[references * plane..])
            .copied()
            .collect();
        Cow::Owned(HostTensor::from_f32(self.video_latents(), &kept))
    }

    /// What a recipe says of the mask.
    pub(super) fn given_mask(&self) -> Option<String> {
        (!self.mask.is_empty()).then(|| sha256(&self.mask))
    }

    /// What a recipe says of the references.
    pub(super) fn given_references(&self) -> Vec<String> {
        self.references.iter().map(|reference| sha256(std::slice::from_ref(reference))).collect()
    }
}
