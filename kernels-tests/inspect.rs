//! What is told of models without reading their weights: the real ones by their dimensions, in sparse files, with what
//! their authors run them with.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use mutoscope::pipeline::{Inspection, Model, ModelFiles};
use mutoscope::sampling::Sampler;
use mutoscope::tensor::HostTensor;
use mutoscope::weights::{Archive, save_safetensors};
use serde_json::{Map, Value, json};

use crate::cli::{mutoscope, refused};
use crate::golden::{folder, pipeline};
use crate::known::copy;

/// A file of tensors of f16 that takes no room: a header and a hole.
fn sparse(path: &Path, tensors: &[(String, Vec<u64>)]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, dims) in tensors {
        let start = end;
        end += 2 * dims.iter().product::<u64>();
        header.insert(name.clone(), json!({ "dtype": "F16", "shape": dims, "data_offsets": [start, end] }));
    }
    let header = Value::from(header).to_string();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    let mut file = File::create(path).expect("created");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("written");
    file.write_all(header.as_bytes()).expect("written");
    file.set_len(8 + header.len() as u64 + end).expect("a hole");
}

/// What makes a transformer one of the known ones.
#[derive(Clone, Copy)]
struct Transformer {
    dim: u64,
    depth: usize,
    inputs: u64,
    outputs: u64,
    ffn: u64,
    /// How many pictures it sees by CLIP.
    pictures: usize,
    /// How many blocks VACE adds.
    control: usize,
}

impl Transformer {
    fn write(self, path: &Path) {
        let Self { dim, depth, inputs, outputs, ffn, pictures, control } = self;
        let mut list: Vec<(String, Vec<u64>)> = vec![
            ("patch_embedding.weight".into(), vec![dim, inputs, 1, 2, 2]),
            ("head.head.weight".into(), vec![4 * outputs, dim]),
            ("text_embedding.0.weight".into(), vec![dim, 4096]),
            ("time_embedding.0.weight".into(), vec![dim, 256]),
        ];
        for i in 0..depth {
            list.push((format!("blocks.{i}.self_attn.q.weight"), vec![dim, dim]));
            list.push((format!("blocks.{i}.ffn.0.weight"), vec![ffn, dim]));
        }
        if pictures > 0 {
            list.push(("img_emb.proj.0.weight".into(), vec![1280]));
            list.push(("blocks.0.cross_attn.k_img.weight".into(), vec![dim, dim]));
        }
        if pictures > 1 {
            list.push(("img_emb.emb_pos".into(), vec![1, 514, 1280]));
        }
        if control > 0 {
            list.push(("vace_patch_embedding.weight".into(), vec![dim, 96, 1, 2, 2]));
        }
        list.extend((0..control).map(|i| (format!("vace_blocks.{i}.self_attn.q.weight"), vec![dim, dim])));
        sparse(path, &list);
    }
}

/// UMT5-XXL, a VAE, CLIP and some tokenizer.
fn rest(root: &Path, residual: bool) {
    let umt5 = [
        ("token_embedding.weight", vec![256_384, 4096]),
        ("blocks.0.attn.q.weight", vec![4096, 4096]),
        ("blocks.0.pos_embedding.embedding.weight", vec![32, 64]),
        ("blocks.0.ffn.gate.0.weight", vec![10_240, 4096]),
        ("norm.weight", vec![4096]),
    ];
    let z = if residual { 48 } else { 16 };
    let resample = if residual {
        "decoder.upsamples.0.upsamples.3.resample.1.bias"
    } else {
        "decoder.upsamples.3.resample.1.bias"
    };
    let block = if residual {
        "decoder.upsamples.0.upsamples.0.residual.0.gamma"
    } else {
        "decoder.upsamples.0.residual.0.gamma"
    };
    let last = if residual {
        "decoder.upsamples.0.upsamples.2.residual.0.gamma"
    } else {
        "decoder.upsamples.2.residual.0.gamma"
    };
    let vae = [
        ("conv2.weight", vec![z, z, 1, 1, 1]),
        ("decoder.head.2.weight", vec![if residual { 12 } else { 3 }, 96, 3, 3, 3]),
        (resample, vec![96]),
        (block, vec![96, 1, 1, 1]),
        // Three residual blocks come before what resamples.
        (last, vec![96, 1, 1, 1]),
    ];
    let clip = [
        ("visual.cls_embedding", vec![1, 1, 1280]),
        ("visual.pos_embedding", vec![1, 257, 1280]),
        ("visual.patch_embedding.weight", vec![1280, 3, 14, 14]),
        ("visual.pre_norm.weight", vec![1280]),
        ("visual.transformer.0.mlp.0.weight", vec![5120, 1280]),
        ("visual.transformer.31.mlp.0.weight", vec![5120, 1280]),
    ];
    for (name, tensors) in [("umt5", &umt5[..]), ("vae", &vae[..]), ("clip", &clip[..])] {
        let list: Vec<_> = tensors.iter().map(|(name, dims)| ((*name).to_owned(), dims.clone())).collect();
        sparse(&root.join(format!("{name}.safetensors")), &list);
    }
    let tokenizer = root.join("google/umt5-xxl");
    std::fs::create_dir_all(&tokenizer).expect("a folder");
    std::fs::copy(pipeline("a").join("tokenizer/tokenizer.json"), tokenizer.join("tokenizer.json")).expect("copied");
}

