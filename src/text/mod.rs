//! From a prompt to token ids, as the reference's pipeline does it.

mod clean;
mod codepages;
mod html;
mod mojibake;
mod sentencepiece;
mod tokenizer;
mod unigram;

use std::path::Path;

use crate::{Error, Result};

pub use clean::prompt_clean;
pub use sentencepiece::{Piece, Pieces};
pub use tokenizer::{MAX_TOKENS, Tokenizer};

/// The bytes of what is a file, and neither a folder nor a pipe or a device, which could be waited for forever.
fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::io(path, source);
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::model(path, "this is not a file"));
    }
    std::fs::read(path).map_err(io)
}
