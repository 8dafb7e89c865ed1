//! Networks whose matrices are quantised, on the device, against the same networks with the values that those stand for.

use std::collections::BTreeMap;

use mutoscope::Error;
use mutoscope::gpu::Gpu;
use mutoscope::graph::{Graph, NodeKind, Recording};
use mutoscope::models::umt5::{Umt5, Umt5Config};
use mutoscope::models::wan_transformer::{Conditions, WanTransformer, WanTransformerConfig};
use mutoscope::sampling::randn;
use mutoscope::tensor::{DType, HostTensor, Shape};
use mutoscope::weights::{Archive, Config, Source};

use crate::device::gpu;
use crate::golden::{distance, pipeline};
use crate::memory::own;

/// Both networks multiply the same f32 values in the same order.
const SAME: f64 = 1e-5;
/// What quantisation itself changes, at least: less would mean that weights were not quantised.
const CHANGED: f64 = 1e-3;

/// Tensors by name.
pub(crate) type Tensors = BTreeMap<String, HostTensor>;

/// Normal values of a deviation.
fn normal(shape: Shape, seed: u64, deviation: f32) -> HostTensor {
    let values = randn(shape, seed).to_f32();
    HostTensor::from_f32(shape, &values.iter().map(|v| v * deviation).collect::<Vec<_>>())
}

/// A network of the goldens made wide enough for blocks of 256: its names, with features multiplied by 8 but for the
/// outermost dimension of `kept`, and random values under which every layer matters.
fn widened(archive: &Archive, kept: &[&str], features: &[usize]) -> Tensors {
    let wide = |dim: usize| if features.contains(&dim) { 8 * dim } else { dim };
    let tensors = archive.names().enumerate().map(|(i, name)| {
        let stored = archive.shape_of(name).expect("listed");
        let mut dims: Vec<usize> = stored.dims().iter().map(|&dim| wide(dim)).collect();
        if kept.contains(&name) {
            dims[0] = stored[0];
        }
        let shape = Shape::new(&dims);
        let gain = name.contains("norm") && name.ends_with("weight");
        let deviation = if shape.rank() >= 2 { (shape.count() / shape[0]) as f32 } else { 100.0 }.sqrt().recip();
        let mut values = normal(shape, i as u64, deviation).to_f32();
        values.iter_mut().for_each(|v| *v += f32::from(gain));
        (name.to_owned(), HostTensor::from_f32(shape, &values))
    });
    tensors.collect()
}

/// Every matrix among these in a quantised type, where its rows are whole blocks of it, else in fp8.
fn quantised(tensors: &Tensors, dtype: DType) -> Tensors {
    let matrix = |name: &str, tensor: &HostTensor| name.ends_with("weight") && tensor.shape().rank() == 2;
    tensors
        .iter()
        .map(|(name, tensor)| {
            let value = match matrix(name, tensor) {
                true => tensor.quantise(dtype).or_else(|_| tensor.quantise(DType::F8E4M3)).expect("finite"),
                false => tensor.clone(),
            };
            (name.clone(), value)
        })
        .collect()
}

/// An archive of tensors: GGUF's blocks in a GGUF file, the others in safetensors.
pub(crate) fn archive(tensors: &Tensors) -> Archive {
    let (blocks, plain): (Vec<_>, Vec<_>) = tensors.iter().partition(|(_, tensor)| tensor.dtype().block_elements() > 1);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plain.safetensors");
    let plain: Vec<(&str, HostTensor)> =
        plain.into_iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    mutoscope::weights::save_safetensors(&path, &plain, &[]).expect("saved");
    let plain = std::fs::read(&path).expect("read").into();
    Archive::from_parts("model", [("plain.safetensors", plain), ("blocks.gguf", gguf(&blocks, &[]).into())])
        .expect("opened")
}

