//! Conversions: what is written is read again, here and by what it stands for, and runs.

use std::path::{Path, PathBuf};

use mutoscope::Error;
use mutoscope::pipeline::{Engine, LoraFile, Model, ModelFiles, Precision, Request};
use mutoscope::sampling::Sampler;
use mutoscope::tensor::{DType, HostTensor};
use mutoscope::weights::layout::recognise;
use mutoscope::weights::{Archive, Container, Converted, convert, open_for_conversion, save_safetensors};

use crate::cli::{mutoscope, refused};
use crate::device::gpu;
use crate::golden::{Golden, distance, folder, pipeline};
use crate::pipelines::request;

fn converted(from: &Path, to: &Path, dtype: DType) -> Converted {
    let archive = open_for_conversion(from).unwrap_or_else(|e| panic!("{e}"));
    let mut told = 0;
    let done = convert(&archive, to, dtype, &[], &mut |done, total| {
        assert!(done > told && done <= total);
        told = done;
        Ok(())
    });
    let done = done.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((told, done.written), (done.written, std::fs::metadata(to).expect("written").len()));
    done
}

/// Our names, whatever the file's.
fn ours(path: &Path) -> Archive {
    let archive = Archive::open_file(path).unwrap_or_else(|e| panic!("{e}"));
    let found = recognise(archive.names());
    let [found] = &found[..] else { panic!("{}: {} networks", path.display(), found.len()) };
    found.open(&archive).unwrap_or_else(|e| panic!("{e}"))
}

/// A golden pipeline with another file for its transformer.
fn with_transformer(name: &str, file: &Path, root: &Path) -> PathBuf {
    let copy = root.join("model");
    let _ = std::fs::remove_dir_all(&copy);
    for part in ["text_encoder", "vae", "tokenizer", "scheduler", "transformer"] {
        std::fs::create_dir_all(copy.join(part)).expect("a folder");
        for entry in std::fs::read_dir(pipeline(name).join(part)).expect("a folder") {
            let from = entry.expect("an entry").path();
            let file = from.file_name().expect("a name").to_string_lossy().into_owned();
            if part != "transformer" || file == "config.json" {
                std::fs::copy(&from, copy.join(part).join(file)).expect("copied");
            }
        }
    }
    std::fs::copy(pipeline(name).join("model_index.json"), copy.join("model_index.json")).expect("copied");
    let name =
        if file.extension().is_some_and(|e| e == "gguf") { "wan.gguf" } else { "diffusion_pytorch_model.safetensors" };
    std::fs::copy(file, copy.join("transformer").join(name)).expect("copied");
    copy
}

#[test]
fn every_type_is_read_again_and_runs() {
    let golden = Golden::open("pipelines");
    let case = &golden.list("cases")[0];
    let asked = Request { steps: Some(2), ..request(case, Precision::F32) };
    let engine = Engine::on(gpu());
    let folder = tempfile::tempdir().expect("a folder");
    let from = pipeline("a").join("transformer");
    let source = Archive::open(&from, "diffusion_pytorch_model").expect("a golden");
    let latents = |model: &Model| {
        let (video, _) = engine.generate_frames(model, &asked).unwrap_or_else(|e| panic!("{e}"));
        video.latents.to_f64()
    };
    let expected = latents(&Model::open(pipeline("a")).expect("a golden"));
    // Rows of 32 and 64 elements are no blocks of 256: Q8_0 instead.
    let types = [
        ("a.safetensors", DType::F32, 0.0),
        ("a.gguf", DType::F32, 0.0),
        ("b.gguf", DType::BF16, 0.1),
        ("b.safetensors", DType::F16, 0.02),
        ("c.gguf", DType::Q8_0, 0.1),
        ("d.gguf", DType::Q4_0, 1.0),
        ("e.gguf", DType::Q4K, 0.1),
        ("f.safetensors", DType::F8E4M3, 0.5),
    ];
    for (name, dtype, near) in types {
        let path = folder.path().join(name);
        let done = converted(&from, &path, dtype);
        let label = format!("{name} {dtype}");
        let archive = ours(&path);
        let gguf = name.ends_with("gguf");
        let container = if gguf { Container::Gguf } else { Container::Safetensors };
        assert!(archive.files().all(|file| file.container() == container), "{label}");
        assert_eq!(archive.names().collect::<Vec<_>>(), source.names().collect::<Vec<_>>(), "{label}");
        let (mut quantised, mut values) = (0, Vec::new());
        for tensor in source.names() {
            let (old, new) = (source.tensor(tensor).expect("there"), archive.tensor(tensor).expect("there"));
            assert_eq!(old.shape(), new.shape(), "{label} {tensor}");
            if new.dtype().is_quantised() {
                quantised += 1;
                assert!(tensor.contains("blocks.") && tensor.ends_with(".weight"), "{label} {tensor}");
            }
            if new.dtype() == DType::F32 {
                assert_eq!(old.bytes(), new.bytes(), "{label} {tensor}");
            } else if old.shape().count() > 1 {
                let error = distance(&new.to_f64(), &old.to_f64());
                let most = match new.dtype() {
                    DType::F16 => 1e-3,
                    DType::BF16 => 4e-3,
                    DType::Q8_0 => 6e-3,
                    DType::F8E4M3 => 4e-2,
                    _ => 0.12,
                };
                assert!(error > 0.0 && error < most, "{label} {tensor} {}: {error:.1e}", new.dtype());
            }
            values.push((tensor, HostTensor::from_f32(new.shape(), &new.to_f32())));
        }
        // Ten matrices in each of two blocks.
        assert_eq!(quantised, if dtype.is_quantised() { 20 } else { 0 }, "{label}");
        assert_eq!(done.instead.values().sum::<usize>(), if dtype == DType::Q4K { 20 } else { 0 });
        assert_eq!(done.read, source.size());

        // It runs, as the values that it stands for do.
        let model = Model::open(with_transformer("a", &path, folder.path())).unwrap_or_else(|e| panic!("{label}: {e}"));
        let got = latents(&model);
        let error = distance(&got, &expected);
        println!("{label}: {error:.1e} from the original");
        assert!(error <= near, "{label}: {error:.1e} from the original");
        let plain = folder.path().join("values.safetensors");
        save_safetensors(&plain, &values, &[]).expect("saved");
        let model =
            Model::open(with_transformer("a", &plain, folder.path())).unwrap_or_else(|e| panic!("{label}: {e}"));
        let error = distance(&got, &latents(&model));
        assert!(error < 1e-3, "{label}: {error:.1e} from its values");

        // And back.
        let back = folder.path().join("back.safetensors");
        converted(&path, &back, DType::F32);
        let back = ours(&back);
        for (tensor, value) in &values {
            assert_eq!(back.tensor(tensor).expect("there").bytes(), value.bytes(), "{label} {tensor}");
        }
    }
}

