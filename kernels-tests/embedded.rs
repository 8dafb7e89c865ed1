//! The model inside the binary: a prompt visibly gives what it says. The score over many prompts is `tools/train/check`'s.

use mutoscope::media::Frame;
use mutoscope::pipeline::{Engine, Model, Request};

use crate::device::gpu;

/// Columns of the centre of what is red, and how many pixels it has.
fn red(frame: &Frame) -> (f64, usize) {
    let red = |pixel: &[u8]| pixel[0] > 150 && pixel[1] < 110 && pixel[2] < 110;
    let width = frame.width as usize;
    let columns: Vec<usize> =
        frame.rgb.chunks(3).enumerate().filter(|(_, pixel)| red(pixel)).map(|(i, _)| i % width).collect();
    (columns.iter().sum::<usize>() as f64 / columns.len().max(1) as f64, columns.len())
}

#[test]
fn a_red_circle_moves_right_over_a_blue_background() {
    let model = Model::embedded().unwrap_or_else(|e| panic!("{e}"));
    let request = Request::new("a red circle moves right over a blue background");
    let (video, frames) = Engine::on(gpu()).generate_frames(&model, &request).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(frames.len(), model.defaults().frames);
    assert_eq!(video.settings.steps, model.defaults().steps);
    let corner = &frames[0].rgb[..3];
    assert!(corner[2] > 150 && corner[0] < 110, "the background is blue, not {corner:?}");
    let ((from, first), (to, last)) = (red(&frames[0]), red(&frames[frames.len() - 1]));
    println!("from column {from:.1} ({first} pixels) to {to:.1} ({last} pixels)");
    assert!(first > 60 && last > 60, "something red is there: {first} and {last} pixels");
    assert!(to - from > 8.0, "it moves right: from column {from:.1} to {to:.1}");
}
