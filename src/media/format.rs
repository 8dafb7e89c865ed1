//! Which format a file name asks for, and what that format can hold.

use std::path::{Path, PathBuf};

use super::{Rate, gif, mp4};
use crate::error::{Error, Result};

/// The format of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// H.264 in MP4.
    Mp4,
    /// An animated GIF.
    Gif,
    /// One picture.
    Png,
    /// An animated PNG.
    Apng,
    /// A folder of numbered PNGs.
    Frames {
        /// Their names.
        pattern: Pattern,
    },
}

impl Format {
    /// The format that the name of `path` asks for, when there are this many frames: `.mp4`, `.gif`, `.apng`; `.png`
    /// is a picture for one frame and an APNG for more; a `.png` name with `%d`, `%4d` or `%04d` in it is a folder of
    /// numbered pictures, see [`Pattern`]. Case does not matter.
    ///
    /// # Errors
    /// [`Error::Request`] for any other name; it lists what works.
    pub fn of(path: impl AsRef<Path>, frames: u32) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "mp4" => Ok(Self::Mp4),
            "gif" => Ok(Self::Gif),
            "apng" => Ok(Self::Apng),
            "png" => Ok(match Pattern::parse(path) {
                Some(pattern) => Self::Frames { pattern },
                None if frames == 1 => Self::Png,
                None => Self::Apng,
            }),
            _ => {
                let reason = format!(
                    "`{}` does not end in a known extension; give .mp4, .gif, .png (one picture, or an animated PNG) \
                     or a folder of numbered pictures such as frames/%04d.png",
                    path.display()
                );
                Err(Error::request("--out", reason))
            }
        }
    }

    /// Whether the format can hold such a video; to be asked before a long run.
    ///
    /// # Errors
    /// [`Error::Request`] that names the setting and the limit.
    pub fn check(&self, width: u32, height: u32, frames: u32, fps: f64) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(Error::request("--size", format!("{width}x{height} has no pixels")));
        }
        if frames == 0 {
            return Err(Error::request("--frames", "a video needs at least one frame"));
        }
        let rate = Rate::new(fps)?;
        match self {
            Self::Mp4 => mp4::check(width, height, frames, rate),
            Self::Gif => gif::check(width, height, rate),
            Self::Png if frames != 1 => {
                Err(Error::request("--frames", format!("a PNG holds one picture, not {frames}; use .apng")))
            }
            Self::Png | Self::Apng | Self::Frames { .. } => Ok(()),
        }
    }
}

/// The names of the pictures of a frame folder: one `%d` (1, 2, ... 10) or `%04d`, also written `%4d` (0001, 0002, ...)
/// in the file's name, `%%` for a percent sign; numbers start at 1, as ffmpeg's do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    folder: PathBuf,
    before: String,
    digits: usize,
    after: String,
}

impl Pattern {
    /// The pattern in the last component of `path`; `None` when it holds no number, or more than one.
    pub fn parse(path: impl AsRef<Path>) -> Option<Self> {
        let path = path.as_ref();
        let mut rest = path.file_name()?.to_str()?;
        let (mut text, mut found) = (String::new(), None);
        while let Some((plain, after)) = rest.split_once('%') {
            text.push_str(plain);
            if let Some(after) = after.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let (digits, after) = after.split_once('d')?;
            let width = match digits {
                "" => 0,
                // More digits than a frame count has would only make names too long for the file system.
                _ => digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?.filter(|&n| n <= 20)?,
            };
            if found.replace((std::mem::take(&mut text), width)).is_some() {
                return None;
            }
            rest = after;
        }
        text.push_str(rest);
        let (before, digits) = found?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Some(Self { folder, before, digits, after: text })
    }

    /// Where the pictures lie; empty for the working directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of picture `number`.
    pub fn path(&self, number: u32) -> PathBuf {
        self.folder.join(self.name(number))
    }

    fn name(&self, number: u32) -> String {
        format!("{}{number:0width$}{}", self.before, self.after, width = self.digits)
    }

    /// The number of the picture with this name; `None` when it is not of the pattern.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let number = name.strip_prefix(&self.before)?.strip_suffix(&self.after)?.parse().ok()?;
        (self.name(number) == name).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_extension() -> Result<()> {
        assert_eq!(Format::of("a.mp4", 5)?, Format::Mp4);
        assert_eq!(Format::of("A.MP4", 1)?, Format::Mp4);
        assert_eq!(Format::of("x/a.gif", 5)?, Format::Gif);
        assert_eq!(Format::of("a.png", 1)?, Format::Png);
        assert_eq!(Format::of("a.png", 2)?, Format::Apng);
        assert_eq!(Format::of("a.apng", 1)?, Format::Apng);
        // A percent sign that numbers nothing is a percent sign.
        assert_eq!(Format::of("100%.png", 1)?, Format::Png);
        for (name, third) in [
            ("f/%d.png", "f/3.png"),
            ("f/a-%04d.png", "f/a-0003.png"),
            ("%3db.PNG", "003b.PNG"),
            ("f/5%%-%02d.png", "f/5%-03.png"),
        ] {
            let Format::Frames { pattern } = Format::of(name, 9)? else { panic!("{name} is no pattern") };
            assert_eq!(pattern.path(3), PathBuf::from(third));
        }
        Ok(())
    }

    #[test]
    fn unknown_extension_lists_what_works() {
        for name in ["a.avi", "a", "", "mp4", "a.webm", "dir/", "a.%04d"] {
            let Err(Error::Request { argument, reason }) = Format::of(name, 5) else { panic!("{name} passed") };
            assert_eq!(argument, "--out");
            for known in [".mp4", ".gif", ".png", "%04d.png"] {
                assert!(reason.contains(known), "{reason}");
            }
        }
    }

    #[test]
    fn limits() {
        let refused = |format: &Format, w, h, n, fps| match format.check(w, h, n, fps) {
            Err(Error::Request { argument, .. }) => argument,
            other => format!("{other:?}"),
        };
        assert_eq!(refused(&Format::Mp4, 4096, 2304, 9, 16.0), "--size");
        assert_eq!(refused(&Format::Mp4, 64, 8, 9, 16.0), "--size");
        assert_eq!(refused(&Format::Mp4, 64, 0, 9, 16.0), "--size");
        assert_eq!(refused(&Format::Mp4, 64, 64, 0, 16.0), "--frames");
        assert_eq!(refused(&Format::Mp4, 64, 64, 9, f64::NAN), "--fps");
        assert_eq!(refused(&Format::Mp4, 64, 64, u32::MAX, 0.01), "--frames");
        assert_eq!(refused(&Format::Gif, 70_000, 64, 9, 16.0), "--size");
        assert_eq!(refused(&Format::Gif, 64, 64, 9, 60.0), "--fps");
        assert_eq!(refused(&Format::Png, 64, 64, 9, 16.0), "--frames");
        assert!(Format::Mp4.check(2160, 3840, 900, 23.976).is_ok());
        assert!(Format::Gif.check(64, 64, 900, 50.0).is_ok());
    }
}
