//! The rules of `src/ARCHITECTURE.md` that the compiler does not hold: who may use whom, where things lie, and what
//! every kernel comes with.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mutoscope::graph::{Call, DeviceProfile, TensorType};
use mutoscope::kernels::ALL;
use source::{code, has_word, names_of_crate};

/// Which modules of the crate a module may use, `error` aside, which is free to all. In the order of the layers: none
/// uses one that comes after it.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("temporary", &[]),
    ("tensor", &[]),
    ("graph", &["tensor"]),
    ("kernels", &["tensor", "graph"]),
    ("gpu", &["tensor", "graph"]),
    ("ops", &["tensor", "graph", "kernels", "gpu"]),
    ("weights", &["temporary", "tensor"]),
    ("nn", &["tensor", "graph", "kernels", "weights"]),
    ("models", &["tensor", "graph", "kernels", "weights", "nn"]),
    ("text", &[]),
    ("sampling", &["tensor"]),
    ("media", &["temporary"]),
    ("embedded", &[]),
    (
        "pipeline",
        &["tensor", "graph", "kernels", "gpu", "weights", "nn", "models", "text", "sampling", "media", "embedded"],
    ),
];

/// What may lie at the top of the repository, besides dotfiles and licences.
const TOP: &[&str] =
    &["Cargo.toml", "Cargo.lock", "README.md", "CHANGELOG.md", "src", "shaders", "kernels-tests", "benches", "tools"];

/// The least number of cases of one kernel, and of all together.
const CASES_OF_ONE: usize = 6;
const CASES_OF_ALL: usize = 300;

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// All files under a folder of the repository with one of these extensions, by their paths from the root; hidden folders are
/// what tools have made for themselves (`tools/train/.venv`).
fn files(folder: &str, extensions: &[&str]) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                    walk(&path, found);
                }
            } else {
                found.push(path);
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    walk(&root.join(folder), &mut found);
    let wanted = |path: &PathBuf| path.extension().is_some_and(|e| extensions.iter().any(|&wanted| e == wanted));
    let mut names: Vec<String> = found
        .into_iter()
        .filter(wanted)
        .map(|path| path.strip_prefix(&root).expect("under the root").to_string_lossy().replace('\\', "/"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no files under {folder}");
    names
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The top-level module that a file of `src` belongs to; empty for the crate's root.
fn module_of(file: &str) -> &str {
    let inside = file.strip_prefix("src/").unwrap_or(file);
    match inside.split_once('/') {
        Some((module, _)) => module,
        None => inside.strip_suffix(".rs").filter(|name| !matches!(*name, "lib" | "main")).unwrap_or(""),
    }
}

#[track_caller]
fn none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

/// Uses of one module by another, with a file in which each is found.
fn uses() -> BTreeMap<(String, String), String> {
    let mut uses = BTreeMap::new();
    for file in files("src", &["rs"]) {
        let user = module_of(&file);
        for name in names_of_crate(&code(&read(&file))) {
            // What the crate's root exports under a capital is for those who use the crate, errors aside.
            let used = if matches!(&*name, "Error" | "Result") { "error".to_owned() } else { name };
            if used != user {
                uses.entry((user.to_owned(), used)).or_insert_with(|| file.clone());
            }
        }
    }
    uses
}

#[test]
fn modules_use_only_the_layers_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = LAYERS.iter().copied().collect();
    let mut faults = Vec::new();
    let uses = uses();
    assert!(uses.len() > LAYERS.len() / 2, "hardly any use was found: {uses:?}");
    for ((user, used), file) in &uses {
        // The crate's root and the command line stand above everything.
        if matches!(&**user, "" | "cli") || used == "error" {
            continue;
        }
        match allowed.get(&**user) {
            None => faults.push(format!("{file}: `{user}` has no layer in this test")),
            Some(below) if !below.contains(&&**used) => faults.push(format!("{file}: {user} uses {used}")),
            Some(_) => {}
        }
    }
    none("who may use whom", &faults);
}

#[test]
fn layers_have_no_cycles() {
    for (i, (module, below)) in LAYERS.iter().enumerate() {
        for used in *below {
            let at = LAYERS.iter().position(|(other, _)| other == used);
            assert!(at.is_some_and(|at| at < i), "{module} would use {used}, which does not come before it");
        }
    }
}

#[test]
fn every_folder_of_the_library_is_a_layer() {
    let known: BTreeSet<&str> = LAYERS.iter().map(|(module, _)| *module).chain(["", "cli"]).collect();
    let unknown: Vec<String> =
        files("src", &["rs"]).into_iter().filter(|file| !known.contains(module_of(file))).collect();
    none("no layer in this test", &unknown);
}

#[test]
fn only_gpu_names_wgpu() {
    let mut faults = files("src", &["rs"]);
    faults.retain(|file| module_of(file) != "gpu" && has_word(&code(&read(file)), "wgpu"));
    none("`wgpu` outside src/gpu", &faults);
    assert!(has_word(&code(&read("src/gpu/device.rs")), "wgpu"), "the search finds what is there");
}

#[test]
fn only_the_command_line_prints() {
    let mut faults = Vec::new();
    for file in files("src", &["rs"]) {
        if module_of(&file) == "cli" || file == "src/main.rs" {
            continue;
        }
        let code = code(&read(&file));
        for name in ["println!", "print!", "eprintln!", "eprint!", "dbg!"] {
            if code.match_indices(name).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric())) {
                faults.push(format!("{file}: {name}"));
            }
        }
    }
    none("output outside src/cli", &faults);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut faults = Vec::new();
    for folder in ["src", "kernels-tests", "benches"] {
        for file in files(folder, &["rs"]) {
            let code = code(&read(&file));
            for mark in ["todo!", "unimplemented!", "#[ignore"] {
                if code.contains(mark) {
                    faults.push(format!("{file}: {mark}"));
                }
            }
        }
    }
    none("unfinished", &faults);
}

