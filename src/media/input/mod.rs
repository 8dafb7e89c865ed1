//! Pictures and videos that others made, read as [`Frame`](super::Frame)s.
//!
//! What a file is, its content says and not its name. A size that it declares is believed only up to [`MOST_PIXELS`].

mod animation;
mod folder;
mod jpeg;
mod picture;
mod resize;
mod sniff;
mod video;

#[cfg(test)]
mod tests;

use image::ImageError;

use super::Fault;

pub use picture::read_picture;
pub use resize::{Filter, resize, resize_by};
pub use video::{VideoReader, read_video};

/// The most pixels that a picture may have (16384 x 8192): more than any camera's, and 400 MB as RGB.
const MOST_PIXELS: u64 = 1 << 27;

/// The most pixels that a frame of a video may have: those of 8K (7680 x 4320), roughly.
pub(super) const MOST_FRAME_PIXELS: u64 = 1 << 25;

/// Whether so many pixels are believed.
pub(super) fn check_size(width: u32, height: u32, most: u64) -> Result<(), Fault> {
    if u64::from(width) * u64::from(height) > most {
        let reason = format!("{width}x{height} pixels are too many (at most {most}); make it smaller");
        return Err(Fault::Codec(reason));
    }
    if width == 0 || height == 0 {
        return Err(Fault::Codec(format!("{width}x{height} has no pixels; it is damaged")));
    }
    Ok(())
}

/// How faults of what comes in are worded. `what` is the format.
impl Fault {
    pub(super) fn cut_short(what: &str) -> Self {
        Self::Codec(format!("the {what} is cut short; copy or download it again"))
    }

    pub(super) fn damaged(what: &str, why: impl ToString) -> Self {
        // Some decoders' messages have more than one line.
        let why = why.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self::Codec(format!("the {what} cannot be decoded ({why}); save it anew in another program"))
    }

    pub(super) fn of_io(what: &str, error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::cut_short(what),
            // Where decoders put what they think of the content.
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => Self::damaged(what, error),
            _ => Self::Io(error),
        }
    }

    fn of_image(what: &str, error: ImageError) -> Self {
        match error {
            ImageError::IoError(error) => Self::of_io(what, error),
            other => Self::damaged(what, other),
        }
    }

    fn of_png(error: png::DecodingError) -> Self {
        match error {
            png::DecodingError::IoError(error) => Self::of_io("PNG", error),
            png::DecodingError::LimitsExceeded => Self::Codec("the PNG is too large; make it smaller".into()),
            other => Self::damaged("PNG", other),
        }
    }
}
