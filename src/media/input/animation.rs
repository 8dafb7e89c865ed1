//! Animations: GIF, APNG and WebP, each frame as it is seen, with what was drawn before it and kept.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, Frames, ImageDecoder, Limits};

use super::picture::{check_riff, to_rgb};
use super::{MOST_FRAME_PIXELS, check_size};
use crate::media::{Fault, Frame, gif};

/// What is known before a frame is decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Length {
    pub(super) frames: u32,
    /// Frames per second on the mean, when the delays say.
    pub(super) fps: Option<f64>,
}

impl Length {
    fn new(frames: u32, seconds: f64) -> Self {
        let fps = f64::from(frames) / seconds;
        Self { frames, fps: (fps.is_finite() && fps > 0.0).then_some(fps) }
    }
}

/// A GIF being read. What nothing was drawn on is black, since alpha is dropped and not composited.
pub(super) struct GifReader {
    decoder: ::gif::Decoder<BufReader<File>>,
    canvas: Frame,
    left: u32,
    /// What the last frame wants done before the next: its place, and what shall be there again.
    disposal: Option<(Area, Vec<u8>)>,
}

/// A part of the canvas, inside it.
#[derive(Clone, Copy)]
struct Area {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
}

impl GifReader {
    pub(super) fn new(mut file: BufReader<File>) -> Result<(Self, Length), Fault> {
        let (frames, hundredths) = gif::scan(&mut file).map_err(|e| Fault::of_io("GIF", e))?;
        if frames == 0 {
            return Err(Fault::Codec("the GIF has no pictures in it".into()));
        }
        file.rewind()?;
        let mut options = ::gif::DecodeOptions::new();
        let most = std::num::NonZeroU64::new(MOST_FRAME_PIXELS).unwrap_or(std::num::NonZeroU64::MIN);
        options.set_memory_limit(::gif::MemoryLimit::Bytes(most));
        let decoder = options.read_info(file).map_err(fault)?;
        let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
        check_size(width, height, MOST_FRAME_PIXELS)?;
        let canvas = Frame { width, height, rgb: vec![0; width as usize * height as usize * 3] };
        Ok((Self { decoder, canvas, left: frames, disposal: None }, Length::new(frames, hundredths as f64 / 100.0)))
    }

    pub(super) fn next(&mut self) -> Result<Option<Frame>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        if let Some((area, pixels)) = self.disposal.take() {
            self.put(area, &pixels);
        }
        let Some(picture) = self.decoder.read_next_frame().map_err(fault)? else {
            return Err(Fault::cut_short("GIF"));
        };
        let picture = picture.clone();
        let local = picture.palette.as_deref();
        let palette = local.or(self.decoder.global_palette()).unwrap_or_default().to_vec();
        let (across, down) = (self.canvas.width as usize, self.canvas.height as usize);
        let (left, top) = (usize::from(picture.left).min(across), usize::from(picture.top).min(down));
        let stride = usize::from(picture.width);
        let area =
            Area { left, top, width: stride.min(across - left), height: usize::from(picture.height).min(down - top) };
        self.disposal = match picture.dispose {
            ::gif::DisposalMethod::Background => Some((area, vec![0; area.width * area.height * 3])),
            ::gif::DisposalMethod::Previous => Some((area, self.get(area))),
            ::gif::DisposalMethod::Any | ::gif::DisposalMethod::Keep => None,
        };
        let mut pixels = self.get(area);
        let rows = picture.buffer.chunks_exact(stride.max(1)).take(area.height);
        let indices = rows.flat_map(|row| row.iter().take(area.width));
        for (pixel, &index) in pixels.chunks_exact_mut(3).zip(indices) {
            let colour = palette.get(3 * usize::from(index)..3 * usize::from(index) + 3);
            if picture.transparent != Some(index) {
                pixel.copy_from_slice(colour.unwrap_or(&[0; 3]));
            }
        }
        self.put(area, &pixels);
        Ok(Some(self.canvas.clone()))
    }

    /// The bytes of the canvas where a row of an area lies.
    fn row(&self, area: Area, row: usize) -> std::ops::Range<usize> {
        let start = 3 * ((area.top + row) * self.canvas.width as usize + area.left);
        start..start + 3 * area.width
    }

    fn get(&self, area: Area) -> Vec<u8> {
        (0..area.height).flat_map(|row| &self.canvas.rgb[self.row(area, row)]).copied().collect()
    }

    fn put(&mut self, area: Area, pixels: &[u8]) {
        for (row, line) in pixels.chunks_exact((3 * area.width).max(1)).enumerate() {
            let range = self.row(area, row);
            self.canvas.rgb[range].copy_from_slice(line);
        }
    }
}

