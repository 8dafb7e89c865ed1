//! Every network at its real width, one layer of each, against diffusers and transformers (`goldens/sizes.*`). The weights,
//! 1.8 billion in all, are made from their names by the same integer hash on both sides.

use std::collections::BTreeMap;
use std::time::Instant;

use mutoscope::graph::{Graph, Recording};
use mutoscope::models::clip_vision::{ClipVision, ClipVisionConfig};
use mutoscope::models::umt5::{Umt5, Umt5Config};
use mutoscope::models::wan_transformer::{Conditions, WanTransformer, WanTransformerConfig};
use mutoscope::models::wan_vae::{WanVaeConfig, WanVaeDecoder, WanVaeEncoder};
use mutoscope::nn::Stream;
use mutoscope::tensor::{Bytes, DType, HostTensor};
use mutoscope::weights::{Archive, Config};
use serde_json::{Value, json};

use crate::device::gpu;
use crate::golden::{Golden, count, distance, text};
use crate::models::{expose, frames_last, run, with_padding};

/// Sums of 14 thousand products, in f32 on either side.
const LAYER: f64 = 2e-5;

/// CRC-32 (ISO 3309), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

/// Random bits that a name stands for.
pub(crate) fn hash(name: &str) -> impl Fn(usize) -> u32 + use<> {
    let seed = crc32(name.as_bytes());
    move |i| {
        let mut h = (i as u32).wrapping_mul(0x9e37_79b1).wrapping_add(seed);
        for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)] {
            h = (h ^ (h >> shift)).wrapping_mul(factor);
        }
        h ^ (h >> 16)
    }
}

