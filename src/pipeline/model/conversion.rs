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

/// What goes into a file of converted weights beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beside {
    /// The file's metadata.
    pub metadata: Vec<(String, Metadata)>,
    /// Why a text encoder's tokenizer is not among them.
    pub without_tokenizer: Option<String>,
}

/// What a conversion of `archive`, opened from `input`, should keep beside the weights: the network's settings, if they
/// lie beside it, and a text encoder's vocabulary: that of `tokenizer` (a folder, `spiece.model` or `tokenizer.json`),
/// else the one within the file, else one that lies where the layouts of models have it.
///
/// # Errors
/// When the settings are broken, or the tokenizer that was named is, or is none that GGUF could keep: its texts would get
/// other tokens. Of one that merely lies there this is only told.
pub fn conversion_metadata(archive: &Archive, input: &Path, tokenizer: Option<&Path>) -> Result<Beside> {
    let found = recognise(archive.names());
    let [found] = &found[..] else { return Ok(Beside::default()) };
    let place = input.to_path_buf();
    let candidate = Candidate { found: found.clone(), place, side: Side::Unsaid, archive: archive.clone() };
    let mut beside = Beside::default();
    if let Some(config) = candidate.config()? {
        let text = serde_json::Value::Object(config.into_values()).to_string();
        beside.metadata.push((CONFIG.to_owned(), Metadata::Text(text)));
    }
    if found.network == Network::TextEncoder {
        let pieces = match (tokenizer, candidate.pieces()?) {
            (Some(path), _) => Ok(checked(path)?),
            (None, Some(pieces)) => Ok(pieces),
            (None, None) => match tokenizers_near(input).first() {
                Some(path) => checked(path).map_err(|error| error.to_string()),
                None => Err("there is none within the file or beside it; --tokenizer names one".into()),
            },
        };
        match pieces {
            Ok(pieces) => beside.metadata.extend(vocabulary::written(&pieces)),
            Err(reason) => beside.without_tokenizer = Some(reason),
        }
    }
    Ok(beside)
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