fn fault(error: ::gif::DecodingError) -> Fault {
    match error {
        ::gif::DecodingError::Io(error) => Fault::of_io("GIF", error),
        ::gif::DecodingError::UnexpectedEof => Fault::cut_short("GIF"),
        other => Fault::damaged("GIF", other),
    }
}

/// An APNG or an animated WebP being read.
pub(super) struct ImageFrames {
    frames: Frames<'static>,
    what: &'static str,
    left: u32,
}

impl ImageFrames {
    /// `None` for a PNG with one picture.
    pub(super) fn png(mut file: BufReader<File>) -> Result<Option<(Self, Length)>, Fault> {
        let Some(length) = scan_png(&mut file).map_err(|e| Fault::of_io("PNG", e))? else {
            return Ok(None);
        };
        file.rewind()?;
        let limits = || {
            let mut limits = Limits::no_limits();
            // Two canvases and a picture, of four bytes a pixel.
            limits.max_alloc = Some(MOST_FRAME_PIXELS * 16);
            limits
        };
        let decoder = PngDecoder::with_limits(file, limits()).map_err(|e| Fault::of_image("APNG", e))?;
        let (width, height) = decoder.dimensions();
        check_size(width, height, MOST_FRAME_PIXELS)?;
        let frames = decoder.apng().map_err(|e| Fault::of_image("APNG", e))?.into_frames();
        Ok(Some((Self { frames, what: "APNG", left: length.frames }, length)))
    }

    /// `None` for a WebP with one picture.
    pub(super) fn webp(mut file: BufReader<File>, bytes: u64) -> Result<Option<(Self, Length)>, Fault> {
        check_riff(&mut file, bytes)?;
        let length = scan_webp(&mut file, bytes).map_err(|e| Fault::of_io("WebP", e))?;
        file.rewind()?;
        let decoder = WebPDecoder::new(file).map_err(|e| Fault::of_image("WebP", e))?;
        if !decoder.has_animation() {
            return Ok(None);
        }
        let (width, height) = decoder.dimensions();
        check_size(width, height, MOST_FRAME_PIXELS)?;
        Ok(Some((Self { frames: decoder.into_frames(), what: "WebP", left: length.frames }, length)))
    }

    pub(super) fn next(&mut self) -> Result<Option<Frame>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        match self.frames.next() {
            None => Err(Fault::cut_short(self.what)),
            Some(Err(error)) => Err(Fault::of_image(self.what, error)),
            Some(Ok(frame)) => {
                let picture = frame.into_buffer();
                let (width, height) = picture.dimensions();
                Ok(Some(Frame { width, height, rgb: to_rgb(picture.into_raw(), 4) }))
            }
        }
    }
}

/// The frames of an APNG, by its chunks; `None` when it is no animation.
fn scan_png(file: &mut (impl BufRead + Seek)) -> std::io::Result<Option<Length>> {
    file.seek(SeekFrom::Start(8))?;
    let (mut declared, mut frames, mut seconds) = (None, 0_u32, 0.0);
    loop {
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        let mut start = Vec::new();
        file.by_ref().take(u64::from(length.min(26))).read_to_end(&mut start)?;
        let short = |at: usize| start.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        match &kind {
            b"acTL" => declared = Some(u32::from(short(0)) << 16 | u32::from(short(2))),
            // A denominator of zero stands for 100.
            b"fcTL" => {
                frames = frames.saturating_add(1);
                seconds += f64::from(short(20)) / f64::from(if short(22) == 0 { 100 } else { short(22) });
            }
            b"IDAT" if declared.is_none() => return Ok(None),
            b"IEND" if declared.is_some_and(|declared| declared > frames) => {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            b"IEND" => return Ok(declared.map(|declared| Length::new(declared, seconds))),
            _ => {}
        }
        file.seek_relative(i64::from(length) - start.len() as i64 + 4)?;
    }
}

/// The frames of an animated WebP, by its chunks.
fn scan_webp(file: &mut (impl BufRead + Seek), bytes: u64) -> std::io::Result<Length> {
    let (mut at, mut frames, mut milliseconds) = (12, 0_u32, 0_u64);
    while at + 24 <= bytes {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 24];
        file.read_exact(&mut head)?;
        if head.starts_with(b"ANMF") {
            frames = frames.saturating_add(1);
            milliseconds += u64::from(u32::from_le_bytes([head[20], head[21], head[22], 0]));
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        at += 8 + u64::from(length) + u64::from(length % 2);
    }
    Ok(Length::new(frames, milliseconds as f64 / 1000.0))
}
