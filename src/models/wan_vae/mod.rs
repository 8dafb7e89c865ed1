//! Wan's video VAE: `AutoencoderKLWan` of diffusers' `models/autoencoders/autoencoder_kl_wan.py` (Wan, arXiv:2503.20314,
//! section 4.1). Video is channels-last here: \[T, H, W, C\].

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
}

impl WanVaeConfig {
    /// Reads `config.json` of a diffusers folder.
    ///
    /// # Errors
    /// When a key is missing, absurd, or asks for what is not supported.
    pub fn read(config: &Config) -> Result<Self> {
        if config.get_or("is_residual", false)? || config.get_optional::<usize>("patch_size")?.is_some() {
            return Err(config.error("is_residual", "this is the VAE of Wan 2.2 TI2V-5B, which is not supported yet"));
        }
        let (mean, std): (Vec<f32>, Vec<f32>) = (config.get("latents_mean")?, config.get("latents_std")?);
        if mean.len() != std.len() {
            return Err(config.error("latents_std", format!("{} values for {} means", std.len(), mean.len())));
        }
        if !mean.iter().chain(&std).all(|v| v.is_finite()) {
            return Err(config.error("latents_mean", "means and deviations must be finite numbers"));
        }
        Ok(Self { mean, std })
    }
}
