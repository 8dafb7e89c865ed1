//! What the JSON files of a pipeline's folder ask for, and what is refused of it by name.

use std::path::Path;

use mutoscope::Error;
use mutoscope::pipeline::{Model, Request, Settings};
use mutoscope::sampling::Sampler;
use mutoscope::tensor::HostTensor;
use mutoscope::weights::{Archive, save_safetensors};
use serde_json::Value;

use crate::golden::pipeline;
use crate::known::copy;

/// Sets one key of a JSON file.
fn set(file: &Path, key: &str, value: Value) {
    let mut settings: Value = serde_json::from_slice(&std::fs::read(file).expect("read")).expect("JSON");
    settings[key] = value;
    std::fs::write(file, settings.to_string()).expect("written");
}

#[test]
fn the_pipeline_names_its_sampler() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline("a"), folder.path());
    let scheduler = folder.path().join("scheduler/scheduler_config.json");
    let sampler = |settings: &str| {
        std::fs::write(&scheduler, settings).expect("written");
        Model::open(folder.path()).map(|model| model.sampler().sampler)
    };
    let index = folder.path().join("model_index.json");
    let text = std::fs::read_to_string(&index).expect("read");
    let other = text.replace("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler");
    assert_ne!(text, other);
    std::fs::write(&index, &other).expect("written");
    for settings in [r#"{"shift": 3.0}"#, r#"{"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0}"#] {
        assert_eq!(sampler(settings).unwrap_or_else(|e| panic!("{e}")), Sampler::Euler);
    }
    // As diffusers saves another sampler: with a number that JSON does not have.
    let settings = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}"#;
    std::fs::write(&index, text.replace("UniPCMultistepScheduler", "DPMSolverMultistepScheduler")).expect("written");
    let error = sampler(settings).expect_err("refused").to_string();
    assert!(error.contains("DPMSolverMultistepScheduler") && error.contains("UniPCMultistepScheduler"), "{error}");
    std::fs::write(&index, text.replace("UniPCMultistepScheduler", "")).expect("written");
    let error = sampler("{}").expect_err("refused").to_string();
    assert!(error.contains("`_class_name`: it is missing"), "{error}");
}

#[test]
fn pipelines_of_every_class_that_diffusers_has_for_these_networks_open() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline("a"), folder.path());
    let index = folder.path().join("model_index.json");
    for class in ["WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline"] {
        set(&index, "_class_name", class.into());
        Model::open(folder.path()).unwrap_or_else(|e| panic!("{class}: {e}"));
    }
    set(&index, "_class_name", "WanAnimatePipeline".into());
    let error = Model::open(folder.path()).expect_err("refused").to_string();
    assert!(error.contains("WanAnimatePipeline") && error.contains("WanVideoToVideoPipeline"), "{error}");
}

#[test]
fn other_activations_of_the_text_encoder_are_refused_by_name() {
    for (key, value, says) in [
        ("dense_act_fn", Value::from("silu"), "`silu`"),
        ("is_gated_act", Value::from(false), "false"),
        ("feed_forward_proj", Value::from("gated-silu"), "`gated-silu`"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&pipeline("a"), folder.path());
        set(&folder.path().join("text_encoder/config.json"), key, value);
        let error = Model::open(folder.path()).expect_err("refused").to_string();
        assert!(error.contains(key) && error.contains(says), "{error}");
    }
}

#[test]
fn lengths_fill_patches_of_more_than_one_latent_frame() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline("a"), folder.path());
    let part = folder.path().join("transformer");
    set(&part.join("config.json"), "patch_size", [2, 2, 2].as_slice().into());
    let stem = "diffusion_pytorch_model";
    let archive = Archive::open(&part, stem).unwrap_or_else(|e| panic!("{e}"));
    // Twice the taps in, twice the rows out.
    let doubled = |name: &str, tensor: HostTensor| match name {
        "patch_embedding.weight" => {
            let [o, i, t, h, w] = <[usize; 5]>::try_from(tensor.shape().dims()).expect("a convolution");
            let values = tensor.to_f32();
            let twice: Vec<f32> = values.chunks(t * h * w).flat_map(|taps| [taps, taps].concat()).collect();
            HostTensor::from_f32([o, i, 2 * t, h, w], &twice)
        }
        "proj_out.weight" | "proj_out.bias" => {
            let mut dims = tensor.shape().dims().to_vec();
            dims[0] *= 2;
            HostTensor::from_f32(&dims[..], &tensor.to_f32().repeat(2))
        }
        _ => tensor,
    };
    let tensors: Vec<(&str, HostTensor)> = archive
        .names()
        .map(|name| (name, doubled(name, archive.tensor(name).unwrap_or_else(|e| panic!("{e}")))))
        .collect();
    save_safetensors(part.join(format!("{stem}.safetensors")), &tensors, &[]).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
    let frames = |frames: Option<usize>, seconds: Option<f64>| {
        let request = Request { frames, seconds, size: Some((32, 32)), fps: Some(4.0), ..Request::new("a") };
        Settings::resolve(&model, &request).map(|settings| settings.frames)
    };
    for whole in [5, 13, 21] {
        assert_eq!(frames(Some(whole), None).unwrap_or_else(|e| panic!("{e}")), whole);
    }
    for (asked, nearest) in [(0, "is 5"), (1, "is 5"), (9, "is 5 or 13"), (14, "is 13 or 21")] {
        let error = frames(Some(asked), None).expect_err("refused");
        assert!(matches!(error, Error::Request { .. }) && error.to_string().ends_with(nearest), "{error}");
    }
    assert_eq!([0.1, 2.0, 3.5].map(|seconds| frames(None, Some(seconds)).ok()), [Some(5), Some(5), Some(13)]);
}
