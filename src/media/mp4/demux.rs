//! The index of anybody's MP4 or QuickTime file with H.264 in it (ISO/IEC 14496-12, section 8; 14496-15, section 5).
//!
//! All numbers are the file's own claims: a table is as long as the bytes that are there, and a sample lies inside the file
//! or the file is refused.

use std::io::{Read, Seek, SeekFrom};

use image::metadata::Orientation;

use super::boxes::{Boxes, find, header};
use crate::media::Fault;

/// A larger index is not read: it would be that of 8 million frames.
const LARGEST_MOOV: u64 = 64 << 20;

/// What to do about videos that are something else.
const CONVERT: &str = "convert it, for example with `ffmpeg -i IN -c:v libx264 -pix_fmt yuv420p OUT.mp4`";

/// A track of H.264.
pub(super) struct Track {
    /// Parameter sets, without start codes.
    pub(super) sets: Vec<Vec<u8>>,
    /// Bytes of the length in front of each unit of a sample: 1 to 4.
    pub(super) length_size: usize,
    /// What the container says of the colours.
    pub(super) colour: Option<Colour>,
    /// How a player turns the picture.
    pub(super) turn: Orientation,
    /// Ticks per second.
    scale: u32,
    /// The least composition offset.
    earliest: i64,
    tables: Tables,
    totals: Totals,
}

/// A `colr` box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour {
    /// MatrixCoefficients (ITU-T H.273, table 4).
    pub(super) matrix: u16,
    /// Whether the samples fill all 8 bits; `nclc` boxes do not say.
    pub(super) full: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    samples: u32,
    ticks: u64,
}

/// A sample of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) offset: u64,
    pub(super) size: u32,
    /// When it is shown, in ticks.
    pub(super) shown: i64,
    /// No later sample is shown before this.
    pub(super) bound: i64,
}

/// The tables of a track, as runs where the file has runs.
struct Tables {
    /// Bytes of all samples, or of each.
    size: u32,
    sizes: Vec<u32>,
    count: u32,
    chunks: Vec<u64>,
    /// The first chunk of a run, counted from 1, and the samples in each.
    per_chunk: Vec<[u32; 2]>,
    /// How many samples last how long.
    durations: Vec<[u32; 2]>,
    /// How many samples are shown how much after they are decoded.
    offsets: Vec<[u32; 2]>,
}

impl Track {
    /// Frames per second on the mean; `None` when the file does not say.
    pub(super) fn fps(&self) -> Option<f64> {
        let fps = f64::from(self.totals.samples) * f64::from(self.scale) / self.totals.ticks as f64;
        (fps.is_finite() && fps > 0.0).then_some(fps)
    }

    /// How many frames there are.
    pub(super) fn frames(&self) -> u32 {
        self.totals.samples
    }

    /// The sample after those that `walk` has passed.
    pub(super) fn next(&self, walk: &mut Walk) -> Option<Sample> {
        walk.next(&self.tables, self.earliest)
    }

    /// Reads the index of a file of `length` bytes.
    pub(super) fn read(mut from: impl Read + Seek, length: u64) -> Result<Self, Fault> {
        let moov = moov(&mut from, length)?;
        let mut refusal = None;
        for (kind, trak) in Boxes(&moov) {
            if &kind != b"trak" {
                continue;
            }
            match Self::of_trak(trak) {
                Ok(Some(track)) => {
                    if track.tables.count == 0 && find(&moov, b"mvex").is_some() {
                        return Err(fragmented());
                    }
                    return track.measured(length);
                }
                Ok(None) => {}
                // A cover picture beside the video, say.
                Err(fault) => refusal = refusal.or(Some(fault)),
            }
        }
        Err(refusal.unwrap_or_else(|| Fault::Codec("has no video in it; give a file with a video track".into())))
    }

