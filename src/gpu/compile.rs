//! Compiling a graph for a device: places for its tensors, bind groups for its dispatches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::device::Live;
use super::ledger::Ledger;
use super::memory::Buffer;
use super::program::{Step, Upload, Work};
use super::tensor::CHUNK;
use super::{Gpu, Program, Tensor};
use crate::error::{Error, Result};
use crate::graph::{
    Dispatch, Leaf, Lowered, NodeId, NodeKind, Operand, Place, Recording, Residency, TensorType, UNIFORM_ALIGNMENT,
    padded,
};
use crate::tensor::{DType, HostTensor, Weight};

/// A byte of memory traffic costs about as much as this many operations, on every device seen so far within a few times.
const FLOPS_PER_BYTE: f64 = 10.0;
/// What a dispatch costs however little it does.
const FLOPS_PER_DISPATCH: f64 = 2e5;

impl Gpu {
    /// Compiles a graph. Inputs in `bound` use those tensors; the others get zeroed buffers of their own, written by
    /// [`Program::write`]. Where the device's memory cannot hold all weights, part of them passes through it in every
    /// run (see [`Residency`]).
    ///
    /// # Errors
    /// [`Error::Kernel`] when a shader does not compile, [`Error::OutOfMemory`] when buffers do not fit,
    /// [`Error::Internal`] when a bound tensor has another type.
    pub fn compile(&self, recording: &Recording, bound: &[(&str, &Tensor)]) -> Result<Program> {
        Compiler::new(self, recording, bound, false, Workspace::default())?.compile()
    }

