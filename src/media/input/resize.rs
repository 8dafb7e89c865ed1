//! Resampling in the fixed-point arithmetic of Pillow, whose pixels the pipelines of diffusers and transformers see.

use std::f64::consts::PI;

use super::MOST_PIXELS;
use crate::error::{Error, Result};
use crate::media::Frame;

/// The function that input pixels are weighted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// sinc(x) sinc(x / 3) between -3 and 3: diffusers' pictures.
    Lanczos,
    /// The cubic of Keys (IEEE ASSP 29, 1981) with a = -1/2, between -2 and 2: CLIP's pictures.
    Bicubic,
    /// The tent, between -1 and 1.
    Bilinear,
    /// The mean of what a pixel covers.
    Box,
    /// sinc(x) under a Hamming window, between -1 and 1.
    Hamming,
}

impl Filter {
    /// Where it ends on either side.
    const fn reach(self) -> f64 {
        match self {
            Self::Lanczos => 3.0,
            Self::Bicubic => 2.0,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Box => 0.5,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        let a = x.abs();
        match self {
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic if a < 1.0 => (1.5 * a - 2.5) * a * a + 1.0,
            Self::Bicubic if a < 2.0 => (((a - 5.0) * a + 8.0) * a - 4.0) * -0.5,
            Self::Bilinear if a < 1.0 => 1.0 - a,
            Self::Box if x > -0.5 && x <= 0.5 => 1.0,
            Self::Hamming if a < 1.0 => sinc(a) * (0.54 + 0.46 * (PI * a).cos()),
            _ => 0.0,
        }
    }
}

/// Fractional bits of a weight: 32 less 8 of the pixel and 2 for what the negative lobes make the rest exceed it by.
const BITS: u32 = 22;

/// Stretches a picture to `width` x `height`, whatever its proportions: bit for bit what `Image.resize((width, height),
/// LANCZOS)` of Pillow does with an RGB picture, and so what diffusers' `VideoProcessor.preprocess` does.
///
/// Columns are resampled first, then rows (the other way round when far more rows than columns go, as in Pillow from
/// version 13 on), each rounded to 8 bits. An output pixel `i` is the sum of the input pixels around `(i + 1/2) scale`
/// under sinc(x) sinc(x/3), widened by `scale` (input / output) when the picture shrinks.
///
/// # Errors
/// [`Error::Request`] when a side is zero or absurdly large, or when `frame` is not whole.
pub fn resize(frame: &Frame, width: u32, height: u32) -> Result<Frame> {
    resize_by(frame, width, height, Filter::Lanczos)
}

/// [`resize`] with another filter.
///
/// # Errors
/// As [`resize`].
pub fn resize_by(frame: &Frame, width: u32, height: u32, filter: Filter) -> Result<Frame> {
    if !frame.is_whole() {
        let reason = format!("{}x{} with {} bytes of RGB", frame.width, frame.height, frame.rgb.len());
        return Err(Error::request("frame", reason));
    }
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let rows_first = lost(frame.height, height) > (2 * lost(frame.width, width)).max(0);
    // What lies between the passes.
    let middle = if rows_first { (frame.width, height) } else { (width, frame.height) };
    let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
    if width == 0 || height == 0 || pixels((width, height)).max(pixels(middle)) > MOST_PIXELS {
        let reason = format!("a picture of {}x{} cannot be made {width}x{height}", frame.width, frame.height);
        return Err(Error::request("--size", reason));
    }
    let middle = stretch(frame, middle, filter);
    Ok(stretch(&middle, (width, height), filter))
}

/// One pass, or none: a picture of a size that differs in one side at most.
fn stretch(frame: &Frame, (width, height): (u32, u32), filter: Filter) -> Frame {
    let rgb = if width != frame.width {
        across(&frame.rgb, frame.width as usize, &windows(frame.width, width, filter))
    } else if height != frame.height {
        down(&frame.rgb, width as usize * 3, &windows(frame.height, height, filter))
    } else {
        frame.rgb.clone()
    };
    Frame { width, height, rgb }
}

/// The input pixels that an output pixel is made of: the first, and the weights of it and of those after it.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// The windows of all output pixels along one side.
fn windows(from: u32, to: u32, filter: Filter) -> Vec<Window> {
    let scale = f64::from(from) / f64::from(to);
    let stretch = scale.max(1.0);
    let reach = filter.reach() * stretch;
    let window = |pixel: u32| {
        let centre = (f64::from(pixel) + 0.5) * scale;
        // Truncated towards zero, as Pillow has it; the ends of the picture cut the window off.
        let first = (centre - reach + 0.5) as u32;
        let end = ((centre + reach + 0.5) as u32).min(from);
        let shape = |at: u32| filter.weight((f64::from(at) - centre + 0.5) * (1.0 / stretch));
        let weights: Vec<f64> = (first..end).map(shape).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / sum * f64::from(1_u32 << BITS)).round() as i32;
        Window { first: first as usize, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

/// What a sum begins with, so that [`pixel`] rounds to nearest.
const HALF: i64 = 1 << (BITS - 1);

fn pixel(sum: i64) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

/// Resamples the columns of rows of `width` RGB pixels.
fn across(rgb: &[u8], width: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / width * windows.len());
    for row in rgb.chunks_exact(3 * width) {
        for window in windows {
            let mut sums = [HALF; 3];
            for (pixel, &weight) in row[3 * window.first..].chunks_exact(3).zip(&window.weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i64::from(value) * i64::from(weight);
                }
            }
            out.extend(sums.map(pixel));
        }
    }
    out
}

/// Resamples the rows, of `stride` bytes each.
fn down(rgb: &[u8], stride: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * windows.len());
    let mut sums = vec![HALF; stride];
    for window in windows {
        sums.fill(HALF);
        for (row, &weight) in rgb[stride * window.first..].chunks_exact(stride).zip(&window.weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i64::from(value) * i64::from(weight);
            }
        }
        out.extend(sums.iter().map(|&sum| pixel(sum)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(width: u32, height: u32) -> Frame {
        let pixels =
            (0..width * height).flat_map(|i| [(i * 37 % 256) as u8, (i * 91 % 256) as u8, 255 - (i % 256) as u8]);
        Frame { width, height, rgb: pixels.collect() }
    }

    #[test]
    fn the_same_size_is_the_same_picture_and_flat_stays_flat() -> Result<()> {
        let frame = checks(13, 7);
        assert_eq!(resize(&frame, 13, 7)?, frame);
        let flat = Frame { width: 9, height: 5, rgb: [7, 130, 255].repeat(45) };
        for (width, height) in [(1, 1), (3, 2), (40, 31), (9, 100), (1, 5)] {
            let got = resize(&flat, width, height)?;
            assert_eq!(got.rgb, [7, 130, 255].repeat((width * height) as usize), "{width}x{height}");
        }
        Ok(())
    }

    #[test]
    fn absurd_sizes_and_broken_frames_are_refused() {
        let frame = checks(4, 4);
        for (width, height) in [(0, 4), (4, 0), (u32::MAX, u32::MAX), (1 << 27, 2), ((1 << 27) + 1, 1)] {
            assert!(matches!(resize(&frame, width, height), Err(Error::Request { .. })), "{width}x{height}");
        }
        let broken = Frame { width: 4, height: 4, rgb: vec![0; 47] };
        assert!(matches!(resize(&broken, 2, 2), Err(Error::Request { .. })));
    }
}
