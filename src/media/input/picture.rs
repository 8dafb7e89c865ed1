//! Still pictures: PNG, JPEG and WebP, turned upright.

use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, RgbImage};

use super::jpeg::jpeg;
use super::sniff::{Kind, Opened, open};
use super::{MOST_PIXELS, check_size};
use crate::error::{Error, Result};
use crate::media::{Fault, Frame};

/// No larger file is taken for a picture.
pub(super) const MOST_BYTES: u64 = 1 << 30;

/// The largest row of a PNG, and the most bytes of text and profiles, that are decoded.
const PNG_BYTES: usize = 512 << 20;

/// Reads a PNG, JPEG or WebP file, recognised by its content, as diffusers' `load_image` does: turned upright by its EXIF
/// (or XMP) orientation, an alpha channel dropped and not composited, profiles and gamma ignored, 16 bits a channel cut to
/// their upper 8, the first picture of an animation.
///
/// In one thing the bytes differ from Pillow's: grey of 16 bits, which Pillow clips to 255 (nearly always to white), is cut
/// like every other channel.
///
/// The reader of JPEG tells of damage by unwinding, which is caught here: a program built with `panic = "abort"` would end.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Media`] when it is no such picture, is cut short or damaged, or has
/// more than 2^27 pixels.
pub fn read_picture(path: impl AsRef<Path>) -> Result<Frame> {
    let path = path.as_ref();
    if path.is_dir() {
        return Err(Error::media(path, "is a folder; give a PNG, JPEG or WebP file"));
    }
    decode(open(path)?).map_err(|fault| fault.at(path))
}

/// Decodes what [`open`] found.
pub(super) fn decode(file: Opened) -> Result<Frame, Fault> {
    let wanted = "give a PNG, JPEG or WebP file";
    if file.length > MOST_BYTES {
        return Err(Fault::Codec(format!("{} bytes are too many for a picture; {wanted}", file.length)));
    }
    match file.kind {
        Kind::Png => png(file.reader),
        Kind::Jpeg => jpeg(file.reader),
        Kind::WebP => webp(file.reader, file.length),
        Kind::Gif => Err(Fault::Codec(format!("is a GIF, not a picture; {wanted}"))),
        Kind::Mp4 => Err(Fault::Codec(format!("is a video, not a picture; {wanted}"))),
        Kind::Other(what) => Err(Fault::Codec(format!("is {what}; convert it, or {wanted}"))),
        Kind::Unknown => Err(Fault::Codec(format!("is no picture; {wanted}"))),
    }
}

fn png(from: impl BufRead + Seek) -> Result<Frame, Fault> {
    let mut decoder = png::Decoder::new_with_limits(from, png::Limits { bytes: PNG_BYTES });
    // Palettes and fewer than 8 bits become 8, 16 lose their lower 8.
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let (width, height) = decoder.read_header_info().map_err(Fault::of_png)?.size();
    check_size(width, height, MOST_PIXELS)?;
    let mut reader = decoder.read_info().map_err(Fault::of_png)?;
    let size = reader.output_buffer_size().ok_or_else(|| Fault::damaged("PNG", "its size overflows"))?;
    let mut pixels = vec![0; size];
    reader.next_frame(&mut pixels).map_err(Fault::of_png)?;
    // The orientation may stand behind the pixels.
    reader.finish().map_err(Fault::of_png)?;
    let channels = reader.output_color_type().0.samples();
    let info = reader.info();
    let exif = info.exif_metadata.as_ref().map(|exif| exif.to_vec()).or_else(|| raw_profile(info));
    let xmp = info.utf8_text.iter().find(|text| text.keyword == "XML:com.adobe.xmp");
    let xmp = xmp.and_then(|text| text.get_text().ok()).map(String::into_bytes);
    upright(width, height, to_rgb(pixels, channels), exif.as_deref(), xmp.as_deref())
}

/// EXIF as ImageMagick writes it into text chunks: a name, a length, and hexadecimal digits over many lines.
fn raw_profile(info: &png::Info) -> Option<Vec<u8>> {
    const KEY: &str = "Raw profile type exif";
    let packed = info.compressed_latin1_text.iter().find(|text| text.keyword == KEY).and_then(|t| t.get_text().ok());
    let plain = info.uncompressed_latin1_text.iter().find(|text| text.keyword == KEY).map(|text| text.text.clone());
    let text = packed.or(plain)?;
    let digits: Vec<u8> = text.lines().skip(3).flat_map(str::bytes).collect();
    let digit = |&byte: &u8| char::from(byte).to_digit(16);
    digits.chunks_exact(2).map(|pair| Some((digit(&pair[0])? * 16 + digit(&pair[1])?) as u8)).collect()
}

