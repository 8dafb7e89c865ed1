//! Pictures to what CLIP sees in them: transformers' `CLIPImageProcessor`, then the image encoder.

use serde_json::Value;

use super::{Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::graph::Graph;
use crate::media::{Filter, Frame, resize_by};
use crate::models::clip_vision::ClipVision;
use crate::tensor::{DType, HostTensor};
use crate::weights::Config;

/// CLIP, with what is done to a picture before it.
pub struct ImageEncoder {
    network: ClipVision,
    processor: ImageProcessor,
    /// Whether the transformer has positions for a first and a last picture (Wan 2.1 FLF2V), rather than taking one.
    pub sees_both_ends: bool,
}

impl ImageEncoder {
    /// Puts the two together; without a `preprocessor_config.json` the processor does what OpenAI's CLIP asks for.
    ///
    /// # Errors
    /// When the processor's settings are not usable, or its pictures not of the network's size.
    pub fn new(network: ClipVision, processor: Option<&Config>, sees_both_ends: bool) -> Result<Self> {
        let side = network.side();
        let read = match processor {
            None => ImageProcessor::usual(side),
            Some(config) => {
                let read = ImageProcessor::read(config)?;
                if read.sides().is_some_and(|sides| sides != [side; 2]) {
                    let reason = format!("its pictures are not of {side}x{side} pixels, which the image encoder takes");
                    return Err(Error::model(config.path(), reason));
                }
                read
            }
        };
        Ok(Self { network, processor: read, sees_both_ends })
    }

    /// Its states \[1, P, C\] of the known frames: of the first of them or, where the transformer takes two, of the first
    /// and the last (`encode_image` of diffusers' `WanImageToVideoPipeline`).
    pub fn see(
        &self,
        gpu: &Gpu,
        model: &Model,
        settings: &Settings,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let first = settings.known.first().and_then(|part| part.pixels.first());
        let last = settings.known.last().and_then(|part| part.pixels.last());
        let pictures: Vec<&Frame> = first.into_iter().chain(last.filter(|_| self.sees_both_ends)).collect();
        let graph = Graph::new();
        let side = self.network.side();
        graph.output("states", self.network.forward(graph.input("pixels", [1, 3, side, side], DType::F32)));
        let program = gpu.compile(&graph.finish()?, &[])?;
        let mut states = Vec::new();
        let steps = pictures.len();
        for (step, picture) in pictures.into_iter().enumerate() {
            program.write("pixels", &self.pixels(picture)?)?;
            program.run(&mut |done| {
                let fraction = (step as f64 + done) / steps as f64;
                observer(Event::Progress { phase: Phase::Encode, step, steps, fraction })
            })?;
            states.extend(program.read("states")?.to_f32());
        }
        if !states.iter().all(|v| v.is_finite()) {
            return Err(Error::model(model.name(), "the image encoder made NaN or infinity of the given pictures"));
        }
        let dim = self.network.dim();
        Ok(HostTensor::from_f32([1, states.len() / dim, dim], &states))
    }

    fn pixels(&self, picture: &Frame) -> Result<HostTensor> {
        let pixels = self.processor.pixels(picture)?;
        let side = self.network.side();
        if pixels.shape().dims() != [1, 3, side, side] {
            let reason = format!(
                "the image processor makes {} of it, and the image encoder takes 3 channels of {side}x{side}",
                pixels.shape()
            );
            return Err(Error::request("--image", reason));
        }
        Ok(pixels)
    }
}

/// `CLIPImageProcessor`: what is done to a picture, step by step, each of which may be left out.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    resize: Option<(Size, Filter)>,
    /// Rows and columns in the middle.
    crop: Option<[usize; 2]>,
    /// What the values 0 to 255 are multiplied by.
    rescale: Option<f64>,
    /// Mean and spread of each channel.
    normalize: Option<([f32; 3], [f32; 3])>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Of the shorter side; the other follows.
    Shortest(usize),
    /// Rows and columns.
    Sides([usize; 2]),
}

/// The most rows or columns that a picture is made to have.
const MOST: u64 = 1 << 14;