#[test]
fn a_lora_is_added_to_quantised_weights() {
    let golden = Golden::open("loras");
    let case = &golden.list("cases")[0];
    let asked = Request { steps: Some(2), ..request(case, Precision::F32) };
    let engine = Engine::on(gpu());
    let root = tempfile::tempdir().expect("a folder");
    let quantised = root.path().join("a.gguf");
    converted(&pipeline("a").join("transformer"), &quantised, DType::Q8_0);
    let plain = root.path().join("a.safetensors");
    converted(&quantised, &plain, DType::F32);
    let latents = |file: &Path, strength: f32| {
        let model = Model::open(with_transformer("a", file, root.path())).unwrap_or_else(|e| panic!("{e}"));
        let lora =
            LoraFile { path: folder().join("loras/original.safetensors"), strength, experts: Default::default() };
        let model = model.with_loras(&[lora]).unwrap_or_else(|e| panic!("{e}"));
        engine.generate_frames(&model, &asked).unwrap_or_else(|e| panic!("{e}")).0.latents.to_f64()
    };
    let error = distance(&latents(&quantised, 1.0), &latents(&plain, 1.0));
    assert!(error < 1e-3, "{error:.1e}");
    assert!(distance(&latents(&quantised, 1.0), &latents(&quantised, 0.0)) > 0.1);
}

