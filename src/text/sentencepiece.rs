//! Vocabularies of SentencePiece: its own files (`spiece.model`), and what GGUF and ComfyUI's files keep of them.
//!
//! The format is the protocol buffer `ModelProto` of
//! <https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto>, of which only what a Unigram
//! tokenizer needs is read.

use std::path::Path;

use tokenizers::AddedToken;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{NormalizerWrapper, Precompiled};
use tokenizers::processors::template::TemplateProcessing;

use crate::{Error, Result};

/// What a piece is for, as both SentencePiece and GGUF number it.
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;

/// The vocabulary of a Unigram model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pieces {
    /// Pieces in the order of their ids.
    pub pieces: Vec<Piece>,
    /// The id of what is not in the vocabulary.
    pub unknown: usize,
    /// The table by which characters are normalised; empty for none.
    pub charsmap: Vec<u8>,
}

/// A piece of text with an id.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The text, with `▁` for spaces.
    pub text: String,
    /// The logarithm of its probability.
    pub score: f64,
    /// 1 for a normal piece, 2 for the unknown, 3 for control, 4 for one that is never cut, 5 for an unused one, 6 for a
    /// byte.
    pub kind: u64,
}

impl Pieces {
    /// Reads the vocabulary of a tokenizer: a folder (its `spiece.model`, else its `tokenizer.json`), or one of these files.
    ///
    /// # Errors
    /// When it cannot be read, is broken, or is no Unigram.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = match path.is_dir() {
            true => {
                ["spiece.model", "tokenizer.json"].map(|name| path.join(name)).into_iter().find(|file| file.exists())
            }
            false => Some(path.to_path_buf()),
        };
        let file = file.ok_or_else(|| Error::model(path, "there is no spiece.model here, and no tokenizer.json"))?;
        let bytes = super::read(&file)?;
        if file.extension().is_some_and(|ending| ending == "json") {
            let broken = |reason: String| Error::model(&file, format!("this is not a usable tokenizer: {reason}"));
            return super::unigram::pieces(&bytes).map_err(broken);
        }
        Self::parse(&file, &bytes)
    }

    /// Reads a SentencePiece file; `path` is named in errors.
    ///
    /// # Errors
    /// When it is broken, or its model is no Unigram.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let broken = |reason: &str| Error::model(path, format!("this is not a usable SentencePiece model: {reason}"));
        let mut found = Self::default();
        let mut whole = [false; 2];
        for field in Fields(bytes) {
            let field = field.map_err(broken)?;
            match (field.number, field.value) {
                (1, Wire::Bytes(piece)) => found.pieces.push(piece_of(piece).map_err(broken)?),
                (2, Wire::Bytes(trainer)) => {
                    found.read_trainer(trainer).map_err(broken)?;
                    whole[0] = true;
                }
                (3, Wire::Bytes(normalizer)) => {
                    found.read_normalizer(normalizer).map_err(broken)?;
                    whole[1] = true;
                }
                _ => {}
            }
        }
        if found.pieces.is_empty() {
            return Err(broken("it has no pieces"));
        }
        // SentencePiece always writes both, behind the pieces.
        if whole != [true; 2] {
            return Err(broken("its settings, which stand behind its pieces, are missing: the file is cut short"));
        }
        Ok(found)
    }

    fn read_trainer(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            match field? {
                Field { number: 3, value: Wire::Number(1) } => {}
                Field { number: 3, value: Wire::Number(_) } => return Err("it is no Unigram model, as T5's are"),
                Field { number: 40, value: Wire::Number(id) } => {
                    self.unknown = usize::try_from(id).map_err(|_| "its unknown token has no id")?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer(&mut self, bytes: &[u8]) -> Result<(), &'static str> {
        for field in Fields(bytes) {
            if let Field { number: 2, value: Wire::Bytes(charsmap) } = field? {
                self.charsmap = charsmap.to_vec();
            }
        }
        Ok(())
    }

    /// The tokenizer that transformers' class `T5Tokenizer` makes of it: text is normalised, split at white space, cut
    /// into pieces and ended by `</s>`.
    pub(super) fn tokenizer(self) -> Result<tokenizers::Tokenizer, String> {
        let end = self.pieces.iter().position(|piece| piece.text == "</s>");
        let end = end.and_then(|id| u32::try_from(id).ok()).ok_or("it has no token `</s>` that ends a text")?;
        let added = self.pieces.iter().filter(|piece| matches!(piece.kind, UNKNOWN | CONTROL | USER_DEFINED));
        let added: Vec<AddedToken> =
            added.map(|piece| AddedToken::from(&*piece.text, piece.kind != USER_DEFINED).normalized(false)).collect();
        let words = |e: tokenizers::Error| e.to_string();
        let normalizer = match self.charsmap.is_empty() {
            true => None,
            false => {
                check_charsmap(&self.charsmap)?;
                let table = Precompiled::from(&self.charsmap).map_err(|e| e.to_string())?;
                Some(NormalizerWrapper::Precompiled(table))
            }
        };
        let vocabulary = self.pieces.into_iter().map(|piece| (piece.text, piece.score)).collect();
        let model = Unigram::from(vocabulary, Some(self.unknown), false).map_err(words)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(normalizer).map_err(words)?;
        tokenizer.with_pre_tokenizer(Some(super::tokenizer::t5_words()));
        let template = TemplateProcessing::builder()
            .try_single("$A </s>")
            .and_then(|builder| builder.try_pair("$A </s> $B </s>"))?
            .special_tokens(vec![("</s>", end)])
            .build()
            .map_err(|e| e.to_string())?;
        tokenizer.with_post_processor(Some(template));
        tokenizer.add_tokens(added).map_err(words)?;
        Ok(tokenizer)
    }
}

fn piece_of(bytes: &[u8]) -> Result<Piece, &'static str> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: 1 };
    for field in Fields(bytes) {
        match field? {
            Field { number: 1, value: Wire::Bytes(text) } => {
                piece.text = std::str::from_utf8(text).map_err(|_| "a piece is not UTF-8")?.to_owned();
            }
            Field { number: 2, value: Wire::Fixed(bits) } => piece.score = f64::from(f32::from_bits(bits)),
            Field { number: 3, value: Wire::Number(kind) } => piece.kind = kind,
            _ => {}
        }
    }
    if !piece.score.is_finite() {
        return Err("a piece's score is no number");
    }
    Ok(piece)
}

