//! The engine: a device, and the run of a request on it.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuOptions, Ledger};
use crate::graph::DeviceProfile;
use crate::media::{Frame, Recipe};
use crate::pipeline::checkpoint::Saver;
use crate::pipeline::{
    Known, Model, Request, Saved, Settings, Tiling, condition, decode, denoise, encode, pictures, tiles, video,
};
use crate::sampling::Slot;
use crate::tensor::{DType, HostTensor};

/// How to open an [`Engine`].
pub type EngineOptions = GpuOptions;

/// A device that makes videos. Cloning is cheap and shares it.
#[derive(Clone, Debug)]
pub struct Engine {
    gpu: Gpu,
}

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The text encoder.
    Text,
    /// The VAE's encoder, latent frame by latent frame; only with known frames or a video.
    Encode,
    /// The transformer, step by step.
    Denoise,
    /// The VAE, latent frame by latent frame.
    Decode,
}

impl Phase {
    /// `text`, `encode`, `denoise` or `decode`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Encode => "encode",
            Self::Denoise => "denoise",
            Self::Decode => "decode",
        }
    }
}

/// What a run tells while it goes on, about five times a second.
#[derive(Debug)]
pub enum Event<'a> {
    /// So much of a phase is done.
    Progress {
        /// The phase.
        phase: Phase,
        /// Steps of it that are done: texts, denoising steps, latent frames (of each tile of the VAE).
        step: usize,
        /// Steps of it in all.
        steps: usize,
        /// Share of the phase that is done, 0 to 1, finer than steps.
        fraction: f64,
    },
    /// The first event: the settings, with what depends on the device settled, such as the VAE's tiles.
    Settled(&'a Settings),
    /// The state of the run was saved, or could not be, which is not its end: it is tried again.
    Checkpoint {
        /// Denoising steps that are done.
        step: usize,
        /// Why it could not.
        error: Option<&'a Error>,
    },
    /// The denoised latents \[1, C, F, h, w\] f32, normalised, before they are decoded; those of references come first.
    Latents(&'a HostTensor),
    /// The next frame.
    Frame {
        /// Its number, from 0.
        index: usize,
        /// The picture.
        frame: &'a Frame,
    },
}

/// What a run leaves behind; the frames went to the observer.
#[derive(Clone, Debug)]
pub struct Video {
    /// Everything that made it.
    pub settings: Settings,
    /// The denoised latents \[1, C, F, h, w\] f32, normalised.
    pub latents: HostTensor,
    /// The precision that was used.
    pub precision: DType,
    /// What each phase held on the device and did there, in the order of the run.
    pub usage: Vec<(Phase, Ledger)>,
}

/// Closes the device's ledger at the end of each phase.
struct Usage<'a> {
    gpu: &'a Gpu,
    phases: Vec<(Phase, Ledger)>,
}

impl<'a> Usage<'a> {
    fn begin(gpu: &'a Gpu) -> Self {
        gpu.open_ledger();
        Self { gpu, phases: Vec::new() }
    }

    fn end(&mut self, phase: Phase) {
        self.phases.push((phase, self.gpu.ledger()));
        self.gpu.open_ledger();
    }
}

