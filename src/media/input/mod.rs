//! Pictures and videos that others made, read as [`Frame`](super::Frame)s.
//!
//! What a file is, its content says and not its name. A size that it declares is believed only up to [`MOST_PIXELS`].

mod picture;
mod resize;
mod sniff;

pub use picture::read_picture;
pub use resize::resize;

/// The most pixels that a picture may have (16384 x 8192): more than any camera's, and 400 MB as RGB.
const MOST_PIXELS: u64 = 1 << 27;
