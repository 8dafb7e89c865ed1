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
    /// Half of the chroma's detail goes either way, which shows in pictures as small as 64x64. So the chroma is chosen
    /// for what a player shows, which interpolates: what an interpolation of the plain average misses is averaged in
    /// turn and added (one round of iterative back-projection; M. Irani and S. Peleg, CVGIP 53(3), 1991).
    pub(super) fn read(&mut self, frame: &Frame) {
        let columns = frame.width as usize;
        let (right, bottom) = (columns - 1, frame.height as usize - 1);
        let (width, height) = (self.width as usize, self.height as usize);
        let mut blue = Vec::with_capacity(width * height);
        let mut red = Vec::with_capacity(width * height);
        for (row, line) in self.y.chunks_exact_mut(width).enumerate() {
            for (column, out) in line.iter_mut().enumerate() {
                let at = 3 * (row.min(bottom) * columns + column.min(right));
                let rgb = [0, 1, 2].map(|channel| f32::from(frame.rgb[at + channel]));
                let y = luma(rgb);
                *out = (16.0 + y * (219.0 / 255.0)).round() as u8;
                blue.push(rgb[2] - y);
                red.push(rgb[0] - y);
            }
        }
        for (full, plane, k) in [(blue, &mut self.cb, KB), (red, &mut self.cr, KR)] {
            let half = halve(&full, width);
            let missed: Vec<f32> = full.iter().zip(double(&half, width)).map(|(want, got)| want - got).collect();
            for ((out, average), more) in plane.iter_mut().zip(&half).zip(halve(&missed, width)) {
                // Half of the difference's span, so that it fills -112 to 112.
                let chroma = (average + more) * (112.0 / 255.0) / (1.0 - k);
                *out = (128.0 + chroma.round()).clamp(16.0, 240.0) as u8;
            }
        }
    }
}

/// A plane of even sides at half its size. A sample lies on the even column, between the two rows (the place that
/// decoders assume when the stream names none), so it averages 1:2:1 across and 1:1 down.
fn halve(full: &[f32], width: usize) -> Vec<f32> {
    let across = |row: &[f32], c: usize| (row[c.saturating_sub(1)] + 2.0 * row[c] + row[c + 1]) / 4.0;
    let pair = |rows: &[f32]| {
        let (upper, lower) = rows.split_at(width);
        let half = (0..width).step_by(2).map(|c| (across(upper, c) + across(lower, c)) / 2.0);
        half.collect::<Vec<f32>>()
    };
    full.chunks_exact(2 * width).flat_map(pair).collect()
}

/// A plane that [`halve`] made, at twice its size, as a player interpolates it: linearly, from where the samples lie.
fn double(half: &[f32], width: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = half.chunks_exact(width / 2).collect();
    let mut full = Vec::with_capacity(4 * half.len());
    for (i, near) in rows.iter().enumerate() {
        for far in [rows[i.saturating_sub(1)], rows[(i + 1).min(rows.len() - 1)]] {
            let down = |c: usize| 0.75 * near[c] + 0.25 * far[c];
            for c in 0..width / 2 {
                full.push(down(c));
                full.push((down(c) + down((c + 1).min(width / 2 - 1))) / 2.0);
            }
        }
    }
    full
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

    /// An interpolated picture is nearer to the source than without the correction, even at edges that are not smooth.
    #[test]
    fn correction_pays() {
        let (width, height) = (64, 48);
        let inside = |i: usize| (i % width).abs_diff(30).pow(2) + (i / width).abs_diff(20).pow(2) < 150;
        let full: Vec<f32> = (0..width * height).map(|i| if inside(i) { 80.0 } else { -40.0 }).collect();
        let plain = halve(&full, width);
        let error = |half: &[f32]| -> f32 { full.iter().zip(double(half, width)).map(|(a, b)| (a - b).powi(2)).sum() };
        let missed: Vec<f32> = full.iter().zip(double(&plain, width)).map(|(a, b)| a - b).collect();
        let better: Vec<f32> = plain.iter().zip(halve(&missed, width)).map(|(a, b)| a + b).collect();
        assert!(error(&better) < error(&plain), "{} {}", error(&better), error(&plain));
    }

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
