//! PyTorch's files from before version 1.6, as `torch.save` still writes them on demand: pickles one after the other, then
//! the storages' bytes.
//!
//! The pickles are a number that says what the file is, the version, facts of the machine that wrote it, the dictionary of
//! tensors and a list of the storages' keys; for each key follow the number of its elements, in 64 bits, and these
//! (`_legacy_save` in torch/serialization.py).

use std::collections::BTreeMap;

use super::Contents;
use super::pickle::{self, Node, Pickle};
use super::size;
use crate::weights::clip;
use crate::weights::reader::Reader;

/// The only one there has been.
const VERSION: i64 = 1001;

/// Whether a file begins as these do.
pub fn is_legacy(bytes: &[u8]) -> bool {
    after_magic(bytes).is_some()
}

/// Where the second pickle begins: behind PROTO, the FRAME of later protocols, and the number 0x1950a86a20f9469cfc6c as a
/// LONG1 of ten bytes with its STOP.
fn after_magic(bytes: &[u8]) -> Option<usize> {
    const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    const FRAME: usize = 9;
    let [0x80, 2..=5, rest @ ..] = bytes else { return None };
    let number = if rest.first() == Some(&0x95) { rest.get(FRAME..)? } else { rest };
    Some(bytes.len() - number.strip_prefix(MAGIC)?.len())
}

/// What such a file holds, its storages as if they were entries of an archive.
pub fn contents(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let mut at = after_magic(bytes).ok_or("this is no file of PyTorch's")?;
    let mut next = || {
        let (pickle, length) = pickle::read_first(bytes.get(at..).unwrap_or_default())?;
        at += length;
        Ok::<_, String>(pickle)
    };
    let (version, system, pickle, keys) = (next()?, next()?, next()?, next()?);
    if !matches!(version.node(version.root), Node::Int(VERSION)) {
        return Err("its version of PyTorch's format is not known".into());
    }
    check_order(&system)?;
    let Node::List(keys_of) = keys.node(keys.root) else { return Err("its storages are not listed".into()) };
    let storages = pickle.storages();
    let (mut reader, mut entries) = (Reader::at(bytes, at), BTreeMap::new());
    for &key in keys_of {
        let Node::Text(key) = keys.node(key) else { return Err("a storage's key is no text".into()) };
        let key = keys.text(key);
        let size = storages.get(key).and_then(|dtype| size(dtype));
        let size = size.ok_or_else(|| format!("no tensor says what its storage `{}` is of", clip(key)))?;
        let count = reader.size()?;
        let length = count.checked_mul(size).ok_or_else(|| format!("a storage of {count} elements cannot exist"))?;
        let start = reader.position();
        reader.take(length)?;
        if entries.insert(format!("data/{key}"), start..start + length).is_some() {
            return Err(format!("its storage `{}` is listed twice", clip(key)));
        }
    }
    match reader.left() {
        0 => Ok(Contents { pickle, entries, root: String::new() }),
        more => Err(format!("{more} bytes stand behind its last storage")),
    }
}

/// Refuses files of machines that write numbers from their other end.
fn check_order(system: &Pickle<'_>) -> Result<(), String> {
    let Node::Dict(facts) = system.node(system.root) else {
        return Err("it does not say what machine wrote it".into());
    };
    let order = facts.iter().find(|(key, _)| system.key(*key).as_deref() == Some("little_endian"));
    match order.map(|(_, value)| system.node(*value)) {
        Some(Node::Int(1)) => Ok(()),
        Some(Node::Int(0)) => Err("its numbers are big-endian, which is not supported".into()),
        _ => Err("it does not say in which order the bytes of its numbers are".into()),
    }
}
