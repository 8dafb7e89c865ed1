//! Tests of the boxes, and a reader of what the tests of the module want to know of a file.

use std::io::Cursor;

use openh264::formats::YUVSource;

use super::boxes::{Boxes, boxed, find, full};
use super::colour::Planes;
use super::moov::Track;
use super::read::{comment_of, read_comment};
use crate::media::Frame;

/// What a file says of itself.
pub(in crate::media) struct Summary {
    pub(in crate::media) order: Vec<String>,
    pub(in crate::media) size: (u32, u32),
    pub(in crate::media) samples: u32,
    pub(in crate::media) scale: u32,
    /// In ticks, by `mdhd`; `mvhd`, `tkhd` and `stts` must agree.
    pub(in crate::media) duration: u32,
}

/// What the encoder was given for a frame.
pub(in crate::media) fn planes(frame: &Frame) -> impl YUVSource + use<> {
    let mut planes = Planes::new(frame.width, frame.height);
    planes.read(frame);
    planes
}

/// White noise, which takes more bits than anything.
pub(in crate::media) fn noise(width: u32, height: u32, seed: u32) -> Frame {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64 (G. Marsaglia, 2003)
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    Frame { width, height, rgb: (0..width * height * 3).map(|_| next()).collect() }
}

/// The payload of the box at the end of a path.
fn at<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> &'a [u8] {
    path.iter().fold(bytes, |bytes, kind| find(bytes, kind).expect("box"))
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_be_bytes(bytes[4 * index..][..4].try_into().expect("a word"))
}

pub(in crate::media) fn summary(bytes: &[u8]) -> Summary {
    let order = Boxes(bytes).map(|(kind, _)| String::from_utf8_lossy(&kind).into_owned()).collect();
    let [mvhd, tkhd, mdhd] = [
        at(bytes, &[b"moov", b"mvhd"]),
        at(bytes, &[b"moov", b"trak", b"tkhd"]),
        at(bytes, &[b"moov", b"trak", b"mdia", b"mdhd"]),
    ];
    let stbl = at(bytes, &[b"moov", b"trak", b"mdia", b"minf", b"stbl"]);
    let stts = at(stbl, &[b"stts"]);
    let duration = word(mdhd, 4);
    assert_eq!([word(mvhd, 3), word(mvhd, 4)], [word(mdhd, 3), duration]);
    assert_eq!(word(tkhd, 5), duration);
    assert_eq!(word(stts, 1), 1);
    assert_eq!(word(stts, 2) * word(stts, 3), duration);
    let samples = word(at(stbl, &[b"stsz"]), 2);
    assert_eq!(samples, word(stts, 2));
    let size = (word(tkhd, 19) >> 16, word(tkhd, 20) >> 16);
    Summary { order, size, samples, scale: word(mdhd, 3), duration }
}

/// The samples as annex B byte streams, each with the parameter sets in front, found by the tables as a player does.
pub(in crate::media) fn samples(bytes: &[u8]) -> Vec<Vec<u8>> {
    let stbl = at(bytes, &[b"moov", b"trak", b"mdia", b"minf", b"stbl"]);
    let entry = &at(stbl, &[b"stsd"])[8..];
    let avcc = at(&at(entry, &[b"avc1"])[78..], &[b"avcC"]);
    let sps_length = usize::from(u16::from_be_bytes([avcc[6], avcc[7]]));
    let sps = &avcc[8..8 + sps_length];
    let pps = &avcc[8 + sps_length + 3..];
    assert_eq!(avcc[1..4], sps[1..4]);
    let [stsc, stsz, stco] = [b"stsc", b"stsz", b"stco"].map(|kind| at(stbl, &[kind]));
    let runs: Vec<(u32, u32)> =
        (0..word(stsc, 1) as usize).map(|i| (word(stsc, 2 + 3 * i), word(stsc, 3 + 3 * i))).collect();
    let mut found = Vec::new();
    for chunk in 1..=word(stco, 1) {
        let count = runs.iter().rev().find(|(first, _)| *first <= chunk).expect("a run").1;
        let mut place = word(stco, 1 + chunk as usize) as usize;
        for _ in 0..count {
            let size = word(stsz, 3 + found.len()) as usize;
            let mut sample = &bytes[place..place + size];
            place += size;
            let mut stream = [&[0, 0, 0, 1], sps, &[0, 0, 0, 1], pps].concat();
            while !sample.is_empty() {
                let (unit, rest) = sample[4..].split_at(word(sample, 0) as usize);
                stream.extend([0, 0, 0, 1]);
                stream.extend(unit);
                sample = rest;
            }
            found.push(stream);
        }
    }
    found
}

