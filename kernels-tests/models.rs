//! The networks against diffusers and transformers: golden -> twins (in f64, on the host) -> the device.

use std::collections::BTreeMap;
use std::ops::Range;

use mutoscope::graph::{Bindings, Graph, NodeKind, Recording, TensorType, Twin, interpret};
use mutoscope::media::Frame;
use mutoscope::models::clip_vision::ClipVision;
use mutoscope::models::umt5::Umt5;
use mutoscope::models::wan_transformer::{Conditions, WanTransformer};
use mutoscope::models::wan_vae::{WanVaeDecoder, WanVaeEncoder};
use mutoscope::nn::{FeedForward, Linear, Stream};
use mutoscope::pipeline::ImageProcessor;
use mutoscope::sampling::randn;
use mutoscope::tensor::{DType, HostTensor, Weight};
use mutoscope::text::{Tokenizer, prompt_clean};
use mutoscope::weights::Config;

use crate::device::gpu;
use crate::golden::{Golden, count, distance, pipeline, text};

/// Networks of a few layers add up the rounding of each: most cases are near 1e-6.
const NETWORK: f64 = 5e-5;

/// Runs a recording on the device; inputs by name, in the order of the recording.
pub(crate) fn run(recording: &Recording, inputs: &BTreeMap<String, HostTensor>) -> BTreeMap<String, Vec<f64>> {
    let program = gpu().compile(recording, &[]).unwrap_or_else(|e| panic!("{e}"));
    for (name, value) in inputs {
        program.write(name, value).unwrap_or_else(|e| panic!("{e}"));
    }
    program.run(&mut |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
    let read = |name: &str| program.read(name).unwrap_or_else(|e| panic!("{e}")).to_f64();
    recording.outputs.iter().map(|(name, _)| (name.to_string(), read(name))).collect()
}

/// The same by twins.
fn run_twins(recording: &Recording, inputs: &BTreeMap<String, HostTensor>) -> BTreeMap<String, Vec<f64>> {
    let mut bindings: Bindings = inputs.iter().map(|(name, value)| (name.clone(), Twin::from(value))).collect();
    let values = interpret(recording, &mut bindings).unwrap_or_else(|e| panic!("{e}"));
    recording.outputs.iter().map(|(name, id)| (name.to_string(), values[*id].values.clone())).collect()
}

/// Makes the last operation of each scope named `PREFIX.N` an output of that name.
pub(crate) fn expose(recording: &mut Recording, prefix: &str) {
    let mut last = BTreeMap::new();
    for (id, node) in recording.nodes.iter().enumerate() {
        if matches!(node.kind, NodeKind::Op { .. }) && node.scope.starts_with(prefix) {
            last.insert(node.scope.clone(), id);
        }
    }
    recording.outputs.extend(last);
}

/// One item of a batch.
fn item(tensor: &HostTensor, index: usize) -> HostTensor {
    tensor.rows(index..index + 1).expect("an item of the batch")
}

/// Many tokens go through the blocks text by text, few all together: either way each text has its own velocity.
#[test]
fn texts_do_not_meet_in_the_transformer() {
    let model = WanTransformer::open(&pipeline("a").join("transformer")).expect("a transformer");
    for (rows, columns) in [(4, 6), (92, 96)] {
        let latents = randn([1, 16, 1, rows, columns], 1);
        let states = [randn([1, 5, model.text_dim()], 2), randn([1, 5, model.text_dim()], 3)];
        let both: Vec<f32> = states.iter().flat_map(HostTensor::to_f32).collect();
        let both = HostTensor::from_f32([2, 5, model.text_dim()], &both);
        let velocities = |text: &HostTensor| {
            let batch = text.shape()[0];
            let graph = Graph::new();
            let blocks = model.contexts(graph.constant(text.clone()), None, DType::F32);
            let key_bias = graph.constant(HostTensor::from_f32([batch, 5], &vec![0.0; batch * 5]));
            let time = graph.constant(HostTensor::from_f32([1], &[700.0]));
            let given = Conditions { blocks, key_bias, control: None };
            let answers = model.forward(graph.constant(latents.clone()), time, &given, DType::F32);
            for (b, answer) in answers.iter().enumerate() {
                graph.output(&format!("{b}"), *answer);
            }
            let recording = graph.finish().unwrap_or_else(|e| panic!("{e}"));
            let outputs = run(&recording, &BTreeMap::new());
            (0..batch).map(|b| outputs[&format!("{b}")].clone()).collect::<Vec<_>>()
        };
        let together = velocities(&both);
        let alone = states.each_ref().map(velocities);
        for (b, alone) in alone.iter().enumerate() {
            let error = distance(&together[b], &alone[0]);
            println!("{rows}x{columns} text {b}: {error:.1e}");
            assert!(error < 1e-5, "{rows}x{columns} text {b}: {error:e}");
        }
        assert!(distance(&together[0], &together[1]) > 1e-3, "the texts tell");
    }
}

#[test]
fn transformer_blocks_and_velocity() {
    let golden = Golden::open("transformer");
    for case in golden.list("cases") {
        let model = WanTransformer::open(&pipeline(text(case, "pipeline")).join("transformer")).expect("a transformer");
        let (rows, padded) = (count(case, "rows"), count(case, "text_length"));
        for b in 0..count(case, "batch") {
            let states = item(&golden.tensor(case, "text"), b);
            let (states, bias) = with_padding(&states, rows, padded);
            let time = case["timestep"][b].as_f64().expect("a timestep") as f32;
            let latents = item(&golden.tensor(case, "latents"), b);

            let graph = Graph::new();
            let context = model.contexts(graph.input("text", states.shape(), DType::F32), None, DType::F32);
            let context =
                Conditions { blocks: context, key_bias: graph.input("bias", bias.shape(), DType::F32), control: None };
            let input = graph.input("latents", latents.shape(), DType::F32);
            let velocity = model.forward(input, graph.input("time", [1], DType::F32), &context, DType::F32);
            graph.output("output", velocity[0]);
            let mut recording = graph.finish().unwrap_or_else(|e| panic!("{e}"));
            expose(&mut recording, "blocks.");
            let inputs = BTreeMap::from([
                ("text".to_owned(), states),
                ("bias".to_owned(), bias),
                ("latents".to_owned(), latents),
                ("time".to_owned(), HostTensor::from_f32([1], &[time])),
            ]);
            let (twin, device) = (run_twins(&recording, &inputs), run(&recording, &inputs));
            assert_eq!(twin.len(), 1 + count(case, "blocks"), "every block is compared");
            for (name, values) in &twin {
                let name = name.replace("blocks", "block");
                let want = item(&golden.tensor(case, &name), b).to_f64();
                let (twin, device) =
                    (distance(values, &want), distance(&device[&name.replace("block", "blocks")], &want));
                println!("{} item {b} {name}: twin {twin:.1e} device {device:.1e}", text(case, "key"));
                assert!(twin < NETWORK && device < NETWORK, "{name}: twin {twin:e}, device {device:e}");
            }
        }
    }
}

/// Text states \[1, rows, E\] and key bias as the pipeline makes them for `padded` rows in all.
pub(crate) fn with_padding(states: &HostTensor, rows: usize, padded: usize) -> (HostTensor, HostTensor) {
    let dim = states.shape().last();
    let (mut values, mut bias) = (states.to_f32(), vec![0f32; rows]);
    if padded > rows {
        values.extend(vec![0f32; dim]);
        bias.push(((padded - rows) as f32).ln());
    }
    let rows = bias.len();
    (HostTensor::from_f32([1, rows, dim], &values), HostTensor::from_f32([1, rows], &bias))
}

#[test]
fn umt5_states() {
    let golden = Golden::open("umt5");
    for case in golden.list("cases") {
        let folder = pipeline(text(case, "pipeline"));
        let tokenizer = Tokenizer::open(folder.join("tokenizer")).unwrap_or_else(|e| panic!("{e}"));
        let encoder = Umt5::open(&folder.join("text_encoder")).unwrap_or_else(|e| panic!("{e}"));
        let clean = prompt_clean(text(case, "prompt"));
        assert_eq!(clean, text(case, "clean"));
        let ids = tokenizer.encode(&clean).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ids.len(), count(case, "tokens"), "{}", text(case, "key"));

        let graph = Graph::new();
        let states = encoder.forward(&graph, &ids).unwrap_or_else(|e| panic!("{e}"));
        graph.output("states", states);
        let recording = graph.finish().unwrap_or_else(|e| panic!("{e}"));
        let (stride, dim) = (count(case, "stride"), encoder.dim());
        let want = golden.tensor(case, "states").to_f64();
        let strided = |all: &[f64]| all.chunks(dim).step_by(stride).flatten().copied().collect::<Vec<f64>>();
        let device = run(&recording, &BTreeMap::new());
        let error = distance(&strided(&device["states"]), &want);
        println!("{} {} tokens: device {error:.1e}", text(case, "key"), ids.len());
        assert!(error < NETWORK, "{}: device {error:e}", text(case, "key"));
        if ids.len() <= 64 {
            let twin = run_twins(&recording, &BTreeMap::new());
            let error = distance(&strided(&twin["states"]), &want);
            assert!(error < NETWORK, "{}: twin {error:e}", text(case, "key"));
        }
    }
}

