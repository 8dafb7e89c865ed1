//! LoRA files: whole runs against diffusers with PEFT, the same file in every dialect, and what cannot be used.

use std::path::{Path, PathBuf};

use mutoscope::Error;
use mutoscope::pipeline::{Engine, Experts, LoraFile, Model, Precision, Request};
use mutoscope::tensor::{DType, HostTensor};
use mutoscope::weights::{Archive, Lora, save_safetensors};
use serde_json::Value;

use crate::device::gpu;
use crate::golden::{Golden, folder, number, pipeline, psnr, text};
use crate::pipelines::{compare, request};

fn file(path: impl Into<PathBuf>, strength: f32) -> LoraFile {
    LoraFile { path: path.into(), strength, experts: Experts::All }
}

fn given(name: &str) -> PathBuf {
    folder().join("loras").join(name)
}

fn model(case: &Value) -> Model {
    let model = Model::open(pipeline(text(case, "pipeline"))).unwrap_or_else(|e| panic!("{e}"));
    let lora = file(given(text(case, "file")), number(case, "strength") as f32);
    let model = model.with_loras(&[lora]).unwrap_or_else(|e| panic!("{e}"));
    assert!(model.unused_by_loras().is_empty(), "{:?}", model.unused_by_loras());
    model
}

#[test]
fn frames_and_latents_are_those_of_diffusers() {
    let golden = Golden::open("loras");
    let engine = Engine::on(gpu());
    for case in golden.list("cases") {
        compare(&engine, &model(case), &request(case, Precision::F32), &golden, case);
    }
}

#[test]
fn f16_is_near_enough() {
    if !gpu().profile().f16 {
        return;
    }
    let golden = Golden::open("loras");
    let case = &golden.list("cases")[2];
    let (_, frames) = Engine::on(gpu()).generate_frames(&model(case), &request(case, Precision::F16)).expect("a run");
    let expected = golden.tensor(case, "frames").to_f64();
    let values: Vec<f64> = frames.iter().flat_map(|frame| frame.rgb.iter().map(|&v| f64::from(v) / 255.0)).collect();
    let decibels = psnr(&values, &expected);
    assert!(decibels > 40.0, "{decibels:.1} dB");
}

