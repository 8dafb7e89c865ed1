//! Prompt cleaning and token ids against diffusers' and transformers' (`goldens/clean.json`, `goldens/umt5.*`).

use std::path::{Path, PathBuf};

use mutoscope::text::{MAX_TOKENS, Tokenizer, prompt_clean};
use safetensors::SafeTensors;
use serde_json::Value;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens")
}

fn cases(name: &str) -> Vec<Value> {
    let path = goldens().join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let json: Value = serde_json::from_slice(&bytes).expect("valid JSON");
    let cases = json["cases"].as_array().expect("a list of cases").clone();
    assert!(!cases.is_empty(), "{name} has no cases: nothing would be tested");
    cases
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("`{key}` of {case}"))
}

#[test]
fn prompts_are_cleaned_as_by_diffusers() {
    let mut wrong = Vec::new();
    for case in cases("clean.json") {
        let (given, expected) = (text(&case, "in"), text(&case, "out"));
        let cleaned = prompt_clean(given);
        if cleaned != expected {
            wrong.push(format!("{given:?}: {cleaned:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn token_ids_are_those_of_transformers() {
    let numbers = std::fs::read(goldens().join("umt5.safetensors")).expect("the goldens' numbers");
    let tensors = SafeTensors::deserialize(&numbers).expect("valid safetensors");
    let mut longest = 0;
    for case in cases("umt5.json") {
        let key = text(&case, "key");
        let cleaned = prompt_clean(text(&case, "prompt"));
        assert_eq!(cleaned, text(&case, "clean"), "{key}");
        let folder = goldens().join("pipelines").join(text(&case, "pipeline")).join("tokenizer");
        let tokenizer = Tokenizer::open(&folder).unwrap_or_else(|e| panic!("{e}"));
        let ids = tensors.tensor(&format!("{key}.ids")).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(ids.dtype(), safetensors::Dtype::I64, "{key}");
        let whole = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight bytes"));
        let expected: Vec<i64> = ids.data().chunks_exact(8).map(whole).collect();
        let got: Vec<i64> = tokenizer.encode(&cleaned).expect("ids").into_iter().map(i64::from).collect();
        assert_eq!(got, expected, "{key}");
        longest = longest.max(got.len());
    }
    assert_eq!(longest, MAX_TOKENS, "some prompt is cut");
}

#[test]
fn a_sentencepiece_model_gives_the_ids_that_it_gives_transformers() {
    let tokenizer = Tokenizer::open(goldens().join("spiece")).unwrap_or_else(|e| panic!("{e}"));
    let file = Tokenizer::open(goldens().join("spiece/spiece.model")).unwrap_or_else(|e| panic!("{e}"));
    for case in cases("spiece.json") {
        let given = text(&case, "text");
        let expected: Vec<u64> =
            case["ids"].as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id")).collect();
        for tokenizer in [&tokenizer, &file] {
            let got: Vec<u64> = tokenizer.encode(given).expect("ids").into_iter().map(u64::from).collect();
            assert_eq!(got, expected, "{given:?}");
        }
    }
}
