//! One safetensors file: a length, a JSON header, the bytes of the tensors.
//!
//! The header is parsed here and not by the `safetensors` crate, because that one accepts a name that is listed twice,
//! refuses a whole file for one element type it does not know, and names neither the tensor nor the numbers in most of
//! its errors. The crate is the oracle of the tests instead. Format: <https://github.com/huggingface/safetensors>.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor, value};

use super::clip;
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, HostTensor, Shape};

/// The format's own bound on its header, in bytes.
pub(super) const MAX_HEADER: usize = 100_000_000;
/// Longer names than any framework writes; the bound keeps messages and listings readable.
const MAX_NAME: usize = 512;
/// The header's one key that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// A safetensors file, mapped or in memory, whose header has been checked in full: every tensor lies inside the file,
/// has as many bytes as its shape and type need, and no byte is shared or unaccounted for.
pub struct Safetensors {
    path: PathBuf,
    data: Bytes,
    tensors: BTreeMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

/// Where a tensor lies in the data, and as what.
struct Place {
    stored: Stored,
    dims: Vec<usize>,
    range: Range<usize>,
}

/// An element type of a file: one that this crate computes with, or the name of another.
enum Stored {
    Known(DType),
    Other(String),
}

impl Safetensors {
    /// Maps a file and checks its header. The tensors are read from disk when they are used.
    ///
    /// The file must not be changed while anything read from it is in use; replacing it (a rename over it) is fine.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened, and those of [`Safetensors::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if !file.metadata().map_err(|e| Error::io(path, e))?.is_file() {
            return Err(Error::model(path, "this is not a file"));
        }
        // SAFETY: the mapping is read-only and private to this process' view of the file. Nobody but another process
        // (or a careless caller) can change what it shows; that is excluded by the documented requirement above, as
        // for every program that maps its models, and no value read from it is trusted to stay the same for safety:
        // offsets and sizes are copied out of the header once, and elements are only ever numbers.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        Self::from_bytes(path, Bytes::new(Arc::new(map)))
    }

    /// Checks the header of a file that is in memory already; `path` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::Tensor`] when the file is truncated, its header is not what the format asks for,
    /// or a tensor's shape, type and place do not fit together.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Bytes) -> Result<Self> {
        let path = path.as_ref();
        let broken = |reason: String| Error::model(path, reason);
        if bytes.starts_with(b"version https://git-lfs") {
            let remedy = "this is a Git LFS pointer and not the model itself; run `git lfs pull` in the model's folder";
            return Err(broken(remedy.into()));
        }
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(broken(format!("{} bytes are too few for a safetensors file", bytes.len())));
        };
        let claimed = u64::from_le_bytes(*length);
        let Some(length) = usize::try_from(claimed).ok().filter(|&n| n <= rest.len()) else {
            return Err(broken(format!(
                "the header should take {claimed} bytes and only {} follow: the file is truncated or no safetensors file",
                rest.len()
            )));
        };
        if length > MAX_HEADER {
            return Err(broken(format!("a header of {length} bytes is more than the format's {MAX_HEADER}")));
        }
        let (header, data) = rest.split_at(length);
        if header.first() != Some(&b'{') {
            return Err(broken("the header is not a JSON object: this is no safetensors file".into()));
        }
        let header: Header =
            serde_json::from_slice(header).map_err(|e| broken(format!("broken header: {}", clip(&e.to_string()))))?;
        let tensors = check(path, header.tensors, data.len())?;
        let data = bytes.slice(8 + length..bytes.len()).unwrap_or_else(|| Vec::new().into());
        Ok(Self { path: path.to_path_buf(), data, tensors, metadata: header.metadata })
    }

    /// The file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The strings that the file's writer attached to it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The dimensions of a tensor; `None` when there is no such tensor or it has more dimensions than
    /// [`MAX_RANK`](crate::tensor::MAX_RANK).
    pub fn shape_of(&self, name: &str) -> Option<Shape> {
        Shape::checked(&self.tensors.get(name)?.dims)
    }

    /// A tensor, as a window of the file: nothing is read or copied yet.
    ///
    /// # Errors
    /// [`Error::Tensor`] when there is none of this name, or its type or number of dimensions is not one that models
    /// here use.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        let refuse = |reason: String| Error::tensor(&self.path, clip(name), reason);
        let entry = self.tensors.get(name).ok_or_else(|| refuse("it is not in the file".into()))?;
        let dtype = match &entry.stored {
            Stored::Known(dtype) => *dtype,
            Stored::Other(name) => {
                let can = DType::ALL.into_iter().filter_map(name_of).collect::<Vec<_>>().join(", ");
                return Err(refuse(format!("its type {} cannot be used; {can} can", clip(name))));
            }
        };
        let shape = Shape::checked(&entry.dims)
            .ok_or_else(|| refuse(format!("{} dimensions are more than can be used", entry.dims.len())))?;
        self.data
            .slice(entry.range.clone())
            .and_then(|bytes| HostTensor::from_bytes(shape, dtype, bytes))
            .ok_or_else(|| refuse(format!("{dtype}{shape} is not what lies at {:?}", entry.range)))
    }

    /// What identifies a tensor besides its name: its type as the file spells it, its dimensions, its bytes.
    pub(super) fn raw(&self, name: &str) -> Option<(&str, &[usize], &[u8])> {
        let entry = self.tensors.get(name)?;
        Some((entry.stored.name(), &entry.dims, self.data.get(entry.range.clone())?))
    }
}

