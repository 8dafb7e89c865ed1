//! The one error type: what was being done, to what, and what to do about it.

use std::path::{Path, PathBuf};

/// Everything that can go wrong, worded for the person at the keyboard.
///
/// Each message says what is wrong and, where there is a remedy, names it; [`Error::exit_code`] maps the kinds to
/// the documented exit codes of the command line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting of a request that cannot be used (a size off the patch grid, zero frames, NaN guidance...).
    #[error("{argument}: {reason}")]
    Request {
        /// The setting, as the command line names it (`--size`).
        argument: String,
        /// Why, and what would work.
        reason: String,
    },
    /// A file that could not be read or written.
    #[error("{}: {source}{}", path.display(), remedy(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A model file whose content is broken or not what its name promises.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that is missing, unexpected, or of the wrong shape or type.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    Tensor {
        /// The file or folder that holds it, or should.
        path: PathBuf,
        /// Its full dotted name.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An operation of a graph that was given arguments it cannot take. Only the first one of a graph is reported.
    #[error("{op} in {scope}: {reason} (built at {caller})")]
    Graph {
        /// The operation, by its kernel's name.
        op: String,
        /// The dotted path of the layer that asked for it.
        scope: String,
        /// What does not fit, with the shapes.
        reason: String,
        /// The line of source that asked for it.
        caller: String,
    },
    /// A kernel that the device's compiler refused.
    #[error("kernel {kernel} did not compile on this device: {reason}")]
    Kernel {
        /// The kernel's name, with its variant.
        kernel: String,
        /// The compiler's message.
        reason: String,
    },
    /// No usable GPU, not even a software one.
    #[error("{0}")]
    NoAdapter(String),
    /// The device went away in mid-run (a driver reset, an unplugged card, a watchdog).
    #[error("the GPU was lost: {0}")]
    DeviceLost(String),
    /// The device, or its limits, cannot hold what the request needs.
    #[error("not enough GPU memory: {0}")]
    OutOfMemory(String),
    /// A picture or video that could not be encoded or decoded.
    #[error("{}: {reason}", path.display())]
    Media {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The caller's progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// A fault of mutoscope itself; please report it.
    #[error("internal error: {0} (please report this)")]
    Internal(String),
}

/// [`std::result::Result`] with [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What to do about an error of the operating system, where something can be done.
fn remedy(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ". The disk is full: make room, or name a place on another"
        }
        _ => "",
    }
}

impl Error {
    /// A setting that cannot be used; `argument` as the command line names it.
    pub fn request(argument: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Request { argument: argument.into(), reason: reason.into() }
    }

    /// A file that could not be read or written.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// A model file or folder that is broken.
    pub fn model(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Model { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// A tensor that is missing, unexpected or malformed.
    pub fn tensor(path: impl AsRef<Path>, tensor: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Tensor { path: path.as_ref().to_path_buf(), tensor: tensor.into(), reason: reason.into() }
    }

    /// A picture or video that could not be encoded or decoded.
    pub fn media(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Media { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// The exit code of the command line for this error: 2 for a bad request (as for bad usage), 3 for files,
    /// 4 for models, 5 for the GPU, 6 for memory, 7 for media, 70 for a fault of our own, 99 when cancelled.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Request { .. } => 2,
            Self::Io { .. } => 3,
            Self::Model { .. } | Self::Tensor { .. } => 4,
            Self::NoAdapter(_) | Self::DeviceLost(_) | Self::Kernel { .. } => 5,
            Self::OutOfMemory(_) => 6,
            Self::Media { .. } => 7,
            Self::Graph { .. } | Self::Internal(_) => 70,
            Self::Cancelled => 99,
        }
    }
}
