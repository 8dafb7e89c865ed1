//! A run's state in a file, and going on from there to the same bits.
//!
//! What is kept is what cannot be computed again: the sampler's buffers after a step. Text states and latents of known
//! frames come out the same again on the same device, and the recipe, with the hash of everything that was given, says
//! whether it is the same run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Settings, Tiling};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Tensor};
use crate::media::Recipe;
use crate::sampling::Slot;
use crate::tensor::HostTensor;
use crate::weights::{TensorFile, Value as Entry, save_checkpoint};

/// Where a run saves its state.
///
/// It does so after every step. The file is whole at every moment, whatever happens to the process: a new one takes the
/// place of the old when it is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The file.
    pub path: PathBuf,
    /// What the caller wants to know when the run goes on, such as where the model is.
    pub note: String,
}

/// A run that was saved.
#[derive(Clone, Debug)]
pub struct Saved {
    path: PathBuf,
    recipe: Recipe,
    device: String,
    done: usize,
    steps: usize,
    note: String,
    buffers: HashMap<String, HostTensor>,
}

/// What the file says of itself.
const FORMAT: &str = "mutoscope checkpoint 2";

fn name(slot: Slot) -> String {
    match slot {
        Slot::Sample => "sample".into(),
        Slot::Velocity => "velocity".into(),
        Slot::Last => "last".into(),
        Slot::Model(i) => format!("model.{i}"),
    }
}