    /// The track of a `trak` box; `None` when it is not of video.
    fn of_trak(trak: &[u8]) -> Result<Option<Self>, Fault> {
        let mdia = find(trak, b"mdia").unwrap_or_default();
        if find(mdia, b"hdlr").and_then(|hdlr| hdlr.get(8..12)) != Some(b"vide") {
            return Ok(None);
        }
        let stbl = find(mdia, b"minf").and_then(|minf| find(minf, b"stbl")).ok_or_else(|| broken("stbl"))?;
        let (sets, length_size, colour) = description(stbl)?;
        let mdhd = find(mdia, b"mdhd").ok_or_else(|| broken("mdhd"))?;
        // Version 1 has times of 64 bits.
        let scale = word(mdhd, if mdhd.first() == Some(&1) { 20 } else { 12 }).ok_or_else(|| broken("mdhd"))?;
        let tables = Tables::of(stbl)?;
        // An offset is signed in version 1, and in files that claim version 0 and mean it so.
        let earliest = tables.offsets.iter().map(|[_, offset]| i64::from(*offset as i32)).min().unwrap_or(0);
        let turn = find(trak, b"tkhd").map_or(Orientation::NoTransforms, turn);
        Ok(Some(Self { sets, length_size, colour, turn, scale, earliest, tables, totals: Totals::default() }))
    }

    /// Walks over all samples: they must be as many as declared and lie inside the file.
    fn measured(mut self, length: u64) -> Result<Self, Fault> {
        let count = self.tables.count;
        if count == 0 {
            return Err(Fault::Codec("has no frames".into()));
        }
        let (mut walk, mut samples) = (Walk::default(), 0);
        while let Some(sample) = self.next(&mut walk) {
            samples += 1;
            let end = sample.offset.checked_add(u64::from(sample.size));
            if end.is_none_or(|end| end > length) {
                let reason = format!("is cut short: frame {samples} of {count} lies behind its end; copy it again");
                return Err(Fault::Codec(reason));
            }
        }
        if samples != count {
            return Err(broken("stsc"));
        }
        self.totals = Totals { samples, ticks: walk.ticks };
        Ok(self)
    }
}

/// The payload of the `moov` box.
fn moov(from: &mut (impl Read + Seek), length: u64) -> Result<Vec<u8>, Fault> {
    let (mut at, mut fragments) = (0_u64, false);
    loop {
        from.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        from.by_ref().take(16).read_to_end(&mut bytes)?;
        let Some((kind, head, size)) = header(&bytes) else { break };
        let end = size.map_or(Some(length), |size| at.checked_add(size));
        fragments |= &kind == b"moof";
        if &kind == b"moov" {
            let size = end.unwrap_or(u64::MAX).saturating_sub(at + head);
            if size > LARGEST_MOOV {
                return Err(Fault::Codec(format!("its index of {size} bytes is too large")));
            }
            if end.is_none_or(|end| end > length) {
                return Err(Fault::cut_short("MP4"));
            }
            from.seek(SeekFrom::Start(at + head))?;
            let mut moov = Vec::new();
            from.by_ref().take(size).read_to_end(&mut moov)?;
            return Ok(moov);
        }
        match end {
            Some(end) if end < length => at = end,
            _ => break,
        }
    }
    Err(if fragments {
        fragmented()
    } else {
        Fault::Codec("has no index (`moov`): the file is cut short or its recording was never finished".into())
    })
}

fn fragmented() -> Fault {
    Fault::Codec("is a fragmented MP4; join it with `ffmpeg -i IN -c copy OUT.mp4`".into())
}

fn broken(table: &str) -> Fault {
    Fault::Codec(format!("the MP4 is damaged (its `{table}`); copy it again, or {CONVERT}"))
}

/// The 32-bit number at a byte.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// What `stsd` says: the parameter sets, the size of lengths and the colours.
#[allow(clippy::type_complexity, reason = "three parts of a Track, named there")]
fn description(stbl: &[u8]) -> Result<(Vec<Vec<u8>>, usize, Option<Colour>), Fault> {
    let stsd = find(stbl, b"stsd").ok_or_else(|| broken("stsd"))?;
    let (kind, entry) = Boxes(stsd.get(8..).unwrap_or_default()).next().ok_or_else(|| broken("stsd"))?;
    if !matches!(&kind, b"avc1" | b"avc3") {
        return Err(Fault::Codec(format!("its video is {}, and only H.264 is read; {CONVERT}", codec(&kind))));
    }
    if word(stsd, 4) != Some(1) {
        return Err(Fault::Codec(format!("its video changes its format midway; {CONVERT}")));
    }
    // A visual sample entry has 78 bytes before its boxes.
    let inside = entry.get(78..).unwrap_or_default();
    let avcc = find(inside, b"avcC").ok_or_else(|| broken("avcC"))?;
    let (sets, length_size) = parameter_sets(avcc).ok_or_else(|| broken("avcC"))?;
    Ok((sets, length_size, find(inside, b"colr").and_then(colour)))
}

