//! LoRA files on top of a model.

use std::path::{Path, PathBuf};

use super::{Expert, Model};
use crate::error::{Error, Result};
use crate::media::UsedLora;
use crate::models::wan_transformer::WanTransformer;
use crate::weights::Lora;

/// Which of a model's transformers a LoRA file changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Experts {
    /// All that there are.
    #[default]
    All,
    /// The one for high noise, of two.
    High,
    /// The one for low noise, of two.
    Low,
}

impl Experts {
    /// The name that the command line has for one of two; `None` for all.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::High => Some("high"),
            Self::Low => Some("low"),
        }
    }
}

/// A LoRA file to be used.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFile {
    /// The file.
    pub path: PathBuf,
    /// How strongly; 1 is as it was made.
    pub strength: f32,
    /// On which transformers.
    pub experts: Experts,
}

impl Model {
    /// The same model with LoRA files added to its transformers, all at once. Layers that it does not have are
    /// [left out](Model::unused_by_loras) when they read pictures by CLIP. Of a file that has layers for each of two
    /// transformers, each gets its own.
    ///
    /// # Errors
    /// When a file is broken or of another method, when it changes layers that the model does not have, or when it is
    /// meant for one of two transformers, or for two, and the model has one.
    pub fn with_loras(mut self, files: &[LoraFile]) -> Result<Self> {
        if files.is_empty() {
            return Ok(self);
        }
        if let (None, Some(file)) = (&self.transformer_low, files.iter().find(|file| file.experts != Experts::All)) {
            let expert = file.experts.name().unwrap_or_default();
            return Err(Error::request(
                "--lora",
                format!("{}:{expert}: this model has one transformer only", file.path.display()),
            ));
        }
        let loras = files.iter().map(|file| Lora::open(&file.path)).collect::<Result<Vec<_>>>()?;
        let of_each: Vec<[Lora; 2]> = match self.transformer_low {
            Some(_) => loras.iter().map(Lora::for_two).collect(),
            None => loras.iter().map(|lora| [lora.clone(), lora.clone()]).collect(),
        };
        let mut unused = Vec::new();
        let mut adapt = |role: &str, transformer: &WanTransformer, this: Experts| -> Result<WanTransformer> {
            let mut chosen = Vec::new();
            for ([high, low], file) in of_each.iter().zip(files) {
                let lora = if this == Experts::Low { low } else { high };
                if file.experts == this && lora.is_empty() {
                    let reason = format!("{}: none of its layers is for that transformer", file.path.display());
                    return Err(Error::request("--lora", reason));
                }
                if file.experts == this || file.experts == Experts::All {
                    chosen.push((lora, file.strength));
                }
            }
            let archive = self.archives.iter().find(|(name, _)| *name == role).map(|(_, archive)| archive);
            let archive = archive.ok_or_else(|| Error::Internal(format!("a model without a {role}")))?;
            let adapted = archive.adapted(&chosen)?;
            unused.extend(adapted.unused);
            WanTransformer::load(&adapted.archive, transformer.config().clone())
        };
        self.transformer = adapt("transformer", &self.transformer, Experts::High)?;
        if let Some(Expert { transformer, boundary }) = &self.transformer_low {
            self.transformer_low =
                Some(Expert { transformer: adapt("transformer_2", transformer, Experts::Low)?, boundary: *boundary });
        }
        for (lora, file) in loras.iter().zip(files) {
            let name =
                Path::file_name(lora.path()).map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            let experts = file.experts.name().map(str::to_owned);
            self.loras.push(UsedLora { name, hash: lora.hash(), strength: file.strength, experts });
        }
        unused.sort_unstable();
        unused.dedup();
        self.unused_by_loras = unused;
        Ok(self)
    }

    /// Layers of LoRA files that were left out, because only transformers that see pictures by CLIP have them.
    pub fn unused_by_loras(&self) -> &[String] {
        &self.unused_by_loras
    }

    /// The LoRA files that were added, for recipes.
    pub fn loras(&self) -> &[UsedLora] {
        &self.loras
    }
}
