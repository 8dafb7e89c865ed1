//! Windows that begin where a device can bind them.

use std::ops::Range;

use crate::graph::DeviceProfile;

/// The bytes that hold the elements `range`, of `size` bytes each, beginning at an aligned byte at or before them, and
/// the element that begins there.
///
/// Unlike [`DeviceProfile::window_rows`] it lets windows start anywhere: the shader is told how many elements precede
/// those that it wants. A window is up to [`DeviceProfile::offset_alignment`] bytes longer than its elements.
pub fn window(range: Range<usize>, size: usize, profile: &DeviceProfile) -> (Range<u64>, usize) {
    let alignment = profile.offset_alignment.max(16) as usize;
    let start = range.start * size / alignment * alignment;
    (start as u64..(range.end * size) as u64, start / size)
}