/// Values from -1 to 1 that a name stands for.
fn noise(name: &str) -> impl Fn(usize) -> f32 + use<> {
    let hash = hash(name);
    move |i| (hash(i) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// To the nearest bf16, ties to even.
fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    (((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16).to_le_bytes()
}

/// The elements of a weight of a name and a shape, in bf16.
pub(crate) fn elements(name: &str, shape: &[usize]) -> Vec<u8> {
    let fan_in = shape.iter().skip(1).product::<usize>();
    let weight = name.ends_with("weight");
    let gain = name.ends_with("gamma") || (weight && shape.len() == 1);
    let factor = if weight && !gain { (3.0 / fan_in as f64).sqrt() as f32 } else { 0.3 };
    let (value, base) = (noise(name), if gain { 1.0 } else { 0.0 });
    (0..shape.iter().product()).flat_map(|i| bf16(value(i) * factor + base)).collect()
}

/// The tensors of a case as a safetensors file in memory, in bf16.
fn archive(case: &Value) -> Archive {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in case["tensors"].as_array().expect("a list of tensors") {
        let (name, shape) = (tensor[0].as_str().expect("a name"), tensor[1].as_array().expect("a shape"));
        let shape: Vec<usize> = shape.iter().map(|dim| dim.as_u64().expect("a dimension") as usize).collect();
        let start = data.len();
        data.extend(elements(name, &shape));
        header.insert(name.into(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    Archive::from_parts("memory", [("model.safetensors", Bytes::from(bytes))]).unwrap_or_else(|e| panic!("{e}"))
}

fn given(name: &str, shape: &[usize]) -> HostTensor {
    let value = noise(&format!("input.{name}"));
    HostTensor::from_f32(shape, &(0..shape.iter().product()).map(|i| value(i) * 1.2).collect::<Vec<f32>>())
}

fn config(values: &Value) -> Config {
    Config::parse("config.json", &values.to_string()).expect("an object")
}

fn finish(graph: Graph) -> Recording {
    graph.finish().unwrap_or_else(|e| panic!("{e}"))
}

/// What comes out, by the names of the goldens, each flattened as PyTorch has it.
type Results = BTreeMap<String, Vec<f64>>;

fn transformer(golden: &Golden, case: &Value) -> Results {
    let archive = archive(case);
    let dim = archive.shape_of("patch_embedding.bias").expect("a bias")[0];
    let settings = json!({"num_attention_heads": dim / 128, "patch_size": [1, 2, 2]});
    let config = WanTransformerConfig::read(&config(&settings)).unwrap_or_else(|e| panic!("{e}"));
    let model = WanTransformer::load(&archive, config).unwrap_or_else(|e| panic!("{e}"));
    let rows = golden.number("text");
    let (states, bias) = with_padding(&given("text", &[1, rows, 4096]), rows, 512);
    let latents = given("latents", &[1, model.in_channels(), 2, 4, 4]);
    let graph = Graph::new();
    let pictures = model.image_dim().map(|dim| graph.constant(given("pictures", &[1, 5, dim])));
    let blocks = model.contexts(graph.constant(states), pictures, DType::F32);
    let conditions = Conditions { blocks, key_bias: graph.constant(bias), control: None };
    let time = graph.constant(HostTensor::from_f32([1], &[golden.number("time") as f32]));
    graph.output("velocity", model.forward(graph.constant(latents), time, &conditions, DType::F32)[0]);
    let mut recording = finish(graph);
    expose(&mut recording, "blocks.");
    let mut results = run(&recording, &BTreeMap::new());
    let block = results.remove("blocks.0").expect("a block");
    results.into_iter().chain([("block".to_owned(), block)]).collect()
}

fn umt5(golden: &Golden, case: &Value) -> Results {
    let config = Umt5Config::read(&config(&json!({"num_heads": 64}))).unwrap_or_else(|e| panic!("{e}"));
    let model = Umt5::load(&archive(case), config).unwrap_or_else(|e| panic!("{e}"));
    let graph = Graph::new();
    let ids: Vec<u32> = golden.list("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    graph.output("states", model.forward(&graph, &ids).unwrap_or_else(|e| panic!("{e}")));
    run(&finish(graph), &BTreeMap::new())
}

fn clip(case: &Value) -> Results {
    let settings = json!({"num_attention_heads": 16, "hidden_act": "gelu"});
    let config = ClipVisionConfig::read(&config(&settings)).unwrap_or_else(|e| panic!("{e}"));
    let model = ClipVision::load(&archive(case), config).unwrap_or_else(|e| panic!("{e}"));
    let graph = Graph::new();
    let pixels = given("pixels", &[1, 3, model.side(), model.side()]);
    graph.output("states", model.forward(graph.constant(pixels)));
    run(&finish(graph), &BTreeMap::new())
}

/// Runs chunks of a video through one half of a VAE: frames [T, H, W, C] as [C, T, H, W].
fn through(
    record: impl Fn(bool, [usize; 4]) -> (Recording, Vec<(String, mutoscope::graph::TensorType)>),
    chunks: &[HostTensor],
) -> Vec<f64> {
    let gpu = gpu();
    let (mut memory, mut frames) = (BTreeMap::new(), Vec::new());
    let mut shape = [0; 3];
    for (i, chunk) in chunks.iter().enumerate() {
        let (recording, states) = record(i == 0, [0, 1, 2, 3].map(|axis| chunk.shape()[axis]));
        for (name, ty) in states {
            memory.entry(name.clone()).or_insert_with(|| {
                let tensor = gpu.allocate(&name, ty).expect("memory");
                gpu.clear(&tensor).expect("cleared");
                tensor
            });
        }
        let bound: Vec<_> = memory.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let program = gpu.compile(&recording, &bound).unwrap_or_else(|e| panic!("{e}"));
        program.write("chunk", chunk).expect("written");
        program.run(&mut |_| Ok(())).expect("run");
        let result = program.read("result").expect("read");
        shape = [1, 2, 3].map(|axis| result.shape()[axis]);
        frames.extend(result.to_f64());
    }
    let [height, width, channels] = shape;
    let pixels = frames.len() / channels;
    assert!(pixels.is_multiple_of(height * width));
    (0..channels).flat_map(|c| (0..pixels).map(move |p| p * channels + c)).map(|at| frames[at]).collect()
}

fn vae(case: &Value, z: usize, settings: &Value) -> Results {
    let (archive, unit) = (archive(case), if settings["is_residual"] == true { 16 } else { 8 });
    let config = WanVaeConfig::read(&config(settings)).unwrap_or_else(|e| panic!("{e}"));
    let decoder = WanVaeDecoder::load(&archive, config.clone()).unwrap_or_else(|e| panic!("{e}"));
    let decode = |first: bool, shape: [usize; 4]| {
        let graph = Graph::new();
        let stream = Stream::new(&graph);
        graph.output("result", decoder.forward(graph.input("chunk", shape, DType::F32), first, &stream));
        let states = stream.into_states();
        (finish(graph), states)
    };
    let latents = given("latents", &[1, z, 2, 2, 3]);
    let video = through(decode, &[frames_last(&latents, 0..1), frames_last(&latents, 1..2)]);
    let encoder = WanVaeEncoder::load(&archive, config).unwrap_or_else(|e| panic!("{e}"));
    let encode = |first: bool, shape: [usize; 4]| {
        let graph = Graph::new();
        let stream = Stream::new(&graph);
        graph.output("result", encoder.forward(graph.input("chunk", shape, DType::F32), first, &stream));
        let states = stream.into_states();
        (finish(graph), states)
    };
    let pictures = given("video", &[1, 3, 5, 2 * unit, 3 * unit]);
    let mean = through(encode, &[frames_last(&pictures, 0..1), frames_last(&pictures, 1..5)]);
    let clamped = video.into_iter().map(|v| v.clamp(-1.0, 1.0)).collect();
    BTreeMap::from([("video".to_owned(), clamped), ("mean".to_owned(), mean)])
}

#[test]
fn networks_of_real_width() {
    let golden = Golden::open("sizes");
    for case in golden.list("cases") {
        let (key, began) = (text(case, "key"), Instant::now());
        let statistics = |z: usize, residual: bool| {
            let patch = if residual { 2 } else { 1 };
            json!({"latents_mean": vec![0.0; z], "latents_std": vec![1.0; z], "is_residual": residual, "patch_size": patch})
        };
        let results = match key {
            "umt5" => umt5(&golden, case),
            "clip" => clip(case),
            "vae_2.1" => vae(case, 16, &statistics(16, false)),
            "vae_2.2" => vae(case, 48, &statistics(48, true)),
            _ => transformer(&golden, case),
        };
        for (name, wanted) in case["results"].as_object().expect("results") {
            let got = &results[name];
            let shape: Vec<u64> =
                wanted["shape"].as_array().expect("a shape").iter().filter_map(Value::as_u64).collect();
            assert_eq!(got.len() as u64, shape.iter().product::<u64>(), "{key}.{name}");
            let strided: Vec<f64> = got.iter().step_by(count(wanted, "stride")).copied().collect();
            let error = distance(&strided, &golden.tensor(case, name).to_f64());
            println!("{key}.{name}: {error:.1e}, {:.1} s", began.elapsed().as_secs_f64());
            assert!(error < LAYER, "{key}.{name}: {error:e}");
        }
    }
}
