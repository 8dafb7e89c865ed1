//! The safetensors container: a length, a JSON header, the bytes of the tensors.
//!
//! The header is parsed here and not by the `safetensors` crate, because that one accepts a name that is listed twice,
//! refuses a whole file for one element type it does not know, and names neither the tensor nor the numbers in most of
//! its errors. The crate is the oracle of the tests instead. Format: <https://github.com/huggingface/safetensors>.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, IntoDeserializer, MapAccess, Visitor, value};

use super::file::{Entry, Parsed, Stored, check_name, count, in_order};
use super::{Value, clip};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType};

/// The format's own bound on its header, in bytes.
const MAX_HEADER: usize = 100_000_000;
/// The header's one key that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// Checks the header of a file and finds its tensors: no byte is shared or unaccounted for.
pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<Parsed> {
    let broken = |reason: String| Error::model(path, reason);
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(broken(format!("{} bytes are too few for a file of tensors", bytes.len())));
    };
    let claimed = u64::from_le_bytes(*length);
    let Some(length) = usize::try_from(claimed).ok().filter(|&n| n <= rest.len()) else {
        return Err(broken(format!(
            "the header should take {claimed} bytes and only {} follow: the file is truncated, or neither safetensors \
             nor GGUF nor PyTorch's",
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
    let metadata = header.metadata.into_iter().map(|(key, text)| (key, Value::Text(text))).collect();
    Ok(Parsed { data, tensors, metadata })
}

/// What this crate computes with a type of the format as.
pub(super) fn dtype(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|&dtype| name_of(dtype) == Some(name))
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

/// Bits of one element; `None` for a type that the format does not have (yet).
fn bits(name: &str) -> Option<usize> {
    let name: value::StrDeserializer<'_, value::Error> = name.into_deserializer();
    safetensors::Dtype::deserialize(name).ok().map(|dtype| dtype.bitsize())
}

/// Holds every entry against the others and against the number of bytes that there are.
fn check(path: &Path, infos: BTreeMap<String, Info>, available: usize) -> Result<BTreeMap<String, Entry>> {
    let mut tensors = BTreeMap::new();
    for (name, Info { dtype: stored, shape: dims, data_offsets: (start, end) }) in infos {
        check_name(path, &name)?;
        let refuse = |reason: String| Err(Error::tensor(path, clip(&name), reason));
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
        if let Some(bits) = bits(&stored)
            && count.checked_mul(bits).is_none_or(|bits| bits % 8 != 0 || bits / 8 != end - start)
        {
            return refuse(format!(
                "{stored} {} does not take the {} bytes that it has",
                clip(&format!("{dims:?}")),
                end - start
            ));
        }
        let stored = Stored { dtype: dtype(&stored), name: stored };
        tensors.insert(name, Entry { stored, dims, range: start..end, strides: None });
    }

    let (mut before, mut reached) = (None, 0);
    for (name, range) in in_order(path, &tensors)? {
        if range.start > reached {
            let neighbour =
                before.map_or_else(|| "the start of the data".into(), |name| format!("the end of `{name}`"));
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
                        Slot::Vacant(entry) => _ = entry.insert(map.next_value()?),
                        Slot::Occupied(entry) => return Err(twice(entry.key())),
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
