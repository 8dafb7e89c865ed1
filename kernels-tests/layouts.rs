//! The golden pipelines' weights in every layout that people have: each is recognised and gives the very latents and
//! frames that the folder of diffusers gives.

use std::path::{Path, PathBuf};

use mutoscope::Error;
use mutoscope::media::Frame;
use mutoscope::pipeline::{Engine, Inspection, Model, ModelFiles, Precision, Request};
use mutoscope::tensor::DType;
use mutoscope::weights::Archive;
use mutoscope::weights::layout::{Layout, Network};
use serde_json::{Map, Value, json};

use crate::device::gpu;
use crate::golden::{Golden, distance, pipeline, text};
use crate::known::known;
use crate::pipelines::request;

/// A tensor of a file: name, type as safetensors spells it, dimensions, bytes.
struct Tensor {
    name: String,
    dtype: &'static str,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes safetensors in an order that no name gives.
fn write(path: &Path, mut tensors: Vec<Tensor>) {
    let scramble = |name: &str| name.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte));
    tensors.sort_by_key(|tensor| scramble(&tensor.name));
    let (mut header, mut data) = (Map::new(), Vec::new());
    for Tensor { name, dtype, dims, bytes } in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({ "dtype": dtype, "shape": dims, "data_offsets": [start, data.len()] });
        assert!(header.insert(name.clone(), entry).is_none(), "{name} twice");
    }
    let header = Value::from(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("written");
}

/// The tensors of a golden network in a layout, below a prefix.
fn tensors(name: &str, folder: &str, network: Network, layout: Layout, prefix: &str) -> Vec<Tensor> {
    let stem = if matches!(network, Network::TextEncoder | Network::ImageEncoder) {
        "model"
    } else {
        "diffusion_pytorch_model"
    };
    let archive = Archive::open(pipeline(name).join(folder), stem).unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<&str> = archive.names().collect();
    let theirs = layout.theirs(network, names.iter().copied()).expect("a layout");
    let mut found: Vec<Tensor> = Vec::new();
    for ours in names {
        let Some(theirs) = theirs.get(ours) else { continue };
        let tensor = archive.tensor(ours).unwrap_or_else(|e| panic!("{e}"));
        let dtype = match tensor.dtype() {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::BF16 => "BF16",
            other => panic!("{other}"),
        };
        let name = format!("{prefix}{}", theirs.name);
        let (dims, bytes) = (tensor.shape().dims().to_vec(), tensor.bytes().to_vec());
        // What is fused lies below each other; ours are in alphabetical order, which is that of k, q and v.
        match theirs.part {
            None => found.push(Tensor { name, dtype, dims, bytes }),
            Some((i, parts)) => {
                let size = bytes.len();
                let at = found.iter().position(|tensor| tensor.name == name).unwrap_or_else(|| {
                    let dims = [&[dims[0] * parts], &dims[1..]].concat();
                    found.push(Tensor { name, dtype, dims, bytes: vec![0; size * parts] });
                    found.len() - 1
                });
                found[at].bytes[i * size..(i + 1) * size].copy_from_slice(&bytes);
            }
        }
    }
    // As the authors have them, with a dimension of one before.
    for tensor in &mut found {
        if tensor.name.ends_with("cls_embedding") || tensor.name.ends_with("pos_embedding") {
            while tensor.dims.len() < 3 {
                tensor.dims.insert(0, 1);
            }
        }
    }
    found
}

pub(crate) fn copy(name: &str, from: &str, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    std::fs::copy(pipeline(name).join(from), to).unwrap_or_else(|e| panic!("{from}: {e}"));
}

/// The transformer's settings in the words of Wan's authors.
pub(crate) fn authors_config(name: &str, folder: &str, to: &Path) {
    let ours: Value =
        serde_json::from_slice(&std::fs::read(pipeline(name).join(folder).join("config.json")).expect("read"))
            .expect("JSON");
    let dim =
        ours["num_attention_heads"].as_u64().expect("heads") * ours["attention_head_dim"].as_u64().expect("a size");
    let theirs = json!({
        "_class_name": "WanModel", "model_type": "t2v", "dim": dim, "num_heads": ours["num_attention_heads"],
        "num_layers": ours["num_layers"], "ffn_dim": ours["ffn_dim"], "freq_dim": ours["freq_dim"], "text_len": 512,
        "in_dim": ours["in_channels"], "out_dim": ours["out_channels"], "eps": ours["eps"],
    });
    let mut theirs = theirs;
    if !ours["vace_layers"].is_null() {
        theirs["vace_layers"] = ours["vace_layers"].clone();
        theirs["vace_in_dim"] = ours["vace_in_channels"].clone();
    }
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    std::fs::write(to, theirs.to_string()).expect("written");
}

