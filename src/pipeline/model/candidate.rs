//! A network that was found in some files, before anything is built from it.

use std::path::{Path, PathBuf};

use super::conversion::CONFIG;
use super::parts::Part;
use super::vocabulary;
use crate::error::Result;
use crate::text::{Pieces, Tokenizer};
use crate::weights::layout::{Found, Network, settings};
use crate::weights::{Archive, Config, Value};

/// A network among the tensors of a file, or of several.
#[derive(Clone)]
pub(super) struct Candidate {
    /// Which, in which layout.
    pub found: Found,
    /// The file, or the folder of several.
    pub place: PathBuf,
    /// What its name says of noise.
    pub side: Side,
    /// The tensors as they are stored.
    pub archive: Archive,
}

/// Which of two transformers a name belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// That for high noise.
    High,
    /// That for low noise.
    Low,
    /// It does not say.
    Unsaid,
}

impl Side {
    /// What the name of a file, or else of its folder, says.
    pub fn of(place: &Path) -> Self {
        let parent = place.parent().and_then(Path::file_name).filter(|_| place.extension().is_some());
        place
            .file_name()
            .into_iter()
            .chain(parent)
            .map(|name| Self::of_name(&name.to_string_lossy()))
            .fold(Self::Unsaid, |said, side| if said == Self::Unsaid { side } else { said })
    }

    fn of_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let says = |side: &str| words.iter().any(|word| *word == side || *word == format!("{side}noise"));
        match (says("high"), says("low")) {
            (true, false) => Self::High,
            (false, true) => Self::Low,
            _ => Self::Unsaid,
        }
    }
}

impl Candidate {
    /// Which network it is.
    pub fn network(&self) -> Network {
        self.found.network
    }

    /// A dimension of one of its tensors, by our name.
    pub fn dim(&self, name: &str, axis: usize) -> Option<usize> {
        let origin = self.found.tensors.get(name)?;
        self.archive.shape_of(&origin.name)?.dims().get(axis).copied()
    }

    /// The settings beside it: a file of its own name (`wan.json` of `wan.gguf`), or a `config.json` that is about a
    /// network of its kind; else those that its file keeps, as `mutoscope convert` writes them.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON.
    pub fn config(&self) -> Result<Option<Config>> {
        let folder = if self.place.is_dir() { Some(self.place.as_path()) } else { self.place.parent() };
        let own = self.place.is_file().then(|| self.place.with_extension("json"));
        for path in own.into_iter().chain(folder.map(|folder| folder.join("config.json"))) {
            if path.is_file() {
                let config = Config::open(path)?;
                if describes(&config, self.network()) {
                    return Ok(Some(config));
                }
            }
        }
        let Some(text) = self.archive.metadata(CONFIG).and_then(Value::text) else { return Ok(None) };
        let config = Config::parse(&self.place, text)?;
        Ok(Some(config).filter(|config| describes(config, self.network())))
    }

    /// The part that it is, in the role that a folder of diffusers has a name for.
    ///
    /// # Errors
    /// When its tensors are quantised in a way that is not known, or it is not known what they are.
    pub fn part(&self, role: &'static str, given: Option<Config>) -> Result<Part> {
        let archive = self.found.open(&self.archive)?;
        let config = match given {
            Some(config) => Some(config),
            None => self.config()?,
        };
        let settings = settings(self.network(), &archive, config)?;
        Ok(Part { role, archive, config: settings.config, corrections: settings.corrections })
    }

    /// Whether it may have a tokenizer within it.
    pub fn has_tokenizer(&self) -> bool {
        self.archive.contains(&self.spiece()) || self.archive.metadata("tokenizer.ggml.tokens").is_some()
    }

    /// What ComfyUI's files call the SentencePiece model.
    fn spiece(&self) -> String {
        // In a checkpoint it lies beside the transformer's prefix, not below it.
        let below = self.found.prefix.trim_end_matches("transformer.");
        let names = [format!("{}spiece_model", self.found.prefix), format!("{below}spiece_model")];
        names.into_iter().find(|name| self.archive.contains(name)).unwrap_or_else(|| "spiece_model".into())
    }

    /// The tokenizer that files of ComfyUI and GGUF have within them, with a text that is another for every other one.
    ///
    /// # Errors
    /// When there is one and it is broken.
    pub fn tokenizer(&self) -> Result<Option<(Tokenizer, Vec<u8>)>> {
        let Some(pieces) = self.pieces()? else { return Ok(None) };
        let stored = self.spiece();
        let text = if self.archive.contains(&stored) {
            self.archive.raw(&stored)?.bytes.to_vec()
        } else {
            pieces.pieces.iter().flat_map(|piece| format!("{}\n", piece.text).into_bytes()).collect()
        };
        Ok(Some((Tokenizer::from_pieces(&self.place, pieces)?, text)))
    }

    /// The vocabulary within the file.
    ///
    /// # Errors
    /// When there is one and it is broken.
    pub fn pieces(&self) -> Result<Option<Pieces>> {
        let stored = self.spiece();
        if self.archive.contains(&stored) {
            return Pieces::parse(&self.place, &self.archive.raw(&stored)?.bytes).map(Some);
        }
        Ok(vocabulary::read(&self.archive))
    }
}

/// Whether a `config.json` is about a network of this kind: folders of the authors have the transformer's beside all.
fn describes(config: &Config, network: Network) -> bool {
    let any = |keys: &[&str]| keys.iter().any(|key| config.has(key));
    match network {
        Network::Transformer => any(&["ffn_dim"]) && any(&["num_heads", "num_attention_heads"]),
        Network::Vae => any(&["latents_mean", "z_dim"]),
        Network::TextEncoder => any(&["d_model"]),
        Network::ImageEncoder => any(&["hidden_size", "vision_config"]) && any(&["patch_size", "vision_config"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_of_two_transformers_it_is() {
        for (place, side) in [
            ("m/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors", Side::High),
            ("Wan2.2-T2V-A14B-LowNoise-Q4_K_M.gguf", Side::Low),
            ("Wan2.2-I2V-A14B/high_noise_model", Side::High),
            ("low_noise_model/diffusion_pytorch_model.safetensors", Side::Low),
            ("HIGH/wan.gguf", Side::High),
            ("slow/flowing_highway.safetensors", Side::Unsaid),
            ("high/wan_low.safetensors", Side::Low),
            ("wan_high_low_merged.safetensors", Side::Unsaid),
        ] {
            assert_eq!(Side::of(Path::new(place)), side, "{place}");
        }
    }
}
