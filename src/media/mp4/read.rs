//! The comment of an MP4, ours or another's.

use std::io::{Read, Seek, SeekFrom};

use super::boxes::{find, header};

/// A larger index than this is not read for a comment: it would be that of 8 million frames.
const LARGEST_MOOV: u64 = 64 << 20;

/// The text of `moov/udta/meta/ilst/©cmt`.
pub(in crate::media) fn read_comment(mut from: impl Read + Seek) -> Result<Option<String>, String> {
    let broken = |e: std::io::Error| format!("broken MP4: {e}");
    let mut at = 0_u64;
    loop {
        from.seek(SeekFrom::Start(at)).map_err(broken)?;
        let mut bytes = Vec::new();
        from.by_ref().take(16).read_to_end(&mut bytes).map_err(broken)?;
        let Some((kind, head, size)) = header(&bytes) else {
            return Ok(None);
        };
        if &kind == b"moov" {
            let size = size.unwrap_or(LARGEST_MOOV + head) - head;
            from.seek(SeekFrom::Start(at + head)).map_err(broken)?;
            let mut moov = Vec::new();
            from.take(size.min(LARGEST_MOOV)).read_to_end(&mut moov).map_err(broken)?;
            return Ok(comment_of(&moov));
        }
        // A box without a size is the last.
        let Some(next) = size.and_then(|size| at.checked_add(size)) else {
            return Ok(None);
        };
        at = next;
    }
}

/// The comment in the payload of a `moov`.
pub(super) fn comment_of(moov: &[u8]) -> Option<String> {
    // `meta` begins with a version, and `data` with a type and a language.
    let meta = find(find(moov, b"udta")?, b"meta")?.get(4..)?;
    let item = find(find(meta, b"ilst")?, b"\xa9cmt")?;
    let text = find(item, b"data")?.get(8..)?;
    String::from_utf8(text.to_vec()).ok()
}
