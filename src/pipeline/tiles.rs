//! The VAE on tiles of a video's pictures, so that it takes the memory of a tile: `tiled_decode` and `tiled_encode` of
//! diffusers' `AutoencoderKLWan`, with its choice of tiles and its blending.
//!
//! The video of one tile goes through the VAE from its first frame to its last before the next tile's does. What every
//! layer remembers between frames is most of a decoder's memory (about 9 KB for each pixel of Wan 2.1's), and so there is
//! only ever one tile's of it on the device. The price is on the host, where the pictures lie until the last tile is there
//! (3 bytes a pixel, and 12 where tiles overlap), and frames come once it does.

use std::ops::Range;
use std::str::FromStr;

use super::stream::{Chunk, Chunks, Weights};
use super::{Model, Settings, decode, pictures};
use crate::error::{Error, Result};
use crate::gpu::Gpu;

/// Whether the VAE works on tiles of the pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// When whole pictures do not fit the device, on the largest that do.
    #[default]
    Auto,
    /// Never.
    Off,
    /// On these, where pictures are larger.
    On(Tile),
}

/// The square tiles of a VAE, in pixels of the video. Where they overlap one is faded into the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Side of a tile. The encoder of a VAE that sees patches of pixels has tiles larger by a patch's side, as diffusers
    /// has it.
    pub size: usize,
    /// From one tile to the next.
    pub stride: usize,
}

impl Default for Tile {
    /// diffusers' own: 256 pixels, 192 from one to the next.
    fn default() -> Self {
        Self { size: 256, stride: 192 }
    }
}

impl std::fmt::Display for Tile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.size, self.stride)
    }
}

impl FromStr for Tile {
    type Err = Error;

    /// `SIZE` or `SIZE:STRIDE`; the stride is three quarters of the size if open.
    fn from_str(text: &str) -> Result<Self> {
        let help = || Error::request("--vae-tile", "give SIZE or SIZE:STRIDE in pixels, such as 256 or 256:192");
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|&n| n > 0 && n <= 1 << 20);
        match text.split_once(':') {
            None => number(text).map(|size| Self { size, stride: (size * 3 / 4).max(1) }),
            Some((size, stride)) => number(size).zip(number(stride)).map(|(size, stride)| Self { size, stride }),
        }
        .ok_or_else(help)
    }
}

impl Tile {
    /// Refuses tiles that are not made of whole latents: the reference would lay them beside their places.
    pub(super) fn check(self, model: &Model) -> Result<()> {
        let unit = model.pixels_per_latent();
        let odd = |side: usize| side == 0 || !side.is_multiple_of(unit);
        if odd(self.size) || odd(self.stride) || self.stride > self.size {
            let size = (self.size / unit).max(1) * unit;
            let stride = (self.stride / unit * unit).clamp(unit, size);
            let reason = format!(
                "tiles of {} pixels, {} from one to the next, do not work with this model: both must be multiples of \
                 {unit}, the second no larger than the first; the nearest are {size}:{stride}",
                self.size, self.stride
            );
            return Err(Error::request("--vae-tile", reason));
        }
        Ok(())
    }

    /// Whether pictures of so many rows and columns of pixels are cut at all.
    fn cuts(self, [height, width]: [usize; 2]) -> bool {
        height > self.size || width > self.size
    }

    /// The decoder's tiles of pictures of so many rows and columns of latents, or the one that is the picture.
    pub(super) fn of_decoder(tile: Option<Self>, model: &Model, latents: [usize; 2]) -> Grid {
        let unit = model.pixels_per_latent();
        Grid::new(tile.filter(|tile| tile.cuts(latents.map(|side| side * unit))), unit, latents)
    }

    /// The encoder's, which sees patches where the decoder sees pixels.
    pub(super) fn of_encoder(tile: Option<Self>, model: &Model, latents: [usize; 2]) -> Grid {
        let unit = model.pixels_per_latent();
        let tile = tile.filter(|tile| tile.cuts(latents.map(|side| side * unit)));
        Grid::new(tile, (unit / model.vae.config().patch).max(1), latents)
    }
}

/// Tiles of a picture, in latents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub rows: Vec<Range<usize>>,
    pub columns: Vec<Range<usize>>,
    /// From one to the next.
    pub stride: usize,
}

impl Grid {
    /// Tiles in units of which a latent has `unit`, over so many rows and columns of latents.
    fn new(tile: Option<Tile>, unit: usize, [rows, columns]: [usize; 2]) -> Self {
        let Some(tile) = tile else {
            let whole = |side: usize| std::iter::once(0..side).collect();
            return Self { rows: whole(rows), columns: whole(columns), stride: rows.max(columns) };
        };
        let (size, stride) = ((tile.size / unit).max(1), (tile.stride / unit).max(1));
        let spans = |side: usize| (0..side).step_by(stride).map(|at| at..(at + size).min(side)).collect();
        Self { rows: spans(rows), columns: spans(columns), stride }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.rows.len() * self.columns.len()
    }

    /// Where each lies in the grid, in their order: row by row.
    pub fn places(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        (0..self.rows.len()).flat_map(|i| (0..self.columns.len()).map(move |j| [i, j]))
    }

