//! What PEFT's settings say of a LoRA file's layers, beside the tensors: what products are multiplied by, and whether the
//! file can be used at all.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::weights::{Archive, Value, clip, config};

/// What PEFT puts before the names of a model's layers.
const OF_PEFT: &str = "base_model.model.";
/// More patterns than a model has layers, and the largest automaton that one may become.
const MOST: usize = 4096;
const LARGEST: usize = 1 << 20;

/// How adapters begin that leave the model's weights as they are (`init_lora_weights`).
const BESIDE: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];
/// How adapters begin that take their first product out of the model's weights.
const OUT_OF: [&str; 4] = ["pissa", "olora", "corda", "lora_ga"];

/// What a file says of all its layers, beside their own `alpha`.
#[derive(Clone, Debug, Default)]
pub(super) struct Alpha {
    value: Option<f32>,
    /// By a layer's name in the file: what a pattern gives to it.
    layers: BTreeMap<String, f32>,
    /// Whether the rank is divided by its root only (arXiv:2312.03732).
    root: bool,
}

impl Alpha {
    /// From what diffusers keeps in the file, or PEFT beside it (`adapter_config.json`), for the layers of a part of a
    /// model, which is given as diffusers calls it, with a dot.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Model`] when the settings cannot be read, ask for what is not supported, or are those of an
    /// adapter whose training began with other weights than the model's own.
    pub fn of<'a>(archive: &Archive, part: &str, layers: impl Iterator<Item = &'a String>) -> Result<Self> {
        let path = archive.path();
        let beside = path.with_file_name("adapter_config.json");
        let is_peft = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("adapter_model."));
        let (place, text, prefix) = match archive.metadata("lora_adapter_metadata").and_then(Value::text) {
            Some(text) => (path, text.to_owned(), part),
            None if is_peft && beside.exists() => (beside.as_path(), config::read_json(&beside)?, OF_PEFT),
            None => return Ok(Self::default()),
        };
        let layers = layers.map(|layer| (layer.as_str(), layer.strip_prefix(prefix).unwrap_or(layer)));
        Self::parse(&text, part, layers)
            .map_err(|reason| Error::model(place, format!("the settings of its LoRA {reason}")))
    }

    /// From the JSON; layers are given by their names in the file and those that PEFT knows them by.
    fn parse<'a>(text: &str, part: &str, layers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let settings: Map<String, Json> =
            serde_json::from_str(text).map_err(|e| format!("are no JSON object: {}", clip(&e.to_string())))?;
        // diffusers says `transformer.lora_alpha`, PEFT `lora_alpha`.
        let get = |key: &str| {
            let fits = |name: &str| name == key || name.strip_prefix(part) == Some(key);
            settings.iter().find(|(name, value)| fits(name) && !value.is_null()).map(|(_, value)| value)
        };
        let yes = |key: &str| get(key).and_then(Json::as_bool) == Some(true);
        if yes("use_dora") {
            return Err("ask for DoRA, which is not supported".into());
        }
        get("init_lora_weights").map_or(Ok(()), check_beginning)?;
        let value = get("lora_alpha").map(|value| number(value).ok_or("have a `lora_alpha` that is no number"));
        let patterns = match get("alpha_pattern") {
            None => None,
            Some(patterns) => Some(patterns.as_object().ok_or("have an `alpha_pattern` that is no JSON object")?),
        };
        let layers = patterns.map(|patterns| matched(patterns, layers)).transpose()?.unwrap_or_default();
        Ok(Self { value: value.transpose()?, layers, root: yes("use_rslora") })
    }

    /// What the product of a layer is multiplied by, which may have an `alpha` of its own.
    pub fn scale(&self, own: Option<f32>, layer: &str, rank: usize) -> f32 {
        match own.or(self.layers.get(layer).copied()).or(self.value) {
            None => 1.0,
            Some(alpha) if self.root => alpha / (rank as f32).sqrt(),
            Some(alpha) => alpha / rank as f32,
        }
    }
}

fn number(value: &Json) -> Option<f32> {
    value.as_f64().map(|v| v as f32).filter(|v| v.is_finite())
}

/// Refuses adapters that were trained on other weights than the model's own.
fn check_beginning(value: &Json) -> Result<(), String> {
    let method = match value {
        Json::Bool(_) => return Ok(()),
        Json::String(method) => method.to_lowercase(),
        _ => return Err("have an `init_lora_weights` that is no name".into()),
    };
    let shown = clip(&method);
    // The name may go on: `pissa_niter_16`.
    if OUT_OF.iter().any(|known| method.starts_with(known)) {
        return Err(format!(
            "say that it begins with a part of the model's weights that is taken out of them (`init_lora_weights` is \
             `{shown}`), which is not supported; PEFT converts it: `save_pretrained` with \
             `path_initial_model_for_weight_conversion`"
        ));
    }
    if method == "loftq" {
        let reason = "say that it mends weights that were quantised for it (`init_lora_weights` is `loftq`), which is \
                      not supported";
        return Err(reason.into());
    }
    if BESIDE.contains(&&*method) {
        return Ok(());
    }
    Err(format!("have an `init_lora_weights` that is not known: `{shown}`"))
}

/// What patterns give to layers, each of which takes that of the first that fits it.
fn matched<'a>(
    patterns: &Map<String, Json>,
    layers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<BTreeMap<String, f32>, String> {
    if patterns.len() > MOST {
        return Err(format!("have {} patterns, more than models have layers", patterns.len()));
    }
    let mut open: Vec<(&str, &str)> = layers.collect();
    let mut found = BTreeMap::new();
    for (key, value) in patterns {
        let alpha = number(value).ok_or("have an `alpha_pattern` that is no number")?;
        let pattern = pattern(key).map_err(|e| {
            // The library draws a picture of several lines, the last of which says what is wrong.
            let reason = e.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            format!("have an `alpha_pattern` that cannot be read, `{}`: {}", clip(key), clip(reason))
        })?;
        open.retain(|&(layer, name)| {
            let fits = pattern.is_match(name);
            if fits {
                found.insert(layer.to_owned(), alpha);
            }
            !fits
        });
    }
    Ok(found)
}

