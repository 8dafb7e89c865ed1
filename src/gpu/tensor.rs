//! Tensors on the device, and moving them to and from it.

use std::sync::Arc;

use super::Gpu;
use super::device::{Live, lock};
use super::memory::Buffer;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::tensor::{HostTensor, Weight};

/// A tensor in a buffer of the device. Cloning shares the buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(super) buffer: Arc<Buffer>,
    pub(super) ty: TensorType,
}

impl Tensor {
    /// Shape and element type.
    pub fn ty(&self) -> TensorType {
        self.ty
    }

    /// The same buffer under another type of no more bytes; `None` when it would need more.
    pub fn view(&self, ty: TensorType) -> Option<Self> {
        (ty.bytes() <= self.buffer.size()).then(|| Self { buffer: self.buffer.clone(), ty })
    }
}

/// Bytes moved at once, so that staging memory stays small beside the weights.
pub(super) const CHUNK: usize = 32 << 20;

impl Gpu {
    /// A tensor on the device with these elements.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn upload(&self, label: &str, tensor: &HostTensor) -> Result<Tensor> {
        let target = self.allocate(label, TensorType::new(tensor.shape(), tensor.dtype()))?;
        self.write(&target, tensor)?;
        Ok(target)
    }

    /// Replaces a tensor's elements.
    ///
    /// # Errors
    /// [`Error::Internal`] when the types differ; [`Error::DeviceLost`].
    pub fn write(&self, target: &Tensor, tensor: &HostTensor) -> Result<()> {
        let ty = TensorType::new(tensor.shape(), tensor.dtype());
        if target.ty != ty {
            return Err(Error::Internal(format!("{ty} was written to a tensor of {}", target.ty)));
        }
        let mut buffer = Vec::new();
        for i in 0..tensor.bytes().len().div_ceil(CHUNK) {
            let end = ((i + 1) * CHUNK).min(tensor.bytes().len());
            let chunk = tensor.window(i * CHUNK..end, &mut buffer)?;
            self.write_bytes(&target.buffer, (i * CHUNK) as u64, chunk)?;
            // Whether one tensor is large or many are small.
            if self.stage(chunk.len() as u64) >= CHUNK as u64 {
                let submission = self.submit([]);
                self.wait(&submission)?;
            }
        }
        self.check()
    }

    /// Writes bytes into a buffer, from an offset that is a multiple of four, before what is submitted next.
    pub(super) fn write_bytes(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let Some(Live { queue, .. }) = self.live() else { return Ok(()) };
        let whole = bytes.len() / 4 * 4;
        if whole > 0 {
            queue.write_buffer(buffer.raw()?, offset, &bytes[..whole]);
        }
        if whole < bytes.len() {
            let mut word = [0u8; 4];
            word[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
            queue.write_buffer(buffer.raw()?, offset + whole as u64, &word);
        }
        Ok(())
    }

    /// Fills a tensor with zero bytes.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn clear(&self, target: &Tensor) -> Result<()> {
        let Some(Live { device, .. }) = self.live() else { return Ok(()) };
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(target.buffer.raw()?, 0, None);
        self.submit([encoder.finish()]);
        self.check()
    }

    /// A tensor's elements, back on the host.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::DeviceLost`].
    pub fn read(&self, source: &Tensor) -> Result<HostTensor> {
        let size = source.ty.bytes().next_multiple_of(4);
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.buffer("read back", size, usage)?;
        let Some(Live { device, .. }) = self.live() else {
            let zeros = vec![0; source.ty.bytes() as usize];
            return HostTensor::from_bytes(source.ty.shape, source.ty.dtype, zeros.into())
                .ok_or_else(|| Error::Internal("a read-back of the wrong size".into()));
        };
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(source.buffer.raw()?, 0, staging.raw()?, 0, size);
        let submission = self.submit([encoder.finish()]);
        self.wait(&submission)?;
        let mapped = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = mapped.clone();
        staging
            .raw()?
            .map_async(wgpu::MapMode::Read, .., move |_| flag.store(true, std::sync::atomic::Ordering::Release));
        while !mapped.load(std::sync::atomic::Ordering::Acquire) {
            self.poll()?;
            self.check()?;
        }
        let view = staging.raw()?.get_mapped_range(..).map_err(|e| Error::DeviceLost(e.to_string()))?;
        let bytes = view[..source.ty.bytes() as usize].to_vec();
        HostTensor::from_bytes(source.ty.shape, source.ty.dtype, bytes.into())
            .ok_or_else(|| Error::Internal("a read-back of the wrong size".into()))
    }

    /// Whether a weight is on the device already.
    pub(super) fn has(&self, weight: &Weight) -> bool {
        lock(&self.shared.weights).get(&weight.id()).is_some_and(|buffer| buffer.strong_count() > 0)
    }

    /// A weight's tensor, uploaded at its first use and shared for as long as a program holds it.
    pub(super) fn weight(&self, weight: &Weight) -> Result<Tensor> {
        if weight.is_placeholder() {
            return Err(Error::Internal(format!("weight `{}` was never loaded", weight.name())));
        }
        let ty = TensorType::new(weight.shape(), weight.dtype());
        let known = lock(&self.shared.weights).get(&weight.id()).and_then(std::sync::Weak::upgrade);
        if let Some(buffer) = known {
            return Ok(Tensor { buffer, ty });
        }
        let tensor = self.allocate(weight.name(), ty)?;
        if !self.is_rehearsal() {
            self.write(&tensor, &weight.value())?;
        }
        let mut weights = lock(&self.shared.weights);
        weights.retain(|_, buffer| buffer.strong_count() > 0);
        weights.insert(weight.id(), Arc::downgrade(&tensor.buffer));
        Ok(tensor)
    }
}
