//! Frames in, one file (or folder) out.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use super::gif::Gif;
use super::mp4::Mp4;
use super::png::{Apng, write_still};
use super::staging::{StagedFile, StagedFolder};
use super::{Fault, Format, Frame, Rate, Recipe};
use crate::error::{Error, Result};

/// Takes the frames of a video one by one, in constant memory.
///
/// The output appears under its name when [`Writer::finish`] returns `Ok`, and not before; dropped unfinished, or
/// after an error, a writer leaves nothing behind and an older file of that name as it was.
///
/// ```no_run
/// use mutoscope::media::{Format, Frame, Recipe, Writer};
///
/// let (width, height, frames, fps) = (64, 64, 2, 16.0);
/// let recipe = Recipe { prompt: "two black frames".into(), ..Recipe::default() };
/// let format = Format::of("black.mp4", frames)?;
/// let mut writer = Writer::create("black.mp4", &format, width, height, fps, frames, &recipe)?;
/// for _ in 0..frames {
///     writer.push(&Frame::new(width, height, vec![0; 64 * 64 * 3])?)?;
/// }
/// writer.finish()?;
/// # Ok::<(), mutoscope::Error>(())
/// ```
pub struct Writer {
    path: PathBuf,
    sink: Sink,
    size: (u32, u32),
    frames: u32,
    written: u32,
    failed: bool,
}

/// The file as encoders see it. They flush it when they finish, so that no late error goes unseen.
type Output = BufWriter<File>;

/// An encoder with the file it writes. The encoder comes first, so that a drop closes the file, then removes it.
enum Sink {
    Mp4(Box<Mp4<Output>>, StagedFile),
    Gif(Gif<Output>, StagedFile),
    Png(Option<Output>, StagedFile, String),
    Apng(Apng<Output>, StagedFile),
    Frames(StagedFolder, String),
}

impl Writer {
    /// Starts an output of exactly `frames` frames of `width` x `height`, shown at `fps` frames a second.
    ///
    /// MP4 has even sides: an odd one grows by a copy of its last column or row.
    ///
    /// # Errors
    /// [`Error::Request`] when the format cannot hold such a video, [`Error::Io`] when the file (or folder) cannot
    /// be made, [`Error::Media`] when the encoder refuses.
    pub fn create(
        path: impl AsRef<Path>,
        format: &Format,
        width: u32,
        height: u32,
        fps: f64,
        frames: u32,
        recipe: &Recipe,
    ) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        format.check(width, height, frames, fps)?;
        let rate = Rate::new(fps)?;
        let comment = recipe.to_json()?;
        let size = (width, height);
        let stage = || StagedFile::create(&path).map(|(staged, file)| (staged, BufWriter::new(file)));
        let sink = match format {
            Format::Mp4 => {
                let (staged, out) = stage()?;
                let encoder = Mp4::new(out, size, frames, rate, comment).map_err(|fault| fault.at(&path))?;
                Sink::Mp4(Box::new(encoder), staged)
            }
            Format::Gif => {
                let (staged, out) = stage()?;
                let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX); // checked above
                let encoder = Gif::new(out, (side(width), side(height)), rate, &recipe.to_ascii_json()?);
                Sink::Gif(encoder.map_err(|fault| fault.at(&path))?, staged)
            }
            Format::Png => {
                let (staged, out) = stage()?;
                Sink::Png(Some(out), staged, comment)
            }
            Format::Apng => {
                let (staged, out) = stage()?;
                let encoder = Apng::new(out, size, frames, rate, &comment);
                Sink::Apng(encoder.map_err(|fault| fault.at(&path))?, staged)
            }
            Format::Frames { pattern } => Sink::Frames(StagedFolder::create(pattern)?, comment),
        };
        Ok(Self { path, sink, size, frames, written: 0, failed: false })
    }

    /// Adds the next frame.
    ///
    /// # Errors
    /// [`Error::Media`] for a frame of another size, or one too many; [`Error::Io`] when writing fails (a full
    /// disk). After an error the writer takes nothing more.
    pub fn push(&mut self, frame: &Frame) -> Result<()> {
        let number = self.written + 1;
        if self.failed {
            return Err(Error::media(&self.path, "an earlier frame failed"));
        }
        // Until the end of this function says otherwise.
        self.failed = true;
        let (width, height) = self.size;
        if (frame.width, frame.height) != self.size || !frame.is_whole() {
            let got = format!("{}x{} ({} bytes)", frame.width, frame.height, frame.rgb.len());
            return Err(Error::media(&self.path, format!("frame {number} is {got} in a video of {width}x{height}")));
        }
        if number > self.frames {
            return Err(Error::media(&self.path, format!("frame {number} of {}", self.frames)));
        }
        match &mut self.sink {
            Sink::Mp4(encoder, _) => encoder.push(frame),
            Sink::Gif(encoder, _) => encoder.push(frame),
            Sink::Apng(encoder, _) => encoder.push(frame),
            Sink::Png(out, _, comment) => match out.take() {
                Some(out) => write_still(out, frame, comment),
                None => Err(Fault::Codec("a second picture".into())),
            },
            Sink::Frames(folder, comment) => write_still(BufWriter::new(folder.next()?), frame, comment),
        }
        .map_err(|fault| fault.at(&self.path))?;
        self.written = number;
        self.failed = false;
        Ok(())
    }

    /// Completes the output and puts it in its place, over an older one.
    ///
    /// # Errors
    /// [`Error::Media`] when frames are missing or an earlier one failed, [`Error::Io`] when writing fails.
    pub fn finish(self) -> Result<()> {
        let Self { path, sink, frames, written, failed, .. } = self;
        if failed || written != frames {
            return Err(Error::media(&path, format!("only {written} of {frames} frames were written")));
        }
        match sink {
            Sink::Mp4(encoder, staged) => encoder.finish().map(|()| staged),
            Sink::Gif(encoder, staged) => encoder.finish().map(|()| staged),
            Sink::Apng(encoder, staged) => encoder.finish().map(|()| staged),
            Sink::Png(_, staged, _) => Ok(staged),
            Sink::Frames(folder, _) => return folder.commit(),
        }
        .map_err(|fault| fault.at(&path))?
        .commit()
    }
}
