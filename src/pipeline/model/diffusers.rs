//! The parts of a pipeline folder in the diffusers layout, or of the one inside the binary.

use std::path::{Path, PathBuf};

use super::Defaults;
use super::parts::{Index, Part, Parts};
use crate::error::{Error, Result};
use crate::sampling::SamplerConfig;
use crate::text::Tokenizer;
use crate::weights::{Archive, Config};

/// The pipelines that can be run, by the class that `model_index.json` names.
const CLASSES: &[&str] = &["WanPipeline", "WanImageToVideoPipeline", "WanVACEPipeline"];

/// Where the files of a pipeline folder are.
pub(super) enum Source<'a> {
    /// On disk.
    Folder(&'a Path),
    /// In memory, by their paths in the folder.
    Memory(&'a [(&'static str, &'static [u8])]),
}

impl Source<'_> {
    /// A file's bytes, `None` when there is no such file.
    fn optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(folder.join(name), error)),
            },
            Self::Memory(files) => Ok(files.iter().find(|(other, _)| *other == name).map(|(_, bytes)| bytes.to_vec())),
        }
    }

    fn file(&self, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::model(self.path(name), "this file of the model folder is missing");
        self.optional(name)?.ok_or_else(missing)
    }

    fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Memory(_) => Path::new("embedded").join(name),
        }
    }

    fn config(&self, name: &str) -> Result<Config> {
        let text = String::from_utf8(self.file(name)?)
            .map_err(|_| Error::model(self.path(name), "this is not a JSON object: it is not UTF-8"))?;
        Config::parse(self.path(name), &text)
    }

    fn archive(&self, part: &str, stem: &str) -> Result<Archive> {
        match self {
            Self::Folder(folder) => Archive::open(folder.join(part), stem),
            Self::Memory(files) => {
                let name = format!("{part}/{stem}.safetensors");
                let bytes = files.iter().find(|(other, _)| *other == name).map(|(_, bytes)| *bytes);
                let bytes = bytes.ok_or_else(|| Error::model(self.path(&name), "this part of the model is missing"))?;
                let bytes = crate::tensor::Bytes::new(std::sync::Arc::new(bytes));
                Archive::from_parts(self.path(part), [(name.as_str(), bytes)])
            }
        }
    }

    /// A network's folder: `config.json` beside its tensors, which transformers and diffusers name differently.
    fn part(&self, role: &'static str) -> Result<Part> {
        let stem = if matches!(role, "text_encoder" | "image_encoder") { "model" } else { "diffusion_pytorch_model" };
        let config = self.config(&format!("{role}/config.json"))?;
        Ok(Part { role, archive: self.archive(role, stem)?, config })
    }

    /// Opens the parts of a pipeline called `name`.
    ///
    /// # Errors
    /// When a part is missing or broken, or the folder holds another kind of pipeline.
    pub fn parts(&self, name: String) -> Result<Parts> {
        let index = self.index()?;
        let tokenizer_config = self.optional("tokenizer/tokenizer_config.json")?;
        let tokenizer_json = self.optional("tokenizer/tokenizer.json")?;
        let tokenizer = match &tokenizer_json {
            Some(text) => {
                let path = self.path("tokenizer/tokenizer.json");
                Tokenizer::from_bytes(path, text, tokenizer_config.as_deref())?
            }
            // Says what is there instead and what to do.
            None => Tokenizer::open(self.path("tokenizer"))?,
        };
        let sampler_path = self.path("scheduler/scheduler_config.json");
        let has_defaults = self.optional("defaults.json")?.is_some();
        let has_image_encoder = self.optional("image_encoder/config.json")?.is_some();
        let processor = "image_processor/preprocessor_config.json";
        let has_processor = self.optional(processor)?.is_some();
        let mut texts = Vec::new();
        for part in
            ["transformer", "text_encoder", "vae"].into_iter().chain(has_image_encoder.then_some("image_encoder"))
        {
            let name = format!("{part}/config.json");
            texts.push((name.clone(), self.file(&name)?));
        }
        if has_processor {
            texts.push((processor.into(), self.file(processor)?));
        }
        texts.push(("tokenizer/tokenizer.json".into(), tokenizer_json.unwrap_or_default()));
        Ok(Parts {
            name,
            tokenizer,
            tokenizer_path: self.path("tokenizer"),
            text_encoder: self.part("text_encoder")?,
            transformer: self.part("transformer")?,
            vae: self.part("vae")?,
            transformer_low: index.boundary.is_some().then(|| self.part("transformer_2")).transpose()?,
            image_encoder: has_image_encoder.then(|| self.part("image_encoder")).transpose()?,
            image_processor: has_processor.then(|| self.config(processor)).transpose()?,
            index,
            sampler: SamplerConfig::from_json(&sampler_path, &self.file("scheduler/scheduler_config.json")?)?,
            defaults: if has_defaults { Defaults::read(&self.config("defaults.json")?)? } else { Defaults::default() },
            texts,
        })
    }

    fn index(&self) -> Result<Index> {
        let index = self.config("model_index.json")?;
        match index.class() {
            Some(class) if CLASSES.contains(&class) => {}
            Some(other) => {
                let classes = CLASSES.join("`, `");
                return Err(index.error("_class_name", format!("`{other}` is not supported yet, only `{classes}`")));
            }
            None => return Err(index.error("_class_name", "is missing: this is no diffusers pipeline")),
        }
        let boundary = index.get_optional("boundary_ratio")?;
        if boundary.is_some() && self.optional("transformer_2/config.json")?.is_none() {
            return Err(index.error("boundary_ratio", "is set, but there is no transformer_2"));
        }
        Ok(Index { expand_timesteps: index.get_or("expand_timesteps", false)?, boundary })
    }
}
