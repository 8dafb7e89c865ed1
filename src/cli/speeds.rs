//! The measured speeds of this machine's devices, kept between runs.

use std::path::PathBuf;

use mutoscope::gpu::{AdapterSummary, Gpu};
use mutoscope::ops::Speeds;
use mutoscope::tensor::DType;
use mutoscope::{Error, Result};

/// What was measured of a device before, if it was.
pub fn known(adapter: &AdapterSummary, precision: DType) -> Option<Speeds> {
    let text = std::fs::read(file(adapter, precision)?).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Measures a device and keeps the result where there is a place to keep it.
pub fn measure(gpu: &Gpu, adapter: &AdapterSummary, precision: DType) -> Result<Speeds> {
    let speeds = Speeds::measure(gpu, precision)?;
    let text = serde_json::to_string_pretty(&speeds).map_err(|error| Error::Internal(error.to_string()))?;
    if let Some(path) = file(adapter, precision)
        && let Some(folder) = path.parent()
        && std::fs::create_dir_all(folder).is_ok()
    {
        // Without it the next plan has no times, which it says.
        let _ = std::fs::write(path, text);
    }
    Ok(speeds)
}

/// A file for each device, driver and precision in the user's cache folder.
fn file(adapter: &AdapterSummary, precision: DType) -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = match () {
        () if cfg!(windows) => variable("LOCALAPPDATA"),
        () if cfg!(target_os = "macos") => variable("HOME").map(|home| home.join("Library/Caches")),
        () => variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache"))),
    }?;
    let profile = &adapter.profile;
    let name = format!("{} {} {} {precision}", profile.name, profile.backend, adapter.driver);
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(150).collect();
    Some(cache.join("mutoscope/speeds").join(name).with_extension("json"))
}