#[test]
fn clip_states() {
    let golden = Golden::open("clip");
    for case in golden.list("cases") {
        let folder = pipeline(text(case, "pipeline"));
        let config = Config::open(folder.join("image_processor/preprocessor_config.json"));
        let processor = config.and_then(|config| ImageProcessor::read(&config)).unwrap_or_else(|e| panic!("{e}"));
        let shown = golden.tensor(case, "picture");
        let [height, width] = [0, 1].map(|axis| shown.shape()[axis] as u32);
        let shown =
            Frame::new(width, height, shown.to_f32().into_iter().map(|v| v as u8).collect()).expect("a picture");
        let made = processor.pixels(&shown).unwrap_or_else(|e| panic!("{e}"));
        let error = distance(&made.to_f64(), &golden.tensor(case, "pixels").to_f64());
        assert!(error < 1e-7, "{}: pixels {error:e}", text(case, "key"));

        let encoder = ClipVision::open(&folder.join("image_encoder")).unwrap_or_else(|e| panic!("{e}"));
        let pixels = golden.tensor(case, "pixels");
        let graph = Graph::new();
        graph.output("states", encoder.forward(graph.input("pixels", pixels.shape(), DType::F32)));
        let recording = graph.finish().unwrap_or_else(|e| panic!("{e}"));
        let inputs = BTreeMap::from([("pixels".to_owned(), pixels)]);
        let want = golden.tensor(case, "states").to_f64();
        let (twin, device) = (run_twins(&recording, &inputs), run(&recording, &inputs));
        let (twin, device) = (distance(&twin["states"], &want), distance(&device["states"], &want));
        println!("{}: twin {twin:.1e} device {device:.1e}", text(case, "key"));
        assert!(twin < NETWORK && device < NETWORK, "{}: twin {twin:e}, device {device:e}", text(case, "key"));
    }
}

