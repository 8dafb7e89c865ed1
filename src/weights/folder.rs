//! Which files of a model part's folder hold its tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::config::read_json;
use super::{TensorFile, clip, list};
use crate::error::{Error, Result};

/// The endings of PyTorch's files.
const TORCH: &[&str] = &["bin", "pth", "pt", "ckpt"];

/// The index of a sharded checkpoint, as diffusers and transformers write it.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens the files that [`Archive::open`](super::Archive::open) describes.
pub(super) fn open(folder: &Path, stem: &str) -> Result<Vec<TensorFile>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        names.extend(name.into_string()); // what is not Unicode is none of ours
    }
    names.sort_unstable();
    let chosen = choose(&names, stem).map_err(|reason| Error::model(folder, reason))?;
    if chosen.ends_with(".json") { sharded(folder, chosen) } else { Ok(vec![TensorFile::open(folder.join(chosen))?]) }
}

fn sharded(folder: &Path, name: &str) -> Result<Vec<TensorFile>> {
    let path = folder.join(name);
    let broken = |reason: String| Error::model(&path, reason);
    let index: Index = serde_json::from_str(&read_json(&path)?)
        .map_err(|e| broken(format!("broken index: {}", clip(&e.to_string()))))?;
    if index.weight_map.is_empty() {
        return Err(broken("it lists no tensors".into()));
    }
    let mut listed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map {
        listed.entry(shard).or_default().push(tensor);
    }
    let mut files = Vec::new();
    for (shard, tensors) in &listed {
        // Not `Path::components`: a backslash or a drive is as unwelcome where it happens to be harmless.
        if shard.contains(['/', '\\', ':', '\0']) || !(shard.ends_with(".safetensors") || shard.ends_with(".bin")) {
            return Err(broken(format!("its shard `{}` is not a file of tensors in this folder", clip(shard))));
        }
        let shard_path = folder.join(shard);
        if !shard_path.exists() {
            let (count, shard) = (tensors.len(), clip(shard));
            return Err(broken(format!("its shard `{shard}`, with {count} tensors, is missing from the folder")));
        }
        let file = TensorFile::open(shard_path)?;
        if let Some(absent) = tensors.iter().find(|&&name| file.dtype_of(name).is_none()) {
            let reason = format!("`{}` should hold it and does not", clip(shard));
            return Err(Error::tensor(&path, clip(absent), reason));
        }
        files.push(file);
    }
    Ok(files)
}

