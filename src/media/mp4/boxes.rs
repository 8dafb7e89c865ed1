//! The box structure of ISO/IEC 14496-12, section 4.2: a size, four letters, a payload.

/// A box of these parts.
///
/// Boxes of 4 GiB do not occur here: only `mdat` can be that large, and its header is written apart.
pub(super) fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let size = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(kind);
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A box with version 0 and these flags in front.
pub(super) fn full(kind: &[u8; 4], flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    let flags = flags.to_be_bytes();
    let mut all = vec![&flags[..]];
    all.extend_from_slice(parts);
    boxed(kind, &all)
}

/// The header of a box: its letters, the size of the header and, unless it reaches to the end, of the whole box.
/// `None` when the bytes are too few or the size is less than its own header.
pub(super) fn header(bytes: &[u8]) -> Option<([u8; 4], u64, Option<u64>)> {
    let size = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = bytes.get(4..8)?.try_into().ok()?;
    match size {
        0 => Some((kind, 8, None)),
        1 => {
            let size = u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?);
            (size >= 16).then_some((kind, 16, Some(size)))
        }
        2..8 => None,
        _ => Some((kind, 8, Some(u64::from(size)))),
    }
}

/// The boxes in some bytes, each as its letters and its payload. It ends where the bytes do, or at the first box
/// that is broken or does not fit.
pub(super) struct Boxes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Boxes<'a> {
    type Item = ([u8; 4], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        let (kind, head, size) = header(bytes)?;
        let head = usize::try_from(head).ok()?;
        let size = size.map_or(Some(bytes.len()), |size| usize::try_from(size).ok())?;
        let payload = bytes.get(head..size)?;
        self.0 = bytes.get(size..)?;
        Some((kind, payload))
    }
}

/// The payload of the first box of this kind.
pub(super) fn find<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    Boxes(bytes).find(|(found, _)| found == kind).map(|(_, payload)| payload)
}
