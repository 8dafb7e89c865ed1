//! Token ids of a prompt, through the `tokenizers` library.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::utils::truncation::TruncationParams;

use super::Pieces;
use crate::{Error, Result};

/// How many tokens a prompt has at most, the end-of-sequence token included: the Wan pipelines' 512.
pub const MAX_TOKENS: usize = 512;

/// A model's tokenizer: what `AutoTokenizer` of transformers 5 makes of the folder.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Tokenizer {
    /// Reads a tokenizer folder (`tokenizer.json` and, if there is one, `tokenizer_config.json`, else `spiece.model`), or one
    /// of these files.
    ///
    /// # Errors
    /// When there is no such file or it is broken.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (file, folder) = if path.is_dir() {
            (path.join("tokenizer.json"), path.to_path_buf())
        } else {
            (path.to_path_buf(), path.parent().unwrap_or(Path::new("")).to_path_buf())
        };
        let model = if path.is_dir() { folder.join("spiece.model") } else { path.to_path_buf() };
        if model.extension().is_some_and(|e| e == "model") && model.exists() && (!path.is_dir() || !file.exists()) {
            let bytes = super::read(&model)?;
            return Self::from_pieces(&model, Pieces::parse(&model, &bytes)?);
        }
        if !file.exists() {
            let reason = "there is no tokenizer.json here, and no spiece.model; a model folder in the diffusers layout has \
                          one in `tokenizer/`";
            return Err(Error::model(&file, reason));
        }
        let bytes = super::read(&file)?;
        let config = folder.join("tokenizer_config.json");
        let settings = match super::read(&config) {
            Ok(settings) => Some(settings),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Self::from_bytes(&file, &bytes, settings.as_deref())
    }

    /// A tokenizer from the content of `tokenizer.json` and of `tokenizer_config.json`, if there is one; `path` is
    /// named in errors.
    ///
    /// # Errors
    /// When the content is broken.
    pub fn from_bytes(path: impl AsRef<Path>, json: &[u8], config: Option<&[u8]>) -> Result<Self> {
        let path = path.as_ref();
        let broken = |e: &dyn std::fmt::Display| broken(path, e);
        // The library panics on a decoder that is not what it expects, and nothing is decoded here.
        let mut content: serde_json::Map<String, Value> = serde_json::from_slice(json).map_err(|e| broken(&e))?;
        content.remove("decoder");
        let content = Value::from(content).to_string();
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(&content)).map_err(|e| broken(&e))?;
        let class = match config {
            Some(config) => class_name(&path.with_file_name("tokenizer_config.json"), config)?,
            None => None,
        };
        if matches!(class.as_deref(), Some("T5Tokenizer" | "T5TokenizerFast")) {
            as_t5(&mut inner).map_err(|e| broken(&e))?;
        }
        Self::new(path, inner)
    }

    /// T5's tokenizer over the vocabulary of a SentencePiece model; `path` is named in errors.
    ///
    /// # Errors
    /// When the vocabulary cannot be one: no `</s>`, an unknown token that is not there, a broken table of characters.
    pub fn from_pieces(path: impl AsRef<Path>, pieces: Pieces) -> Result<Self> {
        let path = path.as_ref();
        Self::new(path, pieces.tokenizer().map_err(|e| broken(path, &e))?)
    }

    fn new(path: &Path, mut inner: tokenizers::Tokenizer) -> Result<Self> {
        let broken = |e: &dyn std::fmt::Display| broken(path, e);
        inner.with_padding(None);
        let added = inner.get_post_processor().map_or(0, |p| tokenizers::PostProcessor::added_tokens(p, false));
        if added >= MAX_TOKENS {
            return Err(broken(&format!("it adds {added} tokens to every prompt")));
        }
        let truncation = TruncationParams { max_length: MAX_TOKENS, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|e| broken(&e))?;
        Ok(Self { inner, path: path.to_path_buf() })
    }

    /// The ids of a prompt, cleaned beforehand, with the end-of-sequence token; at most [`MAX_TOKENS`], no padding.
    ///
    /// # Errors
    /// When the tokenizer's file promises what it does not hold (an unknown token that is not in the vocabulary).
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(prompt, true));
        let encoding = encoding.map_err(|e| Error::model(&self.path, format!("the prompt has no tokens: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// One more than the highest id that it can give.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A call into the library, whose panics over broken files are errors as well.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
    outcome.unwrap_or_else(|_| Err("it breaks the library that reads it".into()))
}

fn broken(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::model(path, format!("this is not a usable tokenizer: {reason}"))
}

fn class_name(path: &Path, config: &[u8]) -> Result<Option<String>> {
    let config: Value =
        serde_json::from_slice(config).map_err(|e| Error::model(path, format!("this is not valid JSON: {e}")))?;
    Ok(config.get("tokenizer_class").and_then(Value::as_str).map(str::to_owned))
}

/// What transformers' class T5Tokenizer makes of a file: it takes over the vocabulary and SentencePiece's table of
/// characters, and splits at white space whatever the file says.
fn as_t5(tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
    let normalizers = match tokenizer.get_normalizer() {
        Some(NormalizerWrapper::Sequence(sequence)) => sequence.as_ref().to_vec(),
        Some(normalizer) => vec![normalizer.clone()],
        None => Vec::new(),
    };
    let table = normalizers.into_iter().find(|n| matches!(n, NormalizerWrapper::Precompiled(_)));
    tokenizer.with_normalizer(table)?;
    tokenizer.with_pre_tokenizer(Some(t5_words()));
    Ok(())
}

/// How T5 splits a text: at white space, with a space before every word.
pub(super) fn t5_words() -> Sequence {
    Sequence::new(vec![WhitespaceSplit.into(), Metaspace::new('▁', PrependScheme::Always, true).into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words a to c with a space before them, and the three special tokens of T5.
    fn file() -> String {
        let vocabulary = r#"[["<pad>",0],["</s>",0],["<unk>",0],["▁",-2],["▁a",-1],["▁b",-1.5],["c",-2.5]]"#;
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":{{"strategy":{{"Fixed":9}},"direction":"Right",
            "pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"<pad>"}},"added_tokens":[],
            "normalizer":{{"type":"Lowercase"}},"pre_tokenizer":{{"type":"Metaspace","replacement":"▁",
            "prepend_scheme":"always","split":true}},"post_processor":{{"type":"TemplateProcessing",
            "single":[{{"Sequence":{{"id":"A","type_id":0}}}},{{"SpecialToken":{{"id":"</s>","type_id":0}}}}],
            "pair":[],"special_tokens":{{"</s>":{{"id":"</s>","ids":[1],"tokens":["</s>"]}}}}}},"decoder":null,
            "model":{{"type":"Unigram","unk_id":2,"vocab":{vocabulary},"byte_fallback":false}}}}"#
        )
    }

    fn tokenizer(config: Option<&str>) -> Tokenizer {
        Tokenizer::from_bytes("t/tokenizer.json", file().as_bytes(), config.map(str::as_bytes)).expect("valid")
    }

    #[test]
    fn prompts_end_with_eos_and_are_cut_but_not_padded() {
        let plain = tokenizer(None);
        assert_eq!(plain.encode("").ok(), Some(vec![1]));
        assert_eq!(plain.encode("A b").ok(), Some(vec![4, 5, 1]));
        let long = plain.encode(&"a ".repeat(600)).expect("ids");
        assert_eq!((long.len(), long.last()), (MAX_TOKENS, Some(&1)));
        assert_eq!(plain.vocabulary(), 7);
    }

    #[test]
    fn the_class_t5_splits_at_white_space_and_keeps_case() {
        let t5 = tokenizer(Some(r#"{"tokenizer_class": "T5Tokenizer"}"#));
        assert_eq!(t5.encode("a\tb").ok(), Some(vec![4, 5, 1]));
        assert_ne!(t5.encode("A").ok(), Some(vec![4, 1]));
        let other = tokenizer(Some(r#"{"tokenizer_class": "TokenizersBackend"}"#));
        assert_eq!(other.encode("A").ok(), Some(vec![4, 1]));
    }

    #[test]
    fn absent_and_broken_files_are_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Tokenizer::open(folder.path()).expect_err("empty").to_string();
        assert!(error.contains("tokenizer.json") && error.contains("no tokenizer.json here"), "{error}");
        std::fs::write(folder.path().join("spiece.model"), b"x").expect("written");
        let error = Tokenizer::open(folder.path()).expect_err("only a broken spiece.model").to_string();
        assert!(error.contains("spiece.model: this is not a usable"), "{error}");
        for broken in ["", "{}", "[1]", "{\"version\": \"1.0\"}"] {
            std::fs::write(folder.path().join("tokenizer.json"), broken).expect("written");
            let error = Tokenizer::open(folder.path()).expect_err(broken).to_string();
            assert!(error.contains("tokenizer.json: this is not a usable tokenizer"), "{error}");
        }
        std::fs::write(folder.path().join("tokenizer.json"), file()).expect("written");
        assert!(Tokenizer::open(folder.path()).is_ok());
        assert!(Tokenizer::open(folder.path().join("tokenizer.json")).is_ok());
        std::fs::write(folder.path().join("tokenizer_config.json"), "{").expect("written");
        let error = Tokenizer::open(folder.path()).expect_err("broken settings").to_string();
        assert!(error.contains("tokenizer_config.json: this is not valid JSON"), "{error}");
    }
}