/// The tensors of `original.safetensors` under other names.
fn rewrite(path: &Path, rename: impl Fn(&str) -> String) {
    let archive = Archive::open_file(given("original.safetensors")).expect("a golden");
    let tensors: Vec<(String, HostTensor)> =
        archive.names().map(|name| (rename(name), archive.tensor(name).expect("there"))).collect();
    let named: Vec<(&str, HostTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    save_safetensors(path, &named, &[]).expect("saved");
}

/// The authors' name of a layer in diffusers' words.
fn ours(layer: &str) -> String {
    let mut layer =
        layer.replace("self_attn.", "attn1.to_").replace("cross_attn.", "attn2.to_").replace("to_o", "to_out.0");
    for (theirs, ours) in [("ffn.0", "ffn.net.0.proj"), ("ffn.2", "ffn.net.2")] {
        layer = layer.replace(theirs, ours);
    }
    layer
}

#[test]
fn every_dialect_gives_the_same_bits() {
    let golden = Golden::open("loras");
    let case = &golden.list("cases")[0];
    let engine = Engine::on(gpu());
    let asked = Request { steps: Some(1), ..request(case, Precision::F32) };
    let run = |path: &Path| {
        let model = Model::open(pipeline("a")).expect("a golden").with_loras(&[file(path, 1.0)]);
        let model = model.unwrap_or_else(|e| panic!("{e}"));
        engine.generate_frames(&model, &asked).unwrap_or_else(|e| panic!("{e}")).0.latents.bytes().to_vec()
    };
    let expected = run(&given("original.safetensors"));
    let parts = |name: &str| {
        let name = name.strip_prefix("diffusion_model.").expect("the authors'");
        let (block, rest) = name.match_indices('.').nth(1).map(|(at, _)| name.split_at(at + 1)).expect("a block");
        let dots = if rest.starts_with("ffn") || rest.contains("attn") { 1 } else { 0 };
        let (at, _) = rest.match_indices('.').nth(dots).expect("an ending");
        (format!("{block}{}", &rest[..at]), rest[at..].to_owned())
    };
    let peft = |end: String| end.replace("lora_down", "lora_A").replace("lora_up", "lora_B");
    type Rename<'f> = &'f dyn Fn(&str) -> String;
    let dialects: [(&str, Rename); 7] = [
        ("ComfyUI's", &|name| format!("model.{name}")),
        ("with lora_A", &|name| peft(name.to_owned())),
        ("kohya's", &|name| {
            let (layer, end) = parts(name);
            format!("lora_unet_{}{end}", layer.replace('.', "_"))
        }),
        ("diffusers'", &|name| {
            let (layer, end) = parts(name);
            format!("transformer.{}{}", ours(&layer), peft(end))
        }),
        ("PEFT's", &|name| {
            let (layer, end) = parts(name);
            format!("base_model.model.{}{}", ours(&layer), peft(end))
        }),
        ("with an adapter's name", &|name| {
            let (layer, end) = parts(name);
            format!("{layer}{}", peft(end).replace(".weight", ".default.weight"))
        }),
        ("diffusers' with underscores", &|name| {
            let (layer, end) = parts(name);
            format!("lora_unet_{}{end}", ours(&layer).replace('.', "_"))
        }),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for (dialect, rename) in dialects {
        let path = folder.path().join("lora.safetensors");
        rewrite(&path, rename);
        assert_eq!(run(&path), expected, "{dialect}");
    }
    // Half as strong twice is not bit for bit, but close; without a file it is another video.
    let two = [file(given("original.safetensors"), 0.5), file(given("original.safetensors"), 0.5)];
    let model = Model::open(pipeline("a")).expect("a golden").with_loras(&two).expect("they fit");
    assert_eq!(model.loras().len(), 2);
    let (video, _) = engine.generate_frames(&model, &asked).expect("a run");
    let expected = HostTensor::from_bytes(video.latents.shape(), DType::F32, expected.into()).expect("as many");
    let error = crate::golden::distance(&video.latents.to_f64(), &expected.to_f64());
    assert!(error < 1e-5, "{error:.1e}");
    let plain = Model::open(pipeline("a")).expect("a golden");
    assert_ne!(plain.hash(), model.hash(), "a hash names what is computed");
    let (plain, _) = engine.generate_frames(&plain, &asked).expect("a run");
    assert!(crate::golden::distance(&plain.latents.to_f64(), &expected.to_f64()) > 0.1);
}

#[test]
fn a_folder_of_pefts_is_opened_and_its_patterns_count() {
    let golden = Golden::open("loras");
    let asked = Request { steps: Some(1), ..request(&golden.list("cases")[0], Precision::F32) };
    let engine = Engine::on(gpu());
    let run = |path: &Path| {
        let model = Model::open(pipeline("a")).expect("a golden").with_loras(&[file(path, 1.0)]);
        let model = model.unwrap_or_else(|e| panic!("{e}"));
        engine.generate_frames(&model, &asked).unwrap_or_else(|e| panic!("{e}")).0.latents.bytes().to_vec()
    };
    let root = tempfile::tempdir().expect("a folder");
    let wave = |dims: [usize; 2], step: f32| {
        let values: Vec<f32> = (0..dims[0] * dims[1]).map(|i| (i as f32 * step).sin() * 0.3).collect();
        HostTensor::from_f32(dims, &values)
    };
    let layers = [("blocks.0.attn1.to_q", 8.0), ("blocks.1.attn1.to_k", 8.0), ("blocks.0.attn2.to_v", 1.0)];
    let mut tensors = Vec::new();
    for (layer, _) in layers {
        tensors.push((format!("base_model.model.{layer}.lora_A.weight"), wave([2, 32], 0.7)));
        tensors.push((format!("base_model.model.{layer}.lora_B.weight"), wave([32, 2], 1.3)));
    }
    let save = |path: &Path, tensors: &[(String, HostTensor)]| {
        let named: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        save_safetensors(path, &named, &[]).expect("saved");
    };
    save(&root.path().join("adapter_model.safetensors"), &tensors);
    let settings =
        r#"{"lora_alpha": 1, "alpha_pattern": {"^blocks\\.[01]\\.attn1\\.to_[qk]": 8}, "init_lora_weights": true}"#;
    let config = root.path().join("adapter_config.json");
    std::fs::write(&config, settings).expect("written");
    let number =
        |(layer, alpha): (&str, f32)| (format!("base_model.model.{layer}.alpha"), HostTensor::from_f32([1], &[alpha]));
    tensors.extend(layers.map(number));
    let plain = root.path().join("plain.safetensors");
    save(&plain, &tensors);
    let expected = run(&plain);
    assert_eq!(run(root.path()), expected);
    std::fs::write(&config, r#"{"lora_alpha": 1}"#).expect("written");
    assert_ne!(run(root.path()), expected);
    std::fs::write(&config, r#"{"init_lora_weights": "pissa"}"#).expect("written");
    let error = Lora::open(root.path()).expect_err("refused").to_string();
    assert!(error.contains("adapter_config.json") && error.contains("pissa"), "{error}");
    std::fs::remove_file(root.path().join("adapter_model.safetensors")).expect("removed");
    let error = Lora::open(root.path()).expect_err("nothing there").to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}

#[test]
fn tables_norms_and_patches_are_changed_too() {
    let archive = Archive::open(pipeline("a").join("transformer"), "diffusion_pytorch_model").expect("a golden");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lora.safetensors");
    let ones = |name: &str, value: f32| {
        let shape = archive.shape_of(name).expect("there");
        HostTensor::from_f32(shape, &vec![value; shape.count()])
    };
    let patch = archive.shape_of("patch_embedding.weight").expect("there");
    let dims = patch.dims();
    let down = HostTensor::from_f32([2, dims[1], dims[2], dims[3], dims[4]], &vec![0.5; 2 * patch.count() / dims[0]]);
    let up = HostTensor::from_f32([dims[0], 2, 1, 1, 1], &vec![3.0; 2 * dims[0]]);
    let tensors = [
        ("diffusion_model.blocks.1.diff_m", ones("blocks.1.scale_shift_table", 1.0)),
        ("diffusion_model.head.diff_m", ones("scale_shift_table", 2.0)),
        ("diffusion_model.blocks.0.norm3.diff", ones("blocks.0.norm2.weight", 3.0)),
        ("diffusion_model.blocks.0.norm3.diff_b", ones("blocks.0.norm2.bias", 4.0)),
        ("diffusion_model.blocks.1.self_attn.norm_q.diff", ones("blocks.1.attn1.norm_q.weight", 5.0)),
        ("diffusion_model.head.head.diff", ones("proj_out.weight", 6.0)),
        ("diffusion_model.patch_embedding.lora_down.weight", down),
        ("diffusion_model.patch_embedding.lora_up.weight", up),
        ("diffusion_model.blocks.0.cross_attn.k_img.diff_b", HostTensor::from_f32([1], &[1.0])),
    ];
    save_safetensors(&path, &tensors, &[]).expect("saved");
    let lora = Lora::open(&path).expect("a LoRA");
    let adapted = archive.adapted(&[(&lora, 0.5)]).expect("it fits");
    assert_eq!(adapted.unused, ["diffusion_model.blocks.0.cross_attn.k_img"]);
    let changes = [
        ("blocks.1.scale_shift_table", 0.5),
        ("blocks.0.scale_shift_table", 0.0),
        ("scale_shift_table", 1.0),
        ("blocks.0.norm2.weight", 1.5),
        ("blocks.0.norm2.bias", 2.0),
        ("blocks.1.attn1.norm_q.weight", 2.5),
        ("proj_out.weight", 3.0),
        ("patch_embedding.weight", 1.5),
    ];
    for (name, change) in changes {
        let (before, after) = (archive.tensor(name).expect("there"), adapted.archive.tensor(name).expect("there"));
        assert_eq!(before.shape(), after.shape());
        for (before, after) in before.to_f64().iter().zip(after.to_f64()) {
            assert!((after - before - change).abs() < 1e-6, "{name}: {before} to {after}");
        }
    }
}

#[test]
fn each_of_two_transformers_has_its_own() {
    let archive = |role: &str| Archive::open(pipeline("e").join(role), "diffusion_pytorch_model").expect("a golden");
    let name = "blocks.0.attn1.to_q";
    let shape = archive("transformer").shape_of(&format!("{name}.weight")).expect("there");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lora.safetensors");
    let difference = HostTensor::from_f32(shape, &vec![0.25; shape.count()]);
    save_safetensors(&path, &[("transformer.blocks.0.attn1.to_q.diff", difference)], &[]).expect("saved");
    let with = |experts: &[Experts]| {
        let files: Vec<_> = experts.iter().map(|&experts| LoraFile { experts, ..file(&path, 1.0) }).collect();
        Model::open(pipeline("e")).expect("a golden").with_loras(&files).expect("it fits")
    };
    let hashes: Vec<String> =
        [&[][..], &[Experts::All], &[Experts::High], &[Experts::Low], &[Experts::High, Experts::Low]]
            .iter()
            .map(|experts| with(experts).hash().to_owned())
            .collect();
    let different: std::collections::BTreeSet<&String> = hashes.iter().collect();
    assert_eq!(different.len(), 5);
    let one = Model::open(pipeline("a"))
        .expect("a golden")
        .with_loras(&[LoraFile { experts: Experts::Low, ..file(&path, 1.0) }]);
    let error = one.expect_err("one transformer");
    assert!(matches!(&error, Error::Request { .. }) && error.to_string().contains(":low"), "{error}");
}

#[test]
fn what_fits_nothing_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("lora.safetensors");
    let tensor = |dims: &[usize]| HostTensor::from_f32(dims, &vec![1.0; dims.iter().product()]);
    let layer = "diffusion_model.blocks.0.self_attn.q";
    let refused = |tensors: &[(&str, HostTensor)]| {
        save_safetensors(&path, tensors, &[]).expect("saved");
        let model = Model::open(pipeline("a")).expect("a golden");
        let error = model.with_loras(&[file(&path, 1.0)]).expect_err("refused");
        assert!(matches!(error, Error::Tensor { .. } | Error::Model { .. }), "{error}");
        let message = error.to_string();
        assert!(message.starts_with(&path.display().to_string()), "{message}");
        message
    };
    let [down, up] = ["lora_down", "lora_up"].map(|factor| format!("{layer}.{factor}.weight"));
    type Tensors<'t> = &'t [(&'t str, HostTensor)];
    let cases: [(Tensors, &[&str]); 11] = [
        (
            &[("diffusion_model.blocks.7.self_attn.q.diff_b", tensor(&[32]))],
            &["`diffusion_model.blocks.7.self_attn.q.diff_b`", "no layer"],
        ),
        (&[("lora_te_text_model.diff_b", tensor(&[32]))], &["`lora_te_text_model.diff_b`"]),
        (&[(&down, tensor(&[2, 32]))], &["the other factor", &down]),
        (&[(&down, tensor(&[2, 31])), (&up, tensor(&[32, 2]))], &[&down, "[2, 31]"]),
        (&[(&down, tensor(&[2, 32])), (&up, tensor(&[32, 3]))], &[&up, "[32, 3]", "rank 2"]),
        (&[(&down, tensor(&[0, 32])), (&up, tensor(&[32, 0]))], &[&down]),
        (&[("blocks.0.self_attn.q.dora_scale", tensor(&[32]))], &["DoRA"]),
        (&[("blocks.0.self_attn.q.spin", tensor(&[32, 32]))], &["no part of a LoRA"]),
        (&[("blocks.0.self_attn.q.weight", tensor(&[32, 32]))], &["whole weight", "`modules_to_save`"]),
        (&[("base_model.model.blocks.0.attn1.to_q.base_layer.bias", tensor(&[32]))], &["whole bias", "`bias`"]),
        (&[("blocks.0.self_attn.q.diff_b", tensor(&[31]))], &["[31]", "[32]"]),
    ];
    for (tensors, says) in cases {
        let message = refused(tensors);
        assert!(says.iter().all(|part| message.contains(part)), "{message}");
    }
}
