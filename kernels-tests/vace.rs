//! Runs with a control video, masks and references against `WanVACEPipeline` of diffusers, and what such a run must hold.

use std::sync::Arc;

use mutoscope::Error;
use mutoscope::media::{Frame, read_picture, read_recipe};
use mutoscope::pipeline::{Engine, Known, Model, Precision, Request, Settings};
use mutoscope::tensor::HostTensor;
use serde_json::Value;

use crate::cli::{mutoscope, refused};
use crate::device::gpu;
use crate::golden::{Golden, count, pipeline, text};
use crate::known::{copy, known, write};
use crate::pipelines::{compare, compare_f16, request, worst_frame};

/// Pipeline h with both of its transformers, or with the first alone.
fn folder(both: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline("h"), folder.path());
    if !both {
        let path = folder.path().join("model_index.json");
        let mut index: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
        index["boundary_ratio"] = Value::Null;
        std::fs::write(&path, index.to_string()).expect("written");
    }
    folder
}

fn open(folder: &tempfile::TempDir) -> Model {
    Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"))
}

/// \[T, H, W, 3\] in 0..255 as frames.
fn frames(pixels: &HostTensor) -> Vec<Frame> {
    let [height, width] = [1, 2].map(|axis| pixels.shape()[axis]);
    let bytes: Vec<u8> = pixels.to_f32().into_iter().map(|v| v as u8).collect();
    let picture = |rgb: &[u8]| Frame::new(width as u32, height as u32, rgb.to_vec()).expect("a picture");
    bytes.chunks(height * width * 3).map(picture).collect()
}

fn given(golden: &Golden, case: &Value, name: &str) -> Vec<Frame> {
    golden.find(case, name).map(|pixels| frames(&pixels)).unwrap_or_default()
}

fn references(golden: &Golden, case: &Value) -> Vec<Frame> {
    let one = |n: usize| {
        let pixels = golden.tensor(case, &format!("reference.{n}"));
        let [height, width] = [0, 1].map(|axis| pixels.shape()[axis]);
        frames(&pixels.reshape([1, height, width, 3]).expect("a picture")).remove(0)
    };
    (0..count(case, "references")).map(one).collect()
}