pub(crate) fn tokenizer(name: &str, to: &Path) {
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        copy(name, &format!("tokenizer/{file}"), &to.join(file));
    }
}

/// The layout of the authors' repositories.
fn authors(name: &str, root: &Path) {
    let vae = root.join("Wan2.1_VAE.safetensors");
    let (wan, network) = (Layout::Wan, Network::Transformer);
    if pipeline(name).join("transformer_2").exists() {
        for (ours, theirs) in [("transformer", "high_noise_model"), ("transformer_2", "low_noise_model")] {
            let file = root.join(theirs).join("diffusion_pytorch_model.safetensors");
            write(&file, tensors(name, ours, network, wan, ""));
            authors_config(name, ours, &root.join(theirs).join("config.json"));
        }
    } else {
        // In shards that no index lists.
        let mut first = tensors(name, "transformer", network, wan, "");
        let second = first.split_off(first.len() / 2);
        write(&root.join("diffusion_pytorch_model-00001-of-00002.safetensors"), first);
        write(&root.join("diffusion_pytorch_model-00002-of-00002.safetensors"), second);
        authors_config(name, "transformer", &root.join("config.json"));
    }
    let text = tensors(name, "text_encoder", Network::TextEncoder, wan, "");
    write(&root.join("models_t5_umt5-xxl-enc-bf16.safetensors"), text);
    write(&vae, tensors(name, "vae", Network::Vae, wan, ""));
    copy(name, "vae/config.json", &root.join("Wan2.1_VAE.json"));
    tokenizer(name, &root.join("google/umt5-xxl"));
    // Another network's, which is not to be taken.
    tokenizer("c", &root.join("xlm-roberta-large"));
    if pipeline(name).join("image_encoder").exists() {
        let file = root.join("models_clip_open-clip-xlm-roberta-large-vit-huge-14.safetensors");
        let mut clip = tensors(name, "image_encoder", Network::ImageEncoder, wan, "");
        clip.push(Tensor { name: "textual.x".into(), dtype: "F32", dims: vec![1], bytes: vec![0; 4] });
        write(&file, clip);
        copy(name, "image_encoder/config.json", &file.with_extension("json"));
        copy(name, "image_processor/preprocessor_config.json", &root.join("preprocessor_config.json"));
    }
}

/// ComfyUI's folders; gives the transformer's file.
fn comfy(name: &str, root: &Path, prefix: &str) -> PathBuf {
    let pair = pipeline(name).join("transformer_2").exists();
    let file = |side: &str| root.join(format!("diffusion_models/wan/wan2.2_{side}noise_14B.safetensors"));
    let sides = if pair { &[("transformer", "high_"), ("transformer_2", "low_")][..] } else { &[("transformer", "")] };
    for (folder, side) in sides {
        write(&file(side), tensors(name, folder, Network::Transformer, Layout::Wan, prefix));
        authors_config(name, folder, &root.join("diffusion_models/wan/config.json"));
    }
    let text = tensors(name, "text_encoder", Network::TextEncoder, Layout::Diffusers, "");
    write(&root.join("text_encoders/umt5.safetensors"), text);
    tokenizer(name, &root.join("text_encoders"));
    write(&root.join("vae/wan_vae.safetensors"), tensors(name, "vae", Network::Vae, Layout::Wan, ""));
    copy(name, "vae/config.json", &root.join("vae/config.json"));
    if pipeline(name).join("image_encoder").exists() {
        let clip = tensors(name, "image_encoder", Network::ImageEncoder, Layout::Diffusers, "vision_model.");
        write(&root.join("clip_vision/clip_vision_h.safetensors"), clip);
        for file in ["image_encoder/config.json", "image_processor/preprocessor_config.json"] {
            copy(name, file, &root.join("clip_vision").join(file.rsplit('/').next().expect("a name")));
        }
    }
    // Another model's file in the same folders.
    let other = Tensor { name: "double_blocks.0.x".into(), dtype: "F32", dims: vec![1], bytes: vec![0; 4] };
    write(&root.join("diffusion_models/flux.safetensors"), vec![other]);
    std::fs::write(root.join("vae/broken.safetensors"), b"no tensors").expect("written");
    file(sides[0].1)
}