impl ImageProcessor {
    /// What OpenAI's CLIP asks for, at a side of so many pixels.
    pub fn usual(side: usize) -> Self {
        Self {
            resize: Some((Size::Shortest(side), Filter::Bicubic)),
            crop: Some([side; 2]),
            rescale: Some(1.0 / 255.0),
            normalize: Some(([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1])),
        }
    }

    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// When a key is absurd, or asks for what is not supported.
    pub fn read(config: &Config) -> Result<Self> {
        let usual = Self::usual(224);
        let filter = match config.get_or("resample", 3)? {
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            4 => Filter::Box,
            5 => Filter::Hamming,
            other => return Err(config.error("resample", format!("{other} is not supported, only 1 to 5"))),
        };
        let crop = match size(config, "crop_size")? {
            Some(Size::Shortest(side)) => [side; 2],
            Some(Size::Sides(sides)) => sides,
            None => [224; 2],
        };
        let (mean, spread) = usual.normalize.unwrap_or_default();
        let spread = config.get_or("image_std", spread)?;
        if !spread.iter().all(|&v| v.is_finite() && v != 0.0) {
            return Err(config.error("image_std", "cannot be divided by"));
        }
        let asked = |key: &str| config.get_or(key, true);
        Ok(Self {
            resize: asked("do_resize")?.then_some((size(config, "size")?.unwrap_or(Size::Shortest(224)), filter)),
            crop: asked("do_center_crop")?.then_some(crop),
            rescale: asked("do_rescale")?.then_some(config.get_or("rescale_factor", 1.0 / 255.0)?),
            normalize: asked("do_normalize")?.then_some((config.get_or("image_mean", mean)?, spread)),
        })
    }

    /// Rows and columns of what it makes, where they are always the same.
    fn sides(&self) -> Option<[usize; 2]> {
        match (self.crop, self.resize) {
            (Some(sides), _) | (None, Some((Size::Sides(sides), _))) => Some(sides),
            _ => None,
        }
    }

    /// A picture as the encoder takes it: \[1, 3, H, W\] f32.
    ///
    /// # Errors
    /// [`Error::Request`] for a picture so narrow that it cannot be resized.
    pub fn pixels(&self, picture: &Frame) -> Result<HostTensor> {
        let resized = match self.resize {
            None => picture.clone(),
            Some((size, filter)) => {
                let [height, width] = size.of(picture);
                resize_by(picture, in_32_bits(width), in_32_bits(height), filter)?
            }
        };
        let (rows, columns) = (resized.height as usize, resized.width as usize);
        let [height, width] = self.crop.unwrap_or([rows, columns]);
        let (down, across) = (Shift::middle(rows, height), Shift::middle(columns, width));
        let mut values = Vec::with_capacity(3 * height * width);
        for channel in 0..3 {
            let (mean, spread) = self.normalize.map_or((0.0, 1.0), |(mean, spread)| (mean[channel], spread[channel]));
            for y in 0..height {
                for x in 0..width {
                    // What a crop has around a picture that is smaller is black.
                    let at = down.source(y, rows).zip(across.source(x, columns));
                    let at = at.map(|(y, x)| (y * columns + x) * 3 + channel);
                    let value = f64::from(at.and_then(|at| resized.rgb.get(at)).copied().unwrap_or(0));
                    let value = self.rescale.map_or(value, |factor| value * factor) as f32;
                    values.push((value - mean) / spread);
                }
            }
        }
        Ok(HostTensor::from_f32([1, 3, height, width], &values))
    }
}

impl Size {
    /// Rows and columns of a picture of this size; the longer side is rounded down.
    fn of(self, picture: &Frame) -> [usize; 2] {
        let (width, height) = (picture.width as usize, picture.height as usize);
        match self {
            Self::Sides(sides) => sides,
            Self::Shortest(side) => {
                let longer = (side * width.max(height)) as f64 / width.min(height).max(1) as f64;
                if width <= height { [longer as usize, side] } else { [side, longer as usize] }
            }
        }
    }
}

/// Where an axis of the middle of a picture lies in the picture.
#[derive(Clone, Copy)]
struct Shift {
    /// First index that is taken.
    first: usize,
    /// Indices of nothing before it.
    before: usize,
}

