//! Where the entries of a zip archive lie, for archives that compress nothing.
//!
//! APPNOTE.TXT of PKWARE, 4.3: the entries are listed in a central directory at the end. PyTorch stores its tensors
//! uncompressed, so each entry is a window of the file.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::weights::clip;
use crate::weights::reader::Reader;

const LOCAL_HEADER: u32 = 0x0403_4b50;
const CENTRAL_HEADER: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
/// Bytes of the record at the end, without its comment, and of the locator that stands before it in large archives.
const END_SIZE: usize = 22;
const LOCATOR_SIZE: usize = 20;
/// Bytes of a listed entry, without its name, extra fields and comment.
const CENTRAL_SIZE: usize = 46;
/// The extra field with sizes and offsets of 64 bits.
const EXTRA_64: u16 = 1;

/// The central directory: how many entries, where they are listed, in how many bytes.
struct Directory {
    entries: usize,
    start: usize,
    size: usize,
}

/// The entries' names and the bytes of each.
pub(super) fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let directory = directory(bytes)?;
    let end = directory.start.checked_add(directory.size).filter(|&end| end <= bytes.len());
    let listed = end.and_then(|end| bytes.get(directory.start..end));
    let listed = listed.ok_or("its zip directory lies outside of it: the file is truncated")?;
    if directory.entries > listed.len() / CENTRAL_SIZE {
        return Err(format!("a zip directory of {} bytes cannot list {} entries", listed.len(), directory.entries));
    }
    let (mut reader, mut entries) = (Reader::new(listed), BTreeMap::new());
    for _ in 0..directory.entries {
        let (name, range) = entry(bytes, &mut reader)?;
        if let Some(name) = name
            && entries.insert(name.clone(), range).is_some()
        {
            return Err(format!("its zip entry `{}` is listed twice", clip(&name)));
        }
    }
    Ok(entries)
}

/// One listed entry; no name for a folder.
fn entry(bytes: &[u8], reader: &mut Reader<'_>) -> Result<(Option<String>, Range<usize>), String> {
    if reader.u32()? != CENTRAL_HEADER {
        return Err("its zip directory is broken".into());
    }
    reader.take(4)?; // versions
    let (flags, method) = (reader.u16()?, reader.u16()?);
    reader.take(8)?; // time, date, checksum
    let (mut packed, mut size) = (u64::from(reader.u32()?), u64::from(reader.u32()?));
    let [name, extra, comment] = [reader.u16()?, reader.u16()?, reader.u16()?].map(usize::from);
    reader.take(8)?; // disk, attributes
    let mut offset = u64::from(reader.u32()?);
    let name = std::str::from_utf8(reader.take(name)?).map_err(|_| "a zip entry's name is not UTF-8")?;
    let mut extra = Reader::new(reader.take(extra)?);
    reader.take(comment)?;
    while extra.left() >= 4 {
        let (kind, length) = (extra.u16()?, extra.u16()?);
        let mut field = Reader::new(extra.take(usize::from(length))?);
        if kind == EXTRA_64 {
            // Only what did not fit into its 32 bits is there, in this order.
            for value in [&mut size, &mut packed, &mut offset] {
                if *value == u64::from(u32::MAX) {
                    *value = field.u64()?;
                }
            }
        }
    }
    if name.ends_with('/') {
        return Ok((None, 0..0));
    }
    let refuse = |reason: &str| Err(format!("its zip entry `{}` {reason}", clip(name)));
    if flags & 1 != 0 {
        return refuse("is encrypted");
    }
    if method != 0 || packed != size {
        return refuse("is compressed, which PyTorch's own are not");
    }
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut local = Reader::at(bytes, offset);
    if local.u32()? != LOCAL_HEADER {
        return refuse("does not lie where the zip directory says");
    }
    local.take(22)?;
    let [name_size, extra_size] = [local.u16()?, local.u16()?].map(usize::from);
    local.take(name_size)?;
    local.take(extra_size)?;
    let start = local.position();
    let size = usize::try_from(size).ok().filter(|&size| size <= local.left());
    match size {
        Some(size) => Ok((Some(name.to_owned()), start..start + size)),
        None => refuse("reaches past the end: the file is truncated"),
    }
}

fn directory(bytes: &[u8]) -> Result<Directory, String> {
    let longest = END_SIZE + usize::from(u16::MAX);
    let first = bytes.len().saturating_sub(longest);
    let tail = bytes.get(first..).unwrap_or_default();
    let signature = END.to_le_bytes();
    let found = tail.windows(END_SIZE).rposition(|window| window.starts_with(&signature));
    let at = first + found.ok_or("its zip directory is missing: the file is truncated")?;
    let mut end = Reader::at(bytes, at + 4);
    end.take(6)?; // numbers of disks, entries on this one
    let (entries, size, start) = (end.u16()?, end.u32()?, end.u32()?);
    let large = entries == u16::MAX || size == u32::MAX || start == u32::MAX;
    let locator = at.checked_sub(LOCATOR_SIZE).filter(|_| large);
    if let Some(locator) = locator {
        let mut locator = Reader::at(bytes, locator);
        if locator.u32()? == LOCATOR_64 {
            locator.take(4)?; // number of the disk
            let mut end = Reader::at(bytes, locator.size()?);
            if end.u32()? != END_64 {
                return Err("its zip64 directory is broken".into());
            }
            end.take(28)?; // size, versions, numbers of disks, entries on this one
            return Ok(Directory { entries: end.size()?, size: end.size()?, start: end.size()? });
        }
    }
    Ok(Directory { entries: entries.into(), size: size as usize, start: start as usize })
}
