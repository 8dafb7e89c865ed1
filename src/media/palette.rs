//! The best 256 colours for a picture, by splitting boxes of colours where they vary most.
//!
//! As in median cut (P. Heckbert, "Color image quantization for frame buffer display", SIGGRAPH 1982), but the box to
//! split is the one with the largest squared error, and it is split at its mean, on its axis of largest variance
//! (S. Wan, K. Wong, P. Prusinkiewicz, ACM TOMS 14(2), 1988). A picture of at most 256 colours keeps them exactly.

use std::ops::Range;

/// The most colours there can be, since an index is a byte.
const COLOURS: usize = 256;

/// A colour as red, green, blue, and how many pixels have it.
type Counted = ([u8; 3], u32);

/// Some of the counted colours, which will share one.
struct Cell {
    range: Range<usize>,
    mean: [f64; 3],
    /// Sums of squared distances from the mean, on each axis.
    error: [f64; 3],
}

impl Cell {
    fn new(all: &[Counted], range: Range<usize>) -> Self {
        let members = &all[range.clone()];
        let pixels: f64 = members.iter().map(|(_, count)| f64::from(*count)).sum();
        let sum = |term: &dyn Fn(f64) -> f64, axis: usize| -> f64 {
            members.iter().map(|(colour, count)| term(f64::from(colour[axis])) * f64::from(*count)).sum()
        };
        let mean = [0, 1, 2].map(|axis| sum(&|c| c, axis) / pixels);
        let error = [0, 1, 2].map(|axis| sum(&|c| (c - mean[axis]).powi(2), axis));
        Self { range, mean, error }
    }

    fn total(&self) -> f64 {
        self.error.iter().sum()
    }

    /// Splits the cell in two at its mean, when it has more than one colour.
    fn split(&self, all: &mut [Counted]) -> Option<[Self; 2]> {
        let axis = (0..3).max_by(|&a, &b| self.error[a].total_cmp(&self.error[b]))?;
        let members = &mut all[self.range.clone()];
        members.sort_unstable_by_key(|(colour, _)| (colour[axis], *colour));
        let low = members.partition_point(|(colour, _)| f64::from(colour[axis]) <= self.mean[axis]);
        let middle = self.range.start + low;
        let halves = [self.range.start..middle, middle..self.range.end];
        if halves.iter().any(Range::is_empty) {
            return None;
        }
        Some(halves.map(|range| Self::new(all, range)))
    }
}

/// A palette (`[r, g, b, ...]`, at most 256 colours) and each pixel's place in it, for RGB pixels.
pub(super) fn quantise(rgb: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let pixels = || rgb.chunks_exact(3).map(|p| [p[0], p[1], p[2]]);
    let mut sorted: Vec<[u8; 3]> = pixels().collect();
    sorted.sort_unstable();
    let mut all: Vec<Counted> = Vec::new();
    for colour in sorted {
        match all.last_mut() {
            Some((last, count)) if *last == colour => *count += 1,
            _ => all.push((colour, 1)),
        }
    }
    let mut cells = vec![Cell::new(&all, 0..all.len())];
    while cells.len() < COLOURS {
        let worst = (0..cells.len()).max_by(|&a, &b| cells[a].total().total_cmp(&cells[b].total()));
        // The worst of all cannot be split only when every cell is of one colour.
        let Some((worst, [low, high])) = worst.and_then(|i| Some((i, cells[i].split(&mut all)?))) else { break };
        cells[worst] = low;
        cells.push(high);
    }
    let palette = cells.iter().flat_map(|cell| cell.mean.map(|c| c.round() as u8)).collect();
    let mut places: Vec<([u8; 3], u8)> = Vec::with_capacity(all.len());
    for (index, cell) in cells.iter().enumerate() {
        places.extend(all[cell.range.clone()].iter().map(|(colour, _)| (*colour, index as u8)));
    }
    places.sort_unstable();
    let place = |colour| places.binary_search_by_key(&colour, |(c, _)| *c).map_or(0, |at| places[at].1);
    (palette, pixels().map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(rgb: &[u8]) -> (Vec<u8>, usize) {
        let (palette, indices) = quantise(rgb);
        let colour = |&i: &u8| palette[3 * usize::from(i)..][..3].to_vec();
        (indices.iter().flat_map(colour).collect(), palette.len() / 3)
    }

    #[test]
    fn few_colours_are_kept() {
        let one = [9, 8, 7].repeat(5);
        assert_eq!(restored(&one), (one.clone(), 1));
        let all: Vec<u8> = (0..=255_u8).flat_map(|i| [i, i.wrapping_mul(37), 255 - i]).collect();
        assert_eq!(restored(&all), (all.clone(), 256));
    }

    #[test]
    fn many_colours_are_close() {
        // 32 x 32 x 4 colours, evenly spread: no 256 can be nearer than half a cell of 2 x 2 x 4 (or so) of them.
        let rgb: Vec<u8> =
            (0..4096_u32).flat_map(|i| [(i % 32 * 8) as u8, (i / 32 % 32 * 8) as u8, (i / 1024 * 8) as u8]).collect();
        let (close, colours) = restored(&rgb);
        assert_eq!(colours, 256);
        let worst = rgb.iter().zip(&close).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(16), "{worst:?}");
    }
}
