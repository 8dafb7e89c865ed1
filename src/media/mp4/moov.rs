//! The index of an MP4 with one H.264 track (ISO/IEC 14496-12, section 8; 14496-15, section 5).

use super::boxes::{boxed, full};
use crate::media::Fault;

/// A run of samples that lie one behind the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    /// Its place in the file.
    pub(super) offset: u64,
    /// How many samples it has.
    pub(super) samples: u32,
}

/// Everything the index tells.
#[derive(Clone, Debug)]
pub(super) struct Track {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Ticks per second.
    pub(super) scale: u32,
    /// Ticks per frame.
    pub(super) ticks: u32,
    /// Sequence and picture parameter set, without start codes.
    pub(super) sps: Vec<u8>,
    pub(super) pps: Vec<u8>,
    /// Bytes of each sample.
    pub(super) sizes: Vec<u32>,
    /// The samples a player can jump to, counted from 1.
    pub(super) keys: Vec<u32>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) comment: String,
}

/// Rows of the identity matrix, as `mvhd` and `tkhd` spell it (16.16 and 2.30 fixed point).
const MATRIX: [u32; 9] = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];

/// Numbers, big-endian.
fn words(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_be_bytes).collect()
}

impl Track {
    /// Adds a sample at this place of the file. A key sample begins a chunk.
    pub(super) fn add(&mut self, offset: u64, size: u32, key: bool) {
        self.sizes.push(size);
        if key {
            self.keys.push(self.sizes.len() as u32);
        }
        match self.chunks.last_mut() {
            Some(chunk) if !key => chunk.samples += 1,
            _ => self.chunks.push(Chunk { offset, samples: 1 }),
        }
    }

    /// The size of the largest index that this many frames can have: all keys, all far into a huge file, and no two
    /// neighbouring chunks of equal length (which would share an entry).
    pub(super) fn largest(&self, frames: u32) -> Result<u64, Fault> {
        let chunk = |i| Chunk { offset: u64::MAX, samples: i };
        let worst = Self {
            sizes: (0..frames).collect(),
            keys: (0..frames).collect(),
            chunks: (0..frames).map(chunk).collect(),
            ..self.clone()
        };
        Ok(worst.moov()?.len() as u64)
    }

    /// The whole box.
    pub(super) fn moov(&self) -> Result<Vec<u8>, Fault> {
        let frames = self.sizes.len() as u32;
        let duration = u64::from(frames) * u64::from(self.ticks);
        let duration = u32::try_from(duration).map_err(|_| Fault::Codec("too long for an MP4".into()))?;
        // Times of creation stay zero: the same video is the same file.
        let mut mvhd = words([0, 0, self.scale, duration, 0x10000]);
        mvhd.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // full volume, reserved
        mvhd.extend(words(MATRIX));
        mvhd.extend(words([0, 0, 0, 0, 0, 0, 2])); // the next track would be 2
        let mut tkhd = words([0, 0, 1, 0, duration, 0, 0, 0, 0]);
        tkhd.extend(words(MATRIX));
        tkhd.extend(words([self.width << 16, self.height << 16]));
        let trak = boxed(b"trak", &[&full(b"tkhd", 3, &[&tkhd]), &self.mdia(duration)?]);
        Ok(boxed(b"moov", &[&full(b"mvhd", 0, &[&mvhd]), &trak, &self.udta()]))
    }

    fn mdia(&self, duration: u32) -> Result<Vec<u8>, Fault> {
        let mut mdhd = words([0, 0, self.scale, duration]);
        mdhd.extend([0x55, 0xc4, 0, 0]); // "und", five bits a letter
        let hdlr = [&[0; 4][..], b"vide", &[0; 12], b"VideoHandler\0"];
        let dref = full(b"dref", 0, &[&words([1]), &full(b"url ", 1, &[])]);
        let minf = [
            &full(b"vmhd", 1, &[&[0; 8]])[..],
            &boxed(b"dinf", &[&dref]),
            &boxed(b"stbl", &[&self.stsd()?, &self.tables()]),
        ];
        Ok(boxed(b"mdia", &[&full(b"mdhd", 0, &[&mdhd]), &full(b"hdlr", 0, &hdlr), &boxed(b"minf", &minf)]))
    }

