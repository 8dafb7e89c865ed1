//! What a model makes when a request leaves it open.

use crate::error::Result;
use crate::weights::Config;

/// What a model makes when a request leaves it open.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Columns of pixels.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Frames of video.
    pub frames: usize,
    /// Frames a second.
    pub fps: f64,
    /// Denoising steps.
    pub steps: usize,
    /// Strength of guidance.
    pub guidance: f64,
    /// The same for a low-noise expert, when it differs.
    pub guidance_low: Option<f64>,
    /// Shift of the noise levels for videos of 832x480 pixels or fewer, where it differs from the sampler's.
    pub shift_480p: Option<f64>,
    /// What the video does not show.
    pub negative: String,
}

impl Default for Defaults {
    /// `WanPipeline`'s of diffusers: 81 frames of 832x480 at 16 a second in 50 steps.
    fn default() -> Self {
        Self {
            width: 832,
            height: 480,
            frames: 81,
            fps: 16.0,
            steps: 50,
            guidance: 5.0,
            guidance_low: None,
            shift_480p: None,
            negative: String::new(),
        }
    }
}

impl Defaults {
    /// These, with what a `defaults.json` says instead.
    pub(super) fn read(self, config: &Config) -> Result<Self> {
        Ok(Self {
            width: config.get_or("width", self.width)?,
            height: config.get_or("height", self.height)?,
            frames: config.get_or("frames", self.frames)?,
            fps: config.get_or("fps", self.fps)?,
            steps: config.get_or("steps", self.steps)?,
            guidance: config.get_or("guidance", self.guidance)?,
            guidance_low: config.get_optional("guidance_low")?.or(self.guidance_low),
            shift_480p: self.shift_480p,
            negative: config.get_or("negative", self.negative)?,
        })
    }
}