fn webp(mut from: BufReader<std::fs::File>, length: u64) -> Result<Frame, Fault> {
    check_riff(&mut from, length)?;
    let mut decoder = WebPDecoder::new(from).map_err(|e| Fault::of_image("WebP", e))?;
    let (exif, xmp) = (decoder.exif_metadata().ok().flatten(), decoder.xmp_metadata().ok().flatten());
    whole(decoder, "WebP", exif, xmp)
}

/// Whether all that a WebP file declares is there; leaves it at its start.
pub(super) fn check_riff(from: &mut (impl Read + Seek), length: u64) -> Result<(), Fault> {
    let mut start = [0; 8];
    from.read_exact(&mut start).and_then(|()| from.rewind()).map_err(|e| Fault::of_io("WebP", e))?;
    let [.., a, b, c, d] = start;
    if u64::from(u32::from_le_bytes([a, b, c, d])) + 8 > length {
        return Err(Fault::cut_short("WebP"));
    }
    Ok(())
}

/// Decodes a picture whose headers were read.
fn whole(decoder: impl ImageDecoder, what: &str, exif: Option<Vec<u8>>, xmp: Option<Vec<u8>>) -> Result<Frame, Fault> {
    let (width, height) = decoder.dimensions();
    check_size(width, height, MOST_PIXELS)?;
    let channels = match decoder.color_type() {
        ColorType::L8 => 1,
        ColorType::La8 => 2,
        ColorType::Rgb8 => 3,
        ColorType::Rgba8 => 4,
        other => return Err(Fault::damaged(what, format!("{other:?}"))),
    };
    let mut pixels = vec![0; width as usize * height as usize * channels];
    decoder.read_image(&mut pixels).map_err(|e| Fault::of_image(what, e))?;
    upright(width, height, to_rgb(pixels, channels), exif.as_deref(), xmp.as_deref())
}

/// Pixels of grey, grey and alpha, RGB or RGBA as RGB.
pub(super) fn to_rgb(pixels: Vec<u8>, channels: usize) -> Vec<u8> {
    match channels {
        3 => pixels,
        4 => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        _ => pixels.chunks_exact(channels.max(1)).flat_map(|p| [p[0]; 3]).collect(),
    }
}

/// Turns a picture as its metadata say: by EXIF or, where that says nothing, by XMP.
pub(super) fn upright(
    width: u32,
    height: u32,
    rgb: Vec<u8>,
    exif: Option<&[u8]>,
    xmp: Option<&[u8]>,
) -> Result<Frame, Fault> {
    let exif = exif.and_then(|exif| Orientation::from_exif_chunk(exif.strip_prefix(b"Exif\0\0").unwrap_or(exif)));
    let turn = exif.or_else(|| xmp.and_then(xmp_orientation)).unwrap_or(Orientation::NoTransforms);
    turned(Frame { width, height, rgb }, turn)
}

/// A picture turned or mirrored.
pub(super) fn turned(frame: Frame, turn: Orientation) -> Result<Frame, Fault> {
    let picture = RgbImage::from_raw(frame.width, frame.height, frame.rgb);
    let mut picture = DynamicImage::ImageRgb8(picture.ok_or_else(|| Fault::damaged("picture", "too few pixels"))?);
    picture.apply_orientation(turn);
    let picture = picture.into_rgb8();
    Ok(Frame { width: picture.width(), height: picture.height(), rgb: picture.into_raw() })
}

