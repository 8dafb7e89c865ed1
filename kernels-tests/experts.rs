//! Models with two transformers that make video from text alone (Wan 2.2 T2V-A14B): guidance for each, LoRA files on one,
//! the other, or both, against diffusers and PEFT.

use std::path::{Path, PathBuf};

use mutoscope::Error;
use mutoscope::pipeline::{Engine, Experts, LoraFile, Model, Precision, Request};
use mutoscope::tensor::HostTensor;
use mutoscope::weights::{Archive, save_safetensors};
use serde_json::Value;

use crate::device::gpu;
use crate::golden::{Golden, folder, number, pipeline, text};
use crate::pipelines::{compare, compare_f16, request};

fn given(name: &str) -> PathBuf {
    folder().join("experts").join(name)
}

fn file(path: impl Into<PathBuf>, strength: f32, experts: Experts) -> LoraFile {
    LoraFile { path: path.into(), strength, experts }
}

fn open(files: &[LoraFile]) -> Model {
    let model = Model::open(pipeline("i")).and_then(|model| model.with_loras(files));
    model.unwrap_or_else(|e| panic!("{e}"))
}

/// The model of a golden case, with its LoRA files.
fn model(case: &Value) -> Model {
    let files = case["loras"].as_array().expect("a list").iter().map(|lora| {
        let experts = match text(lora, "experts") {
            "high" => Experts::High,
            "low" => Experts::Low,
            "both" => Experts::All,
            other => panic!("{other}"),
        };
        file(given(text(lora, "file")), number(lora, "strength") as f32, experts)
    });
    open(&files.collect::<Vec<_>>())
}

fn asked(case: &Value, precision: Precision) -> Request {
    Request { guidance_low: case["guidance_low"].as_f64(), ..request(case, precision) }
}

#[test]
fn frames_and_latents_are_those_of_diffusers() {
    let golden = Golden::open("experts");
    let engine = Engine::on(gpu());
    for case in golden.list("cases") {
        compare(&engine, &model(case), &asked(case, Precision::F32), &golden, case);
    }
}

#[test]
fn f16_is_near_enough_or_refused() {
    let golden = Golden::open("experts");
    let with_files = golden.list("cases").iter().find(|case| case["loras"][1].is_object()).expect("one with two files");
    compare_f16(&Engine::on(gpu()), &model(with_files), &asked(with_files, Precision::F16), &golden, with_files);
}

/// The tensors of a golden file, under other names; those without are left out.
fn renamed(name: &str, rename: impl Fn(&str) -> Option<String>) -> Vec<(String, HostTensor)> {
    let archive = Archive::open_file(given(name)).unwrap_or_else(|e| panic!("{e}"));
    archive.names().filter_map(|name| Some((rename(name)?, archive.tensor(name).expect("listed")))).collect()
}

fn save(path: &Path, tensors: &[(String, HostTensor)]) {
    let tensors: Vec<(&str, HostTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    save_safetensors(path, &tensors, &[]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_file_with_layers_of_both_is_two_files() {
    let golden = Golden::open("experts");
    let engine = Engine::on(gpu());
    let asked = Request { steps: Some(2), ..asked(&golden.list("cases")[0], Precision::F32) };
    let latents = |files: &[LoraFile]| {
        let (video, _) = engine.generate_frames(&open(files), &asked).unwrap_or_else(|e| panic!("{e}"));
        video.latents.bytes().to_vec()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(format!("{name}.safetensors"));
    // All layers for high noise, those of one block for low.
    let second = |name: &str| name.contains("blocks.1.").then(|| name.to_owned());
    save(&path("low"), &renamed("original.safetensors", second));
    let expected =
        latents(&[file(given("original.safetensors"), 0.5, Experts::High), file(path("low"), 0.5, Experts::Low)]);
    assert_ne!(expected, latents(&[]));
    assert_ne!(expected, latents(&[file(given("original.safetensors"), 0.5, Experts::All)]));
    let prefixes = [
        ("diffusion_model.transformer_1.", "diffusion_model.transformer_2."),
        ("transformer.", "transformer_2."),
        ("transformer_1.", "transformer_2."),
        ("", "transformer_2."),
    ];
    for (high, low) in prefixes {
        let below = |prefix: &str, name: &str| name.replacen("diffusion_model.", prefix, 1);
        let mut both = renamed("original.safetensors", |name| Some(below(high, name)));
        let of_low = renamed("original.safetensors", |name| second(name).map(|name| below(low, &name)));
        both.extend(of_low.iter().cloned());
        save(&path("both"), &both);
        assert_eq!(latents(&[file(path("both"), 0.5, Experts::All)]), expected, "{high} and {low}");
        // One of the two can be had by itself, and a file may have layers for the second only.
        let halves = [file(path("both"), 0.5, Experts::High), file(path("both"), 0.5, Experts::Low)];
        assert_eq!(latents(&halves), expected, "{high} and {low}, one after the other");
        save(&path("second"), &of_low);
        let only = latents(&[file(path("second"), 0.5, Experts::All)]);
        assert_eq!(only, latents(&[file(path("low"), 0.5, Experts::Low)]), "{low} alone");
    }
    let model = Model::open(pipeline("i")).expect("a golden");
    let error = model.with_loras(&[file(path("second"), 1.0, Experts::High)]).expect_err("refused").to_string();
    assert!(error.contains("second.safetensors: none of its layers is for that transformer"), "{error}");
    for name in ["both", "second"] {
        let model = Model::open(pipeline("a")).expect("a golden");
        let error = model.with_loras(&[file(path(name), 1.0, Experts::All)]).expect_err("refused");
        let message = error.to_string();
        assert!(matches!(error, Error::Model { .. }) && message.contains("two transformers"), "{message}");
        assert!(message.contains(&path(name).display().to_string()), "{message}");
    }
}