/// A chunk's recording, and the frames that its layers remember.
type Chunk = (Recording, Vec<(String, TensorType)>);

/// Runs chunks of a video through the VAE, the first by another recording than the rest: what comes out by twins, and on
/// the device.
fn through(record: impl Fn(bool) -> Chunk, chunks: &[HostTensor], name: &str) -> (Vec<f64>, Vec<f64>) {
    let ((first, _), (next, states)) = (record(true), record(false));
    let gpu = gpu();
    let memory: Vec<_> = states
        .iter()
        .map(|(name, ty)| {
            let tensor = gpu.allocate(name, *ty).expect("memory");
            gpu.clear(&tensor).expect("cleared");
            (name.as_str(), tensor)
        })
        .collect();
    let zeros = |ty: &TensorType| Twin { shape: ty.shape, values: vec![0.0; ty.shape.count()] };
    let mut remembered: Bindings = states.iter().map(|(name, ty)| (name.clone(), zeros(ty))).collect();
    let compile = |recording: &Recording| {
        let bound: Vec<_> = memory.iter().map(|(name, tensor)| (*name, tensor)).collect();
        gpu.compile(recording, &bound).unwrap_or_else(|e| panic!("{e}"))
    };
    let (first_program, next_program) = (compile(&first), compile(&next));
    let (mut twin, mut device) = (Vec::new(), Vec::new());
    for (i, chunk) in chunks.iter().enumerate() {
        let (recording, program) = if i == 0 { (&first, &first_program) } else { (&next, &next_program) };
        program.write(name, chunk).expect("written");
        program.run(&mut |_| Ok(())).expect("run");
        device.extend(program.read("result").expect("read").to_f64());
        remembered.insert(name.into(), Twin::from(chunk));
        let nodes = interpret(recording, &mut remembered).expect("interpreted");
        twin.extend(nodes[recording.outputs[0].1].values.clone());
    }
    (twin, device)
}

/// Frames `range` of [1, C, T, H, W] as [t, H, W, C].
pub(crate) fn frames_last(video: &HostTensor, range: Range<usize>) -> HostTensor {
    let [channels, all, rows, columns] = [1, 2, 3, 4].map(|axis| video.shape()[axis]);
    let (plane, values) = (rows * columns, video.to_f32());
    let of_frame = |t: usize| (0..plane).flat_map(move |i| (0..channels).map(move |c| (c * all + t) * plane + i));
    let picked: Vec<f32> = range.clone().flat_map(of_frame).map(|i| values[i]).collect();
    HostTensor::from_f32([range.len(), rows, columns, channels], &picked)
}