/// What tells damage to a file: of what a run takes over as it is. The recipe and the device are compared with the run's
/// own, so that damage to them is told as well.
fn digest(step: &str, steps: &str, tensors: &[(&str, HostTensor)]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{step} of {steps}\n"));
    for (name, tensor) in tensors {
        hash.update(format!("{name} {tensor:?}\n"));
        hash.update(tensor.bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a device is known again: its name and its driver's version, since another driver may round in another way.
fn device(gpu: &Gpu) -> String {
    format!("{} ({})", gpu.profile().name, gpu.driver())
}

impl Saved {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Model`] or [`Error::Tensor`] when it is none, or broken.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = TensorFile::open(path)?;
        let broken = |reason: &str| Error::model(path, reason);
        let entry = |key: &str| {
            let text = file.metadata().get(key).and_then(Entry::text);
            text.ok_or_else(|| broken("this is no checkpoint of a run"))
        };
        match entry("format")? {
            FORMAT => {}
            other if other.starts_with("mutoscope checkpoint") => {
                return Err(broken("this checkpoint is of another version of mutoscope"));
            }
            _ => return Err(broken("this is no checkpoint of a run")),
        }
        let number = |key: &str| entry(key)?.parse::<usize>().map_err(|_| broken("its step is not a number"));
        let (done, steps) = (number("step")?, number("steps")?);
        if done == 0 || done > steps {
            return Err(broken("its step is not one of the run"));
        }
        let recipe = Recipe::from_json(entry("recipe")?).map_err(|error| broken(&format!("its {error}")))?;
        let mut buffers = HashMap::new();
        for name in file.names() {
            // In memory, so that the file is not mapped while the next one takes its place.
            buffers.insert(name.to_owned(), file.tensor(name)?.load()?);
        }
        let mut tensors: Vec<(&str, HostTensor)> =
            buffers.iter().map(|(name, tensor): (&String, &HostTensor)| (name.as_str(), tensor.clone())).collect();
        tensors.sort_by_key(|(name, _)| *name);
        if entry("sha256")? != digest(entry("step")?, entry("steps")?, &tensors) {
            return Err(broken("it is damaged: its content is not what was saved"));
        }
        let (device, note) = (entry("device")?.to_owned(), entry("note")?.to_owned());
        Ok(Self { path: path.to_path_buf(), recipe, device, done, steps, note, buffers })
    }

    /// The run's recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Steps that are done, at least one.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Steps that the run has.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// [`Checkpoint::note`].
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Whether only decoding is left.
    pub(super) fn is_complete(&self) -> bool {
        self.done == self.steps
    }

    /// The tiles that the run began with, which the device may choose otherwise today.
    pub(super) fn tiling(&self) -> Result<Tiling> {
        self.recipe.vae_tile.as_ref().map_or(Ok(Tiling::Off), |tile| Ok(Tiling::On(tile.parse()?)))
    }

    /// Refuses to go on as another run, or where the bits would be others.
    pub(super) fn check(&self, gpu: &Gpu, recipe: &Recipe) -> Result<()> {
        let refuse = |reason: String| Err(Error::request("resume", format!("{}: {reason}", self.path.display())));
        let json = |recipe: &Recipe| serde_json::to_value(recipe).map_err(|e| Error::Internal(e.to_string()));
        // Through the same text as the one in the file, whose numbers may be read a last bit off.
        let (was, now) = (json(&self.recipe)?, json(&Recipe::from_json(&recipe.to_json()?)?)?);
        let value = |recipe: &Value, key: &str| match &recipe[key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let changed = |key: &str| was[key] != now[key];
        if changed("version") {
            let (was, now) = (value(&was, "version"), value(&now, "version"));
            return refuse(format!("it was begun by mutoscope {was} and this is {now}, whose bits may differ"));
        }
        if changed("model_hash") {
            return refuse(format!(
                "it was begun with the model `{}`, and this one has other content ({}, not {})",
                self.recipe.model,
                value(&now, "model_hash"),
                value(&was, "model_hash")
            ));
        }
        if self.device != device(gpu) {
            return refuse(format!(
                "it was begun on {}, and this is {}, whose bits may differ",
                self.device,
                device(gpu)
            ));
        }
        // Where the model lies is not what it is.
        let keys = was.as_object().into_iter().chain(now.as_object()).flat_map(|map| map.keys());
        if let Some(key) = keys.filter(|key| *key != "model").find(|key| changed(key)) {
            let short = |recipe: &Value| value(recipe, key).chars().take(200).collect::<String>();
            return refuse(format!("its {key} was {}, and now it is {}", short(&was), short(&now)));
        }
        Ok(())
    }

    /// A buffer of the sampler.
    pub(super) fn buffer(&self, slot: Slot, settings: &Settings) -> Result<&HostTensor> {
        let refuse = |reason: String| Error::tensor(&self.path, name(slot), reason);
        let buffer = self.buffers.get(&name(slot)).ok_or_else(|| refuse("it is not in the file".into()))?;
        let whole = buffer.shape().dims() == settings.latents && buffer.dtype() == crate::tensor::DType::F32;
        if whole { Ok(buffer) } else { Err(refuse(format!("{buffer:?} is not f32{:?}", settings.latents))) }
    }
}

/// Saves a run while it goes on.
pub(super) struct Saver<'a> {
    checkpoint: &'a Checkpoint,
    recipe: &'a dyn Fn() -> Result<String>,
    /// What it said, once it was asked.
    said: Option<String>,
    steps: usize,
    /// The step that was saved last.
    saved: Option<usize>,
}

impl<'a> Saver<'a> {
    /// For a run of so many steps, of which the file has `saved`; `recipe` is asked for its recipe as JSON, which may take
    /// as long as reading the model.
    pub fn new(
        checkpoint: &'a Checkpoint,
        recipe: &'a dyn Fn() -> Result<String>,
        steps: usize,
        saved: Option<usize>,
    ) -> Self {
        Self { checkpoint, recipe, said: None, steps, saved }
    }

    /// Whether the file lacks steps that are done.
    pub fn is_behind(&self, done: usize) -> bool {
        done > self.saved.unwrap_or(0)
    }

    /// Saves the sampler's buffers after so many steps.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written; an older one is then as it was.
    pub fn save(&mut self, gpu: &Gpu, slots: &HashMap<Slot, Tensor>, done: usize) -> Result<()> {
        if self.said.is_none() {
            self.said = Some((self.recipe)()?);
        }
        self.write(gpu, slots, done, self.said.as_deref().unwrap_or_default())?;
        self.saved = Some(done);
        Ok(())
    }

    fn write(&self, gpu: &Gpu, slots: &HashMap<Slot, Tensor>, done: usize, recipe: &str) -> Result<()> {
        let mut tensors = Vec::new();
        // The velocity is computed anew in every step.
        for (&slot, tensor) in slots.iter().filter(|(slot, _)| **slot != Slot::Velocity) {
            tensors.push((name(slot), gpu.read(tensor)?));
        }
        tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
        let tensors: Vec<(&str, HostTensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
        let (device, step, steps) = (device(gpu), done.to_string(), self.steps.to_string());
        let metadata = [
            ("format", FORMAT),
            ("recipe", recipe),
            ("device", &device),
            ("step", &step),
            ("steps", &steps),
            ("sha256", &digest(&step, &steps, &tensors)),
            ("note", &self.checkpoint.note),
        ];
        save_checkpoint(&self.checkpoint.path, &tensors, &metadata)
    }
}
