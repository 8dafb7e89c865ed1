//! A graph compiled for a device: buffers, bind groups and dispatches, made once and replayed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::device::Submission;
use super::pipeline::Pipeline;
use super::{Gpu, Tensor};
use crate::error::{Error, Result};
use crate::graph::{Call, Dispatch, Leaf, NodeId, NodeKind, Operand, Place, Recording, TensorType, plan};
use crate::tensor::HostTensor;

/// A compiled graph: run it as often as you like.
pub struct Program {
    gpu: Gpu,
    steps: Vec<Step>,
    inputs: HashMap<Arc<str>, Tensor>,
    outputs: HashMap<Arc<str>, Tensor>,
    activation_bytes: u64,
}

/// Device time that one kernel took in a run, summed over its uses.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// The shader's label.
    pub label: &'static str,
    /// How many dispatches.
    pub dispatches: usize,
    /// Seconds in all.
    pub seconds: f64,
}

struct Step {
    work: Work,
    /// Estimated operations, with memory traffic counted as if it were arithmetic.
    flops: f64,
}

enum Work {
    Dispatch { label: &'static str, pipeline: Arc<Pipeline>, group: wgpu::BindGroup, groups: [u32; 3] },
    Copy { source: Arc<wgpu::Buffer>, from: u64, target: Arc<wgpu::Buffer>, to: u64, bytes: u64 },
}

/// A byte of memory traffic costs about as much as this many operations, on every device seen so far within a few times.
const FLOPS_PER_BYTE: f64 = 10.0;
/// What a dispatch costs however little it does.
const FLOPS_PER_DISPATCH: f64 = 2e5;

impl Gpu {
    /// Compiles a graph. Inputs in `bound` use those tensors; the others get zeroed buffers of their own, written by
    /// [`Program::write`].
    ///
    /// # Errors
    /// [`Error::Kernel`] when a shader does not compile, [`Error::OutOfMemory`] when buffers do not fit,
    /// [`Error::Internal`] when a bound tensor has another type.
    pub fn compile(&self, recording: &Recording, bound: &[(&str, &Tensor)]) -> Result<Program> {
        Compiler::new(self, recording, bound, false)?.compile()
    }

    /// Whether the device can hold what a graph needs at once, by its plan: nothing is allocated.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] that names the largest tensor, or the sum.
    pub fn fits(&self, recording: &Recording) -> Result<()> {
        let profile = self.profile();
        let largest = recording.nodes.iter().max_by_key(|node| node.ty.bytes());
        if let Some(node) = largest.filter(|node| node.ty.bytes() > profile.max_buffer) {
            return Err(Error::OutOfMemory(format!(
                "a tensor {} of {} takes {} MiB, and this device has no buffers over {} MiB; try a smaller size",
                node.ty,
                if node.scope.is_empty() { "the model" } else { &node.scope },
                node.ty.bytes() >> 20,
                profile.max_buffer >> 20
            )));
        }
        let plan = plan(recording);
        let total = plan.activations() + plan.inputs + plan.weights;
        match profile.memory {
            Some(memory) if total > memory => Err(Error::OutOfMemory(format!(
                "this needs {} MiB and {} MiB are free; try a smaller size or fewer frames",
                total >> 20,
                memory >> 20
            ))),
            _ => Ok(()),
        }
    }