/// More tokens than go through a feed-forward layer at once, in both types of products, under one gate and one a frame.
#[test]
fn feed_forward_goes_in_runs_of_tokens() {
    let [tokens, channels, hidden] = [8_400, 8, 24];
    let weight = |dims: &[usize], seed: u64| Weight::new("of a layer", randn(dims, seed));
    let layer = |n: usize, k: usize| Linear::new(weight(&[n, k], n as u64), Some(weight(&[n], k as u64)));
    let feed_forward = FeedForward::new(layer(hidden, channels), layer(channels, hidden));
    let halves = gpu().profile().f16.then_some((21, DType::F16, 2e-3));
    for (gates, compute, bound) in [(1, DType::F32, 1e-5), (21, DType::F32, 1e-5)].into_iter().chain(halves) {
        let graph = Graph::new();
        let residual = graph.constant(randn([1, tokens, channels], 1));
        let gate = graph.constant(randn([gates, channels], 2));
        let x = graph.constant(randn([1, tokens, channels], 3)).cast(compute);
        graph.output("result", feed_forward.gated_add_to(residual, gate, x));
        let recording = graph.finish().expect("a graph");
        let longest =
            recording.nodes.iter().filter(|node| node.ty.shape.last() == hidden).map(|node| node.ty.shape.rows());
        assert!(longest.max().expect("a product") < tokens, "all tokens at once");
        let nothing = BTreeMap::new();
        let (got, wanted) = (&run(&recording, &nothing)["result"], &run_twins(&recording, &nothing)["result"]);
        let error = distance(got, wanted);
        println!("{gates} gates, {compute}: {error:.1e}");
        assert!(error <= bound, "{gates} gates, {compute}: off by {error:e}");
    }
}

#[test]
fn vae_decodes_chunk_by_chunk() {
    let golden = Golden::open("vae");
    for case in golden.list("decode") {
        let vae = WanVaeDecoder::open(&pipeline(text(case, "pipeline")).join("vae")).unwrap_or_else(|e| panic!("{e}"));
        let latents = golden.tensor(case, "latents");
        let [channels, frames, rows, columns] = [1, 2, 3, 4].map(|axis| latents.shape()[axis]);
        let record = |first: bool| {
            let graph = Graph::new();
            let stream = Stream::new(&graph);
            let z = graph.input("latents", [1, rows, columns, channels], DType::F32);
            graph.output("result", vae.forward(z, first, &stream));
            let states = stream.into_states();
            (graph.finish().unwrap_or_else(|e| panic!("{e}")), states)
        };
        let chunks: Vec<HostTensor> = (0..frames).map(|f| frames_last(&latents, f..f + 1)).collect();
        let (twin, device) = through(record, &chunks, "latents");
        let video = golden.tensor(case, "video");
        let want = frames_last(&video, 0..video.shape()[2]).to_f64();
        let clamped = |pixels: &[f64]| pixels.iter().map(|v| v.clamp(-1.0, 1.0)).collect::<Vec<f64>>();
        let (twin, device) = (distance(&clamped(&twin), &want), distance(&clamped(&device), &want));
        println!("{}: twin {twin:.1e} device {device:.1e}", text(case, "key"));
        assert!(twin < NETWORK && device < NETWORK, "{}: twin {twin:e}, device {device:e}", text(case, "key"));
    }
}

#[test]
fn vae_encodes_chunk_by_chunk() {
    let golden = Golden::open("vae");
    for case in golden.list("encode") {
        let vae = WanVaeEncoder::open(&pipeline(text(case, "pipeline")).join("vae")).unwrap_or_else(|e| panic!("{e}"));
        let video = golden.tensor(case, "video");
        let [frames, rows, columns] = [2, 3, 4].map(|axis| video.shape()[axis]);
        let record = |first: bool| {
            let graph = Graph::new();
            let stream = Stream::new(&graph);
            let pixels = graph.input("pixels", [if first { 1 } else { 4 }, rows, columns, 3], DType::F32);
            graph.output("result", vae.forward(pixels, first, &stream));
            let states = stream.into_states();
            (graph.finish().unwrap_or_else(|e| panic!("{e}")), states)
        };
        let ends = (0..frames).step_by(4);
        let chunks: Vec<HostTensor> = ends.map(|end| frames_last(&video, end.saturating_sub(3)..end + 1)).collect();
        let (twin, device) = through(record, &chunks, "pixels");
        let mean = golden.tensor(case, "mean");
        let want = frames_last(&mean, 0..mean.shape()[2]).to_f64();
        let (twin, device) = (distance(&twin, &want), distance(&device, &want));
        println!("{}: twin {twin:.1e} device {device:.1e}", text(case, "key"));
        assert!(twin < NETWORK && device < NETWORK, "{}: twin {twin:e}, device {device:e}", text(case, "key"));
    }
}