const SMALL: Transformer =
    Transformer { dim: 1536, depth: 30, inputs: 16, outputs: 16, ffn: 8960, pictures: 0, control: 0 };
const LARGE: Transformer = Transformer { dim: 5120, depth: 40, ffn: 13_824, ..SMALL };
const FIVE: Transformer = Transformer { dim: 3072, inputs: 48, outputs: 48, ffn: 14_336, ..SMALL };
const PICTURE: Transformer = Transformer { inputs: 36, ..LARGE };

/// What its authors run a model with: size, frames, rate, steps, guidance, that at low noise, shift, that of 480p.
type Authors = ((usize, usize), usize, f64, usize, f64, Option<f64>, f64, Option<f64>);

#[test]
fn real_models_are_known_and_run_as_by_their_authors() {
    let clip = |pictures| Transformer { pictures, ..PICTURE };
    let (wide, tall) = ((1280, 720), (832, 480));
    let cases: [(&str, Transformer, bool, Authors, &str); 9] = [
        ("Wan 2.1 T2V 1.3B", SMALL, false, (tall, 81, 16.0, 50, 6.0, None, 8.0, None), "色调艳丽"),
        ("Wan 2.1 T2V 14B", LARGE, false, (wide, 81, 16.0, 50, 5.0, None, 5.0, Some(3.0)), "色调艳丽"),
        ("Wan 2.1 I2V 14B", clip(1), false, (wide, 81, 16.0, 40, 5.0, None, 5.0, Some(3.0)), "镜头晃动"),
        ("Wan 2.1 FLF2V 14B", clip(2), false, (wide, 81, 16.0, 50, 5.0, None, 16.0, None), "镜头切换"),
        (
            "Wan 2.1 VACE 1.3B",
            Transformer { control: 15, ..SMALL },
            false,
            (tall, 81, 16.0, 50, 5.0, None, 16.0, None),
            "色调艳丽",
        ),
        (
            "Wan 2.1 VACE 14B",
            Transformer { control: 8, ..LARGE },
            false,
            (wide, 81, 16.0, 50, 5.0, None, 16.0, None),
            "色调艳丽",
        ),
        ("Wan 2.2 T2V A14B", LARGE, true, (wide, 81, 16.0, 40, 4.0, Some(3.0), 12.0, None), "色调艳丽"),
        ("Wan 2.2 I2V A14B", PICTURE, true, (wide, 81, 16.0, 40, 3.5, Some(3.5), 5.0, None), "色调艳丽"),
        ("Wan 2.2 TI2V 5B", FIVE, false, ((1280, 704), 121, 24.0, 50, 5.0, None, 5.0, None), "色调艳丽"),
    ];
    for (kind, transformer, experts, expected, negative) in cases {
        let folder = tempfile::tempdir().expect("a folder");
        rest(folder.path(), transformer.outputs == 48);
        if experts {
            transformer.write(&folder.path().join("high_noise_model/diffusion_pytorch_model.safetensors"));
            transformer.write(&folder.path().join("low_noise_model/diffusion_pytorch_model.safetensors"));
        } else {
            transformer.write(&folder.path().join("diffusion_pytorch_model.safetensors"));
        }
        let found = Inspection::of(&ModelFiles::new(folder.path())).unwrap_or_else(|e| panic!("{kind}: {e}"));
        // The files have no more than tells the networks apart.
        let hollow = |problem: &String| problem.contains("it is missing");
        assert!(found.problems.iter().all(hollow), "{kind}: {:?}", found.problems);
        assert_eq!(found.kind, Some(kind));
        let run = found.run.expect("it is whole");
        let d = &run.defaults;
        let got: Authors = (
            (d.width, d.height),
            d.frames,
            d.fps,
            d.steps,
            d.guidance,
            d.guidance_low,
            run.sampler.shift,
            d.shift_480p,
        );
        assert_eq!(got, expected, "{kind}");
        assert_eq!(run.sampler.sampler, Sampler::UniPcWan, "{kind}: the authors' own noise levels");
        assert!(d.negative.starts_with(negative) && d.negative.ends_with("倒着走"), "{kind}: {}", d.negative);
        let pictures = run.inputs.contains(&"--image");
        assert_eq!(pictures, kind.contains("I2V") || kind.contains("FLF2V") || kind.contains("VACE"), "{kind}");
        let heads = found.parts[0].settings.as_ref().and_then(|s| s.get::<u64>("num_attention_heads").ok());
        assert_eq!(heads, Some(transformer.dim / 128), "{kind}");
        if transformer.control > 0 {
            let layers: Vec<usize> =
                found.parts[0].settings.as_ref().and_then(|s| s.get("vace_layers").ok()).expect("there");
            let step = if transformer.depth == 30 { 2 } else { 5 };
            assert_eq!(layers, (0..transformer.control).map(|i| i * step).collect::<Vec<_>>(), "{kind}");
        }
    }
}

