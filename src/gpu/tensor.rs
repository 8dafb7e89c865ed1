//! Tensors on the device, and moving them to and from it.

use std::sync::Arc;

use super::Gpu;
use super::device::lock;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::tensor::{HostTensor, Weight};

/// A tensor in a buffer of the device. Cloning shares the buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub(super) buffer: Arc<wgpu::Buffer>,
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
const CHUNK: usize = 32 << 20;

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
        let queue = &self.shared.queue;
        for (i, chunk) in tensor.bytes().chunks(CHUNK).enumerate() {
            let offset = (i * CHUNK) as u64;
            let whole = chunk.len() / 4 * 4;
            if whole > 0 {
                queue.write_buffer(&target.buffer, offset, &chunk[..whole]);
            }
            if whole < chunk.len() {
                let mut word = [0u8; 4];
                word[..chunk.len() - whole].copy_from_slice(&chunk[whole..]);
                queue.write_buffer(&target.buffer, offset + whole as u64, &word);
            }
            if chunk.len() == CHUNK {
                let submission = self.submit([]);
                self.wait(&submission)?;
            }
        }
        self.check()
    }

    /// Fills a tensor with zero bytes.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn clear(&self, target: &Tensor) -> Result<()> {
        let mut encoder = self.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.clear_buffer(&target.buffer, 0, None);
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
        let mut encoder = self.shared.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&source.buffer, 0, &staging, 0, size);
        let submission = self.submit([encoder.finish()]);
        self.wait(&submission)?;
        let mapped = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |_| flag.store(true, std::sync::atomic::Ordering::Release));
        while !mapped.load(std::sync::atomic::Ordering::Acquire) {
            let polled = self.shared.device.poll(wgpu::PollType::Poll);
            polled.map_err(|error| Error::DeviceLost(error.to_string()))?;
            self.check()?;
        }
        let view = staging.get_mapped_range(..).map_err(|e| Error::DeviceLost(e.to_string()))?;
        let bytes = view[..source.ty.bytes() as usize].to_vec();
        HostTensor::from_bytes(source.ty.shape, source.ty.dtype, bytes.into())
            .ok_or_else(|| Error::Internal("a read-back of the wrong size".into()))
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
        let tensor = self.upload(weight.name(), weight.value())?;
        let mut weights = lock(&self.shared.weights);
        weights.retain(|_, buffer| buffer.strong_count() > 0);
        weights.insert(weight.id(), Arc::downgrade(&tensor.buffer));
        Ok(tensor)
    }
}
