//! JPEG, to the bytes that Pillow makes of it: both read it with libjpeg-turbo's arithmetic (mozjpeg is built on that).
//!
//! This software is based in part on the work of the Independent JPEG Group.

use std::any::Any;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{Decompress, Format, Marker};

use super::picture::{MOST_BYTES, to_rgb, upright};
use super::{MOST_PIXELS, check_size};
use crate::media::{Fault, Frame};

/// The most passes over a picture's pixels that its file may take. Encoders make ten or so; thousands, each of nothing, would
/// take hours.
const MOST_SCANS: u32 = 100;

/// Reads a JPEG file and turns it upright.
pub(super) fn jpeg(mut from: impl Read) -> Result<Frame, Fault> {
    let mut bytes = Vec::new();
    from.by_ref().take(MOST_BYTES).read_to_end(&mut bytes).map_err(Fault::Io)?;
    // The decoder fills what is missing with grey.
    let Some(scans) = scans(&bytes) else {
        return Err(Fault::cut_short("JPEG"));
    };
    if scans > MOST_SCANS {
        return Err(Fault::damaged("JPEG", format!("{scans} scans")));
    }
    // The C library ends at an error by unwinding, without a word on stderr.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(&bytes)));
    decoded.unwrap_or_else(|error| Err(Fault::damaged("JPEG", message(&*error))))
}

/// What the library said when it gave up.
fn message(error: &(dyn Any + Send)) -> &str {
    let text = error.downcast_ref::<String>().map_or("its decoder failed", String::as_str);
    text.trim_start_matches("libjpeg fatal error: ")
}

fn decode(bytes: &[u8]) -> Result<Frame, Fault> {
    let fault = |e: std::io::Error| Fault::damaged("JPEG", e);
    let decoder = Decompress::with_markers(&[Marker::APP(1)]).from_mem(bytes).map_err(fault)?;
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (width, height) = (side(decoder.width()), side(decoder.height()));
    check_size(width, height, MOST_PIXELS)?;
    let segment =
        |name: &[u8]| decoder.markers().find_map(|segment| segment.data.strip_prefix(name).map(<[u8]>::to_vec));
    let (exif, xmp) = (segment(b"Exif\0\0"), segment(b"http://ns.adobe.com/xap/1.0/\0"));
    let rgb = match decoder.image().map_err(fault)? {
        Format::RGB(mut started) => started.read_scanlines().map_err(fault)?,
        Format::Gray(mut started) => to_rgb(started.read_scanlines().map_err(fault)?, 1),
        Format::CMYK(mut started) => of_cmyk(&started.read_scanlines::<u8>().map_err(fault)?),
    };
    upright(width, height, rgb, exif.as_deref(), xmp.as_deref())
}

/// Inks as light, as Pillow has it: by Adobe's custom, whether the file names Adobe or not, the numbers say how much of the
/// paper an ink leaves white.
fn of_cmyk(inks: &[u8]) -> Vec<u8> {
    let light = |white: u8, left: u8| {
        let left = u32::from(left);
        // The product over 255, rounded.
        let product = u32::from(255 - white) * left + 128;
        (left - (((product >> 8) + product) >> 8)) as u8
    };
    inks.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]].map(|white| light(white, p[3]))).collect()
}

/// How many scans a JPEG has up to its end marker (ITU-T T.81, annex B); `None` when it has no end.
fn scans(bytes: &[u8]) -> Option<u32> {
    let (mut at, mut scans) = (2, 0_u32);
    loop {
        // To the next marker, over coded data in which FF is followed by 00, and over markers with nothing behind them.
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)? + 1;
        match bytes.get(at)? {
            0xd9 => return Some(scans),
            // FF is a filler.
            0x00 | 0x01 | 0xd0..=0xd8 | 0xff => {}
            marker => {
                scans += u32::from(*marker == 0xda);
                let &[high, low] = bytes.get(at + 1..at + 3)? else { return None };
                at += 1 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_jpeg_is_not_that_of_its_thumbnail() {
        let segment = [&[0xff, 0xe1, 0, 6][..], &[0xff, 0xd9, 1, 2]].concat();
        let scan = [0xff, 0xda, 0, 3, 0, 0x12, 0xff, 0x00, 0xff, 0xd3, 0x34];
        let file = [&[0xff, 0xd8][..], &segment, &scan, &scan, &[0xff, 0xff, 0xd9]].concat();
        assert_eq!(scans(&file), Some(2));
        for length in 0..file.len() {
            assert_eq!(scans(&file[..length]), None, "{length}");
        }
    }

    #[test]
    fn inks_become_light() {
        let inks = [0, 0, 0, 0, 255, 0, 128, 0, 0, 0, 0, 255, 60, 70, 80, 90].map(|ink: u8| 255 - ink);
        // Pillow's of the last: 165 less 60, 70 and 80 parts of 255 of that.
        assert_eq!(of_cmyk(&inks), [255, 255, 255, 0, 255, 127, 0, 0, 0, 126, 120, 113]);
    }

    #[test]
    fn a_file_of_scans_of_nothing_is_refused() {
        let scan = [0xff, 0xda, 0, 2];
        let file = [&[0xff, 0xd8][..], &scan.repeat(101), &[0xff, 0xd9]].concat();
        let error = jpeg(&*file).expect_err("too many");
        assert!(matches!(&error, Fault::Codec(text) if text.contains("101 scans")), "{error:?}");
    }
}
