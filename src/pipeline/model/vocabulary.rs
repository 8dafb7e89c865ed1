//! Vocabularies in the metadata of GGUF files, as llama.cpp keeps those of T5 (`tokenizer.ggml.*`).

use crate::text::{Piece, Pieces};
use crate::weights::{Archive, Metadata, Value};

/// The kind of tokenizer, as llama.cpp calls it.
const MODEL: &str = "t5";
/// The id of T5's unknown token, where nothing says another.
const UNKNOWN: u64 = 2;

/// The vocabulary in a file's metadata, if there is one of this kind.
pub(super) fn read(archive: &Archive) -> Option<Pieces> {
    let value = |key: &str| archive.metadata(&format!("tokenizer.ggml.{key}"));
    if value("model").and_then(Value::text) != Some(MODEL) {
        return None;
    }
    let texts = value("tokens")?.texts()?;
    let scores = value("scores")?.numbers()?;
    let kinds = value("token_type").and_then(Value::numbers).unwrap_or_default();
    let piece = |(i, (text, score)): (usize, (&String, &f64))| Piece {
        text: text.clone(),
        score: *score,
        kind: kinds.get(i).map_or(1, |kind| *kind as u64),
    };
    let charsmap = value("precompiled_charsmap").and_then(Value::numbers).unwrap_or_default();
    Some(Pieces {
        pieces: texts.iter().zip(scores).enumerate().map(piece).collect(),
        unknown: value("unknown_token_id").and_then(Value::unsigned).unwrap_or(UNKNOWN) as usize,
        charsmap: charsmap.iter().map(|byte| *byte as u8).collect(),
    })
}

/// What a file's metadata says of a vocabulary.
pub(super) fn written(pieces: &Pieces) -> Vec<(String, Metadata)> {
    let Pieces { pieces, unknown, charsmap } = pieces;
    let id = |text: &str| pieces.iter().position(|piece| piece.text == text).map(|id| Metadata::U32(id as u32));
    let all = [
        ("model", Some(Metadata::Text(MODEL.into()))),
        ("pre", Some(Metadata::Text("default".into()))),
        ("tokens", Some(Metadata::Texts(pieces.iter().map(|piece| piece.text.clone()).collect()))),
        ("scores", Some(Metadata::F32s(pieces.iter().map(|piece| piece.score as f32).collect()))),
        ("token_type", Some(Metadata::I32s(pieces.iter().map(|piece| piece.kind as i32).collect()))),
        ("unknown_token_id", Some(Metadata::U32(*unknown as u32))),
        ("eos_token_id", id("</s>")),
        ("padding_token_id", id("<pad>")),
        ("add_bos_token", Some(Metadata::Bool(false))),
        ("add_eos_token", Some(Metadata::Bool(true))),
        ("add_space_prefix", Some(Metadata::Bool(true))),
        ("remove_extra_whitespaces", Some(Metadata::Bool(true))),
        ("precompiled_charsmap", (!charsmap.is_empty()).then(|| Metadata::Bytes(charsmap.clone()))),
    ];
    all.into_iter().filter_map(|(key, value)| Some((format!("tokenizer.ggml.{key}"), value?))).collect()
}
