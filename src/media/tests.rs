//! Round trips through every format, and what must not be left behind.

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use openh264::formats::YUVSource;
use tempfile::TempDir;

use super::mp4::testing::{noise, planes, samples, summary};
use super::*;

/// A shaded ground with a white disc and a red square that move: flat, smooth and sharp parts, edges smoothed over
/// a pixel.
pub(super) fn scene(width: u32, height: u32, index: u32) -> Frame {
    let (w, h, t) = (width as f32, height as f32, index as f32);
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
            let mut colour = [40.0 + 60.0 * x / w, 70.0 + 60.0 * y / h, 150.0];
            let mut lay = |over: [f32; 3], distance: f32| {
                let cover = (0.5 - distance).clamp(0.0, 1.0);
                (0..3).for_each(|i| colour[i] += cover * (over[i] - colour[i]));
            };
            let (dx, dy) = (x - w * 0.25 - 0.7 * t, y - h * 0.35);
            lay([235.0, 235.0, 235.0], dx.hypot(dy) - 0.18 * w.min(h));
            let (dx, dy) = (x - w * 0.6, y - h * 0.8 + 0.6 * t);
            lay([200.0, 40.0, 40.0], dx.abs().max(dy.abs()) - 0.14 * w.min(h));
            rgb.extend(colour.map(|c| c.round() as u8));
        }
    }
    Frame { width, height, rgb }
}

fn recipe() -> Recipe {
    Recipe {
        prompt: "a \"red\" square\nover 蓝色背景 🎬 é".into(),
        negative: "ℬlurry \u{0} \\u0041".into(),
        seed: u64::MAX - 1,
        width: 64,
        height: 48,
        frames: 33,
        fps: 23.976,
        steps: 20,
        guidance: 5.5,
        guidance_low: Some(3.25),
        shift: 3.0,
        known: vec![KnownFrames { start: 0, count: 1, sha256: "ab".repeat(32) }],
        video: Some(GivenVideo { count: 33, sha256: "cd".repeat(32), strength: Some(0.8) }),
        mask: Some("ef".repeat(32)),
        references: vec!["01".repeat(32)],
        control_scales: vec![0.5, 1.0],
        vae_tile: Some("256:192".into()),
        sampler: "unipc".into(),
        model: "embedded".into(),
        model_hash: "0123456789abcdef".into(),
        loras: Vec::new(),
        precision: "f16".into(),
        version: "0.1.0".into(),
    }
}

/// Writes a scene and returns its frames.
pub(super) fn write(path: &Path, (width, height): (u32, u32), fps: f64, frames: u32) -> Result<Vec<Frame>> {
    let format = Format::of(path, frames)?;
    check_writable(path)?;
    let scenes: Vec<Frame> = (0..frames).map(|i| scene(width, height, i)).collect();
    let mut writer = Writer::create(path, &format, width, height, fps, frames, &recipe())?;
    for frame in &scenes {
        writer.push(frame)?;
    }
    writer.finish()?;
    Ok(scenes)
}

/// The names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

/// Peak signal-to-noise ratio in dB of 8-bit samples.
pub(super) fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    10.0 * (255.0_f64.powi(2) * a.len() as f64 / square.max(1e-9)).log10()
}

const FRAMES: [u32; 2] = [1, 33];
const SIZES: [(u32, u32); 4] = [(64, 64), (16, 16), (40, 24), (63, 35)];

#[test]
fn recipe_is_one_line_and_comes_back() -> Result<()> {
    for json in [recipe().to_json()?, recipe().to_ascii_json()?] {
        assert!(!json.contains('\n'), "{json}");
        assert_eq!(Recipe::from_json(&json)?, recipe());
    }
    assert!(recipe().to_ascii_json()?.is_ascii());
    // A later version's field, and one that this version may leave out.
    let json = Recipe { guidance_low: None, ..recipe() }.to_json()?;
    assert!(!json.contains("guidance_low"));
    assert_eq!(Recipe::from_json(&json.replacen('{', "{\"later\":[1],", 1))?.guidance_low, None);
    assert!(Recipe::from_json("{}").is_err());
    Ok(())
}

