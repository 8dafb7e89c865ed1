//! From a prompt to token ids, as the reference's pipeline does it.

mod clean;
mod codepages;
mod html;
mod mojibake;
mod sentencepiece;
mod tokenizer;
mod unigram;

pub use clean::prompt_clean;
pub use sentencepiece::{Piece, Pieces};
pub use tokenizer::{MAX_TOKENS, Tokenizer};
