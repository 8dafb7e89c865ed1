//! A name for the exact content of a model, for the recipe of a video.

use std::num::NonZero;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use sha2::{Digest, Sha256};

use super::{Archive, RawTensor};
use crate::error::Result;
use crate::tensor::Bytes;

/// How much one SHA-256 covers: large enough to forget the overhead, small enough to share out among threads.
const CHUNK: usize = 8 << 20;

/// A hash of everything a model computes with, as `sha256-tree:` and 64 hexadecimal digits.
///
/// It covers every byte of every tensor, their names, types and shapes, and the text files that are
/// [added](Self::text); it does not cover how tensors are ordered or spread over files, so a re-sharded copy has the same
/// fingerprint. It is no plain SHA-256 of a file: tensors are hashed in pieces of 8 MiB on all cores and the digests are
/// hashed again, since a model of many gigabytes would else keep one core busy for longer than reading it takes.
///
/// Tensors that can no longer be read, of a file that was cut short, make it say so in place of a hash.
#[derive(Clone)]
pub struct Fingerprint {
    hash: Sha256,
    unreadable: Option<String>,
}

impl Fingerprint {
    /// The fingerprint of nothing, yet.
    pub fn new() -> Self {
        Self { hash: Sha256::new_with_prefix(b"mutoscope model 1\n"), unreadable: None }
    }

    /// Adds a text file that decides what the model computes, such as a config or a tokenizer, under a name.
    pub fn text(self, name: &str, text: &[u8]) -> Self {
        self.part(b"text", name, &Sha256::digest(text))
    }

    /// Adds all tensors of a model part, under a name. Reads them all (the archive keeps the result).
    pub fn archive(self, name: &str, archive: &Archive) -> Self {
        match archive.digest() {
            Ok(digest) => self.part(b"tensors", name, digest),
            Err(reason) => Self { unreadable: Some(reason.to_owned()), ..self },
        }
    }

    /// The fingerprint as a recipe states it. The order in which parts were added counts.
    pub fn finish(self) -> String {
        if let Some(reason) = self.unreadable {
            return format!("unreadable: {reason}");
        }
        let hex: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256-tree:{hex}")
    }

    fn part(mut self, kind: &[u8], name: &str, digest: &[u8]) -> Self {
        for field in [kind, name.as_bytes(), digest] {
            self.hash.update((field.len() as u64).to_le_bytes());
            self.hash.update(field);
        }
        self
    }
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

/// Hashes tensors, in the order of their names.
///
/// # Errors
/// As [`Bytes::read`].
pub(super) fn digest<'a>(tensors: impl Iterator<Item = (&'a str, RawTensor)>) -> Result<[u8; 32]> {
    let mut whole = Sha256::new();
    let tensors: Vec<(&str, RawTensor)> = tensors.collect();
    let mut chunks: Vec<Chunk> = Vec::new();
    for (name, RawTensor { dtype, dims, bytes }) in &tensors {
        // JSON is a text that no other tensor's line can be mistaken for, whatever its name holds.
        whole.update(serde_json::json!([name, dtype, dims]).to_string());
        whole.update(b"\n");
        chunks.extend((0..bytes.len()).step_by(CHUNK).map(|at| (bytes, at..(at + CHUNK).min(bytes.len()))));
    }
    for digest in chunk_digests(&chunks)? {
        whole.update(digest);
    }
    Ok(whole.finalize().into())
}

/// A piece of a tensor's bytes.
type Chunk<'a> = (&'a Bytes, Range<usize>);

/// The SHA-256 of each chunk, by as many threads as there are cores.
fn chunk_digests(chunks: &[Chunk]) -> Result<Vec<[u8; 32]>> {
    let digests: Vec<OnceLock<Result<[u8; 32]>>> = chunks.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let hash = |(bytes, range): &Chunk, buffer: &mut Vec<u8>| {
        bytes.window(range.clone(), buffer).map(|bytes| Sha256::digest(bytes).into())
    };
    let work = || {
        let mut buffer = Vec::new();
        while let Some((chunk, digest)) = {
            let i = next.fetch_add(1, Ordering::Relaxed);
            chunks.get(i).zip(digests.get(i))
        } {
            digest.get_or_init(|| hash(chunk, &mut buffer));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(chunks.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread can be had (as on the web), this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    // All are set by now; a missing one would be computed here rather than left out.
    let all = digests.into_iter().zip(chunks);
    all.map(|(digest, chunk)| digest.into_inner().unwrap_or_else(|| hash(chunk, &mut Vec::new()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_hashed_in_their_order_however_many_threads() {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        let expected: Vec<[u8; 32]> = data.chunks(997).map(|c| Sha256::digest(c).into()).collect();
        let bytes = Bytes::from(data);
        let chunks: Vec<Chunk> =
            (0..bytes.len()).step_by(997).map(|at| (&bytes, at..(at + 997).min(100_000))).collect();
        assert_eq!(chunk_digests(&chunks).expect("in memory"), expected);
    }

    #[test]
    fn every_field_of_a_tensor_counts() {
        let one = |name, dtype: &str, dims: &[usize], bytes: &[u8]| {
            let (dtype, dims, bytes) = (dtype.to_owned(), dims.to_vec(), bytes.to_vec().into());
            digest([(name, RawTensor { dtype, dims, bytes })].into_iter()).expect("in memory")
        };
        let base = one("a", "F32", &[2], &[0; 8]);
        assert_eq!(base, one("a", "F32", &[2], &[0; 8]));
        assert_ne!(base, one("b", "F32", &[2], &[0; 8]));
        assert_ne!(base, one("a", "U32", &[2], &[0; 8]));
        assert_ne!(base, one("a", "F32", &[2, 1], &[0; 8]));
        assert_ne!(base, one("a", "F32", &[2], &[0, 0, 0, 0, 0, 0, 0, 1]));
        let fields = |name: &str, text: &str| Fingerprint::new().text(name, text.as_bytes()).finish();
        assert_ne!(fields("ab", "c"), fields("a", "bc"));
        assert!(fields("a", "").starts_with("sha256-tree:"));
        assert_eq!(fields("a", "").len(), 12 + 64);
    }
}
