//! `--vae-tiling` and `--vae-tile`: the VAE on tiles of the pictures.

use clap::{Args, ValueEnum};
use mutoscope::Error;
use mutoscope::pipeline::{Tile, Tiling};

/// The VAE on tiles.
#[derive(Args)]
pub struct TilingArguments {
    /// Whether the VAE works on tiles of the pictures, which takes less memory: auto, on or off
    ///
    /// auto is on tiles when whole pictures do not fit, the largest that do. Tiles overlap and are blended as diffusers'
    /// enable_tiling does it; the result differs a little from that of whole pictures, and frames come only at the end.
    #[arg(long, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    vae_tiling: When,

    /// Side of these tiles in pixels, and how far it is from one to the next [default: 256:192 with --vae-tiling on]
    ///
    /// Multiples of what one latent covers, 8 for Wan 2.1 and 16 for Wan 2.2 TI2V-5B. Without STRIDE it is three quarters of
    /// SIZE. Pictures that are no larger are not cut.
    #[arg(long, value_name = "SIZE[:STRIDE]", value_parser = tile)]
    vae_tile: Option<Tile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    On,
    Off,
}

fn tile(text: &str) -> Result<Tile, String> {
    text.parse().map_err(|error| match error {
        Error::Request { reason, .. } => reason,
        other => other.to_string(),
    })
}

impl TilingArguments {
    /// What they come to: a tile turns tiling on.
    pub fn get(&self) -> Tiling {
        match (self.vae_tiling, self.vae_tile) {
            (When::Off, _) => Tiling::Off,
            (When::Auto, None) => Tiling::Auto,
            (When::On, None) => Tiling::On(Tile::default()),
            (When::On | When::Auto, Some(tile)) => Tiling::On(tile),
        }
    }
}

/// What is said of tiles that the device asked for.
pub fn told(tile: Tile) -> String {
    let Tile { size, stride } = tile;
    format!(
        "whole pictures do not fit this device: the VAE works on tiles of {size} pixels, {stride} from one to the next"
    )
}
