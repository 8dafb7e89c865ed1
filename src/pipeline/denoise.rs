//! Noise to latents: the transformer and the sampler, step by step.

use std::collections::HashMap;

use super::checkpoint::{Saved, Saver};
use super::encode::Text;
use super::{Condition, Event, Model, Phase, Settings};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Program, Tensor};
use crate::graph::{Graph, TensorType, Var};
use crate::models::wan_transformer::{Conditions, Control, WanTransformer};
use crate::nn::{Context, KeyValue};
use crate::sampling::{Combine, Slot};
use crate::tensor::{DType, HostTensor};

/// Refuses sizes for which no buffer of the device could hold one text's tokens, before anything is made that large.
pub fn check_memory(gpu: &Gpu, model: &Model, settings: &Settings) -> Result<()> {
    let [_, _, frames, rows, columns] = settings.latents;
    let [pt, ph, pw] = model.transformer.patch();
    let tokens = (frames / pt) * (rows / ph) * (columns / pw);
    let bytes = tokens as u64 * model.transformer.dim() as u64 * 4;
    let most = gpu.profile().max_buffer.min(gpu.profile().memory.unwrap_or(u64::MAX));
    if bytes > most {
        return Err(Error::OutOfMemory(format!(
            "{}x{} with {} frames is {tokens} tokens, whose features take {} MiB; this device can hold {} MiB in one \
             buffer. Try a smaller --size or fewer --frames",
            settings.width,
            settings.height,
            settings.frames,
            bytes >> 20,
            most >> 20
        )));
    }
    Ok(())
}

/// What a run begins with.
pub struct Given<'a> {
    /// The prompts.
    pub text: &'a Text,
    /// What the model is told of frames that are known, or of a control video.
    pub condition: Option<&'a Condition>,
    /// Where it begins.
    pub begin: Begin<'a>,
}

/// Where a run begins.
pub enum Begin<'a> {
    /// At its first step, with this sample \[1, C, F, h, w\] f32.
    Start(&'a HostTensor),
    /// After the steps that were saved.
    Saved(&'a Saved),
}

/// Denoises the noise and returns the latents \[1, C, F, h, w\].
///
/// What the transformer sees besides the sampler's latents, and what the result has in their place, is the
/// [`Condition`]'s matter.
pub fn denoise(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    given: &Given<'_>,
    compute: DType,
    saver: Option<Saver<'_>>,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<HostTensor> {
    let solver = settings.solver()?;
    let guidance = settings.guidance()?;
    let latents = TensorType::f32(settings.latents);
    let mut slots = HashMap::new();
    for &slot in solver.slots() {
        slots.insert(slot, gpu.allocate("latents", latents)?);
    }
    let slot = |slot: Slot| {
        slots.get(&slot).ok_or_else(|| Error::Internal(format!("the sampler's buffer {slot:?} is not there")))
    };
    let first = match given.begin {
        Begin::Start(sample) => gpu.write(slot(Slot::Sample)?, sample).map(|()| 0)?,
        Begin::Saved(saved) => {
            for (slot, tensor) in slots.iter().filter(|(slot, _)| **slot != Slot::Velocity) {
                gpu.write(tensor, saved.buffer(*slot, settings)?)?;
            }
            saved.done()
        }
    };

    let mut steps = Steps { gpu, slots: &slots, all: solver.steps().len(), done: first, whole: true, saver };
    let mut combiner = Combiner { gpu, programs: HashMap::new() };
    let mut expert: Option<(bool, Program)> = None;
    let mut run = |steps: &mut Steps<'_>| {
        let (i, all) = (steps.done, steps.all);
        let (step, time) = (&solver.steps()[i], solver.schedule().timesteps[i]);
        let (low, transformer) = choose(model, f64::from(time), settings);
        if expert.as_ref().is_none_or(|(other, _)| *other != low) {
            // The expert that is done with leaves before the next one comes.
            drop(expert.take());
            let program =
                compile(gpu, transformer, given, compute, slot(Slot::Sample)?, slot(Slot::Velocity)?, observer)?;
            expert = Some((low, program));
        }
        let Some((_, program)) = &expert else { return Ok(()) };
        let times = given.condition.map_or(vec![time], |condition| condition.times(time));
        program.write("time", &HostTensor::from_f32([times.len()], &times))?;
        let (unconditional, conditional) = guidance.weights(low);
        let weights: &[f32] = if guidance.is_on() { &[conditional, unconditional] } else { &[conditional] };
        program.write("guidance", &HostTensor::from_f32([weights.len()], weights))?;
        program.run(&mut |done| {
            let fraction = (i as f64 + done) / all as f64;
            observer(Event::Progress { phase: Phase::Denoise, step: i, steps: all, fraction })
        })?;
        steps.whole = false;
        for combine in &step.combines {
            combiner.run(combine, &slots)?;
        }
        (steps.whole, steps.done) = (true, i + 1);
        steps.save(false, observer)?;
        let fraction = (i + 1) as f64 / all as f64;
        observer(Event::Progress { phase: Phase::Denoise, step: i + 1, steps: all, fraction })
    };
    while steps.done < steps.all {
        if let Err(error) = run(&mut steps) {
            steps.save(true, observer)?;
            return Err(error);
        }
    }
    finish(model, given.condition, gpu.read(slot(Slot::Sample)?)?, compute)
}