/// A request that no default decides, with the frames that a golden case knows.
pub(crate) fn asked(golden: &Golden, case: &Value) -> Request {
    let request = request(case, Precision::F32);
    let known = if case["known"].is_array() { known(golden, case) } else { Vec::new() };
    let sampler = Some(text(case, "sampler").parse().expect("a sampler"));
    Request { known, steps: Some(2), sampler, shift: case["shift"].as_f64(), ..request }
}

pub(crate) fn open(files: &ModelFiles) -> Model {
    Model::open_files(files).unwrap_or_else(|e| panic!("{files:?}: {e}"))
}

/// What a model makes: its latents, as bits, and its frames.
pub(crate) fn made(engine: &Engine, model: &Model, request: &Request) -> (Vec<u32>, Vec<Frame>) {
    let (video, frames) = engine.generate_frames(model, request).unwrap_or_else(|e| panic!("{e}"));
    (video.latents.to_f32().into_iter().map(f32::to_bits).collect(), frames)
}

/// The first case of each golden pipeline that has to be asked for pictures or not.
fn cases<'g>(goldens: &'g [Golden]) -> Vec<(&'g str, &'g Golden, &'g Value)> {
    let first = |golden: &'g Golden, name: &str| golden.list("cases").iter().find(|case| case["pipeline"] == name);
    let of = |name: &'static str| {
        let found = goldens.iter().find_map(|golden| Some((name, golden, first(golden, name)?)));
        found.unwrap_or_else(|| panic!("no case of {name}"))
    };
    // Two residual blocks and one, sharded bf16; the residual VAE; two transformers; CLIP for one picture and for two; VACE;
    // two transformers that see no picture.
    ["a", "b", "d", "e", "f", "g", "h", "i"].map(of).into()
}

#[test]
fn every_layout_gives_the_latents_and_frames_of_diffusers_folder() {
    let goldens = ["pipelines", "known", "vace", "experts"].map(Golden::open);
    let engine = Engine::on(gpu());
    for (name, golden, case) in cases(&goldens) {
        let request = asked(golden, case);
        let expected = made(&engine, &open(&ModelFiles::new(pipeline(name))), &request);
        let folder = tempfile::tempdir().expect("a folder");
        let (authors_root, comfy_root) = (folder.path().join("Wan"), folder.path().join("models"));
        authors(name, &authors_root);
        let file = comfy(name, &comfy_root, if name == "a" { "model.diffusion_model." } else { "" });
        let mixed = ModelFiles {
            model: Some(pipeline(name)),
            vae: Some(comfy_root.join("vae/wan_vae.safetensors")),
            text_encoder: Some(authors_root.join("models_t5_umt5-xxl-enc-bf16.safetensors")),
            ..ModelFiles::default()
        };
        let ways = [
            ("the authors' folder", ModelFiles::new(&authors_root)),
            ("ComfyUI's folder", ModelFiles::new(&comfy_root)),
            ("a single file", ModelFiles::new(&file)),
            ("a mix", mixed),
        ];
        for (way, files) in ways {
            let model = open(&files);
            assert_eq!(model.conditioning(), open(&ModelFiles::new(pipeline(name))).conditioning(), "{name}: {way}");
            assert!(made(&engine, &model, &request) == expected, "{name}: {way}: another video");
        }
    }
}

