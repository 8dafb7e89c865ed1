//! All tensors of one model part, whichever files they are spread over.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use super::config::read_json;
use super::{Safetensors, clip, fingerprint, list};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, HostTensor, Shape};

/// All tensors of one model part (a transformer, a VAE, a text encoder), by name. Cloning is cheap.
#[derive(Clone)]
pub struct Archive(Arc<Inner>);

struct Inner {
    path: PathBuf,
    files: Vec<Safetensors>,
    /// Which file holds a tensor.
    place: BTreeMap<String, usize>,
    digest: OnceLock<[u8; 32]>,
}

/// The index of a sharded checkpoint, as diffusers and transformers write it.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Archive {
    /// Opens the tensors of a component's folder: `stem.safetensors`, or the shards that `stem.safetensors.index.json`
    /// lists, or, when neither is there, the one variant that is (`stem.fp16.safetensors`, sharded or not). The stem is
    /// `diffusion_pytorch_model` for diffusers' components and `model` for transformers'.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read; [`Error::Model`] or [`Error::Tensor`] when it holds no such files
    /// (saying which unreadable ones it holds instead), several variants, or a broken file, when a shard is missing or
    /// lacks a tensor that the index places there, or when the index points out of the folder.
    pub fn open(folder: impl AsRef<Path>, stem: &str) -> Result<Self> {
        let folder = folder.as_ref();
        let mut names = Vec::new();
        for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
            let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
            names.extend(name.into_string()); // what is not Unicode is none of ours
        }
        names.sort_unstable();
        let chosen = choose(&names, stem).map_err(|reason| Error::model(folder, reason))?;
        if chosen.ends_with(".json") { Self::sharded(folder, chosen) } else { Self::open_file(folder.join(chosen)) }
    }

    /// Opens a single file.
    ///
    /// # Errors
    /// Those of [`Safetensors::open`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(path, vec![Safetensors::open(path)?])
    }

    /// An archive of safetensors files that are in memory already, by name; `place` is what errors call their folder.
    ///
    /// # Errors
    /// Those of [`Safetensors::from_bytes`]; [`Error::Tensor`] when two files hold the same tensor.
    pub fn from_parts<'a>(place: impl AsRef<Path>, parts: impl IntoIterator<Item = (&'a str, Bytes)>) -> Result<Self> {
        let place = place.as_ref();
        let files = parts.into_iter().map(|(name, bytes)| Safetensors::from_bytes(place.join(name), bytes));
        Self::new(place, files.collect::<Result<_>>()?)
    }

    fn sharded(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let broken = |reason: String| Error::model(&path, reason);
        let index: Index = serde_json::from_str(&read_json(&path)?)
            .map_err(|e| broken(format!("broken index: {}", clip(&e.to_string()))))?;
        if index.weight_map.is_empty() {
            return Err(broken("it lists no tensors".into()));
        }
        let mut listed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &index.weight_map {
            listed.entry(shard).or_default().push(tensor);
        }
        let mut files = Vec::new();
        for (shard, tensors) in &listed {
            // Not `Path::components`: a backslash or a drive is as unwelcome where it happens to be harmless.
            if shard.contains(['/', '\\', ':', '\0']) || !shard.ends_with(".safetensors") {
                return Err(broken(format!("its shard `{}` is not a safetensors file of this folder", clip(shard))));
            }
            let shard_path = folder.join(shard);
            if !shard_path.exists() {
                let (count, shard) = (tensors.len(), clip(shard));
                return Err(broken(format!("its shard `{shard}`, with {count} tensors, is missing from the folder")));
            }
            let file = Safetensors::open(shard_path)?;
            if let Some(absent) = tensors.iter().find(|&&name| file.raw(name).is_none()) {
                let reason = format!("`{}` should hold it and does not", clip(shard));
                return Err(Error::tensor(&path, clip(absent), reason));
            }
            files.push(file);
        }
        Self::new(folder, files)
    }

    fn new(path: &Path, files: Vec<Safetensors>) -> Result<Self> {
        let mut place: BTreeMap<String, usize> = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = place.insert(name.to_owned(), i).and_then(|other| files.get(other)) {
                    let reason = format!("it is in {} as well", other.path().display());
                    return Err(Error::tensor(file.path(), name, reason));
                }
            }
        }
        Ok(Self(Arc::new(Inner { path: path.to_path_buf(), files, place, digest: OnceLock::new() })))
    }

    /// The folder or file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.place.keys().map(String::as_str)
    }

    /// The names that begin with `prefix`, in alphabetical order.
    pub(super) fn names_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let tail = self.0.place.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        tail.map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.place.contains_key(name)
    }

    /// The dimensions of a tensor; `None` when there is none of this name or it has too many dimensions to be used.
    pub fn shape_of(&self, name: &str) -> Option<Shape> {
        self.file(name)?.shape_of(name)
    }

    /// A tensor, as a window of its file: nothing is read or copied yet.
    ///
    /// # Errors
    /// [`Error::Tensor`] as for [`Safetensors::tensor`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        match self.file(name) {
            Some(file) => file.tensor(name),
            None => Err(Error::tensor(self.path(), clip(name), "it is missing")),
        }
    }

    /// The bytes of all tensors together.
    pub fn size(&self) -> u64 {
        self.raw().map(|(_, _, _, bytes)| bytes.len() as u64).sum()
    }

    /// The hash of all tensors, for [`Fingerprint`](super::Fingerprint); computed once, which reads them all.
    pub(super) fn digest(&self) -> &[u8; 32] {
        self.0.digest.get_or_init(|| fingerprint::digest(self.raw()))
    }

    fn raw(&self) -> impl Iterator<Item = (&str, &str, &[usize], &[u8])> {
        self.names().filter_map(|name| {
            let (dtype, dims, bytes) = self.file(name)?.raw(name)?;
            Some((name, dtype, dims, bytes))
        })
    }

    fn file(&self, name: &str) -> Option<&Safetensors> {
        self.0.files.get(*self.0.place.get(name)?)
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} tensors in {} files)", self.path().display(), self.0.place.len(), self.0.files.len())
    }
}