    /// Runs a graph once with its outputs poisoned beforehand and fenced by sentinels, to catch kernels that leave
    /// elements out or write past the end. `inputs` are written in the order of the graph's inputs.
    ///
    /// # Errors
    /// As [`Gpu::compile`] and [`Program::run`].
    pub fn run_guarded(&self, recording: &Recording, inputs: &[HostTensor]) -> Result<Vec<Guarded>> {
        let program = Compiler::new(self, recording, &[], true)?.compile()?;
        for ((name, _), value) in recording.inputs().zip(inputs) {
            program.write(name, value)?;
        }
        for tensor in program.outputs.values() {
            let words = vec![POISON; tensor.buffer.size() as usize / 4];
            self.shared.queue.write_buffer(&tensor.buffer, 0, bytemuck::cast_slice(&words));
        }
        program.run(&mut |_| Ok(()))?;
        recording
            .outputs
            .iter()
            .map(|(name, _)| {
                let tensor = program.output(name)?;
                let whole = TensorType::new([tensor.buffer.size() as usize / 4], crate::tensor::DType::U32);
                let all = self.read(&Tensor { buffer: tensor.buffer.clone(), ty: whole })?;
                let bytes = all.bytes();
                let end = GUARD as usize + tensor.ty.bytes() as usize;
                let poison = |bytes: &[u8]| bytes.iter().all(|&b| b == POISON as u8);
                // The other half of the word that holds the last 16-bit element is the kernel's to write.
                let intact = poison(&bytes[..GUARD as usize]) && poison(&bytes[end.next_multiple_of(4)..]);
                let inner = bytes[GUARD as usize..end].to_vec().into();
                let value = HostTensor::from_bytes(tensor.ty.shape, tensor.ty.dtype, inner)
                    .ok_or_else(|| Error::Internal("a guarded output of the wrong size".into()))?;
                Ok(Guarded { value, intact })
            })
            .collect()
    }
}

/// An output of [`Gpu::run_guarded`].
#[derive(Clone, Debug)]
pub struct Guarded {
    /// The elements; NaN in every element that was not written.
    pub value: HostTensor,
    /// Whether nothing was written before or behind them.
    pub intact: bool,
}

/// NaN as f32 and, in each half, as f16.
const POISON: u32 = 0xffff_ffff;
/// Bytes of sentinels before and behind a guarded output; keeps every device's offset alignment.
const GUARD: u64 = 256;

struct Compiler<'a> {
    gpu: &'a Gpu,
    recording: &'a Recording,
    tensors: Vec<Option<Tensor>>,
    scratch: Vec<Arc<wgpu::Buffer>>,
    inputs: HashMap<Arc<str>, Tensor>,
    activation_bytes: u64,
    /// Whether outputs are fenced by sentinels.
    guarded: bool,
}

/// Where an element of a tensor begins, in bytes from the first.
fn offset_bytes(ty: &TensorType, offset: usize) -> Result<u64> {
    let bytes = ty.dtype.bytes_of(offset).map(|bytes| bytes as u64);
    bytes.ok_or_else(|| Error::Internal(format!("element {offset} of {ty} begins no block")))
}

impl<'a> Compiler<'a> {
    fn new(gpu: &'a Gpu, recording: &'a Recording, bound: &[(&str, &Tensor)], guarded: bool) -> Result<Self> {
        gpu.fits(recording)?;
        let plan = plan(recording);
        let mut slots: Vec<Option<Arc<wgpu::Buffer>>> = vec![None; plan.slots.len()];
        let mut tensors: Vec<Option<Tensor>> = Vec::with_capacity(recording.nodes.len());
        let mut inputs = HashMap::new();
        for (id, node) in recording.nodes.iter().enumerate() {
            let tensor = match (&node.kind, plan.places[id]) {
                (NodeKind::Leaf(Leaf::Weight(weight)), _) => Some(gpu.weight(weight)?),
                (NodeKind::Leaf(Leaf::Constant(value)), _) => Some(gpu.upload("constant", value)?),
                (NodeKind::Leaf(Leaf::Input(name)), _) => {
                    let tensor = match bound.iter().find(|(other, _)| *other == &**name) {
                        Some((_, tensor)) if tensor.ty == node.ty => (*tensor).clone(),
                        Some((_, tensor)) => {
                            let reason = format!("input `{name}` is {} and was bound to {}", node.ty, tensor.ty);
                            return Err(Error::Internal(reason));
                        }
                        None => gpu.allocate(name, node.ty)?,
                    };
                    inputs.insert(name.clone(), tensor.clone());
                    Some(tensor)
                }
                (_, Place::Slot(slot)) => {
                    let buffer = match &slots[slot] {
                        Some(buffer) => buffer.clone(),
                        None => {
                            let ty = TensorType::new([plan.slots[slot] as usize / 4], crate::tensor::DType::U32);
                            let label = format!("activations of {} (from {})", name_of(recording, id), node.scope);
                            let buffer = gpu.allocate(&label, ty)?.buffer;
                            slots[slot] = Some(buffer.clone());
                            buffer
                        }
                    };
                    Some(Tensor { buffer, ty: node.ty })
                }
                (_, Place::Output | Place::Outside) => {
                    let fence = if guarded { 2 * GUARD } else { 0 };
                    let bytes = node.ty.bytes().next_multiple_of(16) + fence;
                    let whole = TensorType::new([bytes as usize / 4], crate::tensor::DType::U32);
                    let buffer = gpu.allocate(name_of(recording, id), whole)?.buffer;
                    Some(Tensor { buffer, ty: node.ty })
                }
                (_, Place::With(_)) => None,
            };
            tensors.push(tensor);
        }
        let activation_bytes = plan.activations();
        Ok(Self { gpu, recording, tensors, scratch: Vec::new(), inputs, activation_bytes, guarded })
    }

