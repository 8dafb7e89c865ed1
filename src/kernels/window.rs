//! Windows that begin where a device can bind them.

use std::ops::Range;

use crate::graph::{DeviceKind, DeviceProfile};

/// The most bytes that a shader's 32-bit indices are trusted with, whatever the device binds.
const INDEXABLE: u64 = 1 << 31;

/// The largest window, in bytes, whose start may lie anywhere: aligning it down adds less than the alignment.
pub(super) fn room(profile: &DeviceProfile) -> u64 {
    profile.max_binding.min(INDEXABLE).saturating_sub(profile.offset_alignment.max(16))
}

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

/// [`window`], with the number of elements that precede `range` in it.
pub(super) fn aligned(range: Range<usize>, size: usize, profile: &DeviceProfile) -> (Range<u64>, usize) {
    let (bytes, first) = window(range.clone(), size, profile);
    (bytes, range.start - first)
}

/// How many neighbours one invocation should deal with, of `extent` in a row: a divisor. On GPUs neighbouring
/// invocations read neighbours; software drivers read one by one in any case, and there dividing indices costs most.
pub(super) fn run(extent: usize, profile: &DeviceProfile) -> usize {
    let most = if profile.kind == DeviceKind::Cpu { 8 } else { 1 };
    (1..=most).rev().find(|&run| extent.is_multiple_of(run)).unwrap_or(1)
}

/// `rows` rows of `row_bytes` each in windows that can be bound wherever they start.
///
/// # Errors
/// When not even one row fits.
pub(super) fn rows(rows: usize, row_bytes: u64, profile: &DeviceProfile) -> Result<Vec<Range<usize>>, String> {
    let most = room(profile) / row_bytes.max(1);
    if most == 0 {
        return Err(format!(
            "rows of {row_bytes} bytes do not fit the device's largest binding of {} bytes",
            profile.max_binding
        ));
    }
    let most = most as usize;
    Ok((0..rows).step_by(most).map(|start| start..rows.min(start + most)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_all_rows_and_fit() {
        let profile = DeviceProfile { max_binding: 4096, ..DeviceProfile::webgpu_floor() };
        for row_bytes in [2, 10, 52, 256, 3000] {
            let windows = rows(1000, row_bytes, &profile).expect("fits");
            let mut next = 0;
            for window in windows {
                assert_eq!(window.start, next);
                next = window.end;
                let (bytes, _) = aligned(window, row_bytes as usize, &profile);
                assert!(bytes.start % 256 == 0 && bytes.end - bytes.start <= 4096, "{row_bytes}: {bytes:?}");
            }
            assert_eq!(next, 1000);
        }
        assert!(rows(2, 3841, &profile).is_err());
    }

    #[test]
    fn aligned_windows_tell_where_the_elements_are() {
        let profile = DeviceProfile::webgpu_floor();
        assert_eq!(aligned(100..200, 4, &profile), (256..800, 36));
        assert_eq!(aligned(101..103, 2, &profile), (0..206, 101));
    }
}