/// A text encoder of GGUF's names, a checkpoint with everything in it and a tokenizer within the text encoder's file.
#[test]
fn one_file_may_hold_all_and_a_tokenizer_lies_in_the_text_encoder() {
    let golden = Golden::open("pipelines");
    let case = golden.list("cases").iter().find(|case| case["pipeline"] == "a").expect("a case");
    let (engine, request) = (Engine::on(gpu()), asked(&golden, case));
    let expected = made(&engine, &open(&ModelFiles::new(pipeline("a"))), &request);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("all.safetensors");
    let mut all = tensors("a", "transformer", Network::Transformer, Layout::Wan, "model.diffusion_model.");
    let text = "text_encoders.umt5xxl.transformer.";
    all.extend(tensors("a", "text_encoder", Network::TextEncoder, Layout::Gguf, text));
    all.extend(tensors("a", "vae", Network::Vae, Layout::Wan, "vae."));
    let model = spiece();
    let spiece = |name: &str| Tensor { name: name.into(), dtype: "U8", dims: vec![model.len()], bytes: model.clone() };
    all.push(spiece("text_encoders.umt5xxl.spiece_model"));
    write(&file, all);
    // Beside one file for all there is one config for one of them: the others' in files of their own.
    authors_config("a", "transformer", &folder.path().join("config.json"));
    copy("a", "vae/config.json", &file.with_extension("json"));
    assert!(made(&engine, &open(&ModelFiles::new(&file)), &request) == expected);

    // Without the tokenizer it says so.
    let mut rest = tensors("a", "transformer", Network::Transformer, Layout::Wan, "");
    rest.extend(tensors("a", "vae", Network::Vae, Layout::Diffusers, "vae."));
    let lone = tempfile::tempdir().expect("a folder");
    let file = lone.path().join("part.safetensors");
    write(&file, rest);
    authors_config("a", "transformer", &lone.path().join("config.json"));
    let error = Model::open(&file).expect_err("half a model");
    let words = error.to_string();
    assert!(matches!(error, Error::Model { .. }), "{words}");
    for word in ["--text-encoder", "--tokenizer", "transformer in", "vae in"] {
        assert!(words.contains(word), "{word}: {words}");
    }
}

/// The vocabulary of golden pipeline `a` as SentencePiece writes it.
fn spiece() -> Vec<u8> {
    let json = std::fs::read(pipeline("a").join("tokenizer/tokenizer.json")).expect("read");
    let json: Value = serde_json::from_slice(&json).expect("JSON");
    let field = |number: u8, bytes: &[u8]| {
        let mut length = Vec::new();
        let mut left = bytes.len();
        while left >= 0x80 {
            length.push(left as u8 | 0x80);
            left >>= 7;
        }
        length.push(left as u8);
        [&[number << 3 | 2], &length[..], bytes].concat()
    };
    let pieces = json["model"]["vocab"].as_array().expect("pieces").iter().enumerate().flat_map(|(i, piece)| {
        let score = piece[1].as_f64().expect("a score") as f32;
        let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
        let kind = if i < 3 { 3 } else { 1 };
        field(1, &[field(1, piece[0].as_str().expect("text").as_bytes()), score, vec![3 << 3, kind]].concat())
    });
    // A Unigram model (1), whose unknown token (field 40) is 2, and which normalises nothing.
    pieces.chain(field(2, &[3 << 3, 1, 0xc0, 0x02, 2])).chain(field(3, &field(1, b"identity"))).collect()
}

/// A value of float8_e4m3fn, which the low bits of a sum would not reach.
fn to_fp8(value: f32) -> u8 {
    let target = value.abs().min(448.0);
    let value_of = |bits: u8| {
        let (exponent, mantissa) = (i32::from(bits >> 3), f32::from(bits & 7));
        if exponent == 0 { mantissa * 2f32.powi(-9) } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) }
    };
    let nearest = (0..127u8).min_by(|&a, &b| (value_of(a) - target).abs().total_cmp(&(value_of(b) - target).abs()));
    nearest.expect("some") | if value < 0.0 { 0x80 } else { 0 }
}

/// How a file scales weights of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scales {
    None,
    Old,
    New,
}

