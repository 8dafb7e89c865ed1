//! Runs with frames that are known beforehand, against diffusers, and what such a run must hold.

use std::path::Path;
use std::sync::Arc;

use mutoscope::Error;
use mutoscope::media::{Format, Frame, Recipe, Writer, read_picture, read_recipe};
use mutoscope::pipeline::{Engine, Known, Model, Precision, Request, Settings};
use serde_json::Value;

use crate::cli::{mutoscope, refused};
use crate::device::gpu;
use crate::golden::{Golden, count, pipeline, text};
use crate::pipelines::{compare, compare_f16, request, worst_frame};

/// A golden pipeline that takes known frames. Where it does not as it stands, its tokens get timesteps of their own by
/// another model_index.json.
fn open(name: &str, class: &str) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline(name), folder.path());
    if matches!(name, "e" | "f" | "g") {
        let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        return (folder, model);
    }
    let path = folder.path().join("model_index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    index["expand_timesteps"] = true.into();
    index["_class_name"] = class.into();
    std::fs::write(&path, index.to_string()).expect("written");
    let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    (folder, model)
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The known frames of a golden case.
pub(crate) fn known(golden: &Golden, case: &Value) -> Vec<Known> {
    let parts = case["known"].as_array().expect("a list");
    let part = |part: &Value| {
        let start = part["start"].as_i64().expect("a frame") as isize;
        let [height, width] = ["height", "width"].map(|side| count(part, side));
        let pixels = golden.tensor(case, &format!("known.{start}")).to_f32();
        let pixels: Vec<u8> = pixels.into_iter().map(|v| v as u8).collect();
        let picture = |rgb: &[u8]| Frame::new(width as u32, height as u32, rgb.to_vec()).expect("a picture");
        let pixels: Vec<Frame> = pixels.chunks(height * width * 3).map(picture).collect();
        assert_eq!(pixels.len(), count(part, "count"));
        Known { start, pixels: pixels.into() }
    };
    parts.iter().map(part).collect()
}

#[test]
fn frames_and_latents_are_those_of_diffusers() {
    let golden = Golden::open("known");
    let engine = Engine::on(gpu());
    for case in golden.list("cases") {
        let (_folder, model) = open(text(case, "pipeline"), "WanImageToVideoPipeline");
        let request = Request { known: known(&golden, case), ..request(case, Precision::F32) };
        compare(&engine, &model, &request, &golden, case);
    }
}

#[test]
fn pictures_seen_by_clip_are_near_enough_in_f16_or_refused() {
    let golden = Golden::open("known");
    let engine = Engine::on(gpu());
    // One of each kind that sees pictures so.
    for name in ["f", "g"] {
        let case = golden.list("cases").iter().find(|case| text(case, "pipeline") == name).expect("a case");
        let (_folder, model) = open(name, "");
        let request = Request { known: known(&golden, case), ..request(case, Precision::F16) };
        compare_f16(&engine, &model, &request, &golden, case);
    }
}

#[test]
fn known_frames_change_the_others_and_are_in_the_recipe() {
    let golden = Golden::open("known");
    let (engine, case) = (Engine::on(gpu()), &golden.list("cases")[0]);
    let (_folder, model) = open(text(case, "pipeline"), "WanPipeline");
    let asked = Request { known: known(&golden, case), ..request(case, Precision::F32) };
    let run = |request: &Request| engine.generate_frames(&model, request).unwrap_or_else(|e| panic!("{e}"));
    let (video, frames) = run(&asked);
    let recipe = video.settings.recipe(&model, video.precision);
    assert_eq!(recipe.known.iter().map(|known| (known.start, known.count)).collect::<Vec<_>>(), [(0, 1)]);

    // Another picture is another video to its end, and another recipe.
    let mut other = asked.clone();
    let mut negative = other.known[0].pixels[0].clone();
    negative.rgb.iter_mut().for_each(|v| *v = 255 - *v);
    other.known = vec![Known::first(negative)];
    let (other, changed) = run(&other);
    assert_ne!(frames.last(), changed.last());
    assert_ne!(recipe.known, other.settings.recipe(&model, other.precision).known);

    // The last frame, counted from the end or from the beginning, is the same frame.
    let picture = asked.known[0].pixels[0].clone();
    let last = Request { known: vec![Known::last(picture.clone())], ..asked.clone() };
    let at = Request { known: vec![Known { start: 8, pixels: Arc::new([picture]) }], ..asked };
    assert_eq!(run(&last).1, run(&at).1);
}

#[test]
fn what_cannot_be_known_is_refused() {
    let picture = Frame::new(60, 40, vec![9; 7200]).expect("a picture");
    let (_folder, model) = open("b", "WanPipeline");
    let asked = Request { known: vec![Known::first(picture)], ..Request::new("a") };
    let plain = Model::open(pipeline("b")).unwrap_or_else(|e| panic!("{e}"));
    let error = Settings::resolve(&plain, &asked).expect_err("refused");
    assert!(matches!(error, Error::Request { .. }) && error.to_string().contains("expand_timesteps"), "{error}");
    // What animates pictures wants one.
    let (_folder, animates) = open("e", "");
    let error = Settings::resolve(&animates, &Request::new("a")).expect_err("refused").to_string();
    assert!(error.contains("--image"), "{error}");
    // What goes from one picture to another wants both, be they two of one clip.
    let (_folder, both) = open("g", "");
    let error = Settings::resolve(&both, &asked).expect_err("refused").to_string();
    assert!(error.contains("--end-image"), "{error}");
    let mut two = asked.clone();
    two.known.push(Known::last(asked.known[0].pixels[0].clone()));
    Settings::resolve(&both, &two).unwrap_or_else(|e| panic!("{e}"));
    let late = Request { known: vec![Known { start: 99, ..asked.known[0].clone() }], ..asked.clone() };
    let error = Settings::resolve(&model, &late).expect_err("refused").to_string();
    assert!(error.contains("frame 99") && error.contains("81"), "{error}");
    // The shape of the picture, the model's number of pixels.
    let settings = Settings::resolve(&model, &asked).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((settings.width, settings.height), (768, 512));
}

/// Writes pictures as `FOLDER/%04d.png`, and gives the pattern.
pub(crate) fn write(folder: &Path, pictures: &[Frame]) -> String {
    let pattern = folder.join("%04d.png");
    let (width, height) = (pictures[0].width, pictures[0].height);
    let count = pictures.len() as u32;
    let format = Format::of(&pattern, count).expect("a format");
    let mut writer =
        Writer::create(&pattern, &format, width, height, 8.0, count, &Recipe::default()).expect("a writer");
    pictures.iter().for_each(|picture| writer.push(picture).expect("pushed"));
    writer.finish().expect("finished");
    pattern.to_str().expect("UTF-8").to_owned()
}

#[test]
fn pictures_and_clips_are_given_on_the_command_line() {
    let golden = Golden::open("known");
    let cases = golden.list("cases");
    // Every case in which something is known, as a user would say it: a picture, a clip, a picture at the end.
    let mut ways = std::collections::BTreeSet::new();
    for case in cases.iter().filter(|case| case["known"] != Value::Array(vec![])) {
        let (model_folder, _model) = open(text(case, "pipeline"), "WanPipeline");
        let folder = tempfile::tempdir().expect("a folder");
        let mut arguments: Vec<String> = vec!["generate".into(), text(case, "prompt").into(), "--quiet".into()];
        let mut say = |flag: &str, value: String| arguments.push(format!("{flag}={value}"));
        say("--model", model_folder.path().display().to_string());
        say("--negative", text(case, "negative").into());
        say("--size", format!("{}x{}", count(case, "width"), count(case, "height")));
        for flag in ["frames", "steps", "guidance", "seed"] {
            say(&format!("--{flag}"), case[flag].to_string());
        }
        say("--sampler", text(case, "sampler").into());
        say("--shift", case["shift"].to_string());
        say("--precision", "f32".into());
        let frames = count(case, "frames");
        for part in known(&golden, case) {
            let pattern = write(&folder.path().join(part.start.to_string()), &part.pixels);
            let (first, end) = (pattern.replace("%04d", "0001"), part.start as usize + part.pixels.len());
            match part.start {
                0 if part.pixels.len() == 1 => say("--image", first),
                _ if part.pixels.len() == 1 && end == frames => say("--end-image", first),
                _ if end == frames => say("--known", format!("-{}={pattern}", part.pixels.len())),
                start => say("--known", format!("{start}..{end}={pattern}")),
            }
        }
        ways.extend(arguments.iter().filter_map(|a| a.split('=').next().map(str::to_owned)));
        let out = folder.path().join("out/%04d.png");
        arguments.push(format!("--out={}", out.display()));
        let output = mutoscope(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let picture = |i: usize| folder.path().join(format!("out/{:04}.png", i + 1));
        let got: Vec<Frame> = (0..frames).map(|i| read_picture(picture(i)).unwrap_or_else(|e| panic!("{e}"))).collect();
        let decibels = worst_frame(&got, &golden.tensor(case, "frames"));
        assert!(decibels > 50.0, "{}: worst frame {decibels:.1} dB", text(case, "key"));
        let recipe = read_recipe(&out).expect("readable").expect("a recipe");
        assert_eq!(recipe.known.len(), case["known"].as_array().map_or(0, Vec::len));
    }
    assert!(["--image", "--end-image", "--known"].iter().all(|way| ways.contains(*way)), "{ways:?}");
}

#[test]
fn pictures_that_cannot_be_used_are_refused_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model_folder, _model) = open("b", "WanPipeline");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let pattern = write(folder.path(), &[Frame::new(8, 8, vec![3; 192]).expect("a picture")]);
    std::fs::write(at("text.png"), "no picture").expect("written");
    let (model, out, picture) = (model_folder.path().display().to_string(), at("out.mp4"), at("0001.png"));
    let plain = pipeline("b").display().to_string();
    let refuse = |model: &str, arguments: &[&str], code: i32, words: &[&str]| {
        let common =
            ["generate", "a", "--frames", "5", "--size", "32x32", "--steps", "1", "--out", &out, "--model", model];
        let (got, error) = refused(&[&common[..], arguments].concat());
        assert!(got == code && words.iter().all(|word| error.contains(word)), "{arguments:?}: {got} {error}");
    };
    refuse(&plain, &["--image", &picture], 2, &["expand_timesteps"]);
    refuse(&model, &["--image", &at("none.png")], 3, &["none.png"]);
    refuse(&model, &["--image", &at("text.png")], 7, &["text.png"]);
    refuse(&model, &["--image", &picture, "--known", &format!("0={picture}")], 2, &["overlap"]);
    refuse(&model, &["--known", &format!("5={picture}")], 2, &["--known", "5 frames"]);
    refuse(&model, &["--known", &format!("-6={picture}")], 2, &["--known", "-6"]);
    refuse(&model, &["--known", &format!("0..9={picture}")], 2, &["--known", "0..9"]);
    refuse(&model, &["--known", &picture], 2, &["FRAMES=FILE"]);
    // A pattern of one picture holds it, as a picture does; a clip that is too short is refused.
    let two = write(&folder.path().join("two"), &vec![Frame::new(8, 8, vec![3; 192]).expect("a picture"); 2]);
    refuse(&model, &["--known", &format!("0..3={two}")], 2, &["2 frames", "3 are asked"]);
    assert!(!Path::new(&out).exists());
    let held = format!("--known=0..3={pattern}");
    let output = mutoscope(&[
        "generate",
        "a",
        "--frames=5",
        "--size=32x32",
        "--steps=1",
        "--quiet",
        &held,
        "--model",
        &model,
        "--out",
        &out,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