impl fmt::Debug for Safetensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} tensors, {} bytes)", self.path.display(), self.tensors.len(), self.data.len())
    }
}

/// What the format calls an element type; `None` for those that it does not have.
pub(super) fn name_of(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("F32"),
        DType::F16 => Some("F16"),
        DType::BF16 => Some("BF16"),
        DType::U32 => Some("U32"),
        DType::F8E4M3 => Some("F8_E4M3"),
        DType::F8E5M2 => Some("F8_E5M2"),
        _ => None,
    }
}

impl Stored {
    fn new(name: String) -> Self {
        match DType::ALL.into_iter().find(|&dtype| name_of(dtype) == Some(&name)) {
            Some(dtype) => Self::Known(dtype),
            None => Self::Other(name),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Known(dtype) => name_of(*dtype).unwrap_or(dtype.name()),
            Self::Other(name) => name,
        }
    }

    /// Bits of one element; `None` for a type that the format does not have (yet).
    fn bits(&self) -> Option<usize> {
        match self {
            Self::Known(dtype) => Some(8 * dtype.block_bytes()),
            Self::Other(name) => {
                let name: value::StrDeserializer<'_, value::Error> = name.as_str().into_deserializer();
                safetensors::Dtype::deserialize(name).ok().map(|dtype| dtype.bitsize())
            }
        }
    }
}

/// The number of elements, bounded as if no dimension were zero, so that no later product of some of them overflows.
fn count(dims: &[usize]) -> Option<usize> {
    let bound = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)))?;
    (bound <= isize::MAX as usize / 8).then(|| dims.iter().product())
}

/// Holds every entry against the others and against the number of bytes that there are.
fn check(path: &Path, infos: BTreeMap<String, Info>, available: usize) -> Result<BTreeMap<String, Place>> {
    let mut tensors = BTreeMap::new();
    for (name, Info { dtype, shape: dims, data_offsets: (start, end) }) in infos {
        let refuse = |reason: String| Err(Error::tensor(path, clip(&name), reason));
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return refuse(format!("a name of {} bytes, or one with control characters, is refused", name.len()));
        }
        let stored = Stored::new(dtype);
        if start > end {
            return refuse(format!("it ends at byte {end}, before its start at {start}"));
        }
        if end > available {
            return refuse(format!(
                "it reaches to byte {end} of the data and there are only {available}: the file is truncated"
            ));
        }
        let Some(count) = count(&dims) else {
            return refuse(format!("its shape {} is more than can exist", clip(&format!("{dims:?}"))));
        };
        if let Some(bits) = stored.bits()
            && count.checked_mul(bits).is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - start)
        {
            return refuse(format!(
                "{} {} does not take the {} bytes that it has",
                stored.name(),
                clip(&format!("{dims:?}")),
                end - start
            ));
        }
        tensors.insert(name, Place { stored, dims, range: start..end });
    }

    let mut order: Vec<(&str, &Range<usize>)> = tensors.iter().map(|(name, e)| (name.as_str(), &e.range)).collect();
    order.sort_by_key(|(_, range)| (range.start, range.end));
    let (mut before, mut reached) = (None, 0);
    for (name, range) in order {
        let neighbour = before.map_or_else(|| "the start of the data".into(), |name| format!("the end of `{name}`"));
        if range.start < reached {
            return Err(Error::tensor(path, name, format!("it overlaps {neighbour} at byte {reached}")));
        }
        if range.start > reached {
            let gap = range.start - reached;
            return Err(Error::tensor(path, name, format!("between it and {neighbour}, {gap} bytes are nobody's")));
        }
        (before, reached) = (Some(name), range.end);
    }
    if reached != available {
        let reason = format!("the tensors end at byte {reached} of the data, and there are {available}");
        return Err(Error::model(path, reason));
    }
    Ok(tensors)
}

/// The header as it is written.
struct Header {
    tensors: BTreeMap<String, Info>,
    metadata: BTreeMap<String, String>,
}

/// A tensor's entry as it is written; offsets are relative to the end of the header.
#[derive(serde::Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn twice<E: serde::de::Error>(name: &str) -> E {
            E::custom(format_args!("`{}` is listed twice", clip(name)))
        }

        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header { tensors: BTreeMap::new(), metadata: BTreeMap::new() };
                let mut described = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if std::mem::replace(&mut described, true) {
                            return Err(twice(METADATA));
                        }
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    match header.tensors.entry(name) {
                        Entry::Vacant(entry) => _ = entry.insert(map.next_value()?),
                        Entry::Occupied(entry) => return Err(twice(entry.key())),
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