/// Which of a folder's files (sorted) to open, or why none.
fn choose<'a>(names: &'a [String], stem: &str) -> Result<&'a str, String> {
    let find = |wanted: String| names.iter().find(|name| **name == wanted).map(String::as_str);
    let single = find(format!("{stem}.safetensors"));
    let sharded = find(format!("{stem}.safetensors.index.json"));
    // Where both are there, transformers takes the single file and diffusers the index.
    let plain = if stem == "model" { single.or(sharded) } else { sharded.or(single) };
    if let Some(plain) = plain {
        return Ok(plain);
    }
    let is_variant = |tag: &str| !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let variants: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| {
            let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
            let sharded = rest.strip_prefix("safetensors.index.").and_then(|rest| rest.strip_suffix(".json"));
            sharded.or_else(|| rest.strip_suffix(".safetensors")).is_some_and(is_variant)
        })
        .collect();
    match variants[..] {
        [one] => return Ok(one),
        [] => {}
        _ => return Err(format!("there are several variants, {}, and no plain one; keep one of them", list(variants))),
    }
    let has =
        |endings: &[&str]| names.iter().map(String::as_str).find(|name| endings.iter().any(|e| name.ends_with(e)));
    Err(if let Some(shard) = names.iter().find(|name| name.starts_with(stem) && name.ends_with(".safetensors")) {
        format!("there are shards such as `{}` and no `{stem}.safetensors.index.json` that lists them", clip(shard))
    } else if let Some(pickle) = has(&[".bin", ".pth", ".pt", ".ckpt"]) {
        format!(
            "there is only `{}`, a Python pickle, which can run code and is not read; save the model as safetensors \
             (in diffusers: `save_pretrained(..., safe_serialization=True)`)",
            clip(pickle)
        )
    } else if let Some(gguf) = has(&[".gguf"]) {
        format!("there is only `{}`; GGUF cannot be read yet, take the safetensors version", clip(gguf))
    } else {
        format!("there is no `{stem}.safetensors` and no `{stem}.safetensors.index.json`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Fingerprint, save_safetensors};

    const STEM: &str = "diffusion_pytorch_model";

    fn tensor(value: f32) -> HostTensor {
        HostTensor::from_f32([2], &[value, 1.0])
    }

    fn write(folder: &Path, file: &str, names: &[&str]) {
        let tensors: Vec<_> = names.iter().map(|&name| (name, tensor(names.len() as f32))).collect();
        save_safetensors(folder.join(file), &tensors, &[]).expect("saved");
    }

    fn refused(folder: &Path, stem: &str) -> String {
        Archive::open(folder, stem).expect_err("refused").to_string()
    }

    #[test]
    fn shards_are_one_archive_and_hash_like_one_file() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.safetensors", &["x", "y"]);
        write(folder.path(), "b.safetensors", &["z", "w"]);
        let index = r#"{"metadata":{"total_size":32},"weight_map":{"x":"a.safetensors","y":"a.safetensors",
                        "z":"b.safetensors","w":"b.safetensors"}}"#;
        fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
        let sharded = Archive::open(folder.path(), "model").expect("opened");
        assert_eq!(sharded.names().collect::<Vec<_>>(), ["w", "x", "y", "z"]);
        assert_eq!((sharded.size(), sharded.shape_of("z")), (32, Some([2].into())));
        assert!(sharded.tensor("q").is_err() && sharded.shape_of("q").is_none());

        let whole = tempfile::tempdir().expect("a folder");
        write(whole.path(), "one.safetensors", &["x", "y"]);
        let values = ["w", "x", "y", "z"].map(|name| (name, tensor(2.0)));
        save_safetensors(whole.path().join("one.safetensors"), &values, &[("by", "test")]).expect("saved");
        let whole = Archive::open_file(whole.path().join("one.safetensors")).expect("opened");
        let name = |archive| Fingerprint::new().archive("model", archive).finish();
        assert_eq!(name(&sharded), name(&whole));
    }

    #[test]
    fn one_changed_weight_changes_the_fingerprint() {
        let mut values = vec![0.5f32; 3000];
        let name = |values: &[f32]| {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("a.safetensors");
            save_safetensors(&path, &[("w", HostTensor::from_f32([30, 100], values))], &[]).expect("saved");
            Fingerprint::new().archive("t", &Archive::open_file(path).expect("opened")).finish()
        };
        let before = name(&values);
        assert_eq!(before, name(&values));
        values[1234] = f32::from_bits(0.5f32.to_bits() + 1);
        assert_ne!(before, name(&values));
    }

    #[test]
    fn a_plain_file_goes_before_its_variants_and_an_index_as_in_the_reference() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let plain = format!("{STEM}.safetensors");
        let fp16 = format!("{STEM}.fp16.safetensors");
        let index = format!("{STEM}.safetensors.index.json");
        let fp16_index = format!("{STEM}.safetensors.index.fp16.json");
        assert_eq!(choose(&names(&[&plain, &fp16]), STEM), Ok(plain.as_str()));
        assert_eq!(choose(&names(&[&fp16]), STEM), Ok(fp16.as_str()));
        assert_eq!(choose(&names(&[&fp16_index]), STEM), Ok(fp16_index.as_str()));
        assert_eq!(choose(&names(&[&plain, &index]), STEM), Ok(index.as_str()));
        let both = names(&["model.safetensors", "model.safetensors.index.json"]);
        assert_eq!(choose(&both, "model"), Ok("model.safetensors"));
    }

    #[test]
    fn a_folder_without_readable_files_says_what_is_there() {
        for (files, says) in [
            (&["config.json"][..], "no `model.safetensors`"),
            (&["pytorch_model.bin"], "pickle"),
            (&["models_t5.pth"], "safe_serialization"),
            (&["wan-Q4_0.gguf"], "GGUF"),
            (&["model.fp16.safetensors", "model.bf16.safetensors"], "several variants"),
            (&["model-00001-of-00002.safetensors"], "index.json"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            for file in files {
                fs::write(folder.path().join(file), b"").expect("written");
            }
            let error = refused(folder.path(), "model");
            assert!(error.contains(says), "{files:?}: {error}");
        }
        let missing = tempfile::tempdir().expect("a folder").path().join("gone");
        assert!(matches!(Archive::open(missing, "model"), Err(Error::Io { .. })));
    }

    #[test]
    fn a_lying_index_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.safetensors", &["x", "y"]);
        write(folder.path(), "b.safetensors", &["y", "z"]);
        for (index, says) in [
            (r#"{"weight_map":{"x":"../a.safetensors"}}"#, "not a safetensors file of this folder"),
            (r#"{"weight_map":{"x":"/etc/passwd"}}"#, "not a safetensors file of this folder"),
            (r#"{"weight_map":{"x":"sub\\a.safetensors"}}"#, "not a safetensors file of this folder"),
            (r#"{"weight_map":{"x":"c:a.safetensors"}}"#, "not a safetensors file of this folder"),
            (r#"{"weight_map":{"x":"config.json"}}"#, "not a safetensors file of this folder"),
            (r#"{"weight_map":{"x":"c.safetensors"}}"#, "missing from the folder"),
            (r#"{"weight_map":{"z":"a.safetensors"}}"#, "should hold it"),
            (r#"{"weight_map":{"x":"a.safetensors","z":"b.safetensors"}}"#, "as well"),
            (r#"{"weight_map":{}}"#, "lists no tensors"),
            (r#"{"weight_map":[1]}"#, "broken index"),
            (r#"{"metadata":{}}"#, "weight_map"),
            ("{", "broken index"),
        ] {
            fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
            let error = refused(folder.path(), "model");
            assert!(error.contains(says), "{index}: {error}");
        }
    }

    #[test]
    fn parts_in_memory_make_an_archive_that_threads_share() {
        fn shared<T: Send + Sync>(value: T) -> T {
            value
        }
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.safetensors", &["x"]);
        let bytes: &'static [u8] = fs::read(folder.path().join("a.safetensors")).expect("read").leak();
        let archive = Archive::from_parts("embedded", [("a.safetensors", Bytes::new(Arc::new(bytes)))]);
        let archive = shared(archive.expect("opened"));
        assert_eq!(archive.tensor("x").expect("there").to_f32(), [1.0, 1.0]);
        assert!(archive.tensor("y").expect_err("missing").to_string().starts_with("embedded: tensor `y`"));
        let cut = Bytes::from(bytes[..bytes.len() - 1].to_vec());
        let error = Archive::from_parts("embedded", [("a.safetensors", cut)]).expect_err("truncated").to_string();
        assert!(error.contains("a.safetensors") && error.contains("truncated"), "{error}");
    }
    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_index_is_followed_or_refused(
            map in proptest::collection::btree_map("[xyz]{1,2}", "(a|b|c|\\.\\.|/)\\.safetensors|\\PC{0,9}", 0..4),
            cut in 0usize..400,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            write(folder.path(), "a.safetensors", &["x", "y"]);
            write(folder.path(), "b.safetensors", &["z", "xx"]);
            let index = serde_json::json!({ "weight_map": map }).to_string();
            let index = index.get(..cut).unwrap_or(&index);
            fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
            match Archive::open(folder.path(), "model") {
                Ok(archive) => map.keys().for_each(|name| drop(archive.tensor(name).expect("listed"))),
                Err(error) => {
                    let clear = matches!(error, Error::Model { .. } | Error::Tensor { .. });
                    proptest::prop_assert!(clear && error.to_string().contains("index.json"), "{}", error);
                }
            }
        }
    }
}
