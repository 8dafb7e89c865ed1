//! Whole runs with transformers in GGUF's blocks, against diffusers with the values that the `gguf` package expands them to
//! (`goldens/blocks.*`). Both sides make the blocks from the tensors' names.

use std::path::Path;

use mutoscope::pipeline::{Engine, Model, ModelFiles, Precision, Request};
use mutoscope::tensor::{DType, HostTensor};
use mutoscope::weights::layout::{Layout, Network};
use mutoscope::weights::{convert, open_for_conversion, save_safetensors};
use serde_json::Value;

use crate::device::gpu;
use crate::golden::{Golden, distance, pipeline, text};
use crate::pipelines::{compare, compare_f16, request};
use crate::quantised_models::{self, Tensors, archive, gguf, pass_through, velocity_of};
use crate::sizes::{elements, hash};

/// Blocks of a type that a name stands for.
fn blocks(golden: &Golden, name: &str, shape: &[usize], dtype: DType) -> HostTensor {
    let size = dtype.block_bytes();
    let count = shape.iter().product::<usize>() / dtype.block_elements() * size;
    let hash = hash(name);
    let mut bytes: Vec<u8> = (0..count).map(|i| (hash(i) >> 24) as u8).collect();
    let halves = golden.value("halves")[dtype.name()].as_array().expect("a list");
    for block in bytes.chunks_exact_mut(size) {
        for half in halves {
            let [at, bits] = [0, 1].map(|i| half[i].as_u64().expect("a number"));
            let at = at as usize;
            let sign = if half[2].as_bool().expect("yes or no") { u16::from(block[at + 1] & 1) << 15 } else { 0 };
            let value = (bits as u16 + u16::from(block[at])) | sign;
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    HostTensor::from_bytes(shape, dtype, bytes.into()).expect("whole blocks")
}

/// The transformer of a case, so many times as wide.
fn transformer(golden: &Golden, case: &Value, wide: usize) -> Tensors {
    let wider = |dim: usize| if [256, 512, 1536].contains(&dim) { wide * dim } else { dim };
    let tensors = golden.list("tensors").iter().map(|tensor| {
        let (name, shape) = (tensor[0].as_str().expect("a name"), tensor[1].as_array().expect("a shape"));
        let shape: Vec<usize> = shape.iter().map(|dim| wider(dim.as_u64().expect("a dimension") as usize)).collect();
        let value = match case["types"][name].as_str() {
            None => HostTensor::from_bytes(&*shape, DType::BF16, elements(name, &shape).into()).expect("as many"),
            Some(dtype) => {
                let dtype = DType::ALL.into_iter().find(|known| known.name() == dtype).expect("a known type");
                blocks(golden, name, &shape, dtype)
            }
        };
        (name.to_owned(), value)
    });
    tensors.collect()
}

/// Writes them as other programs do: in GGUF, under the names of Wan's authors, vectors and tables in f32.
fn write(path: &Path, tensors: &Tensors) {
    let theirs = Layout::Wan.theirs(Network::Transformer, tensors.keys().map(String::as_str)).expect("a layout");
    let named = tensors.iter().map(|(name, tensor)| {
        let small = tensor.shape().rank() < 2 || name.ends_with("scale_shift_table");
        (theirs[name.as_str()].name.clone(), if small { tensor.cast(DType::F32) } else { tensor.clone() })
    });
    let named: Tensors = named.collect();
    std::fs::write(path, gguf(&named.iter().collect::<Vec<_>>(), &[])).expect("written");
}

/// Writes the values that they stand for.
fn write_values(path: &Path, tensors: &Tensors) {
    let values: Vec<(&str, HostTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.cast(DType::F32))).collect();
    save_safetensors(path, &values, &[]).unwrap_or_else(|e| panic!("{e}"));
}

/// Pipeline `a` with another transformer, whose settings are read from its shapes.
fn model(transformer: &Path) -> Model {
    let files = ModelFiles { transformer: Some(transformer.to_owned()), ..ModelFiles::new(pipeline("a")) };
    Model::open_files(&files).unwrap_or_else(|e| panic!("{e}"))
}

/// The latents of two steps.
fn latents(engine: &Engine, transformer: &Path, case: &Value) -> HostTensor {
    let asked = Request { steps: Some(2), ..request(case, Precision::F32) };
    engine.generate_frames(&model(transformer), &asked).unwrap_or_else(|e| panic!("{e}")).0.latents
}

#[test]
fn every_type_of_block_and_every_mix_gives_the_frames_of_its_values() {
    let golden = Golden::open("blocks");
    let engine = Engine::on(gpu());
    let folder = tempfile::tempdir().expect("a folder");
    let (file, values) = (folder.path().join("wan.gguf"), folder.path().join("values.safetensors"));
    let mut seen = Vec::new();
    for case in golden.list("cases") {
        let tensors = transformer(&golden, case, 1);
        write(&file, &tensors);
        compare(&engine, &model(&file), &request(case, Precision::F32), &golden, case);
        write_values(&values, &tensors);
        let same = latents(&engine, &file, case).bytes() == latents(&engine, &values, case).bytes();
        assert!(same, "{}: other bits than those of its own values", text(case, "key"));
        seen.extend(tensors.values().map(HostTensor::dtype));
    }
    let blocks = DType::ALL.into_iter().filter(|dtype| dtype.block_elements() > 1);
    assert_eq!(blocks.filter(|dtype| !seen.contains(dtype)).collect::<Vec<_>>(), [], "all types were tried");
}

#[test]
fn mixed_blocks_are_near_enough_in_f16_or_refused() {
    let golden = Golden::open("blocks");
    let engine = Engine::on(gpu());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("wan.gguf");
    for case in golden.list("cases").iter().filter(|case| ["all_k", "small"].contains(&text(case, "key"))) {
        write(&file, &transformer(&golden, case, 1));
        compare_f16(&engine, &model(&file), &request(case, Precision::F16), &golden, case);
    }
}

#[test]
fn what_is_converted_to_q4_k_gives_the_bits_of_its_values() {
    let golden = Golden::open("blocks");
    let engine = Engine::on(gpu());
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let case = golden.list("cases").iter().find(|case| text(case, "key") == "q6_k").expect("a case");
    write_values(&path("whole.safetensors"), &transformer(&golden, case, 1));
    let converted = |from: &str, to: &str, dtype: DType| {
        let archive = open_for_conversion(path(from)).unwrap_or_else(|e| panic!("{e}"));
        convert(&archive, path(to), dtype, &[], &mut |_, _| Ok(())).unwrap_or_else(|e| panic!("{e}"))
    };
    let done = converted("whole.safetensors", "q4_k.gguf", DType::Q4K);
    assert_eq!((done.types["q4_k"].0, done.instead.len()), (20, 0), "ten matrices in each of two blocks");
    converted("q4_k.gguf", "values.safetensors", DType::F32);
    let [whole, q4_k, values] =
        ["whole.safetensors", "q4_k.gguf", "values.safetensors"].map(|name| latents(&engine, &path(name), case));
    assert_eq!(q4_k.bytes(), values.bytes());
    let changed = distance(&q4_k.to_f64(), &whole.to_f64());
    println!("q4_k: latents {changed:.1e} from those before it was quantised");
    assert!(changed > 1e-3 && changed < 0.5, "{changed:e}");
}

#[test]
fn blocks_of_every_size_pass_through_a_small_device() {
    let golden = Golden::open("blocks");
    let (_, mut config) = quantised_models::transformer();
    (config.heads, config.freq_dim) = (2 * config.heads, 2 * config.freq_dim);
    // Blocks of 84, 110 and 210 bytes among others: rows that begin anywhere. What is less than 64 KiB never passes.
    for case in golden.list("cases").iter().filter(|case| ["all_k", "small"].contains(&text(case, "key"))) {
        let (recording, inputs) = velocity_of(&archive(&transformer(&golden, case, 2)), &config);
        pass_through(text(case, "key"), &recording, &inputs);
    }
}
