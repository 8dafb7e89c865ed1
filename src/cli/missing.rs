//! What to install where no adapter is found.

use std::path::{Path, PathBuf};

/// What is missing on this machine, and what to do about it, a line each.
pub fn advice() -> Vec<String> {
    let found = if cfg!(target_os = "linux") { linux() } else { Vec::new() };
    found.into_iter().chain(drivers().iter().map(|&line| line.into())).collect()
}

/// Where drivers come from on this system, a line each.
pub fn drivers() -> &'static [&'static str] {
    if cfg!(target_os = "linux") {
        &[
            "Debian, Ubuntu: sudo apt-get install libvulkan1 mesa-vulkan-drivers  (AMD, Intel, and without a GPU)",
            "Fedora: sudo dnf install vulkan-loader mesa-vulkan-drivers",
            "Arch: sudo pacman -S vulkan-icd-loader, and vulkan-radeon, vulkan-intel or vulkan-swrast",
            "NVIDIA: the driver package of your distribution; in a container, NVIDIA_DRIVER_CAPABILITIES=all",
        ]
    } else if cfg!(target_os = "macos") {
        &["macOS brings Metal: a Mac (or a virtual machine) without a GPU that Metal knows cannot be used."]
    } else if cfg!(windows) {
        &[
            "Install your GPU's driver, from its maker: AMD, Intel or NVIDIA.",
            "Windows brings the software driver WARP (Microsoft Basic Render Driver); a server edition may lack it.",
        ]
    } else {
        &["Install a Vulkan loader and your GPU's Vulkan driver, or Mesa's software driver (lavapipe)."]
    }
}

const LIBRARIES: [&str; 7] = [
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/run/opengl-driver/lib",
];
const DRIVERS: [&str; 4] = [
    "/usr/share/vulkan/icd.d",
    "/etc/vulkan/icd.d",
    "/usr/local/share/vulkan/icd.d",
    "/run/opengl-driver/share/vulkan/icd.d",
];

fn linux() -> Vec<String> {
    let mut lines = Vec::new();
    let loader = LIBRARIES.iter().any(|folder| Path::new(folder).join("libvulkan.so.1").exists());
    if !loader {
        lines.push("The Vulkan loader (libvulkan.so.1) was not found.".into());
    }
    let forced = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"]
        .iter()
        .find_map(|name| Some((name, std::env::var_os(name).filter(|value| !value.is_empty())?)));
    let drivers: Vec<PathBuf> = DRIVERS.iter().flat_map(|folder| files(folder, "json")).collect();
    match &forced {
        Some((name, value)) => {
            let value = value.to_string_lossy();
            lines.push(format!("{name} is set to {value}: only that driver is tried. Unset it to try all."));
        }
        None if drivers.is_empty() => lines.push("No Vulkan driver is installed.".into()),
        None => {
            let names: Vec<String> =
                drivers.iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned())).collect();
            lines.push(format!("Installed drivers, none of which found a device: {}.", names.join(", ")));
        }
    }
    let nodes: Vec<PathBuf> = files("/dev/dri", "").filter(|path| path.to_string_lossy().contains("renderD")).collect();
    let refused = |path: &PathBuf| {
        let opened = std::fs::File::options().read(true).write(true).open(path);
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    if let Some(node) = nodes.iter().find(|node| refused(node)) {
        let node = node.display();
        lines.push(format!(
            "{node} may not be opened by this user: sudo usermod -aG render,video $USER, then log in again."
        ));
    }
    lines
}

/// Files of a folder with this extension, if there is such a folder.
fn files(folder: &str, extension: &'static str) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(move |path| path.extension().unwrap_or_default() == extension)
}
