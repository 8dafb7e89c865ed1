//! The device that tests run on: fails, never skips, where there is none.

use std::sync::OnceLock;

use mutoscope::gpu::{Gpu, GpuOptions};

/// The device, opened once. `MUTOSCOPE_DEVICE` chooses it as `--device` does, `MUTOSCOPE_CHECKED=1` compiles shaders
/// with every run-time check.
pub fn gpu() -> Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    let open = || {
        let checked = std::env::var("MUTOSCOPE_CHECKED").is_ok_and(|v| v == "1");
        let options = GpuOptions { device: std::env::var("MUTOSCOPE_DEVICE").ok(), checked, memory: None };
        Gpu::open(&options).unwrap_or_else(|error| panic!("these tests need an adapter: {error}"))
    };
    GPU.get_or_init(open).clone()
}