/// As PEFT has it: the whole of a name, or what is behind one of its dots.
fn pattern(key: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!(r"^(?:(.*\.)?({key})$)")).size_limit(LARGEST).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: [&str; 5] = [
        "blocks.0.attn1.to_q",
        "blocks.1.attn1.to_k",
        "blocks.10.attn1.to_q",
        "blocks.0.ffn.net.0.proj",
        "blocks.0.attn2.to_out.0",
    ];

    /// What layers of rank 4 are multiplied by.
    fn scales(settings: &str) -> Result<Vec<f32>, String> {
        let alpha = Alpha::parse(settings, "transformer.", LAYERS.iter().map(|&layer| (layer, layer)))?;
        Ok(LAYERS.iter().map(|layer| alpha.scale(None, layer, 4)).collect())
    }

    #[test]
    fn patterns_are_regular_expressions_for_ends_of_names() {
        // As `peft.utils.get_pattern_key` of PEFT 0.21 finds them.
        for (patterns, expected) in [
            (r#"{"blocks\\.[01]\\.attn1\\.to_[qk]": 8}"#, [2.0, 2.0, 1.0, 1.0, 1.0]),
            (r#"{"to_q": 8, "attn1.to_q": 16}"#, [2.0, 1.0, 2.0, 1.0, 1.0]),
            (r#"{"attn1.to_q": 16, "to_q": 8, "to_k": 12}"#, [4.0, 3.0, 4.0, 1.0, 1.0]),
            (r#"{"o_q": 8, "attn1": 8, "blocks.0": 8}"#, [1.0; 5]),
            (r#"{"^blocks\\.0\\..*": 2}"#, [0.5, 1.0, 1.0, 0.5, 0.5]),
            (r#"{"to_k|0": 2}"#, [1.0, 0.5, 1.0, 1.0, 0.5]),
            (r#"{"blocks.1.attn1.to_k": 0}"#, [1.0, 0.0, 1.0, 1.0, 1.0]),
        ] {
            for key in ["alpha_pattern", "transformer.alpha_pattern"] {
                let settings = format!(r#"{{"lora_alpha": 4, "{key}": {patterns}}}"#);
                assert_eq!(scales(&settings).expect(patterns), expected, "{patterns}");
            }
        }
        let root = scales(r#"{"lora_alpha": 4, "alpha_pattern": {"to_k": 8}, "use_rslora": true}"#).expect("sound");
        assert_eq!(root, [2.0, 4.0, 2.0, 2.0, 2.0]);
        assert_eq!(scales(r#"{"alpha_pattern": null, "lora_alpha": null}"#), Ok(vec![1.0; 5]));
    }

    #[test]
    fn names_are_those_that_peft_knows() {
        let names = [("base_model.model.blocks.0.to_q", "blocks.0.to_q"), ("blocks.0.to_k", "blocks.0.to_k")];
        let settings = r#"{"alpha_pattern": {"^blocks.0.to_q": 8}}"#;
        let alpha = Alpha::parse(settings, "", names.into_iter()).expect("sound");
        assert_eq!(names.map(|(stored, _)| alpha.scale(None, stored, 2)), [4.0, 1.0]);
        assert_eq!(alpha.scale(Some(1.0), names[0].0, 2), 0.5, "a layer's own comes first");
    }

    #[test]
    fn patterns_that_cannot_be_read_are_refused_by_name() {
        for (pattern, says) in [
            ("to_[q", "unclosed"),
            ("(?=to_q)x", "look-around"),
            (r"(a)\\1", "backreferences"),
            (r"(\\w{900}){900}", "limit"),
        ] {
            let error = scales(&format!(r#"{{"alpha_pattern": {{"{pattern}": 8}}}}"#)).expect_err(pattern);
            assert!(error.contains(&pattern.replace(r"\\", r"\")) && error.contains(says), "{error}");
        }
        for settings in [r#"{"alpha_pattern": {"q": "8"}}"#, r#"{"alpha_pattern": 8}"#, r#"{"lora_alpha": "8"}"#, "[]"]
        {
            scales(settings).expect_err(settings);
        }
        let many: Vec<String> = (0..=MOST).map(|i| format!(r#""a{i}": 1"#)).collect();
        scales(&format!(r#"{{"alpha_pattern": {{{}}}}}"#, many.join(","))).expect_err("too many");
    }

    #[test]
    fn adapters_that_changed_the_model_are_refused_by_name() {
        let begun = |value: &str| scales(&format!(r#"{{"transformer.init_lora_weights": {value}}}"#));
        for value in ["true", "false", "null", r#""gaussian""#, r#""eva""#, r#""orthogonal""#, r#""mica""#] {
            assert!(begun(value).is_ok(), "{value}");
        }
        for value in ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "lora_ga"] {
            let error = begun(&format!("\"{value}\"")).expect_err(value);
            assert!(error.contains(&value.to_lowercase()) && error.contains("path_initial_model"), "{error}");
        }
        assert!(begun(r#""loftq""#).expect_err("quantised").contains("loftq"));
        assert!(begun(r#""new""#).expect_err("unknown").contains("`new`"));
        assert!(begun("3").is_err() && scales(r#"{"use_dora": true}"#).expect_err("DoRA").contains("DoRA"));
    }
}
