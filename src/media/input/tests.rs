//! What the writers write is read back, and what must not be read is refused in a line.

use std::fs;
use std::path::Path;

use super::{read_picture, read_video};
use crate::error::{Error, Result};
use crate::media::tests::{folder, psnr, scene, write};
use crate::media::{Format, Frame, Recipe, Writer};

fn all(path: &Path) -> Result<Vec<Frame>> {
    read_video(path)?.collect()
}

/// The message of a refusal, which must be one line, name the file and be of the media.
fn refused(path: &Path) -> String {
    let error = all(path).expect_err("refused");
    let text = error.to_string();
    assert!(matches!(error, Error::Media { .. }), "{text}");
    let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
    assert!(text.contains(name.split('%').next().unwrap_or_default()) && !text.contains('\n'), "{text}");
    assert!(text.len() < 400, "{text}");
    text
}

/// The corner of a frame that has the size of another.
fn corner(frame: &Frame, like: &Frame) -> Vec<u8> {
    let rows = frame.rgb.chunks_exact(3 * frame.width as usize).take(like.height as usize);
    rows.flat_map(|row| &row[..3 * like.width as usize]).copied().collect()
}

#[test]
fn what_is_written_is_read_back() -> Result<()> {
    let folder = folder();
    for (width, height) in [(64, 64), (63, 35)] {
        for (name, least, frames) in [
            ("a.gif", 35.0, 9),
            ("a.png", f64::INFINITY, 1),
            ("b.png", f64::INFINITY, 9),
            ("c.apng", f64::INFINITY, 5),
            ("shots/%03d.png", f64::INFINITY, 12),
        ] {
            let path = folder.path().join(name);
            let scenes = write(&path, (width, height), 16.0, frames)?;
            let video = read_video(&path)?;
            assert_eq!(video.frames(), frames, "{name}");
            assert_eq!((video.width(), video.height()), (width, height), "{name}");
            let has_rate = !name.contains('%') && name != "a.png";
            assert_eq!(video.fps().is_some(), has_rate, "{name}");
            if let Some(fps) = video.fps() {
                // The delays of a GIF are hundredths of a second.
                assert!((fps - 16.0).abs() < if name == "a.gif" { 0.3 } else { 1e-6 }, "{name}: {fps}");
            }
            let read: Vec<Frame> = video.collect::<Result<_>>()?;
            assert_eq!(read.len(), scenes.len(), "{name}");
            for (index, (got, want)) in read.iter().zip(&scenes).enumerate() {
                let decibel = psnr(&got.rgb, &want.rgb);
                assert!(got == want || decibel > least, "{name}, {width}x{height}, frame {index}: {decibel:.1} dB");
            }
        }
    }
    Ok(())
}

/// Shades and soft blobs that move: nothing that half of the chroma cannot hold.
fn smooth(width: u32, height: u32, index: u32) -> Frame {
    let (w, h, t) = (width as f32, height as f32, index as f32);
    let mut rgb = Vec::new();
    for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x as f32 / w, y as f32 / h))) {
        let blob = |cx: f32, cy: f32| (-((x - cx).powi(2) + (y - cy).powi(2)) / 0.05).exp();
        let (one, two) = (blob(0.2 + 0.02 * t, 0.4), blob(0.7, 0.8 - 0.015 * t));
        let colour = [40.0 + 60.0 * x + 150.0 * two, 70.0 + 60.0 * y + 120.0 * one, 150.0 - 90.0 * two + 60.0 * one];
        rgb.extend(colour.map(|value| value.round().clamp(0.0, 255.0) as u8));
    }
    Frame { width, height, rgb }
}

#[test]
fn mp4_is_read_back() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.mp4");
    for (width, height, frames) in [(64, 64, 33), (63, 35, 5), (128, 80, 1)] {
        let format = Format::of(&path, frames)?;
        let mut writer = Writer::create(&path, &format, width, height, 23.976, frames, &Recipe::default())?;
        let scenes: Vec<Frame> = (0..frames).map(|index| smooth(width, height, index)).collect();
        scenes.iter().try_for_each(|frame| writer.push(frame))?;
        writer.finish()?;
        let video = read_video(&path)?;
        let even = (width.next_multiple_of(2), height.next_multiple_of(2));
        assert_eq!((video.width(), video.height(), video.frames()), (even.0, even.1, frames));
        assert!((video.fps().unwrap_or_default() - 24000.0 / 1001.0).abs() < 1e-9);
        let read: Vec<Frame> = video.collect::<Result<_>>()?;
        assert_eq!(read.len(), scenes.len());
        for (index, (got, want)) in read.iter().zip(&scenes).enumerate() {
            let decibel = psnr(&corner(got, want), &want.rgb);
            assert!(decibel >= 35.0, "{width}x{height}, frame {index}: {decibel:.1} dB");
        }
    }
    Ok(())
}

