//! Animated GIF (GIF89a), with the recipe in a comment extension.

use std::io::{BufRead, Read, Write};

use super::palette::quantise;
use super::{Fault, Frame, Rate};
use crate::error::{Error, Result};

/// A longer comment than this is nobody's recipe.
const LONGEST_COMMENT: usize = 1 << 20;

/// What a GIF can hold: sides of 16 bits, and no faster than 50 frames a second, since players slow down delays
/// below 2/100 s to 10/100.
pub(super) fn check(width: u32, height: u32, rate: Rate) -> Result<()> {
    if width.max(height) > u32::from(u16::MAX) {
        return Err(Error::request("--size", format!("{width}x{height}: a GIF's sides go up to {}", u16::MAX)));
    }
    if u32::from(rate.num()) > 50 * u32::from(rate.den()) {
        let reason = format!("{} frames a second: a GIF plays at most 50; use .mp4 or .apng", rate.fps());
        return Err(Error::request("--fps", reason));
    }
    Ok(())
}

/// A looping GIF, written frame by frame, each with its own palette.
pub(super) struct Gif<W: Write> {
    encoder: gif::Encoder<W>,
    rate: Rate,
    written: u32,
}

impl<W: Write> Gif<W> {
    /// `comment` should be ASCII, as the format says.
    pub(super) fn new(out: W, size: (u16, u16), rate: Rate, comment: &str) -> Result<Self, Fault> {
        let mut encoder = gif::Encoder::new(out, size.0, size.1, &[])?;
        encoder.set_repeat(gif::Repeat::Infinite)?;
        encoder.write_raw_extension(gif::Extension::Comment.into(), &[comment.as_bytes()])?;
        Ok(Self { encoder, rate, written: 0 })
    }

    /// `frame` must have the size that the GIF was made with.
    pub(super) fn push(&mut self, frame: &Frame) -> Result<(), Fault> {
        let side = |n: u32| u16::try_from(n).map_err(|_| Fault::Codec("frame too large for a GIF".into()));
        let (width, height) = (side(frame.width)?, side(frame.height)?);
        let (palette, indices) = quantise(&frame.rgb);
        let mut picture = gif::Frame::from_palette_pixels(width, height, indices, palette, None);
        picture.dispose = gif::DisposalMethod::Keep;
        // The delay is what brings the end of this frame to the nearest hundredth, so the mean rate is exact.
        let delay = self.end_of(self.written + 1) - self.end_of(self.written);
        picture.delay = u16::try_from(delay).unwrap_or(u16::MAX);
        self.encoder.write_frame(&picture)?;
        self.written += 1;
        Ok(())
    }

    /// When the first `frames` frames are over, in hundredths of a second, rounded.
    fn end_of(&self, frames: u32) -> u64 {
        let (num, den) = (u64::from(self.rate.num()), u64::from(self.rate.den()));
        (200 * u64::from(frames) * den + num) / (2 * num)
    }

    pub(super) fn finish(self) -> Result<(), Fault> {
        Ok(self.encoder.into_inner()?.flush()?)
    }
}

/// How many pictures a GIF has, and how many hundredths of a second they take. A missing trailer is forgiven.
///
/// # Errors
/// Of kind `UnexpectedEof` when it ends inside a block, of kind `InvalidData` when a block is none.
pub(super) fn scan(mut from: impl BufRead) -> std::io::Result<(u32, u64)> {
    let mut header = [0; 13];
    from.read_exact(&mut header)?;
    skip_palette(&mut from, header[10])?;
    let (mut pictures, mut hundredths, mut delay) = (0_u32, 0_u64, 0_u64);
    loop {
        let mut kind = [0];
        if from.read(&mut kind)? == 0 {
            return Ok((pictures, hundredths));
        }
        match kind[0] {
            0x3b => return Ok((pictures, hundredths)),
            0x21 => {
                let mut label = [0];
                from.read_exact(&mut label)?;
                let data = sub_blocks(&mut from)?;
                if let (0xf9, Some(&[low, high])) = (label[0], data.get(1..3)) {
                    delay = u64::from(u16::from_le_bytes([low, high]));
                }
            }
            0x2c => {
                let mut picture = [0; 9];
                from.read_exact(&mut picture)?;
                skip_palette(&mut from, picture[8])?;
                from.read_exact(&mut kind)?; // bits of a code
                skip_sub_blocks(&mut from)?;
                pictures = pictures.saturating_add(1);
                hundredths += std::mem::take(&mut delay);
            }
            _ => return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "an unknown block")),
        }
    }
}

/// Passes over a palette, when the flags before it say that there is one.
fn skip_palette(from: &mut impl BufRead, flags: u8) -> std::io::Result<()> {
    if flags & 0x80 != 0 {
        skip(from, 3 << ((flags & 7) + 1))?;
    }
    Ok(())
}

/// Passes over so many bytes.
fn skip(from: &mut impl BufRead, bytes: u64) -> std::io::Result<()> {
    let passed = std::io::copy(&mut from.by_ref().take(bytes), &mut std::io::sink())?;
    if passed == bytes { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Passes over blocks of a length byte and as many others, up to an empty one.
fn skip_sub_blocks(from: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let mut length = [0];
        from.read_exact(&mut length)?;
        if length[0] == 0 {
            return Ok(());
        }
        skip(from, u64::from(length[0]))?;
    }
}

/// The first comment of a GIF that stands before its first picture.
pub(super) fn read_comment(mut from: impl BufRead) -> Result<Option<String>, String> {
    let broken = |e: std::io::Error| format!("broken GIF: {e}");
    let mut header = [0; 13];
    from.read_exact(&mut header).map_err(broken)?;
    skip_palette(&mut from, header[10]).map_err(broken)?;
    loop {
        let mut block = [0; 2];
        from.read_exact(&mut block).map_err(broken)?;
        // Anything but an extension ends the search: a picture, or the end.
        if block[0] != 0x21 {
            return Ok(None);
        }
        let comment = sub_blocks(&mut from).map_err(broken)?;
        if block[1] == 0xfe {
            return Ok(String::from_utf8(comment).ok());
        }
    }
}

/// The data of an extension: blocks of a length byte and as many others, up to an empty one.
fn sub_blocks(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let mut length = [0];
        from.read_exact(&mut length)?;
        if length[0] == 0 {
            return Ok(data);
        }
        let start = data.len();
        data.resize(start + usize::from(length[0]), 0);
        from.read_exact(&mut data[start..])?;
        if data.len() > LONGEST_COMMENT {
            return Err(std::io::Error::other("an extension of more than a megabyte"));
        }
    }
}
