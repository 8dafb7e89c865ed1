//! All tensors of one model part, whichever files they are spread over and under whatever names they lie there.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::delta::{Delta, LowRank};
use super::{RawTensor, TensorFile, Value, clip, fingerprint, folder};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, HostTensor, Shape};

/// All tensors of one model part (a transformer, a VAE, a text encoder), by name. Cloning is cheap.
///
/// An archive can be seen [under other names](Archive::view): such a view shares the files. Errors name the file and the
/// tensor as it is stored there.
#[derive(Clone)]
pub struct Archive(Arc<Inner>);

struct Inner {
    path: PathBuf,
    files: Vec<Arc<TensorFile>>,
    /// Where each tensor is and what is made of it.
    places: BTreeMap<String, Place>,
    digest: OnceLock<Result<[u8; 32], String>>,
}

/// A tensor as a view of an archive shows it.
#[derive(Clone, Debug)]
struct Place {
    /// Its number among the files.
    file: usize,
    /// Its name there.
    stored: String,
    /// What is made of it, first things first.
    changes: Vec<Change>,
    /// Products that are added to it where it is used.
    beside: Vec<Arc<LowRank>>,
}

/// What a view makes of a stored tensor.
#[derive(Clone, Debug)]
enum Change {
    /// The i-th of n equal parts along the outermost dimension.
    Part(usize, usize),
    /// The same elements under another shape.
    Shape(Shape),
    /// Values of so many times the stored ones.
    Scale(f32),
    /// Something added to the values, which are f32 from then on.
    Add(Arc<Delta>),
}

/// A tensor of an [`Archive`] for a [view](Archive::view) of it: its name, and what is to be made of it.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    changes: Vec<Change>,
}

impl Source {
    /// The tensor as it is.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), changes: Vec::new() }
    }

    /// The i-th of `parts` equal parts along the outermost dimension, as of a fused projection of queries, keys and values.
    #[must_use]
    pub fn part(mut self, i: usize, parts: usize) -> Self {
        self.changes.push(Change::Part(i, parts));
        self
    }

    /// The same elements under another shape.
    #[must_use]
    pub fn reshaped(mut self, shape: impl Into<Shape>) -> Self {
        self.changes.push(Change::Shape(shape.into()));
        self
    }

    /// Values of `scale` times the stored ones, which only fp8 can have.
    #[must_use]
    pub fn scaled(mut self, scale: f32) -> Self {
        self.changes.push(Change::Scale(scale));
        self
    }
}

impl<T: Into<String>> From<T> for Source {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}

impl Archive {
    /// Opens the tensors of a component's folder: `stem.safetensors`, or the shards that `stem.safetensors.index.json`
    /// lists, or, when neither is there, the one variant that is (`stem.fp16.safetensors`, sharded or not). The stem is
    /// `diffusion_pytorch_model` for diffusers' components and `model` for transformers'. A folder without safetensors
    /// may hold one GGUF file instead, or PyTorch's (`stem.bin`, sharded or not, or one `.pth`, `.pt`, `.bin` or `.ckpt`).
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read; [`Error::Model`] or [`Error::Tensor`] when it holds no such files,
    /// several that could be meant, or a broken file, when a shard is missing or lacks a tensor that the index places
    /// there, or when the index points out of the folder.
    pub fn open(folder: impl AsRef<Path>, stem: &str) -> Result<Self> {
        let folder = folder.as_ref();
        Self::new(folder, folder::open(folder, stem)?)
    }

