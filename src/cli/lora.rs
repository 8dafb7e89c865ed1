//! `--lora`: files that change a model's transformers.

use std::path::Path;

use clap::Args;
use mutoscope::Result;
use mutoscope::pipeline::{Experts, LoraFile, Model};

/// LoRA files.
#[derive(Args)]
pub struct LoraArguments {
    /// A LoRA file, and how strongly it is used [default: 1]; may be repeated
    ///
    /// Files for Wan in any of the usual dialects (diffusers, ComfyUI, kohya, PEFT), as safetensors or PyTorch's, or a folder
    /// that PEFT or diffusers saved. In models with two transformers, :high or :low says for which of them:
    /// high.safetensors:1:high. Of a file with layers for each of two, each gets its own.
    #[arg(long = "lora", value_name = "FILE[:WEIGHT[:high|low]]", value_parser = file)]
    files: Vec<LoraFile>,
}

fn file(text: &str) -> Result<LoraFile, String> {
    let (rest, experts) = match text.rsplit_once(':') {
        Some((rest, "high")) => (rest, Experts::High),
        Some((rest, "low")) => (rest, Experts::Low),
        _ => (text, Experts::All),
    };
    let weight = rest.rsplit_once(':').and_then(|(path, weight)| Some((path, weight.parse::<f32>().ok()?)));
    let (path, strength) = weight.unwrap_or((rest, 1.0));
    let mut before = path.match_indices(':').map(|(at, _)| path.split_at(at));
    let mistaken = before.find(|(file, _)| !Path::new(path).exists() && Path::new(file).exists());
    if let Some((file, words)) = mistaken {
        let words = words.trim_start_matches(':');
        return Err(format!(
            "`{words}`, behind {file}, is neither a weight, nor high or low, nor one behind the other"
        ));
    }
    if path.is_empty() || !strength.is_finite() {
        return Err("give FILE, FILE:0.8 or, with two transformers, FILE:0.8:high".into());
    }
    Ok(LoraFile { path: path.into(), strength, experts })
}

/// The model with the files added.
pub fn add(arguments: &LoraArguments, model: Model) -> Result<Model> {
    model.with_loras(&arguments.files)
}

/// What people should know about the files of a model.
pub fn note(model: &Model) -> Option<String> {
    let unused = model.unused_by_loras();
    unused.first().map(|first| {
        let count = unused.len();
        format!("{count} layers of --lora, such as {first}, read pictures by CLIP, which this model does not: they are not used")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_weights_and_experts() {
        let parsed = |text| file(text).map(|file| (file.path.display().to_string(), file.strength, file.experts));
        assert_eq!(parsed("a.safetensors"), Ok(("a.safetensors".into(), 1.0, Experts::All)));
        assert_eq!(parsed("a.safetensors:0.5"), Ok(("a.safetensors".into(), 0.5, Experts::All)));
        assert_eq!(parsed("a:-2:low"), Ok(("a".into(), -2.0, Experts::Low)));
        assert_eq!(parsed("a:high"), Ok(("a".into(), 1.0, Experts::High)));
        assert_eq!(parsed("c:\\a.safetensors"), Ok(("c:\\a.safetensors".into(), 1.0, Experts::All)));
        assert!(parsed(":1").is_err() && parsed("a:inf").is_err() && parsed("").is_err());
    }

    #[test]
    fn a_mistyped_weight_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        std::fs::write(&path, "").expect("written");
        for (ending, word) in
            [("abc", "`abc`"), ("", "``"), ("abc:low", "`abc`"), ("high:0.5", "`high`"), ("1:hi", "`1:hi`")]
        {
            let error = file(&format!("{}:{ending}", path.display())).expect_err(ending);
            assert!(error.contains(word) && error.contains("neither a weight"), "{error}");
        }
        assert!(file(&format!("{}:0.5", path.display())).is_ok());
        assert!(file("nothing.safetensors:abc").is_ok(), "a name may have a colon");
    }
}
