//! Safetensors files that lie.

use proptest::prelude::*;
use serde_json::json;

use super::{refused, survive};
use crate::error::Error;
use crate::weights::{TensorFile, Value};

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

/// As [`survive`], and nothing is read that the format's own crate refuses.
fn oracle(bytes: &[u8]) -> Option<TensorFile> {
    let file = survive(bytes)?;
    let theirs = safetensors::SafeTensors::deserialize(bytes);
    let known = |name| {
        let dtype = file.dtype_of(name).expect("listed").to_owned();
        serde_json::from_value::<safetensors::Dtype>(dtype.into()).is_ok()
    };
    let safetensors = file.container() == crate::weights::Container::Safetensors;
    assert!(
        !safetensors || !file.names().all(known) || theirs.is_ok(),
        "the crate refuses this file: {:?}",
        theirs.err()
    );
    Some(file)
}

fn good() -> Vec<u8> {
    file(
        &json!({
            "__metadata__": {"format": "pt"},
            "b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
            "a": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
            "empty": {"dtype": "F16", "shape": [0, 7], "data_offsets": [22, 22]},
            "scalar": {"dtype": "U32", "shape": [], "data_offsets": [22, 26]},
        })
        .to_string(),
        26,
    )
}

#[test]
fn a_good_file_is_read() {
    let file = survive(&good()).expect("good");
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "empty", "scalar"]);
    assert_eq!(file.shape_of("b").map(|s| s.dims().to_vec()), Some(vec![2, 2]));
    assert_eq!(file.tensor("scalar").expect("there").to_u32(), Some(vec![u32::from_le_bytes([22, 23, 24, 25])]));
    assert_eq!(file.metadata().get("format").and_then(Value::text), Some("pt"));
    let padded = self::file("{}  \n ", 0);
    assert_eq!(survive(&padded).expect("no tensors, but sound").names().count(), 0);
}

#[test]
fn every_truncation_is_refused() {
    let whole = good();
    for length in 0..whole.len() {
        refused(&whole[..length], &[]);
    }
    refused(&whole[..4], &["4 bytes are too few"]);
    refused(&whole[..20], &["truncated"]);
    refused(&whole[..whole.len() - 1], &["tensor `scalar`", "truncated"]);
}

#[test]
fn lengths_that_lie_are_refused() {
    let mut bytes = good();
    for claimed in [u64::MAX, u64::MAX - 7, 1 << 62, 1 << 32, bytes.len() as u64] {
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        refused(&bytes, &[&claimed.to_string(), "truncated"]);
    }
    for claimed in [0u64, 1, 50] {
        bytes[..8].copy_from_slice(&claimed.to_le_bytes());
        refused(&bytes, &["header"]);
    }
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", &["git lfs pull"]);
    refused(&file("[1, 2]", 0), &["not a JSON object"]);
    refused(&file("{\"a\": ", 0), &["broken header"]);
    refused(&file("{\"a\": \"\u{7}\"}", 0), &["broken header"]);
    refused(&file(&format!("{{\"a\":{}", "[".repeat(5000)), 0), &["broken header"]);
}

#[test]
fn offsets_that_lie_are_refused() {
    let two = |a: [u64; 2], b: [u64; 2], data| {
        let entry = |[start, end]: [u64; 2]| json!({"dtype": "I8", "shape": [end.saturating_sub(start)], "data_offsets": [start, end]});
        file(&json!({"a": entry(a), "b": entry(b)}).to_string(), data)
    };
    survive(&two([0, 4], [4, 8], 8)).expect("sound");
    survive(&two([4, 8], [0, 4], 8)).expect("sound, in any order");
    refused(&two([0, 4], [4, 8], 7), &["tensor `b`", "byte 8", "only 7", "truncated"]);
    refused(&two([0, 4], [4, 8], 9), &["end at byte 8", "there are 9"]);
    refused(&two([0, 5], [4, 8], 8), &["tensor `b`", "overlaps", "`a`"]);
    refused(&two([0, 8], [0, 8], 8), &["overlaps"]);
    refused(&two([0, 3], [4, 8], 8), &["tensor `b`", "1 bytes are nobody's"]);
    refused(&two([1, 4], [4, 8], 8), &["tensor `a`", "the start of the data"]);
    refused(&two([4, 0], [4, 8], 8), &["tensor `a`", "before its start"]);
    refused(&two([0, 4], [4, u64::MAX], 8), &["tensor `b`"]);
    refused(&file(r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[-1,0]}}"#, 0), &["broken header"]);
    refused(&file(r#"{"a":{"dtype":"I8","shape":[1],"data_offsets":[0]}}"#, 0), &["broken header"]);
}

#[test]
fn shapes_that_lie_are_refused() {
    let one = |dtype: &str, shape: &[u64], data: usize| {
        file(&json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, data]}}).to_string(), data)
    };
    survive(&one("F32", &[2, 3], 24)).expect("sound");
    refused(&one("F32", &[2, 3], 20), &["tensor `a`", "F32 [2, 3]", "20 bytes"]);
    refused(&one("F16", &[2, 3], 24), &["F16 [2, 3]"]);
    refused(&one("F4", &[3], 1), &["F4 [3]"]);
    refused(&one("F32", &[u64::MAX, 2], 8), &["more than can exist"]);
    refused(&one("F32", &[1 << 40, 1 << 40], 8), &["more than can exist"]);
    refused(&one("F32", &[1 << 60], 8), &["more than can exist"]);
    refused(&one("F32", &[u64::MAX, u64::MAX, 0], 0), &["more than can exist"]);
    let deep = survive(&one("F32", &[1; 9], 4)).expect("sound, if useless");
    assert!(deep.shape_of("a").is_none());
    assert!(deep.tensor("a").expect_err("9 dimensions").to_string().contains("9 dimensions"));
}