    /// Opens a single file, whose container is recognised by its first bytes.
    ///
    /// # Errors
    /// Those of [`TensorFile::open`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::new(path, vec![TensorFile::open(path)?])
    }

    /// An archive of files that are in memory already, by name; `place` is what errors call their folder.
    ///
    /// # Errors
    /// Those of [`TensorFile::from_bytes`]; [`Error::Tensor`] when two files hold the same tensor.
    pub fn from_parts<'a>(place: impl AsRef<Path>, parts: impl IntoIterator<Item = (&'a str, Bytes)>) -> Result<Self> {
        let place = place.as_ref();
        let files = parts.into_iter().map(|(name, bytes)| TensorFile::from_bytes(place.join(name), bytes));
        Self::new(place, files.collect::<Result<_>>()?)
    }

    fn new(path: &Path, files: Vec<TensorFile>) -> Result<Self> {
        let mut places: BTreeMap<String, Place> = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                let place = Place { file: i, stored: name.to_owned(), changes: Vec::new(), beside: Vec::new() };
                if let Some(other) = places.insert(name.to_owned(), place).and_then(|other| files.get(other.file)) {
                    let reason = format!("it is in {} as well", other.path().display());
                    return Err(Error::tensor(file.path(), name, reason));
                }
            }
        }
        Ok(Self::of(path.to_path_buf(), files.into_iter().map(Arc::new).collect(), places))
    }

    fn of(path: PathBuf, files: Vec<Arc<TensorFile>>, places: BTreeMap<String, Place>) -> Self {
        Self(Arc::new(Inner { path, files, places, digest: OnceLock::new() }))
    }

    /// The same files under other names: what is listed, as pairs of the new name and the tensor of this archive, and
    /// nothing else. A tensor may be listed more than once.
    ///
    /// # Errors
    /// [`Error::Tensor`] when a tensor is not there, a new name is given twice, or a part or shape does not fit.
    pub fn view<S: Into<Source>>(&self, pairs: impl IntoIterator<Item = (String, S)>) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (name, source) in pairs {
            let Source { name: old, changes } = source.into();
            let Some(place) = self.0.places.get(&old) else {
                return Err(Error::tensor(self.path(), clip(&old), "it is missing"));
            };
            let mut place = place.clone();
            for change in changes {
                let before = self.shape_at(&place);
                if before.and_then(|shape| change.shape(shape)).is_none() || !place.beside.is_empty() {
                    let shape = before.map_or_else(|| "of that many dimensions".to_owned(), |shape| shape.to_string());
                    return Err(self.error_at(&place, format!("its shape is {shape}, which cannot become {change}")));
                }
                place.changes.push(change);
            }
            if let Some(other) = places.insert(name.clone(), place) {
                return Err(self.error_at(&other, format!("it and `{}` would both be `{}`", clip(&old), clip(&name))));
            }
        }
        Ok(Self::of(self.0.path.clone(), self.0.files.clone(), places))
    }

    /// The tensors whose names begin with `prefix`, without it.
    #[must_use]
    pub fn subset(&self, prefix: &str) -> Self {
        let tail = self.0.places.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        let places = tail.map_while(|(name, place)| Some((name.strip_prefix(prefix)?.to_owned(), place.clone())));
        Self::of(self.0.path.clone(), self.0.files.clone(), places.collect())
    }

    /// The tensors of this archive and of another, such as files of one model that no index ties together.
    ///
    /// # Errors
    /// [`Error::Tensor`] when both have one of the same name.
    pub fn with(&self, other: &Self) -> Result<Self> {
        let (mut files, mut places) = (self.0.files.clone(), self.0.places.clone());
        let first = files.len();
        files.extend(other.0.files.iter().cloned());
        for (name, place) in &other.0.places {
            let moved = Place { file: first + place.file, ..place.clone() };
            if let Some(before) = places.insert(name.clone(), moved) {
                let there = self.0.files.get(before.file).map_or(self.path(), |file| file.path());
                return Err(other.error_at(place, format!("it is in {} as well", there.display())));
            }
        }
        Ok(Self::of(self.0.path.clone(), files, places))
    }

    /// The same tensors with something added to some of them, given by name.
    pub(super) fn with_deltas(&self, deltas: Vec<(String, Delta)>) -> Result<Self> {
        let mut places = self.0.places.clone();
        for (name, delta) in deltas {
            let Some(place) = places.get_mut(&name) else {
                return Err(Error::tensor(self.path(), clip(&name), "it is missing"));
            };
            let is_matrix = self.shape_of(&name).is_some_and(|shape| shape.rank() == 2);
            match delta {
                Delta::LowRank(product) if is_matrix && product.is_low() => place.beside.push(Arc::new(product)),
                other => place.changes.push(Change::Add(Arc::new(other))),
            }
        }
        Ok(Self::of(self.0.path.clone(), self.0.files.clone(), places))
    }

    /// The products that belong beside a tensor: factors \[R, K\] and \[N, R\] of each.
    pub(super) fn low_rank(&self, name: &str) -> Vec<[HostTensor; 2]> {
        self.0
            .places
            .get(name)
            .map_or_else(Vec::new, |place| place.beside.iter().map(|product| product.factors()).collect())
    }

    /// Whether products belong beside a tensor.
    pub(super) fn has_low_rank(&self, name: &str) -> bool {
        self.0.places.get(name).is_some_and(|place| !place.beside.is_empty())
    }

    /// The folder or file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &TensorFile> {
        self.0.files.iter().map(|file| &**file)
    }

    /// What a file's writer said about it under a key, in the first file that has it.
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.files().find_map(|file| file.metadata().get(key))
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.places.keys().map(String::as_str)
    }

    /// The names that begin with `prefix`, in alphabetical order.
    pub(super) fn names_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let tail = self.0.places.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        tail.map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.places.contains_key(name)
    }

    /// The dimensions of a tensor; `None` when there is none of this name or it has too many dimensions to be used.
    pub fn shape_of(&self, name: &str) -> Option<Shape> {
        self.shape_at(self.0.places.get(name)?)
    }

    /// The type of a tensor as its file spells it (see [`RawTensor::dtype`]).
    pub fn dtype_of(&self, name: &str) -> Option<&str> {
        let place = self.0.places.get(name)?;
        self.0.files.get(place.file)?.dtype_of(&place.stored)
    }

    /// The bytes of a tensor as it is stored.
    pub fn size_of(&self, name: &str) -> Option<u64> {
        let place = self.0.places.get(name)?;
        let whole = self.0.files.get(place.file)?.size_of(&place.stored)? as u64;
        let parts = place.changes.iter().map(|change| if let Change::Part(_, n) = change { *n as u64 } else { 1 });
        Some(whole / parts.product::<u64>().max(1))
    }

    /// The file that holds a tensor and its name there; this archive's own when there is no such tensor.
    pub fn stored<'a>(&'a self, name: &'a str) -> (&'a Path, &'a str) {
        let found =
            self.0.places.get(name).and_then(|place| Some((self.0.files.get(place.file)?.path(), &*place.stored)));
        found.unwrap_or((self.path(), name))
    }

    /// A tensor, as a window of its file: nothing is read or copied yet.
    ///
    /// # Errors
    /// [`Error::Tensor`] as for [`TensorFile::tensor`].
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let missing = || Error::tensor(self.path(), clip(name), "it is missing");
        let place = self.0.places.get(name).ok_or_else(missing)?;
        let file = self.0.files.get(place.file).ok_or_else(missing)?;
        place.changes.iter().try_fold(file.tensor(&place.stored)?, |tensor, change| {
            let changed = change.apply(&tensor);
            changed.ok_or_else(|| self.error_at(place, format!("{tensor:?} cannot become {change}")))
        })
    }

    /// A tensor as it is stored, whatever its type: markers and scales beside weights, for instance.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is none of this name.
    pub fn raw(&self, name: &str) -> Result<RawTensor> {
        let place = self.0.places.get(name);
        let raw = place.and_then(|place| self.0.files.get(place.file)?.raw(&place.stored));
        raw.ok_or_else(|| Error::tensor(self.path(), clip(name), "it is missing"))
    }

    /// The bytes of all tensors together.
    pub fn size(&self) -> u64 {
        self.names().filter_map(|name| self.size_of(name)).sum()
    }

    /// An error about one of its tensors, which names the file and the tensor as it is stored there.
    pub fn error(&self, name: &str, reason: impl Into<String>) -> Error {
        let (path, stored) = self.stored(name);
        Error::tensor(path, clip(stored), reason)
    }

    /// The hash of all tensors, for [`Fingerprint`](super::Fingerprint); computed once, which reads them all.
    ///
    /// # Errors
    /// Why a tensor can no longer be read.
    pub(super) fn digest(&self) -> Result<&[u8; 32], &str> {
        let digest = self.0.digest.get_or_init(|| {
            let digest = fingerprint::digest(self.0.places.iter().filter_map(|(name, place)| {
                let mut raw = self.0.files.get(place.file)?.raw(&place.stored)?;
                for change in &place.changes {
                    change.apply_raw(&mut raw)?;
                }
                Some((name.as_str(), raw))
            }));
            digest.map_err(|error| error.to_string())
        });
        digest.as_ref().map_err(String::as_str)
    }

    fn shape_at(&self, place: &Place) -> Option<Shape> {
        let stored = self.0.files.get(place.file)?.shape_of(&place.stored)?;
        place.changes.iter().try_fold(stored, |shape, change| change.shape(shape))
    }

    fn error_at(&self, place: &Place, reason: String) -> Error {
        let path = self.0.files.get(place.file).map_or(self.path(), |file| file.path());
        Error::tensor(path, clip(&place.stored), reason)
    }
}