#[test]
fn files_stay_readable() {
    let mut faults = Vec::new();
    for folder in ["src", "shaders", "kernels-tests", "benches", "tools"] {
        for file in files(folder, &["rs", "wgsl", "py", "sh", "md"]) {
            let lines = read(&file).lines().count();
            if lines > 700 {
                faults.push(format!("{file}: {lines} lines"));
            }
        }
    }
    none("more than 700 lines", &faults);
}

#[test]
fn every_module_and_shader_says_what_it_is() {
    let mut faults = files("src", &["rs"]);
    faults.retain(|file| !["//!", "#![doc"].iter().any(|header| read(file).starts_with(header)));
    let mut shaders = files("shaders", &["wgsl"]);
    shaders.retain(|file| !read(file).starts_with("//") && !read(file).starts_with("/*#"));
    faults.extend(shaders);
    none("no header", &faults);
}

#[test]
fn every_storage_binding_shows_its_shape() {
    let mut faults = Vec::new();
    for file in files("shaders", &["wgsl"]) {
        for line in read(&file).lines().filter(|line| line.contains("@binding") && line.contains("var<storage")) {
            let shape = line.rsplit_once("//").is_some_and(|(_, comment)| comment.contains('['));
            if !shape {
                faults.push(format!("{file}: {}", line.trim()));
            }
        }
    }
    none("no shape beside the binding", &faults);
}

#[test]
fn the_top_of_the_repository_holds_only_what_belongs_there() {
    // Git knows what is part of the repository; without it, whatever lies there is.
    let git = std::process::Command::new("git").args(["ls-tree", "--name-only", "HEAD"]).current_dir(root()).output();
    let listed =
        git.ok().filter(|git| git.status.success()).map(|git| String::from_utf8_lossy(&git.stdout).into_owned());
    let names: Vec<String> = match listed {
        Some(listed) => listed.lines().map(str::to_owned).collect(),
        None => std::fs::read_dir(root())
            .expect("a readable root")
            .map(|entry| entry.expect("a readable entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name != "target")
            .collect(),
    };
    assert!(names.iter().any(|name| name == "Cargo.toml"), "not a repository: {names:?}");
    let belongs = |name: &String| name.starts_with(['.']) || name.starts_with("LICENSE") || TOP.contains(&&**name);
    let faults: Vec<String> = names.into_iter().filter(|name| !belongs(name)).collect();
    none("does not belong at the top", &faults);
}

/// Paths that `include_str!` of a file names, from the root.
fn included(file: &str) -> Vec<String> {
    let text = read(file);
    let blank = code(&text);
    // Strings are blanked out in `code`, at the same characters.
    let (text, blank): (Vec<char>, Vec<char>) = (text.chars().collect(), blank.chars().collect());
    let mark: Vec<char> = "include_str!(\"".chars().collect();
    let starts = (0..blank.len()).filter(|&i| blank[i..].starts_with(&mark)).map(|i| i + mark.len());
    let paths = starts.map(|start| text[start..].iter().take_while(|&&c| c != '"').collect::<String>());
    let folder = Path::new(file).parent().expect("a file lies in a folder").to_owned();
    paths.map(|path| normal(&folder.join(path))).collect()
}

/// A path without `..`.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part.as_os_str().to_string_lossy() {
            part if part == ".." => {
                parts.pop();
            }
            part => parts.push(part.into_owned()),
        }
    }
    parts.join("/")
}