/// The transformer of pipeline `a` with its large matrices in fp8.
fn in_fp8(scales: Scales) -> Vec<Tensor> {
    let mut found = Vec::new();
    for tensor in tensors("a", "transformer", Network::Transformer, Layout::Wan, "") {
        let layer = tensor
            .name
            .strip_suffix(".weight")
            .filter(|_| tensor.name.contains("attn.") || tensor.name.contains("ffn"));
        let Some(layer) = layer.filter(|_| tensor.dims.len() == 2) else {
            found.push(tensor);
            continue;
        };
        let values: Vec<f32> =
            tensor.bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
        let scale = if scales == Scales::None { 1.0 } else { values.iter().fold(0f32, |m, v| m.max(v.abs())) / 448.0 };
        let number = |name: String| Tensor { name, dtype: "F32", dims: vec![], bytes: scale.to_le_bytes().to_vec() };
        match scales {
            Scales::None => {}
            Scales::Old => {
                found.extend([number(format!("{layer}.scale_weight")), number(format!("{layer}.scale_input"))])
            }
            Scales::New => {
                let format = br#"{"format": "float8_e4m3fn"}"#.to_vec();
                let name = format!("{layer}.comfy_quant");
                found.push(number(format!("{layer}.weight_scale")));
                found.push(Tensor { name, dtype: "U8", dims: vec![format.len()], bytes: format });
            }
        }
        let bytes = values.iter().map(|value| to_fp8(value / scale)).collect();
        found.push(Tensor { dtype: "F8_E4M3", bytes, ..tensor });
    }
    if scales == Scales::Old {
        found.push(Tensor { name: "scaled_fp8".into(), dtype: "F8_E4M3", dims: vec![0], bytes: vec![] });
    }
    found
}

