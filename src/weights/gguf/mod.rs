//! The GGUF container, versions 2 and 3: typed metadata, tensor infos, aligned data.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Dimensions are written innermost first there and
//! are reversed here. A tensor that a writer had to store under another shape keeps its own in the metadata, under
//! `comfy.gguf.orig_shape.NAME` (ComfyUI-GGUF).

mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use write::Metadata;
pub(super) use write::{Writer, number_of};

use super::file::{Entry, Parsed, Stored, check_name, count, in_order};
use super::reader::Reader;
use super::{Value, clip};
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType};

/// What the data is aligned to where the file does not say.
pub(super) const ALIGNMENT: usize = 32;
/// The largest alignment that makes any sense.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Dimensions that a tensor may have in a file; GGML's own have four, and convolutions over time five.
const MAX_DIMS: u32 = 8;
/// Bytes of the shortest entry of the metadata, and of the tensor infos.
const SHORTEST_VALUE: usize = 13;
const SHORTEST_INFO: usize = 24;
/// Arrays within arrays.
const DEPTH: usize = 3;
/// Where the metadata keeps the shape of a tensor that is stored under another.
const ORIGINAL_SHAPE: &str = "comfy.gguf.orig_shape.";

/// GGML's types: number, name, elements of a block, bytes of a block.
const TYPES: &[(u32, &str, usize, usize)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
];

/// Checks the header of a file and finds its tensors.
pub(super) fn parse(path: &Path, bytes: Bytes) -> Result<Parsed> {
    let header = header(&bytes).map_err(|reason| Error::model(path, reason))?;
    let Header { metadata, infos, data } = header;
    let available = bytes.len() - data;
    let mut tensors = BTreeMap::new();
    for Info { name, dims, kind, offset } in infos {
        check_name(path, &name)?;
        let refuse = |reason: String| Error::tensor(path, clip(&name), reason);
        let &(_, stored, block, size) = (TYPES.iter().find(|(number, ..)| *number == kind)).ok_or_else(|| {
            refuse(format!("its type has the number {kind}, which GGUF did not have when this was written"))
        })?;
        let shown = || clip(&format!("{dims:?}"));
        let elements = count(&dims).ok_or_else(|| refuse(format!("its shape {} is more than can exist", shown())))?;
        if elements % block != 0 || dims.last().is_some_and(|row| row % block != 0) {
            return Err(refuse(format!("rows of its shape {} are no whole blocks of {stored}, {block} each", shown())));
        }
        let end = (elements / block).checked_mul(size).and_then(|size| offset.checked_add(size));
        let Some(end) = end.filter(|&end| end <= available) else {
            return Err(refuse(format!(
                "{stored} {} from byte {offset} reaches past the data's {available} bytes: the file is truncated",
                shown()
            )));
        };
        let dims = match metadata.get(&format!("{ORIGINAL_SHAPE}{name}")) {
            Some(shape) => original(shape, elements).map_err(refuse)?,
            None => dims,
        };
        let stored = Stored { name: stored.to_owned(), dtype: dtype(stored) };
        let entry = Entry { stored, dims, range: offset..end, strides: None };
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(Error::tensor(path, clip(&name), "it is listed twice"));
        }
    }
    in_order(path, &tensors)?;
    let data = bytes.slice(data..bytes.len()).unwrap_or_else(|| Vec::new().into());
    Ok(Parsed { data, tensors, metadata })
}

/// Whether this is the name of a type whose elements share scales.
pub(super) fn is_quantised(name: &str) -> bool {
    TYPES.iter().any(|&(_, known, block, _)| known == name && block > 1)
}

/// What this crate computes with a type of the format as.
fn dtype(name: &str) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
}

/// The shape that a tensor had before its writer changed it.
fn original(shape: &Value, elements: usize) -> Result<Vec<usize>, String> {
    let numbers = shape.numbers().ok_or_else(|| format!("`{ORIGINAL_SHAPE}` of it is no list of numbers"))?;
    let dims: Vec<usize> = numbers.iter().map(|&n| n.max(0.0) as usize).collect();
    match count(&dims) {
        Some(count) if count == elements && dims.len() <= MAX_DIMS as usize => Ok(dims),
        _ => {
            Err(format!("`{ORIGINAL_SHAPE}` of it says {}, and it has {elements} elements", clip(&format!("{dims:?}"))))
        }
    }
}

struct Header {
    metadata: BTreeMap<String, Value>,
    infos: Vec<Info>,
    /// Where the data begins.
    data: usize,
}

/// A tensor's entry as it is written, its dimensions outermost first.
struct Info {
    name: String,
    dims: Vec<usize>,
    kind: u32,
    /// From the beginning of the data.
    offset: usize,
}