    /// The sample description: `avc1` with the parameter sets and the colours.
    fn stsd(&self) -> Result<Vec<u8>, Fault> {
        let side = |n: u32| u16::try_from(n).map_err(|_| Fault::Codec("too large for an MP4".into()));
        let mut avc1 = vec![0, 0, 0, 0, 0, 0, 0, 1]; // reserved, data reference 1
        avc1.extend([0; 16]);
        avc1.extend(side(self.width)?.to_be_bytes());
        avc1.extend(side(self.height)?.to_be_bytes());
        avc1.extend(words([72 << 16, 72 << 16, 0])); // dots per inch, reserved
        avc1.extend([0, 1]); // a frame per sample
        avc1.extend([0; 32]); // no compressor's name
        avc1.extend([0, 24, 0xff, 0xff]); // depth, pre_defined
        let length = |set: &[u8]| u16::try_from(set.len()).map_err(|_| Fault::Codec("parameter set".into()));
        let Some(profile) = self.sps.get(1..4) else {
            return Err(Fault::Codec("H.264 encoder: no sequence parameter set".into()));
        };
        // AVCDecoderConfigurationRecord: version, profile with constraints and level, four bytes a length, one of each.
        let avcc = [
            &[1][..],
            profile,
            &[0xff, 0xe1],
            &length(&self.sps)?.to_be_bytes(),
            &self.sps,
            &[1],
            &length(&self.pps)?.to_be_bytes(),
            &self.pps,
        ];
        // Primaries, transfer, matrix: BT.709 each; limited range.
        let colr = [&b"nclx"[..], &[0, 1, 0, 1, 0, 1, 0]];
        let pasp = words([1, 1]);
        let avc1 = boxed(b"avc1", &[&avc1, &boxed(b"avcC", &avcc), &boxed(b"colr", &colr), &boxed(b"pasp", &[&pasp])]);
        Ok(full(b"stsd", 0, &[&words([1]), &avc1]))
    }

    /// When, where and how long the samples are.
    fn tables(&self) -> Vec<u8> {
        let frames = self.sizes.len() as u32;
        let mut tables = full(b"stts", 0, &[&words([1, frames, self.ticks])]);
        tables.extend(full(b"stss", 0, &[&words([self.keys.len() as u32]), &words(self.keys.iter().copied())]));
        // Entries stand for runs of chunks of equal length: first chunk, samples in each, description.
        let mut runs: Vec<[u32; 3]> = Vec::new();
        for (i, chunk) in self.chunks.iter().enumerate() {
            if runs.last().is_none_or(|run| run[1] != chunk.samples) {
                runs.push([i as u32 + 1, chunk.samples, 1]);
            }
        }
        tables.extend(full(b"stsc", 0, &[&words([runs.len() as u32]), &words(runs.into_iter().flatten())]));
        tables.extend(full(b"stsz", 0, &[&words([0, frames]), &words(self.sizes.iter().copied())]));
        let chunks = words([self.chunks.len() as u32]);
        let near: Option<Vec<u32>> = self.chunks.iter().map(|chunk| u32::try_from(chunk.offset).ok()).collect();
        tables.extend(match near {
            Some(offsets) => full(b"stco", 0, &[&chunks, &words(offsets)]),
            None => {
                let offsets: Vec<u8> = self.chunks.iter().flat_map(|chunk| chunk.offset.to_be_bytes()).collect();
                full(b"co64", 0, &[&chunks, &offsets])
            }
        });
        tables
    }

    /// The comment and the program's name, as iTunes lays them out and ffmpeg, QuickTime and exiftool read them.
    fn udta(&self) -> Vec<u8> {
        // Type 1 is UTF-8; no language.
        let item = |kind: &[u8; 4], text: &str| boxed(kind, &[&boxed(b"data", &[&words([1, 0]), text.as_bytes()])]);
        let program = concat!("mutoscope ", env!("CARGO_PKG_VERSION"));
        let ilst = boxed(b"ilst", &[&item(b"\xa9too", program), &item(b"\xa9cmt", &self.comment)]);
        let hdlr = full(b"hdlr", 0, &[&[0; 4], b"mdirappl", &[0; 9]]);
        boxed(b"udta", &[&full(b"meta", 0, &[&hdlr, &ilst])])
    }
}