#[test]
fn scaled_fp8_is_read_in_both_conventions_and_others_are_refused_by_name() {
    let golden = Golden::open("pipelines");
    let case = golden.list("cases").iter().find(|case| case["pipeline"] == "a").expect("a case");
    let (engine, request) = (Engine::on(gpu()), asked(&golden, case));
    let folder = tempfile::tempdir().expect("a folder");
    authors_config("a", "transformer", &folder.path().join("config.json"));
    let with = |name: &str, tensors: Vec<Tensor>| {
        let file = folder.path().join(name);
        write(&file, tensors);
        ModelFiles { transformer: Some(file), ..ModelFiles::new(pipeline("a")) }
    };
    let run = |name: &str, tensors: Vec<Tensor>| {
        let (video, _) =
            engine.generate_frames(&open(&with(name, tensors)), &request).unwrap_or_else(|e| panic!("{name}: {e}"));
        video.latents.to_f64()
    };
    let plain = run("f32.safetensors", tensors("a", "transformer", Network::Transformer, Layout::Wan, ""));
    let old = run("old.safetensors", in_fp8(Scales::Old));
    let new = run("new.safetensors", in_fp8(Scales::New));
    let none = run("none.safetensors", in_fp8(Scales::None));
    assert!(old == new, "the conventions say the same");
    let (scaled, unscaled) = (distance(&old, &plain), distance(&none, &plain));
    println!("fp8: latents {scaled:.1e} from f32 with scales, {unscaled:.1e} without");
    // 8 bits are 3 of mantissa; what ignores a scale is nowhere near.
    assert!(scaled < 0.2 && unscaled < 0.2, "{scaled:e} {unscaled:e}");

    // In a file of the older convention a weight may have no scale.
    let mut bare = in_fp8(Scales::Old);
    bare.retain(|tensor| !tensor.name.starts_with("blocks.0.ffn.0.scale_"));
    open(&with("bare.safetensors", bare));
    let mut cut = in_fp8(Scales::New);
    cut.retain(|tensor| tensor.name != "blocks.0.ffn.0.weight_scale");
    let error = Model::open_files(&with("cut.safetensors", cut)).expect_err("no scale").to_string();
    assert!(error.contains("`blocks.0.ffn.0.weight`") && error.contains("`weight_scale` is missing"), "{error}");

    for (mark, says) in [
        (("blocks.0.ffn.0.comfy_quant", "U8", &br#"{"format": "nvfp4"}"#[..]), "nvfp4"),
        (("blocks.0.ffn.0.comfy_quant", "U8", br#"{"format": "float8_e4m3fn", "convrot": true}"#), "`convrot`"),
        (("blocks.0.ffn.0.comfy_quant", "U8", br#"{"format": "float8_e4m3fn", "group_size": 64}"#), "`group_size`"),
        (("blocks.0.ffn.0.comfy_quant", "U8", br#"{"full_precision_matrix_mult": true}"#), "`format`"),
        (
            ("blocks.0.ffn.0.comfy_quant", "U8", br#"{"format": "float8_e4m3fn", "full_precision_matrix_mult": true}"#),
            "tensor `blocks.0.ffn.0.weight`: it is said to be quantised, and its `weight_scale` is missing",
        ),
        (("blocks.0.ffn.0.weight.absmax", "U8", &[0][..]), "bitsandbytes"),
        (("blocks.0.ffn.0.qweight", "U8", &[0][..]), "GPTQ"),
        (("blocks.0.ffn.0.scale_weight", "F32", &[0; 8][..]), "one scale"),
    ] {
        let ((name, dtype, bytes), mut all) =
            (mark, tensors("a", "transformer", Network::Transformer, Layout::Wan, ""));
        let dims = vec![if dtype == "F32" { bytes.len() / 4 } else { bytes.len() }];
        all.push(Tensor { name: name.into(), dtype, dims, bytes: bytes.to_vec() });
        let error = Model::open_files(&with("odd.safetensors", all)).expect_err(says).to_string();
        assert!(error.contains(says) && error.contains("odd.safetensors"), "{error}");
    }
}

#[test]
fn what_is_missing_or_twofold_is_said_with_the_option_that_helps() {
    let folder = tempfile::tempdir().expect("a folder");
    comfy("a", folder.path(), "");
    let second = folder.path().join("diffusion_models/second.safetensors");
    write(&second, tensors("a", "transformer", Network::Transformer, Layout::Wan, ""));
    let error = Model::open(folder.path()).expect_err("two transformers").to_string();
    assert!(error.contains("2 files of a transformer") && error.contains("--transformer"), "{error}");
    let named =
        ModelFiles { transformer: Some(folder.path().join("diffusion_models/wan")), ..ModelFiles::new(folder.path()) };
    open(&named);
    std::fs::remove_dir_all(folder.path().join("vae")).expect("removed");
    let error = Model::open_files(&named).expect_err("no VAE").to_string();
    assert!(error.contains("the VAE is missing: give it with --vae"), "{error}");
    let wrong = ModelFiles { vae: Some(second), ..named };
    let error = Model::open_files(&wrong).expect_err("no VAE").to_string();
    assert!(error.contains("no VAE for --vae") && error.contains("transformer"), "{error}");
}

#[test]
fn inspection_knows_what_it_is_and_what_is_wrong_with_it() {
    let folder = tempfile::tempdir().expect("a folder");
    comfy("d", folder.path(), "");
    std::fs::write(folder.path().join("LICENSE.txt"), "Apache").expect("written");
    let found = Inspection::of(&ModelFiles::new(folder.path())).unwrap_or_else(|e| panic!("{e}"));
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let roles: Vec<(&str, Layout)> = found.parts.iter().map(|part| (part.role, part.layout)).collect();
    assert_eq!(roles, [("transformer", Layout::Wan), ("text_encoder", Layout::Diffusers), ("vae", Layout::Wan)]);
    assert_eq!(found.licences, [folder.path().join("LICENSE.txt")]);
    let others: Vec<&str> = found.others.iter().filter_map(|(path, _)| path.file_name()?.to_str()).collect();
    assert_eq!(others, ["flux.safetensors", "broken.safetensors"]);
    let run = found.run.as_ref().expect("it is whole");
    // No index says it, but only TI2V-5B has this VAE.
    assert!(run.inputs.contains(&"--image"), "{:?}", run.inputs);
    assert_eq!(
        (run.defaults.steps, run.defaults.negative.as_str()),
        (50, ""),
        "no model of Wan's: diffusers' defaults"
    );
    let model = open(&ModelFiles::new(folder.path()));
    assert_eq!(found.bytes(), model.bytes());
    for part in &found.parts {
        let groups: u64 = part.groups().iter().map(|group| group.bytes).sum();
        assert_eq!((groups, part.settings.is_some()), (part.bytes(), true));
    }
    // A config of another model beside it.
    let config = folder.path().join("diffusion_models/wan/config.json");
    let wrong = std::fs::read_to_string(&config).expect("read").replace("\"num_layers\":2", "\"num_layers\":30");
    std::fs::write(&config, wrong).expect("written");
    let found = Inspection::of(&ModelFiles::new(folder.path())).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        found.parts[0].corrections.iter().any(|text| text.contains("`num_layers` is 30")),
        "{:?}",
        found.parts[0].corrections
    );
    open(&ModelFiles::new(folder.path()));
    std::fs::remove_file(&config).expect("removed");
    let found = Inspection::of(&ModelFiles::new(folder.path())).unwrap_or_else(|e| panic!("{e}"));
    assert!(found.problems.iter().any(|text| text.contains("num_attention_heads")), "{:?}", found.problems);
}