#[test]
fn what_a_folder_says_of_itself_goes_before_its_kind() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("Wan2.1-I2V-14B-480P");
    rest(&root, false);
    let transformer = root.join("diffusion_pytorch_model.safetensors");
    Transformer { pictures: 1, ..PICTURE }.write(&transformer);
    let run =
        |root: &Path| Inspection::of(&ModelFiles::new(root)).unwrap_or_else(|e| panic!("{e}")).run.expect("whole");
    assert_eq!((run(&root).defaults.width, run(&root).defaults.shift_480p), (832, Some(3.0)));
    let scheduler = root.join("scheduler/scheduler_config.json");
    std::fs::create_dir_all(scheduler.parent().expect("a folder")).expect("a folder");
    // What diffusers' conversion writes for nearly every model says nothing of this one.
    let text = r#"{"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true, "prediction_type": "flow_prediction",
                   "flow_shift": 3.0}"#;
    std::fs::write(&scheduler, text).expect("written");
    let converted = run(&root);
    assert_eq!((converted.sampler.sampler, converted.sampler.shift), (Sampler::UniPc, 5.0));
    assert_eq!(converted.defaults.shift_480p, Some(3.0));
    let text = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}"#;
    std::fs::write(&scheduler, text).expect("written");
    std::fs::write(root.join("defaults.json"), r#"{"steps": 4, "guidance": 1.0}"#).expect("written");
    let run = run(&root);
    assert_eq!((run.sampler.sampler, run.sampler.shift, run.defaults.shift_480p), (Sampler::Euler, 7.0, None));
    assert_eq!((run.defaults.steps, run.defaults.guidance, run.defaults.frames), (4, 1.0, 81));
}

#[test]
fn parts_that_do_not_fit_are_told() {
    let files = ModelFiles { vae: Some(pipeline("d").join("vae")), ..ModelFiles::new(pipeline("a")) };
    let found = Inspection::of(&files).unwrap_or_else(|e| panic!("{e}"));
    let says = |text: &String| text.contains("16 channels, and the VAE 8") && text.contains("--vae");
    assert!(found.problems.iter().any(says), "{:?}", found.problems);
}

