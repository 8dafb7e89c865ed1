//! PyTorch's containers, read as data only: a zip archive of a pickle, which says what there is, and of the tensors' bytes,
//! and what came before it.

mod legacy;
mod pickle;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::file::{Entry, MAX_NAME, Parsed, Stored, check_name, count};
use super::{clip, safetensors};
use crate::error::{Error, Result};
use crate::tensor::Bytes;
pub(super) use legacy::is_legacy;
use pickle::{Id, Node, Pickle, Tensor};

/// Dictionaries that training programs wrap a model's own in, those that are meant to be used first.
const WRAPPERS: &[&str] = &["state_dict", "model_state_dict", "model", "module"];
/// Dictionaries within dictionaries that are followed.
const DEPTH: usize = 4;
/// Keys that are looked at in all: a few times those of any model, or of its optimizer.
const BUDGET: usize = 1 << 20;
/// Tensors of one file.
const MOST: usize = 1 << 16;

/// What a file holds, in either container.
struct Contents<'a> {
    pickle: Pickle<'a>,
    /// Where the bytes of each entry lie; those of storages are below `data/`.
    entries: BTreeMap<String, Range<usize>>,
    /// What stands before the entries' names.
    root: String,
}

/// Finds the tensors of a file.
///
/// Names are the keys of the dictionary that the file holds, joined by dots where dictionaries lie in it. One that only
/// wraps the model's (`{"state_dict": {...}, "epoch": 7}`) is left away.
pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<Parsed> {
    let broken = |reason: String| Error::model(path, reason);
    let contents = if is_legacy(&bytes) { legacy::contents(&bytes) } else { zipped(&bytes) };
    let Contents { pickle, entries, root } = contents.map_err(broken)?;
    let mut found = BTreeMap::new();
    let mut search = Search { pickle: &pickle, budget: BUDGET };
    let dictionary = search.unwrap().map_err(broken)?;
    search.collect(dictionary, "", DEPTH, &mut found).map_err(broken)?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in found {
        check_name(path, &name)?;
        let entry =
            place(&pickle, tensor, &entries, &root).map_err(|reason| Error::tensor(path, clip(&name), reason))?;
        tensors.insert(name, entry);
    }
    Ok(Parsed { data: bytes, tensors, metadata: BTreeMap::new() })
}

/// What a zip archive holds.
fn zipped(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let entries = zip::entries(bytes)?;
    let is_pickle = |name: &&String| name.rsplit('/').next() == Some("data.pkl");
    let (Some(name), None) = ({
        let mut found = entries.keys().filter(is_pickle);
        (found.next(), found.next())
    }) else {
        return Err("this zip archive is not PyTorch's: it does not hold one `data.pkl`".into());
    };
    let root = name.strip_suffix("data.pkl").unwrap_or_default().to_owned();
    let slice = |name: &str| entries.get(&format!("{root}{name}")).and_then(|range| bytes.get(range.clone()));
    if slice("byteorder").is_some_and(|order| order != b"little") {
        return Err("its numbers are big-endian, which is not supported".into());
    }
    let pickle = pickle::read(slice("data.pkl").unwrap_or_default())?;
    Ok(Contents { pickle, entries, root })
}

/// A walk through a pickle's dictionaries.
struct Search<'a> {
    pickle: &'a Pickle<'a>,
    budget: usize,
}

