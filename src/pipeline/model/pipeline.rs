//! The files of a pipeline beside its networks: `model_index.json`, the sampler's settings, the tokenizer's folder; in a
//! folder or in the binary.

use std::path::{Path, PathBuf};

use super::candidate::{Candidate, Side};
use super::parts::Index;
use crate::error::{Error, Result};
use crate::weights::layout::{Network, recognise};
use crate::weights::{Archive, Config};

/// The pipelines that can be run, by the class that `model_index.json` names.
const CLASSES: &[&str] = &["WanPipeline", "WanImageToVideoPipeline", "WanVideoToVideoPipeline", "WanVACEPipeline"];

/// Where the files of a pipeline are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// On disk.
    Folder(PathBuf),
    /// In memory, by their paths in the folder.
    Memory(&'static [(&'static str, &'static [u8])]),
}

impl Source {
    /// A file's bytes, `None` when there is no such file.
    pub fn optional(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(folder.join(name), error)),
            },
            Self::Memory(files) => Ok(files.iter().find(|(other, _)| *other == name).map(|(_, bytes)| bytes.to_vec())),
        }
    }

    /// What errors call a file.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Memory(_) => Path::new("embedded").join(name),
        }
    }

    /// A file's settings, `None` when there is no such file.
    pub fn config(&self, name: &str) -> Result<Option<Config>> {
        let Some(bytes) = self.optional(name)? else { return Ok(None) };
        let text = String::from_utf8(bytes)
            .map_err(|_| Error::model(self.path(name), "this is not a JSON object: it is not UTF-8"))?;
        Config::parse(self.path(name), &text).map(Some)
    }

    /// What `model_index.json` says, `None` where there is none: this is no folder of diffusers.
    pub fn index(&self) -> Result<Option<Index>> {
        let Some(index) = self.config("model_index.json")? else { return Ok(None) };
        match index.class() {
            Some(class) if CLASSES.contains(&class) => {}
            Some(other) => {
                let classes = CLASSES.join("`, `");
                return Err(index.error("_class_name", format!("`{other}` is not supported yet, only `{classes}`")));
            }
            None => return Err(index.error("_class_name", "is missing: this is no diffusers pipeline")),
        }
        // The library and the class, or two nulls.
        let scheduler: Option<Vec<Option<String>>> = index.get_optional("scheduler")?;
        Ok(Some(Index {
            scheduler: scheduler.and_then(|names| names.into_iter().nth(1).flatten()),
            expand_timesteps: index.get_or("expand_timesteps", false)?,
            boundary: index.get_optional("boundary_ratio")?,
        }))
    }

    /// The network in a folder of the pipeline, `None` when there is no such folder.
    ///
    /// # Errors
    /// When it is broken, or another network.
    pub fn network(&self, role: &'static str, network: Network) -> Result<Option<Candidate>> {
        let place = self.path(role);
        let stem = if matches!(role, "text_encoder" | "image_encoder") { "model" } else { "diffusion_pytorch_model" };
        let archive = match self {
            Self::Folder(_) if !place.is_dir() => return Ok(None),
            Self::Folder(_) => Archive::open(&place, stem)?,
            Self::Memory(files) => {
                let name = format!("{role}/{stem}.safetensors");
                let Some((_, bytes)) = files.iter().find(|(other, _)| *other == name) else { return Ok(None) };
                let bytes = crate::tensor::Bytes::new(std::sync::Arc::new(*bytes));
                Archive::from_parts(&place, [(name.as_str(), bytes)])?
            }
        };
        let found = recognise(archive.names()).into_iter().find(|found| found.network == network);
        let found =
            found.ok_or_else(|| Error::model(&place, format!("its tensors are not those of a {network} of Wan's")))?;
        Ok(Some(Candidate { found, place, side: Side::Unsaid, archive }))
    }
}
