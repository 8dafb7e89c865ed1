//! Runs with frames that are known beforehand, against diffusers, and what such a run must hold.

use std::path::Path;

use mutoscope::Error;
use mutoscope::media::Frame;
use mutoscope::pipeline::{Engine, Known, Model, Precision, Request, Settings};
use serde_json::Value;

use crate::device::gpu;
use crate::golden::{Golden, count, distance, pipeline, text};
use crate::pipelines::{request, worst_frame};

/// A golden pipeline whose tokens have timesteps of their own: a copy with another model_index.json.
fn open(name: &str, class: &str) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline(name), folder.path());
    let path = folder.path().join("model_index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    index["expand_timesteps"] = true.into();
    index["_class_name"] = class.into();
    std::fs::write(&path, index.to_string()).expect("written");
    let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    (folder, model)
}

fn copy(from: &Path, to: &Path) {
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
fn known(golden: &Golden, case: &Value) -> Vec<Known> {
    let parts = case["known"].as_array().expect("a list");
    let part = |part: &Value| {
        let start = part["start"].as_i64().expect("a frame") as isize;
        let [height, width] = ["height", "width"].map(|side| count(part, side));
        let pixels = golden.tensor(case, &format!("known.{start}")).to_f32();
        let pixels: Vec<u8> = pixels.into_iter().map(|v| v as u8).collect();
        let picture = |rgb: &[u8]| Frame::new(width as u32, height as u32, rgb.to_vec()).expect("a picture");
        let pixels: Vec<Frame> = pixels.chunks(height * width * 3).map(picture).collect();
        assert_eq!(pixels.len(), count(part, "count"));
        Known { start, pixels }
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
        let (video, frames) = engine.generate_frames(&model, &request).unwrap_or_else(|e| panic!("{e}"));
        let error = distance(&video.latents.to_f64(), &golden.tensor(case, "latents").to_f64());
        let decibels = worst_frame(&frames, &golden.tensor(case, "frames"));
        println!("{}: latents {error:.1e}, worst frame {decibels:.1} dB", text(case, "key"));
        assert!(error < 2e-3, "{}: latents {error:e}", text(case, "key"));
        assert!(decibels > 50.0, "{}: worst frame {decibels:.1} dB", text(case, "key"));
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
    other.known[0].pixels[0].rgb.iter_mut().for_each(|v| *v = 255 - *v);
    let (other, changed) = run(&other);
    assert_ne!(frames.last(), changed.last());
    assert_ne!(recipe.known, other.settings.recipe(&model, other.precision).known);

    // The last frame, counted from the end or from the beginning, is the same frame.
    let picture = asked.known[0].pixels[0].clone();
    let last = Request { known: vec![Known::last(picture.clone())], ..asked.clone() };
    let at = Request { known: vec![Known { start: 8, pixels: vec![picture] }], ..asked };
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
    let late = Request { known: vec![Known { start: 99, ..asked.known[0].clone() }], ..asked.clone() };
    let error = Settings::resolve(&model, &late).expect_err("refused").to_string();
    assert!(error.contains("frame 99") && error.contains("81"), "{error}");
    // The shape of the picture, the model's number of pixels.
    let settings = Settings::resolve(&model, &asked).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((settings.width, settings.height), (768, 512));
}