#[test]
fn every_shader_is_compiled_in_and_used() {
    let included: BTreeSet<String> = files("src", &["rs"]).iter().flat_map(|file| included(file)).collect();
    let shaders = files("shaders", &["wgsl"]);
    let texts: Vec<String> = shaders.iter().map(|file| read(file)).collect();
    let mut faults = Vec::new();
    let quoted = |shader: &str| format!("\"{}\"", shader.strip_prefix("shaders/").unwrap_or(shader));
    // Pieces that bring the entry point to the shaders that include them.
    let entries: Vec<String> =
        shaders.iter().filter(|shader| read(shader).contains("@compute")).map(|shader| quoted(shader)).collect();
    for (shader, text) in shaders.iter().zip(&texts) {
        if !included.contains(shader) {
            faults.push(format!("{shader} is not compiled in"));
        }
        let path = quoted(shader);
        let entry = text.contains("@compute") || entries.iter().any(|piece| text.contains(piece));
        if !entry && !texts.iter().any(|text| text.contains(&path)) {
            faults.push(format!("no shader includes {shader}"));
        }
    }
    let lost = included.iter().filter(|file| file.starts_with("shaders/") && !shaders.contains(file));
    faults.extend(lost.map(|file| format!("{file} is not there")));
    none("shaders", &faults);
}

#[test]
fn sources_and_labels_of_kernels_bear_their_names() {
    let profile = DeviceProfile { f16: true, ..DeviceProfile::webgpu_floor() };
    let mut faults = BTreeSet::new();
    for op in ALL {
        for case in (op.cases)() {
            if case.kernel.name() != op.name {
                faults.insert(format!("{}: a case is of {}", op.name, case.kernel.name()));
            }
            let inputs: Vec<TensorType> = case.inputs.iter().map(|input| input.ty()).collect();
            let output =
                case.kernel.infer(&inputs).unwrap_or_else(|reason| panic!("{} {}: {reason}", op.name, case.label));
            let launch = case.kernel.launch(&Call { inputs: &inputs, output }, &profile);
            let launch = launch.unwrap_or_else(|reason| panic!("{} {}: {reason}", op.name, case.label));
            for dispatch in launch.dispatches {
                let shader = dispatch.shader;
                if !shader.label.starts_with(op.name) {
                    faults.insert(format!("{}: a shader is labelled {}", op.name, shader.label));
                }
                let file = format!("shaders/{}.wgsl", shader.source.path);
                if !root().join(&file).is_file() || read(&file) != shader.source.text {
                    faults.insert(format!("{}: its shader is not {file}", op.name));
                }
            }
        }
    }
    none("names", &faults.into_iter().collect::<Vec<_>>());
}

#[test]
fn every_kernel_has_a_twin_a_summary_and_cases() {
    let sources: Vec<(String, String)> = files("src/kernels", &["rs"])
        .into_iter()
        .filter(|file| !file.contains("/twins/"))
        .map(|file| (file.clone(), read(&file)))
        .collect();
    let twins = files("src/kernels/twins", &["rs"]);
    let (mut faults, mut names) = (Vec::new(), BTreeSet::new());
    let mut cases_of_all = 0;
    for op in ALL {
        let name = op.name;
        let snake = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !snake || !names.insert(name) {
            faults.push(format!("`{name}` is not snake_case, or not unique"));
        }
        if op.summary.is_empty() || op.summary.contains('\n') {
            faults.push(format!("{name}: no summary of one line"));
        }
        // src/kernels/MODULE.rs or src/kernels/MODULE/... registers it; its twin is src/kernels/twins/MODULE.rs.
        let registered = sources.iter().find(|(_, text)| text.contains(&format!("name: \"{name}\"")));
        let module = registered.map(|(file, _)| {
            let inside = file.trim_start_matches("src/kernels/");
            inside.split(['/', '.']).next().unwrap_or(inside).to_owned()
        });
        let twin = module.as_ref().map(|module| format!("src/kernels/twins/{module}"));
        match twin {
            None => faults.push(format!("{name}: no file registers it")),
            Some(twin) if !twins.iter().any(|file| file.trim_end_matches(".rs").starts_with(&twin)) => {
                faults.push(format!("{name}: no {twin}.rs"));
            }
            Some(_) => {}
        }
        let cases = (op.cases)();
        let labels: BTreeSet<&String> = cases.iter().map(|case| &case.label).collect();
        if labels.len() != cases.len() {
            faults.push(format!("{name}: two cases bear one label"));
        }
        if cases.len() < CASES_OF_ONE {
            faults.push(format!("{name}: {} cases", cases.len()));
        }
        if !cases.iter().any(|case| case.bench) {
            faults.push(format!("{name}: no case is measured"));
        }
        let house = [1e-5, 2e-3];
        for case in &cases {
            if !house.contains(&case.tolerance.error) && case.tolerance.reason.is_none() {
                faults.push(format!("{name} {}: a tolerance of its own without a reason", case.label));
            }
        }
        cases_of_all += cases.len();
    }
    println!("{cases_of_all} cases of {} kernels", ALL.len());
    none("kernels", &faults);
    assert!(cases_of_all >= CASES_OF_ALL, "{cases_of_all} cases over all kernels");
}