impl Change {
    /// The shape that it makes of another, if it can.
    fn shape(&self, before: Shape) -> Option<Shape> {
        match *self {
            Self::Part(i, parts) => {
                let (&first, rest) = before.dims().split_first()?;
                let whole = i < parts && first % parts == 0;
                whole.then(|| [&[first / parts], rest].concat().as_slice().into())
            }
            Self::Shape(shape) => (shape.count() == before.count()).then_some(shape),
            Self::Scale(_) | Self::Add(_) => Some(before),
        }
    }

    fn apply(&self, tensor: &HostTensor) -> Option<HostTensor> {
        match *self {
            Self::Part(i, parts) => {
                let rows = self.shape(tensor.shape())?.dims().first().copied()?;
                debug_assert!(i < parts);
                tensor.rows(i * rows..(i + 1) * rows)
            }
            // Of blocks that rows of this shape would cut: expanded.
            Self::Shape(shape) => tensor.reshape(shape).or_else(|| tensor.expand().reshape(shape)),
            Self::Scale(scale) => tensor.clone().with_scale(scale),
            Self::Add(ref delta) => delta.add(tensor),
        }
    }

    fn apply_raw(&self, tensor: &mut RawTensor) -> Option<()> {
        tensor.dims = self.shape(Shape::checked(&tensor.dims)?)?.dims().to_vec();
        if let Self::Part(i, parts) = *self {
            let size = tensor.bytes.len() / parts;
            tensor.bytes = tensor.bytes.slice(i * size..(i + 1) * size)?;
        }
        if let Self::Scale(scale) = self {
            tensor.dtype = format!("{} x {scale:?}", tensor.dtype);
        }
        Some(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(i, parts) => write!(f, "part {i} of {parts} of its rows"),
            Self::Shape(shape) => write!(f, "{shape}"),
            Self::Scale(scale) => write!(f, "{scale} times its values"),
            Self::Add(_) => f.write_str("the sum that a LoRA makes of it"),
        }
    }
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} tensors in {} files)", self.path().display(), self.0.places.len(), self.0.files.len())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::weights::{Fingerprint, save_safetensors};

    fn tensor(value: f32) -> HostTensor {
        HostTensor::from_f32([2], &[value, 1.0])
    }

    fn write(folder: &Path, file: &str, names: &[&str]) {
        let tensors: Vec<_> = names.iter().map(|&name| (name, tensor(names.len() as f32))).collect();
        save_safetensors(folder.join(file), &tensors, &[]).expect("saved");
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
    #[test]
    fn a_view_has_other_names_and_the_same_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let tensors = [("m.qkv", HostTensor::from_f32([6, 2], &values)), ("m.b", tensor(3.0)), ("x", tensor(4.0))];
        save_safetensors(&path, &tensors, &[("by", "test")]).expect("saved");
        let whole = Archive::open_file(&path).expect("opened");
        assert_eq!(whole.metadata("by").and_then(Value::text), Some("test"));
        let inner = whole.subset("m.");
        assert_eq!(inner.names().collect::<Vec<_>>(), ["b", "qkv"]);
        let view = inner.view([
            ("k".to_owned(), Source::new("qkv").part(1, 3).reshaped([4])),
            ("v".to_owned(), Source::new("qkv").part(2, 3)),
            ("bias".to_owned(), Source::from("b")),
        ]);
        let view = view.expect("they fit");
        assert_eq!(view.names().collect::<Vec<_>>(), ["bias", "k", "v"]);
        assert_eq!(view.tensor("k").expect("there").to_f32(), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(view.shape_of("v"), Some([2, 2].into()));
        assert_eq!((view.size_of("v"), view.size()), (Some(16), 40));
        assert_eq!(view.stored("v"), (path.as_path(), "m.qkv"));
        let both = view.with(&whole.subset("m.").view([("more".to_owned(), "b")]).expect("there")).expect("no clash");
        assert_eq!((both.names().count(), both.tensor("more").expect("there").to_f32()), (4, vec![3.0, 1.0]));

        // A view hashes as a file of what it shows.
        let shown = [("k", view.tensor("k")), ("v", view.tensor("v")), ("bias", view.tensor("bias"))];
        let shown = shown.map(|(name, tensor)| (name, tensor.expect("there")));
        let other = folder.path().join("b.safetensors");
        save_safetensors(&other, &shown, &[]).expect("saved");
        let name = |archive| Fingerprint::new().archive("model", archive).finish();
        assert_eq!(name(&view), name(&Archive::open_file(other).expect("opened")));

        let refused = |pairs: &[(&str, Source)]| {
            let pairs = pairs.iter().map(|(name, source)| ((*name).to_owned(), source.clone()));
            inner.view(pairs).expect_err("refused").to_string()
        };
        let file = path.display();
        assert_eq!(refused(&[("k", "q".into())]), format!("{file}: tensor `q`: it is missing"));
        assert!(refused(&[("k", "b".into()), ("k", "qkv".into())]).contains("both be `k`"));
        let parts = refused(&[("k", Source::new("qkv").part(0, 4))]);
        assert_eq!(
            parts,
            format!("{file}: tensor `m.qkv`: its shape is [6, 2], which cannot become part 0 of 4 of its rows")
        );
        assert!(refused(&[("k", Source::new("qkv").reshaped([5]))]).contains("cannot become [5]"));
        assert!(inner.with(&whole.subset("m.")).expect_err("a clash").to_string().contains("as well"));
    }
}
