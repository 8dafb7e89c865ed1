//! Runs inside a memory budget: the same bits as without one, no more memory than was planned, and a plan that the run
//! keeps to.

use mutoscope::Error;
use mutoscope::gpu::{Gpu, GpuOptions};
use mutoscope::graph::{DeviceProfile, Graph, NodeId, Recording, Residency};
use mutoscope::kernels::matmul::Epilogue;
use mutoscope::pipeline::{Engine, Model, Plan, Precision, Request, Video};
use mutoscope::tensor::{DType, HostTensor, Weight};

use crate::device::gpu;

/// A run of the model in the binary whose weights are much larger than everything else.
fn small() -> Request {
    Request {
        size: Some((32, 32)),
        frames: Some(5),
        steps: Some(2),
        precision: Precision::F32,
        ..Request::new("a bee moves right on a pink background")
    }
}

fn run(gpu: &Gpu, model: &Model) -> Result<Video, Error> {
    Engine::on(gpu.clone()).generate(model, &small(), &mut |_| Ok(()))
}

/// A device of its own: what others hold on the shared one would count.
pub(crate) fn own(memory: Option<u64>) -> Gpu {
    let options = GpuOptions { device: std::env::var("MUTOSCOPE_DEVICE").ok(), memory, ..Default::default() };
    Gpu::open(&options).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn weights_that_pass_give_the_bits_of_weights_that_stay() {
    let model = Model::embedded().unwrap_or_else(|e| panic!("{e}"));
    let gpu = own(None);
    let whole = run(&gpu, &model).unwrap_or_else(|e| panic!("{e}"));
    let all = whole.usage.iter().map(|(_, ledger)| ledger.peak).max().unwrap_or(0);
    let least = Plan::least_memory(&model, &small(), gpu.profile()).expect("some memory is enough");
    let mut streamed = Vec::new();
    // Read back, as the last thing, beside all that is there.
    let all = all + all / 16;
    for eighth in 0..=8 {
        let budget = all - (all - least) * eighth / 8;
        let video = run(&gpu.within(budget), &model).unwrap_or_else(|e| panic!("{budget}: {e}"));
        assert_eq!(video.latents.bytes(), whole.latents.bytes(), "in {budget} bytes");
        for (phase, ledger) in &video.usage {
            assert!(ledger.peak <= budget, "{phase:?} held {} of {budget} bytes", ledger.peak);
        }
        streamed.push(video.usage.iter().map(|(_, ledger)| ledger.streamed).sum::<u64>());
    }
    println!("passed through the device: {streamed:?} bytes, in {all} bytes down to {least}");
    assert!(
        streamed[0] == 0 && streamed[8] > streamed[4] && streamed[4] > 0,
        "less memory, more to read anew: {streamed:?}"
    );
}

#[test]
fn a_plan_is_what_the_run_does() {
    let model = Model::embedded().unwrap_or_else(|e| panic!("{e}"));
    let least = Plan::least_memory(&model, &small(), gpu().profile()).expect("some memory is enough");
    for memory in [None, Some(least)] {
        let gpu = own(memory);
        let plan = Plan::new(&model, &small(), gpu.profile()).unwrap_or_else(|e| panic!("{e}"));
        let reported = gpu.allocated_bytes();
        let mut most = 0;
        let video = Engine::on(gpu.clone())
            .generate(&model, &small(), &mut |_| {
                most = most.max(gpu.allocated_bytes().unwrap_or(0));
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(plan.phases, video.usage, "planned, done");
        // What the device's own allocator says: all that was planned at the same time was there, and nothing else of note.
        if let Some(reported) = reported {
            let most = most - reported;
            println!("budget {memory:?}: planned {}, the allocator reports {most}", plan.peak());
            // Besides what was planned there is wgpu's own staging of what is written to the device: some 0.4 MB here.
            assert!(most <= plan.peak() + plan.peak() / 20 + (1 << 20), "planned {}, held {most}", plan.peak());
            assert!(most >= plan.peak() / 2, "planned {}, held {most}", plan.peak());
        }
        drop(video);
        assert_eq!(gpu.held_bytes(), 0, "nothing stays behind");
    }
}

#[test]
fn what_cannot_fit_is_refused_with_what_it_takes() {
    let model = Model::embedded().unwrap_or_else(|e| panic!("{e}"));
    let profile = DeviceProfile { memory: Some(1 << 20), ..gpu().profile().clone() };
    let error = Plan::new(&model, &small(), &profile).expect_err("one MiB");
    assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
    let least = Plan::least_memory(&model, &small(), &profile).expect("some memory is enough");
    let enough = DeviceProfile { memory: Some(least), ..profile.clone() };
    let plan = Plan::new(&model, &small(), &enough).unwrap_or_else(|e| panic!("{e}"));
    assert!(plan.peak() <= least && least > 1 << 20);
    let fewer = DeviceProfile { memory: Some(least * 4 / 5), ..profile };
    Plan::new(&model, &small(), &fewer).expect_err("less than the least");
}

#[test]
fn the_program_plans_and_measures_once() {
    let cache = tempfile::tempdir().expect("a folder");
    let plan = |further: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mutoscope"));
        command.env("XDG_CACHE_HOME", cache.path()).args(["plan", "a red circle", "--size", "32x32", "--frames", "5"]);
        command.args(["--steps", "2"]).args(further).output().expect("the binary runs")
    };
    let json = |further: &[&str]| {
        let output = plan(&[&["--json"], further].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let unmeasured = json(&[]);
    let phases = unmeasured["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["phase"].as_str()).collect();
    assert_eq!(names, ["text", "denoise", "decode"]);
    assert!(phases.iter().all(|phase| phase["flops"].as_f64() > Some(1e6) && phase["gpu_bytes"].as_u64() > Some(0)));
    if cfg!(target_os = "linux") {
        assert!(phases.iter().all(|phase| phase["seconds"].is_null()), "nothing was measured yet");
        let seconds = |plan: &serde_json::Value| plan["phases"][1]["seconds"].as_f64();
        let measured = json(&["--measure"]);
        assert!(seconds(&measured) > Some(0.0));
        assert_eq!(seconds(&json(&[])), seconds(&measured), "it is remembered");
    }
    let told = plan(&["--vram", "6MB"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success() && text.contains("a step") && text.contains("at most 6 MiB"), "{text}");
    let refused = plan(&["--vram", "1MB"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(6), "{text}");
    assert!(text.contains("It would fit with --vram"), "{text}");
}

#[test]
fn many_small_weights_do_not_wait_on_the_host_together() {
    const WEIGHT: usize = 2 << 20;
    let gpu = own(None);
    let tensor = HostTensor::from_u32([WEIGHT / 4], &vec![7; WEIGHT / 4]);
    let Some(before) = gpu.allocated_bytes() else {
        assert_ne!(gpu.profile().backend, "vulkan", "wgpu's allocator tells on Vulkan");
        return;
    };
    let kept: Vec<_> = (0..95).map(|i| gpu.upload(&i.to_string(), &tensor).expect("uploaded")).collect();
    let allocated = gpu.allocated_bytes().expect("it told before") - before;
    // Fifteen came after the last 32 MiB: what waits is counted, and is no more than that.
    let (weights, waiting) = ((kept.len() * WEIGHT) as u64, (15 * WEIGHT) as u64);
    println!("{weights} bytes of weights took {allocated}");
    let near = (weights + waiting).abs_diff(allocated);
    assert!(near < WEIGHT as u64, "{allocated} for {weights}, of which {waiting} may wait");
}

/// A chain of so many matrices of 256 KiB, each used twice, and one bias.
fn chain(matrices: usize) -> Recording {
    let graph = Graph::new();
    let bias = Weight::new("bias", HostTensor::from_f32([256], &[0.0; 256]));
    let mut x = graph.input("x", [1, 256], DType::F32);
    for i in 0..matrices {
        let weight = Weight::new(format!("{i}"), HostTensor::from_f32([256, 256], &[0.0; 256 * 256]));
        for _ in 0..2 {
            let bias = Some(graph.weight(&bias));
            x = x.matmul(graph.weight(&weight), Epilogue { bias, ..Epilogue::default() });
        }
    }
    graph.output("y", x);
    graph.finish().unwrap_or_else(|e| panic!("{e}"))
}

const MATRIX: u64 = 256 << 10;
const BIAS: u64 = 1024;

#[test]
fn with_room_for_all_everything_stays() {
    let chain = chain(8);
    let all = Residency::within(&chain, |_| false, 8 * MATRIX + BIAS, u64::MAX).expect("it fits");
    assert_eq!((all.areas(), all.chunks.len(), all.resident), (0, 0, 8 * MATRIX + BIAS));
    let known = Residency::within(&chain, |_| true, 0, u64::MAX).expect("it is there already");
    assert_eq!(known.resident, 0);
}

#[test]
fn what_passes_is_loaded_before_it_is_used_and_no_more_is_held_than_allowed() {
    let chain = chain(8);
    let least = Residency::least(&chain, |_| false);
    assert_eq!(least, 2 * MATRIX + BIAS);
    assert_eq!(Residency::within(&chain, |_| false, least - 1, u64::MAX), None);
    for room in (least..8 * MATRIX + BIAS).step_by(100_000) {
        let found = Residency::within(&chain, |_| false, room, u64::MAX).expect("it fits");
        assert!(found.resident + found.areas() <= room, "{room}: {} + {}", found.resident, found.areas());
        assert_eq!(found.resident + found.streamed(&chain), 8 * MATRIX + BIAS, "each once, here or there");
        for (chunk, next) in found.chunks.iter().zip(found.chunks.iter().skip(1)) {
            assert!(chunk.first < next.first);
        }
        for chunk in &found.chunks {
            let end = chunk.loads.iter().map(|load| load.offset + MATRIX).max();
            assert!(end.is_some_and(|end| end <= found.area));
        }
    }
}

/// A weight that is needed again soon is read once, if there is room for it to wait.
#[test]
fn areas_are_as_large_as_pays() {
    let graph = Graph::new();
    let weights: Vec<Weight> =
        (0..48).map(|i| Weight::new(format!("{i}"), HostTensor::from_f32([256, 256], &[0.0; 256 * 256]))).collect();
    let mut texts = [1, 2].map(|n| graph.input(&format!("{n}"), [1, 256], DType::F32));
    // Blocks of four matrices, which both texts go through one after the other.
    for block in weights.chunks(4) {
        for x in &mut texts {
            for weight in block {
                *x = x.matmul(graph.weight(weight), Epilogue::default());
            }
        }
    }
    graph.output("y", texts[0].add(texts[1]));
    let recording = graph.finish().unwrap_or_else(|e| panic!("{e}"));
    let passing = |room| {
        let found = Residency::within(&recording, |_| false, room, u64::MAX).expect("it fits");
        assert!(found.resident + found.areas() <= room);
        found.streamed(&recording) / MATRIX
    };
    assert_eq!(passing(2 * MATRIX), 96, "without room to wait, each for each text");
    let small = Residency::within(&recording, |_| false, 12 * MATRIX, MATRIX).expect("it fits");
    let (small, best) = (small.streamed(&recording) / MATRIX, passing(12 * MATRIX));
    assert!(small > 70 && best <= 48, "in areas of one matrix {small} pass, in the best {best}");
}

#[test]
fn what_stays_and_what_passes_take_turns() {
    let chain = chain(16);
    let half = Residency::within(&chain, |_| false, 10 * MATRIX + BIAS, u64::MAX).expect("it fits");
    let leaves: Vec<NodeId> = half.chunks.iter().flat_map(|chunk| &chunk.loads).map(|load| load.leaf).collect();
    assert_eq!(leaves.len(), 8);
    let first = chain.nodes.len() / 4;
    assert!(leaves.iter().filter(|&&leaf| leaf < first).count() >= 1, "not all at the end: {leaves:?}");
}
