//! Runs that something outside ends: a disk that is full, a file that is cut short, a device that goes away. They end with
//! an error that says what to do, and what was finished is kept.

use std::fs::File;
use std::path::Path;

use mutoscope::Error;
use mutoscope::pipeline::{Checkpoint, Engine, Event, Model, Phase, Precision, Request, Saved};

use crate::device::gpu;
use crate::golden::pipeline;
use crate::known::copy;

fn request(path: &Path) -> Request {
    Request {
        size: Some((32, 32)),
        frames: Some(5),
        steps: Some(3),
        precision: Precision::F32,
        checkpoint: Some(Checkpoint { path: path.join("a.run"), note: String::new() }),
        ..Request::new("a cat walks on grass")
    }
}

/// Weights are read when they are needed, hours after the file was opened. A file that is shorter by then is named, and the
/// process lives (its mapped pages could not be read).
#[test]
fn weights_that_are_cut_short_under_a_run_are_an_error() {
    let engine = Engine::on(gpu());
    for (part, file) in [
        ("text_encoder", "model.safetensors"),
        ("transformer", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&pipeline("a"), folder.path());
        let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join(part).join(file);
        if part == "vae" {
            model.hash();
        }
        let whole = std::fs::read(&path).expect("read");
        File::options().write(true).open(&path).and_then(|file| file.set_len(5000)).expect("cut");
        let asked = request(folder.path());
        let error = engine.generate(&model, &asked, &mut |_| Ok(())).expect_err("cut short");
        let told = error.to_string();
        assert!(matches!(error, Error::Model { .. }) && told.contains("cut short") && told.contains(part), "{told}");
        assert_eq!(error.exit_code(), 4);
        if part == "vae" {
            // The steps were done by then. With the file back, they are decoded.
            std::fs::write(&path, whole).expect("written");
            let model = Model::open(folder.path()).unwrap_or_else(|e| panic!("{e}"));
            let saved = Saved::open(folder.path().join("a.run")).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(saved.done(), saved.steps());
            engine.resume(&model, &asked, &saved, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
        } else {
            // Nobody is told that it is the model of another hash.
            assert!(model.hash().contains("cut short"), "{}", model.hash());
        }
    }
}

/// A device that is lost, or has no more memory, in mid-run: whatever ends a step, those before it are kept.
#[test]
fn an_error_of_the_device_leaves_the_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = Model::open(pipeline("a")).unwrap_or_else(|e| panic!("{e}"));
    let (asked, engine) = (request(folder.path()), Engine::on(gpu()));
    let whole = engine.generate(&model, &Request { checkpoint: None, ..asked.clone() }, &mut |_| Ok(()));
    let errors: [fn(String) -> Error; 2] = [Error::DeviceLost, Error::OutOfMemory];
    for error in errors {
        // The device's errors come out of a step where the observer's do.
        let ended = engine.generate(&model, &asked, &mut |event| match event {
            Event::Progress { phase: Phase::Denoise, step: 1, fraction, .. } if fraction > 0.34 => {
                Err(error("a test".into()))
            }
            _ => Ok(()),
        });
        let code = error(String::new()).exit_code();
        assert!(ended.is_err_and(|ended| ended.exit_code() == code && ended.to_string().contains("a test")));
        let saved = Saved::open(folder.path().join("a.run")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(saved.done(), 1);
        let again = engine.resume(&model, &asked, &saved, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
        assert!(whole.as_ref().is_ok_and(|whole| whole.latents.bytes() == again.latents.bytes()));
    }
}

/// `/dev/full` behind a name, and then room: what was finished is kept.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_with_what_to_do() {
    use crate::cli::mutoscope;
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (run, out, full, latents) = (at("a.run"), at("a.png"), at("full"), at("latents"));
    std::os::unix::fs::symlink("/dev/full", &full).expect("linked");
    let model = pipeline("a").display().to_string();
    let common = ["generate", "a cat", "--model", &model, "--size=32x32", "--frames=5", "--steps=2", "--out", &out];
    let output = mutoscope(&[&common[..], &["--checkpoint", &run, "--save-latents", &full]].concat());
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    for words in [&full, "disk is full", "make room", "2 of 2 steps are kept", "mutoscope resume"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!Path::new(&out).exists());
    let output = mutoscope(&["resume", &run, "--save-latents", &latents]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(Path::new(&out).exists() && Path::new(&latents).exists());
    // A device is no place for a checkpoint, for which a complete file takes the place of another: it is told, and stays.
    for quiet in [&["--quiet"][..], &[]] {
        let output = mutoscope(&[&common[..], &["--checkpoint", &full], quiet].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("could not be saved"), "{quiet:?}: {told}");
    }
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &std::fs::metadata("/dev/full").expect("there").file_type()
    ));
}
