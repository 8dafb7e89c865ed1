//! Runs that are saved and go on: to the same bits, also after a kill at any moment, or not at all.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mutoscope::Error;
use mutoscope::graph::DeviceProfile;
use mutoscope::media::Frame;
use mutoscope::pipeline::{
    Checkpoint, Engine, Event, Known, Model, Phase, Precision, Request, Saved, Tile, Tiling, Video,
};
use mutoscope::sampling::Sampler;

use crate::cli::{mutoscope, refused};
use crate::device::gpu;
use crate::golden::pipeline;

fn open(name: &str) -> Model {
    Model::open(pipeline(name)).unwrap_or_else(|e| panic!("{e}"))
}

fn small(steps: usize) -> Request {
    Request {
        size: Some((32, 32)),
        frames: Some(5),
        steps: Some(steps),
        seed: 11,
        precision: Precision::F32,
        ..Request::new("a cat walks on grass")
    }
}

fn picture(seed: u8) -> Frame {
    Frame::new(32, 32, (0..32 * 32 * 3u32).map(|i| (i * u32::from(seed) % 251) as u8).collect()).expect("a picture")
}

/// Runs a request, from a checkpoint if there is one, and cancels it once `until` steps are done.
fn run(model: &Model, request: &Request, saved: Option<&Saved>, until: usize) -> Result<(Video, Vec<Frame>), Error> {
    let engine = Engine::on(gpu());
    let mut frames = Vec::new();
    let mut observer = |event: Event<'_>| {
        match event {
            Event::Progress { phase: Phase::Denoise, step, .. } if step >= until => return Err(Error::Cancelled),
            Event::Checkpoint { error: Some(error), .. } => panic!("{error}"),
            Event::Frame { frame, .. } => frames.push(frame.clone()),
            _ => {}
        }
        Ok(())
    };
    let video = match saved {
        None => engine.generate(model, request, &mut observer),
        Some(saved) => engine.resume(model, request, saved, &mut observer),
    };
    video.map(|video| (video, frames))
}

#[test]
fn a_cancelled_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let known = vec![Known::first(picture(7))];
    let video = vec![picture(3), picture(5), picture(11), picture(13), picture(17)];
    let cases: [(&str, Request, &[usize]); 5] = [
        ("a", small(6), &[1, 2, 3, 4, 5, 6]),
        ("a", Request { tiling: Tiling::On(Tile { size: 16, stride: 16 }), guidance: Some(1.0), ..small(4) }, &[2]),
        ("c", Request { sampler: Some(Sampler::Euler), ..small(4) }, &[3, 4]),
        ("c", Request { video: video.into(), strength: Some(0.5), ..small(8) }, &[1, 2]),
        ("e", Request { known, ..small(5) }, &[1, 4]),
    ];
    for (number, (name, request, stops)) in cases.into_iter().enumerate() {
        let model = open(name);
        let (whole, frames) = run(&model, &request, None, usize::MAX).unwrap_or_else(|e| panic!("{e}"));
        let checkpoint = Checkpoint { path: folder.path().join(format!("{number}.run")), note: "a note".into() };
        let request = Request { checkpoint: Some(checkpoint.clone()), ..request };
        let mut saved: Option<Saved> = None;
        for &stop in stops {
            let ended = run(&model, &request, saved.as_ref(), stop);
            assert!(matches!(ended, Err(Error::Cancelled)), "{name}: {ended:?}");
            let now = Saved::open(&checkpoint.path).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((now.done(), now.note()), (stop, "a note"));
            assert_eq!(now.steps(), whole.settings.steps_to_run());
            saved = Some(now);
        }
        // From the last one, and from the file that the whole run leaves.
        for _ in 0..2 {
            let (again, same) =
                run(&model, &request, saved.as_ref(), usize::MAX).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(whole.latents.bytes(), again.latents.bytes(), "{name}: latents");
            assert!(frames == same, "{name}: frames");
            let now = Saved::open(&checkpoint.path).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(now.done(), now.steps());
            assert_eq!(*now.recipe(), again.settings.recipe(&model, again.precision));
            saved = Some(now);
        }
    }
}