#[test]
fn folders_are_read_in_natural_order() -> Result<()> {
    let folder = folder();
    let save = |name: &str, index: u32| {
        let frame = scene(20, 16, index);
        image::RgbImage::from_raw(20, 16, frame.rgb).expect("whole").save(folder.path().join(name)).expect("saved");
    };
    for (name, index) in [("f10.png", 2), ("f2.png", 1), ("f1.png", 0), (".f0.png", 9)] {
        save(name, index);
    }
    fs::write(folder.path().join("notes.txt"), "no picture").expect("write");
    fs::create_dir(folder.path().join("f3.png")).expect("folder");
    let frames = all(folder.path())?;
    assert_eq!(frames, [scene(20, 16, 0), scene(20, 16, 1), scene(20, 16, 2)]);
    // A picture of another size, and one that is damaged, are named.
    image::RgbImage::new(8, 8).save(folder.path().join("f11.png")).expect("saved");
    let text = all(folder.path()).expect_err("of two sizes").to_string();
    assert!(text.contains("f11.png") && text.contains("8x8") && text.contains("20x16"), "{text}");
    fs::write(folder.path().join("f11.png"), "damaged").expect("write");
    let mut video = read_video(folder.path())?;
    assert_eq!((&mut video).take(3).filter(|frame| frame.is_ok()).count(), 3);
    assert!(matches!(video.next(), Some(Err(Error::Media { path, .. })) if path.ends_with("f11.png")));
    assert!(video.next().is_none());
    Ok(())
}

#[test]
fn missing_pictures_are_told_of() -> Result<()> {
    let folder = folder();
    let pattern = folder.path().join("f%04d.png");
    let text = refused(&pattern);
    assert!(text.contains("f0000.png") && text.contains("f0001.png"), "{text}");
    let save = |number: u32| image::RgbImage::new(4, 4).save(folder.path().join(format!("f{number:04}.png")));
    save(3).expect("saved");
    assert!(refused(&pattern).contains("start at 0 or 1"));
    save(1).expect("saved");
    let text = refused(&pattern);
    assert!(text.contains("f0002.png is missing") && text.contains("f0003.png"), "{text}");
    save(2).expect("saved");
    assert_eq!(all(&pattern)?.len(), 3);
    save(0).expect("saved");
    assert_eq!(all(&pattern)?.len(), 4);
    assert!(matches!(read_video(folder.path().join("absent/%d.png")), Err(Error::Io { .. })));
    assert!(matches!(read_video(folder.path().join("absent.mp4")), Err(Error::Io { .. })));
    fs::create_dir(folder.path().join("empty")).expect("folder");
    assert!(refused(&folder.path().join("empty")).contains("no pictures"));
    Ok(())
}

/// A picture of a GIF: its place, its colour, whether its left column is transparent, and its disposal.
type Patch = (u16, u16, u16, u16, u8, bool, gif::DisposalMethod);

fn gif_of(patches: &[Patch]) -> Vec<u8> {
    let palette = [255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9];
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, 4, 2, &palette).expect("GIF");
    for &(left, top, width, height, colour, hole, dispose) in patches {
        let indices = |i: u16| if hole && i.is_multiple_of(width) { 3 } else { colour };
        let frame = gif::Frame {
            left,
            top,
            width,
            height,
            dispose,
            delay: 5,
            transparent: Some(3),
            buffer: (0..width * height).map(indices).collect::<Vec<u8>>().into(),
            ..gif::Frame::default()
        };
        encoder.write_frame(&frame).expect("frame");
    }
    drop(encoder);
    bytes
}

/// The colours of a frame, a letter each.
fn letters(frame: &Frame) -> String {
    let letter = |pixel: &[u8]| match pixel {
        [255, 0, 0] => 'r',
        [0, 255, 0] => 'g',
        [0, 0, 255] => 'b',
        _ => '.',
    };
    frame.rgb.chunks_exact(3).map(letter).collect()
}

#[test]
fn gif_pictures_are_laid_over_each_other() -> Result<()> {
    use gif::DisposalMethod::{Background, Keep, Previous};
    let folder = folder();
    let path = folder.path().join("a.gif");
    let bytes = gif_of(&[
        (0, 0, 4, 2, 0, true, Keep),
        (1, 0, 2, 1, 1, false, Previous),
        (2, 1, 2, 1, 2, true, Background),
        // Beyond the canvas, as other people's are.
        (3, 0, 5, 9, 1, false, Keep),
    ]);
    fs::write(&path, &bytes).expect("write");
    let video = read_video(&path)?;
    assert_eq!((video.fps(), video.frames()), (Some(20.0), 4));
    let seen: Vec<String> = video.map(|frame| frame.map(|frame| letters(&frame))).collect::<Result<_>>()?;
    assert_eq!(seen, [".rrr.rrr", ".ggr.rrr", ".rrr.rrb", ".rrg.r.g"]);
    // Without its trailer it is still whole; with less it is not.
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("write");
    assert_eq!(all(&path)?.len(), 4);
    fs::write(&path, &bytes[..bytes.len() - 4]).expect("write");
    assert!(refused(&path).contains("cut short"));
    Ok(())
}