/// A GGUF file, version 3, whose metadata say that tensors were stored under other shapes than these.
pub(crate) fn gguf(tensors: &[(&String, &HostTensor)], shapes: &[(&str, &[i32])]) -> Vec<u8> {
    // In the order of `ggml_type`; what is not named there was never written by anyone.
    const TYPES: [&str; 15] =
        ["f32", "f16", "q4_0", "q4_1", "", "", "q5_0", "q5_1", "q8_0", "", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k"];
    let number = |dtype: DType| match TYPES.iter().position(|name| *name == dtype.name()) {
        Some(number) => number as u32,
        None if dtype == DType::BF16 => 30,
        None => panic!("{dtype} is not written here"),
    };
    let mut file = [b"GGUF", &3u32.to_le_bytes()[..]].concat();
    file.extend([tensors.len() as u64, shapes.len() as u64].iter().flat_map(|n| n.to_le_bytes()));
    for (name, dims) in shapes {
        let key = format!("comfy.gguf.orig_shape.{name}");
        file.extend((key.len() as u64).to_le_bytes());
        file.extend(key.bytes());
        // An array of i32.
        file.extend([9u32, 5].iter().flat_map(|n| n.to_le_bytes()));
        file.extend((dims.len() as u64).to_le_bytes());
        file.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
    }
    let mut data: Vec<u8> = Vec::new();
    for (name, tensor) in tensors {
        file.extend((name.len() as u64).to_le_bytes());
        file.extend(name.bytes());
        file.extend((tensor.shape().rank() as u32).to_le_bytes());
        file.extend(tensor.shape().dims().iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
        file.extend(number(tensor.dtype()).to_le_bytes());
        file.extend((data.len() as u64).to_le_bytes());
        data.extend(tensor.bytes());
        data.resize(data.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    [file, data].concat()
}

/// The same with the values that quantised elements stand for, in f32.
fn expanded(tensors: &Tensors) -> Tensors {
    tensors.iter().map(|(name, tensor)| (name.clone(), tensor.cast(DType::F32))).collect()
}

/// A graph's output `y` on a device, and the bytes of weights that passed through it.
fn run_on(gpu: &Gpu, recording: &Recording, inputs: &[(&str, HostTensor)]) -> Result<(Vec<f64>, u64), Error> {
    let program = gpu.compile(recording, &[])?;
    for (name, value) in inputs {
        program.write(name, value)?;
    }
    program.run(&mut |_| Ok(()))?;
    Ok((program.read("y")?.to_f64(), program.streamed_bytes()))
}

/// A graph's output `y` on the device.
fn run(recording: &Recording, inputs: &[(&str, HostTensor)]) -> Vec<f64> {
    run_on(&gpu(), recording, inputs).unwrap_or_else(|e| panic!("{e}")).0
}

/// How many leaves of a graph are of a type.
fn leaves(recording: &Recording, dtype: DType) -> usize {
    recording.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Leaf(_)) && node.ty.dtype == dtype).count()
}

/// The transformer of pipeline `a`, made wider, and its settings.
pub(crate) fn transformer() -> (Tensors, WanTransformerConfig) {
    let folder = pipeline("a").join("transformer");
    let config = Config::open(folder.join("config.json")).and_then(|config| WanTransformerConfig::read(&config));
    let golden = Archive::open(&folder, "diffusion_pytorch_model").expect("an archive");
    (widened(&golden, &["proj_out.weight", "proj_out.bias"], &[32, 64, 192]), config.expect("settings"))
}

/// The velocity `y` of a transformer as a graph, and the graph's inputs.
pub(crate) fn velocity_of(
    archive: &Archive,
    config: &WanTransformerConfig,
) -> (Recording, [(&'static str, HostTensor); 4]) {
    let model = WanTransformer::load(archive, config.clone()).unwrap_or_else(|e| panic!("{e}"));
    let text_dim = archive.shape_of("condition_embedder.text_embedder.linear_1.weight").expect("there")[1];
    let inputs = [
        ("text", normal(Shape::from([1, 9, text_dim]), 1001, 1.0)),
        ("latents", normal(Shape::from([1, 16, 2, 8, 6]), 1002, 1.0)),
        ("bias", HostTensor::from_f32([1, 9], &[0.0; 9])),
        ("time", HostTensor::from_f32([1], &[500.0])),
    ];
    let graph = Graph::new();
    let [text, latents, key_bias, time] =
        inputs.each_ref().map(|(name, value)| graph.input(name, value.shape(), DType::F32));
    let context = Conditions { blocks: model.contexts(text, None, DType::F32), key_bias, control: None };
    graph.output("y", model.forward(latents, time, &context, DType::F32)[0]);
    (graph.finish().unwrap_or_else(|e| panic!("{e}")), inputs)
}

/// Its values on the device.
fn velocity(archive: &Archive, config: &WanTransformerConfig) -> Vec<f64> {
    let (recording, inputs) = velocity_of(archive, config);
    run(&recording, &inputs)
}

#[test]
fn a_transformer_computes_with_the_values_that_its_weights_stand_for() {
    let (original, config) = transformer();
    let whole = velocity(&archive(&original), &config);
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4K, DType::F8E4M3, DType::F8E5M2] {
        let weights = quantised(&original, dtype);
        let (recording, inputs) = velocity_of(&archive(&weights), &config);
        let matrices = original.iter().filter(|(name, t)| name.ends_with("weight") && t.shape().rank() == 2).count();
        assert_eq!(leaves(&recording, dtype), matrices, "every matrix stays {dtype}");
        let y = run(&recording, &inputs);
        let same = velocity(&archive(&expanded(&weights)), &config);
        let (error, changed) = (distance(&y, &same), distance(&y, &whole));
        println!("{dtype}: {error:.1e} from its own values, {changed:.1e} from those before quantisation");
        assert!(error < SAME, "{dtype}: {error:e}");
        assert!(changed > CHANGED, "{dtype} changes only {changed:e}");
    }
}

/// Looks for the smallest device that a graph runs on: there some weights must pass through, and nowhere a bit be another.
pub(crate) fn pass_through(what: &str, recording: &Recording, inputs: &[(&str, HostTensor)]) {
    // What others hold on the shared device would count.
    let gpu = own(None);
    let (whole, _) = run_on(&gpu, recording, inputs).unwrap_or_else(|e| panic!("{e}"));
    let (mut most, mut fails, mut fits) = (0, 0, 10 << 20);
    while fits - fails > 1 << 12 {
        let budget = fails + (fits - fails) / 2;
        match run_on(&gpu.within(budget), recording, inputs) {
            Ok((y, streamed)) => {
                assert_eq!(y, whole, "{what} in {budget} bytes");
                (most, fits) = (most.max(streamed), budget);
            }
            Err(Error::OutOfMemory(_)) => fails = budget,
            Err(other) => panic!("{other}"),
        }
    }
    println!("{what}: up to {most} bytes passed through, in {fits}");
    assert!(most > 0, "all {what} weights stayed: nothing was tried");
}

#[test]
fn quantised_weights_pass_through_a_small_device() {
    let (original, config) = transformer();
    for dtype in [DType::Q8_0, DType::Q4K] {
        let (recording, inputs) = velocity_of(&archive(&quantised(&original, dtype)), &config);
        pass_through(dtype.name(), &recording, &inputs);
    }
}

#[test]
fn a_transformer_takes_fp8_with_a_scale_for_each_tensor() {
    let (original, config) = transformer();
    // As ComfyUI's files have it: each tensor divided by what makes its largest value the largest of the type.
    let (mut stored, mut values, mut sources) = (Tensors::new(), Tensors::new(), Vec::new());
    for (name, tensor) in &original {
        let mut source = Source::new(name.clone());
        let (mut kept, mut value) = (tensor.clone(), tensor.clone());
        if name.ends_with("weight") && tensor.shape().rank() == 2 {
            let scale = tensor.to_f32().iter().fold(0f32, |most, v| most.max(v.abs())) / 448.0;
            let divided: Vec<f32> = tensor.to_f32().iter().map(|v| v / scale).collect();
            kept = HostTensor::from_f32(tensor.shape(), &divided).quantise(DType::F8E4M3).expect("finite");
            value = kept.clone().with_scale(scale).expect("fp8").cast(DType::F32);
            source = source.scaled(scale);
        }
        stored.insert(name.clone(), kept);
        values.insert(name.clone(), value);
        sources.push((name.clone(), source));
    }
    let scaled = archive(&stored).view(sources).expect("a view");
    let [y, same, whole] = [scaled, archive(&values), archive(&original)].map(|archive| velocity(&archive, &config));
    let (error, changed) = (distance(&y, &same), distance(&y, &whole));
    println!("scaled f8e4m3: {error:.1e} from its own values, {changed:.1e} from those before quantisation");
    assert!(error < SAME && changed > CHANGED, "{error:e}, {changed:e}");
}

#[test]
fn a_text_encoder_with_its_table_quantised_gives_the_states_of_its_values() {
    let folder = pipeline("a").join("text_encoder");
    let config = Umt5Config::read(&Config::open(folder.join("config.json")).expect("a config")).expect("valid");
    let golden = Archive::open(&folder, "model").expect("an archive");
    let features = [32, 64];
    let vocabulary = golden.shape_of("shared.weight").expect("a table")[0];
    assert!(!features.contains(&vocabulary));
    let kept: Vec<&str> = golden.names().filter(|name| name.contains("relative_attention_bias")).collect();
    let original = widened(&golden, &kept, &features);
    let states = |tensors: &Tensors| {
        let model = Umt5::load(&archive(tensors), config).unwrap_or_else(|e| panic!("{e}"));
        let graph = Graph::new();
        graph.output("y", model.forward(&graph, &[5, 0, 17, 5, 2]).unwrap_or_else(|e| panic!("{e}")));
        run(&graph.finish().unwrap_or_else(|e| panic!("{e}")), &[])
    };
    let whole = states(&original);
    for dtype in [DType::Q4K, DType::F8E4M3] {
        let weights = quantised(&original, dtype);
        let of = |name: &str| weights[name].dtype();
        assert_eq!((of("shared.weight"), of(kept[0])), (dtype, DType::F8E4M3), "the tables, too, are quantised");
        let (y, same) = (states(&weights), states(&expanded(&weights)));
        let (error, changed) = (distance(&y, &same), distance(&y, &whole));
        println!("{dtype}: {error:.1e} from its own values, {changed:.1e} from those before quantisation");
        assert!(error < SAME && changed > CHANGED, "{dtype}: {error:e}, {changed:e}");
    }
}

#[test]
fn blocks_of_what_is_no_matrix_are_expanded() {
    let stored = normal(Shape::from([6, 256]), 7, 1.0).quantise(DType::Q8_0).expect("whole blocks");
    let (name, dims) = ("patch_embedding.weight".to_owned(), [48, 16, 1, 2, 1]);
    let file = gguf(&[(&name, &stored)], &[(&name, &dims.map(|dim| dim as i32))]);
    let archive = Archive::from_parts("model", [("model.gguf", file.into())]).expect("opened");
    let tensor = archive.tensor(&name).expect("a convolution");
    assert_eq!((tensor.shape().dims(), tensor.dtype()), (&dims[..], DType::F32));
    assert_eq!(tensor.to_f32(), stored.to_f32());

    let plain = gguf(&[(&name, &stored)], &[]);
    let archive = Archive::from_parts("model", [("model.gguf", plain.into())]).expect("opened");
    assert_eq!(archive.tensor(&name).expect("a matrix").dtype(), DType::Q8_0);
    let view = archive.view([("conv".to_owned(), Source::new(&name).reshaped(dims))]).expect("a view");
    assert_eq!(view.tensor("conv").expect("a convolution").to_f32(), stored.to_f32());
}