impl Shift {
    /// The middle `to` of `from` indices, rounded as `center_crop` of transformers' `image_transforms.py` rounds.
    fn middle(from: usize, to: usize) -> Self {
        if from >= to {
            Self { first: (from - to) / 2, before: 0 }
        } else {
            Self { first: 0, before: (to - from).div_ceil(2) }
        }
    }

    /// The index in the picture, if there is one.
    fn source(self, index: usize, from: usize) -> Option<usize> {
        Some(index.checked_sub(self.before)? + self.first).filter(|&at| at < from)
    }
}

/// A size of a processor's config: `{"shortest_edge": n}`, `{"height": n, "width": m}` or a number.
fn size(config: &Config, key: &str) -> Result<Option<Size>> {
    let Some(value) = config.get_optional::<Value>(key)? else { return Ok(None) };
    let side = |value: Option<&Value>| {
        let side = value.and_then(Value::as_u64).filter(|side| (1..=MOST).contains(side));
        side.map(|side| side as usize)
    };
    let keys = value.as_object().map_or(0, serde_json::Map::len);
    let sides = side(value.get("height")).zip(side(value.get("width"))).filter(|_| keys == 2);
    let shortest = side(Some(&value)).or_else(|| side(value.get("shortest_edge")).filter(|_| keys == 1));
    match (sides, shortest) {
        (Some((height, width)), _) => Ok(Some(Size::Sides([height, width]))),
        (None, Some(side)) => Ok(Some(Size::Shortest(side))),
        (None, None) => {
            let reason = format!("is {value}; `shortest_edge`, or `height` and `width`, of 1 to {MOST} are supported");
            Err(config.error(key, reason))
        }
    }
}

/// A side; one that does not fit is refused as too large.
fn in_32_bits(side: usize) -> u32 {
    u32::try_from(side).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ImageProcessor> {
        ImageProcessor::read(&Config::parse("preprocessor_config.json", text)?)
    }

    #[test]
    fn sizes_are_read_in_all_their_forms() -> Result<()> {
        assert_eq!(read("{}")?, ImageProcessor::usual(224));
        for text in [
            r#"{"size": 60, "crop_size": 50}"#,
            r#"{"size": {"shortest_edge": 60}, "crop_size": {"height": 50, "width": 50}}"#,
        ] {
            let got = read(text)?;
            assert_eq!((got.resize, got.crop), (Some((Size::Shortest(60), Filter::Bicubic)), Some([50, 50])), "{text}");
        }
        let got = read(r#"{"do_resize": false, "do_center_crop": false, "do_rescale": false, "do_normalize": false}"#)?;
        assert_eq!(got, ImageProcessor { resize: None, crop: None, rescale: None, normalize: None });
        let sides = read(r#"{"size": {"height": 3, "width": 4}, "do_center_crop": false, "resample": 2}"#)?;
        assert_eq!((sides.resize, sides.sides()), (Some((Size::Sides([3, 4]), Filter::Bilinear)), Some([3, 4])));
        for text in [
            r#"{"size": 0}"#,
            r#"{"size": {"shortest_edge": 5, "longest_edge": 9}}"#,
            r#"{"size": {"height": 5}}"#,
            r#"{"crop_size": 1e9}"#,
            r#"{"resample": 0}"#,
            r#"{"image_std": [1, 0, 1]}"#,
            r#"{"image_mean": [1, 0]}"#,
            r#"{"do_resize": 3}"#,
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(error.starts_with("preprocessor_config.json"), "{error}");
        }
        Ok(())
    }

    #[test]
    fn the_middle_is_taken_and_what_is_missing_is_black() -> Result<()> {
        let picture = Frame::new(5, 1, (0..15).collect())?;
        let processor = ImageProcessor { resize: None, crop: Some([2, 2]), rescale: None, normalize: None };
        // One of 5 columns is left out on the left and two on the right; a row of nothing comes before the only one.
        assert_eq!(processor.pixels(&picture)?.to_f32(), [0., 0., 3., 6., 0., 0., 4., 7., 0., 0., 5., 8.]);
        Ok(())
    }
}