#[test]
fn videos_that_are_cut_short_are_refused_at_every_length() -> Result<()> {
    let folder = folder();
    for name in ["a.mp4", "a.gif", "a.apng"] {
        write(&folder.path().join(name), (32, 32), 16.0, 3)?;
        let bytes = fs::read(folder.path().join(name)).expect("file");
        let path = folder.path().join("cut");
        for length in (40..bytes.len() - 1).step_by(bytes.len() / 40) {
            fs::write(&path, &bytes[..length]).expect("write");
            let text = refused(&path);
            assert!(text.contains("cut short"), "{length} of {} of {name}: {text}", bytes.len());
        }
    }
    Ok(())
}

#[test]
fn what_is_no_video_is_refused_by_name() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.mp4");
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"text", "no video"),
        (b"\x1a\x45\xdf\xa3....", "Matroska"),
        (b"RIFF....AVI LIST", "AVI"),
        (b"\0\0\0\x08ftypisom", "no index"),
        (b"\0\0\0\x08mdat", "no index"),
    ] {
        fs::write(&path, bytes).expect("write");
        let text = refused(&path);
        assert!(text.contains(word), "{text}");
    }
    write(&path, (32, 32), 16.0, 2)?;
    let whole = fs::read(&path).expect("file");
    let place = |kind: &[u8]| whole.windows(4).position(|window| window == kind).expect("a box");
    for (from, to, word) in [
        (&b"avc1"[..], &b"hvc1"[..], "H.265"),
        (b"avc1", b"av01", "AV1"),
        (b"avc1", b"q\0\xff1", "`q\\x00\\xff1`"),
        (b"vide", b"soun", "no video"),
        (b"avcC", b"free", "avcC"),
        (b"stco", b"free", "stco"),
        (b"stsz", b"free", "stsz"),
        (b"moov", b"moof", "fragmented"),
    ] {
        let mut bytes = whole.clone();
        // The first `avc1` is a brand.
        let at = if from == b"avc1" { place(b"avcC") - 82 - 4 } else { place(from) };
        bytes[at..at + 4].copy_from_slice(to);
        fs::write(&path, bytes).expect("write");
        let text = refused(&path);
        assert!(text.contains(word), "{text}");
    }
    Ok(())
}

#[test]
fn tables_that_lie_are_refused() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.mp4");
    write(&path, (32, 32), 16.0, 3)?;
    let whole = fs::read(&path).expect("file");
    let place = |kind: &[u8]| whole.windows(4).position(|window| window == kind).expect("a box") + 4;
    // In each box: which word, and what it says instead.
    for (kind, word, value) in [
        (b"stsz", 2, u32::MAX),
        (b"stsz", 2, 4),
        (b"stsz", 2, 0),
        (b"stsz", 1, 1 << 30),
        (b"stsz", 3, u32::MAX),
        (b"stco", 1, u32::MAX),
        (b"stco", 2, u32::MAX),
        (b"stsc", 1, u32::MAX),
        (b"stsc", 3, 0),
        (b"stts", 1, u32::MAX),
    ] {
        let mut bytes = whole.clone();
        let at = place(kind) + 4 * word;
        bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        fs::write(&path, bytes).expect("write");
        refused(&path);
    }
    // A single size for samples that take no room: four billion of them are not walked over.
    let mut bytes = whole.clone();
    let at = place(b"stsz");
    bytes[at + 4..at + 12].copy_from_slice(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    fs::write(&path, bytes).expect("write");
    refused(&path);
    Ok(())
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Whatever happens to a file, reading it does not panic, and ends.
    #[test]
    fn damaged_videos_are_read_without_panic(
        kind in 0..4_usize,
        early in proptest::bool::ANY,
        damage in proptest::collection::vec((0.0..1.0_f64, proptest::num::u8::ANY), 1..8),
    ) {
        static WHOLE: std::sync::OnceLock<[Vec<u8>; 4]> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let folder = folder();
            ["a.mp4", "b.mp4", "a.gif", "a.png"].map(|name| {
                let path = folder.path().join(name);
                write(&path, (16, 16), 16.0, 4).expect("written");
                fs::read(path).expect("file")
            })
        });
        let mut bytes = whole[kind].clone();
        for (place, value) in damage {
            // Half of the time in the first kilobyte, where the structure is.
            let room = if early { bytes.len().min(1200) } else { bytes.len() };
            bytes[(place * room as f64) as usize] = value;
        }
        let folder = folder();
        let path = folder.path().join("damaged");
        fs::write(&path, &bytes).expect("write");
        if let Ok(video) = read_video(&path) {
            let size = (video.width(), video.height());
            for frame in video.take(50) {
                let Ok(frame) = frame else { break };
                proptest::prop_assert_eq!((frame.width, frame.height), size);
                proptest::prop_assert!(frame.is_whole());
            }
        }
        let _ = read_picture(&path);
    }
}
