//! RGB to yuv420p: BT.709, limited range (ITU-R BT.709-6, items 3.2 to 3.5).

use openh264::formats::YUVSource;

use crate::media::Frame;

/// The three planes of a picture with even sides; chroma has half of each, rounded by the even sides to a whole.
pub(super) struct Planes {
    pub(super) width: u32,
    pub(super) height: u32,
    y: Vec<u8>,
    cb: Vec<u8>,
    cr: Vec<u8>,
}

/// Weights of red and blue in luma; green has the rest.
const KR: f32 = 0.2126;
const KB: f32 = 0.0722;

impl Planes {
    /// Black planes for pictures of this size, an odd side made even.
    pub(super) fn new(width: u32, height: u32) -> Self {
        let (width, height) = (width.next_multiple_of(2), height.next_multiple_of(2));
        let luma = width as usize * height as usize;
        Self { width, height, y: vec![16; luma], cb: vec![128; luma / 4], cr: vec![128; luma / 4] }
    }

    /// Takes in a picture of the size given to [`Planes::new`]. A column or row that it lacks is a copy of its last.
    ///
    /// A chroma sample lies on the even column, between the two rows (the place that decoders assume when the stream
    /// names none), so it averages 1:2:1 across and 1:1 down.
    pub(super) fn read(&mut self, frame: &Frame) {
        let columns = frame.width as usize;
        let (right, bottom) = (columns - 1, frame.height as usize - 1);
        let pixel = |row: usize, column: usize| {
            let at = 3 * (row.min(bottom) * columns + column.min(right));
            [0, 1, 2].map(|channel| f32::from(frame.rgb[at + channel]))
        };
        let width = self.width as usize;
        for (row, line) in self.y.chunks_exact_mut(width).enumerate() {
            for (column, y) in line.iter_mut().enumerate() {
                *y = (16.0 + luma(pixel(row, column)) * (219.0 / 255.0)).round() as u8;
            }
        }
        let chroma = self.cb.chunks_exact_mut(width / 2).zip(self.cr.chunks_exact_mut(width / 2));
        for (row, (cb, cr)) in chroma.enumerate() {
            for (column, (cb, cr)) in cb.iter_mut().zip(cr).enumerate() {
                let mut sum = [0.0; 3];
                for r in [2 * row, 2 * row + 1] {
                    let c = 2 * column;
                    for (c, weight) in [(c.saturating_sub(1), 0.125), (c, 0.25), (c + 1, 0.125)] {
                        let rgb = pixel(r, c);
                        (0..3).for_each(|i| sum[i] += weight * rgb[i]);
                    }
                }
                let y = luma(sum);
                // Half of the span of each difference, so that it fills -112 to 112.
                let scale = |difference: f32, k: f32| 128.0 + difference * (112.0 / 255.0) / (1.0 - k);
                *cb = scale(sum[2] - y, KB).round() as u8;
                *cr = scale(sum[0] - y, KR).round() as u8;
            }
        }
    }
}

/// Luma of gamma-coded RGB, on the scale of its input.
fn luma([r, g, b]: [f32; 3]) -> f32 {
    KR * r + (1.0 - KR - KB) * g + KB * b
}

impl YUVSource for Planes {
    fn dimensions(&self) -> (usize, usize) {
        (self.width as usize, self.height as usize)
    }

    fn strides(&self) -> (usize, usize, usize) {
        let width = self.width as usize;
        (width, width / 2, width / 2)
    }

    fn y(&self) -> &[u8] {
        &self.y
    }

    fn u(&self) -> &[u8] {
        &self.cb
    }

    fn v(&self) -> &[u8] {
        &self.cr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 75% colour bars and the ends of the scale, from the definition in the standard.
    #[test]
    fn known_colours() {
        for (rgb, want) in [
            ([0, 0, 0], [16, 128, 128]),
            ([255, 255, 255], [235, 128, 128]),
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
            ([191, 191, 0], [168, 44, 136]),
            ([0, 191, 191], [145, 147, 44]),
        ] {
            let mut planes = Planes::new(3, 1);
            planes.read(&Frame { width: 3, height: 1, rgb: rgb.repeat(3) });
            assert_eq!((planes.width, planes.height), (4, 2));
            for (plane, value) in [(&planes.y, want[0]), (&planes.cb, want[1]), (&planes.cr, want[2])] {
                assert!(plane.iter().all(|&v| v == value), "{rgb:?}: {plane:?}, not {value}");
            }
        }
    }
}