#[test]
fn png_and_apng_come_back_exactly() -> Result<()> {
    let folder = folder();
    for (size, frames) in SIZES.into_iter().flat_map(|size| FRAMES.map(|n| (size, n))) {
        let path = folder.path().join("a.png");
        let scenes = write(&path, size, 23.976, frames)?;
        let file = BufReader::new(fs::File::open(&path).expect("file"));
        let mut reader = ::png::Decoder::new(file).read_info().expect("PNG");
        let animation = reader.info().animation_control;
        assert_eq!(animation.map(|a| (a.num_frames, a.num_plays)), (frames > 1).then_some((frames, 0)));
        let mut pixels = vec![0; reader.output_buffer_size().expect("size")];
        for scene in &scenes {
            reader.next_frame(&mut pixels).expect("frame");
            assert_eq!(pixels, scene.rgb);
            if let Some(control) = reader.info().frame_control {
                assert_eq!((control.delay_num, control.delay_den), (1001, 24000));
            }
        }
        assert_eq!(read_recipe(&path)?, Some(recipe()));
    }
    assert_eq!(names(folder.path()), ["a.png"]);
    Ok(())
}

#[test]
fn gif_keeps_the_rate_and_the_colours() -> Result<()> {
    let folder = folder();
    for (size, frames) in SIZES.into_iter().flat_map(|size| FRAMES.map(|n| (size, n))) {
        let path = folder.path().join("a.gif");
        let scenes = write(&path, size, 16.0, frames)?;
        let mut options = ::gif::DecodeOptions::new();
        options.set_color_output(::gif::ColorOutput::RGBA);
        let mut reader = options.read_info(fs::File::open(&path).expect("file")).expect("GIF");
        assert_eq!((u32::from(reader.width()), u32::from(reader.height())), size);
        let (mut count, mut hundredths) = (0, 0);
        while let Some(frame) = reader.read_next_frame().expect("frame") {
            let rgb: Vec<u8> = frame.buffer.chunks_exact(4).flat_map(|p| p[..3].to_vec()).collect();
            let decibel = psnr(&rgb, &scenes[count].rgb);
            assert!(decibel > 35.0, "frame {count} of {size:?}: {decibel:.1} dB");
            assert!((6..=7).contains(&frame.delay), "{}", frame.delay);
            hundredths += u32::from(frame.delay);
            count += 1;
        }
        assert_eq!(count, scenes.len());
        assert_eq!(hundredths, (frames * 100 + 8) / 16);
        assert_eq!(reader.repeat(), ::gif::Repeat::Infinite);
        assert_eq!(read_recipe(&path)?, Some(recipe()));
    }
    Ok(())
}

#[test]
fn mp4_is_well_formed_and_looks_right() -> Result<()> {
    let folder = folder();
    for (size, frames) in SIZES.into_iter().flat_map(|size| FRAMES.map(|n| (size, n))) {
        let path = folder.path().join("a.mp4");
        let scenes = write(&path, size, 23.976, frames)?;
        let bytes = fs::read(&path).expect("file");
        let found = summary(&bytes);
        assert_eq!(found.order, ["ftyp", "moov", "free", "free", "mdat"]);
        let even = (size.0.next_multiple_of(2), size.1.next_multiple_of(2));
        assert_eq!(found.size, even);
        assert_eq!(found.samples, frames);
        assert_eq!((found.scale, found.duration), (24000, frames * 1001));

        let mut decoder = openh264::decoder::Decoder::new().expect("decoder");
        let units = samples(&bytes);
        assert_eq!(units.len(), scenes.len());
        for (index, (unit, scene)) in units.iter().zip(&scenes).enumerate() {
            let picture = decoder.decode(unit).expect("H.264").expect("a picture");
            assert_eq!(picture.dimensions(), (even.0 as usize, even.1 as usize));
            let sent = planes(scene);
            let luma = psnr(&packed(picture.y(), picture.strides().0, even.0), sent.y());
            let blue = psnr(&packed(picture.u(), picture.strides().1, even.0 / 2), sent.u());
            let red = psnr(&packed(picture.v(), picture.strides().2, even.0 / 2), sent.v());
            assert!(luma.min(blue).min(red) > 45.0, "frame {index} of {size:?}: {luma:.1} {blue:.1} {red:.1} dB");
        }
        assert_eq!(read_recipe(&path)?, Some(recipe()));
    }
    assert_eq!(names(folder.path()), ["a.mp4"]);
    Ok(())
}