    /// The buffer that holds a node's elements, and their first byte in it.
    fn storage(&self, id: NodeId) -> Result<(Arc<wgpu::Buffer>, u64)> {
        let (base, offset) = self.recording.storage(id);
        let fenced = self.guarded && self.recording.outputs.iter().any(|(_, output)| *output == base);
        let fence = if fenced { GUARD } else { 0 };
        let bytes = fence + offset_bytes(&self.recording.nodes[id].ty, offset)?;
        match &self.tensors[base] {
            Some(tensor) => Ok((tensor.buffer.clone(), bytes)),
            None => Err(Error::Internal(format!("node {base} has no buffer"))),
        }
    }

    fn compile(mut self) -> Result<Program> {
        let nodes = &self.recording.nodes;
        // First every kernel's dispatches as data, so that scratch and parameters are known in whole...
        let mut launches = Vec::new();
        for (id, node) in nodes.iter().enumerate() {
            if let NodeKind::Op { kernel, .. } = &node.kind {
                let inputs = self.recording.input_types(id);
                let call = Call { inputs: &inputs, output: node.ty };
                let launch = kernel.launch(&call, self.gpu.profile()).map_err(|reason| {
                    let inputs: Vec<String> = inputs.iter().map(ToString::to_string).collect();
                    let reason = format!("{reason} (in {}: {})", node.scope, inputs.join(", "));
                    Error::Kernel { kernel: kernel.name().into(), reason }
                })?;
                for (i, &bytes) in launch.scratch.iter().enumerate() {
                    let known = self.scratch.get(i).map_or(0, |buffer| buffer.size());
                    if bytes > known {
                        let ty = TensorType::new([bytes.div_ceil(4) as usize], crate::tensor::DType::U32);
                        let buffer = self.gpu.allocate("scratch", ty)?.buffer;
                        self.activation_bytes += bytes - known;
                        if i < self.scratch.len() {
                            self.scratch[i] = buffer;
                        } else {
                            self.scratch.push(buffer);
                        }
                    }
                }
                launches.push((id, launch, kernel.cost(&call)));
            }
        }
        let params: Vec<&[u32]> =
            launches.iter().flat_map(|(_, launch, _)| &launch.dispatches).map(|d| d.params.as_slice()).collect();
        let (uniforms, offsets) = self.uniforms(&params)?;

        // ...then bind groups, in node order.
        let mut steps = Vec::new();
        let mut offsets = offsets.into_iter();
        let mut launches = launches.into_iter().peekable();
        for (id, node) in nodes.iter().enumerate() {
            if let NodeKind::Copy { source, offset, into } = &node.kind {
                let (buffer, start) = self.storage(*source)?;
                let (target, to) = self.storage(into.unwrap_or(id))?;
                let bytes = node.ty.bytes().next_multiple_of(4);
                let from = start + offset_bytes(&node.ty, *offset)?;
                let flops = FLOPS_PER_DISPATCH + 2.0 * bytes as f64 * FLOPS_PER_BYTE;
                steps.push(Step { work: Work::Copy { source: buffer, from, target, to, bytes }, flops });
            }
            if launches.peek().is_some_and(|(next, ..)| *next == id) {
                let Some((_, launch, cost)) = launches.next() else { continue };
                let share = 1.0 / launch.dispatches.len().max(1) as f64;
                let flops = FLOPS_PER_DISPATCH + share * cost.flops.max(cost.bytes * FLOPS_PER_BYTE);
                for dispatch in &launch.dispatches {
                    let uniform = offsets.next().unwrap_or(0);
                    let work = self.bind(id, dispatch, uniforms.as_ref(), uniform)?;
                    steps.push(Step { work, flops });
                }
            }
        }
        let outputs = self.recording.outputs.iter().filter_map(|(name, id)| {
            let (base, _) = self.recording.storage(*id);
            let tensor = self.tensors[base].as_ref()?;
            Some((name.clone(), Tensor { buffer: tensor.buffer.clone(), ty: nodes[*id].ty }))
        });
        let outputs = outputs.collect();
        self.gpu.check()?;
        Ok(Program {
            gpu: self.gpu.clone(),
            steps,
            inputs: self.inputs,
            outputs,
            activation_bytes: self.activation_bytes,
        })
    }

