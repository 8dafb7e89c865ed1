//! A graph compiled for a device: buffers, bind groups and dispatches, made once and replayed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::compile::Workspace;
use super::device::{Live, Submission, lock};
use super::ledger::Ledger;
use super::memory::Buffer;
use super::pipeline::Pipeline;
use super::tensor::CHUNK;
use super::{Gpu, Tensor};
use crate::error::{Error, Result};
use crate::tensor::{HostTensor, Weight};

/// A compiled graph: run it as often as you like.
pub struct Program {
    pub(super) gpu: Gpu,
    /// None on a device that only counts.
    pub(super) steps: Vec<Step>,
    pub(super) inputs: HashMap<Arc<str>, Tensor>,
    pub(super) outputs: HashMap<Arc<str>, Tensor>,
    pub(super) activation_bytes: u64,
    /// What one run adds to the device's ledger.
    pub(super) run: Ledger,
    /// Every buffer that it uses.
    pub(super) held: Vec<Arc<Buffer>>,
    /// Those of them that hold nothing between runs.
    pub(super) workspace: Workspace,
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

pub(super) struct Step {
    pub work: Work,
    /// Estimated operations, with memory traffic counted as if it were arithmetic.
    pub flops: f64,
    /// What has to be loaded first: then a submission begins here.
    pub upload: Option<Upload>,
}

pub(super) enum Work {
    Dispatch { label: &'static str, pipeline: Arc<Pipeline>, group: wgpu::BindGroup, groups: [u32; 3] },
    Copy { source: Arc<Buffer>, from: u64, target: Arc<Buffer>, to: u64, bytes: u64 },
}

/// Weights that pass through an area, each with its first byte there.
pub(super) struct Upload {
    pub area: Arc<Buffer>,
    pub loads: Vec<(Weight, u64)>,
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

    /// Bytes of all buffers that it uses, shared ones included.
    pub fn bytes(&self) -> u64 {
        let mut seen = std::collections::HashSet::new();
        self.held.iter().filter(|buffer| seen.insert(Arc::as_ptr(buffer))).map(|buffer| buffer.size()).sum()
    }

    /// Bytes of weights that pass through the device in each run, since they do not stay.
    pub fn streamed_bytes(&self) -> u64 {
        self.run.streamed
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
        lock(&self.gpu.shared.ledger).add(&self.run);
        if self.gpu.is_rehearsal() {
            return progress(1.0);
        }
        let total: f64 = self.steps.iter().map(|step| step.flops).sum();
        let mut done = 0.0;
        let mut next = 0;
        // Two submissions in flight keep the device busy while the first of them is waited for.
        let mut waiting: Option<(Submission, f64)> = None;
        let mut since = Instant::now();
        let result = loop {
            let submitted = (next < self.steps.len()).then(|| {
                let (submission, flops, end) = self.submit(next, self.steps.len())?;
                next = end;
                Ok::<_, Error>((submission, flops))
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
                Some(Ok(submitted)) => waiting = Some(submitted),
                Some(Err(error)) => break Err(error),
                None => break self.gpu.check(),
            }
        };
        // After a cancel, what is still in flight must not outlive the buffers' next use.
        if let Some((submission, _)) = waiting {
            self.gpu.wait(&submission)?;
        }
        result
    }

    /// Submits steps from `start` on, as many as make a submission of about a fifth of a second and need no weights
    /// that come later. Numbers past the last step begin again at the first, up to `last`.
    fn submit(&self, start: usize, last: usize) -> Result<(Submission, f64, usize)> {
        let Some(Live { device, .. }) = self.gpu.live() else { return Ok((self.gpu.submit([]), 0.0, last)) };
        let budget = self.gpu.submission_flops();
        let step = |number: usize| &self.steps[number % self.steps.len()];
        if let Some(upload) = &step(start).upload {
            self.load(upload)?;
        }
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut flops = 0.0;
        let mut end = start;
        let goes_on = |end: usize, flops: f64| {
            end < last && (end == start || (flops + step(end).flops <= budget && step(end).upload.is_none()))
        };
        while goes_on(end, flops) {
            if let Work::Copy { source, from, target, to, bytes } = &step(end).work {
                encoder.copy_buffer_to_buffer(source.raw()?, *from, target.raw()?, *to, *bytes);
                flops += step(end).flops;
                end += 1;
                continue;
            }
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            while goes_on(end, flops) {
                let Step { work: Work::Dispatch { pipeline, group, groups, .. }, flops: cost, .. } = step(end) else {
                    break;
                };
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
                flops += cost;
                end += 1;
            }
        }
        Ok((self.gpu.submit([encoder.finish()]), flops, end))
    }

    /// Writes weights into their area, for the next submission. The device takes submissions in turn, so what still
    /// reads the area's last content is done by then; and since no more than two are in flight, no more than two areas'
    /// bytes wait on the host.
    fn load(&self, upload: &Upload) -> Result<()> {
        let mut buffer = Vec::new();
        for (weight, offset) in &upload.loads {
            let (value, bytes) = (weight.value(), weight.value().bytes().len());
            for at in (0..bytes).step_by(CHUNK) {
                let piece = value.window(at..(at + CHUNK).min(bytes), &mut buffer)?;
                self.gpu.write_bytes(&upload.area, offset + at as u64, piece)?;
            }
        }
        Ok(())
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
            // Two in flight, as in a run.
            if let Some(submission) = submission.take().filter(|_| self.run.streamed > 0) {
                self.gpu.wait(&submission)?;
            }
            let (submitted, _, end) = self.submit(next, last)?;
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
        let Some(Live { device, .. }) = self.gpu.live() else { return Ok(Vec::new()) };
        for step in &self.steps {
            if let Some(upload) = &step.upload {
                self.load(upload)?;
            }
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let label = match &step.work {
                Work::Copy { source, from, target, to, bytes } => {
                    encoder.copy_buffer_to_buffer(source.raw()?, *from, target.raw()?, *to, *bytes);
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