#[test]
fn names_and_fields_that_lie_are_refused() {
    let entry = r#"{"dtype":"I8","shape":[0],"data_offsets":[0,0]}"#;
    refused(&file(&format!(r#"{{"a":{entry},"b":{entry},"a":{entry}}}"#), 0), &["`a` is listed twice"]);
    refused(&file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), &["`__metadata__` is listed twice"]);
    refused(&file(r#"{"__metadata__":{"a":1}}"#, 0), &["broken header"]);
    refused(&file(&format!(r#"{{"a\u001b[31m":{entry}}}"#), 0), &["control characters"]);
    refused(&file(&format!(r#"{{"{}":{entry}}}"#, "n".repeat(600)), 0), &["600 bytes"]);
    refused(&file(r#"{"a":{"dtype":"I8","shape":[0],"shape":[0],"data_offsets":[0,0]}}"#, 0), &["broken header"]);
    refused(&file(r#"{"a":{"dtype":"I8","shape":[0]}}"#, 0), &["data_offsets"]);
    refused(&file(r#"{"a":{"shape":[0],"data_offsets":[0,0]}}"#, 0), &["dtype"]);
    refused(&file(r#"{"a":7}"#, 0), &["broken header"]);
}

#[test]
fn other_types_are_an_error_only_for_whom_they_concern() {
    let types = [("F8_E8M0", 1, "F8_E8M0"), ("F64", 8, "F64"), ("I64", 8, "I64"), ("BOOL", 1, "BOOL"), ("Q7", 5, "Q7")];
    for (dtype, size, says) in types {
        let header = json!({
            "x": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]},
            "w": {"dtype": "F32", "shape": [1], "data_offsets": [size, size + 4]},
        });
        let file = survive(&file(&header.to_string(), size + 4)).expect(dtype);
        assert_eq!(file.raw("x").map(|raw| (raw.dtype, raw.bytes.len())), Some((dtype.to_owned(), size)));
        file.tensor("w").expect("an f32");
        let error = file.tensor("x").expect_err(dtype).to_string();
        assert!(error.contains("tensor `x`") && error.contains(says), "{error}");
    }
}

#[test]
fn folders_and_missing_files_are_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(TensorFile::open(folder.path()).is_err());
    assert!(matches!(TensorFile::open(folder.path().join("gone")), Err(Error::Io { .. })));
    std::fs::write(folder.path().join("empty"), b"").expect("written");
    let error = TensorFile::open(folder.path().join("empty")).expect_err("empty").to_string();
    assert!(error.contains("0 bytes are too few"), "{error}");
}

/// JSON that is a header more often than not: fields drawn from what is nearly right.
fn header() -> impl Strategy<Value = String> {
    let number = prop_oneof![4 => 0u64..40, 1 => Just(u64::MAX), 1 => Just(1 << 62), 1 => any::<u64>()];
    let dtype = prop::sample::select(vec!["F32", "F16", "BF16", "U32", "I64", "F8_E4M3", "F4", "F6_E2M3", "Q4", ""]);
    let tensor = (dtype, prop::collection::vec(number.clone(), 0..8), number.clone(), number);
    prop::collection::vec(("[ab.]{0,2}|__metadata__|\\PC{1,4}", tensor), 0..5).prop_map(|tensors| {
        let entries = tensors.into_iter().map(|(name, (dtype, shape, start, end))| {
            let name = serde_json::Value::from(name);
            format!("{name}:{}", json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}))
        });
        format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
    })
}

/// Tensors one after the other, as a writer lays them out.
fn sound() -> impl Strategy<Value = Vec<u8>> {
    let types = prop::sample::select(vec![("F32", 4), ("F16", 2), ("BF16", 2), ("U32", 4), ("I64", 8), ("BOOL", 1)]);
    prop::collection::vec((types, prop::collection::vec(0usize..4, 0..5)), 0..6).prop_map(|tensors| {
        let (mut header, mut end) = (serde_json::Map::new(), 0);
        for (i, ((dtype, size), shape)) in tensors.into_iter().enumerate() {
            let start = end;
            end += size * shape.iter().product::<usize>();
            let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
            header.insert(format!("layers.{i}"), entry);
        }
        file(&serde_json::Value::from(header).to_string(), end)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sound_files_are_read_as_the_crate_reads_them(bytes in sound()) {
        let ours = oracle(&bytes).expect("sound");
        let theirs = safetensors::SafeTensors::deserialize(&bytes).expect("sound");
        prop_assert_eq!(ours.names().count(), theirs.len());
        for (name, view) in theirs.iter() {
            let raw = ours.raw(name).expect("there too");
            prop_assert_eq!((&raw.dims[..], &raw.bytes[..]), (view.shape(), view.data()));
        }
    }

    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        oracle(&bytes);
    }

    #[test]
    fn random_headers_are_survived(header in header(), data in 0usize..40) {
        oracle(&file(&header, data));
    }

    #[test]
    fn random_damage_is_survived(
        mut bytes in sound(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        length in prop::option::weighted(0.2, any::<u64>()),
    ) {
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(length) = length {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        oracle(&bytes);
    }
}
