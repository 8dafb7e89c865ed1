//! What a file is, by its first bytes.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use crate::error::{Error, Result};

/// What was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    WebP,
    Gif,
    /// MP4 or QuickTime.
    Mp4,
    /// Known by name only.
    Other(&'static str),
    Unknown,
}

/// Beginnings, the place where they stand, and what they tell. The first that fits counts.
const MAGIC: &[(usize, &[u8], Kind)] = &[
    (0, b"\x89PNG\r\n\x1a\n", Kind::Png),
    (0, b"\xff\xd8\xff", Kind::Jpeg),
    (8, b"WEBP", Kind::WebP),
    (0, b"GIF87a", Kind::Gif),
    (0, b"GIF89a", Kind::Gif),
    (4, b"ftypavif", Kind::Other("an AVIF picture")),
    (4, b"ftypavis", Kind::Other("an AVIF sequence")),
    (4, b"ftyphei", Kind::Other("a HEIC picture")),
    (4, b"ftyphev", Kind::Other("a HEIC sequence")),
    (4, b"ftypmif1", Kind::Other("a HEIF picture")),
    (4, b"ftyp", Kind::Mp4),
    // QuickTime files of old begin without a type.
    (4, b"moov", Kind::Mp4),
    (4, b"mdat", Kind::Mp4),
    (4, b"wide", Kind::Mp4),
    (0, b"\x1a\x45\xdf\xa3", Kind::Other("a Matroska or WebM video")),
    (8, b"AVI ", Kind::Other("an AVI video")),
    (0, b"FLV\x01", Kind::Other("a Flash video")),
    (0, b"OggS", Kind::Other("an Ogg file")),
    (0, b"\x00\x00\x01\xba", Kind::Other("an MPEG video")),
    (0, b"\x00\x00\x01\xb3", Kind::Other("an MPEG video")),
    (0, b"\x00\x00\x00\x01\x67", Kind::Other("a bare H.264 stream")),
    (0, b"II*\x00", Kind::Other("a TIFF picture")),
    (0, b"MM\x00*", Kind::Other("a TIFF picture")),
    (0, b"BM", Kind::Other("a BMP picture")),
    (0, b"\xff\x0a", Kind::Other("a JPEG XL picture")),
    (4, b"JXL ", Kind::Other("a JPEG XL picture")),
    (4, b"jP  ", Kind::Other("a JPEG 2000 picture")),
    (0, b"8BPS", Kind::Other("a Photoshop file")),
    (0, b"v/1\x01", Kind::Other("an OpenEXR picture")),
    (0, b"%PDF", Kind::Other("a PDF")),
    (0, b"<svg", Kind::Other("an SVG drawing")),
    (0, b"version https://git-lfs", Kind::Other("a Git LFS pointer, not the file itself (`git lfs pull` fetches it)")),
];

/// What a file of this beginning is.
pub(super) fn kind_of(start: &[u8]) -> Kind {
    let fits = |(at, magic, _): &&(usize, &[u8], Kind)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    MAGIC.iter().find(fits).map_or(Kind::Unknown, |(_, _, kind)| *kind)
}

/// An open file that was looked into and is at its start again.
pub(super) struct Opened {
    pub(super) reader: BufReader<File>,
    pub(super) kind: Kind,
    /// Bytes.
    pub(super) length: u64,
}

/// Opens a file and tells what it is.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Media`] for a folder or an empty file.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    if metadata.is_dir() {
        return Err(Error::media(path, "is a folder, not a file"));
    }
    let mut reader = BufReader::new(file);
    let mut start = Vec::new();
    reader.by_ref().take(32).read_to_end(&mut start).map_err(io)?;
    if start.is_empty() {
        return Err(Error::media(path, "is empty"));
    }
    reader.rewind().map_err(io)?;
    Ok(Opened { reader, kind: kind_of(&start), length: metadata.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        for (start, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..], Kind::Png),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Kind::Jpeg),
            (b"RIFF\x10\0\0\0WEBPVP8L", Kind::WebP),
            (b"RIFF\x10\0\0\0AVI LIST", Kind::Other("an AVI video")),
            (b"GIF89a\x01\0", Kind::Gif),
            (b"\0\0\0\x18ftypisom", Kind::Mp4),
            (b"\0\0\0\x18ftypheic", Kind::Other("a HEIC picture")),
            (b"\0\0\0\x08wide", Kind::Mp4),
            (b"\0\0\0", Kind::Unknown),
            (b"", Kind::Unknown),
            (b"hello, this is plain text", Kind::Unknown),
        ] {
            assert_eq!(kind_of(start), kind, "{start:?}");
        }
    }
}
