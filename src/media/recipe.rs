//! What made a video, as one line of JSON in the file's own metadata.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Pattern, gif, mp4, png};
use crate::error::{Error, Result};

/// Everything needed to make a video again. Every output carries one, as [`Recipe::to_json`] writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The text the video should show.
    pub prompt: String,
    /// The text it should not show.
    #[serde(default)]
    pub negative: String,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Columns of a frame.
    pub width: u32,
    /// Rows of a frame.
    pub height: u32,
    /// Number of frames.
    pub frames: u32,
    /// Frames per second.
    pub fps: f64,
    /// Sampling steps.
    pub steps: u32,
    /// Scale of classifier-free guidance.
    pub guidance: f64,
    /// The scale of the low-noise expert, in models that have two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_low: Option<f64>,
    /// Shift of the noise schedule.
    pub shift: f64,
    /// Frames that were known beforehand, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<KnownFrames>,
    /// The video that it was made from, when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<GivenVideo>,
    /// The tiles that the VAE worked on, as the command line names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae_tile: Option<String>,
    /// SHA-256, as of the video, of the masks that say what of the video was to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// SHA-256, as of the video, of each reference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// How loudly each block spoke that read the control video.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control_scales: Vec<f32>,
    /// The solver, as the command line names it.
    pub sampler: String,
    /// The model, by name or folder.
    pub model: String,
    /// A hash of the model's weights, LoRA files included.
    pub model_hash: String,
    /// The LoRA files that were added to the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<UsedLora>,
    /// The precision of the computation, as the command line names it.
    pub precision: String,
    /// The version of mutoscope.
    pub version: String,
}

/// Frames that a video was given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFrames {
    /// The first of them, from 0.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// SHA-256 of their sides (as decimal `WxH\n`) and RGB bytes, one after the other.
    pub sha256: String,
}

/// A video that another was made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GivenVideo {
    /// How many of its frames were used.
    pub count: u32,
    /// SHA-256 of their sides (as decimal `WxH\n`) and RGB bytes, one after the other; the command line stretches them to
    /// the size of the video first.
    pub sha256: String,
    /// How far the result may go from it, above 0 to 1; nothing for a control video.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
}

/// A LoRA file that was added to a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsedLora {
    /// The file's name.
    pub name: String,
    /// A hash of its tensors.
    pub hash: String,
    /// How strongly it was used.
    pub strength: f32,
    /// Of two transformers, the one it was added to: `high` or `low`; both when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<String>,
}

impl UsedLora {
    /// What it does to a model, in one line: everything but its file's name.
    pub fn identity(&self) -> String {
        format!("{} x {} {}", self.hash, self.strength, self.experts.as_deref().unwrap_or("all"))
    }
}

impl Recipe {
    /// One line of JSON, in UTF-8.
    ///
    /// # Errors
    /// [`Error::Internal`] when serialisation fails, which a recipe gives no cause for.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|e| Error::Internal(format!("recipe to JSON: {e}")))
    }

    /// The same in ASCII alone, for places that know no other text (a GIF comment).
    pub(super) fn to_ascii_json(&self) -> Result<String> {
        // Only inside strings can JSON that serde_json wrote hold anything else, and there `\u` may stand for it.
        let mut ascii = String::new();
        for c in self.to_json()?.chars() {
            if c.is_ascii() {
                ascii.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
        Ok(ascii)
    }

    /// Reads what [`Recipe::to_json`] wrote; fields it does not know are passed over.
    ///
    /// # Errors
    /// [`Error::Request`] when the text is not the JSON of a recipe.
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|e| Error::request("recipe", e.to_string()))
    }
}

/// The recipe in a file's metadata: of an MP4, GIF, PNG or APNG, told apart by content and not by name, or of the
/// first picture of a folder given as a pattern (`frames/%04d.png`). `None` when it carries none.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Media`] when it is none of these formats or is broken.
pub fn read_recipe(path: impl AsRef<Path>) -> Result<Option<Recipe>> {
    let path = path.as_ref();
    let path = Pattern::parse(path).map_or_else(|| path.to_path_buf(), |pattern| pattern.path(1));
    let file = File::open(&path).map_err(|e| Error::io(&path, e))?;
    let mut reader = BufReader::new(file);
    let mut magic = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut magic).map_err(|e| Error::io(&path, e))?;
    reader.rewind().map_err(|e| Error::io(&path, e))?;
    let comment = if magic.starts_with(b"\x89PNG\r\n\x1a\n") {
        png::read_comment(reader)
    } else if magic.starts_with(b"GIF8") {
        gif::read_comment(reader)
    } else if magic.get(4..8) == Some(b"ftyp") {
        mp4::read_comment(reader)
    } else {
        return Err(Error::media(&path, "is neither MP4, GIF nor PNG"));
    };
    let comment = comment.map_err(|reason| Error::media(&path, reason))?;
    Ok(comment.and_then(|json| Recipe::from_json(&json).ok()))
}
