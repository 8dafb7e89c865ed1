//! Buffers that are counted while they live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes of buffers that a device holds for us, now and at most.
#[derive(Debug, Default)]
pub(super) struct Meter {
    live: AtomicU64,
    peak: AtomicU64,
}

impl Meter {
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The peak from here on.
    pub fn restart(&self) {
        self.peak.store(self.live(), Ordering::Relaxed);
    }

    fn add(&self, bytes: u64) {
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
    }

    fn remove(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A buffer of the device, or, on a device that only counts, the number of its bytes.
#[derive(Debug)]
pub(super) struct Buffer {
    raw: Option<wgpu::Buffer>,
    size: u64,
    meter: Arc<Meter>,
}

impl Buffer {
    pub fn new(raw: Option<wgpu::Buffer>, size: u64, meter: &Arc<Meter>) -> Self {
        meter.add(size);
        Self { raw, size, meter: meter.clone() }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The device's own; devices that only count have none.
    pub fn raw(&self) -> Result<&wgpu::Buffer> {
        self.raw.as_ref().ok_or_else(|| Error::Internal("a buffer that is only counted was used".into()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.meter.remove(self.size);
    }
}