    /// One buffer with every dispatch's parameters, and where each begins.
    fn uniforms(&self, params: &[&[u32]]) -> Result<(Option<wgpu::Buffer>, Vec<u64>)> {
        let mut words: Vec<u32> = Vec::new();
        let mut offsets = Vec::with_capacity(params.len());
        for block in params {
            words.resize(words.len().next_multiple_of(64), 0);
            offsets.push(words.len() as u64 * 4);
            words.extend_from_slice(block);
        }
        if words.is_empty() {
            return Ok((None, offsets));
        }
        words.resize(words.len().next_multiple_of(64), 0);
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("parameters", words.len() as u64 * 4, usage)?;
        self.gpu.shared.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&words));
        Ok((Some(buffer), offsets))
    }

    fn bind(&self, id: NodeId, dispatch: &Dispatch, uniforms: Option<&wgpu::Buffer>, offset: u64) -> Result<Work> {
        let inputs: &[NodeId] = match &self.recording.nodes[id].kind {
            NodeKind::Op { inputs, .. } => inputs,
            _ => &[],
        };
        let label = dispatch.shader.label;
        let broken = |reason: String| Error::Kernel { kernel: label.into(), reason };
        let mut buffers = Vec::new();
        for binding in &dispatch.bindings {
            let (buffer, start, bytes) = match binding.operand {
                Operand::Input(i) => {
                    let node = *inputs.get(i).ok_or_else(|| broken(format!("binds input {i} of {}", inputs.len())))?;
                    let (buffer, start) = self.storage(node)?;
                    (buffer, start, self.recording.nodes[node].ty.bytes())
                }
                Operand::Output => {
                    let (buffer, start) = self.storage(id)?;
                    (buffer, start, self.recording.nodes[id].ty.bytes())
                }
                Operand::Scratch(i) => {
                    let buffer = self.scratch.get(i).ok_or_else(|| broken(format!("binds unknown scratch {i}")))?;
                    (buffer.clone(), 0, buffer.size())
                }
            };
            let window = binding.window.clone().unwrap_or(0..bytes);
            let from = start + window.start;
            // Rounded up so that vectors of four can be bound; buffers are padded to more than that.
            let size = (window.end - window.start).max(1).next_multiple_of(16).min(buffer.size() - from);
            let profile = self.gpu.profile();
            if size > profile.max_binding.next_multiple_of(16) || from % profile.offset_alignment != 0 {
                return Err(broken(format!("a window of {size} bytes at {from} cannot be bound on this device")));
            }
            buffers.push((buffer, from, size));
        }
        let resources = buffers.iter().map(|(buffer, offset, size)| (&**buffer, *offset, *size));
        let params = (dispatch.params.len() as u64 * 4).next_multiple_of(16);
        let uniform = uniforms.filter(|_| params > 0).map(|buffer| (buffer, offset, params));
        let entries: Vec<wgpu::BindGroupEntry<'_>> = resources
            .chain(uniform)
            .enumerate()
            .map(|(i, (buffer, offset, size))| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset,
                    size: wgpu::BufferSize::new(size),
                }),
            })
            .collect();
        let shared = &self.gpu.shared;
        let pipeline = shared.pipelines.get(&shared.device, dispatch)?;
        let scope = shared.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let group = shared.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(Work::Dispatch { label, pipeline, group, groups: dispatch.groups }),
            Some(error) => Err(broken(error.to_string())),
        }
    }
}

fn name_of(recording: &Recording, id: NodeId) -> &'static str {
    match &recording.nodes[id].kind {
        NodeKind::Op { kernel, .. } => kernel.name(),
        NodeKind::Copy { .. } => "copy",
        NodeKind::Leaf(_) => "leaf",
        NodeKind::View { .. } => "view",
    }
}

impl Program {
    /// Writes an input.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none of that name and type; [`Error::DeviceLost`].
    pub fn write(&self, name: &str, value: &HostTensor) -> Result<()> {
        self.gpu.write(self.input(name)?, value)
    }

    /// The tensor of an input.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none of that name.
    pub fn input(&self, name: &str) -> Result<&Tensor> {
        self.inputs.get(name).ok_or_else(|| Error::Internal(format!("no input is named `{name}`")))
    }

    /// The tensor of an output.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none of that name.
    pub fn output(&self, name: &str) -> Result<&Tensor> {
        self.outputs.get(name).ok_or_else(|| Error::Internal(format!("no output is named `{name}`")))
    }

    /// Reads an output back.
    ///
    /// # Errors
    /// As [`Program::output`] and [`Gpu::read`].
    pub fn read(&self, name: &str) -> Result<HostTensor> {
        self.gpu.read(self.output(name)?)
    }

    /// Bytes of activations, outputs and scratch that it holds on the device.
    pub fn activation_bytes(&self) -> u64 {
        self.activation_bytes
    }

