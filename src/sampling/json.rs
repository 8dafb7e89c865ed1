//! JSON as Python writes it: with `NaN`, `Infinity` and `-Infinity`, which the format does not have.

use serde::de::DeserializeOwned;

/// Reads JSON, and `null` where Python wrote what is no number of JSON's: such as diffusers, in the settings of samplers.
///
/// # Errors
/// When it is not JSON even so, or not of the type.
pub(super) fn from_python<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text).or_else(|error| match without_infinities(text) {
        Some(text) => serde_json::from_slice(&text),
        None => Err(error),
    })
}

/// The text with `null` for such numbers, `None` if there are none.
fn without_infinities(text: &[u8]) -> Option<Vec<u8>> {
    const NUMBERS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut plain, mut rest, mut quoted) = (Vec::with_capacity(text.len()), text, false);
    while let [first, behind @ ..] = rest {
        let number = NUMBERS.iter().find_map(|number| rest.strip_prefix(*number)).filter(|_| !quoted);
        if let Some(behind) = number {
            plain.extend(b"null");
            rest = behind;
            continue;
        }
        plain.push(*first);
        rest = behind;
        match (first, behind) {
            (b'\\', [escaped, behind @ ..]) if quoted => {
                plain.push(*escaped);
                rest = behind;
            }
            (b'"', _) => quoted = !quoted,
            _ => {}
        }
    }
    (plain != text).then_some(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_that_python_alone_writes_are_null() {
        let read = |text: &str| from_python::<Value>(text.as_bytes());
        let found = read(r#"{"a": -Infinity, "b": [NaN, Infinity, -1], "NaN \" Infinity": "-Infinity"}"#);
        let wanted = json!({"a": null, "b": [null, null, -1], "NaN \" Infinity": "-Infinity"});
        assert_eq!(found.unwrap_or_else(|e| panic!("{e}")), wanted);
        assert_eq!(read("[1, \"\\\\\"]").unwrap_or_else(|e| panic!("{e}")), json!([1, "\\"]));
        for text in ["", "{", "[-NaN]", "[Infinit]", "\"NaN", "[NaN"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
