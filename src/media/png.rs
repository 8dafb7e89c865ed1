//! PNG and animated PNG (PNG specification, third edition), with the recipe in an `iTXt` chunk.

use std::io::{BufRead, Seek, Write};

use super::{Fault, Frame, Rate};

/// The keyword of the chunk that holds the recipe.
const KEYWORD: &str = "mutoscope";

/// Starts a PNG, or an APNG that loops forever when `animation` gives its number of frames and rate.
fn header<W: Write>(
    out: W,
    (width, height): (u32, u32),
    animation: Option<(u32, Rate)>,
    comment: &str,
) -> Result<png::Writer<W>, Fault> {
    let mut encoder = png::Encoder::new(out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    encoder.add_itxt_chunk(KEYWORD.into(), comment.into())?;
    if let Some((frames, rate)) = animation {
        encoder.set_animated(frames, 0)?;
        // A frame lasts den/num seconds.
        encoder.set_frame_delay(rate.den(), rate.num())?;
    }
    Ok(encoder.write_header()?)
}

/// Writes one picture.
pub(super) fn write_still<W: Write>(out: W, frame: &Frame, comment: &str) -> Result<(), Fault> {
    let mut writer = header(out, (frame.width, frame.height), None, comment)?;
    writer.write_image_data(&frame.rgb)?;
    Ok(writer.finish()?)
}

/// An animated PNG, written frame by frame.
pub(super) struct Apng<W: Write>(png::Writer<W>);

impl<W: Write> Apng<W> {
    pub(super) fn new(out: W, size: (u32, u32), frames: u32, rate: Rate, comment: &str) -> Result<Self, Fault> {
        Ok(Self(header(out, size, Some((frames, rate)), comment)?))
    }

    pub(super) fn push(&mut self, frame: &Frame) -> Result<(), Fault> {
        Ok(self.0.write_image_data(&frame.rgb)?)
    }

    pub(super) fn finish(self) -> Result<(), Fault> {
        Ok(self.0.finish()?)
    }
}

/// The text of the recipe's chunk.
pub(super) fn read_comment(from: impl BufRead + Seek) -> Result<Option<String>, String> {
    let reader = png::Decoder::new(from).read_info().map_err(|e| e.to_string())?;
    match reader.info().utf8_text.iter().find(|chunk| chunk.keyword == KEYWORD) {
        Some(chunk) => chunk.get_text().map(Some).map_err(|e| e.to_string()),
        None => Ok(None),
    }
}
