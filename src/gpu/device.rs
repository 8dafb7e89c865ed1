//! Finding an adapter, opening a device, and hearing of its faults.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::ledger::Ledger;
use super::memory::{Buffer, Meter};
use super::pipeline::Pipelines;
use super::{Tensor, probe};
use crate::error::{Error, Result};
use crate::graph::{DeviceKind, DeviceProfile};

/// How to open a device.
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// An adapter's index in [`adapters`], or a part of its name; the fastest kind when `None`.
    pub device: Option<String>,
    /// Compile shaders with every run-time check that `wgpu` has: slower, for finding faults.
    pub checked: bool,
    /// Bytes that all buffers together may take; as much as the device has when `None`.
    pub memory: Option<u64>,
}

/// An adapter that could be opened.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// Its profile.
    pub profile: DeviceProfile,
    /// The driver and its version.
    pub driver: String,
}

/// An open device with its queue, its compiled pipelines and the weights that lie on it. Cloning is cheap.
#[derive(Clone)]
pub struct Gpu {
    pub(super) shared: Arc<Shared>,
    /// Shared, but another for each restriction: see [`Gpu::restricted`].
    profile: Arc<DeviceProfile>,
}

pub(super) struct Shared {
    /// None for a device that only counts: see [`Gpu::rehearsal`].
    live: Option<Live>,
    pub pipelines: Pipelines,
    pub weights: Mutex<HashMap<u64, Weak<Buffer>>>,
    pub meter: Arc<Meter>,
    pub ledger: Mutex<Ledger>,
    faults: Arc<Mutex<Option<Fault>>>,
    driver: String,
    /// Measured operations per second, as `f64` bits: how much one submission may hold.
    rate: AtomicU64,
    /// Bytes that were written since the last submission: `wgpu` keeps a copy of them until the next one is done.
    staged: AtomicU64,
}

/// What `wgpu` gave.
pub(super) struct Live {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
}

/// Work that was handed to the device; set once it is done.
#[derive(Clone, Default)]
pub(super) struct Submission(Arc<AtomicBool>);

#[derive(Clone)]
enum Fault {
    Lost(String),
    OutOfMemory(String),
    Other(String),
}

const NO_ADAPTER: &str = "no Vulkan, Metal or DX12 adapter was found. Install your GPU's driver, or a software one \
(Debian, Ubuntu: apt-get install mesa-vulkan-drivers libvulkan1); `mutoscope doctor` says what it sees";

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    })
}

fn enumerate(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY))
}

/// All adapters, in the order that `--device INDEX` counts.
pub fn adapters() -> Vec<AdapterSummary> {
    summaries(&enumerate(&instance()))
}

fn summaries(adapters: &[wgpu::Adapter]) -> Vec<AdapterSummary> {
    let summary = |adapter: &wgpu::Adapter| AdapterSummary {
        profile: {
            let profile = probe::profile(&adapter.get_info(), adapter.features(), &adapter.limits());
            DeviceProfile { memory: probe::own_memory(adapter).or(profile.memory), ..profile }
        },
        driver: driver(&adapter.get_info()),
    };
    adapters.iter().map(summary).collect()
}

fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_owned()
}

/// The adapter that `wanted` means (see [`GpuOptions::device`]), as an index; without a wish the fastest kind: a card
/// with its own memory, then a GPU that shares the processor's, then others, and a software driver last.
///
/// # Errors
/// [`Error::NoAdapter`] without any adapter, [`Error::Request`] when the wanted one is not there.
pub fn choose(adapters: &[AdapterSummary], wanted: Option<&str>) -> Result<usize> {
    if adapters.is_empty() {
        return Err(Error::NoAdapter(NO_ADAPTER.into()));
    }
    let Some(wanted) = wanted.map(str::trim) else {
        let rank = |adapter: &AdapterSummary| match adapter.profile.kind {
            DeviceKind::Discrete => 0,
            DeviceKind::Integrated => 1,
            DeviceKind::Virtual => 2,
            DeviceKind::Other => 3,
            DeviceKind::Cpu => 4,
        };
        return Ok((0..adapters.len()).min_by_key(|&i| rank(&adapters[i])).unwrap_or(0));
    };
    let named = |adapter: &AdapterSummary| adapter.profile.name.to_lowercase().contains(&wanted.to_lowercase());
    let found = match wanted.parse::<usize>() {
        // Of a number this small nobody means a part of a name (`7` is in every "LLVM 15.0.7").
        Ok(index) if index < 100 => Some(index).filter(|&index| index < adapters.len()),
        _ if wanted.is_empty() => None,
        _ => adapters.iter().position(named),
    };
    found.ok_or_else(|| {
        let list: Vec<String> =
            adapters.iter().enumerate().map(|(i, adapter)| format!("{i}: {}", adapter.profile.name)).collect();
        Error::request("--device", format!("no adapter is `{wanted}`; there are {}", list.join(", ")))
    })
}