/// Refuses a table of characters that would lead its reader, which trusts it, out of bounds.
///
/// It is the length of a double array (darts-clone: units of 32 bits), the array, and the texts that its leaves point
/// to. The reader goes from unit i to unit (i xor offset) xor byte, and, where a unit says that there is a leaf, to unit
/// i xor offset.
fn check_charsmap(bytes: &[u8]) -> Result<(), String> {
    let broken = || "its table of characters is broken".to_owned();
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(broken)?;
    let length = u32::from_le_bytes(*length) as usize;
    let (array, texts) = rest.split_at_checked(length).ok_or_else(broken)?;
    let texts = std::str::from_utf8(texts).map_err(|_| broken())?;
    let (units, left) = array.as_chunks::<4>();
    if units.is_empty() || !left.is_empty() {
        return Err(broken());
    }
    let unit = |i: usize| units.get(i).map(|bytes| u32::from_le_bytes(*bytes) as usize);
    for i in 0..units.len() {
        // Units with the highest bit are leaves and lead nowhere.
        let Some(here) = unit(i).filter(|here| here >> 31 == 0) else { continue };
        let below = i ^ ((here >> 10) << ((here & (1 << 9)) >> 6));
        let leaf = unit(below).map(|leaf| leaf & 0x7fff_ffff);
        let is_leaf = here >> 8 & 1 == 1;
        if below | 0xff >= units.len() || is_leaf && !leaf.is_some_and(|at| texts.is_char_boundary(at)) {
            return Err(broken());
        }
    }
    Ok(())
}

/// The fields of a protocol buffer message, in their order.
struct Fields<'a>(&'a [u8]);

struct Field<'a> {
    number: u64,
    value: Wire<'a>,
}

