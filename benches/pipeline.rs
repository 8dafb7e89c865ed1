//! A whole run by its phases: text, denoising, decoding, each with what is compiled for it.
//!
//! The model is the embedded one, at a small size; in builds without it, the first of the goldens' random pipelines, which
//! is so small that its times are those of compiling and submitting. `MUTOSCOPE_DEVICE` chooses the device as
//! `--device` does.

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use mutoscope::Result;
use mutoscope::pipeline::{Engine, EngineOptions, Event, Model, Phase, Request};

const PHASES: [Phase; 3] = [Phase::Text, Phase::Denoise, Phase::Decode];

/// Makes the request's video and tells how long each phase took: the text until its last step, denoising from there to
/// the latents, decoding for the rest.
fn phases(engine: &Engine, model: &Model, request: &Request) -> Result<[Duration; 3]> {
    let start = Instant::now();
    let (mut text, mut latents) = (start, start);
    engine.generate(model, request, &mut |event| {
        match event {
            Event::Progress { phase: Phase::Text, .. } => text = Instant::now(),
            Event::Latents(_) => latents = Instant::now(),
            _ => {}
        }
        Ok(())
    })?;
    Ok([text - start, latents - text, latents.elapsed()])
}

fn pipeline(criterion: &mut Criterion) {
    let options = EngineOptions { device: std::env::var("MUTOSCOPE_DEVICE").ok(), ..Default::default() };
    let engine = Engine::new(&options).unwrap_or_else(|error| panic!("benches need an adapter: {error}"));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/pipelines/a");
    let model = Model::embedded().or_else(|_| Model::open(golden)).unwrap_or_else(|error| panic!("{error}"));
    let prompt = "a bee moves right on a pink background";
    let request = Request { size: Some((64, 64)), frames: Some(5), steps: Some(2), seed: 7, ..Request::new(prompt) };

    let mut group = criterion.benchmark_group(format!("{} 64x64x5, 2 steps", model.name()));
    group.sampling_mode(SamplingMode::Flat);
    for (i, phase) in PHASES.iter().enumerate() {
        group.bench_function(phase.name(), |bencher| {
            bencher.iter_custom(|runs| {
                let one = || phases(&engine, &model, &request).unwrap_or_else(|error| panic!("{error}"))[i];
                (0..runs).map(|_| one()).sum()
            });
        });
    }
    group.finish();
    say(&format!("measured on {}, driver {}", engine.gpu().profile().name, engine.gpu().driver()));
}

#[expect(clippy::print_stderr, reason = "a bench is a program: it says what it measured on")]
fn say(line: &str) {
    eprintln!("{line}");
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = pipeline
}
criterion_main!(benches);