/// Which of a folder's files (sorted) to open, or why none.
fn choose<'a>(names: &'a [String], stem: &str) -> Result<&'a str, String> {
    let find = |wanted: String| names.iter().find(|name| **name == wanted).map(String::as_str);
    let single = find(format!("{stem}.safetensors"));
    let sharded = find(format!("{stem}.safetensors.index.json"));
    // Where both are there, transformers takes the single file and diffusers the index.
    let plain = if stem == "model" { single.or(sharded) } else { sharded.or(single) };
    if let Some(plain) = plain {
        return Ok(plain);
    }
    let is_variant = |tag: &str| !tag.is_empty() && tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let variants: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| {
            let rest = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
            let sharded = rest.strip_prefix("safetensors.index.").and_then(|rest| rest.strip_suffix(".json"));
            sharded.or_else(|| rest.strip_suffix(".safetensors")).is_some_and(is_variant)
        })
        .collect();
    match variants[..] {
        [one] => return Ok(one),
        [] => {}
        _ => return Err(format!("there are several variants, {}, and no plain one; keep one of them", list(variants))),
    }
    if let Some(shard) = names.iter().find(|name| name.starts_with(stem) && name.ends_with(".safetensors")) {
        let shard = clip(shard);
        return Err(format!(
            "there are shards such as `{shard}` and no `{stem}.safetensors.index.json` that lists them"
        ));
    }
    // Without safetensors, what other tools write. transformers calls its own `pytorch_model`.
    let torch = if stem == "model" { "pytorch_model" } else { stem };
    for name in [format!("{torch}.bin.index.json"), format!("{torch}.bin")] {
        if let Some(found) = find(name) {
            return Ok(found);
        }
    }
    let ending = |name: &str| name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let others: Vec<&str> = (names.iter().map(String::as_str))
        .filter(|name| ending(name).is_some_and(|e| e == "gguf" || TORCH.contains(&&*e)))
        .collect();
    match others[..] {
        [one] => Ok(one),
        [] => Err(format!("there is no `{stem}.safetensors` and no `{stem}.safetensors.index.json`")),
        _ => Err(format!("there is no `{stem}.safetensors`, and of {} it is not clear which is meant", list(others))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;
    use crate::weights::{Archive, save_safetensors};

    const STEM: &str = "diffusion_pytorch_model";

    fn write(folder: &Path, file: &str, names: &[&str]) {
        let tensors: Vec<_> = names.iter().map(|&name| (name, HostTensor::from_f32([1], &[1.0]))).collect();
        save_safetensors(folder.join(file), &tensors, &[]).expect("saved");
    }

    fn refused(folder: &Path, stem: &str) -> String {
        Archive::open(folder, stem).expect_err("refused").to_string()
    }

    #[test]
    fn a_plain_file_goes_before_its_variants_and_an_index_as_in_the_reference() {
        let names = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let plain = format!("{STEM}.safetensors");
        let fp16 = format!("{STEM}.fp16.safetensors");
        let index = format!("{STEM}.safetensors.index.json");
        let fp16_index = format!("{STEM}.safetensors.index.fp16.json");
        assert_eq!(choose(&names(&[&plain, &fp16]), STEM), Ok(plain.as_str()));
        assert_eq!(choose(&names(&[&fp16]), STEM), Ok(fp16.as_str()));
        assert_eq!(choose(&names(&[&fp16_index]), STEM), Ok(fp16_index.as_str()));
        assert_eq!(choose(&names(&[&plain, &index]), STEM), Ok(index.as_str()));
        let both = names(&["model.safetensors", "model.safetensors.index.json"]);
        assert_eq!(choose(&both, "model"), Ok("model.safetensors"));
    }

    #[test]
    fn a_folder_without_readable_files_says_what_is_there() {
        for (files, says) in [
            (&["config.json"][..], "no `model.safetensors`"),
            (&["pytorch_model.bin"], "pytorch_model.bin: 0 bytes are too few"),
            (&["models_t5.pth"], "models_t5.pth: 0 bytes are too few"),
            (&["wan-Q4_0.GGUF"], "wan-Q4_0.GGUF: 0 bytes are too few"),
            (&["a.gguf", "b.gguf"], "`a.gguf`, `b.gguf` it is not clear"),
            (&["optimizer.bin", "pytorch_model.bin"], "pytorch_model.bin: 0 bytes"),
            (&["model.fp16.safetensors", "model.bf16.safetensors"], "several variants"),
            (&["model-00001-of-00002.safetensors"], "index.json"),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            for file in files {
                fs::write(folder.path().join(file), b"").expect("written");
            }
            let error = refused(folder.path(), "model");
            assert!(error.contains(says), "{files:?}: {error}");
        }
        let missing = tempfile::tempdir().expect("a folder").path().join("gone");
        assert!(matches!(Archive::open(missing, "model"), Err(Error::Io { .. })));
    }

    #[test]
    fn a_lying_index_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "a.safetensors", &["x", "y"]);
        write(folder.path(), "b.safetensors", &["y", "z"]);
        for (index, says) in [
            (r#"{"weight_map":{"x":"../a.safetensors"}}"#, "not a file of tensors in this folder"),
            (r#"{"weight_map":{"x":"/etc/passwd"}}"#, "not a file of tensors in this folder"),
            (r#"{"weight_map":{"x":"sub\\a.safetensors"}}"#, "not a file of tensors in this folder"),
            (r#"{"weight_map":{"x":"c:a.safetensors"}}"#, "not a file of tensors in this folder"),
            (r#"{"weight_map":{"x":"config.json"}}"#, "not a file of tensors in this folder"),
            (r#"{"weight_map":{"x":"c.safetensors"}}"#, "missing from the folder"),
            (r#"{"weight_map":{"z":"a.safetensors"}}"#, "should hold it"),
            (r#"{"weight_map":{"x":"a.safetensors","z":"b.safetensors"}}"#, "as well"),
            (r#"{"weight_map":{}}"#, "lists no tensors"),
            (r#"{"weight_map":[1]}"#, "broken index"),
            (r#"{"metadata":{}}"#, "weight_map"),
            ("{", "broken index"),
        ] {
            fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
            let error = refused(folder.path(), "model");
            assert!(error.contains(says), "{index}: {error}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_index_is_followed_or_refused(
            map in proptest::collection::btree_map("[xyz]{1,2}", "(a|b|c|\\.\\.|/)\\.safetensors|\\PC{0,9}", 0..4),
            cut in 0usize..400,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            write(folder.path(), "a.safetensors", &["x", "y"]);
            write(folder.path(), "b.safetensors", &["z", "xx"]);
            let index = serde_json::json!({ "weight_map": map }).to_string();
            let index = index.get(..cut).unwrap_or(&index);
            fs::write(folder.path().join("model.safetensors.index.json"), index).expect("written");
            match Archive::open(folder.path(), "model") {
                Ok(archive) => map.keys().for_each(|name| drop(archive.tensor(name).expect("listed"))),
                Err(error) => {
                    let clear = matches!(error, Error::Model { .. } | Error::Tensor { .. });
                    proptest::prop_assert!(clear && error.to_string().contains("index.json"), "{}", error);
                }
            }
        }
    }
}