#[test]
fn converted_files_are_all_that_a_run_needs() {
    let golden = Golden::open("pipelines");
    let case = &golden.list("cases")[0];
    let base = request(case, Precision::F32);
    let asked = Request { steps: Some(2), sampler: Some(Sampler::UniPc), shift: Some(3.0), ..base };
    let engine = Engine::on(gpu());
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    let command = |from: &Path, to: &str, dtype: &str| {
        let (from, to) = (from.display().to_string(), path(to).display().to_string());
        let output = mutoscope(&["convert", &from, &to, "--type", dtype, "--quiet"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let latents = |model: Model| {
        let (video, _) = engine.generate_frames(&model, &asked).unwrap_or_else(|e| panic!("{e}"));
        video.latents.to_f64()
    };
    // No config.json and no tokenizer lie beside the new files: heads of 16 features, the VAE's statistics and the
    // vocabulary are within them.
    let a = pipeline("a");
    command(&a.join("transformer"), "wan.gguf", "f32");
    command(&a.join("vae"), "vae.safetensors", "f32");
    command(&a.join("text_encoder"), "t5.gguf", "f32");
    command(&path("t5.gguf"), "again.gguf", "q8_0");
    command(&path("wan.gguf"), "again.safetensors", "f32");
    let files = |transformer: &str, text_encoder: &str| ModelFiles {
        transformer: Some(path(transformer)),
        text_encoder: Some(path(text_encoder)),
        vae: Some(path("vae.safetensors")),
        ..ModelFiles::default()
    };
    let open = |transformer: &str, text_encoder: &str| {
        Model::open_files(&files(transformer, text_encoder)).unwrap_or_else(|e| panic!("{e}"))
    };
    let expected = latents(Model::open(&a).expect("a golden"));
    assert!(latents(open("wan.gguf", "t5.gguf")) == expected, "the same bits");
    assert!(latents(open("again.safetensors", "t5.gguf")) == expected, "the same bits");
    let error = distance(&latents(open("wan.gguf", "again.gguf")), &expected);
    assert!(error > 0.0 && error < 0.1, "{error:.1e} from the original");
    // The table is quantised too, and the tokenizer went on with it.
    let again = ours(&path("again.gguf"));
    assert_eq!(again.tensor("shared.weight").expect("there").dtype(), DType::Q8_0);
    assert_eq!(again.metadata("general.architecture").and_then(|name| name.text()), Some("t5encoder"));
    assert_eq!(again.metadata("t5encoder.attention.head_count").and_then(|heads| heads.unsigned()), Some(4));

    // Another class of tokenizer is refused, for its texts have other tokens.
    let other = path("tokenizer");
    std::fs::create_dir(&other).expect("a folder");
    let json = std::fs::read_to_string(a.join("tokenizer/tokenizer.json")).expect("read");
    let mut json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    json["normalizer"] = serde_json::json!({ "type": "Lowercase" });
    std::fs::write(other.join("tokenizer.json"), json.to_string()).expect("written");
    let (from, to) = (a.join("text_encoder").display().to_string(), path("x.gguf").display().to_string());
    let tokenizer = other.display().to_string();
    let (code, message) = refused(&["convert", &from, &to, "--type", "f16", "--tokenizer", &tokenizer]);
    assert!(code == 4 && message.contains("T5Tokenizer") && !path("x.gguf").exists(), "{code} {message}");
    // One that merely lies beside is left where it is.
    let b = pipeline("b").join("text_encoder").display().to_string();
    let output = mutoscope(&["convert", &b, &to, "--type", "f16"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && message.contains("has no tokenizer in it"), "{message}");
    assert!(ours(&path("x.gguf")).metadata("tokenizer.ggml.tokens").is_none());
}

#[test]
fn the_command_tells_what_it_did() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let from = pipeline("b").join("transformer").display().to_string();
    let output = mutoscope(&["convert", &from, &path("b.gguf"), "--type", "bf16", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    let done: serde_json::Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    assert_eq!(done["event"], "done");
    assert_eq!(done["written"], std::fs::metadata(path("b.gguf")).expect("written").len());
    assert!(done["types"]["bf16"]["tensors"].as_u64().expect("a count") > 20);

    let vae = pipeline("a").join("vae").display().to_string();
    let whole = pipeline("a").display().to_string();
    let lora = crate::golden::folder().join("loras/saved.safetensors").display().to_string();
    let cases: [(&[&str], i32, &str); 8] = [
        (&[&from, &path("x.gguf"), "--type", "fp8"], 2, "no fp8"),
        (&[&from, &path("x.safetensors"), "--type", "q8_0"], 2, ".gguf"),
        (&[&from, &path("x.safetensors"), "--type", "int3"], 2, "q4_k"),
        (&[&vae, &path("x.gguf"), "--type", "f16"], 4, "VAE"),
        (&[&vae, &path("x.safetensors"), "--type", "fp8"], 2, "no matrix"),
        (&[&whole, &path("x.safetensors"), "--type", "f16"], 4, "`transformer`"),
        (&[&lora, &path("x.safetensors"), "--type", "f16"], 4, "no network"),
        (&[&from, &path("no/x.safetensors"), "--type", "f16"], 3, "x.safetensors"),
    ];
    for (arguments, code, says) in cases {
        let arguments = [&["convert"], arguments].concat();
        let (got, message) = refused(&arguments);
        assert!(got == code && message.contains(says), "{arguments:?}: {got} {message}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "nothing half-written is left");
}

#[test]
fn a_conversion_that_ends_early_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let archive = open_for_conversion(pipeline("a").join("transformer")).expect("a golden");
    let path = folder.path().join("x.safetensors");
    std::fs::write(&path, b"old").expect("written");
    let mut calls = 0;
    let stopped = convert(&archive, &path, DType::F16, &[], &mut |_, _| {
        calls += 1;
        if calls == 5 { Err(Error::Cancelled) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(std::fs::read(&path).expect("still there"), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1);
    // What f16 cannot hold is not made infinite.
    let large = [("patch_embedding.weight", 1e6f32), ("condition_embedder.time_proj.weight", 1.0)];
    let large = large.map(|(name, value)| (name, HostTensor::from_f32([2, 2], &[value; 4])));
    save_safetensors(folder.path().join("large"), &large, &[]).expect("saved");
    let archive = open_for_conversion(folder.path().join("large")).expect("opened");
    let error = convert(&archive, &path, DType::F16, &[], &mut |_, _| Ok(())).expect_err("too large").to_string();
    assert!(error.contains("tensor `patch_embedding.weight`") && error.contains("1000000"), "{error}");
    if cfg!(target_os = "linux") {
        let error = convert(&archive, "/dev/full", DType::F32, &[], &mut |_, _| Ok(())).expect_err("a full disk");
        assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("/dev/full"), "{error}");
    }
}
