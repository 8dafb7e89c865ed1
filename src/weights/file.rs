//! One file of tensors, whatever its container.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Value, clip, gguf, safetensors, torch};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, HostTensor, Shape};

/// Longer names than any framework writes; the bound keeps messages and listings readable.
pub(super) const MAX_NAME: usize = 512;

/// What a file of tensors is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A JSON header and the tensors' bytes: <https://github.com/huggingface/safetensors>.
    Safetensors,
    /// GGML's format with quantised types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
    Gguf,
    /// What `torch.save` writes (`.pth`, `.pt`, `.bin`, `.ckpt`): a pickle in a zip archive, or, before PyTorch 1.6, pickles
    /// and the tensors' bytes one after the other.
    Torch,
}

/// A file of tensors, mapped or in memory, whose header has been checked in full: every tensor lies inside the file and
/// has as many bytes as its shape and type need.
pub struct TensorFile {
    path: PathBuf,
    container: Container,
    data: Bytes,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, Value>,
}

/// What a reader of one container found; offsets are relative to `data`.
pub(super) struct Parsed {
    pub data: Bytes,
    pub tensors: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, Value>,
}

/// Where a tensor lies in the data, and as what.
#[derive(Debug)]
pub(super) struct Entry {
    pub stored: Stored,
    pub dims: Vec<usize>,
    /// From its first byte to behind its last.
    pub range: Range<usize>,
    /// Steps from one element to the next along each dimension, in elements, where they are not those of row-major
    /// order without holes. No step is 0 along more than one element.
    pub strides: Option<Vec<usize>>,
}

/// An element type of a file: its name there, and what this crate computes with it as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub name: String,
    pub dtype: Option<DType>,
}

/// A tensor as it is stored, whether or not its type is one that models here use.
#[derive(Clone)]
pub struct RawTensor {
    /// The type as the file spells it, in the words of safetensors for files of PyTorch (`F32`, `I64`, `Q4_K`).
    pub dtype: String,
    /// The dimensions, outermost first.
    pub dims: Vec<usize>,
    /// The elements, row-major, little-endian.
    pub bytes: Bytes,
}

impl TensorFile {
    /// Maps a file, whose container is recognised by its first bytes, and checks its header. The tensors are read from
    /// disk when they are used. Nothing that a file holds is ever executed.
    ///
    /// The file must not be changed while anything read from it is in use; replacing it (a rename over it) is fine. One that
    /// is cut short all the same is an error for whoever uses it by [`Bytes::read`], as all do that read after loading.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, and those of [`TensorFile::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = open_file(path)?;
        // SAFETY: the mapping is read-only and private to this process' view of the file. Nobody but another process
        // (or a careless caller) can change what it shows; that is excluded by the documented requirement above, as
        // for every program that maps its models, and no value read from it is trusted to stay the same for safety:
        // offsets and sizes are copied out of the header once, and elements are only ever numbers.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Self::from_bytes(path, Bytes::mapped(Arc::new(map), file, path))
    }

    /// Checks the header of a file that is in memory already; `path` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Tensor`] when the file is truncated, its header is not what its format asks for,
    /// or a tensor's shape, type and place do not fit together.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<Self> {
        let path = path.as_ref();
        let container = recognise(&bytes).map_err(|reason| Error::model(path, reason))?;
        let parsed = match container {
            Container::Safetensors => safetensors::parse(path, bytes),
            Container::Gguf => gguf::parse(path, bytes),
            Container::Torch => torch::parse(path, bytes),
        };
        let Parsed { data, tensors, metadata } = parsed?;
        Ok(Self { path: path.to_path_buf(), container, data, tensors, metadata })
    }

    /// The file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is written in.
    pub fn container(&self) -> Container {
        self.container
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the file's writer said about it: strings in safetensors, typed values in GGUF, nothing in PyTorch's files.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The dimensions of a tensor; `None` when there is no such tensor or it has more dimensions than
    /// [`MAX_RANK`](crate::tensor::MAX_RANK).
    pub fn shape_of(&self, name: &str) -> Option<Shape> {
        Shape::checked(&self.tensors.get(name)?.dims)
    }

    /// A tensor, as a window of the file: nothing is read or copied yet, unless the file holds it with its dimensions
    /// in another order.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is none of this name, or its type or number of dimensions is not one that models
    /// here use.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let refuse = |reason: String| Error::tensor(&self.path, clip(name), reason);
        let entry = self.tensors.get(name).ok_or_else(|| refuse("it is not in the file".into()))?;
        let Some(dtype) = entry.stored.dtype else {
            let reason = format!("its type {} is none that weights can have here", clip(&entry.stored.name));
            return Err(refuse(reason));
        };
        let shape = Shape::checked(&entry.dims)
            .ok_or_else(|| refuse(format!("{} dimensions are more than can be used", entry.dims.len())))?;
        self.elements(entry)
            .and_then(|bytes| in_shape(shape, dtype, bytes))
            .ok_or_else(|| refuse(format!("{dtype}{shape} is not what lies at {:?}", entry.range)))
    }

    /// A tensor as it is stored, whatever its type; `None` when there is none of this name.
    pub fn raw(&self, name: &str) -> Option<RawTensor> {
        let entry = self.tensors.get(name)?;
        let bytes = self.elements(entry)?;
        Some(RawTensor { dtype: entry.stored.name.clone(), dims: entry.dims.clone(), bytes })
    }

    /// The type of a tensor as the file spells it.
    pub fn dtype_of(&self, name: &str) -> Option<&str> {
        Some(&self.tensors.get(name)?.stored.name)
    }

    /// The bytes that a tensor's elements take.
    pub(super) fn size_of(&self, name: &str) -> Option<usize> {
        let entry = self.tensors.get(name)?;
        match &entry.strides {
            Some(_) => Some(entry.dims.iter().product::<usize>() * torch::size(&entry.stored.name)?),
            None => Some(entry.range.len()),
        }
    }

    /// The elements in row-major order.
    fn elements(&self, entry: &Entry) -> Option<Bytes> {
        let bytes = self.data.slice(entry.range.clone())?;
        match &entry.strides {
            None => Some(bytes),
            Some(strides) => {
                torch::gather(&bytes, &entry.dims, strides, torch::size(&entry.stored.name)?).map(Bytes::from)
            }
        }
    }
}

