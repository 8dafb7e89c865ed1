//! Files that were sound and are not: a bounded run of mutations with a fixed seed over everything that reads a file, with
//! a count of what is allocated. `tools/fuzz` looks for longer.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use mutoscope::Error;
use mutoscope::media::{Recipe, read_picture, read_recipe, read_video};
use mutoscope::models::umt5::Umt5Config;
use mutoscope::models::wan_transformer::WanTransformerConfig;
use mutoscope::models::wan_vae::WanVaeConfig;
use mutoscope::sampling::SamplerConfig;
use mutoscope::text::Tokenizer;
use mutoscope::weights::{Archive, Config, Lora, TensorFile};

use crate::golden::{folder, pipeline};

/// The system's allocator, which counts what each thread holds.
struct Counted;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // A thread that ends has no such cells any more, and nobody asks it.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator as it came; the bookkeeping touches `Cell`s that need
// neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// The most bytes that a call held beyond what was held before it.
fn peak_of(call: impl FnOnce()) -> u64 {
    let before = HELD.get();
    PEAK.set(before);
    call();
    (PEAK.get() - before).max(0) as u64
}

#[test]
fn what_is_allocated_is_counted() {
    let peak = peak_of(|| drop(std::hint::black_box(vec![1u8; 1 << 20])));
    assert!((1 << 20..2 << 20).contains(&peak), "{peak}");
}

/// xorshift64*, so that a run is the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Changes a file as damage and malice do: bits, bytes, numbers at their limits, pieces cut out, doubled or moved.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        // Headers are where the lies are, and they are at the beginning or the end.
        let zone = if random.below(3) > 0 { bytes.len().min(600) } else { bytes.len() };
        let mut at = random.below(zone);
        if random.below(4) == 0 {
            at = bytes.len().saturating_sub(1 + at);
        }
        let width = 1 << random.below(4);
        let end = (at + width).min(bytes.len());
        let Some(window) = bytes.get_mut(at..end) else { continue };
        match random.below(8) {
            0 => window.iter_mut().take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
            1 => window.fill(0xff),
            2 => window.fill(0),
            3 => window.iter_mut().for_each(|byte| *byte = random.next() as u8),
            4 => window.iter_mut().take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
            5 => bytes.truncate(at),
            6 => drop(bytes.drain(at..end)),
            _ => {
                let piece = window.to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

/// Runs mutants of each sound file through `read`, which answers what it refused them with; holds errors to their form
/// and memory to `most` bytes for a file of that size.
fn run(
    what: &str,
    sound: &[(String, Vec<u8>)],
    rounds: usize,
    most: fn(usize) -> u64,
    read: &dyn Fn(&Path) -> Vec<Error>,
) {
    let seed = 0x5eed_0000_0001u64;
    let place = tempfile::tempdir().expect("a folder");
    let (mut random, mut refused, mut highest) = (Random(seed), 0, 0);
    for round in 0..rounds {
        let (name, bytes) = &sound[round % sound.len()];
        let mut bytes = bytes.clone();
        if round >= sound.len() {
            mutate(&mut bytes, &mut random);
        }
        let path = place.path().join(name);
        std::fs::write(&path, &bytes).expect("written");
        let mut errors = Vec::new();
        let peak = peak_of(|| errors = read(&path));
        highest = highest.max(peak);
        let label = format!("{what}, seed {seed:#x}, round {round}, {name}");
        assert!(peak <= most(bytes.len()), "{label}: {peak} bytes held for a file of {}", bytes.len());
        if round < sound.len() {
            assert!(errors.is_empty(), "{label}: {errors:?}");
        }
        for error in &errors {
            let message = error.to_string();
            let kind =
                matches!(error, Error::Model { .. } | Error::Tensor { .. } | Error::Media { .. } | Error::Io { .. });
            assert!(kind && message.contains(name.as_str()), "{label}: {error:?}");
            assert!(message.len() < 3000, "{label}: {message}");
        }
        refused += usize::from(!errors.is_empty());
    }
    println!("{what}: {rounds} files, {refused} refused, at most {highest} bytes held");
    assert!(refused > rounds / 20, "{what}: hardly anything was broken");
}

fn files(paths: &[std::path::PathBuf]) -> Vec<(String, Vec<u8>)> {
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    paths
        .iter()
        .map(|path| (name(path), std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))))
        .collect()
}

#[test]
fn files_of_tensors() {
    let sound =
        files(&["files/torch.pth", "files/types.gguf", "loras/original.safetensors"].map(|name| folder().join(name)));
    run("tensors", &sound, 3000, |bytes| 64 * 1024 + 40 * bytes as u64, &|path| {
        let file = match TensorFile::open(path) {
            Ok(file) => file,
            Err(error) => return vec![error],
        };
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        names
            .iter()
            .filter_map(|name| file.tensor(name).err())
            .filter(|error| !error.to_string().contains("its type"))
            .collect()
    });
}

