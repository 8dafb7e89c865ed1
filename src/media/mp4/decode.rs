//! H.264 out of an MP4, picture by picture in the order in which they are shown.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};

use image::metadata::Orientation;
use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};

use super::colour::Coding;
use super::demux::{Track, Walk};
use super::reason;
use super::sps::{Sps, without_order};
use crate::media::input::{MOST_FRAME_PIXELS, check_size};
use crate::media::{Fault, Frame};

/// H.264 keeps at most so many pictures back; a file that wants more is out of order, and is read as it comes.
const MOST_HELD: usize = 16;

/// An MP4 being read.
pub(in crate::media) struct Mp4Reader {
    file: BufReader<File>,
    track: Track,
    walk: Walk,
    decoder: Decoder,
    coding: Coding,
    /// How many samples were decoded.
    decoded: u32,
    /// Pictures that are not due yet, by when they are shown.
    held: BTreeMap<(i64, u32), Frame>,
    /// No later sample is shown before this.
    bound: i64,
}

impl Mp4Reader {
    /// Reads the index of a file of `length` bytes.
    pub(in crate::media) fn new(mut file: BufReader<File>, length: u64) -> Result<Self, Fault> {
        let track = Track::read(&mut file, length)?;
        let mut reader = Self {
            file,
            coding: coding(&track, None)?,
            track,
            walk: Walk::default(),
            // Each picture is wanted as soon as it is decoded, see `without_order`: the file's times say when it is shown.
            decoder: Decoder::with_api_config(
                OpenH264API::from_source(),
                DecoderConfig::new().flush_after_decode(Flush::NoFlush),
            )?,
            decoded: 0,
            held: BTreeMap::new(),
            bound: i64::MIN,
        };
        if !reader.track.sets.iter().any(|set| Sps::parse(set).is_some()) {
            // The sets are in the first sample (`avc3`).
            let sample = reader.track.next(&mut Walk::default());
            if let Some(sample) = sample {
                let bytes = reader.read(sample.offset, sample.size)?;
                let sets = units(&bytes, reader.track.length_size).map(|unit| unit.unwrap_or_default());
                let set = sets.into_iter().find_map(Sps::parse);
                reader.coding = coding(&reader.track, set)?;
            }
        }
        Ok(reader)
    }

    /// Frames per second on the mean, when the file says.
    pub(in crate::media) fn fps(&self) -> Option<f64> {
        self.track.fps()
    }

    /// How many frames there are.
    pub(in crate::media) fn frames(&self) -> u32 {
        self.track.frames()
    }

    /// How a player turns the frames.
    pub(in crate::media) fn turn(&self) -> Orientation {
        self.track.turn
    }

    /// The next picture.
    pub(in crate::media) fn next(&mut self) -> Result<Option<Frame>, Fault> {
        loop {
            let due = self.held.first_key_value().is_some_and(|((shown, _), _)| *shown <= self.bound);
            if due || self.held.len() > MOST_HELD {
                return Ok(self.held.pop_first().map(|(_, frame)| frame));
            }
            let Some(sample) = self.track.next(&mut self.walk) else {
                return Ok(self.held.pop_first().map(|(_, frame)| frame));
            };
            let frame = self.decode(sample.offset, sample.size)?;
            self.held.insert((sample.shown, self.decoded), frame);
            self.decoded += 1;
            self.bound = sample.bound;
        }
    }

    /// The bytes of a sample; fewer are an error.
    fn read(&mut self, offset: u64, size: u32) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.by_ref().take(u64::from(size)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != u64::from(size) {
            return Err(Fault::cut_short("MP4"));
        }
        Ok(bytes)
    }

    /// The picture of a sample.
    fn decode(&mut self, offset: u64, size: u32) -> Result<Frame, Fault> {
        let number = self.decoded + 1;
        let bad = |why: String| {
            let reason = format!("frame {number} cannot be decoded ({why}); it is damaged, or needs converting");
            Fault::Codec(reason)
        };
        let sample = self.read(offset, size)?;
        // The byte stream of annex B, with the parameter sets in front of the first picture.
        let mut stream = Vec::with_capacity(sample.len() + 64);
        let mut add = |unit: &[u8]| {
            stream.extend([0, 0, 0, 1]);
            stream.extend(without_order(unit));
        };
        if self.decoded == 0 {
            self.track.sets.iter().for_each(|set| add(set));
        }
        for unit in units(&sample, self.track.length_size) {
            add(unit.ok_or_else(|| bad("its parts do not fit".into()))?);
        }
        let picture = self.decoder.decode(&stream).map_err(|e| bad(reason(&e)))?;
        let picture = picture.ok_or_else(|| bad("no picture in it".into()))?;
        self.coding.rgb(&picture).ok_or_else(|| bad("a part of the picture".into()))
    }
}

/// The units of a sample, each with its length in front; the last is `None` when it does not fit.
fn units(sample: &[u8], length_size: usize) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(sample).filter(|sample| !sample.is_empty());
    std::iter::from_fn(move || {
        let bytes = rest.take()?;
        let split = || {
            let (length, bytes) = bytes.split_at_checked(length_size)?;
            let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            bytes.split_at_checked(length)
        };
        let unit = split();
        rest = unit.map(|(_, rest)| rest).filter(|rest| !rest.is_empty());
        Some(unit.map(|(unit, _)| unit))
    })
}

/// How the colours are coded, by the container and, where that does not say, by the stream. Refuses what the decoder does
/// not decode.
fn coding(track: &Track, set: Option<Sps>) -> Result<Coding, Fault> {
    let set = set.or_else(|| track.sets.iter().find_map(|set| Sps::parse(set)));
    let size = set.map_or((0, 0), |set| (set.width, set.height));
    if let Some(set) = set {
        let refuse = |what: String| {
            let todo =
                "convert it, for example with `ffmpeg -i IN -vf yadif=deint=1 -c:v libx264 -pix_fmt yuv420p OUT.mp4`";
            Err(Fault::Codec(format!("its video is {what}; {todo}")))
        };
        check_size(set.width, set.height, MOST_FRAME_PIXELS)?;
        match (set.depth, set.chroma) {
            (8, 0 | 1) => {}
            (depth, chroma) => {
                let chroma = ["4:0:0", "4:2:0", "4:2:2"].get(chroma as usize).unwrap_or(&"4:4:4");
                return refuse(format!("H.264 {chroma} of {depth} bits, and only 4:2:0 of 8 bits is read"));
            }
        }
        if set.interlaced {
            return refuse("interlaced H.264, which is not read".into());
        }
    }
    let full = track.colour.and_then(|colour| colour.full).or(set.and_then(|set| set.full)).unwrap_or(false);
    // 2 is for unspecified.
    let matrix = track.colour.map(|colour| colour.matrix).filter(|&matrix| matrix != 2);
    let matrix = matrix.or(set.and_then(|set| set.matrix));
    let coding = Coding::new(matrix, full, set.is_some_and(|set| set.chroma == 0), size);
    coding.ok_or_else(|| Fault::Codec(format!("colour matrix {} is not read; convert it", matrix.unwrap_or(2))))
}
