//! The VAE on a device: a video that goes through it in chunks.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, Program, Tensor};
use crate::graph::{Graph, Recording, TensorType};
use crate::nn::Stream;

/// A program for the first chunk of a video and one for all others, with what its layers remember between chunks.
pub(super) struct Chunks {
    first: Program,
    next: Option<Program>,
    memory: Vec<(String, Tensor)>,
}

/// What may become of the VAE's weights where memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// They stay on the device.
    Stay,
    /// They may pass through it, once for each chunk.
    Pass,
}

/// The graph of one chunk, and the frames that its layers remember.
pub(super) type Chunk = (Recording, Vec<(String, TensorType)>);

/// Records a chunk: `build` adds inputs and outputs to the graph.
pub(super) fn record(build: impl for<'g> FnOnce(&'g Graph, &Stream<'g>)) -> Result<Chunk> {
    let graph = Graph::new();
    let stream = Stream::new(&graph);
    build(&graph, &stream);
    let states = stream.into_states();
    Ok((graph.finish()?, states))
}

impl Chunks {
    /// Compiles what `record` gives for the first chunk (`true`) and, if there are `more`, for the others.
    pub fn new(gpu: &Gpu, more: bool, record: impl Fn(bool) -> Result<Chunk>) -> Result<Self> {
        let mut memory: Vec<(String, Tensor)> = Vec::new();
        let mut recordings = Vec::new();
        // The larger one first: the other then works in its memory.
        for first in if more { &[false, true][..] } else { &[true] } {
            let (recording, states) = record(*first)?;
            recordings.push(recording);
            for (name, ty) in states {
                if !memory.iter().any(|(other, _)| *other == name) {
                    let tensor = gpu.allocate(&name, ty)?;
                    gpu.clear(&tensor)?;
                    memory.push((name, tensor));
                }
            }
        }
        let states: Vec<(&str, &Tensor)> = memory.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut programs = gpu.compile_in_turns(&recordings, &states)?;
        let first = programs.pop().ok_or_else(|| Error::Internal("a chunk without a program".into()))?;
        let next = programs.pop();
        Ok(Self { first, next, memory })
    }

    /// Whether a device with nothing else on it has the memory for them, by a rehearsal: nothing is allocated.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn check_memory(gpu: &Gpu, more: bool, weights: Weights, record: impl Fn(bool) -> Result<Chunk>) -> Result<()> {
        let chunks = Self::new(&Gpu::rehearsal(gpu.profile().clone()), more, record)?;
        let mut programs = std::iter::once(&chunks.first).chain(&chunks.next);
        if weights == Weights::Stay && programs.any(|program| program.streamed_bytes() > 0) {
            return Err(Error::OutOfMemory("the VAE's weights would be read anew for every latent frame".into()));
        }
        Ok(())
    }

    /// Makes them ready for another video's first chunk.
    pub fn forget(&self, gpu: &Gpu) -> Result<()> {
        self.memory.iter().try_for_each(|(_, tensor)| gpu.clear(tensor))
    }

    /// The program for a chunk; they are to be run in the order of the video.
    pub fn program(&self, first: bool) -> &Program {
        match &self.next {
            Some(next) if !first => next,
            _ => &self.first,
        }
    }
}
