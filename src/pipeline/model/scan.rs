//! Looking through files and folders for networks and tokenizers, in whatever way they are laid out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::candidate::{Candidate, Side};
use crate::error::{Error, Result};
use crate::weights::Archive;
use crate::weights::layout::recognise;

/// How deep folders are looked through, and how many entries of them: a home folder given by mistake ends in a message.
const DEEPEST: usize = 4;
const MOST_ENTRIES: usize = 20_000;
/// The endings of files that may hold tensors.
const ENDINGS: &[&str] = &["safetensors", "sft", "gguf", "pth", "pt", "bin", "ckpt"];
/// The folders that ComfyUI keeps files of a kind in, under one roof.
const KINDS: &[&str] = &[
    "diffusion_models",
    "unet",
    "checkpoints",
    "text_encoders",
    "clip",
    "vae",
    "clip_vision",
    "transformer",
    "text_encoder",
    "image_encoder",
];

/// What lies at a place.
#[derive(Default)]
pub(super) struct Scan {
    /// The networks.
    pub networks: Vec<Candidate>,
    /// Folders with a tokenizer in them, and files of one.
    pub tokenizers: Vec<PathBuf>,
    /// Files that hold tensors, if their names are right, and none of a network that is known, or that cannot be read;
    /// each with the reason.
    pub others: Vec<(PathBuf, String)>,
}

/// The folders with a tokenizer that lie where the layouts of models have them, seen from a text encoder's file or folder.
pub(super) fn tokenizers_near(encoder: &Path) -> Vec<PathBuf> {
    let folder = if encoder.is_dir() { encoder } else { encoder.parent().unwrap_or(Path::new("")) };
    let places = ["", "../tokenizer", "google/umt5-xxl", "../google/umt5-xxl"].map(|below| folder.join(below));
    let has = |folder: &PathBuf| ["tokenizer.json", "spiece.model"].iter().any(|name| folder.join(name).is_file());
    places.into_iter().filter(has).collect()
}

/// A group of files that make up one archive.
enum Group {
    File(PathBuf),
    /// The files of a folder that an index lists, or that are chosen by their stem.
    Stem(PathBuf, &'static str),
    /// Numbered files without an index.
    Shards(Vec<PathBuf>),
}

impl Scan {
    /// Looks at a file, or through a folder.
    ///
    /// # Errors
    /// When it cannot be read, or a folder holds more than anyone keeps models in. A file inside a folder that cannot be
    /// read is only noted; one that was named is an error.
    pub fn at(path: &Path) -> Result<Self> {
        let mut scan = Self::default();
        if !std::fs::metadata(path).map_err(|error| Error::io(path, error))?.is_dir() {
            scan.file(path)?;
            return Ok(scan);
        }
        let mut budget = MOST_ENTRIES;
        if !scan.folder(path, DEEPEST, &mut budget)? {
            let reason = format!("it holds more than {MOST_ENTRIES} files; name a model's own folder, or its files");
            return Err(Error::model(path, reason));
        }
        Ok(scan)
    }

    /// Looks through the folder that a file lies in and the folders there; where that is one of ComfyUI's, through its
    /// neighbours too. What it has no time for it leaves out: nobody named these folders.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn around(file: &Path) -> Result<Self> {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let is_kind = |folder: &Path| {
            folder.file_name().is_some_and(|name| KINDS.iter().any(|kind| name.eq_ignore_ascii_case(kind)))
        };
        let parent = std::fs::canonicalize(parent).map_err(|error| Error::io(parent, error))?;
        // A kind may have folders of its own: diffusion_models/wan/file.safetensors.
        let root = parent.ancestors().take(3).find(|folder| is_kind(folder)).and_then(Path::parent);
        let (mut scan, mut budget) = (Self::default(), MOST_ENTRIES);
        match root {
            Some(root) => scan.folder(root, DEEPEST, &mut budget)?,
            // google/umt5-xxl is two folders down.
            None => scan.folder(&parent, 2, &mut budget)?,
        };
        Ok(scan)
    }

    /// Whether it got through the folder, and those below it to some depth, before the budget of entries was spent. Folders
    /// below that cannot be read are only noted.
    fn folder(&mut self, folder: &Path, depth: usize, budget: &mut usize) -> Result<bool> {
        let mut names = Vec::new();
        let mut below = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
            let entry = entry.map_err(|error| Error::io(folder, error))?;
            let Some(left) = budget.checked_sub(1) else { return Ok(false) };
            *budget = left;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            // Links are followed, as in the cache of Hugging Face.
            match std::fs::metadata(entry.path()) {
                Ok(meta) if meta.is_dir() => below.push(entry.path()),
                Ok(_) => names.push(name),
                Err(error) => self.others.push((entry.path(), error.to_string())),
            }
        }
        names.sort_unstable();
        below.sort_unstable();
        if names.iter().any(|name| matches!(&**name, "tokenizer.json" | "spiece.model")) {
            self.tokenizers.push(folder.to_path_buf());
        }
        for group in groups(folder, &names) {
            let place = group.place();
            if let Err(error) = group.open().map(|archive| self.archive(&place, archive)) {
                self.others.push((place, reason(error)));
            }
        }
        for folder in below.into_iter().filter(|_| depth > 0) {
            match self.folder(&folder, depth - 1, budget) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => self.others.push((folder, reason(error))),
            }
        }
        Ok(true)
    }

    /// A file that was named: an index stands for its shards, and one of several shards for all.
    fn file(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name == "tokenizer.json" || name.ends_with(".model") {
            self.tokenizers.push(path.to_path_buf());
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let archive = match stem_of_index(&name) {
            Some(stem) => Archive::open(folder, stem)?,
            None => match shard(&name) {
                Some((stem, ending)) => {
                    let mut shards = siblings(folder, stem, ending).unwrap_or_default();
                    if shards.is_empty() {
                        shards.push(path.to_path_buf());
                    }
                    Group::Shards(shards).open()?
                }
                None => Archive::open_file(path)?,
            },
        };
        self.archive(path, archive);
        Ok(())
    }

    fn archive(&mut self, place: &Path, archive: Archive) {
        let found = recognise(archive.names());
        if found.is_empty() {
            let first: Vec<&str> = archive.names().take(2).collect();
            let reason = format!("no network of Wan's; its tensors are such as `{}`", first.join("`, `"));
            self.others.push((place.to_path_buf(), reason));
        }
        let side = Side::of(place);
        let candidate = |found| Candidate { found, place: place.to_path_buf(), side, archive: archive.clone() };
        self.networks.extend(found.into_iter().map(candidate));
    }
}

