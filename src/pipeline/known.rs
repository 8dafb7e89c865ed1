//! Frames of a video that are given, as data.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::media::{Frame, KnownFrames};

/// Frames of a video that are known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The first of them, by its number from 0, or counted from the video's end: -1 is the last frame.
    pub start: isize,
    /// What they show, one after the other. Another size than the video's is stretched to it as diffusers does it.
    pub pixels: Arc<[Frame]>,
}

impl Known {
    /// A picture to begin with.
    pub fn first(picture: Frame) -> Self {
        Self { start: 0, pixels: Arc::new([picture]) }
    }

    /// A picture to end with.
    pub fn last(picture: Frame) -> Self {
        Self { start: -1, pixels: Arc::new([picture]) }
    }

    /// What a recipe says of them.
    pub(super) fn recipe(&self) -> KnownFrames {
        let Range { start, end } = self.frames();
        KnownFrames { start: start as u32, count: (end - start) as u32, sha256: sha256(&self.pixels) }
    }

    /// Which frames of the video, once none is counted from its end.
    pub(super) fn frames(&self) -> Range<usize> {
        let start = self.start.unsigned_abs();
        start..start + self.pixels.len()
    }

    /// The picture at a frame of the video.
    pub(super) fn picture(&self, frame: usize) -> Option<&Frame> {
        self.pixels.get(frame.checked_sub(self.frames().start)?)
    }
}

/// What identifies pictures in a recipe.
pub(super) fn sha256(pictures: &[Frame]) -> String {
    let mut hash = Sha256::new();
    for picture in pictures {
        hash.update(format!("{}x{}\n", picture.width, picture.height));
        hash.update(&picture.rgb);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The known frames of a video of so many frames in their order, none counted from its end.
///
/// # Errors
/// When they are not in the video, overlap, or have no pictures.
pub(super) fn placed(known: &[Known], frames: usize) -> Result<Vec<Known>> {
    let refuse = |reason: String| Err(Error::request("known frames", reason));
    let mut placed: Vec<Known> = Vec::with_capacity(known.len());
    for part in known {
        let count = part.pixels.len();
        let start =
            if part.start < 0 { frames.checked_add_signed(part.start) } else { Some(part.start.unsigned_abs()) };
        match start {
            _ if count == 0 => return refuse(format!("there is no picture for frame {}", part.start)),
            Some(start) if start.saturating_add(count) <= frames => {
                placed.push(Known { start: start as isize, pixels: part.pixels.clone() });
            }
            _ => {
                let many = if count == 1 { "1 picture".to_owned() } else { format!("{count} pictures") };
                return refuse(format!("{many} from frame {} on are not in a video of {frames} frames", part.start));
            }
        }
    }
    placed.sort_by_key(|part| part.start);
    let overlap = placed.windows(2).find(|pair| pair[0].frames().end > pair[1].frames().start);
    if let Some([one, other]) = overlap {
        return refuse(format!("frames {:?} and {:?} overlap", one.frames(), other.frames()));
    }
    Ok(placed)
}

/// For each latent frame whether it is known, when `factor` frames make a latent one, but the first.
pub(super) fn known_latents(known: &[Known], latents: usize, factor: usize) -> Vec<bool> {
    let frames = |f: usize| if f == 0 { 0..1 } else { 1 + (f - 1) * factor..1 + f * factor };
    let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    (0..latents).map(|f| known.iter().any(|part| meet(&part.frames(), &frames(f)))).collect()
}

/// The known frame nearest to `frame`, the earlier of two.
pub(super) fn nearest(known: &[Known], frame: usize) -> Option<(&Known, usize)> {
    let closest = |part: &Known| frame.clamp(part.frames().start, part.frames().end - 1);
    let all = known.iter().map(|part| (part, closest(part)));
    all.min_by_key(|(_, at)| (frame.abs_diff(*at), *at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(start: isize, count: usize) -> Known {
        let picture = Frame::new(1, 1, vec![7; 3]).expect("a picture");
        Known { start, pixels: vec![picture; count].into() }
    }

    #[test]
    fn a_latent_frame_is_known_with_any_of_its_frames() {
        assert_eq!(known_latents(&[known(0, 1)], 3, 4), [true, false, false]);
        assert_eq!(known_latents(&[known(8, 1)], 3, 4), [false, false, true]);
        assert_eq!(known_latents(&[known(0, 5)], 3, 4), [true, true, false]);
        assert_eq!(known_latents(&[known(0, 6)], 3, 4), [true, true, true]);
        assert_eq!(known_latents(&[], 2, 4), [false, false]);
    }

    #[test]
    fn what_is_not_known_stands_still() {
        let parts = [known(0, 2), known(7, 1)];
        let at = |frame| nearest(&parts, frame).map(|(_, at)| at);
        assert_eq!([0, 1, 2, 4, 5, 6, 7].map(at), [0, 1, 1, 1, 7, 7, 7].map(Some));
        assert!(nearest(&[], 3).is_none());
    }

    #[test]
    fn frames_are_counted_from_either_end() {
        let starts = |parts: &[Known]| {
            let placed = placed(parts, 12).unwrap_or_else(|e| panic!("{e}"));
            placed.iter().map(|part| (part.start, part.pixels.len())).collect::<Vec<_>>()
        };
        assert_eq!(starts(&[known(-1, 1), known(4, 5), known(0, 1)]), [(0, 1), (4, 5), (11, 1)]);
        assert_eq!(starts(&[known(-12, 12)]), [(0, 12)]);
    }

    #[test]
    fn sets_that_cannot_be_are_refused() {
        for (parts, word) in [
            (vec![known(3, 0)], "no picture for frame 3"),
            (vec![known(4, 9)], "9 pictures from frame 4 on"),
            (vec![known(12, 1)], "video of 12"),
            (vec![known(-13, 1)], "frame -13"),
            (vec![known(-1, 2)], "frame -1"),
            (vec![known(isize::MAX, 2)], "not in a video"),
            (vec![known(isize::MIN, 2)], "not in a video"),
            (vec![known(0, 4), known(3, 2)], "overlap"),
            (vec![known(-1, 1), known(11, 1)], "overlap"),
        ] {
            let error = placed(&parts, 12).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
