//! Noise, noise levels and whole traces against PyTorch's and diffusers' (`goldens/noise.*`, `goldens/samplers.*`).

use std::collections::BTreeMap;
use std::path::Path;

use mutoscope::sampling::{Generator, Sampler, SamplerConfig, Slot, Solver, randn};
use safetensors::SafeTensors;
use serde_json::Value;

/// One part of the goldens: what its cases are, and their numbers.
struct Part {
    cases: Value,
    numbers: Vec<u8>,
}

impl Part {
    fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens");
        let read = |extension: &str| {
            let path = folder.join(name).with_extension(extension);
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        Self { cases: serde_json::from_slice(&read("json")).expect("valid JSON"), numbers: read("safetensors") }
    }

    fn list(&self, key: &str) -> &[Value] {
        let list = self.cases[key].as_array().expect("a list of cases");
        assert!(!list.is_empty(), "no {key}: nothing would be tested");
        list
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.numbers).expect("valid safetensors")
    }
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{name}");
    tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Timesteps, which are i64 or f32.
fn timesteps(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    if tensor.dtype() == safetensors::Dtype::F32 {
        return floats(tensors, name);
    }
    assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "{name}");
    let whole = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
    tensor.data().chunks_exact(8).map(|b| whole(b) as f32).collect()
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("`{key}` of {case}"))
}

fn shape(value: &Value) -> Vec<usize> {
    value.as_array().expect("a shape").iter().map(|d| d.as_u64().expect("a dimension") as usize).collect()
}

#[track_caller]
fn assert_near(what: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: number of values");
    let worst = got.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, f64::max);
    assert!(worst <= tolerance, "{what}: off by {worst:e}, more than {tolerance:e}");
}

#[test]
fn noise_is_that_of_torch() {
    let part = Part::open("noise");
    let tensors = part.tensors();
    for case in part.list("cases") {
        let key = text(case, "key");
        let values = randn(shape(&case["shape"]).as_slice(), case["seed"].as_u64().expect("a seed")).to_f32();
        if case["whole"].as_bool().expect("a flag") {
            assert_near(key, &values, &floats(&tensors, key), 1e-6);
        } else {
            assert_near(key, &values[..16], &floats(&tensors, &format!("{key}.first")), 1e-6);
            assert_near(key, &values[values.len() - 16..], &floats(&tensors, &format!("{key}.last")), 1e-6);
        }
        let sums = values.iter().map(|&v| f64::from(v)).fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
        for (got, name) in [(sums.0, "sum"), (sums.1, "sum_of_squares")] {
            let expected = case[name].as_f64().expect("a number");
            assert!((got - expected).abs() <= 1e-6 * values.len() as f64, "{key}: {name} {got}, not {expected}");
        }
    }
}

#[test]
fn draws_in_sequence_are_those_of_one_torch_generator() {
    let part = Part::open("noise");
    let tensors = part.tensors();
    for sequence in part.list("sequences") {
        let mut generator = Generator::new(sequence["seed"].as_u64().expect("a seed"));
        let keys = sequence["keys"].as_array().expect("names");
        for (key, dims) in keys.iter().zip(sequence["shapes"].as_array().expect("shapes")) {
            let key = key.as_str().expect("a name");
            let values = generator.randn(shape(dims).as_slice()).to_f32();
            assert_near(key, &values, &floats(&tensors, key), 1e-6);
        }
    }
}

#[test]
fn noise_tells_seeds_and_sizes_apart() {
    let part = Part::open("noise");
    let tensors = part.tensors();
    let case =
        part.list("cases").iter().find(|c| c["whole"] == true && shape(&c["shape"]).iter().product::<usize>() > 1);
    let case = case.expect("a case kept whole");
    let other = randn(shape(&case["shape"]).as_slice(), case["seed"].as_u64().expect("a seed") ^ 1).to_f32();
    let expected = floats(&tensors, text(case, "key"));
    assert!(other.iter().zip(&expected).any(|(a, b)| (a - b).abs() > 1e-3), "another seed gives other noise");
}

/// The goldens' stand-in for a model: `v = a x + b`, in f32.
fn velocity(x: &[f32], timestep: f32) -> Vec<f32> {
    let a = (0.3 * (f64::from(timestep) / 300.0).cos()) as f32;
    x.iter().enumerate().map(|(i, x)| a * x + (0.1 * (i as f64).sin()) as f32).collect()
}

#[test]
fn traces_are_those_of_diffusers() {
    let part = Part::open("samplers");
    let tensors = part.tensors();
    let start = floats(&tensors, "x0");
    let mut seen = BTreeMap::<&str, usize>::new();
    for case in part.list("cases") {
        let key = text(case, "key");
        let sampler: Sampler = text(case, "sampler").parse().expect("a known sampler");
        let shift = case["shift"].as_f64().expect("a shift");
        let config = SamplerConfig::new(sampler).with_shift(shift).expect("usable");
        let solver = Solver::new(&config, case["steps"].as_u64().expect("a count") as usize).expect("usable");
        let schedule = solver.schedule();
        assert_eq!(schedule.sigmas, floats(&tensors, &format!("{key}.sigmas")), "{key}: sigmas");
        assert_eq!(schedule.timesteps, timesteps(&tensors, &format!("{key}.timesteps")), "{key}: timesteps");

        let trace = floats(&tensors, &format!("{key}.trace"));
        let mut buffers = BTreeMap::from([(Slot::Sample, start.clone())]);
        for (i, (step, &timestep)) in solver.steps().iter().zip(&schedule.timesteps).enumerate() {
            buffers.insert(Slot::Velocity, velocity(&buffers[&Slot::Sample], timestep));
            step.apply(&mut buffers).expect("all buffers are there");
            let expected = &trace[i * start.len()..][..start.len()];
            let norm = expected.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-3, "{key}: a degenerate reference");
            let distance = buffers[&Slot::Sample].iter().zip(expected);
            let distance = distance.map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt();
            assert!(distance <= 1e-5 * norm, "{key}, step {i}: off by {:e}", distance / norm);
        }
        assert_eq!(trace.len(), solver.steps().len() * start.len(), "{key}");
        *seen.entry(sampler.name()).or_default() += 1;
    }
    assert_eq!(seen.len(), Sampler::ALL.len(), "every sampler has cases: {seen:?}");
}