#[test]
fn mp4_takes_white_noise_and_loses_nothing_of_what_is_around_it() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("noise.mp4");
    // Where noise begins and ends in a clip of nine frames, at 2 frames a second: four from key to key.
    let clips = [((16, 16), 0..9), ((128, 128), 0..9), ((320, 176), 0..9), ((128, 128), 5..9), ((64, 48), 1..2)];
    for (size, wild) in clips {
        let picture = |i| if wild.contains(&i) { noise(size.0, size.1, i) } else { scene(size.0, size.1, i) };
        let frames: Vec<Frame> = (0..9).map(picture).collect();
        let mut writer = Writer::create(&path, &Format::Mp4, size.0, size.1, 2.0, 9, &recipe())?;
        frames.iter().try_for_each(|frame| writer.push(frame))?;
        writer.finish()?;
        assert_eq!(summary(&fs::read(&path).expect("file")).samples, 9);

        let mut reader = read_video(&path)?;
        for (index, frame) in (0..).zip(&frames) {
            let Some(got) = reader.next().transpose()? else {
                panic!("{size:?}: only {index} frames");
            };
            let [got, sent] = [&got, frame].map(|frame| planes(frame).y().to_vec());
            let decibel = psnr(&got, &sent);
            let least = if wild.contains(&index) { 12.0 } else { 35.0 };
            assert!(decibel > least, "frame {index} of {size:?}, noise in {wild:?}: {decibel:.1} dB");
        }
        assert!(reader.next().is_none());
    }
    Ok(())
}

/// A plane without the bytes between its rows.
fn packed(plane: &[u8], stride: usize, width: u32) -> Vec<u8> {
    plane.chunks(stride).flat_map(|row| &row[..width as usize]).copied().collect()
}

#[test]
fn mp4_colours_come_back_by_the_bt709_matrix() -> Result<()> {
    let folder = folder();
    for colour in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [30, 180, 90], [250, 200, 20]] {
        let path = folder.path().join("a.mp4");
        let mut writer = Writer::create(&path, &Format::Mp4, 32, 32, 16.0, 1, &recipe())?;
        writer.push(&Frame::new(32, 32, colour.repeat(32 * 32))?)?;
        writer.finish()?;
        let units = samples(&fs::read(&path).expect("file"));
        let mut decoder = openh264::decoder::Decoder::new().expect("decoder");
        let picture = decoder.decode(&units[0]).expect("H.264").expect("a picture");
        // ITU-R BT.709-6, item 3.2 solved for RGB, from limited range.
        let y = (f64::from(picture.y()[0]) - 16.0) / 219.0;
        let [cb, cr] = [picture.u()[0], picture.v()[0]].map(|c| (f64::from(c) - 128.0) / 224.0);
        let (r, b) = (y + 1.5748 * cr, y + 1.8556 * cb);
        let g = (y - 0.2126 * r - 0.0722 * b) / 0.7152;
        for (got, want) in [r, g, b].into_iter().zip(colour) {
            assert!((got * 255.0 - f64::from(want)).abs() < 4.0, "{colour:?}: {:?}", [r, g, b].map(|c| c * 255.0));
        }
    }
    Ok(())
}

#[test]
fn the_same_frames_are_the_same_file() -> Result<()> {
    let folder = folder();
    for extension in ["mp4", "gif", "png"] {
        let paths = ["a", "b"].map(|stem| folder.path().join(stem).with_extension(extension));
        for path in &paths {
            write(path, (48, 32), 16.0, 5)?;
        }
        let [a, b] = paths.map(|path| fs::read(path).expect("file"));
        assert!(a == b, "{extension}");
    }
    Ok(())
}