    /// Rows and columns that a tile covers.
    pub fn at(&self, [i, j]: [usize; 2]) -> [Range<usize>; 2] {
        [self.rows[i].clone(), self.columns[j].clone()]
    }

    /// Rows and columns of the largest tile.
    pub fn largest(&self) -> [usize; 2] {
        let most = |spans: &[Range<usize>]| spans.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        [most(&self.rows), most(&self.columns)]
    }
}

/// What the tiles that are done leave for those beside and below them, of one picture.
pub(super) struct Seams {
    /// Elements from one tile to the next.
    stride: usize,
    /// Elements that are blended by one weight: a patch's side.
    unit: usize,
    /// Values of an element.
    channels: usize,
    /// Of each column of tiles, what the last tile has below its stride: \[rows, tile's columns, C\].
    above: Vec<Vec<f32>>,
    /// What the last tile has right of its stride: \[tile's rows, columns, C\].
    left: Vec<f32>,
}

impl Seams {
    /// For a grid whose latents have `scale` elements a side.
    pub fn new(grid: &Grid, scale: usize, unit: usize, channels: usize) -> Self {
        Self {
            stride: grid.stride * scale,
            unit,
            channels,
            above: vec![Vec::new(); grid.columns.len()],
            left: Vec::new(),
        }
    }

    /// Fades the tile at a place, \[rows, columns, C\], in over those above and left of it: `blend_v`, then `blend_h`.
    pub fn blend(&mut self, tile: &mut [f32], [rows, columns]: [usize; 2], [i, j]: [usize; 2]) {
        let Self { stride, unit, channels, above, left } = self;
        let row = columns * *channels;
        let weights = |at: usize, extent: usize| {
            let share = (at / *unit) as f64 / extent.div_ceil(*unit) as f64;
            [(1.0 - share) as f32, share as f32]
        };
        let fade = |old: &[f32], new: &mut [f32], [a, b]: [f32; 2]| {
            old.iter().zip(new).for_each(|(old, new)| *new = *old * a + *new * b);
        };
        if i > 0 {
            let extent = above[j].len() / row;
            for (y, (old, new)) in above[j].chunks_exact(row).zip(tile.chunks_exact_mut(row)).enumerate() {
                fade(old, new, weights(y, extent));
            }
        }
        if j > 0 {
            let extent = left.len() / (rows * *channels);
            for (old, new) in left.chunks_exact((extent * *channels).max(1)).zip(tile.chunks_exact_mut(row)) {
                for (x, (old, new)) in old.chunks_exact(*channels).zip(new.chunks_exact_mut(*channels)).enumerate() {
                    fade(old, new, weights(x, extent));
                }
            }
        }
        let (kept_rows, kept_columns) = (rows.min(*stride), columns.min(*stride));
        above[j] = tile[kept_rows * row..].to_vec();
        *left = tile.chunks_exact(row).flat_map(|row| &row[kept_columns * *channels..]).copied().collect();
    }
}

/// The programs of a VAE for tiles: those of one shape at a time.
pub(super) struct TilePrograms<'a> {
    gpu: &'a Gpu,
    /// Whether there are chunks after the first.
    more: bool,
    record: &'a dyn Fn([usize; 2], bool) -> Result<Chunk>,
    current: Option<([usize; 2], Chunks)>,
}

impl<'a> TilePrograms<'a> {
    /// Of what `record` gives for a shape, and for the first chunk (`true`) or others.
    pub fn new(gpu: &'a Gpu, more: bool, record: &'a dyn Fn([usize; 2], bool) -> Result<Chunk>) -> Self {
        Self { gpu, more, record, current: None }
    }

    /// The programs for a tile of so many rows and columns, which remember nothing yet.
    pub fn begin(&mut self, shape: [usize; 2]) -> Result<&Chunks> {
        match self.current.take() {
            Some((other, chunks)) if other == shape => {
                chunks.forget(self.gpu)?;
                Ok(&self.current.insert((shape, chunks)).1)
            }
            other => {
                // The old ones leave before the new ones come.
                drop(other);
                let chunks = Chunks::new(self.gpu, self.more, |first| (self.record)(shape, first))?;
                Ok(&self.current.insert((shape, chunks)).1)
            }
        }
    }
}

/// Smaller tiles are mostly seams.
const SMALLEST: usize = 64;

/// The tiles that a run works on: those that were asked for, or the largest that fit when whole pictures do not.
///
/// # Errors
/// [`Error::OutOfMemory`] when nothing fits that may be used.
pub(super) fn settle(gpu: &Gpu, model: &Model, settings: &Settings) -> Result<Option<Tile>> {
    let (latents, steps) = (settings.latents, pictures::steps(model, settings));
    settings.tiling.settle(model, latents, &|tile, weights| {
        decode::check_memory(gpu, model, latents, tile, weights)?;
        pictures::check_memory(gpu, model, latents, steps, tile, weights)
    })
}

