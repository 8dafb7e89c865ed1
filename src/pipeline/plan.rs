//! What a run will take, without running it.
//!
//! A plan is a rehearsal: the run itself, on a device that only counts ([`Gpu::rehearsal`]). So whatever the run does about
//! memory, weights that pass through the device or a picture in tiles, the plan knows. No weight is read and no GPU works.

use super::{Engine, Model, Phase, Request, Settings};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Ledger};
use crate::graph::DeviceProfile;
use crate::tensor::DType;

/// What a request comes to on a device.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The request with every default filled in.
    pub settings: Settings,
    /// The precision of matrix products.
    pub precision: DType,
    /// What each phase will hold on the device and do there, in the order of the run.
    pub phases: Vec<(Phase, Ledger)>,
}

impl Plan {
    /// Plans a request for a device of this profile, whose `memory` is the budget.
    ///
    /// # Errors
    /// Those of the run: [`Error::OutOfMemory`] when nothing makes it fit, [`Error::Request`] for settings that cannot be.
    pub fn new(model: &Model, request: &Request, profile: &DeviceProfile) -> Result<Self> {
        let engine = Engine::on(Gpu::rehearsal(profile.clone()));
        let video = engine.generate(model, request, &mut |_| Ok(()))?;
        Ok(Self { settings: video.settings, precision: video.precision, phases: video.usage })
    }

    /// The most bytes that the device holds at once.
    pub fn peak(&self) -> u64 {
        self.phases.iter().map(|(_, ledger)| ledger.peak).max().unwrap_or(0)
    }

    /// Bytes that the run will hold on the host besides the mapped files: what waits to be moved to the device, latents and
    /// one latent frame's pictures, or all with a VAE on tiles. Known frames that the request holds already are not counted.
    pub fn host_bytes(&self) -> u64 {
        let Settings { width, height, latents, .. } = &self.settings;
        let latents: u64 = latents.iter().map(|&side| side as u64).product();
        let pictures = 4 * (*width * *height) as u64 * (4 + 3 + 3);
        let moved = self.phases.iter().map(|(_, ledger)| ledger.staged).max().unwrap_or(0);
        // Noise, latents as they come back, their elements.
        3 * 4 * latents + pictures + moved + self.settings.tile_bytes()
    }

    /// How often a phase's work is repeated: denoising steps for that phase, else 1.
    pub fn repeats(&self, phase: Phase) -> usize {
        if phase == Phase::Denoise { self.settings.steps_to_run() } else { 1 }
    }

    /// The least budget, to a thirty-second of itself, with which a request can be run on a device of this profile; `None`
    /// when something other than memory is in the way.
    pub fn least_memory(model: &Model, request: &Request, profile: &DeviceProfile) -> Option<u64> {
        let fits = |bytes: u64| {
            let profile = DeviceProfile { memory: Some(bytes), ..profile.clone() };
            match Self::new(model, request, &profile) {
                Ok(plan) => Some(Ok(plan.peak())),
                Err(Error::OutOfMemory(_)) => Some(Err(())),
                Err(_) => None,
            }
        };
        let mut below = 0;
        // All at once needs little more than what is held then: room to read a result back.
        let mut above = fits(u64::MAX / 2)?.ok()?.saturating_mul(2);
        while above - below > above / 32 {
            let middle = below + (above - below) / 2;
            match fits(middle)? {
                Ok(_) => above = middle,
                Err(()) => below = middle,
            }
        }
        Some(above)
    }

    /// The longest video, in frames, that fits with everything else as in the request; `None` when not even a picture does.
    pub fn longest(model: &Model, request: &Request, profile: &DeviceProfile) -> Option<usize> {
        let unit = model.frames_per_latent();
        let fits = |latents: usize| {
            let shorter = Request { frames: Some(1 + (latents - 1) * unit), seconds: None, ..request.clone() };
            Self::new(model, &shorter, profile).is_ok()
        };
        let wanted = request.length(model).ok()?.saturating_sub(1) / unit + 1;
        let (mut most, mut too_many) = (0, wanted + 1);
        while too_many - most > 1 {
            let middle = most + (too_many - most) / 2;
            if fits(middle) {
                most = middle;
            } else {
                too_many = middle;
            }
        }
        (most > 0).then(|| 1 + (most - 1) * unit)
    }
}