#[test]
fn a_tensor_that_is_missing_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&pipeline("a"), folder.path());
    let stem = "diffusion_pytorch_model";
    for (part, lost) in [
        ("transformer", "blocks.1.ffn.net.2.bias"),
        ("transformer", "proj_out.bias"),
        ("transformer", "blocks.0.norm2.weight"),
        ("vae", "decoder.conv_out.bias"),
        ("vae", "post_quant_conv.bias"),
    ] {
        let file = folder.path().join(part).join(format!("{stem}.safetensors"));
        let whole = std::fs::read(&file).expect("read");
        let archive = Archive::open(file.parent().expect("a folder"), stem).unwrap_or_else(|e| panic!("{e}"));
        let kept: Vec<(&str, HostTensor)> = archive
            .names()
            .filter(|name| *name != lost)
            .map(|name| (name, archive.tensor(name).unwrap_or_else(|e| panic!("{e}"))))
            .collect();
        save_safetensors(&file, &kept, &[]).unwrap_or_else(|e| panic!("{e}"));
        let told = |text: &str| text.contains(lost) && text.contains("it is missing");
        let found = Inspection::of(&ModelFiles::new(folder.path())).unwrap_or_else(|e| panic!("{e}"));
        assert!(found.problems.len() == 1 && told(&found.problems[0]), "{lost}: {:?}", found.problems);
        let error = Model::open(folder.path()).expect_err("refused").to_string();
        assert!(told(&error), "{error}");
        std::fs::write(&file, whole).expect("written");
    }
    Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn half_a_pair_and_models_of_wans_kin_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    rest(folder.path(), false);
    let half = folder.path().join("wan2.2_t2v_high_noise_14B.safetensors");
    LARGE.write(&half);
    let found = Inspection::of(&ModelFiles::new(&half)).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        found.problems.iter().any(|text| text.contains("half for high noise") && text.contains("--transformer-low"))
    );
    // The other half, called the same, is found by itself.
    LARGE.write(&folder.path().join("wan2.2_t2v_low_noise_14B.safetensors"));
    let found = Inspection::of(&ModelFiles::new(&half)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.kind, Some("Wan 2.2 T2V A14B"), "{:?}", found.problems);
    let animate = folder.path().join("animate.safetensors");
    sparse(
        &animate,
        &[
            ("blocks.0.self_attn.q.weight".into(), vec![8, 8]),
            ("face_adapter.fuser_blocks.0.k_norm.weight".into(), vec![8]),
        ],
    );
    let found = Inspection::of(&ModelFiles::new(&animate)).unwrap_or_else(|e| panic!("{e}"));
    assert!(found.problems.iter().any(|text| text.contains("Wan 2.2 Animate")), "{:?}", found.problems);
}

#[test]
fn the_program_shows_it() {
    let text = |arguments: &[&str]| {
        let output = mutoscope(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let model = pipeline("e");
    let model = model.to_str().expect("UTF-8");
    let shown = text(&["inspect", model]);
    for part in ["e, complete", "transformer_2", "names: diffusers", "text_encoder", "runs with: 832x480", "--image"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let all = text(&["inspect", model, "--tensors"]);
    assert!(all.contains("blocks.0.attn1.to_q.weight F16 [40, 40]"), "{all}");
    // Parts alone, and what is missing.
    let vae = pipeline("a").join("vae");
    let lone = text(&["inspect", "--vae", vae.to_str().expect("UTF-8")]);
    for part in ["not complete", "the transformer is missing: give it with --transformer", "--tokenizer"] {
        assert!(lone.contains(part), "{part}: {lone}");
    }
    assert!(text(&["inspect"]).contains("embedded, complete"));
    let lora = folder().join("loras/saved.safetensors");
    let lora = text(&["inspect", lora.to_str().expect("UTF-8")]);
    assert!(lora.contains("a LoRA") && lora.contains("--lora") && !lora.contains("missing"), "{lora}");
    let (code, error) = refused(&["inspect", "nowhere"]);
    assert!(code == 3 && error.contains("nowhere"), "{error}");
}

#[test]
fn all_of_it_is_told_as_json() {
    let told = |arguments: &[&str]| -> Value {
        let output = mutoscope(&[&["inspect", "--json"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one line of JSON")
    };
    let a = pipeline("a").display().to_string();
    let whole = told(&[&a]);
    assert_eq!((&whole["complete"], &whole["problems"]), (&json!(true), &json!([])));
    assert_eq!(whole["run"]["sampler"], "unipc");
    let sum = |list: &Value, key: &str| {
        list.as_array().expect("a list").iter().map(|item| item[key].as_u64().expect("a number")).sum::<u64>()
    };
    assert_eq!(whole["bytes"], sum(&whole["parts"], "bytes"));
    for part in whole["parts"].as_array().expect("parts") {
        assert_eq!(part["bytes"], sum(&part["groups"], "bytes"));
        assert_eq!(part["parameters"], sum(&part["groups"], "parameters"));
    }
    let transformer = |told: &Value| {
        told["parts"].as_array().expect("parts").iter().find(|part| part["role"] == "transformer").cloned()
    };
    assert_eq!(transformer(&whole).expect("there")["settings"]["num_layers"], 2);
    let part = transformer(&told(&[&a, "--tensors"])).expect("there");
    assert_eq!(part["list"].as_array().map(Vec::len), part["tensors"].as_u64().map(|count| count as usize));

    let part = pipeline("a").join("transformer").display().to_string();
    let part = told(&[&part]);
    assert_eq!((&part["complete"], &part["run"]), (&json!(false), &Value::Null));
    assert!(part["problems"].as_array().expect("a list").len() >= 3, "{part}");
}