/// An AVCDecoderConfigurationRecord (14496-15, section 5.3.3.1): its sets, and the bytes of a length.
fn parameter_sets(avcc: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let length_size = usize::from(avcc.get(4)? & 3) + 1;
    let (mut at, mut sets) = (5, Vec::new());
    // Sequence parameter sets, in 5 bits, then picture parameter sets.
    for mask in [0x1f, 0xff] {
        let count = avcc.get(at)? & mask;
        at += 1;
        for _ in 0..count {
            let length = usize::from(u16::from_be_bytes([*avcc.get(at)?, *avcc.get(at + 1)?]));
            sets.push(avcc.get(at + 2..at + 2 + length)?.to_vec());
            at += 2 + length;
        }
    }
    Some((sets, length_size))
}

fn colour(colr: &[u8]) -> Option<Colour> {
    let matrix = u16::from_be_bytes(colr.get(8..10)?.try_into().ok()?);
    match colr.get(..4)? {
        b"nclx" => Some(Colour { matrix, full: Some(colr.get(10)? & 0x80 != 0) }),
        b"nclc" => Some(Colour { matrix, full: None }),
        _ => None,
    }
}

/// The name of what is not H.264.
fn codec(kind: &[u8; 4]) -> String {
    match kind {
        b"hvc1" | b"hev1" | b"dvh1" | b"dvhe" => "H.265 (HEVC)".into(),
        b"vvc1" | b"vvi1" => "H.266 (VVC)".into(),
        b"av01" => "AV1".into(),
        b"vp08" => "VP8".into(),
        b"vp09" => "VP9".into(),
        b"mp4v" => "MPEG-4 part 2".into(),
        b"s263" | b"h263" => "H.263".into(),
        b"jpeg" | b"mjpa" | b"mjpb" => "Motion JPEG".into(),
        b"apch" | b"apcn" | b"apcs" | b"apco" | b"ap4h" | b"ap4x" => "ProRes".into(),
        b"encv" => "encrypted".into(),
        _ => format!("`{}`", kind.escape_ascii()),
    }
}

/// How the matrix of a `tkhd` turns the picture: by quarters and mirrors; anything else is passed over.
fn turn(tkhd: &[u8]) -> Orientation {
    let at = if tkhd.first() == Some(&1) { 52 } else { 40 };
    // The upper left of a matrix of three rows, in 16.16; columns go right, rows down.
    let sign = |i: usize| word(tkhd, at + 4 * i).map_or(0, |value| (value as i32).signum());
    match [sign(0), sign(1), sign(3), sign(4)] {
        [0, 1, -1, 0] => Orientation::Rotate90,
        [-1, 0, 0, -1] => Orientation::Rotate180,
        [0, -1, 1, 0] => Orientation::Rotate270,
        [-1, 0, 0, 1] => Orientation::FlipHorizontal,
        [1, 0, 0, -1] => Orientation::FlipVertical,
        [0, 1, 1, 0] => Orientation::Rotate90FlipH,
        [0, -1, -1, 0] => Orientation::Rotate270FlipH,
        _ => Orientation::NoTransforms,
    }
}