impl Settings {
    /// Bytes on the host of the pictures and seams that wait for the decoder's last tile.
    pub(super) fn tile_bytes(&self) -> u64 {
        let Some(Tile { size, stride }) = self.tile.filter(|tile| tile.cuts([self.height, self.width])) else {
            return 0;
        };
        let overlap = size - stride;
        let seams = overlap * self.width * size.div_ceil(stride) + size * overlap;
        (self.frames * (3 * self.width * self.height + 12 * seams)) as u64
    }
}

impl Tiling {
    /// The tiles for latents \[1, C, F, h, w\], when `fits` tells what does: those with which the weights stay on the
    /// device before those with which they pass through it, which costs more than seams do.
    ///
    /// # Errors
    /// As [`settle`].
    pub(super) fn settle(
        self,
        model: &Model,
        latents: [usize; 5],
        fits: &dyn Fn(Option<Tile>, Weights) -> Result<()>,
    ) -> Result<Option<Tile>> {
        let with = |weights| self.settle_with(model, latents, &|tile| fits(tile, weights));
        match with(Weights::Stay) {
            Err(Error::OutOfMemory(_)) => with(Weights::Pass),
            settled => settled,
        }
    }

    fn settle_with(
        self,
        model: &Model,
        [_, _, _, rows, columns]: [usize; 5],
        fits: &dyn Fn(Option<Tile>) -> Result<()>,
    ) -> Result<Option<Tile>> {
        let unit = model.pixels_per_latent();
        match self {
            Self::On(tile) => {
                tile.check(model)?;
                fits(Some(tile)).map(|()| Some(tile))
            }
            Self::Off => fits(None).map(|()| None).map_err(|error| match error {
                Error::OutOfMemory(reason) => Error::OutOfMemory(format!("{reason}, or leave --vae-tiling off")),
                other => other,
            }),
            Self::Auto => {
                let whole = match fits(None) {
                    Ok(()) => return Ok(None),
                    Err(error @ Error::OutOfMemory(_)) => error,
                    Err(other) => return Err(other),
                };
                // In units whose three quarters are whole latents.
                let tile = |n: usize| Tile { size: 4 * n * unit, stride: 3 * n * unit };
                let mut found = None;
                let (mut low, mut high) = (SMALLEST.div_ceil(4 * unit), rows.max(columns).div_ceil(4));
                while low < high {
                    let middle = low + (high - low) / 2;
                    match fits(Some(tile(middle))) {
                        Ok(()) => (found, low) = (Some(tile(middle)), middle + 1),
                        Err(Error::OutOfMemory(_)) => high = middle,
                        Err(other) => return Err(other),
                    }
                }
                found.map(Some).ok_or(whole)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_picture_as_the_reference_lays_them() {
        let spans = |size, stride, side| Grid::new(Some(Tile { size, stride }), 8, [side, 4]).rows;
        assert_eq!(spans(256, 192, 60), [0..32, 24..56, 48..60]);
        // The last lies wholly in the one before, and is blended all the same.
        assert_eq!(spans(256, 192, 32), [0..32, 24..32]);
        assert_eq!(spans(64, 64, 20), [0..8, 8..16, 16..20]);
        let whole = Grid::new(None, 8, [60, 104]);
        assert_eq!((whole.count(), whole.largest()), (1, [60, 104]));
    }

    #[test]
    fn tiles_are_read() {
        let tile = |size, stride| Some(Tile { size, stride });
        assert_eq!("256".parse::<Tile>().ok(), tile(256, 192));
        assert_eq!("128:96".parse::<Tile>().ok(), tile(128, 96));
        assert_eq!(Tile::default().to_string().parse::<Tile>().ok(), tile(256, 192));
        for text in ["", "0", "a", "256:", ":3", "256:0", "-8", "99999999999"] {
            assert!(text.parse::<Tile>().is_err(), "{text}");
        }
    }

    /// Tiles cut from one picture blend to that picture again, and others fade from one to the other.
    #[test]
    fn seams_fade() {
        let grid = Grid::new(Some(Tile { size: 6, stride: 4 }), 1, [9, 10]);
        let value = |y: usize, x: usize| (y * 10 + x) as f32;
        let mut seams = Seams::new(&grid, 1, 1, 1);
        for place in grid.places() {
            let [rows, columns] = grid.at(place);
            let cut = || rows.clone().flat_map(|y| columns.clone().map(move |x| value(y, x)));
            let mut tile: Vec<f32> = cut().collect();
            seams.blend(&mut tile, [rows.len(), columns.len()], place);
            assert!(tile.iter().zip(cut()).all(|(got, want)| (got - want).abs() < 1e-4), "{place:?}");
        }
        let grid = Grid::new(Some(Tile { size: 8, stride: 4 }), 1, [1, 12]);
        let mut seams = Seams::new(&grid, 1, 2, 1);
        let mut tiles = [vec![0.0; 8], vec![1.0; 8], vec![0.0; 4]];
        for (j, tile) in tiles.iter_mut().enumerate() {
            let columns = tile.len();
            seams.blend(tile, [1, columns], [0, j]);
        }
        // Units of two elements have one weight.
        assert_eq!(tiles[1], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(tiles[2], [1.0, 1.0, 0.5, 0.5]);
    }
}
