//! Wan's video VAE: `AutoencoderKLWan` of diffusers' `models/autoencoders/autoencoder_kl_wan.py` (Wan, arXiv:2503.20314,
//! section 4.1), that of Wan 2.1 and the residual one of Wan 2.2 TI2V-5B, which has ways around its resampling blocks
//! and sees patches of pixels as channels. Video is channels-last here: \[T, H, W, C\].

mod blocks;
mod decoder;
mod encoder;

pub use decoder::WanVaeDecoder;
pub use encoder::WanVaeEncoder;

use crate::error::Result;
use crate::weights::Config;

/// What the VAE's constructor needs beyond the shapes of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct WanVaeConfig {
    /// Mean of each latent channel.
    pub mean: Vec<f32>,
    /// Standard deviation of each latent channel.
    pub std: Vec<f32>,
    /// Whether blocks that resample have a way around them without weights.
    pub residual: bool,
    /// Rows, and columns, of pixels whose values are channels of one.
    pub patch: usize,
}

impl WanVaeConfig {
    /// Reads `config.json` of a diffusers folder.
    ///
    /// # Errors
    /// When a key is missing, absurd, or asks for what is not supported.
    pub fn read(config: &Config) -> Result<Self> {
        let patch = config.get_optional::<usize>("patch_size")?.unwrap_or(1);
        if !(1..=16).contains(&patch) {
            return Err(config.error("patch_size", format!("{patch} is not the side of a patch")));
        }
        let (mean, std): (Vec<f32>, Vec<f32>) = (config.get("latents_mean")?, config.get("latents_std")?);
        if mean.len() != std.len() {
            return Err(config.error("latents_std", format!("{} values for {} means", std.len(), mean.len())));
        }
        if !mean.iter().chain(&std).all(|v| v.is_finite()) {
            return Err(config.error("latents_mean", "means and deviations must be finite numbers"));
        }
        Ok(Self { mean, std, residual: config.get_or("is_residual", false)?, patch })
    }
}