fn scales(case: &Value) -> Vec<f32> {
    case["scale"].as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

/// The request of a golden case.
fn asked(golden: &Golden, case: &Value) -> Request {
    Request {
        video: given(golden, case, "video").into(),
        mask: given(golden, case, "mask").into(),
        references: references(golden, case).into(),
        control_scales: scales(case),
        known: known(golden, case),
        ..request(case, Precision::F32)
    }
}

#[test]
fn frames_and_latents_are_those_of_diffusers() {
    let golden = Golden::open("vace");
    let engine = Engine::on(gpu());
    for case in golden.list("cases") {
        let model = open(&folder(case["both"].as_bool().expect("a flag")));
        compare(&engine, &model, &asked(&golden, case), &golden, case);
    }
}

#[test]
fn f16_is_near_enough_or_refused() {
    let golden = Golden::open("vace");
    let (engine, case) = (Engine::on(gpu()), &golden.list("cases")[3]);
    compare_f16(&engine, &open(&folder(false)), &asked(&golden, case), &golden, case);
}

#[test]
fn what_is_given_is_felt_and_in_the_recipe() {
    let golden = Golden::open("vace");
    let engine = Engine::on(gpu());
    let case = &golden.list("cases")[0];
    let model = open(&folder(false));
    let asked = Request { steps: Some(1), guidance: Some(1.0), ..asked(&golden, case) };
    let run = |request: &Request| {
        let (video, frames) = engine.generate_frames(&model, request).unwrap_or_else(|e| panic!("{e}"));
        (video.settings.recipe(&model, video.precision), frames)
    };
    let (recipe, right) = run(&asked);
    assert_eq!((recipe.references.len(), recipe.mask.is_some()), (2, true));
    assert_eq!(recipe.video.as_ref().map(|video| (video.count, video.strength)), Some((9, None)));
    let turned: Arc<[Frame]> = asked.references.iter().rev().cloned().collect();
    for other in [
        Request { mask: Vec::new().into(), ..asked.clone() },
        Request { references: Arc::default(), ..asked.clone() },
        Request { references: turned, ..asked.clone() },
        Request { control_scales: vec![0.9], ..asked.clone() },
        Request { known: vec![Known::last(asked.references[0].clone())], ..asked.clone() },
    ] {
        let (changed, frames) = run(&other);
        assert!(changed != recipe && frames != right);
    }
    // One mask for all frames is that mask for each.
    let one = asked.mask[3].clone();
    let held = run(&Request { mask: vec![one.clone()].into(), ..asked.clone() });
    assert!(held.1 == run(&Request { mask: vec![one; 9].into(), ..asked.clone() }).1);
    // What a video does not have is to be made, as is what a white mask covers.
    let short = run(&Request { video: asked.video[..5].into(), mask: Vec::new().into(), ..asked.clone() });
    assert!(short.1 != right && short.1.len() == 9);
}

#[test]
fn what_a_model_cannot_take_is_refused_with_those_that_can() {
    let picture = Frame::new(32, 32, vec![9; 3072]).expect("a picture");
    let vace = open(&folder(false));
    let plain = Model::open(pipeline("b")).unwrap_or_else(|e| panic!("{e}"));
    let refused = |model: &Model, request: Request, words: &[&str]| {
        let error = Settings::resolve(model, &request).expect_err("refused");
        assert!(matches!(error, Error::Request { .. }), "{error}");
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let base = Request { frames: Some(5), size: Some((32, 32)), ..Request::new("a") };
    let video = vec![picture.clone(); 5];
    let with = |request: Request| Request { video: video.clone().into(), ..request };
    refused(&plain, Request { references: Arc::new([picture.clone()]), ..base.clone() }, &["--reference", "VACE"]);
    refused(&plain, with(Request { mask: vec![picture.clone()].into(), ..base.clone() }), &["--mask", "VACE"]);
    refused(&plain, Request { control_scales: vec![0.5], ..base.clone() }, &["--control-scale", "VACE"]);
    refused(&vace, with(Request { strength: Some(0.5), ..base.clone() }), &["--strength", "--control-scale"]);
    refused(&vace, Request { mask: vec![picture.clone()].into(), ..base.clone() }, &["--mask", "--video"]);
    refused(&vace, with(Request { mask: vec![picture.clone(); 4].into(), ..base.clone() }), &["4 masks", "5 frames"]);
    refused(&vace, Request { control_scales: vec![0.5; 3], ..base.clone() }, &["--control-scale", "3", "2"]);
    refused(&vace, Request { control_scales: vec![f32::NAN], ..base.clone() }, &["--control-scale"]);
    let narrow = Frame::new(40, 7, vec![9; 840]).expect("a picture");
    refused(&vace, Request { references: Arc::new([narrow]), ..base.clone() }, &["--reference", "40x7"]);
    refused(&vace, Request { references: vec![picture; 1023].into(), ..base }, &["--reference", "1023"]);
}

#[test]
fn a_control_video_is_given_on_the_command_line() {
    let golden = Golden::open("vace");
    // Case 0 has a video, masks and references; case 4 a scale for each block.
    for case in [&golden.list("cases")[0], &golden.list("cases")[4]] {
        let model = folder(case["both"].as_bool().expect("a flag"));
        let out = tempfile::tempdir().expect("a folder");
        let mut arguments: Vec<String> = vec!["generate".into(), text(case, "prompt").into(), "--quiet".into()];
        let mut say = |flag: &str, value: String| arguments.push(format!("{flag}={value}"));
        say("--model", model.path().display().to_string());
        say("--negative", text(case, "negative").into());
        say("--size", format!("{}x{}", count(case, "width"), count(case, "height")));
        for flag in ["steps", "guidance", "seed"] {
            say(&format!("--{flag}"), case[flag].to_string());
        }
        say("--sampler", text(case, "sampler").into());
        say("--shift", case["shift"].to_string());
        say("--precision", "f32".into());
        for name in ["video", "mask"] {
            let shown = given(&golden, case, name);
            if !shown.is_empty() {
                write(&out.path().join(name), &shown);
                say(&format!("--{name}"), out.path().join(name).display().to_string());
            }
        }
        for (n, reference) in references(&golden, case).iter().enumerate() {
            let pattern = write(&out.path().join(format!("reference{n}")), std::slice::from_ref(reference));
            say("--reference", pattern.replace("%04d", "0001"));
        }
        if !scales(case).is_empty() {
            say("--control-scale", scales(case).iter().map(f32::to_string).collect::<Vec<_>>().join(","));
        }
        let frames = out.path().join("out/%04d.png");
        say("--out", frames.display().to_string());
        let output = mutoscope(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let picture = |i: usize| out.path().join(format!("out/{:04}.png", i + 1));
        // The length is the video's.
        let all = 0..count(case, "frames");
        let got: Vec<Frame> = all.map(|i| read_picture(picture(i)).unwrap_or_else(|e| panic!("{e}"))).collect();
        let decibels = worst_frame(&got, &golden.tensor(case, "frames"));
        assert!(decibels > 50.0, "{}: worst frame {decibels:.1} dB", text(case, "key"));
        let recipe = read_recipe(&frames).expect("readable").expect("a recipe");
        assert_eq!(recipe.references.len(), count(case, "references"));
    }
    let (code, error) = refused(&["generate", "a", "--mask", "mask.png", "--out", "out.mp4"]);
    assert!(code == 2 && error.contains("--video"), "{code} {error}");
}
