//! The vocabulary of a Unigram model in `tokenizer.json`, the format of the `tokenizers` library.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::sentencepiece::{CONTROL, UNKNOWN, USER_DEFINED};
use super::{Piece, Pieces};

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_id: Option<usize>,
    vocab: Value,
}

#[derive(Deserialize)]
struct Added {
    id: usize,
    content: String,
    #[serde(default)]
    special: bool,
}

/// The pieces of a file, those that were added among them.
pub(super) fn pieces(json: &[u8]) -> Result<Pieces, String> {
    let file: File = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    let Model { kind, unk_id, vocab } = file.model;
    let listed: Result<Vec<(String, f64)>, _> = serde_json::from_value(vocab);
    let listed = listed.ok().filter(|_| kind.is_none_or(|kind| kind == "Unigram"));
    let listed = listed.ok_or("it is no Unigram model, as T5's are")?;
    let piece = |(text, score)| Piece { text, score, kind: 1 };
    let mut pieces: Vec<Piece> = listed.into_iter().map(piece).collect();
    for Added { id, content: text, special } in file.added_tokens {
        let kind = if special { CONTROL } else { USER_DEFINED };
        let count = pieces.len();
        match pieces.get_mut(id) {
            Some(piece) => (piece.text, piece.kind) = (text, kind),
            None if id == count => pieces.push(Piece { text, score: 0.0, kind }),
            None => return Err(format!("the ids between {count} and {id} are missing")),
        }
    }
    let unknown = unk_id.ok_or("it has no unknown token")?;
    pieces.get_mut(unknown).ok_or("its unknown token is not there")?.kind = UNKNOWN;
    let charsmap = file.normalizer.as_ref().and_then(charsmap);
    let charsmap = charsmap.map(|text| BASE64_STANDARD.decode(text)).transpose().map_err(|e| e.to_string())?;
    Ok(Pieces { pieces, unknown, charsmap: charsmap.unwrap_or_default() })
}

/// SentencePiece's table of characters among the steps of a normalizer.
fn charsmap(normalizer: &Value) -> Option<&str> {
    let steps = normalizer.get("normalizers").and_then(Value::as_array);
    let own = normalizer.get("precompiled_charsmap").and_then(Value::as_str);
    own.or_else(|| steps?.iter().find_map(charsmap))
}