#[test]
fn frames_get_a_folder() -> Result<()> {
    let folder = folder();
    let pattern = folder.path().join("shots").join("f%04d.png");
    let scenes = write(&pattern, (20, 12), 16.0, 3)?;
    assert_eq!(names(&folder.path().join("shots")), ["f0001.png", "f0002.png", "f0003.png"]);
    for (index, scene) in scenes.iter().enumerate() {
        let path = folder.path().join(format!("shots/f{:04}.png", index + 1));
        assert_eq!(image::open(&path).expect("PNG").to_rgb8().into_raw(), scene.rgb);
        assert_eq!(read_recipe(&path)?, Some(recipe()));
    }
    assert_eq!(read_recipe(&pattern)?, Some(recipe()));
    // Again, into the folder that is there now.
    write(&pattern, (20, 12), 16.0, 2)?;
    assert_eq!(names(&folder.path().join("shots")).len(), 3);
    Ok(())
}

/// The outputs of every format in a folder.
fn outputs(folder: &Path) -> Vec<PathBuf> {
    ["a.mp4", "a.gif", "a.png", "a.apng", "shots/%d.png"].map(|name| folder.join(name)).to_vec()
}

#[test]
fn dropped_unfinished_leaves_nothing() -> Result<()> {
    let folder = folder();
    for path in outputs(folder.path()) {
        for pushed in [0, 2] {
            let format = Format::of(&path, 3)?;
            let mut writer = Writer::create(&path, &format, 32, 32, 16.0, 3, &recipe())?;
            for i in 0..pushed {
                writer.push(&scene(32, 32, i))?;
            }
            drop(writer);
            assert!(names(folder.path()).is_empty(), "{}: {:?}", path.display(), names(folder.path()));
        }
    }
    Ok(())
}

#[test]
fn leftovers_of_killed_runs_go_and_long_names_are_taken() -> Result<()> {
    let folder = folder();
    fs::create_dir(folder.path().join("shots")).expect("made");
    // No process has this number.
    for name in [".a.mp4.4294967295-0.part", "shots/.2.png.4294967295-0.part", ".b.mp4.4294967295-0.part"] {
        fs::write(folder.path().join(name), "half").expect("written");
    }
    write(&folder.path().join("a.mp4"), (16, 16), 16.0, 3)?;
    write(&folder.path().join("shots/%d.png"), (16, 16), 16.0, 3)?;
    assert_eq!(names(folder.path()), [".b.mp4.4294967295-0.part", "a.mp4", "shots"]);
    assert_eq!(names(&folder.path().join("shots")), ["1.png", "2.png", "3.png"]);
    let long = folder.path().join(format!("{}.mp4", "é".repeat(125)));
    write(&long, (16, 16), 16.0, 1)?;
    assert!(long.exists());
    // One that is too long is refused before a run, not after it.
    let error = check_writable(folder.path().join(format!("{}.mp4", "é".repeat(126)))).expect_err("too long");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    Ok(())
}

#[test]
fn errors_leave_nothing_and_spare_what_was_there() -> Result<()> {
    let folder = folder();
    fs::write(folder.path().join("a.mp4"), "older").expect("write");
    for path in outputs(folder.path()) {
        let format = Format::of(&path, 2)?;
        let create = || Writer::create(&path, &format, 32, 32, 16.0, 2, &recipe());
        let mut writer = create()?;
        writer.push(&scene(32, 32, 0))?;
        // Too few.
        assert!(matches!(writer.finish(), Err(Error::Media { .. })));
        let mut writer = create()?;
        writer.push(&scene(32, 32, 0))?;
        // Of another size; and nothing more after an error.
        assert!(matches!(writer.push(&scene(16, 32, 1)), Err(Error::Media { .. })));
        assert!(matches!(writer.push(&scene(32, 32, 1)), Err(Error::Media { .. })));
        assert!(matches!(writer.finish(), Err(Error::Media { .. })));
        // Too many.
        let mut writer = create()?;
        writer.push(&scene(32, 32, 0))?;
        writer.push(&scene(32, 32, 1))?;
        assert!(matches!(writer.push(&scene(32, 32, 2)), Err(Error::Media { .. })));
        assert!(writer.finish().is_err());
        // Broken pixels.
        let broken = Frame { width: 32, height: 32, rgb: vec![0; 7] };
        assert!(create()?.push(&broken).is_err());
    }
    assert_eq!(names(folder.path()), ["a.mp4"]);
    assert_eq!(fs::read(folder.path().join("a.mp4")).expect("file"), b"older");
    Ok(())
}

/// A disk that is full after so many bytes.
struct FullDisk(Cursor<Vec<u8>>, u64);

