//! The VAE on tiles, against diffusers' tiled_decode and tiled_encode, and when it is used.

use mutoscope::Error;
use mutoscope::gpu::Gpu;
use mutoscope::media::{Frame, read_recipe};
use mutoscope::pipeline::{Engine, Event, Model, Plan, Precision, Request, Settings, Tile, Tiling};
use mutoscope::tensor::HostTensor;
use serde_json::Value;

use crate::cli::{mutoscope, refused};
use crate::device::gpu;
use crate::golden::{Golden, count, distance, pipeline, text};
use crate::memory::own;
use crate::pipelines::worst_frame;

fn open(case: &Value) -> Model {
    Model::open(pipeline(text(case, "pipeline"))).unwrap_or_else(|e| panic!("{e}"))
}

fn tiles(case: &Value) -> Tiling {
    Tiling::On(Tile { size: count(case, "tile"), stride: count(case, "stride") })
}

fn decode(engine: &Engine, model: &Model, latents: &HostTensor, tiling: Tiling) -> Vec<Frame> {
    let mut frames = Vec::new();
    let decoded = engine.decode(model, latents, tiling, &mut |event| {
        if let Event::Frame { index, frame } = event {
            assert_eq!(index, frames.len());
            frames.push(frame.clone());
        }
        Ok(())
    });
    decoded.unwrap_or_else(|e| panic!("{e}"));
    frames
}

#[test]
fn tiles_are_decoded_as_diffusers_decodes_them() {
    let golden = Golden::open("tiling");
    let engine = Engine::on(gpu());
    for case in golden.list("decode") {
        let (model, latents) = (open(case), golden.tensor(case, "latents"));
        let decibels = |tiling| worst_frame(&decode(&engine, &model, &latents, tiling), &golden.tensor(case, "frames"));
        let (tiled, whole) = (decibels(tiles(case)), decibels(Tiling::Off));
        println!("{}: worst frame {tiled:.1} dB, {whole:.1} dB without tiles", text(case, "key"));
        assert!(tiled > 50.0 && whole < 40.0, "{}: {tiled:.1} dB, {whole:.1} dB without tiles", text(case, "key"));
    }
}