/// `tiff:Orientation`, an attribute or an element of the XMP.
fn xmp_orientation(xmp: &[u8]) -> Option<Orientation> {
    const NAME: &[u8] = b"tiff:Orientation";
    let mut rest = xmp;
    while let Some(at) = rest.windows(NAME.len()).position(|window| window == NAME) {
        rest = &rest[at + NAME.len()..];
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some(digit) = value.and_then(|value| value.first()).filter(|byte| byte.is_ascii_digit()) {
            return Orientation::from_exif(digit - b'0');
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of each format, whole.
    fn samples() -> [(&'static str, Vec<u8>); 3] {
        let shades = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]);
        let picture = DynamicImage::ImageRgb8(RgbImage::from_fn(40, 30, shades));
        let formats =
            [("PNG", image::ImageFormat::Png), ("JPEG", image::ImageFormat::Jpeg), ("WebP", image::ImageFormat::WebP)];
        formats.map(|(name, format)| {
            let mut out = std::io::Cursor::new(Vec::new());
            picture.write_to(&mut out, format).expect("encoded");
            (name, out.into_inner())
        })
    }

    fn refused(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("some.png");
        std::fs::write(&path, bytes).expect("write");
        let error = read_picture(&path).expect_err("no picture");
        let text = error.to_string();
        assert!(matches!(error, Error::Media { .. }), "{text}");
        assert!(text.contains("some.png") && !text.contains('\n') && text.len() < 300, "{text}");
        text
    }

    #[test]
    fn files_that_are_cut_short_are_refused_at_every_length() {
        for (name, bytes) in samples() {
            let folder = tempfile::tempdir().expect("temporary folder");
            std::fs::write(folder.path().join("whole"), &bytes).expect("write");
            let whole = read_picture(folder.path().join("whole")).expect(name);
            assert_eq!((whole.width, whole.height), (40, 30));
            for length in (16..bytes.len()).step_by(7) {
                let text = refused(&bytes[..length]);
                assert!(text.contains(name), "{text}");
                assert!(text.contains("cut short") || length < 60, "{length} of {}: {text}", bytes.len());
            }
        }
    }

    #[test]
    fn what_is_no_picture_is_refused_by_name() {
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"hello", "no picture"),
            (b"GIF89a\x01\0\x01\0", "GIF"),
            (b"\0\0\0\x18ftypisom", "video"),
            (b"\0\0\0\x18ftypavif", "AVIF"),
            (b"II*\0aaaa", "TIFF"),
        ] {
            let text = refused(bytes);
            assert!(text.contains(word), "{text}");
        }
        let folder = tempfile::tempdir().expect("temporary folder");
        assert!(matches!(read_picture(folder.path()), Err(Error::Media { .. })));
        assert!(matches!(read_picture(folder.path().join("absent.png")), Err(Error::Io { .. })));
    }

    #[test]
    fn declared_sizes_are_not_believed() {
        let mut png = samples()[0].1.clone();
        // IHDR: width and height, then a checksum that must fit.
        for (width, height) in [(60_000_u32, 60_000_u32), (u32::MAX >> 1, 1), (12_000, 11_000)] {
            png[16..20].copy_from_slice(&width.to_be_bytes());
            png[20..24].copy_from_slice(&height.to_be_bytes());
            let check = crc32(&png[12..29]);
            png[29..33].copy_from_slice(&check.to_be_bytes());
            let text = refused(&png);
            assert!(text.contains("too many") || text.contains("cut short") || text.contains("decoded"), "{text}");
        }
        let mut jpeg = samples()[1].1.clone();
        let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).expect("a frame header");
        for (side, word) in [([0xff, 0], "65280x65280 pixels are too many"), ([0xff; 2], "65500"), ([0; 2], "decoded")]
        {
            jpeg[frame + 5..frame + 9].copy_from_slice(&[side, side].concat());
            let text = refused(&jpeg);
            assert!(text.contains(word), "{text}");
        }
    }

    /// The checksum of PNG's chunks.
    fn crc32(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 400, failure_persistence: None, ..Default::default() })]

        /// Whatever happens to a file, reading it does not panic.
        #[test]
        fn damaged_files_are_read_without_panic(
            kind in 0..3_usize,
            damage in proptest::collection::vec((0.0..1.0_f64, proptest::num::u8::ANY), 1..12),
        ) {
            static WHOLE: std::sync::OnceLock<[(&str, Vec<u8>); 3]> = std::sync::OnceLock::new();
            let mut bytes = WHOLE.get_or_init(samples)[kind].1.clone();
            for (place, value) in damage {
                let at = (place * bytes.len() as f64) as usize;
                bytes[at] = value;
            }
            let folder = tempfile::tempdir().expect("temporary folder");
            let path = folder.path().join("damaged");
            std::fs::write(&path, &bytes).expect("write");
            if let Ok(frame) = read_picture(&path) {
                proptest::prop_assert_eq!(frame.rgb.len() as u64, u64::from(frame.width) * u64::from(frame.height) * 3);
            }
        }
    }

    #[test]
    fn orientation_in_xmp() {
        assert_eq!(xmp_orientation(b"<x tiff:Orientation=\"6\"/>"), Some(Orientation::Rotate90));
        assert_eq!(xmp_orientation(b"<tiff:Orientation>3</tiff:Orientation>"), Some(Orientation::Rotate180));
        assert_eq!(xmp_orientation(b"tiff:Orientation tiff:Orientation=\"x"), None);
        assert_eq!(xmp_orientation(b""), None);
    }
}
