//! How files scale weights of 8 bits, and schemes of quantisation that are refused by name rather than misread.
//!
//! Two conventions of ComfyUI are known, both `W = scale * q` with one scale for a whole tensor and q of float8:
//! - the older: a tensor `scaled_fp8` in the file, beside every such weight its `scale_weight`;
//! - the newer: beside every such weight its `weight_scale` and, in `comfy_quant`, the name of the format as JSON.
//!
//! Both may add a scale of inputs, which is for multiplying in 8 bits and of no use here. In the older, weights of float8
//! without a scale are what they are; in the newer, one that is marked and has none is refused.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Found, Origin};
use crate::error::{Error, Result};
use crate::weights::{Archive, Source, clip};

/// What stands beside a weight with its scale.
const SCALES: [&str; 2] = ["scale_weight", "weight_scale"];
/// What stands beside weights, or once in a file, and is of no use.
const IDLE: [&str; 4] = ["scale_input", "input_scale", "scaled_fp8", "_quantization_metadata"];
/// What says in JSON how a weight is quantised.
const FORMAT: &str = "comfy_quant";
/// The formats that it may name.
const FORMATS: [&str; 2] = ["float8_e4m3fn", "float8_e5m2"];
/// What it may say: the format, and whether to multiply in it, which nothing here does.
const WORDS: [&str; 2] = ["format", "full_precision_matrix_mult"];
/// What only files of schemes have that are not known here.
const OTHERS: &[(&str, &str)] = &[
    ("absmax", "bitsandbytes"),
    ("quant_map", "bitsandbytes"),
    ("nested_absmax", "bitsandbytes"),
    ("SCB", "bitsandbytes LLM.int8()"),
    ("qweight", "GPTQ, AWQ or SVDQuant"),
    ("qzeros", "GPTQ or AWQ"),
    ("g_idx", "GPTQ"),
    ("wscales", "SVDQuant"),
    ("smooth_factor", "SVDQuant"),
    ("weight_packed", "compressed-tensors"),
    ("weight_scale_2", "NVFP4"),
    ("weight_zero_point", "compressed-tensors or torchao"),
    ("weight_global_scale", "NVFP4"),
];

/// The tensors of a network for [`Archive::view`], with their scales; what only describes them is left out.
///
/// # Errors
/// [`Error::Tensor`] for a scheme of quantisation that is not known, for scales that are not one number for a tensor, and
/// for a weight that is said to be quantised and has none.
pub(super) fn sources(archive: &Archive, found: &Found) -> Result<Vec<(String, Source)>> {
    let mut sources = Vec::new();
    let mut scales: BTreeMap<String, f32> = BTreeMap::new();
    // Weights that are said to be quantised, and so have scales.
    let mut marked = marked_by_header(archive, found)?;
    for (name, origin) in &found.tensors {
        let (base, last) = name.rsplit_once('.').unwrap_or(("", name));
        if let Some((mark, scheme)) = OTHERS.iter().find(|(mark, _)| *mark == last) {
            let reason = format!("`{mark}` is a mark of weights quantised by {scheme}, which is not supported");
            return Err(archive.error(&origin.name, reason));
        }
        if name.contains(".quant_state.") {
            let reason = "this is a mark of weights quantised by bitsandbytes, which is not supported";
            return Err(archive.error(&origin.name, reason));
        }
        if SCALES.contains(&last) {
            let scale = number(archive, origin)?;
            if scales.insert(format!("{base}.weight"), scale).is_some() {
                return Err(archive.error(&origin.name, "its weight has a scale of the other convention as well"));
            }
        } else if last == FORMAT {
            check_format(archive, origin)?;
            marked.push(format!("{base}.weight"));
        } else if !IDLE.contains(&last) {
            sources.push((name.clone(), origin));
        }
    }
    for weight in marked.iter().filter(|weight| !scales.contains_key(*weight)) {
        let Some(origin) = found.tensors.get(weight) else { continue };
        return Err(archive.error(&origin.name, "it is said to be quantised, and its `weight_scale` is missing"));
    }
    sources.into_iter().map(|(name, origin)| Ok((name.clone(), source(archive, origin, scales.get(&name))?))).collect()
}

fn source(archive: &Archive, origin: &Origin, scale: Option<&f32>) -> Result<Source> {
    let mut source = Source::new(&origin.name);
    let shape = archive.shape_of(&origin.name).map(|shape| shape.dims().to_vec());
    if origin.squeeze
        && let Some(dims) = &shape
        && dims.first() == Some(&1)
    {
        let ones = dims.iter().take_while(|&&n| n == 1).count().min(dims.len().saturating_sub(1));
        source = source.reshaped(dims.get(ones..).unwrap_or_default());
    }
    if let Some((i, parts)) = origin.part {
        source = source.part(i, parts);
    }
    Ok(match scale {
        Some(scale) => source.scaled(*scale),
        None => source,
    })
}