#[test]
fn loras() {
    let model = Archive::open(pipeline("a").join("transformer"), "diffusion_pytorch_model").expect("a golden");
    let sound = files(&[folder().join("loras/original.safetensors")]);
    run("LoRA", &sound, 1500, |bytes| 256 * 1024 + 40 * bytes as u64, &|path| {
        let adapted = Lora::open(path).and_then(|lora| model.adapted(&[(&lora, 0.5)]));
        match adapted {
            Ok(adapted) => adapted.archive.names().filter_map(|name| adapted.archive.tensor(name).err()).collect(),
            Err(error) => vec![error],
        }
    });
}

#[test]
fn settings() {
    let parts = ["transformer", "vae", "text_encoder"].map(|part| pipeline("a").join(part).join("config.json"));
    let read = |path: &Path, config: Config| match path.to_string_lossy() {
        name if name.contains("transformer") => WanTransformerConfig::read(&config).err(),
        name if name.contains("vae") => WanVaeConfig::read(&config).err(),
        _ => Umt5Config::read(&config).err(),
    };
    for (part, path) in ["transformer", "vae", "text_encoder"].iter().zip(parts) {
        let sound = vec![(format!("{part}.json"), std::fs::read(path).expect("a golden"))];
        run(part, &sound, 1000, |bytes| 64 * 1024 + 200 * bytes as u64, &|path| match Config::open(path) {
            Ok(config) => read(path, config).into_iter().collect(),
            Err(error) => vec![error],
        });
    }
    let sound = files(&[pipeline("a").join("scheduler/scheduler_config.json")]);
    run("scheduler", &sound, 1000, |bytes| 64 * 1024 + 200 * bytes as u64, &|path| {
        let bytes = std::fs::read(path).expect("written");
        SamplerConfig::from_json(path, &bytes, None).err().into_iter().collect()
    });
}

#[test]
fn tokenizers() {
    let sound =
        files(&[pipeline("a").join("tokenizer/tokenizer.json"), pipeline("c").join("tokenizer/tokenizer.json")]);
    let sound: Vec<_> = sound.into_iter().enumerate().map(|(i, (_, bytes))| (format!("{i}.json"), bytes)).collect();
    run("tokenizer", &sound, 400, |bytes| (4 << 20) + 200 * bytes as u64, &|path| {
        let tokenizer = match Tokenizer::open(path) {
            Ok(tokenizer) => tokenizer,
            Err(error) => return vec![error],
        };
        tokenizer.encode("a red circle \u{1f3a8} moves").err().into_iter().collect()
    });
}

#[test]
fn recipes() {
    let recipe = Recipe { prompt: "a \u{1f3a8} circle".into(), steps: 3, ..Recipe::default() };
    let sound = recipe.to_json().expect("JSON").into_bytes();
    let mut random = Random(0x5eed_0000_0002);
    for _ in 0..2000 {
        let mut bytes = sound.clone();
        mutate(&mut bytes, &mut random);
        let text = String::from_utf8_lossy(&bytes);
        let peak = peak_of(|| drop(Recipe::from_json(&text)));
        assert!(peak < 64 * 1024 + 200 * bytes.len() as u64, "{peak}");
    }
}

/// Sound files that goldens hold as tensors `KEY.file`, by the keys of a list.
fn kept(part: &str, list: &str) -> Vec<(String, Vec<u8>)> {
    let path = folder().join(part);
    let numbers = TensorFile::open(path.with_extension("safetensors")).expect("goldens");
    let cases = std::fs::read(path.with_extension("json")).expect("goldens");
    let cases: serde_json::Value = serde_json::from_slice(&cases).expect("JSON");
    let keys =
        cases[list].as_array().expect("a list").iter().map(|case| case["key"].as_str().expect("a key").to_owned());
    let file = |key: String| {
        let bytes = numbers.raw(&format!("{key}.file")).expect("a file").bytes.to_vec();
        (key, bytes)
    };
    let files: Vec<_> = keys.map(file).collect();
    assert!(files.len() >= 5, "{part}: too few files");
    files
}

/// A small file may claim as many pixels as any that is read: 2^27, in what its decoder needs for them.
fn pictures_and_what_decoders_need(_: usize) -> u64 {
    3 << 29
}

#[test]
fn pictures() {
    run("pictures", &kept("media", "pictures"), 600, pictures_and_what_decoders_need, &|path| {
        read_picture(path).err().into_iter().collect()
    });
}

#[test]
fn videos() {
    run("videos", &kept("videos", "read"), 150, pictures_and_what_decoders_need, &|path| {
        let recipe = read_recipe(path).err();
        let frames = match read_video(path) {
            Ok(video) => video.take(200).find_map(Result::err),
            Err(error) => Some(error),
        };
        recipe.into_iter().chain(frames).collect()
    });
}