impl Tables {
    fn of(stbl: &[u8]) -> Result<Self, Fault> {
        let stsz = find(stbl, b"stsz").ok_or_else(|| broken("stsz"))?;
        let (size, count) = word(stsz, 4).zip(word(stsz, 8)).ok_or_else(|| broken("stsz"))?;
        let sizes = if size == 0 { rows::<1>(stsz, 8).ok_or_else(|| broken("stsz"))? } else { Vec::new() };
        let chunks = match (find(stbl, b"stco"), find(stbl, b"co64")) {
            (Some(near), _) => rows::<1>(near, 4).map(|rows| rows.into_iter().map(|[at]| u64::from(at)).collect()),
            (None, Some(far)) => rows::<2>(far, 4)
                .map(|rows| rows.into_iter().map(|[high, low]| u64::from(high) << 32 | u64::from(low)).collect()),
            (None, None) => None,
        };
        let per_chunk = find(stbl, b"stsc").and_then(|stsc| rows::<3>(stsc, 4)).ok_or_else(|| broken("stsc"))?;
        let pairs = |kind: &'static [u8; 4]| find(stbl, kind).map(|table| rows::<2>(table, 4));
        Ok(Self {
            size,
            sizes: sizes.into_iter().map(|[size]| size).collect(),
            count,
            chunks: chunks.ok_or_else(|| broken("stco"))?,
            per_chunk: per_chunk.into_iter().map(|[first, samples, _]| [first, samples]).collect(),
            durations: pairs(b"stts").flatten().ok_or_else(|| broken("stts"))?,
            offsets: pairs(b"ctts").map_or(Some(Vec::new()), |rows| rows).ok_or_else(|| broken("ctts"))?,
        })
    }
}

/// The rows of a table whose length stands at a byte; `None` when it has fewer.
fn rows<const N: usize>(table: &[u8], at: usize) -> Option<Vec<[u32; N]>> {
    let count = word(table, at)? as usize;
    let bytes = table.get(at + 4..)?.get(..count.checked_mul(4 * N)?)?;
    let row = |row: &[u8]| std::array::from_fn(|i| word(row, 4 * i).unwrap_or_default());
    Some(bytes.chunks_exact(4 * N).map(row).collect())
}

/// A place among the samples of a track.
#[derive(Default)]
pub(super) struct Walk {
    sample: u32,
    chunk: usize,
    /// Samples of the chunk that were passed.
    passed: u32,
    /// The run that the chunk is in.
    run: usize,
    /// Bytes of the chunk that were passed.
    bytes: u64,
    /// Ticks that were passed.
    ticks: u64,
    duration: Run,
    offset: Run,
}

/// A place in a table of runs.
#[derive(Default)]
struct Run {
    index: usize,
    passed: u32,
}

impl Run {
    /// The value for the next sample; behind the end of the table it has none.
    fn next(&mut self, table: &[[u32; 2]]) -> Option<u32> {
        while let Some([count, value]) = table.get(self.index) {
            if self.passed < *count {
                self.passed += 1;
                return Some(*value);
            }
            (self.index, self.passed) = (self.index + 1, 0);
        }
        None
    }
}

impl Walk {
    fn next(&mut self, tables: &Tables, earliest: i64) -> Option<Sample> {
        if self.sample >= tables.count {
            return None;
        }
        let start = loop {
            let start = *tables.chunks.get(self.chunk)?;
            while tables.per_chunk.get(self.run + 1).is_some_and(|[first, _]| *first as usize <= self.chunk + 1) {
                self.run += 1;
            }
            let [_, samples] = tables.per_chunk.get(self.run)?;
            if self.passed < *samples {
                break start;
            }
            (self.chunk, self.passed, self.bytes) = (self.chunk + 1, 0, 0);
        };
        let size = if tables.size > 0 { tables.size } else { *tables.sizes.get(self.sample as usize)? };
        let offset = start.saturating_add(self.bytes);
        let shown = self.offset.next(&tables.offsets).map_or(0, |offset| i64::from(offset as i32));
        let shown = (self.ticks as i64).saturating_add(shown);
        // Each of 2^32 samples lasts less than 2^32 ticks.
        self.ticks = self.ticks.saturating_add(u64::from(self.duration.next(&tables.durations).unwrap_or_default()));
        self.sample += 1;
        self.passed += 1;
        self.bytes = self.bytes.saturating_add(u64::from(size));
        Some(Sample { offset, size, shown, bound: (self.ticks as i64).saturating_add(earliest) })
    }
}