/// The one number that a tensor holds.
fn number(archive: &Archive, origin: &Origin) -> Result<f32> {
    let tensor = archive.tensor(&origin.name)?;
    match tensor.to_f32()[..] {
        [scale] if scale.is_finite() => Ok(scale),
        [scale] => Err(archive.error(&origin.name, format!("{scale} is no scale"))),
        _ => {
            let reason = format!("its shape is {}: only one scale for a whole tensor is supported", tensor.shape());
            Err(archive.error(&origin.name, reason))
        }
    }
}

fn check_format(archive: &Archive, origin: &Origin) -> Result<()> {
    let raw = archive.raw(&origin.name)?;
    let refuse = |reason: String| archive.error(&origin.name, reason);
    let json: Value = serde_json::from_slice(&raw.bytes).map_err(|_| refuse("this is not JSON".into()))?;
    check_words(&json).map_err(refuse)
}

/// What is said of one weight in JSON: a format that is known, and nothing beside it that could change its meaning.
fn check_words(json: &Value) -> Result<(), String> {
    let words = json.as_object().ok_or("this is no JSON object")?;
    match words.get("format").and_then(Value::as_str) {
        Some(format) if FORMATS.contains(&format) => {}
        Some(format) => {
            let known = FORMATS.join(" and ");
            return Err(format!("the quantisation `{}` is not supported; {known} are", clip(format)));
        }
        None => return Err("there is no `format` in this".into()),
    }
    match words.keys().find(|word| !WORDS.contains(&word.as_str())) {
        Some(word) => Err(format!("`{}` is no part of a quantisation that is known", clip(word))),
        None => Ok(()),
    }
}

/// ComfyUI may say in the header how weights are quantised, and not beside each: our names of the weights of a network
/// that it says it of.
fn marked_by_header(archive: &Archive, found: &Found) -> Result<Vec<String>> {
    let Some(text) = archive.metadata("_quantization_metadata").and_then(|value| value.text()) else {
        return Ok(Vec::new());
    };
    let refuse = |reason: String| Error::model(archive.path(), format!("in `_quantization_metadata`: {reason}"));
    let json: Value = serde_json::from_str(text).map_err(|_| refuse("this is not JSON".into()))?;
    let layers = json.get("layers").and_then(Value::as_object);
    let mut named = BTreeSet::new();
    for (layer, words) in layers.into_iter().flatten() {
        check_words(words).map_err(|reason| refuse(format!("`{}`: {reason}", clip(layer))))?;
        named.insert(format!("{layer}.weight"));
    }
    // Names may be those below the prefix.
    let is_named =
        |name: &str| named.contains(name) || name.strip_prefix(&found.prefix).is_some_and(|n| named.contains(n));
    let weights = found.tensors.iter().filter(|(_, origin)| is_named(&origin.name));
    Ok(weights.map(|(ours, _)| ours.clone()).collect())
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::tensor::HostTensor;
    use crate::weights::{Archive, layout, save_safetensors};

    /// What is wrong with a transformer of one matrix below a prefix, of which a header says this.
    fn wrong(layers: &str) -> Option<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("m.safetensors");
        let header = [("_quantization_metadata", format!(r#"{{"format_version": "1.0", "layers": {layers}}}"#))];
        let header: Vec<(&str, &str)> = header.iter().map(|(key, value)| (*key, value.as_str())).collect();
        let tensor = ("p.blocks.0.self_attn.q.weight", HostTensor::from_f32([2, 2], &[1.0; 4]));
        save_safetensors(&path, &[tensor], &header).expect("saved");
        let archive = Archive::open_file(&path).expect("sound");
        let found = layout::recognise(archive.names());
        let error = found.first().expect("a transformer").open(&archive).err()?;
        assert!(matches!(error, Error::Model { .. } | Error::Tensor { .. }), "{error}");
        Some(error.to_string())
    }

    #[test]
    fn what_a_header_says_of_weights_must_be_so() {
        assert_eq!(wrong("{}"), None);
        assert_eq!(wrong(r#"{"p.blocks.0.self_attn.k": {"format": "float8_e4m3fn"}}"#), None, "of another network");
        for (layers, says) in [
            (r#"{"p.blocks.0.self_attn.q": {"format": "float8_e4m3fn"}}"#, "`p.blocks.0.self_attn.q.weight`"),
            (r#"{"blocks.0.self_attn.q": {"format": "float8_e5m2"}}"#, "`weight_scale` is missing"),
            (r#"{"a": {"format": "float8_e4m3fn", "convrot": true}}"#, "`convrot`"),
            (r#"{"a": {"format": "nvfp4"}}"#, "`nvfp4` is not supported"),
            (r#"{"a": {}}"#, "`a`: there is no `format`"),
            (r#"{"a": 3}"#, "`a`: this is no JSON object"),
        ] {
            let error = wrong(layers).expect(layers);
            assert!(error.contains(says), "{error}");
        }
    }
}