impl<'a> Search<'a> {
    /// The dictionary with the tensors, inside those that only wrap it.
    fn unwrap(&mut self) -> Result<&'a [(Id, Id)], String> {
        let Node::Dict(root) = self.pickle.node(self.pickle.root) else {
            return Err("it holds no dictionary of tensors".into());
        };
        let mut inside: &'a [(Id, Id)] = root;
        for _ in 0..DEPTH {
            let is_tensor = |&(_, value): &(Id, Id)| matches!(self.pickle.node(value), Node::Tensor(_));
            if inside.iter().any(is_tensor) {
                break;
            }
            let mut dictionaries = Vec::new();
            for &(key, value) in inside {
                if let (Some(key), Node::Dict(inner)) = (self.pickle.key(key), self.pickle.node(value))
                    && self.has_tensors(inner, DEPTH)?
                {
                    dictionaries.push((key, inner));
                }
            }
            let known = WRAPPERS.iter().find_map(|&name| dictionaries.iter().find(|(key, _)| key == name));
            let only = if let [one] = &dictionaries[..] { Some(one) } else { None };
            let Some((_, inner)) = known.or(only) else { break };
            inside = inner;
        }
        Ok(inside)
    }

    fn spend(&mut self) -> Result<(), String> {
        self.budget = self.budget.checked_sub(1).ok_or("its dictionaries have more keys than any model")?;
        Ok(())
    }

    fn has_tensors(&mut self, items: &[(Id, Id)], depth: usize) -> Result<bool, String> {
        for &(_, value) in items {
            self.spend()?;
            match self.pickle.node(value) {
                Node::Tensor(_) => return Ok(true),
                Node::Dict(inner) if depth > 0 && self.has_tensors(inner, depth - 1)? => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }

    fn collect(
        &mut self,
        items: &[(Id, Id)],
        prefix: &str,
        depth: usize,
        found: &mut BTreeMap<String, &'a Tensor>,
    ) -> Result<(), String> {
        for &(key, value) in items {
            self.spend()?;
            let Some(key) = self.pickle.key(key) else { continue };
            if prefix.len() + key.len() > MAX_NAME || found.len() > MOST {
                return Err(format!(
                    "more, or longer, names than any model has: `{}`",
                    clip(&format!("{prefix}{key}"))
                ));
            }
            match self.pickle.node(value) {
                Node::Tensor(tensor) => {
                    let name = format!("{prefix}{key}");
                    if found.insert(name.clone(), tensor).is_some() {
                        return Err(format!("`{}` is in it twice", clip(&name)));
                    }
                }
                Node::Dict(inner) if depth > 0 => self.collect(inner, &format!("{prefix}{key}."), depth - 1, found)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Where a tensor lies in the file.
fn place(
    pickle: &Pickle<'_>,
    tensor: &Tensor,
    entries: &BTreeMap<String, Range<usize>>,
    root: &str,
) -> Result<Entry, String> {
    let Node::Storage(storage) = pickle.node(tensor.storage) else { return Err("it has no storage".into()) };
    let size = size(storage.dtype).ok_or_else(|| format!("its type {} has no size", storage.dtype))?;
    let key = pickle.text(&storage.key);
    let range = entries.get(&format!("{root}data/{key}"));
    let range = range.ok_or_else(|| format!("its storage `data/{}` is missing from the file", clip(key)))?;
    if storage.count.checked_mul(size) != Some(range.len()) {
        let (count, dtype, there) = (storage.count, storage.dtype, range.len());
        return Err(format!("its storage should be {count} {dtype} and has {there} bytes"));
    }
    let (dims, strides) = (&tensor.dims, &tensor.strides);
    let shown = || clip(&format!("{dims:?} by {strides:?}"));
    let elements = count(dims).filter(|_| dims.len() == strides.len());
    let elements = elements.ok_or_else(|| format!("its shape {} is more than can exist", shown()))?;
    if elements > storage.count {
        return Err(format!("its shape {} has more elements than its storage, {}", shown(), storage.count));
    }
    // The last element's place, in elements.
    let reach = dims
        .iter()
        .zip(strides)
        .try_fold(0usize, |reach, (&dim, &stride)| reach.checked_add(dim.saturating_sub(1).checked_mul(stride)?));
    let last = reach.and_then(|reach| tensor.offset.checked_add(reach));
    let end = match elements {
        0 => tensor.offset,
        _ => last.and_then(|last| last.checked_add(1)).unwrap_or(usize::MAX),
    };
    if end > storage.count {
        return Err(format!("its shape {} reaches past its storage of {} elements", shown(), storage.count));
    }
    let contiguous = elements == 0 || is_row_major(dims, strides);
    let stored = Stored { dtype: safetensors::dtype(storage.dtype), name: storage.dtype.to_owned() };
    let range = range.start + tensor.offset * size..range.start + end * size;
    Ok(Entry { stored, dims: dims.clone(), range, strides: (!contiguous).then(|| strides.clone()) })
}

fn is_row_major(dims: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    dims.iter().zip(strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == expected;
        expected *= dim;
        fits
    })
}

/// Bytes of an element of a storage.
pub(super) fn size(dtype: &str) -> Option<usize> {
    match dtype {
        "F64" | "I64" => Some(8),
        "F32" | "I32" => Some(4),
        "F16" | "BF16" | "I16" => Some(2),
        "I8" | "U8" | "BOOL" => Some(1),
        _ => None,
    }
}

/// The elements of `size` bytes that lie `strides` elements apart, in row-major order; `None` when they reach past the
/// end of `bytes`.
pub(super) fn gather(bytes: &[u8], dims: &[usize], strides: &[usize], size: usize) -> Option<Vec<u8>> {
    let count: usize = dims.iter().product();
    let mut out = Vec::with_capacity(count.checked_mul(size)?);
    let mut index = vec![0; dims.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        out.extend_from_slice(bytes.get(at * size..(at + 1) * size)?);
        for (i, &dim) in index.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < dim {
                break;
            }
            *i = 0;
        }
    }
    Some(out)
}