fn header(bytes: &[u8]) -> Result<Header, String> {
    let mut reader = Reader::new(bytes);
    reader.take(4)?; // "GGUF"
    match reader.u32()? {
        2 | 3 => {}
        1 => return Err("GGUF of version 1 is not read; newer tools write it anew".into()),
        version if version.swap_bytes() <= 3 => return Err("its numbers are big-endian, which is not supported".into()),
        version => return Err(format!("GGUF of version {version} is not known")),
    }
    let (tensors, values) = (reader.size()?, reader.size()?);
    if values > reader.left() / SHORTEST_VALUE {
        return Err(format!("{values} values of metadata do not fit into its {} bytes", bytes.len()));
    }
    let mut metadata = BTreeMap::new();
    for _ in 0..values {
        let key = text(&mut reader)?;
        let within = |reason: String| format!("metadata `{}`: {reason}", clip(&key));
        let kind = reader.u32().map_err(within)?;
        let value = value(&mut reader, kind, DEPTH).map_err(within)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(within("it is given twice".into()));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(value) => match value.unsigned() {
            Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => n as usize,
            _ => return Err("`general.alignment` is no power of two below a megabyte".into()),
        },
    };
    if tensors > reader.left() / SHORTEST_INFO {
        return Err(format!("{tensors} tensors do not fit into its {} bytes", bytes.len()));
    }
    let mut infos = Vec::with_capacity(tensors);
    for _ in 0..tensors {
        let name = text(&mut reader)?;
        let rank = reader.u32()?;
        let within = |reason: String| format!("tensor `{}`: {reason}", clip(&name));
        if rank > MAX_DIMS {
            return Err(within(format!("{rank} dimensions")));
        }
        let mut dims = (0..rank).map(|_| reader.size()).collect::<Result<Vec<_>, _>>().map_err(within)?;
        dims.reverse();
        let (kind, offset) = (reader.u32()?, reader.size()?);
        if offset % alignment != 0 {
            return Err(within(format!("it begins at byte {offset}, which is not aligned to {alignment}")));
        }
        infos.push(Info { name, dims, kind, offset });
    }
    let data = reader.position().next_multiple_of(alignment).min(bytes.len());
    Ok(Header { metadata, infos, data })
}

fn text(reader: &mut Reader<'_>) -> Result<String, String> {
    let length = reader.size()?;
    Ok(String::from_utf8_lossy(reader.take(length)?).into_owned())
}

/// A value of the type of this number.
fn value(reader: &mut Reader<'_>, kind: u32, depth: usize) -> Result<Value, String> {
    Ok(match kind {
        0 => Value::Unsigned(reader.u8()?.into()),
        1 => Value::Signed((reader.u8()? as i8).into()),
        2 => Value::Unsigned(reader.u16()?.into()),
        3 => Value::Signed((reader.u16()? as i16).into()),
        4 => Value::Unsigned(reader.u32()?.into()),
        5 => Value::Signed(reader.i32()?.into()),
        6 => Value::Float(reader.f32()?.into()),
        7 => Value::Bool(reader.u8()? != 0),
        8 => Value::Text(text(reader)?),
        9 => array(reader, depth)?,
        10 => Value::Unsigned(reader.u64()?),
        11 => Value::Signed(reader.u64()? as i64),
        12 => Value::Float(reader.f64()?),
        other => return Err(format!("its type has the number {other}, which is not known")),
    })
}

fn array(reader: &mut Reader<'_>, depth: usize) -> Result<Value, String> {
    let (kind, length) = (reader.u32()?, reader.size()?);
    let shortest = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        other => return Err(format!("its elements' type has the number {other}, which is not known")),
    };
    if length > reader.left() / shortest {
        return Err(format!("{length} elements do not fit into the {} bytes that are left", reader.left()));
    }
    let all = 0..length;
    Ok(match kind {
        8 => Value::Texts(all.map(|_| text(reader)).collect::<Result<_, _>>()?),
        9 if depth == 0 => return Err("arrays in arrays in arrays".into()),
        9 => Value::Lists(all.map(|_| array(reader, depth - 1)).collect::<Result<_, _>>()?),
        _ => Value::Numbers(all.map(|_| number(reader, kind)).collect::<Result<_, _>>()?),
    })
}

fn number(reader: &mut Reader<'_>, kind: u32) -> Result<f64, String> {
    let value = value(reader, kind, 0)?;
    Ok(value.number().unwrap_or(f64::from(u8::from(value.bool() == Some(true)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_sizes_that_this_crate_knows() {
        let known: Vec<_> =
            TYPES.iter().filter_map(|&(_, name, block, size)| Some((dtype(name)?, block, size))).collect();
        assert_eq!(known.len(), 13);
        for (dtype, block, size) in known {
            assert_eq!((dtype.block_elements(), dtype.block_bytes()), (block, size), "{dtype}");
        }
    }
}
