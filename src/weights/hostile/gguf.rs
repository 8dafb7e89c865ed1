//! GGUF files, sound and lying.

use proptest::prelude::*;

use super::{refused, survive};
use crate::weights::{Container, Value};

/// A file as a writer lays it out, with whatever numbers it is given.
struct Draft {
    version: u32,
    /// Keys with the number of their type and their bytes.
    values: Vec<(&'static str, u32, Vec<u8>)>,
    /// Names, dimensions innermost first, types, offsets.
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn array(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

impl Draft {
    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.values.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.values {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(text(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend((0..self.data).map(|i| i as u8));
        out
    }
}

fn good() -> Draft {
    let tokens = [text("a"), text("</s>")].concat();
    Draft {
        version: 3,
        values: vec![
            ("general.architecture", 8, text("wan")),
            ("comfy.gguf.orig_shape.patch", 9, array(5, 3, &[2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])),
            ("tokenizer.ggml.tokens", 9, array(8, 2, &tokens)),
            ("tokenizer.ggml.scores", 9, array(6, 2, &[0, 0, 0, 0, 0, 0, 128, 191])),
            ("count", 11, (-3i64).to_le_bytes().to_vec()),
            ("nested", 9, array(9, 1, &array(0, 2, &[7, 8]))),
        ],
        tensors: vec![
            ("patch", vec![4], 0, 0),
            ("bias", vec![3], 30, 32),
            ("weight", vec![64, 2], 8, 64),
            ("ids", vec![2], 27, 224),
        ],
        data: 240,
    }
}

#[test]
fn a_good_file_is_read() {
    for version in [2, 3] {
        let file = survive(&Draft { version, ..good() }.bytes()).expect("good");
        assert_eq!(file.container(), Container::Gguf);
        assert_eq!(file.names().collect::<Vec<_>>(), ["bias", "ids", "patch", "weight"]);
        let dims = |name| file.raw(name).map(|raw| (raw.dtype, raw.dims, raw.bytes.to_vec()));
        let data = |range: std::ops::Range<usize>| range.map(|i| i as u8).collect::<Vec<_>>();
        assert_eq!(dims("weight"), Some(("Q8_0".to_owned(), vec![2, 64], data(64..200))));
        assert_eq!(dims("patch"), Some(("F32".to_owned(), vec![2, 1, 2], data(0..16))));
        assert_eq!(dims("bias"), Some(("BF16".to_owned(), vec![3], data(32..38))));
        assert_eq!(dims("ids"), Some(("I64".to_owned(), vec![2], data(224..240))));
        let meta = file.metadata();
        assert_eq!(meta["general.architecture"].text(), Some("wan"));
        assert_eq!(meta["tokenizer.ggml.tokens"].texts(), Some(&["a".to_owned(), "</s>".to_owned()][..]));
        assert_eq!(meta["tokenizer.ggml.scores"].numbers(), Some(&[0.0, -1.0][..]));
        assert_eq!(meta["count"], Value::Signed(-3));
        assert_eq!(meta["nested"], Value::Lists(vec![Value::Numbers(vec![7.0, 8.0])]));
    }
}

#[test]
fn every_truncation_is_refused() {
    let whole = good().bytes();
    for length in 8..whole.len() {
        refused(&whole[..length], &[]);
    }
}

#[test]
fn versions_and_counts_that_lie_are_refused() {
    refused(&Draft { version: 1, ..good() }.bytes(), &["version 1"]);
    refused(&Draft { version: 4, ..good() }.bytes(), &["version 4 is not known"]);
    refused(&Draft { version: 3u32.swap_bytes(), ..good() }.bytes(), &["big-endian"]);
    let mut bytes = good().bytes();
    for claimed in [u64::MAX, 1 << 40, 1 << 32] {
        bytes[8..16].copy_from_slice(&claimed.to_le_bytes());
        refused(&bytes, &[&claimed.to_string(), "tensors do not fit"]);
    }
    let mut bytes = good().bytes();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&bytes, &["values of metadata do not fit"]);
}

#[test]
fn metadata_that_lies_is_refused() {
    let with = |key, kind, value: Vec<u8>| Draft { values: vec![(key, kind, value)], ..good() }.bytes();
    refused(&with("k", 13, vec![]), &["`k`", "the number 13"]);
    refused(&with("k", 9, array(5, u64::MAX, &[])), &["`k`", "do not fit"]);
    refused(&with("k", 9, array(8, 1 << 20, &[])), &["`k`", "do not fit"]);
    refused(&with("k", 9, array(77, 1, &[])), &["`k`", "number 77"]);
    refused(&with("k", 8, u64::MAX.to_le_bytes().to_vec()), &["`k`", "truncated"]);
    let deep = (0..9).fold(array(0, 1, &[1]), |inner, _| array(9, 1, &inner));
    refused(&with("k", 9, deep), &["arrays in arrays"]);
    let twice = Draft { values: vec![("k", 7, vec![1]), ("k", 7, vec![0])], ..good() };
    refused(&twice.bytes(), &["`k`", "twice"]);
    for alignment in [0u32, 3, 1 << 31] {
        refused(&with("general.alignment", 4, alignment.to_le_bytes().to_vec()), &["general.alignment"]);
    }
    refused(&with("general.alignment", 8, text("32")), &["general.alignment"]);
    let shape = array(5, 2, &[3, 0, 0, 0, 1, 0, 0, 0]);
    refused(&with("comfy.gguf.orig_shape.patch", 9, shape), &["tensor `patch`", "[3, 1]", "4 elements"]);
    refused(&with("comfy.gguf.orig_shape.patch", 7, vec![1]), &["tensor `patch`", "list of numbers"]);
}

#[test]
fn tensors_that_lie_are_refused() {
    let with = |tensors| Draft { tensors, ..good() }.bytes();
    refused(&with(vec![("a", vec![4], 4, 0)]), &["tensor `a`", "number 4"]);
    refused(&with(vec![("a", vec![4], 4000, 0)]), &["tensor `a`", "number 4000"]);
    refused(&with(vec![("a", vec![4], 0, 32), ("a", vec![4], 0, 64)]), &["tensor `a`", "twice"]);
    refused(&with(vec![("a", vec![16], 0, 0), ("b", vec![4], 0, 32)]), &["tensor `b`", "overlaps", "`a`"]);
    refused(&with(vec![("a", vec![4], 0, 8)]), &["`a`", "not aligned to 32"]);
    refused(&with(vec![("a", vec![61], 0, 0)]), &["tensor `a`", "240 bytes", "truncated"]);
    refused(&with(vec![("a", vec![4], 0, 1 << 63)]), &["tensor `a`", "truncated"]);
    refused(&with(vec![("a", vec![u64::MAX, 2], 0, 0)]), &["tensor `a`", "more than can exist"]);
    refused(&with(vec![("a", vec![1 << 61], 8, 0)]), &["tensor `a`", "more than can exist"]);
    refused(&with(vec![("a", vec![48], 8, 0)]), &["tensor `a`", "whole blocks of Q8_0"]);
    refused(&with(vec![("a", vec![], 8, 0)]), &["tensor `a`", "whole blocks of Q8_0"]);
    refused(&with(vec![("a", vec![1; 9], 0, 0)]), &["`a`", "9 dimensions"]);
    refused(&with(vec![("a\u{1b}[31m", vec![1], 0, 0)]), &["control characters"]);
    survive(&with(vec![("a", vec![0, 7], 0, 0)])).expect("nothing, but soundly");
    let deep = survive(&with(vec![("a", vec![1; 7], 0, 0)])).expect("sound, if useless");
    assert!(deep.tensor("a").expect_err("7 dimensions").to_string().contains("7 dimensions"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(0), Just(255)]), 1..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut bytes = good().bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(&bytes);
    }
}
