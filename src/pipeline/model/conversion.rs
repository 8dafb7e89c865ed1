//! What a file of converted weights tells of them beside the weights, so that it can be used alone.

use std::path::Path;

use super::candidate::{Candidate, Side};
use super::scan::tokenizers_near;
use super::vocabulary;
use crate::error::{Error, Result};
use crate::text::{Pieces, Tokenizer};
use crate::weights::layout::{Network, recognise};
use crate::weights::{Archive, Metadata};

/// Under which key files keep their network's settings: the text of its `config.json`.
pub(super) const CONFIG: &str = "config";

/// Texts that tokenizers are compared by.
const SAMPLES: [&str; 5] = [
    "A cat, running; it's 3.5 metres (about 11\u{2009}ft) away!",
    "  two  spaces\tand\nlines ",
    "ＡＢＣ ﬁne naïve e\u{301} 😀",
    "一只猫在草地上奔跑，写实风格。",
    "</s> <pad> <unk> <extra_id_0>",
];

/// What a conversion of `archive`, opened from `input`, should keep beside the weights: the network's settings, if they
/// lie beside it, and a text encoder's vocabulary: that of `tokenizer` (a folder, `spiece.model` or `tokenizer.json`),
/// else the one within the file, else one that lies where the layouts of models have it.
///
/// # Errors
/// When the settings or the tokenizer are broken, or the tokenizer is none that GGUF could keep: its texts would get other
/// tokens.
pub fn conversion_metadata(
    archive: &Archive,
    input: &Path,
    tokenizer: Option<&Path>,
) -> Result<Vec<(String, Metadata)>> {
    let found = recognise(archive.names());
    let [found] = &found[..] else { return Ok(Vec::new()) };
    let place = input.to_path_buf();
    let candidate = Candidate { found: found.clone(), place, side: Side::Unsaid, archive: archive.clone() };
    let mut told = Vec::new();
    if let Some(config) = candidate.config()? {
        let text = serde_json::Value::Object(config.into_values()).to_string();
        told.push((CONFIG.to_owned(), Metadata::Text(text)));
    }
    if found.network == Network::TextEncoder {
        let pieces = match tokenizer {
            Some(path) => Some(checked(path)?),
            None => match candidate.pieces()? {
                Some(pieces) => Some(pieces),
                None => tokenizers_near(input).first().map(|path| checked(path)).transpose()?,
            },
        };
        told.extend(pieces.as_ref().map(vocabulary::written).unwrap_or_default());
    }
    Ok(told)
}

/// The vocabulary of a tokenizer, if nothing but the vocabulary makes it.
fn checked(path: &Path) -> Result<Pieces> {
    let (whole, pieces) = (Tokenizer::open(path)?, Pieces::open(path)?);
    let again = Tokenizer::from_pieces(path, pieces.clone())?;
    for text in SAMPLES {
        if whole.encode(text)? != again.encode(text)? {
            let reason =
                "GGUF cannot keep this tokenizer, only those of the class T5Tokenizer: texts would get other tokens";
            return Err(Error::model(path, reason));
        }
    }
    Ok(pieces)
}
