//! Whole models in the containers that other programs write, GGUF and PyTorch's: the same latents and frames, bit for bit,
//! as from safetensors.

use std::path::Path;

use mutoscope::pipeline::{Engine, ModelFiles, Request};
use mutoscope::weights::{Archive, Container, Value};

use crate::device::gpu;
use crate::golden::{Golden, folder, pipeline};
use crate::known;
use crate::layouts::{asked, authors_config, copy, made, open, tokenizer};

/// A copy of the goldens' files in one of the containers, with the settings of their transformers, which are smaller than
/// any that shapes would tell.
fn files(container: &str, root: &Path) {
    known::copy(&folder().join("containers").join(container), root);
    let folders = if container == "pth" { &["high_noise_model", "low_noise_model"][..] } else { &[""] };
    for folder in folders {
        authors_config("i", "transformer", &root.join(folder).join("config.json"));
    }
}

/// The files of a folder hold nothing but this.
fn is_all(root: &Path, container: Container) {
    let mut seen = 0;
    for entry in std::fs::read_dir(root).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "gguf" || ending == "pth") {
            let archive = Archive::open_file(&path).unwrap_or_else(|e| panic!("{e}"));
            assert!(archive.files().all(|file| file.container() == container), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// What the goldens' first case of this pipeline asks for, in words that need no rules for characters.
fn request(golden: &Golden) -> Request {
    let request = asked(golden, &golden.list("cases")[0]);
    assert!(request.prompt.is_ascii());
    request
}

#[test]
fn a_model_in_gguf_gives_the_video_of_safetensors() {
    let golden = Golden::open("experts");
    let (engine, request) = (Engine::on(gpu()), request(&golden));
    let expected = made(&engine, &open(&ModelFiles::new(pipeline("i"))), &request);
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    files("gguf", root.path());
    is_all(root.path(), Container::Gguf);
    copy("i", "vae/diffusion_pytorch_model.safetensors", &path("vae/wan_vae.safetensors"));
    copy("i", "vae/config.json", &path("vae/config.json"));
    // The tokenizer is in the text encoder's file.
    assert!(made(&engine, &open(&ModelFiles::new(root.path())), &request) == expected, "a folder");
    let [high, low, text] = ["Wan2.2-T2V-A14B-HighNoise-F16", "Wan2.2-T2V-A14B-LowNoise-F16", "umt5-xxl-encoder-F16"]
        .map(|name| path(&format!("{name}.gguf")));
    let parts = ModelFiles {
        transformer: Some(high.clone()),
        transformer_low: Some(low.clone()),
        text_encoder: Some(text),
        vae: Some(path("vae")),
        ..ModelFiles::default()
    };
    assert!(made(&engine, &open(&parts), &request) == expected, "parts that are named");
    let mixed = ModelFiles { text_encoder: parts.text_encoder, ..ModelFiles::new(pipeline("i")) };
    assert!(made(&engine, &open(&mixed), &request) == expected, "a text encoder in place of another");
    // One of the two has the convolution's five dimensions, the other has them in the metadata.
    let of = |file: &Path| Archive::open_file(file).unwrap_or_else(|e| panic!("{e}"));
    let stored = |file: &Path| {
        of(file).metadata("comfy.gguf.orig_shape.patch_embedding.weight").and_then(Value::numbers).map(<[f64]>::len)
    };
    assert_eq!((stored(&high), stored(&low)), (None, Some(5)));
}

#[test]
fn a_model_of_pytorchs_files_gives_the_video_of_safetensors() {
    let golden = Golden::open("experts");
    let (engine, request) = (Engine::on(gpu()), request(&golden));
    let expected = made(&engine, &open(&ModelFiles::new(pipeline("i"))), &request);
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    files("pth", root.path());
    is_all(root.path(), Container::Torch);
    copy("i", "vae/config.json", &path("Wan2.1_VAE.json"));
    tokenizer("i", &path("google/umt5-xxl"));
    assert!(made(&engine, &open(&ModelFiles::new(root.path())), &request) == expected, "a folder");
    // Each by itself in place of another's.
    let (vae, text) = (path("Wan2.1_VAE.pth"), path("models_t5_umt5-xxl-enc-bf16.pth"));
    let whole = || ModelFiles::new(pipeline("i"));
    let parts = [
        ("the VAE", ModelFiles { vae: Some(vae), ..whole() }),
        ("the text encoder", ModelFiles { text_encoder: Some(text), ..whole() }),
        ("the low-noise transformer", ModelFiles { transformer_low: Some(path("low_noise_model")), ..whole() }),
    ];
    for (what, files) in parts {
        assert!(made(&engine, &open(&files), &request) == expected, "{what}");
    }
}