#[test]
fn what_is_not_the_same_run_is_refused_with_what_differs() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.run");
    let (model, checkpoint) = (open("a"), Some(Checkpoint { path: path.clone(), note: String::new() }));
    let request = Request { checkpoint, ..small(4) };
    assert!(run(&model, &request, None, 2).is_err());
    let saved = Saved::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let refuse = |engine: &Engine, model: &Model, request: &Request, saved: &Saved, word: &str| {
        let error = engine.resume(model, request, saved, &mut |_| Ok(())).expect_err("refused");
        let told = error.to_string();
        assert!(matches!(error, Error::Request { .. }) && told.contains(word) && told.contains("a.run"), "{told}");
    };
    let engine = Engine::on(gpu());
    refuse(&engine, &open("b"), &request, &saved, "`a`");
    for (other, word) in [
        (Request { seed: 12, ..request.clone() }, "seed was 11, and now it is 12"),
        (Request { steps: Some(5), ..request.clone() }, "steps was 4, and now it is 5"),
        (Request { prompt: "a dog".into(), ..request.clone() }, "prompt was a cat"),
    ] {
        refuse(&engine, &model, &other, &saved, word);
    }
    let elsewhere = DeviceProfile { name: "another card".into(), ..gpu().profile().clone() };
    refuse(&Engine::on(gpu().restricted(elsewhere)), &model, &request, &saved, "another card");

    // Another version's, and files that are none.
    let bytes = std::fs::read(&path).expect("read");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("written");
        Saved::open(folder.path().join(name))
    };
    let text = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).expect("there");
        [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
    };
    let version = format!("\\\"{}\\\"", env!("CARGO_PKG_VERSION"));
    let older = write("older-a.run", &text(&version, &version.replace(char::is_numeric, "7")));
    refuse(&engine, &model, &request, &older.unwrap_or_else(|e| panic!("{e}")), "7.7.7");
    for (name, bytes, word) in [
        ("format", text("checkpoint 2", "checkpoint 1"), "another version"),
        ("step", text("\"step\":\"2\"", "\"step\":\"1\""), "damaged"),
        ("bit", [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat(), "damaged"),
        ("cut", bytes[..bytes.len() - 1].to_vec(), "truncated"),
        ("none", b"no checkpoint".to_vec(), "safetensors"),
        ("step", text("\"step\":\"2\"", "\"step\":\"9\""), "step"),
    ] {
        let error = write(name, &bytes).expect_err("refused");
        assert!(
            matches!(error, Error::Model { .. } | Error::Tensor { .. }) && error.to_string().contains(word),
            "{error}"
        );
    }
    assert!(matches!(Saved::open(folder.path().join("nowhere")), Err(Error::Io { .. })));
}

/// A checkpoint that cannot be written is told, and the run goes on.
#[test]
fn a_run_outlives_the_disk_of_its_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gone").join("a.run");
    std::fs::create_dir(folder.path().join("gone")).expect("made");
    let request = Request { checkpoint: Some(Checkpoint { path, note: String::new() }), ..small(3) };
    let mut failed = Vec::new();
    let ended = Engine::on(gpu()).generate(&open("a"), &request, &mut |event| {
        match event {
            Event::Settled(_) => std::fs::remove_dir(folder.path().join("gone")).expect("removed"),
            Event::Checkpoint { step, error } => failed.push((step, error.is_some_and(|e| e.exit_code() == 3))),
            _ => {}
        }
        Ok(())
    });
    assert!(ended.is_ok());
    assert!(failed.first() == Some(&(1, true)) && failed.last() == Some(&(3, true)), "{failed:?}");
}

