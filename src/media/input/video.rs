//! Videos: frames from whatever holds them, one at a time.

use std::path::{Path, PathBuf};

use image::metadata::Orientation;

use super::animation::{GifReader, ImageFrames, Length};
use super::picture::{decode, turned};
use super::sniff::{Kind, open};
use super::{folder, read_picture};
use crate::error::{Error, Result};
use crate::media::mp4::Mp4Reader;
use crate::media::{Fault, Frame, Pattern};

/// The frames of a video, read one by one in constant memory: an iterator.
///
/// All have the size of the first. After an error, which names the file, there are no more.
///
/// ```no_run
/// use mutoscope::media::{read_video, resize};
///
/// let video = read_video("cat.mp4")?;
/// println!("{}x{} at {:?} frames a second", video.width(), video.height(), video.fps());
/// for frame in video.take(81) {
///     let frame = resize(&frame?, 832, 480)?;
///     // ...
/// }
/// # Ok::<(), mutoscope::Error>(())
/// ```
pub struct VideoReader {
    path: PathBuf,
    source: Source,
    /// Read ahead, so that a video that cannot be read is refused at once.
    first: Option<Frame>,
    size: (u32, u32),
    fps: Option<f64>,
    frames: u32,
    failed: bool,
}

enum Source {
    Mp4(Box<Mp4Reader>),
    Gif(Box<GifReader>),
    Image(ImageFrames),
    Pictures(std::vec::IntoIter<PathBuf>),
    /// A picture, which was read already.
    Still,
}

/// Opens a video and reads its first frame. What it is, the content says:
///
/// - MP4 and QuickTime with H.264 (4:2:0 of 8 bits, progressive) in the order in which frames are shown, turned as the file
///   says; BT.601, BT.709 or BT.2020, limited or full range, as the file says (BT.709 from 1280 columns or 577 rows on where
///   it does not). Edit lists, sound and the shape of pixels are passed over. Fragmented files are refused.
/// - GIF, APNG and animated WebP, each frame as it is seen; what is transparent keeps its colour, as in [`read_picture`].
/// - A pattern such as `frames/%04d.png`, for pictures numbered from 0 or 1 on with none missing, each as [`read_picture`]
///   reads it.
/// - A folder: all PNG, JPEG and WebP pictures in it, in natural order (`2.png` before `10.png`).
/// - A single picture, as a video of one frame.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Media`] for anything else, a codec that is not read, a file that is cut
/// short or damaged, missing pictures, frames of more than 2^25 pixels: it says what was found and what to do.
pub fn read_video(path: impl AsRef<Path>) -> Result<VideoReader> {
    let path = path.as_ref();
    let mut video = VideoReader {
        path: path.to_path_buf(),
        source: Source::Still,
        first: None,
        size: (0, 0),
        fps: None,
        frames: 1,
        failed: false,
    };
    let pattern = Pattern::parse(path).filter(|_| !path.exists());
    if pattern.is_some() || path.is_dir() {
        let pictures = match &pattern {
            Some(pattern) => folder::numbered(path, pattern)?,
            None => folder::pictures(path)?,
        };
        video.frames = u32::try_from(pictures.len()).map_err(|_| Error::media(path, "holds too many pictures"))?;
        video.source = Source::Pictures(pictures.into_iter());
    } else {
        video.open().map_err(|fault| match fault {
            Opening::Error(error) => error,
            Opening::Fault(fault) => fault.at(path),
        })?;
    }
    if video.first.is_none() {
        video.first = video.source.next(path)?;
    }
    let Some(first) = &video.first else {
        return Err(Error::media(path, "has no frames"));
    };
    video.size = (first.width, first.height);
    Ok(video)
}

/// A fault with or without the file's name.
enum Opening {
    Error(Error),
    Fault(Fault),
}

impl From<Error> for Opening {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Fault> for Opening {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl VideoReader {
    /// Columns of a frame.
    pub fn width(&self) -> u32 {
        self.size.0
    }

    /// Rows of a frame.
    pub fn height(&self) -> u32 {
        self.size.1
    }

    /// Frames per second, on the mean when they vary; `None` for pictures, and when the file does not say.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// How many frames there are in all, also when some were read; at least one.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Opens a file by its content.
    fn open(&mut self) -> Result<(), Opening> {
        let file = open(&self.path)?;
        let animation = match file.kind {
            Kind::Mp4 => {
                let reader = Mp4Reader::new(file.reader, file.length)?;
                (self.fps, self.frames) = (reader.fps(), reader.frames());
                self.source = Source::Mp4(Box::new(reader));
                return Ok(());
            }
            Kind::Gif => {
                let (reader, length) = GifReader::new(file.reader)?;
                Some((Source::Gif(Box::new(reader)), length))
            }
            Kind::Png => ImageFrames::png(file.reader)?.map(|(reader, length)| (Source::Image(reader), length)),
            Kind::WebP => {
                let frames = ImageFrames::webp(file.reader, file.length)?;
                frames.map(|(reader, length)| (Source::Image(reader), length))
            }
            Kind::Jpeg => None,
            Kind::Other(what) => {
                let todo = "convert it, for example with `ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4`";
                return Err(Fault::Codec(format!("is {what}; {todo}")).into());
            }
            Kind::Unknown => {
                let known =
                    "give an MP4, GIF, APNG or WebP, a picture, a folder of pictures or a pattern such as %04d.png";
                return Err(Fault::Codec(format!("is no video; {known}")).into());
            }
        };
        match animation {
            Some((source, Length { frames, fps })) => (self.source, self.frames, self.fps) = (source, frames, fps),
            None => self.first = Some(decode(open(&self.path)?)?),
        }
        Ok(())
    }
}

impl Source {
    fn next(&mut self, path: &Path) -> Result<Option<Frame>> {
        match self {
            Self::Mp4(reader) => {
                let turn = reader.turn();
                reader.next().and_then(|frame| match frame {
                    Some(frame) if turn != Orientation::NoTransforms => turned(frame, turn).map(Some),
                    frame => Ok(frame),
                })
            }
            Self::Gif(reader) => reader.next(),
            Self::Image(frames) => frames.next(),
            Self::Pictures(paths) => return paths.next().map(read_picture).transpose(),
            Self::Still => Ok(None),
        }
        .map_err(|fault| fault.at(path))
    }

    /// The file of the frame to come, where each has its own.
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Pictures(paths) => paths.as_slice().first().cloned(),
            _ => None,
        }
    }
}

impl Iterator for VideoReader {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Result<Frame>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if self.failed {
            return None;
        }
        let file = self.source.file();
        let next = self.source.next(&self.path).and_then(|frame| match frame {
            Some(frame) if (frame.width, frame.height) != self.size => {
                let (width, height) = self.size;
                let reason = format!("is {}x{} in a video of {width}x{height}", frame.width, frame.height);
                Err(Error::media(file.as_ref().unwrap_or(&self.path), reason))
            }
            frame => Ok(frame),
        });
        self.failed = next.is_err();
        next.transpose()
    }
}
