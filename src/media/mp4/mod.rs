//! H.264 in MP4 (ISO/IEC 14496-12, -14 and -15), moov before mdat, with the recipe as the file's comment.
//!
//! The muxer is our own: the crates at hand keep the whole video in memory until the end, have fixed time scales that
//! 24000/1001 does not divide, or carry neither colour tags nor a comment. Here the number of frames is known
//! beforehand, so room for the largest possible `moov` is left at the start and the samples are streamed after it.

mod boxes;
mod colour;
mod decode;
mod demux;
mod encode;
mod moov;
mod read;
mod sps;
#[cfg(test)]
pub(super) mod testing;

use std::io::{Seek, SeekFrom, Write};

use self::boxes::boxed;
use self::colour::Planes;
use self::encode::Coder;
use self::moov::Track;
use super::{Fault, Frame, Rate};
use crate::error::{Error, Result};

pub(super) use decode::Mp4Reader;
pub(super) use read::read_comment;

/// openh264's own limits.
const SMALLEST: u32 = 16;
const LONG_SIDE: u32 = 3840;
const SHORT_SIDE: u32 = 2160;

/// What can be encoded: 16x16 up to 3840x2160 either way, and a running time that 32 bits of ticks can count.
pub(super) fn check(width: u32, height: u32, frames: u32, rate: Rate) -> Result<()> {
    if width.min(height) < SMALLEST {
        let reason = format!("{width}x{height}: H.264 takes no less than {SMALLEST}x{SMALLEST} here; use .png or .gif");
        return Err(Error::request("--size", reason));
    }
    if width.max(height) > LONG_SIDE || width.min(height) > SHORT_SIDE {
        let reason = format!("{width}x{height}: H.264 goes up to {LONG_SIDE}x{SHORT_SIDE} here; use .png or .gif");
        return Err(Error::request("--size", reason));
    }
    let (_, ticks) = time_scale(rate);
    if ticks.checked_mul(frames).is_none() {
        let reason = format!("{frames} frames at {} frames a second are too long for an MP4", rate.fps());
        return Err(Error::request("--frames", reason));
    }
    Ok(())
}

/// Ticks per second and per frame. Multiplied up, since some players are at a loss with scales as coarse as 16.
fn time_scale(rate: Rate) -> (u32, u32) {
    let (mut scale, mut ticks) = (u32::from(rate.num()), u32::from(rate.den()));
    while scale < 10_000 {
        scale *= 2;
        ticks *= 2;
    }
    (scale, ticks)
}

/// An MP4 being written, frame by frame.
pub(super) struct Mp4<W: Write + Seek> {
    out: W,
    coder: Coder,
    planes: Planes,
    track: Track,
    frames: u32,
    /// Where the space for `moov` begins.
    moov_at: u64,
    /// Where the header of `mdat` is; zero until the first frame, when the parameter sets are known.
    mdat_at: u64,
    /// The end of what is written.
    end: u64,
}

/// The header of `mdat`, written as an empty `free` box and a plain one, or over both with a 64-bit size.
const MDAT_HEADER: u64 = 16;

impl<W: Write + Seek> Mp4<W> {
    pub(super) fn new(
        mut out: W,
        (width, height): (u32, u32),
        frames: u32,
        rate: Rate,
        comment: String,
    ) -> Result<Self, Fault> {
        let planes = Planes::new(width, height);
        let coder = Coder::new(&planes, rate.fps())?;
        let brands = [&b"isom"[..], &[0, 0, 2, 0], b"isomiso2avc1mp41"];
        let ftyp = boxed(b"ftyp", &brands);
        out.write_all(&ftyp)?;
        let (scale, ticks) = time_scale(rate);
        let track = Track {
            width: planes.width,
            height: planes.height,
            scale,
            ticks,
            sps: Vec::new(),
            pps: Vec::new(),
            sizes: Vec::new(),
            keys: Vec::new(),
            chunks: Vec::new(),
            comment,
        };
        let moov_at = ftyp.len() as u64;
        Ok(Self { out, coder, planes, track, frames, moov_at, mdat_at: 0, end: moov_at })
    }