enum Wire<'a> {
    Number(u64),
    Fixed(u32),
    Bytes(&'a [u8]),
    /// Of a kind that nothing here is.
    Other,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for i in 0..10 {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(7 * i)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Number(self.varint()?),
            1 => self.take(8).map(|_| Wire::Other)?,
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some(Field { number: key >> 3, value })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or("it is cut short, or no protocol buffer"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Tokenizer;

    fn message(fields: &[(u64, Vec<u8>)]) -> Vec<u8> {
        fields
            .iter()
            .flat_map(|(number, bytes)| [&varint(number << 3 | 2), &varint(bytes.len() as u64), &bytes[..]].concat())
            .collect()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn pieces_of(pieces: &[(&str, f32, u8)]) -> Vec<(u64, Vec<u8>)> {
        let piece = |&(text, score, kind): &(&str, f32, u8)| {
            let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
            (1, [message(&[(1, text.into())]), score, vec![3 << 3, kind]].concat())
        };
        pieces.iter().map(piece).collect()
    }

    fn proto(pieces: &[(&str, f32, u8)], model: u8, charsmap: &[u8]) -> Vec<u8> {
        let mut fields = pieces_of(pieces);
        let unknown = [varint(40 << 3), varint(2)].concat();
        fields.push((2, [vec![3 << 3, model], unknown].concat()));
        fields.push((3, message(&[(1, b"identity".to_vec()), (2, charsmap.to_vec())])));
        message(&fields)
    }

    const PIECES: &[(&str, f32, u8)] = &[
        ("<pad>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("▁", -2.0, 1),
        ("▁a", -1.0, 1),
        ("b", -1.5, 1),
        ("ab", -1.25, 1),
        ("<x y>", 0.0, 4),
    ];

    fn tokenizer(bytes: &[u8]) -> Result<Tokenizer> {
        Tokenizer::from_pieces("spiece.model", Pieces::parse(Path::new("spiece.model"), bytes)?)
    }

    /// A double array that maps `A` to `a`: the root's children lie at 256 xor byte, and the leaf of `A` below them.
    fn charsmap() -> Vec<u8> {
        let mut units = vec![0u32; 768];
        units[0] = 256 << 10;
        units[256 ^ usize::from(b'A')] = 256 << 10 | 1 << 8 | u32::from(b'A');
        let leaf = 256 ^ usize::from(b'A') ^ 256;
        units[leaf] = 1 << 31 | 2;
        let array: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(array.len() as u32).to_le_bytes()[..], &array, b"z\0a\0"].concat()
    }

    #[test]
    fn pieces_are_found_as_by_t5() {
        let tokenizer = tokenizer(&proto(PIECES, 1, &[])).expect("valid");
        assert_eq!(tokenizer.encode("a ab b").ok(), Some(vec![4, 4, 5, 3, 5, 1]));
        assert_eq!(tokenizer.encode("").ok(), Some(vec![1]));
        assert_eq!(tokenizer.encode("q").ok(), Some(vec![3, 2, 1]));
        assert_eq!(tokenizer.encode("a<x y>").ok(), Some(vec![4, 7, 1]));
        assert_eq!(tokenizer.vocabulary(), 8);
    }

    #[test]
    fn characters_are_normalised_by_the_table() {
        let tokenizer = tokenizer(&proto(PIECES, 1, &charsmap())).expect("valid");
        assert_eq!(tokenizer.encode("AB").ok(), tokenizer.encode("aB").ok());
        assert_eq!(tokenizer.encode("A b").ok(), Some(vec![4, 3, 5, 1]));
    }

    #[test]
    fn ids_are_those_of_the_same_vocabulary_in_json() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/pipelines/a/tokenizer");
        let json = Tokenizer::open(&folder).expect("a golden tokenizer");
        let text = std::fs::read(folder.join("tokenizer.json")).expect("read");
        let text: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let pieces: Vec<(&str, f32, u8)> = (text["model"]["vocab"].as_array().expect("pieces").iter().enumerate())
            .map(|(i, piece)| {
                (piece[0].as_str().expect("text"), piece[1].as_f64().expect("score") as f32, if i < 3 { 3 } else { 1 })
            })
            .collect();
        let ours = tokenizer(&proto(&pieces, 1, &[])).expect("valid");
        for prompt in [
            "a red circle moves right over a blue background",
            "猫と犬 naïve 😀 </s> <unk>x",
            "  two  spaces\tand tabs",
            "",
        ] {
            assert_eq!(ours.encode(prompt).expect("ids"), json.encode(prompt).expect("ids"), "{prompt}");
        }
        assert_eq!(ours.vocabulary(), json.vocabulary());
    }

    #[test]
    fn what_is_broken_is_refused_by_name() {
        let whole = proto(PIECES, 1, &charsmap());
        assert!(tokenizer(&whole).is_ok());
        let normalizer = message(&[(3, message(&[(1, b"identity".to_vec()), (2, charsmap())]))]).len();
        for (bytes, says) in [
            (Vec::new(), "no pieces"),
            (whole[..whole.len() - 3].to_vec(), "cut short"),
            (message(&pieces_of(PIECES)), "behind its pieces"),
            (whole[..whole.len() - normalizer].to_vec(), "behind its pieces"),
            (proto(PIECES, 2, &[]), "no Unigram"),
            (proto(&PIECES[2..], 1, &[]), "`</s>`"),
            (proto(PIECES, 1, &charsmap()[..900]), "table of characters"),
            (proto(PIECES, 1, &[0, 4, 0, 0]), "table of characters"),
            (proto(&[("a", f32::NAN, 1)], 1, &[]), "no number"),
        ] {
            let error = tokenizer(&bytes).expect_err(says).to_string();
            assert!(error.starts_with("spiece.model: ") && error.contains(says), "{error}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_change_of_a_byte_is_read_or_refused(at in 0usize..6000, value: u8) {
            let mut bytes = proto(PIECES, 1, &charsmap());
            let length = bytes.len();
            bytes[at % length] = value;
            if let Ok(tokenizer) = tokenizer(&bytes) {
                let _ = tokenizer.encode("A b ab\u{300}AÄ");
            }
        }
    }
}