impl Gpu {
    /// Opens a device.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] without any adapter, [`Error::Request`] when the wanted one is not there,
    /// [`Error::DeviceLost`] when the driver refuses to open it.
    pub fn open(options: &GpuOptions) -> Result<Self> {
        let mut adapters = enumerate(&instance());
        let index = choose(&summaries(&adapters), options.device.as_deref())?;
        let adapter = adapters.swap_remove(index);
        let features = probe::wanted_features() & adapter.features();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("mutoscope"),
            required_features: features,
            required_limits: adapter.limits(),
            // SAFETY: cooperative matrices are the one experimental feature asked for; they are used only after
            // `probe` has seen them give a known product.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let memory = options.memory.into_iter().chain(probe::own_memory(&adapter)).min();
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::DeviceLost(format!("{} could not be opened: {e}", adapter.get_info().name)))?;
        let coop = adapter.cooperative_matrix_properties();
        let gpu = Self::assemble(device, queue, &coop, options.checked)?;
        Ok(memory.map_or(gpu.clone(), |bytes| gpu.within(bytes)))
    }

    /// Uses a device that the caller has already opened, sharing it. Features that were not enabled on it are not used.
    ///
    /// The handlers for lost devices and uncaptured errors are left to the caller.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] when the device is already gone.
    pub fn from_device(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        // Which matrix shapes work is a question to the adapter, which the caller keeps: do without.
        Self::build(device, queue, &[], false, Arc::default())
    }

    fn assemble(
        device: wgpu::Device,
        queue: wgpu::Queue,
        coop: &[wgpu::CooperativeMatrixProperties],
        checked: bool,
    ) -> Result<Self> {
        let faults: Arc<Mutex<Option<Fault>>> = Arc::default();
        let keep = |faults: &Mutex<Option<Fault>>, fault: Fault| {
            lock(faults).get_or_insert(fault);
        };
        let sink = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                keep(&sink, Fault::Lost(message));
            }
        });
        let sink = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            keep(
                &sink,
                match error {
                    wgpu::Error::OutOfMemory { source } => Fault::OutOfMemory(source.to_string()),
                    other => Fault::Other(other.to_string()),
                },
            );
        }));
        Self::build(device, queue, coop, checked, faults)
    }

    fn build(
        device: wgpu::Device,
        queue: wgpu::Queue,
        coop: &[wgpu::CooperativeMatrixProperties],
        checked: bool,
        faults: Arc<Mutex<Option<Fault>>>,
    ) -> Result<Self> {
        let info = device.adapter_info();
        let mut profile = probe::profile(&info, device.features(), &device.limits());
        let pipelines = Pipelines::new(checked);
        profile.coop = probe::coop(&device, &queue, coop);
        // One submission should take about a fifth of a second: begin with a guess, then measure.
        let live = Some(Live { device, queue });
        let gpu = Self::shared(live, profile, pipelines, faults, driver(&info));
        gpu.check()?;
        Ok(gpu)
    }

    /// A device that only counts: it plans what a real one of this profile would hold and do, and entered in its
    /// [`Ledger`](super::Ledger), but computes nothing. What is read from it is zeros.
    pub fn rehearsal(profile: DeviceProfile) -> Self {
        Self::shared(None, profile, Pipelines::new(false), Arc::default(), String::new())
    }

    fn shared(
        live: Option<Live>,
        profile: DeviceProfile,
        pipelines: Pipelines,
        faults: Arc<Mutex<Option<Fault>>>,
        driver: String,
    ) -> Self {
        let shared = Shared {
            live,
            pipelines,
            weights: Mutex::default(),
            meter: Arc::default(),
            ledger: Mutex::default(),
            faults,
            driver,
            rate: AtomicU64::new((profile.dispatch_flops * 5.0).to_bits()),
            staged: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), profile: Arc::new(profile) }
    }

    /// Whether it only counts.
    pub fn is_rehearsal(&self) -> bool {
        self.shared.live.is_none()
    }

    /// The same device with no more than `bytes` for all buffers together.
    #[must_use]
    pub fn within(&self, bytes: u64) -> Self {
        let memory = self.profile.memory.map_or(bytes, |known| known.min(bytes));
        self.restricted(DeviceProfile { memory: Some(memory), ..(*self.profile).clone() })
    }

    /// The same device with `bytes` of its memory set aside for later.
    #[must_use]
    pub fn reserving(&self, bytes: u64) -> Self {
        let memory = self.profile.memory.map(|memory| memory.saturating_sub(bytes));
        self.restricted(DeviceProfile { memory, ..(*self.profile).clone() })
    }

    /// What `wgpu` gave; `None` for a device that only counts.
    pub(super) fn live(&self) -> Option<&Live> {
        self.shared.live.as_ref()
    }

    /// What the device can do.
    pub fn profile(&self) -> &DeviceProfile {
        &self.profile
    }

    /// The driver and its version.
    pub fn driver(&self) -> &str {
        &self.shared.driver
    }

    /// The same device under a profile that claims less, so that other kernel variants and windows are chosen: for tests.
    pub fn restricted(&self, profile: DeviceProfile) -> Self {
        Self { shared: self.shared.clone(), profile: Arc::new(profile) }
    }

    /// The first fault that the device has reported, if any.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Internal`].
    pub fn check(&self) -> Result<()> {
        match lock(&self.shared.faults).clone() {
            None => Ok(()),
            Some(Fault::Lost(reason)) => Err(Error::DeviceLost(format!(
                "{reason}. Try again; if it happens again, try a smaller size or update the driver"
            ))),
            Some(Fault::OutOfMemory(reason)) => Err(out_of_memory(&reason)),
            Some(Fault::Other(reason)) => Err(Error::Internal(reason)),
        }
    }

    /// Submits commands and returns what [`Gpu::wait`] waits for.
    pub(super) fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> Submission {
        self.shared.staged.store(0, Ordering::Relaxed);
        let done = Submission::default();
        let flag = done.clone();
        match self.live() {
            Some(Live { queue, .. }) => {
                queue.submit(commands);
                queue.on_submitted_work_done(move || flag.0.store(true, Ordering::Release));
            }
            None => flag.0.store(true, Ordering::Release),
        }
        done
    }

    /// Notes bytes that were written, and tells how many there are since the last submission.
    pub(super) fn stage(&self, bytes: u64) -> u64 {
        self.shared.staged.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Waits until a submission has run, and notices when the device is lost meanwhile.
    ///
    /// By polling with short naps, not by `wgpu`'s blocking wait: in wgpu 30.0.1 that can hit an assertion when another
    /// thread uses the same device, and a driver that hangs never returns from it.
    pub(super) fn wait(&self, submission: &Submission) -> Result<()> {
        let mut nap = Duration::from_micros(50);
        loop {
            self.poll()?;
            if submission.0.load(Ordering::Acquire) {
                return self.check();
            }
            self.check()?;
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(2));
        }
    }

    /// Waits until everything that was submitted is done.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and [`Error::OutOfMemory`] from the device.
    pub fn finish(&self) -> Result<()> {
        let submission = self.submit([]);
        self.wait(&submission)
    }

    /// Lets the device report what is done and give back what nobody holds any more.
    pub(super) fn poll(&self) -> Result<()> {
        let Some(live) = self.live() else { return Ok(()) };
        live.device.poll(wgpu::PollType::Poll).map(|_| ()).map_err(|error| Error::DeviceLost(error.to_string()))
    }

    /// Operations that one submission may hold to take about a fifth of a second.
    pub(super) fn submission_flops(&self) -> f64 {
        f64::from_bits(self.shared.rate.load(Ordering::Relaxed)) * 0.2
    }

    /// Corrects the estimate by a submission that took `seconds`.
    pub(super) fn measured(&self, flops: f64, seconds: f64) {
        if seconds > 1e-3 && flops > 0.0 {
            let old = f64::from_bits(self.shared.rate.load(Ordering::Relaxed));
            // Never more than doubled at once: a first estimate from a tiny submission is worth little.
            let new = (0.7 * old + 0.3 * (flops / seconds)).clamp(old * 0.5, old * 2.0);
            self.shared.rate.store(new.max(1e8).to_bits(), Ordering::Relaxed);
        }
    }

    /// A buffer of at least `bytes`, padded so that any element type can be bound.
    pub(super) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        let size = bytes.max(1).next_multiple_of(256);
        let mib = size >> 20;
        if size > self.profile.max_buffer {
            return Err(Error::OutOfMemory(format!(
                "{label} needs a buffer of {mib} MiB and this device has none over {} MiB; try a smaller size",
                self.profile.max_buffer >> 20
            )));
        }
        let held = self.held_bytes();
        if let Some(memory) = self.profile.memory.filter(|&memory| held + size > memory) {
            return Err(out_of_memory(&format!(
                "{label} needs {mib} MiB where {} MiB are in use already and {} MiB may be",
                held >> 20,
                memory >> 20
            )));
        }
        let Some(Live { device, .. }) = self.live() else { return Ok(Buffer::new(None, size, &self.shared.meter)) };
        // What was dropped since the last wait goes now.
        self.poll()?;
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let buffer = device.create_buffer(&descriptor);
        match pollster::block_on(scope.pop()) {
            None => Ok(Buffer::new(Some(buffer), size, &self.shared.meter)),
            Some(error) => Err(out_of_memory(&format!("{label}, {mib} MiB: {error}"))),
        }
    }

    /// A tensor on the device with undefined elements that programs can read and write.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn allocate(&self, label: &str, ty: crate::graph::TensorType) -> Result<Tensor> {
        use wgpu::BufferUsages as Usage;
        let buffer = self.buffer(label, ty.bytes(), Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)?;
        Ok(Tensor { buffer: Arc::new(buffer), ty })
    }

    /// Bytes that the device's allocator has handed out, where the driver tells.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.live()?.device.generate_allocator_report().map(|report| report.total_allocated_bytes)
    }
}

fn out_of_memory(reason: &str) -> Error {
    Error::OutOfMemory(format!(
        "{reason}. Try a smaller --size, fewer --frames, --precision f16, or --vram with less than the device has"
    ))
}

/// A lock that a panicking holder cannot spoil.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gpu({})", self.profile.name)
    }
}
