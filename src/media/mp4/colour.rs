//! RGB to yuv420p: BT.709, limited range (ITU-R BT.709-6, items 3.2 to 3.5). And back, also from other matrices and from
//! full range (ITU-T H.273, section 8.3).

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

/// How a stream codes colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Coding {
    kr: f32,
    kb: f32,
    /// Whether samples fill all 8 bits.
    full: bool,
    /// Whether chroma counts.
    grey: bool,
}

impl Coding {
    /// The coding with these MatrixCoefficients (H.273, table 4); where a stream does not say, players take BT.601 for what
    /// is no larger than television was, and BT.709 for the rest. `None` for a matrix that is not of luma and chroma.
    pub(super) fn new(matrix: Option<u16>, full: bool, grey: bool, (width, height): (u32, u32)) -> Option<Self> {
        let large = width >= 1280 || height > 576;
        let (kr, kb) = match matrix.unwrap_or(2) {
            1 => (KR, KB),
            // 0 is for RGB, which 4:2:0 cannot be, and 3 is reserved: muxers write them where they know nothing.
            0 | 2 | 3 if large => (KR, KB),
            0 | 2 | 3 | 5 | 6 => (0.299, 0.114),
            4 => (0.3, 0.11),
            7 => (0.212, 0.087),
            9 | 10 => (0.2627, 0.0593),
            _ => return None,
        };
        Some(Self { kr, kb, full, grey })
    }

    /// The picture in these planes, with chroma interpolated as [`double`] does. `None` when they are not whole.
    pub(super) fn rgb(&self, planes: &impl YUVSource) -> Option<Frame> {
        let (width, height) = planes.dimensions();
        if width == 0 || height == 0 {
            return None;
        }
        let (even, strides) = (width.next_multiple_of(2), planes.strides());
        let row = |plane: &[u8], stride: usize, row: usize, width: usize| -> Option<Vec<f32>> {
            let start = row.checked_mul(stride)?;
            Some(plane.get(start..start.checked_add(width)?)?.iter().map(|&value| f32::from(value)).collect())
        };
        let chroma = |plane: &[u8], stride: usize| -> Option<Vec<f32>> {
            let mut half = Vec::with_capacity(even / 2 * height.div_ceil(2));
            for at in 0..height.div_ceil(2) {
                half.extend(row(plane, stride, at, even / 2)?.into_iter().map(|value| value - 128.0));
            }
            Some(double(&half, even))
        };
        // Differences of chroma from grey in units of luma.
        let (unit, lift) = if self.full { (1.0, 0.0) } else { (255.0 / 219.0, 16.0) };
        let span = if self.full { 2.0 } else { 255.0 / 112.0 };
        let (blue, red) = match self.grey {
            true => (vec![0.0; even * (height + 1)], vec![0.0; even * (height + 1)]),
            false => (chroma(planes.u(), strides.1)?, chroma(planes.v(), strides.2)?),
        };
        let kg = 1.0 - self.kr - self.kb;
        let mut rgb = Vec::with_capacity(width * height * 3);
        for at in 0..height {
            let (blue, red) = (blue.get(at * even..)?, red.get(at * even..)?);
            for ((y, blue), red) in row(planes.y(), strides.0, at, width)?.into_iter().zip(blue).zip(red) {
                let y = (y - lift) * unit;
                let (b, r) = (span * (1.0 - self.kb) * blue, span * (1.0 - self.kr) * red);
                let g = -(self.kb * b + self.kr * r) / kg;
                rgb.extend([y + r, y + g, y + b].map(|value| value.round().clamp(0.0, 255.0) as u8));
            }
        }
        Some(Frame { width: width as u32, height: height as u32, rgb })
    }
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

    /// What is flat comes back to within the rounding of its planes, of every matrix and range.
    #[test]
    fn colours_come_back() {
        for (matrix, full) in [1, 5, 7, 9].into_iter().flat_map(|matrix| [(matrix, false), (matrix, true)]) {
            let coding = Coding::new(Some(matrix), full, false, (6, 4)).expect("a known matrix");
            for rgb in
                [[0.0, 0.0, 0.0], [255.0, 255.0, 255.0], [255.0, 0.0, 0.0], [12.0, 200.0, 90.0], [0.0, 0.0, 255.0]]
            {
                let y = coding.kr * rgb[0] + (1.0 - coding.kr - coding.kb) * rgb[1] + coding.kb * rgb[2];
                let (unit, lift, span) = if full { (1.0, 0.0, 0.5) } else { (219.0 / 255.0, 16.0, 112.0 / 255.0) };
                let chroma = |c: f32, k: f32| (128.0 + (c - y) * span / (1.0 - k)).round().clamp(0.0, 255.0) as u8;
                let mut planes = Planes::new(6, 4);
                planes.y.fill((lift + y * unit).round() as u8);
                planes.cb.fill(chroma(rgb[2], coding.kb));
                planes.cr.fill(chroma(rgb[0], coding.kr));
                let frame = coding.rgb(&planes).expect("whole planes");
                assert_eq!((frame.width, frame.height, frame.rgb.len()), (6, 4, 72));
                for pixel in frame.rgb.chunks_exact(3) {
                    let off =
                        pixel.iter().zip(rgb).map(|(got, want)| (f32::from(*got) - want).abs()).fold(0.0, f32::max);
                    assert!(off <= 2.0, "{matrix} {full}: {pixel:?}, not {rgb:?}");
                }
            }
        }
        assert_eq!(Coding::new(Some(8), true, false, (64, 64)), None);
        let grey = Coding::new(None, true, true, (64, 64)).expect("BT.601");
        let mut planes = Planes::new(5, 3);
        planes.y.fill(77);
        planes.cb.fill(3);
        assert!(grey.rgb(&planes).expect("whole").rgb.iter().all(|&value| value == 77));
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