    /// How many dispatches and copies one run takes.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Runs it and waits. `progress` hears the finished share of the run after each submission (about five a second) and
    /// can stop it by an error, such as [`Error::Cancelled`].
    ///
    /// # Errors
    /// What `progress` returned; [`Error::DeviceLost`] and [`Error::OutOfMemory`] from the device.
    pub fn run(&self, progress: &mut dyn FnMut(f64) -> Result<()>) -> Result<()> {
        let total: f64 = self.steps.iter().map(|step| step.flops).sum();
        let mut done = 0.0;
        let mut next = 0;
        // Two submissions in flight keep the device busy while the first of them is waited for.
        let mut waiting: Option<(Submission, f64)> = None;
        let mut since = Instant::now();
        let result = loop {
            let submitted = (next < self.steps.len()).then(|| {
                let (submission, flops, end) = self.submit(next, self.steps.len());
                next = end;
                (submission, flops)
            });
            if let Some((submission, flops)) = waiting.take() {
                if let Err(error) = self.gpu.wait(&submission) {
                    break Err(error);
                }
                self.gpu.measured(flops, since.elapsed().as_secs_f64());
                since = Instant::now();
                done += flops;
                if let Err(error) = progress((done / total).min(1.0)) {
                    break Err(error);
                }
            }
            match submitted {
                Some(submitted) => waiting = Some(submitted),
                None => break self.gpu.check(),
            }
        };
        // After a cancel, what is still in flight must not outlive the buffers' next use.
        if let Some((submission, _)) = waiting {
            self.gpu.wait(&submission)?;
        }
        result
    }

    /// Submits steps from `start` on, as many as make a submission of about a fifth of a second. Numbers past the last
    /// step begin again at the first, up to `last`.
    fn submit(&self, start: usize, last: usize) -> (Submission, f64, usize) {
        let budget = self.gpu.submission_flops();
        let mut encoder = self.gpu.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let step = |number: usize| &self.steps[number % self.steps.len()];
        let mut flops = 0.0;
        let mut end = start;
        while end < last && (end == start || flops + step(end).flops <= budget) {
            if let Work::Copy { source, from, target, to, bytes } = &step(end).work {
                encoder.copy_buffer_to_buffer(source, *from, target, *to, *bytes);
                flops += step(end).flops;
                end += 1;
                continue;
            }
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            while end < last {
                let Step { work: Work::Dispatch { pipeline, group, groups, .. }, flops: cost } = step(end) else {
                    break;
                };
                if flops > 0.0 && flops + cost > budget {
                    break;
                }
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                flops += cost;
                end += 1;
            }
        }
        (self.gpu.submit([encoder.finish()]), flops, end)
    }

    /// Seconds that one run takes, as the mean of `repeats` of them with a single wait at the end, so that the cost of
    /// submitting and of waiting is shared.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and [`Error::OutOfMemory`] from the device.
    pub fn time(&self, repeats: usize) -> Result<f64> {
        let repeats = repeats.max(1);
        let last = self.steps.len() * repeats;
        let start = Instant::now();
        let mut next = 0;
        let mut submission = None;
        while next < last {
            let (submitted, _, end) = self.submit(next, last);
            submission = Some(submitted);
            next = end;
        }
        if let Some(submission) = submission {
            self.gpu.wait(&submission)?;
        }
        Ok(start.elapsed().as_secs_f64() / repeats as f64)
    }

    /// Runs it with a wait after every step and tells where the time went, by kernel, longest first. Slower than
    /// [`Program::run`], since nothing overlaps.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn profile(&self) -> Result<Vec<StepTime>> {
        let mut times: HashMap<&'static str, StepTime> = HashMap::new();
        for step in &self.steps {
            let mut encoder = self.gpu.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let label = match &step.work {
                Work::Copy { source, from, target, to, bytes } => {
                    encoder.copy_buffer_to_buffer(source, *from, target, *to, *bytes);
                    "copy"
                }
                Work::Dispatch { label, pipeline, group, groups } => {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    pass.set_pipeline(&pipeline.pipeline);
                    pass.set_bind_group(0, group, &[]);
                    pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                    *label
                }
            };
            let start = Instant::now();
            let submission = self.gpu.submit([encoder.finish()]);
            self.gpu.wait(&submission)?;
            let entry = times.entry(label).or_insert(StepTime { label, dispatches: 0, seconds: 0.0 });
            entry.dispatches += 1;
            entry.seconds += start.elapsed().as_secs_f64();
        }
        let mut times: Vec<StepTime> = times.into_values().collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}