impl std::io::Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.position() + bytes.len() as u64 > self.1 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::io::Seek for FullDisk {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn a_full_disk_is_an_io_error_in_every_encoder() -> Result<()> {
    let rate = Rate::new(16.0)?;
    let frame = scene(64, 64, 0);
    for room in [0, 20, 100, 300] {
        let disk = || FullDisk(Cursor::new(Vec::new()), room);
        let mp4 = mp4::Mp4::new(disk(), (64, 64), 1, rate, "{}".into()).and_then(|mut mp4| {
            mp4.push(&frame)?;
            mp4.finish()
        });
        let gif = gif::Gif::new(disk(), (64, 64), rate, "{}").and_then(|mut gif| {
            gif.push(&frame)?;
            gif.finish()
        });
        let apng = png::Apng::new(disk(), (64, 64), 1, rate, "{}").and_then(|mut apng| {
            apng.push(&frame)?;
            apng.finish()
        });
        let still = png::write_still(disk(), &frame, "{}");
        for (name, result) in [("mp4", mp4), ("gif", gif), ("apng", apng), ("png", still)] {
            assert!(matches!(result, Err(Fault::Io(_))), "{name} with room for {room}: {result:?}");
        }
    }
    Ok(())
}

#[test]
fn unwritable_paths_are_refused_at_once() {
    let folder = folder();
    let inside = |name: &str| folder.path().join(name);
    fs::write(inside("file"), "").expect("write");
    fs::create_dir(inside("made.mp4")).expect("folder");
    fs::write(inside("fixed.mp4"), "").expect("write");
    let mut permissions = fs::metadata(inside("fixed.mp4")).expect("file").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(inside("fixed.mp4"), permissions).expect("read-only");
    for name in ["absent/a.mp4", "made.mp4", "fixed.mp4", "file/a.mp4", "absent/deep/%04d.png", "file/%d.png", ""] {
        let path = if name.is_empty() { PathBuf::new() } else { inside(name) };
        let error = check_writable(&path).expect_err(name);
        assert!(matches!(error, Error::Request { .. } | Error::Io { .. }), "{name}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    for name in ["a.mp4", "absent/%04d.png", "%d.png"] {
        check_writable(inside(name)).expect(name);
    }
    assert_eq!(names(folder.path()), ["file", "fixed.mp4", "made.mp4"]);
}

#[test]
fn files_without_a_recipe() -> Result<()> {
    let folder = folder();
    let path = folder.path().join("a.png");
    image::RgbImage::new(4, 4).save(&path).expect("save");
    assert_eq!(read_recipe(&path)?, None);
    fs::write(&path, "text").expect("write");
    assert!(matches!(read_recipe(&path), Err(Error::Media { .. })));
    fs::write(&path, "").expect("write");
    assert!(matches!(read_recipe(&path), Err(Error::Media { .. })));
    assert!(matches!(read_recipe(folder.path().join("absent.mp4")), Err(Error::Io { .. })));
    Ok(())
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 64, failure_persistence: None, ..Default::default() })]

    /// Whatever happens to a file, its reader does not panic.
    #[test]
    fn damaged_files_are_read_without_panic(
        kind in 0..3_usize,
        damage in proptest::collection::vec((0.0..1.0_f64, proptest::num::u8::ANY), 0..20),
        keep in 0.0..1.0_f64,
    ) {
        static WHOLE: std::sync::OnceLock<[Vec<u8>; 3]> = std::sync::OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let folder = folder();
            ["a.mp4", "a.gif", "a.png"].map(|name| {
                write(&folder.path().join(name), (16, 16), 16.0, 2).expect("write");
                fs::read(folder.path().join(name)).expect("read")
            })
        });
        let mut bytes = whole[kind].clone();
        for (place, value) in damage {
            // Mostly in the first kilobyte, where the structure is.
            let at = (place * bytes.len().min(1200) as f64) as usize;
            bytes[at] = value;
        }
        bytes.truncate(((0.5 + keep) * bytes.len() as f64) as usize);
        let _ = match kind {
            0 => mp4::read_comment(Cursor::new(bytes)),
            1 => gif::read_comment(Cursor::new(bytes)),
            _ => png::read_comment(Cursor::new(bytes)),
        };
    }
}