    /// `frame` must have the size that the file was made with.
    pub(super) fn push(&mut self, frame: &Frame) -> Result<(), Fault> {
        self.planes.read(frame);
        let coded = self.coder.encode(&self.planes)?;
        let mut sample = Vec::new();
        for unit in &coded.units {
            add_unit(&mut sample, &mut self.track, unit)?;
        }
        if sample.is_empty() {
            return Err(Fault::Codec("H.264 encoder: no picture for a frame".into()));
        }
        if self.mdat_at == 0 {
            self.leave_room()?;
        }
        self.out.write_all(&sample)?;
        let size = u32::try_from(sample.len()).map_err(|_| Fault::Codec("a sample of 4 GiB".into()))?;
        self.track.add(self.end, size, coded.key);
        self.end += u64::from(size);
        Ok(())
    }

    /// Leaves room for the largest `moov` these frames can need, and for the header of `mdat`.
    fn leave_room(&mut self) -> Result<(), Fault> {
        let room = self.track.largest(self.frames)? + FREE_HEADER;
        let zeros = vec![0; 1 << 16];
        let mut left = room + MDAT_HEADER;
        while left > 0 {
            let now = left.min(zeros.len() as u64);
            self.out.write_all(&zeros[..now as usize])?;
            left -= now;
        }
        self.mdat_at = self.moov_at + room;
        self.end = self.mdat_at + MDAT_HEADER;
        Ok(())
    }

    /// Fills in `moov` and the size of `mdat`.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        let moov = self.track.moov()?;
        self.out.seek(SeekFrom::Start(self.moov_at))?;
        self.out.write_all(&moov)?;
        let spare = (self.mdat_at - self.moov_at).checked_sub(moov.len() as u64).filter(|&n| n >= FREE_HEADER);
        let spare = spare.and_then(|n| u32::try_from(n).ok());
        let spare = spare.ok_or_else(|| Fault::Codec("the index outgrew the room left for it".into()))?;
        self.out.write_all(&spare.to_be_bytes())?;
        self.out.write_all(b"free")?;
        self.out.seek(SeekFrom::Start(self.mdat_at))?;
        let whole = self.end - self.mdat_at;
        match u32::try_from(whole - FREE_HEADER) {
            Ok(plain) => {
                self.out.write_all(&boxed(b"free", &[]))?;
                self.out.write_all(&plain.to_be_bytes())?;
                self.out.write_all(b"mdat")?;
            }
            Err(_) => {
                self.out.write_all(&1_u32.to_be_bytes())?;
                self.out.write_all(b"mdat")?;
                self.out.write_all(&whole.to_be_bytes())?;
            }
        }
        Ok(self.out.flush()?)
    }
}

/// What openh264 says of an error, without what it always adds of its backtraces.
pub(super) fn reason(error: &openh264::Error) -> String {
    let text = error.to_string();
    text.trim_end_matches("Backtraces enabled.").trim_end_matches([' ', '.']).to_owned()
}

/// The size of an empty box.
const FREE_HEADER: u64 = 8;

/// Adds a unit of the byte stream (ITU-T H.264, annex B) to a sample with its length in front, as MP4 wants it.
/// Parameter sets go to the track's header instead, where the first ones must serve the whole stream.
fn add_unit(sample: &mut Vec<u8>, track: &mut Track, unit: &[u8]) -> Result<(), Fault> {
    let zeros = unit.iter().take_while(|&&b| b == 0).count();
    let unit = unit.get(zeros + 1..).unwrap_or_default();
    // nal_unit_type, table 7-1: 7 sequence parameter set, 8 picture parameter set.
    let header = match unit.first().map(|b| b & 0x1f) {
        None => return Ok(()),
        Some(7) => Some(&mut track.sps),
        Some(8) => Some(&mut track.pps),
        Some(_) => None,
    };
    match header {
        Some(known) if known.is_empty() => *known = unit.to_vec(),
        Some(known) if known == unit => {}
        Some(_) => return Err(Fault::Codec("H.264 encoder: it changed its parameters in mid-stream".into())),
        None => {
            let length = u32::try_from(unit.len()).map_err(|_| Fault::Codec("a unit of 4 GiB".into()))?;
            sample.extend_from_slice(&length.to_be_bytes());
            sample.extend_from_slice(unit);
        }
    }
    Ok(())
}
