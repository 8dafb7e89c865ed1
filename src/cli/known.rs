//! `--image`, `--end-image` and `--known`: frames that the video is to have.

use std::path::{Path, PathBuf};

use clap::Args;
use mutoscope::media::{Frame, read_picture, read_video};
use mutoscope::pipeline::Known;
use mutoscope::{Error, Result};

/// Frames that are known beforehand.
#[derive(Args)]
pub struct KnownArguments {
    /// The picture that the video begins with: PNG, JPEG or WebP
    ///
    /// It takes a model that was trained for it. Without --size the video has about the model's usual number of pixels in
    /// the shape of the picture; with it the picture is stretched to that size.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,

    /// The picture that the video ends with
    ///
    /// The same as --image for a loop.
    #[arg(long, value_name = "FILE")]
    end_image: Option<PathBuf>,

    /// Frames that the video is to have: 0=clip.mp4 goes on from a clip, -1=end.png ends with a picture; may be repeated
    ///
    /// FRAMES is the number of the first, from 0, or counted from the end: -1 is the last. From there on the file gives as
    /// many frames as it has. With A..B it gives those from A to before B, a single picture for all of them. FILE is
    /// a picture, an MP4, a GIF, an APNG, a folder of pictures or a pattern such as frames/%04d.png.
    #[arg(long, value_name = "FRAMES=FILE", value_parser = part, allow_hyphen_values = true)]
    known: Vec<Part>,
}

/// One `--known`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    start: isize,
    /// The frame after the last; counted from the end if not above zero.
    end: Option<isize>,
    file: PathBuf,
}

fn part(text: &str) -> Result<Part, String> {
    let help = "give FRAMES=FILE, such as 0=clip.mp4, 0..9=clip.mp4 or -1=end.png";
    let (frames, file) = text.split_once('=').filter(|(_, file)| !file.is_empty()).ok_or(help)?;
    let number = |text: &str| text.trim().parse::<isize>().map_err(|_| help.to_owned());
    let (start, end) = match frames.split_once("..") {
        None => (number(frames)?, None),
        Some((start, "")) => (number(start)?, None),
        Some((start, end)) => (number(start)?, Some(number(end)?)),
    };
    Ok(Part { start, end, file: file.into() })
}

/// Reads what was given. `frames` tells how long the video is to be; it is asked only if there is anything to read.
pub fn read(arguments: &KnownArguments, frames: impl FnOnce() -> Result<usize>) -> Result<Vec<Known>> {
    let KnownArguments { image, end_image, known } = arguments;
    let mut found = Vec::new();
    if let Some(path) = image {
        found.push(Known::first(read_picture(path)?));
    }
    if let Some(path) = end_image {
        found.push(Known::last(read_picture(path)?));
    }
    if known.is_empty() {
        return Ok(found);
    }
    let frames = frames()?;
    for part in known {
        let count = part.count(frames)?;
        found.push(Known { start: part.start, pixels: pictures(&part.file, count, part.end.is_some())?.into() });
    }
    Ok(found)
}

impl Part {
    /// How many frames it is about, at most, in a video of so many.
    fn count(&self, frames: usize) -> Result<usize> {
        let from_start = |at: isize| if at < 0 { frames.checked_add_signed(at) } else { Some(at.unsigned_abs()) };
        let start = from_start(self.start).filter(|&start| start < frames);
        let end = self.end.map_or(Some(frames), |end| if end == 0 { Some(frames) } else { from_start(end) });
        match (start, end) {
            (Some(start), Some(end)) if start < end && end <= frames => Ok(end - start),
            _ => {
                let end = self.end.map(|end| format!("..{end}")).unwrap_or_default();
                let reason = format!(
                    "{}{end} is not in a video of {frames} frames, which are 0 to {}, or -{frames} to -1 from the end",
                    self.start,
                    frames - 1
                );
                Err(Error::request("--known", reason))
            }
        }
    }
}

/// The first pictures of a file, at most `count`, or `exactly` as many.
fn pictures(path: &Path, count: usize, exactly: bool) -> Result<Vec<Frame>> {
    let mut pictures: Vec<Frame> = read_video(path)?.take(count).collect::<Result<_>>()?;
    if exactly && pictures.len() == 1 {
        pictures = vec![pictures.remove(0); count];
    }
    if exactly && pictures.len() < count {
        let reason = format!("{} has {} frames, and {count} are asked of it", path.display(), pictures.len());
        return Err(Error::request("--known", reason));
    }
    Ok(pictures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read() {
        let parsed = |text, start, end, file: &str| assert_eq!(part(text), Ok(Part { start, end, file: file.into() }));
        parsed("0=clip.mp4", 0, None, "clip.mp4");
        parsed("-1=end=2.png", -1, None, "end=2.png");
        parsed("3..9=a/%04d.png", 3, Some(9), "a/%04d.png");
        parsed("-8..=a.gif", -8, None, "a.gif");
        parsed("-8..-4=a.gif", -8, Some(-4), "a.gif");
        for text in ["", "0", "=a.png", "0=", "a..b=c", "..4=c", "1...4=c", "1.5=c"] {
            assert!(part(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parts_know_how_many_frames_they_are_about() {
        let count = |text| part(text).expect("valid").count(17).ok();
        assert_eq!(count("0=f"), Some(17));
        assert_eq!(count("4=f"), Some(13));
        assert_eq!(count("4..9=f"), Some(5));
        assert_eq!(count("-4..=f"), Some(4));
        assert_eq!(count("-4..0=f"), Some(4));
        assert_eq!(count("-4..-1=f"), Some(3));
        for text in ["17=f", "4..4=f", "9..4=f", "0..18=f", "-18=f"] {
            assert_eq!(count(text), None, "{text}");
        }
    }
}
