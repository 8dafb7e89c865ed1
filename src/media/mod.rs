//! Pictures and videos in and out, each carrying the recipe that made it.
//!
//! [`Format::of`] reads the format off a file name, [`check_writable`] and [`Format::check`] refuse what cannot work
//! before a long run starts, and a [`Writer`] takes the frames one by one in constant memory. Nothing half-written
//! is ever left behind: a file is written beside its target under another name and takes its place when complete.
//!
//! | name            | what is written                                       | where the recipe is                     |
//! |-----------------|-------------------------------------------------------|-----------------------------------------|
//! | `x.mp4`         | H.264 constrained baseline, yuv420p BT.709, fast start | `moov/udta/meta/ilst/©cmt` (a comment)  |
//! | `x.gif`         | GIF89a, a palette per frame, looping                  | comment extension                       |
//! | `x.png`         | PNG for one frame, APNG (looping) for more            | `iTXt` chunk with keyword `mutoscope`   |
//! | `x.apng`        | APNG                                                  | the same                                |
//! | `x/%04d.png`    | numbered PNGs from 0001, folder made if absent        | the same, in each picture               |
//!
//! What comes in is told apart by its content. [`read_picture`] reads a picture as diffusers loads it, [`read_video`] the
//! frames of a video one by one, and [`resize`] brings either to the size of a video as diffusers' pipelines do.
//!
//! | what comes in          | how it is read                                                                          |
//! |------------------------|-----------------------------------------------------------------------------------------|
//! | PNG, JPEG, WebP        | turned upright, alpha dropped; a video of one frame, or of all when it is animated      |
//! | MP4, QuickTime         | H.264 4:2:0 of 8 bits, progressive, not fragmented; BT.601, BT.709, BT.2020             |
//! | GIF, APNG              | each frame as it is seen                                                                |
//! | `x/%04d.png`           | pictures numbered from 0 or 1, none missing                                             |
//! | a folder               | the pictures in it, `2.png` before `10.png`                                             |

mod format;
mod gif;
mod input;
mod mp4;
mod palette;
mod png;
mod rate;
mod recipe;
mod staging;
mod writer;

#[cfg(test)]
mod tests;

pub use format::{Format, Pattern};
pub use input::{Filter, VideoReader, read_picture, read_video, resize, resize_by};
pub use rate::Rate;
pub use recipe::{GivenVideo, KnownFrames, Recipe, UsedLora, read_recipe};
pub use staging::check_writable;
pub use writer::Writer;

use std::path::Path;

use crate::error::{Error, Result};

/// One picture: RGB, 8 bits a channel, sRGB, rows from the top, no padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height * width * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Frame {
    /// A frame of these pixels.
    ///
    /// # Errors
    /// [`Error::Request`] when a side is zero or `rgb` is not `height * width * 3` bytes.
    pub fn new(width: u32, height: u32, rgb: Vec<u8>) -> Result<Self> {
        let frame = Self { width, height, rgb };
        if !frame.is_whole() {
            let reason = format!("{width}x{height} with {} bytes of RGB", frame.rgb.len());
            return Err(Error::request("frame", reason));
        }
        Ok(frame)
    }

    /// Whether the pixels are as many as the size says, and at least one.
    fn is_whole(&self) -> bool {
        let bytes = u128::from(self.width) * u128::from(self.height) * 3;
        bytes > 0 && bytes == self.rgb.len() as u128
    }
}

/// What an encoder or decoder can fail of; who knows the file's name adds it.
#[derive(Debug)]
enum Fault {
    /// The operating system refused.
    Io(std::io::Error),
    /// The encoder or decoder refused.
    Codec(String),
}

impl Fault {
    /// The error of the crate, with the file's name.
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(error) => Error::io(path, error),
            Self::Codec(reason) => Error::media(path, reason),
        }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<::png::EncodingError> for Fault {
    fn from(error: ::png::EncodingError) -> Self {
        match error {
            ::png::EncodingError::IoError(error) => Self::Io(error),
            other => Self::Codec(other.to_string()),
        }
    }
}

impl From<::gif::EncodingError> for Fault {
    fn from(error: ::gif::EncodingError) -> Self {
        match error {
            ::gif::EncodingError::Io(error) => Self::Io(error),
            other => Self::Codec(other.to_string()),
        }
    }
}

impl From<openh264::Error> for Fault {
    fn from(error: openh264::Error) -> Self {
        Self::Codec(format!("H.264: {}", mp4::reason(&error)))
    }
}