fn track() -> Track {
    Track {
        width: 64,
        height: 48,
        scale: 16384,
        ticks: 1024,
        sps: vec![0x67, 66, 0xc0, 30, 1, 2],
        pps: vec![0x68, 3],
        sizes: Vec::new(),
        keys: Vec::new(),
        chunks: Vec::new(),
        comment: "a note".into(),
    }
}

#[test]
fn far_chunks_get_64_bits_and_every_index_fits_its_room() {
    for frames in [1, 2, 33, 100] {
        for key_every in [1, 2, 7, 200] {
            for start in [1000_u64, u64::from(u32::MAX) - 50_000, 1 << 40] {
                let mut track = track();
                let room = track.largest(frames).expect("size");
                for i in 0..frames {
                    track.add(start + u64::from(i) * 1000, 1000, i % key_every == 0);
                }
                let moov = track.moov().expect("moov");
                assert!(moov.len() as u64 <= room, "{} of {room}", moov.len());
                let stbl = at(&moov, &[b"moov", b"trak", b"mdia", b"minf", b"stbl"]);
                let last = start + u64::from((frames - 1) / key_every * key_every) * 1000;
                let far = last > u64::from(u32::MAX);
                assert_eq!((find(stbl, b"stco").is_some(), find(stbl, b"co64").is_some()), (!far, far));
                if far {
                    let co64 = at(stbl, &[b"co64"]);
                    assert_eq!(co64[co64.len() - 8..], last.to_be_bytes());
                }
                assert_eq!(comment_of(&moov[8..]).as_deref(), Some("a note"));
            }
        }
    }
}

#[test]
fn boxes_of_every_size_form_are_walked() {
    let meta = full(b"meta", 0, &[&boxed(b"ilst", &[&boxed(b"\xa9cmt", &[&boxed(b"data", &[&[0; 8], b"note"])])])]);
    let moov = boxed(b"moov", &[&boxed(b"udta", &[&meta])]);
    let ftyp = boxed(b"ftyp", &[]);
    // A box with a 64-bit size before it, as a huge `mdat` has, and a `moov` that reaches to the end of the file.
    let long = [&[0, 0, 0, 1][..], b"mdat", &[0, 0, 0, 0, 0, 0, 0, 20], &[7; 4]].concat();
    let endless = [&[0; 4][..], &moov[4..]].concat();
    for last in [&moov, &endless] {
        let file = [&ftyp[..], &long, last].concat();
        assert_eq!(Boxes(&file).count(), 3);
        assert_eq!(read_comment(Cursor::new(file)), Ok(Some("note".into())));
    }
    // Sizes that lie: less than a header, beyond the end, an endless loop of nothing.
    for size in [2_u32, 7, 9, 1 << 30] {
        let mut file = [&ftyp[..], &moov].concat();
        file[..4].copy_from_slice(&size.to_be_bytes());
        assert_eq!(read_comment(Cursor::new(file)), Ok(None), "{size}");
    }
}

proptest::proptest! {
    #[test]
    fn random_bytes_are_walked_without_panic(
        mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        small in proptest::bool::ANY,
    ) {
        // Small sizes reach further into a structure than random ones do.
        if small {
            bytes.chunks_mut(4).step_by(2).for_each(|size| size.iter_mut().rev().skip(1).for_each(|b| *b = 0));
        }
        let inside = Boxes(&bytes).map(|(_, payload)| payload.len() + 8).sum::<usize>();
        proptest::prop_assert!(inside <= bytes.len());
        comment_of(&bytes);
        let _ = read_comment(Cursor::new(bytes));
    }
}