#[test]
fn tiles_are_encoded_as_diffusers_encodes_them() {
    let golden = Golden::open("tiling");
    let engine = Engine::on(gpu());
    for case in golden.list("encode") {
        let model = open(case);
        let pixels = golden.tensor(case, "frames");
        let [height, width] = [1, 2].map(|axis| pixels.shape()[axis]);
        let bytes: Vec<u8> = pixels.to_f32().into_iter().map(|v| v as u8).collect();
        let picture = |rgb: &[u8]| Frame::new(width as u32, height as u32, rgb.to_vec()).expect("a picture");
        let frames: Vec<Frame> = bytes.chunks(height * width * 3).map(picture).collect();
        let error = |tiling| {
            let latents = engine.encode(&model, &frames, tiling, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
            distance(&latents.to_f64(), &golden.tensor(case, "latents").to_f64())
        };
        let (tiled, whole) = (error(tiles(case)), error(Tiling::Off));
        println!("{}: {tiled:.1e}, {whole:.1e} without tiles", text(case, "key"));
        assert!(tiled < 1e-4 && whole > 1e-3, "{}: {tiled:e}, {whole:e} without tiles", text(case, "key"));
    }
}

/// On a device without room for whole pictures, tiles are used by themselves, the largest that fit.
#[test]
fn tiles_come_when_memory_asks_for_them() {
    let model = Model::open(pipeline("a")).unwrap_or_else(|e| panic!("{e}"));
    let request = Request {
        size: Some((208, 144)),
        frames: Some(5),
        steps: Some(1),
        precision: Precision::F32,
        ..Request::new("a cat walks on grass")
    };
    let device = own(None);
    let run = |device: &Gpu, tiling: Tiling| {
        let engine = Engine::on(device.clone());
        let mut settled: Option<Settings> = None;
        let mut frames = Vec::new();
        let video = engine.generate(&model, &Request { tiling, ..request.clone() }, &mut |event| {
            match event {
                Event::Settled(settings) => settled = Some(settings.clone()),
                Event::Frame { frame, .. } => frames.push(frame.clone()),
                _ => {}
            }
            Ok(())
        })?;
        assert_eq!(settled.and_then(|settings| settings.tile), video.settings.tile);
        let recipe = video.settings.recipe(&model, video.precision);
        assert_eq!(recipe.vae_tile, video.settings.tile.map(|tile| tile.to_string()));
        Ok::<_, Error>((video, frames))
    };
    let (video, whole) = run(&device, Tiling::Auto).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(video.settings.tile, None);
    let most = video.usage.iter().map(|(_, ledger)| ledger.peak).max().unwrap_or(0);
    let mut chosen = Vec::new();
    for memory in (1..=12).map(|part| most - most * part / 16) {
        let device = device.within(memory);
        // Budgets with which something else is in the way are none of ours: all below them are too small as well.
        let Ok(plan) = Plan::new(&model, &request, device.profile()) else { break };
        let (video, frames) = run(&device, Tiling::Auto).unwrap_or_else(|e| panic!("{memory} of {most} bytes: {e}"));
        assert_eq!((plan.settings.tile, &plan.phases), (video.settings.tile, &video.usage), "planned, done");
        assert!(plan.peak() <= memory, "{} bytes were planned of {memory}", plan.peak());
        let Some(tile) = video.settings.tile else { continue };
        assert!(tile.size.is_multiple_of(32) && tile.stride == tile.size / 4 * 3, "{tile}");
        assert!(chosen.last().is_none_or(|&size| tile.size <= size), "less memory, smaller tiles: {chosen:?}");
        chosen.push(tile.size);
        if chosen.len() == 1 {
            assert_ne!(frames, whole, "tiles show");
            // What it chose is what anyone may ask for.
            let (_, same) = run(&device, Tiling::On(tile)).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(frames, same);
            let off = run(&device, Tiling::Off).expect_err("too large").to_string();
            assert!(off.contains("--vae-tiling"), "{off}");
        }
    }
    println!("tiles in less and less memory: {chosen:?}");
    assert!(chosen.len() > 2 && chosen.first() > chosen.last(), "{chosen:?}: hardly anything was chosen");
}

#[test]
fn tiles_that_are_not_made_of_latents_are_refused() {
    let model = Model::open(pipeline("d")).unwrap_or_else(|e| panic!("{e}"));
    for (size, stride, near) in [(100, 64, "96:64"), (64, 40, "64:32"), (32, 64, "32:32"), (8, 8, "16:16")] {
        let tiling = Tiling::On(Tile { size, stride });
        let error = Settings::resolve(&model, &Request { tiling, ..Request::new("a") }).expect_err("refused");
        let told = error.to_string();
        assert!(matches!(error, Error::Request { .. }) && told.contains("--vae-tile") && told.contains(near), "{told}");
    }
}

#[test]
fn tiles_are_asked_for_on_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.png").display().to_string();
    let model = pipeline("a").display().to_string();
    let common = ["generate", "a cat", "--model", &model, "--size=48x32", "--frames=1", "--steps=1", "--out", &out];
    let recipe = |arguments: &[&str]| {
        let output = mutoscope(&[&common[..], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        read_recipe(&out).expect("readable").expect("a recipe").vae_tile
    };
    assert_eq!(recipe(&[]), None);
    assert_eq!(recipe(&["--vae-tiling", "on"]).as_deref(), Some("256:192"));
    assert_eq!(recipe(&["--vae-tile", "32"]).as_deref(), Some("32:24"));
    assert_eq!(recipe(&["--vae-tiling", "on", "--vae-tile", "16:8"]).as_deref(), Some("16:8"));
    assert_eq!(recipe(&["--vae-tiling", "off", "--vae-tile", "16:8"]), None);
    for (arguments, word) in
        [(["--vae-tile", "20"], "16:8"), (["--vae-tile", "x"], "256"), (["--vae-tiling", "no"], "auto")]
    {
        let (code, told) = refused(&[&common[..], &arguments].concat());
        assert!(code == 2 && told.contains(word), "{arguments:?}: {told}");
    }
}
