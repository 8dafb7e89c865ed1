//! The small model inside the binary.

use crate::error::{Error, Result};

/// The files of the embedded model by their path in the pipeline folder.
///
/// # Errors
/// When this build has none (the feature `embedded` is off).
pub fn files() -> Result<&'static [(&'static str, &'static [u8])]> {
    Err(Error::request("--model", "this build has no embedded model; give --model DIR"))
}