/// How far the steps are.
struct Steps<'a> {
    gpu: &'a Gpu,
    slots: &'a HashMap<Slot, Tensor>,
    all: usize,
    done: usize,
    /// Whether the buffers are those after the steps that are done: no step is being written into them.
    whole: bool,
    saver: Option<Saver<'a>>,
}

impl Steps<'_> {
    /// Saves the state after a step, or, where that failed, at the end of a run that does not go on. That it could not is
    /// told, and is not the run's end.
    fn save(&mut self, at_end: bool, observer: &mut dyn FnMut(Event<'_>) -> Result<()>) -> Result<()> {
        let Self { gpu, slots, done, whole, saver, .. } = self;
        let Some(saver) = saver else { return Ok(()) };
        if !*whole || !saver.is_behind(*done) {
            return Ok(());
        }
        let result = saver.save(gpu, slots, *done);
        // Of a run that ends, what ended it is told, and no other error.
        if at_end && result.is_err() {
            return Ok(());
        }
        let told = observer(Event::Checkpoint { step: *done, error: result.as_ref().err() });
        if at_end { Ok(()) } else { told }
    }
}

/// The result of the sample that the last step left: latents \[1, C, F, h, w\].
pub fn finish(model: &Model, condition: Option<&Condition>, sample: HostTensor, compute: DType) -> Result<HostTensor> {
    let result = match condition {
        Some(condition) => condition.result(sample),
        None => sample,
    };
    if !result.to_f32().iter().all(|v| v.is_finite()) {
        let hint =
            if compute == DType::F16 { "try --precision f32" } else { "try other settings, or check the weights" };
        return Err(Error::model(model.name(), format!("the latents came out as NaN or infinity; {hint}")));
    }
    Ok(result)
}

/// The transformer for a timestep, and whether it is the low-noise one.
fn choose<'m>(model: &'m Model, time: f64, settings: &Settings) -> (bool, &'m WanTransformer) {
    match &model.transformer_low {
        Some(low) if time < low.boundary * f64::from(settings.sampler.num_train_timesteps) => (true, &low.transformer),
        _ => (false, &model.transformer),
    }
}