impl Group {
    fn place(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Stem(folder, _) => folder.clone(),
            Self::Shards(paths) => paths.first().cloned().unwrap_or_default(),
        }
    }

    fn open(&self) -> Result<Archive> {
        match self {
            Self::File(path) => Archive::open_file(path),
            Self::Stem(folder, stem) => Archive::open(folder, stem),
            Self::Shards(paths) => {
                let mut whole: Option<Archive> = None;
                for path in paths {
                    let shard = Archive::open_file(path)?;
                    whole = Some(match whole {
                        Some(whole) => whole.with(&shard)?,
                        None => shard,
                    });
                }
                whole.ok_or_else(|| Error::Internal("a group of no files".into()))
            }
        }
    }
}

/// The files of a folder (sorted by name) that make up one archive each.
fn groups(folder: &Path, names: &[String]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut shards: BTreeMap<(&str, &str), Vec<PathBuf>> = BTreeMap::new();
    // A component of diffusers or transformers, whose library knows which of several files counts.
    let stem = ["diffusion_pytorch_model", "model"].into_iter().find(|stem| {
        names
            .iter()
            .any(|name| *name == format!("{stem}.safetensors") || *name == format!("{stem}.safetensors.index.json"))
    });
    if let Some(stem) = stem {
        groups.push(Group::Stem(folder.to_path_buf(), stem));
    }
    for name in names {
        let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
        let of_stem = stem.is_some_and(|stem| name.starts_with(stem));
        if !ENDINGS.contains(&&*ending) || of_stem {
            continue;
        }
        match shard(name) {
            Some(key) => shards.entry(key).or_default().push(folder.join(name)),
            None => groups.push(Group::File(folder.join(name))),
        }
    }
    groups.extend(shards.into_values().map(Group::Shards));
    groups
}

/// What comes before the number, and the ending, of a file called `STEM-00001-of-00006.ENDING`.
fn shard(name: &str) -> Option<(&str, &str)> {
    let (name, ending) = name.rsplit_once('.')?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(count) && digits(number)).then_some((stem, ending))
}

fn siblings(folder: &Path, stem: &str, ending: &str) -> Option<Vec<PathBuf>> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| shard(name) == Some((stem, ending))).collect();
    names.sort_unstable();
    Some(names.into_iter().map(|name| folder.join(name)).collect())
}

fn stem_of_index(name: &str) -> Option<&str> {
    name.strip_suffix(".safetensors.index.json")
}

/// An error's reason without the file, which the reader of a list sees anyway.
fn reason(error: Error) -> String {
    match error {
        Error::Model { reason, .. } => reason,
        Error::Io { source, .. } => source.to_string(),
        Error::Tensor { tensor, reason, .. } => format!("tensor `{tensor}`: {reason}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_told_by_their_names() {
        assert_eq!(
            shard("diffusion_pytorch_model-00001-of-00006.safetensors"),
            Some(("diffusion_pytorch_model", "safetensors"))
        );
        assert_eq!(shard("wan-Q4-00002-of-00003.gguf"), Some(("wan-Q4", "gguf")));
        for name in ["model.safetensors", "a-of-b.safetensors", "best-of-2024.gguf", "1-of-2", "-1-of-.gguf"] {
            assert_eq!(shard(name), None, "{name}");
        }
    }
}