/// Numbers for tests, SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// Runs the program and kills it a little after so many lines of its events, unless it ends before; the first denoising
/// step that it told of, and whether it was killed.
fn killed(arguments: &[&str], lines: u64, nap: Duration) -> (Option<u64>, bool) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mutoscope"))
        .args(arguments)
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    let mut first = None;
    for (number, line) in (1..).zip(BufReader::new(child.stdout.take().expect("piped")).lines()) {
        let event: serde_json::Value = serde_json::from_str(&line.expect("text")).expect("JSON");
        if first.is_none() && event["phase"] == "denoise" {
            first = event["step"].as_u64();
        }
        if number == lines {
            std::thread::sleep(nap);
            child.kill().expect("killed");
            let status = child.wait().expect("ended");
            return (first, !status.success());
        }
    }
    assert!(child.wait().expect("ended").success());
    (first, false)
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    const SEED: u64 = 4;
    println!("seed {SEED}");
    let mut random = Random(SEED);
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let model = pipeline("a").display().to_string();
    let common =
        ["generate", "a cat", "--model", &model, "--size=32x32", "--frames=5", "--steps=40", "--precision=f32"];
    let whole = mutoscope(&[&common[..], &["--out", &at("whole.png"), "--save-latents", &at("whole")]].concat());
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let (mut kills, mut resumed) = (0, 0);
    for _ in 0..3 {
        let (run, out, latents) = (at("a.run"), at("a.png"), at("a"));
        let began = [&common[..], &["--out", &out, "--save-latents", &latents, "--checkpoint", &run]].concat();
        loop {
            let saved = Path::new(&run).exists();
            let arguments = if saved { vec!["resume", &run] } else { began.clone() };
            let (lines, nap) = (1 + random.below(70), Duration::from_micros(random.below(4000)));
            let (first, killed) = killed(&arguments, lines, nap);
            resumed += u32::from(saved && first > Some(0));
            if !killed {
                break;
            }
            kills += 1;
        }
        assert_eq!(read("whole.png"), read("a.png"));
        assert_eq!(read("whole"), read("a"));
        for name in ["a.run", "a.png", "a"] {
            std::fs::remove_file(folder.path().join(name)).expect("removed");
        }
    }
    println!("{kills} kills, {resumed} times it went on after a step");
    assert!(kills > 3 && resumed > 2, "{kills} kills, {resumed} times it went on: nothing is proved");
}

/// What the command line says of a run that ends too soon, and how it goes on elsewhere.
#[cfg(unix)]
#[test]
fn the_command_line_says_how_to_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let (run, out, moved) = (at("a.run"), at("a.gif"), at("moved.gif"));
    let model = pipeline("a").display().to_string();
    let common = ["generate", "a cat", "--model", &model, "--size=32x32", "--frames=5"];
    let saved = [&common[..], &["--steps=400", "--out", &out, "--checkpoint", &run]].concat();
    let child = Command::new(env!("CARGO_BIN_EXE_mutoscope"))
        .args(&saved)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    while !PathBuf::from(&run).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().expect("a shell");
    assert!(kill.success());
    let ended = child.wait_with_output().expect("ended");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(99), "{told}");
    assert!(told.contains("of 400 steps are kept") && told.contains(&format!("mutoscope resume {run}")), "{told}");
    assert!(!Path::new(&out).exists());

    // A new run does not take its place.
    let (code, told) = refused(&saved);
    assert!(code == 2 && told.contains("--checkpoint") && told.contains("mutoscope resume"), "{told}");
    let output = mutoscope(&["resume", &run, "--out", &moved]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("going on after"), "{told}");
    assert!(Path::new(&moved).exists() && !Path::new(&out).exists());
    // The same run without a break.
    assert!(mutoscope(&[&common[..], &["--steps=400", "--out", &out]].concat()).status.success());
    assert_eq!(std::fs::read(&moved).expect("read"), std::fs::read(&out).expect("read"));
    let (code, told) = refused(&["resume", &out]);
    assert!(code == 4 && told.contains("a.gif"), "{told}");
    let (code, told) = refused(&[&common[..], &["--out", &out, "--checkpoint", &out]].concat());
    assert!(code == 2 && told.contains("--checkpoint"), "{told}");
}