/// A program that reads the sample and the inputs `time` \[1\], or \[F\] with known frames, and `guidance` \[B\], and
/// leaves the guided velocity.
///
/// What does not change between steps, the keys and values of the text and of pictures and what becomes of a control video, is
/// computed here once.
fn compile(
    gpu: &Gpu,
    transformer: &WanTransformer,
    given: &Given<'_>,
    compute: DType,
    sample: &Tensor,
    velocity: &Tensor,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Program> {
    let Given { text, condition, .. } = given;
    let graph = Graph::new();
    let pictures = condition.and_then(Condition::pictures).map(|states| graph.constant(states.clone()));
    let context = transformer.contexts(graph.constant(text.states.clone()), pictures, compute);
    let sees_pictures = context.iter().any(|block| block.pictures.is_some());
    let pairs = context.iter().flat_map(|block| [Some(block.text), block.pictures]).flatten();
    let control = condition.and_then(Condition::control);
    let control_tokens = control.and_then(|(latents, _)| transformer.control_tokens(graph.constant(latents.clone())));
    let parts: Vec<Var<'_>> = pairs.flat_map(|pair| [pair.keys, pair.values]).chain(control_tokens).collect();
    let names: Vec<String> = (0..parts.len()).map(|i| format!("context.{i}")).collect();
    for (name, part) in names.iter().zip(&parts) {
        graph.output(name, *part);
    }
    let prepared = gpu.compile(&graph.finish()?, &[])?;
    prepared.run(&mut |fraction| {
        // The text's last stretch: it belongs to no step.
        observer(Event::Progress { phase: Phase::Text, step: 1, steps: 1, fraction })
    })?;

    let graph = Graph::new();
    let bound = names.iter().map(|name| prepared.output(name).cloned()).collect::<Result<Vec<_>>>()?;
    drop(prepared);
    let input = |name: &str, tensor: &Tensor| graph.input(name, tensor.ty().shape, tensor.ty().dtype);
    let mut parts: Vec<Var<'_>> = names.iter().zip(&bound).map(|(name, tensor)| input(name, tensor)).collect();
    let control = control.and_then(|(_, scales)| Some(Control { tokens: parts.pop()?, scales: scales.to_vec() }));
    let mut parts = parts.into_iter();
    let mut pair = || Some(KeyValue { keys: parts.next()?, values: parts.next()? });
    let mut block = || Some(Context { text: pair()?, pictures: if sees_pictures { Some(pair()?) } else { None } });
    let blocks = std::iter::from_fn(&mut block).collect();
    let conditions = Conditions { blocks, key_bias: graph.constant(text.key_bias.clone()), control };
    let latents = input("sample", sample);
    let seen = condition.map_or(latents, |condition| condition.input(latents));
    let times = condition.map_or(1, |condition| condition.times(0.0).len());
    let answers = transformer.forward(seen, graph.input("time", [times], DType::F32), &conditions, compute);
    let guided = Var::linear_combination(&answers, graph.input("guidance", [answers.len()], DType::F32));
    graph.assign(input("velocity", velocity), guided);
    let mut tensors: Vec<(&str, &Tensor)> = names.iter().map(String::as_str).zip(&bound).collect();
    tensors.extend([("sample", sample), ("velocity", velocity)]);
    // Weights may fill what is left, but for what the sampler needs later: a result, and room to read it back.
    gpu.reserving(2 * sample.ty().bytes() + SAMPLER).compile(&graph.finish()?, &tensors)
}

/// Bytes for the parameters and weights of the sampler's programs.
const SAMPLER: u64 = 64 << 10;

/// Runs the sampler's combinations, with one program for each set of buffers.
struct Combiner<'a> {
    gpu: &'a Gpu,
    programs: HashMap<(Slot, Vec<Slot>), Program>,
}

impl Combiner<'_> {
    fn run(&mut self, combine: &Combine, slots: &HashMap<Slot, Tensor>) -> Result<()> {
        let sources: Vec<Slot> = combine.terms.iter().map(|term| term.slot).collect();
        let key = (combine.target, sources.clone());
        if !self.programs.contains_key(&key) {
            self.programs.insert(key.clone(), self.compile(combine.target, &sources, slots)?);
        }
        let Some(program) = self.programs.get(&key) else { return Ok(()) };
        let weights: Vec<f32> = combine.terms.iter().map(|term| term.weight).collect();
        program.write("weights", &HostTensor::from_f32([weights.len()], &weights))?;
        program.run(&mut |_| Ok(()))
    }

    fn compile(&self, target: Slot, sources: &[Slot], slots: &HashMap<Slot, Tensor>) -> Result<Program> {
        let graph = Graph::new();
        let mut bound: Vec<(String, &Tensor)> = Vec::new();
        let mut input = |slot: Slot| {
            let name = format!("{slot:?}");
            let tensor = slots.get(&slot).ok_or_else(|| Error::Internal(format!("no buffer {name}")))?;
            let var = graph.input(&name, tensor.ty().shape, tensor.ty().dtype);
            bound.push((name, tensor));
            Ok::<_, Error>(var)
        };
        let terms = sources.iter().map(|&slot| input(slot)).collect::<Result<Vec<_>>>()?;
        let target = match sources.iter().position(|&slot| slot == target) {
            Some(at) => terms[at],
            None => input(target)?,
        };
        let weights = graph.input("weights", [sources.len()], DType::F32);
        graph.assign(target, Var::linear_combination(&terms, weights));
        let tensors: Vec<(&str, &Tensor)> = bound.iter().map(|(name, tensor)| (name.as_str(), *tensor)).collect();
        let recording = graph.finish()?;
        // They take turns.
        match self.programs.values().next() {
            Some(other) => self.gpu.compile_beside(other, &recording, &tensors),
            None => self.gpu.compile(&recording, &tensors),
        }
    }
}
