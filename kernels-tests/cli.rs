//! The command line, as a user or a script meets it: the built binary, its exit codes, its output.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mutoscope::kernels::ALL;
use mutoscope::media::{Recipe, read_recipe};
use mutoscope::ops::{arithmetic, check, traffic};
use mutoscope::weights::{load_tensor, save_safetensors};
use serde_json::Value;

use crate::device::gpu;

pub(crate) fn mutoscope(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mutoscope"));
    command.args(arguments).output().expect("the binary runs")
}

/// The program's answer, with the promises that hold for every error: a documented code, no panic, and a message of a
/// line or two on standard error.
pub(crate) fn refused(arguments: &[&str]) -> (i32, String) {
    let output = mutoscope(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = output.status.code().expect("an exit code, and no signal");
    assert!((1..100).contains(&code), "{arguments:?}: code {code}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: {stderr}");
    (code, errors[0].to_owned())
}

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

fn pipeline(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/pipelines").join(name)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn help_teaches() {
    let all = stdout(&mutoscope(&["--help"]));
    for part in ["Examples:", "Exit codes:", "generate", "inspect", "doctor", "ops"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    let generate = stdout(&mutoscope(&["generate", "--help"]));
    let flags = [
        "--model",
        "--negative",
        "--size",
        "--frames",
        "--seconds",
        "--fps",
        "--steps",
        "--guidance",
        "--guidance-low",
        "--shift",
        "--sampler",
        "--seed",
        "--precision",
        "--device",
        "--out",
        "--image",
        "--end-image",
        "--known",
        "--save-latents",
        "--latents",
        "--json",
        "--quiet",
        "Examples:",
    ];
    for part in flags {
        assert!(generate.contains(part), "{part}: {generate}");
    }
    for command in [&["doctor", "--help"][..], &["ops", "--help"], &["ops", "test", "--help"], &["ops", "perf", "-h"]] {
        stdout(&mutoscope(command));
    }
    let version = stdout(&mutoscope(&["--version"]));
    assert_eq!(version.trim(), concat!("mutoscope ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_told_in_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.mp4");
    let out = text(&out);
    assert_eq!(mutoscope(&[]).status.code(), Some(2));
    let usage: [&[&str]; 5] = [
        &["make"],
        &["generate"],
        &["generate", "a cat"],
        &["ops"],
        &["generate", "a cat", "--out", out, "--speed", "9"],
    ];
    for arguments in usage {
        let output = mutoscope(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
    let values = [
        ("--size", "64"),
        ("--size", "0x64"),
        ("--size", "64x-64"),
        ("--size", "99999999999999999999x64"),
        ("--frames", "0"),
        ("--frames", "-4"),
        ("--frames", "NaN"),
        ("--frames", "99999999999"),
        ("--seconds", "NaN"),
        ("--seconds", "-1"),
        ("--seconds", "inf"),
        ("--fps", "0"),
        ("--fps", "NaN"),
        ("--fps", "1e9"),
        ("--steps", "0"),
        ("--steps", "-1"),
        ("--steps", "1000000"),
        ("--guidance", "NaN"),
        ("--guidance", "-1"),
        ("--guidance", "1e300"),
        ("--guidance-low", "nan"),
        ("--shift", "0"),
        ("--shift", "NaN"),
        ("--shift", "1e9"),
        ("--sampler", "dpm"),
        ("--seed", "-1"),
        ("--seed", "18446744073709551616"),
        ("--precision", "f64"),
        ("--device", ""),
    ];
    for (flag, value) in values {
        let (code, message) = refused(&["generate", "a cat", "--out", out, flag, value]);
        assert_eq!(code, 2, "{flag} {value}: {message}");
        assert!(message.contains(flag), "{flag} {value}: {message}");
    }
    let (code, message) = refused(&["generate", "a cat", "--out", out, "--frames", "5", "--seconds", "1"]);
    assert!(code == 2 && message.contains("--seconds"), "{message}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0, "nothing is left behind");
}

#[test]
fn outputs_and_inputs_that_cannot_work_are_told_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(at("file"), b"not a folder").expect("written");
    std::fs::write(at("broken.safetensors"), [255; 64]).expect("written");
    let noise = mutoscope::tensor::HostTensor::from_f32([2], &[0.0, 1.0]);
    save_safetensors(at("other.safetensors"), &[("noise", noise)], &[]).expect("saved");
    let model = pipeline("a");
    let model = text(&model);
    let out = at("a.mp4");
    let cases: [(&[&str], i32, &str); 11] = [
        (&["--out", &at("a.avi")], 2, ".mp4"),
        (&["--out", &at("a")], 2, ".mp4"),
        (&["--out", &at("missing/a.mp4")], 2, "missing"),
        (&["--out", &at("file/a.mp4")], 2, "--out"),
        (&["--out", &out, "--save-latents", &at("missing/l.safetensors")], 2, "--save-latents"),
        (&["--out", &out, "--save-latents", &out], 2, "--save-latents"),
        (&["--out", &out, "--latents", &at("missing.safetensors")], 3, "missing.safetensors"),
        (&["--out", &out, "--latents", &at("broken.safetensors")], 4, "broken.safetensors"),
        (&["--out", &out, "--latents", &at("other.safetensors")], 4, "latents"),
        (&["--out", &out, "--model", &at("nowhere")], 3, "nowhere"),
        (&["--out", &out, "--model", &at("file")], 4, "neither safetensors"),
    ];
    for (arguments, code, part) in cases {
        let all = [&["generate", "a cat"], arguments].concat();
        let (got, message) = refused(&all);
        assert!(got == code && message.contains(part), "{arguments:?}: {got}: {message}");
    }
    // Off the model's grid: the nearest that work are named.
    for (flag, value, near) in [("--size", "33x32", "32"), ("--frames", "6", "5 or 9"), ("--guidance-low", "3", "one")]
    {
        let (code, message) = refused(&["generate", "a cat", "--model", model, "--out", &out, flag, value]);
        assert!(code == 2 && message.contains(flag) && message.contains(near), "{message}");
    }
    let mut left: Vec<_> =
        std::fs::read_dir(folder.path()).expect("listed").map(|e| e.expect("read").file_name()).collect();
    left.sort();
    assert_eq!(left, ["broken.safetensors", "file", "other.safetensors"], "nothing is left behind");
}

#[test]
fn a_program_that_asks_for_json_gets_its_errors_so() {
    for arguments in [&["generate", "a cat", "--json", "--out", "a.avi"][..], &["generate", "--json", "--frames", "0"]]
    {
        let output = mutoscope(arguments);
        let events = json_lines(&String::from_utf8_lossy(&output.stdout));
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0]["event"], "error");
        assert_eq!(events[0]["code"].as_i64(), output.status.code().map(i64::from));
        assert!(events[0]["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[test]
fn kernels_are_listed() {
    let listed = json_lines(&stdout(&mutoscope(&["ops", "list", "--json"])));
    let names: Vec<&str> = listed.iter().filter_map(|line| line["kernel"].as_str()).collect();
    assert_eq!(names, ALL.iter().map(|op| op.name).collect::<Vec<_>>());
    assert!(listed.iter().all(|line| line["cases"].as_u64() > Some(0)));
    let people = stdout(&mutoscope(&["ops", "list"]));
    assert!(ALL.iter().all(|op| people.contains(op.name) && people.contains(op.summary)));
}

#[test]
fn a_kernel_is_tested_and_measured() {
    let tested = stdout(&mutoscope(&["ops", "test", "add", "--json"]));
    let last = tested.lines().last().expect("lines");
    let cases = ALL.iter().find(|op| op.name == "add").map_or(0, |op| (op.cases)().len());
    let skipped = json_lines(&tested)[0]["skipped"].as_u64().expect("a number") as usize;
    assert_eq!(last, format!("{{\"passed\":{},\"failed\":0,\"kernels\":1}}", cases - skipped));

    let measured = json_lines(&stdout(&mutoscope(&["ops", "perf", "rope", "--json"])));
    assert!(measured.len() > 1 && measured[0]["peak_gflops"].as_f64() > Some(0.0), "{measured:?}");
    for line in &measured[1..] {
        assert!(line["gbytes"].as_f64() > Some(0.0) && line["roofline"].as_f64() > Some(0.0), "{line}");
    }
    let (code, message) = refused(&["ops", "test", "matmlu"]);
    assert!(code == 2 && message.contains("matmul"), "{message}");
    let (code, message) = refused(&["ops", "test", "--device", "no such card"]);
    assert!(code == 2 && message.contains("--device"), "{message}");
}

#[test]
fn the_roofline_measures_what_it_says() {
    let gpu = gpu();
    for case in [arithmetic(gpu.profile()), traffic(gpu.profile())] {
        let outcome = check::run(&gpu, &case, 1).expect("runs");
        assert_eq!(outcome.failure, None, "{}", case.label);
    }
}

#[test]
fn the_doctor_sees_the_device() {
    let report = json_lines(&stdout(&mutoscope(&["doctor", "--json"])));
    let [report] = &report[..] else { panic!("one object: {report:?}") };
    let adapters = report["adapters"].as_array().expect("adapters");
    let chosen = report["chosen"]["index"].as_u64().expect("an index") as usize;
    assert_eq!(adapters[chosen]["name"], report["chosen"]["name"]);
    assert!(["f32", "f16"].contains(&report["precision"]["auto"].as_str().expect("a precision")));
    assert_eq!(report["shaders"].as_object().expect("shaders").len(), ALL.len());
    let people = stdout(&mutoscope(&["doctor"]));
    assert!(
        people.contains("It works") && people.contains(report["chosen"]["name"].as_str().expect("a name")),
        "{people}"
    );
    let (code, message) = refused(&["doctor", "--device", "97"]);
    assert!(code == 2 && message.contains("97"), "{message}");
}

/// With no driver that works, everything that needs a device says so, with the code for that.
#[cfg(target_os = "linux")]
#[test]
fn without_an_adapter_it_says_what_to_install() {
    let none = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mutoscope"));
        for name in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            command.env(name, "/nonexistent.json");
        }
        command.args(arguments).output().expect("the binary runs")
    };
    for arguments in [&["doctor"][..], &["doctor", "--json"], &["ops", "test", "add"]] {
        let output = none(arguments);
        assert_eq!(output.status.code(), Some(5), "{arguments:?}: {output:?}");
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("apt-get install") && told.contains("adapter"), "{told}");
    }
}

/// A run small enough for a software driver.
fn generate(out: &Path, more: &[&str]) -> Output {
    let model = pipeline("a");
    let small = ["--size", "32x32", "--frames", "5", "--steps", "2", "--seed", "18446744073709551615"];
    let common = ["generate", "a red \"circle\"", "--model", text(&model), "--out", text(out)];
    mutoscope(&[&common[..], &small, more].concat())
}

fn recipe_of(path: &Path) -> Recipe {
    read_recipe(path).unwrap_or_else(|e| panic!("{e}")).unwrap_or_else(|| panic!("{}: no recipe", path.display()))
}

#[test]
fn every_format_is_written_with_its_recipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut recipes = Vec::new();
    for name in ["a.mp4", "a.gif", "a.png", "frames/%04d.png"] {
        let out = folder.path().join(name);
        let output = generate(&out, &[]);
        assert_eq!(stdout(&output).trim_end(), text(&out));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("seed 18446744073709551615") && told.contains("denoise"), "{told}");
        recipes.push(recipe_of(&out));
    }
    assert_eq!(std::fs::read_dir(folder.path().join("frames")).expect("made").count(), 5);
    let first = recipes.first().expect("recipes");
    assert!(recipes.iter().all(|recipe| recipe == first));
    assert_eq!((first.prompt.as_str(), first.seed, first.steps), ("a red \"circle\"", u64::MAX, 2));
    assert_eq!((first.width, first.height, first.frames), (32, 32, 5));
    assert!(first.model == "a" && !first.model_hash.is_empty() && first.version == env!("CARGO_PKG_VERSION"));
}

#[test]
fn events_and_latents() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (out, saved) = (at("a.png"), at("l.safetensors"));
    let output = generate(&out, &["--json", "--save-latents", text(&saved)]);
    let events = json_lines(&stdout(&output));
    assert!(output.stderr.is_empty() || !String::from_utf8_lossy(&output.stderr).contains("step "), "{output:?}");
    let (first, last) = (events.first().expect("events"), events.last().expect("events"));
    assert_eq!((first["event"].as_str(), last["event"].as_str()), (Some("start"), Some("done")));
    assert_eq!(first["seed"].as_u64(), Some(u64::MAX));
    assert_eq!(last["frames"].as_u64(), Some(5));
    let progress = events.iter().filter(|event| event["event"] == "progress");
    for phase in ["text", "denoise", "decode"] {
        let of: Vec<_> = progress.clone().filter(|event| event["phase"] == phase).collect();
        assert!(of.iter().any(|event| event["fraction"].as_f64() == Some(1.0)), "{phase}: {of:?}");
        assert!(of.iter().all(|event| event["step"].as_u64() <= event["steps"].as_u64()), "{phase}");
    }

    // Noise to start from takes the seed's place: the same noise, whatever the seed, gives the same pixels.
    let latents = load_tensor(&saved, "latents").expect("saved");
    assert_eq!(latents.shape().rank(), 5);
    let start = at("start.safetensors");
    let noise = mutoscope::sampling::randn(latents.shape(), u64::MAX);
    save_safetensors(&start, &[("latents", noise)], &[]).expect("saved");
    let again = at("again.safetensors");
    let from = ["--latents", text(&start), "--save-latents", text(&again), "--seed", "3", "--quiet"];
    let model = pipeline("a");
    let small = ["--size", "32x32", "--frames", "5", "--steps", "2"];
    let common = ["generate", "a red \"circle\"", "--model", text(&model), "--out", text(&out)];
    let output = mutoscope(&[&common[..], &small, &from].concat());
    assert_eq!(stdout(&output), "", "quiet");
    let repeated = load_tensor(&again, "latents").expect("saved");
    assert_eq!(latents.bytes(), repeated.bytes());

    let (code, message) = {
        let size = ["--size", "64x32", "--frames", "5", "--latents", text(&start)];
        refused(&[&common[..], &size].concat())
    };
    assert!(code == 2 && message.contains("--latents"), "{message}");
}

/// Ctrl-C ends a run with its code and leaves nothing behind.
#[cfg(unix)]
#[test]
fn a_cancelled_run_leaves_nothing() {
    use std::io::{BufRead, BufReader, Read};
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("a.mp4");
    let model = pipeline("a");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mutoscope"))
        .args(["generate", "a cat", "--model", text(&model), "--out", text(&out), "--json"])
        .args(["--size", "64x64", "--frames", "17", "--steps", "500"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut events = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("denoise") {
        line.clear();
        assert!(events.read_line(&mut line).expect("read") > 0, "it ended by itself");
    }
    // The shell's own kill, which is everywhere. Background jobs are often started with SIGINT ignored, and stay so.
    let kill = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status().expect("a shell");
    assert!(kill.success());
    let mut rest = String::new();
    events.read_to_string(&mut rest).expect("read");
    let status = child.wait().expect("ended");
    assert_eq!(status.code(), Some(99), "{rest}");
    let last = json_lines(&rest).pop().expect("events");
    assert_eq!((last["event"].as_str(), last["code"].as_i64()), (Some("error"), Some(99)));
    assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
}

/// A reader that goes away early is no error.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_panic() {
    let command = format!("'{}' ops list | head -n 1", env!("CARGO_BIN_EXE_mutoscope"));
    for command in
        [command.clone(), command.replace("ops list", "generate --help"), command.replace("ops list", "doctor")]
    {
        let output = Command::new("sh").args(["-c", &command]).output().expect("a shell");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{output:?}");
        assert!(!output.stdout.is_empty());
    }
}