    /// As [`Gpu::compile`], in the working memory of a program that never runs at the same time.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn compile_beside(&self, other: &Program, recording: &Recording, bound: &[(&str, &Tensor)]) -> Result<Program> {
        Compiler::new(self, recording, bound, false, other.workspace.clone())?.compile()
    }

    /// Compiles graphs that never run at the same time, the one with the most activations first: the others work in its
    /// memory. They bind the same tensors.
    ///
    /// # Errors
    /// As [`Gpu::compile`].
    pub fn compile_in_turns(&self, recordings: &[Recording], bound: &[(&str, &Tensor)]) -> Result<Vec<Program>> {
        let Some((largest, others)) = recordings.split_first() else { return Ok(Vec::new()) };
        // What the others need besides is set aside first, or the largest one's weights would take it.
        let offered: Vec<u64> = Lowered::new(largest, self.profile())?.working().map(padded).collect();
        let mut aside = 0;
        for recording in others {
            let lowered = Lowered::new(recording, self.profile())?;
            let mut offered = offered.clone();
            let spared: u64 =
                lowered.working().filter(|&bytes| take(&mut offered, bytes, |&b| b).is_some()).map(padded).sum();
            aside += lowered.beside_weights(recording, |name| bound.iter().any(|(other, _)| *other == name)) - spared;
            aside += read_back(recording, bound);
        }
        let mut first =
            Compiler::new(&self.reserving(aside), largest, bound, false, Workspace::default())?.compile()?;
        // Once it is compiled it may use what was set aside, to be read back.
        first.gpu = self.clone();
        let mut programs = vec![first];
        for recording in others {
            let offered = programs[0].workspace.clone();
            programs.push(Compiler::new(self, recording, bound, false, offered)?.compile()?);
        }
        Ok(programs)
    }

    /// Whether the device can hold what a graph needs at once, by its plan: nothing is allocated.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] that names the largest tensor, or the sum.
    pub fn fits(&self, recording: &Recording) -> Result<()> {
        let lowered = Lowered::new(recording, self.profile())?;
        let beside = lowered.beside_weights(recording, |_| false);
        self.residency(recording, beside, 0).map(drop)
    }

    /// Divides a graph's weights into those that stay and those that pass, as the free memory has it, when `beside`
    /// bytes are needed for everything else and areas of `area` bytes are there already.
    fn residency(&self, recording: &Recording, beside: u64, area: u64) -> Result<Residency> {
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
        let Some(memory) = profile.memory else { return Ok(Residency::default()) };
        let held = self.held_bytes();
        let known = |weight: &Weight| self.has(weight);
        let too_much = || {
            let least = held + beside + Residency::least(recording, known);
            Error::OutOfMemory(format!(
                "this needs {} MiB even with most weights read anew in every step, and {} MiB can be used; try a smaller \
                 size or fewer frames",
                (least >> 20) + 1,
                memory >> 20
            ))
        };
        let room = memory.checked_sub(held + beside).ok_or_else(too_much)?;
        let shared = Residency::within(recording, known, room + 2 * area, area);
        shared.or_else(|| Residency::within(recording, known, room, u64::MAX)).ok_or_else(too_much)
    }

    /// Runs a graph once with its outputs poisoned beforehand and fenced by sentinels, to catch kernels that leave
    /// elements out or write past the end. `inputs` are written in the order of the graph's inputs.
    ///
    /// # Errors
    /// As [`Gpu::compile`] and [`Program::run`].
    pub fn run_guarded(&self, recording: &Recording, inputs: &[HostTensor]) -> Result<Vec<Guarded>> {
        let program = Compiler::new(self, recording, &[], true, Workspace::default())?.compile()?;
        for ((name, _), value) in recording.inputs().zip(inputs) {
            program.write(name, value)?;
        }
        for (name, _) in &recording.outputs {
            let buffer = &program.output(name)?.buffer;
            let words = vec![POISON; buffer.size() as usize / 4];
            self.write_bytes(buffer, 0, bytemuck::cast_slice(&words))?;
        }
        program.run(&mut |_| Ok(()))?;
        recording
            .outputs
            .iter()
            .map(|(name, _)| {
                let tensor = program.output(name)?;
                let whole = TensorType::new([tensor.buffer.size() as usize / 4], DType::U32);
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

/// Bytes to keep free for reading back one of the tensors that a program leaves.
fn read_back(recording: &Recording, bound: &[(&str, &Tensor)]) -> u64 {
    let outputs = recording.outputs.iter().map(|(_, id)| recording.nodes[*id].ty.bytes());
    let bound = bound.iter().map(|(_, tensor)| tensor.ty.bytes());
    padded(outputs.chain(bound).max().unwrap_or(0))
}

/// Takes the smallest of `offered` that holds `bytes`.
fn take<T>(offered: &mut Vec<T>, bytes: u64, size: impl Fn(&T) -> u64) -> Option<T> {
    let fitting = offered.iter().enumerate().filter(|(_, one)| size(one) >= padded(bytes));
    let (at, _) = fitting.min_by_key(|(_, one)| size(one))?;
    Some(offered.swap_remove(at))
}

/// Buffers that hold nothing between runs.
#[derive(Clone, Default)]
pub(super) struct Workspace {
    /// Activations and scratch.
    buffers: Vec<Arc<Buffer>>,
    /// What weights pass through.
    areas: Vec<Arc<Buffer>>,
}

impl Workspace {
    /// Takes the smallest buffer that holds `bytes`.
    fn take(&mut self, bytes: u64) -> Option<Arc<Buffer>> {
        take(&mut self.buffers, bytes, |buffer| buffer.size())
    }

    /// Bytes of an area.
    fn area(&self) -> u64 {
        self.areas.iter().map(|area| area.size()).min().unwrap_or(0)
    }
}

struct Compiler<'a> {
    gpu: &'a Gpu,
    recording: &'a Recording,
    lowered: Lowered,
    residency: Residency,
    /// The leaf that stands for each weight that passes, by the weight's identity.
    passing: HashMap<u64, NodeId>,
    areas: Vec<Arc<Buffer>>,
    tensors: Vec<Option<Tensor>>,
    scratch: Vec<Arc<Buffer>>,
    inputs: HashMap<Arc<str>, Tensor>,
    /// What can be used again of another program's working memory.
    offered: Workspace,
    /// Buffers of slots.
    slots: Vec<Option<Arc<Buffer>>>,
    /// Whether outputs are fenced by sentinels.
    guarded: bool,
}

/// Where an element of a tensor begins, in bytes from the first.
fn offset_bytes(ty: &TensorType, offset: usize) -> Result<u64> {
    let bytes = ty.dtype.bytes_of(offset).map(|bytes| bytes as u64);
    bytes.ok_or_else(|| Error::Internal(format!("element {offset} of {ty} begins no block")))
}

impl<'a> Compiler<'a> {
    fn new(
        gpu: &'a Gpu,
        recording: &'a Recording,
        bound: &[(&str, &Tensor)],
        guarded: bool,
        offered: Workspace,
    ) -> Result<Self> {
        let lowered = Lowered::new(recording, gpu.profile())?;
        let names: HashSet<&str> = bound.iter().map(|(name, _)| *name).collect();
        let fences = if guarded { recording.outputs.len() as u64 * 2 * GUARD } else { 0 };
        let mut trial = offered.clone();
        let spared: u64 = lowered.working().filter(|&bytes| trial.take(bytes).is_some()).map(padded).sum();
        let beside = lowered.beside_weights(recording, |name| names.contains(name)) + fences - spared;
        let beside = beside + read_back(recording, bound);
        let residency = gpu.residency(recording, beside, offered.area())?;
        let mut compiler = Self {
            gpu,
            recording,
            lowered,
            passing: passing(recording, &residency),
            residency,
            areas: Vec::new(),
            tensors: Vec::with_capacity(recording.nodes.len()),
            scratch: Vec::new(),
            inputs: HashMap::new(),
            slots: Vec::new(),
            offered,
            guarded,
        };
        compiler.allocate(bound)?;
        Ok(compiler)
    }

    /// Gives every tensor its buffer.
    fn allocate(&mut self, bound: &[(&str, &Tensor)]) -> Result<()> {
        let Self { gpu, recording, .. } = *self;
        let words = |bytes: u64| TensorType::new([bytes.div_ceil(4) as usize], DType::U32);
        let turns = if self.residency.chunks.is_empty() { 0 } else { 2 };
        for turn in 0..turns {
            let area = match self.offered.areas.get(turn) {
                Some(area) if area.size() >= self.residency.area => area.clone(),
                _ => gpu.allocate("weights that pass", words(self.residency.area))?.buffer,
            };
            self.areas.push(area);
        }
        // In the order of `Lowered::working`.
        for slot in 0..self.lowered.plan.slots.len() {
            let buffer = self.offered.take(self.lowered.plan.slots[slot]);
            self.slots.push(buffer);
        }
        for i in 0..self.lowered.scratch.len() {
            let bytes = self.lowered.scratch[i];
            let buffer = match self.offered.take(bytes) {
                Some(buffer) => buffer,
                None => gpu.allocate("scratch", words(bytes))?.buffer,
            };
            self.scratch.push(buffer);
        }
        for (id, node) in recording.nodes.iter().enumerate() {
            let tensor = match (&node.kind, self.lowered.plan.places[id]) {
                (NodeKind::Leaf(Leaf::Weight(weight)), _) if self.passing.contains_key(&weight.id()) => None,
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
                    self.inputs.insert(name.clone(), tensor.clone());
                    Some(tensor)
                }
                (_, Place::Slot(slot)) => {
                    let buffer = match &self.slots[slot] {
                        Some(buffer) => buffer.clone(),
                        None => {
                            let label = format!("activations of {} (from {})", name_of(recording, id), node.scope);
                            let buffer = gpu.allocate(&label, words(self.lowered.plan.slots[slot]))?.buffer;
                            self.slots[slot] = Some(buffer.clone());
                            buffer
                        }
                    };
                    Some(Tensor { buffer, ty: node.ty })
                }
                (_, Place::Output | Place::Outside) => {
                    let fence = if self.guarded { 2 * GUARD } else { 0 };
                    let bytes = node.ty.bytes().next_multiple_of(16) + fence;
                    let buffer = gpu.allocate(name_of(recording, id), words(bytes))?.buffer;
                    Some(Tensor { buffer, ty: node.ty })
                }
                (_, Place::With(_)) => None,
            };
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// The buffer that holds a node's elements while `user` runs, and their first byte in it.
    fn storage(&self, id: NodeId, user: NodeId) -> Result<(Arc<Buffer>, u64)> {
        let (base, offset) = self.recording.storage(id);
        let bytes = offset_bytes(&self.recording.nodes[id].ty, offset)?;
        if let Some(tensor) = &self.tensors[base] {
            let fenced = self.guarded && self.recording.outputs.iter().any(|(_, output)| *output == base);
            return Ok((tensor.buffer.clone(), bytes + if fenced { GUARD } else { 0 }));
        }
        let passing = match &self.recording.nodes[base].kind {
            NodeKind::Leaf(Leaf::Weight(weight)) => self.passing.get(&weight.id()),
            _ => None,
        };
        let chunks = &self.residency.chunks;
        let at = chunks.partition_point(|chunk| chunk.first <= user).checked_sub(1);
        let load = at.and_then(|at| chunks[at].loads.iter().find(|load| Some(&load.leaf) == passing));
        let area = at.and_then(|at| self.areas.get(at % 2));
        match (area, load) {
            (Some(area), Some(load)) => Ok((area.clone(), bytes + load.offset)),
            _ => Err(Error::Internal(format!("node {base} has no buffer"))),
        }
    }

    fn compile(self) -> Result<Program> {
        let nodes = &self.recording.nodes;
        let moved = self.lowered.plan.weights.min(CHUNK as u64).max(self.residency.areas());
        let streamed = self.residency.streamed(self.recording);
        let mut run = Ledger { streamed, staged: moved, ..Ledger::default() };
        for lowering in &self.lowered.launches {
            run.enter(lowering.kernel, lowering.cost);
        }
        let uniforms = self.uniforms()?;
        let steps = if self.gpu.is_rehearsal() { Vec::new() } else { self.steps(uniforms.as_ref())? };
        let outputs = self.recording.outputs.iter().filter_map(|(name, id)| {
            let (base, _) = self.recording.storage(*id);
            let tensor = self.tensors[base].as_ref()?;
            Some((name.clone(), Tensor { buffer: tensor.buffer.clone(), ty: nodes[*id].ty }))
        });
        let outputs = outputs.collect();
        self.gpu.check()?;
        let buffers = self.slots.into_iter().flatten().chain(self.scratch.iter().cloned()).collect();
        let workspace = Workspace { buffers, areas: self.areas.clone() };
        // Bind groups keep the device's buffers, these keep the count of them.
        let tensors = self.tensors.into_iter().flatten().map(|tensor| tensor.buffer);
        let held = tensors.chain(self.areas).chain(self.scratch).chain(uniforms.map(Arc::new)).collect();
        Ok(Program {
            gpu: self.gpu.clone(),
            steps,
            inputs: self.inputs,
            outputs,
            activation_bytes: self.lowered.activations(),
            run,
            held,
            workspace,
        })
    }

    /// Everything that runs, in node order.
    fn steps(&self, uniforms: Option<&Buffer>) -> Result<Vec<Step>> {
        let nodes = &self.recording.nodes;
        let mut steps: Vec<Step> = Vec::new();
        let mut uniform = 0;
        let mut launches = self.lowered.launches.iter().peekable();
        let mut uploads = self.uploads().into_iter().peekable();
        for (id, node) in nodes.iter().enumerate() {
            let first = steps.len();
            if let NodeKind::Copy { source, offset, into } = &node.kind {
                let (buffer, start) = self.storage(*source, id)?;
                let (target, to) = self.storage(into.unwrap_or(id), id)?;
                let bytes = node.ty.bytes().next_multiple_of(4);
                let from = start + offset_bytes(&node.ty, *offset)?;
                let flops = FLOPS_PER_DISPATCH + 2.0 * bytes as f64 * FLOPS_PER_BYTE;
                steps.push(Step { work: Work::Copy { source: buffer, from, target, to, bytes }, flops, upload: None });
            }
            if let Some(lowering) = launches.next_if(|lowering| lowering.node == id) {
                let dispatches = &lowering.launch.dispatches;
                let share = 1.0 / dispatches.len().max(1) as f64;
                let cost = lowering.cost;
                let flops = FLOPS_PER_DISPATCH + share * cost.flops.max(cost.bytes * FLOPS_PER_BYTE);
                for dispatch in dispatches {
                    let work = self.bind(id, dispatch, uniforms, uniform)?;
                    uniform += (dispatch.params.len() as u64 * 4).next_multiple_of(UNIFORM_ALIGNMENT);
                    steps.push(Step { work, flops, upload: None });
                }
            }
            if let Some((_, upload)) = uploads.next_if(|(at, _)| *at == id)
                && let Some(step) = steps.get_mut(first)
            {
                step.upload = Some(upload);
            }
        }
        Ok(steps)
    }

    /// What is loaded before which node.
    fn uploads(&self) -> Vec<(NodeId, Upload)> {
        let weight = |leaf: NodeId| match &self.recording.nodes[leaf].kind {
            NodeKind::Leaf(Leaf::Weight(weight)) => Some(weight.clone()),
            _ => None,
        };
        let chunks = self.residency.chunks.iter().zip(self.areas.iter().cycle());
        chunks
            .map(|(chunk, area)| {
                let loads = chunk.loads.iter().filter_map(|load| Some((weight(load.leaf)?, load.offset)));
                (chunk.first, Upload { area: area.clone(), loads: loads.collect() })
            })
            .collect()
    }

    /// One buffer with every dispatch's parameters, each from an aligned byte on.
    fn uniforms(&self) -> Result<Option<Buffer>> {
        let mut words: Vec<u32> = Vec::new();
        for dispatch in self.lowered.launches.iter().flat_map(|lowering| &lowering.launch.dispatches) {
            words.extend_from_slice(&dispatch.params);
            words.resize(words.len().next_multiple_of(UNIFORM_ALIGNMENT as usize / 4), 0);
        }
        if words.is_empty() {
            return Ok(None);
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer("parameters", words.len() as u64 * 4, usage)?;
        self.gpu.write_bytes(&buffer, 0, bytemuck::cast_slice(&words))?;
        Ok(Some(buffer))
    }

    fn bind(&self, id: NodeId, dispatch: &Dispatch, uniforms: Option<&Buffer>, offset: u64) -> Result<Work> {
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
                    let (buffer, start) = self.storage(node, id)?;
                    (buffer, start, self.recording.nodes[node].ty.bytes())
                }
                Operand::Output => {
                    let (buffer, start) = self.storage(id, id)?;
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
        let resources = buffers.iter().map(|(buffer, offset, size)| (buffer.as_ref(), *offset, *size));
        let params = (dispatch.params.len() as u64 * 4).next_multiple_of(16);
        let uniform = uniforms.filter(|_| params > 0).map(|buffer| (buffer, offset, params));
        let entries: Vec<wgpu::BindGroupEntry<'_>> = resources
            .chain(uniform)
            .enumerate()
            .map(|(i, (buffer, offset, size))| {
                let size = wgpu::BufferSize::new(size);
                let binding = wgpu::BufferBinding { buffer: buffer.raw()?, offset, size };
                Ok(wgpu::BindGroupEntry { binding: i as u32, resource: wgpu::BindingResource::Buffer(binding) })
            })
            .collect::<Result<_>>()?;
        let Some(Live { device, .. }) = self.gpu.live() else {
            return Err(broken("a device that only counts was to run it".into()));
        };
        let pipeline = self.gpu.shared.pipelines.get(device, dispatch)?;
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
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

/// For every weight that passes the leaf by which chunks know it.
fn passing(recording: &Recording, residency: &Residency) -> HashMap<u64, NodeId> {
    let loads = residency.chunks.iter().flat_map(|chunk| &chunk.loads);
    let weight = |leaf: NodeId| match &recording.nodes[leaf].kind {
        NodeKind::Leaf(Leaf::Weight(weight)) => Some((weight.id(), leaf)),
        _ => None,
    };
    loads.filter_map(|load| weight(load.leaf)).collect()
}

fn name_of(recording: &Recording, id: NodeId) -> &'static str {
    match &recording.nodes[id].kind {
        NodeKind::Op { kernel, .. } => kernel.name(),
        NodeKind::Copy { .. } => "copy",
        NodeKind::Leaf(_) => "leaf",
        NodeKind::View { .. } => "view",
    }
}