impl fmt::Debug for TensorFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} tensors, {} bytes)", self.path.display(), self.tensors.len(), self.data.len())
    }
}

/// Opens what is a file, and neither a folder nor a pipe or a device, of which opening alone may wait forever.
pub(super) fn open_file(path: &Path) -> Result<File> {
    let io = |e| Error::io(path, e);
    let check = |metadata: Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(Error::model(path, "this is not a file")),
    };
    check(fs::metadata(path).map_err(io)?)?;
    let file = File::open(path).map_err(io)?;
    // Once more, in case that something else lies there by now.
    check(file.metadata().map_err(io)?)?;
    Ok(file)
}

/// A tensor over bytes; of blocks that its rows would cut (a convolution that was stored as a matrix), expanded.
fn in_shape(shape: Shape, dtype: DType, bytes: Bytes) -> Option<HostTensor> {
    HostTensor::from_bytes(shape, dtype, bytes.clone())
        .or_else(|| HostTensor::from_bytes([shape.count()], dtype, bytes)?.expand().reshape(shape))
}

/// Which container a file is, by its first bytes, or why it is none.
fn recognise(bytes: &[u8]) -> Result<Container, String> {
    let starts =
        |with: &[u8]| bytes.len() >= with.len() && bytes.iter().zip(with).all(|(a, b)| a.eq_ignore_ascii_case(b));
    if bytes.starts_with(b"version https://git-lfs") {
        let remedy = "this is a Git LFS pointer and not the model itself; run `git lfs pull` in the model's folder";
        return Err(remedy.into());
    }
    if starts(b"<!doctype") || starts(b"<html") || starts(b"<?xml") {
        return Err("this is a web page that was saved under a model's name; download the file itself".into());
    }
    if bytes.starts_with(b"GGUF") {
        return Ok(Container::Gguf);
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Ok(Container::Torch);
    }
    if torch::is_legacy(bytes) {
        return Ok(Container::Torch);
    }
    // A pickle's PROTO, where the size of a safetensors header would not have the header behind it.
    if let [0x80, 2..=5, _, _, size @ .., brace] = bytes.get(..9).unwrap_or_default()
        && (size != [0; 4] || *brace != b'{')
    {
        let remedy = "this is a pickle, and not one of tensors that `torch.save` wrote; nothing in it has been executed. In \
                      Python, if you trust it, write its tensors anew with `safetensors.torch.save_file`";
        return Err(remedy.into());
    }
    Ok(Container::Safetensors)
}

/// Refuses names that could not be shown.
pub(super) fn check_name(path: &Path, name: &str) -> Result<()> {
    if name.len() > MAX_NAME || name.chars().any(char::is_control) {
        let reason = format!("a name of {} bytes, or one with control characters, is refused", name.len());
        return Err(Error::tensor(path, clip(name), reason));
    }
    Ok(())
}

/// The number of elements, bounded as if no dimension were zero, so that no later product of some of them overflows.
pub(super) fn count(dims: &[usize]) -> Option<usize> {
    let bound = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    (bound <= isize::MAX as usize / 8).then(|| dims.iter().product())
}

/// The tensors in the order in which they lie, checked to share no byte: each with its name and place, and the end of
/// what lies before it with that neighbour's name.
pub(super) fn in_order<'a>(
    path: &Path,
    tensors: &'a BTreeMap<String, Entry>,
) -> Result<Vec<(&'a str, &'a Range<usize>)>> {
    let mut order: Vec<(&str, &Range<usize>)> = tensors.iter().map(|(name, e)| (name.as_str(), &e.range)).collect();
    order.sort_by_key(|(_, range)| (range.start, range.end));
    for pair in order.windows(2) {
        if let [(before, a), (name, b)] = pair
            && b.start < a.end
        {
            return Err(Error::tensor(path, *name, format!("it overlaps the end of `{before}` at byte {}", a.end)));
        }
    }
    Ok(order)
}
