//! Twins of `average_down` and `duplicate_up`.

use crate::graph::Twin;
use crate::kernels::shortcut::{AverageDown, DuplicateUp};

/// base + the means of G elements after each other of x \[T, H, W, C\], once frames, rows and columns are channels.
pub fn average_down(kernel: &AverageDown, x: &Twin, base: &Twin) -> Vec<f64> {
    let [ft, fs] = kernel.factor;
    let [t, h, w, c] = [0, 1, 2, 3].map(|axis| x.shape[axis]);
    let [_, rows, columns, o] = [0, 1, 2, 3].map(|axis| base.shape[axis]);
    let factor = ft * fs * fs;
    let group = c * factor / o;
    let pad = t.next_multiple_of(ft) - t;
    let mut y = base.values.clone();
    for (n, y) in y.iter_mut().enumerate() {
        let (frame, row, column, o) = (n / (rows * columns * o), n / (columns * o) % rows, n / o % columns, n % o);
        let mut sum = 0.0;
        for k in o * group..(o + 1) * group {
            let (channel, i, j, l) = (k / factor, k / (fs * fs) % ft, k / fs % fs, k % fs);
            // The frames in front of the first are zeros.
            if let Some(t) = (frame * ft + i).checked_sub(pad) {
                sum += x.values[((t * h + row * fs + j) * w + column * fs + l) * c + channel];
            }
        }
        *y += sum / group as f64;
    }
    y
}

/// base + x \[T, H, W, C\] with every channel repeated, the repetitions spread over frames, rows and columns.
pub fn duplicate_up(kernel: &DuplicateUp, x: &Twin, base: &Twin) -> Vec<f64> {
    let [ft, fs] = kernel.factor;
    let [h, w, c] = [1, 2, 3].map(|axis| x.shape[axis]);
    let [_, rows, columns, o] = [0, 1, 2, 3].map(|axis| base.shape[axis]);
    let repeats = o * ft * fs * fs / c;
    let mut y = base.values.clone();
    for (n, y) in y.iter_mut().enumerate() {
        let (frame, row, column, o) = (n / (rows * columns * o), n / (columns * o) % rows, n / o % columns, n % o);
        let frame = frame + if kernel.first { ft - 1 } else { 0 };
        let k = ((o * ft + frame % ft) * fs + row % fs) * fs + column % fs;
        *y += x.values[((frame / ft * h + row / fs) * w + column / fs) * c + k / repeats];
    }
    y
}