impl Engine {
    /// An engine on a device of this machine.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn new(options: &EngineOptions) -> Result<Self> {
        Ok(Self { gpu: Gpu::open(options)? })
    }

    /// An engine on a device that the caller has, opened elsewhere or shared with other work.
    pub fn on(gpu: Gpu) -> Self {
        Self { gpu }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Makes a video. `observer` hears of progress and is given each frame as soon as it is decoded; an error that it
    /// returns, such as [`Error::Cancelled`](crate::Error::Cancelled), ends the run within a fraction of a second.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) for settings that the model or the device cannot take; what the device
    /// reports; what the observer returned.
    pub fn generate(
        &self,
        model: &Model,
        request: &Request,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Video> {
        self.run(model, request, None, observer)
    }

    /// Goes on with a run that was saved, to the same bits: `request` is the one that it began with, but for where to save
    /// it from now on. When all steps are done it is decoded once more.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) that says what differs when the model's content, the device, its driver, the
    /// precision, the version or the request is not what the run began with; as [`Engine::generate`].
    pub fn resume(
        &self,
        model: &Model,
        request: &Request,
        saved: &Saved,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Video> {
        self.run(model, request, Some(saved), observer)
    }

    /// Refuses what the device cannot hold before anything is computed.
    fn rehearse(&self, model: &Model, request: &Request) -> Result<()> {
        if self.gpu.is_rehearsal() {
            return Ok(());
        }
        let profile = self.gpu.profile();
        let memory = profile.memory.map(|memory| memory.saturating_sub(self.gpu.held_bytes()));
        let profile = DeviceProfile { memory, ..profile.clone() };
        Self::on(Gpu::rehearsal(profile)).run(model, request, None, &mut |_| Ok(())).map(drop)
    }

    fn run(
        &self,
        model: &Model,
        request: &Request,
        saved: Option<&Saved>,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Video> {
        let mut settings = Settings::resolve(model, request)?;
        if let Some(saved) = saved {
            settings.tiling = saved.tiling()?;
        }
        let precision = request.precision.resolve(self.gpu.profile())?;
        denoise::check_memory(&self.gpu, model, &settings)?;
        if saved.is_none() {
            self.rehearse(model, request)?;
        }
        settings.tile = tiles::settle(&self.gpu, model, &settings)?;
        if let Some(saved) = saved {
            saved.check(&self.gpu, &settings.recipe(model, precision))?;
        }
        observer(Event::Settled(&settings))?;
        let mut usage = Usage::begin(&self.gpu);
        if let Some(saved) = saved.filter(|saved| saved.is_complete()) {
            let condition = condition::condition(&self.gpu, model, &settings, observer)?;
            if condition.is_some() {
                usage.end(Phase::Encode);
            }
            let sample = saved.buffer(Slot::Sample, &settings)?.clone();
            let latents = denoise::finish(model, condition.as_ref(), sample, precision)?;
            return self.show(model, settings, latents, precision, usage, observer);
        }
        let text = encode::encode(&self.gpu, model, &settings, observer)?;
        usage.end(Phase::Text);
        let condition = condition::condition(&self.gpu, model, &settings, observer)?;
        let start = match saved {
            Some(_) => None,
            None => Some(video::start(&self.gpu, model, &settings, observer)?),
        };
        if condition.is_some() || !settings.video.is_empty() {
            usage.end(Phase::Encode);
        }
        let begin = match (saved, &start) {
            (Some(saved), _) => denoise::Begin::Saved(saved),
            (None, Some(start)) => denoise::Begin::Start(start),
            (None, None) => return Err(Error::Internal("a run without a beginning".into())),
        };
        let given = denoise::Given { text: &text, condition: condition.as_ref(), begin };
        let recipe = || settings.recipe(model, precision).to_json();
        let steps = settings.steps_to_run();
        let saver = request.checkpoint.as_ref().filter(|_| !self.gpu.is_rehearsal());
        let saver = saver.map(|checkpoint| Saver::new(checkpoint, &recipe, steps, saved.map(Saved::done)));
        let latents = denoise::denoise(&self.gpu, model, &settings, &given, precision, saver, observer)?;
        usage.end(Phase::Denoise);
        self.show(model, settings, latents, precision, usage, observer)
    }

    /// The last of a run: its latents, decoded.
    fn show(
        &self,
        model: &Model,
        settings: Settings,
        latents: HostTensor,
        precision: DType,
        mut usage: Usage<'_>,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<Video> {
        observer(Event::Latents(&latents))?;
        decode::decode(&self.gpu, model, &settings.without_references(&latents), settings.tile, observer)?;
        usage.end(Phase::Decode);
        Ok(Video { settings, latents, precision, usage: usage.phases })
    }

    /// Decodes latents that a run left, \[1, C, F, h, w\] f32, normalised; frames go to the observer.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) when the latents are of another model; as [`Engine::generate`].
    pub fn decode(
        &self,
        model: &Model,
        latents: &HostTensor,
        tiling: Tiling,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<()> {
        let dims = latents.shape();
        let whole = dims.rank() == 5 && dims[0] == 1 && dims[1] == model.vae.channels() && dims.count() > 0;
        if !whole || latents.dtype() != DType::F32 {
            let reason =
                format!("{latents:?} are no latents of `{}`, f32[1, {}, F, h, w]", model.name(), model.vae.channels());
            return Err(Error::request("latents", reason));
        }
        let dims = [0, 1, 2, 3, 4].map(|axis| dims[axis]);
        let fits = |tile, weights| decode::check_memory(&self.gpu, model, dims, tile, weights);
        let tile = tiling.settle(model, dims, &fits)?;
        decode::decode(&self.gpu, model, latents, tile, observer)
    }

    /// The latents of a video, \[1, C, F, h, w\] f32, normalised: what a run with these frames as its video begins from.
    /// They are stretched to the size of the first; frames at the end that make no latent one are left out.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) when there is no frame or its sides are no multiples of what a latent
    /// covers; as [`Engine::generate`].
    pub fn encode(
        &self,
        model: &Model,
        frames: &[Frame],
        tiling: Tiling,
        observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
    ) -> Result<HostTensor> {
        let Some(first) = frames.first() else { return Err(Error::request("frames", "there is none to encode")) };
        let unit = model.pixels_per_latent();
        let sides = [first.height as usize, first.width as usize];
        if !sides.iter().all(|side| side.is_multiple_of(unit)) {
            let reason = format!("sides of {}x{} are no multiples of {unit}", first.width, first.height);
            return Err(Error::request("frames", reason));
        }
        let steps = 1 + (frames.len() - 1) / model.frames_per_latent();
        let dims = [1, model.vae.channels(), steps, sides[0] / unit, sides[1] / unit];
        let fits = |tile, weights| pictures::check_memory(&self.gpu, model, dims, steps, tile, weights);
        let tile = tiling.settle(model, dims, &fits)?;
        let picture = |frame: usize| frames.get(frame);
        let encoded = pictures::encode_tiles(&self.gpu, model, dims, tile, (steps, &picture), observer)?;
        Ok(encoded.only(&vec![true; steps]))
    }

    /// The same as [`Engine::generate`] with all frames in memory.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn generate_frames(&self, model: &Model, request: &Request) -> Result<(Video, Vec<Frame>)> {
        let mut frames = Vec::new();
        let video = self.generate(model, request, &mut |event| {
            if let Event::Frame { frame, .. } = event {
                frames.push(frame.clone());
            }
            Ok(())
        })?;
        Ok((video, frames))
    }
}

impl Settings {
    /// The recipe that goes into the file.
    pub fn recipe(&self, model: &Model, precision: DType) -> Recipe {
        Recipe {
            prompt: self.prompt.clone(),
            negative: self.negative.clone(),
            seed: self.seed,
            width: self.width as u32,
            height: self.height as u32,
            frames: self.frames as u32,
            fps: self.fps,
            steps: self.steps as u32,
            guidance: self.guidance,
            guidance_low: self.guidance_low,
            shift: self.sampler.shift,
            known: self.known.iter().map(Known::recipe).collect(),
            video: self.given_video(),
            mask: self.given_mask(),
            references: self.given_references(),
            control_scales: self.control_scales.clone(),
            vae_tile: self.tile.map(|tile| tile.to_string()),
            sampler: self.sampler.sampler.name().into(),
            model: model.name().into(),
            model_hash: model.hash().into(),
            loras: model.loras().to_vec(),
            precision: precision.name().into(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }
}
