//! A video made into another, against diffusers' WanVideoToVideoPipeline, by the library and by the command line.

use mutoscope::Error;
use mutoscope::media::{Frame, read_picture, read_recipe};
use mutoscope::pipeline::{Engine, Model, Precision, Request, Settings};
use serde_json::Value;

use crate::cli::{mutoscope, refused};
use crate::device::gpu;
use crate::golden::{Golden, count, pipeline, text};
use crate::known::write;
use crate::pipelines::{compare, request, worst_frame};

/// The video of a golden case.
fn video(golden: &Golden, case: &Value) -> Vec<Frame> {
    let [frames, width, height] = ["frames", "width", "height"].map(|side| count(&case["video"], side));
    let pixels: Vec<u8> = golden.tensor(case, "video").to_f32().into_iter().map(|v| v as u8).collect();
    let picture = |rgb: &[u8]| Frame::new(width as u32, height as u32, rgb.to_vec()).expect("a picture");
    let video: Vec<Frame> = pixels.chunks(height * width * 3).map(picture).collect();
    assert_eq!(video.len(), frames);
    video
}

fn open(name: &str) -> Model {
    Model::open(pipeline(name)).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn frames_and_latents_are_those_of_diffusers() {
    let golden = Golden::open("video2video");
    let engine = Engine::on(gpu());
    for case in golden.list("cases") {
        let asked = Request {
            video: video(&golden, case).into(),
            strength: case["strength"].as_f64(),
            // The video's own.
            frames: None,
            ..request(case, Precision::F32)
        };
        compare(&engine, &open(text(case, "pipeline")), &asked, &golden, case);
    }
}

#[test]
fn a_video_is_given_on_the_command_line() {
    let golden = Golden::open("video2video");
    for case in &golden.list("cases")[..2] {
        let folder = tempfile::tempdir().expect("a folder");
        let pattern = write(&folder.path().join("video"), &video(&golden, case));
        let out = folder.path().join("out/%04d.png");
        let mut arguments: Vec<String> = vec!["generate".into(), text(case, "prompt").into(), "--quiet".into()];
        let mut say = |flag: &str, value: String| arguments.push(format!("--{flag}={value}"));
        say("model", pipeline(text(case, "pipeline")).display().to_string());
        say("negative", text(case, "negative").into());
        say("size", format!("{}x{}", count(case, "width"), count(case, "height")));
        for flag in ["steps", "guidance", "seed", "shift"] {
            say(flag, case[flag].to_string());
        }
        say("sampler", text(case, "sampler").into());
        say("precision", "f32".into());
        say("video", pattern);
        if case["strength"].is_number() {
            say("strength", case["strength"].to_string());
        }
        say("out", out.display().to_string());
        let output = mutoscope(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let picture = |i: usize| folder.path().join(format!("out/{:04}.png", i + 1));
        let got = (0..count(case, "frames")).map(|i| read_picture(picture(i)).unwrap_or_else(|e| panic!("{e}")));
        let got: Vec<Frame> = got.collect();
        let decibels = worst_frame(&got, &golden.tensor(case, "frames"));
        assert!(decibels > 50.0, "{}: worst frame {decibels:.1} dB", text(case, "key"));
        let recipe = read_recipe(&out).expect("readable").expect("a recipe");
        let given = recipe.video.expect("a video");
        assert_eq!((given.count as usize, given.sha256.len()), (count(case, "frames"), 64));
        assert_eq!(given.strength, case["strength"].as_f64().or(Some(0.8)));
    }
}

#[test]
fn what_a_video_leaves_open_and_what_cannot_be() {
    let model = open("a");
    let frame = Frame::new(60, 40, vec![9; 7200]).expect("a picture");
    let asked = |count: usize| Request { video: vec![frame.clone(); count].into(), ..Request::new("a") };
    let resolve = |request: &Request| Settings::resolve(&model, request);
    let settings = resolve(&asked(12)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((settings.width, settings.height, settings.frames), (768, 512, 9));
    assert_eq!(settings.strength, 0.8);
    let shorter = resolve(&Request { frames: Some(5), ..asked(12) }).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(shorter.frames, 5);
    let refused = |request: Request, words: &[&str]| {
        let error = resolve(&request).expect_err("refused");
        let told = error.to_string();
        assert!(matches!(error, Error::Request { .. }) && words.iter().all(|word| told.contains(word)), "{told}");
    };
    refused(Request { frames: Some(13), ..asked(12) }, &["--frames", "12 frames", "13"]);
    for strength in [0.0, -1.0, 1.5, f64::NAN] {
        refused(Request { strength: Some(strength), ..asked(5) }, &["--strength", "above 0"]);
    }
    refused(Request { strength: Some(0.1), steps: Some(4), ..asked(5) }, &["--strength", "4 steps", "0.250"]);
    refused(Request { strength: Some(0.5), ..Request::new("a") }, &["--strength", "--video"]);
}

#[test]
fn videos_that_cannot_be_used_are_refused_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.mp4").display().to_string();
    let pattern = write(&folder.path().join("v"), &[Frame::new(8, 8, vec![3; 192]).expect("a picture")]);
    let model = pipeline("a").display().to_string();
    let common = ["generate", "a", "--size", "32x32", "--model", &model, "--out", &out];
    let refuse = |arguments: &[&str], code: i32, words: &[&str]| {
        let (got, error) = refused(&[&common[..], arguments].concat());
        assert!(got == code && words.iter().all(|word| error.contains(word)), "{arguments:?}: {got} {error}");
    };
    refuse(&["--video", "nowhere.mp4"], 3, &["nowhere.mp4"]);
    refuse(&["--strength", "0.5"], 2, &["--video"]);
    refuse(&["--video", &pattern, "--strength", "2"], 2, &["--strength"]);
    refuse(&["--video", &pattern, "--frames", "5"], 2, &["--frames", "1 frame"]);
}
