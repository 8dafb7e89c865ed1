//! The model inside the binary: prompts visibly give what they say, in English and Chinese, and pictures go on. Its score
//! over many prompts is `tools/train/evaluate`'s.

use mutoscope::media::Frame;
use mutoscope::pipeline::{Engine, Known, Model, Request};

use crate::device::gpu;
use crate::golden::psnr;

fn frames(request: &Request) -> Vec<Frame> {
    let model = Model::embedded().unwrap_or_else(|e| panic!("{e}"));
    Engine::on(gpu()).generate_frames(&model, request).unwrap_or_else(|e| panic!("{e}")).1
}

/// Where what does not look like the background is: the middle of its columns and rows, as shares of the picture, and
/// how much of the picture it covers. The background is what the picture's border mostly shows.
fn thing(frame: &Frame, background: [u8; 3]) -> (f64, f64, f64) {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let far = |pixel: &[u8]| pixel.iter().zip(background).map(|(&a, b)| a.abs_diff(b) as u32).sum::<u32>() > 120;
    let found: Vec<usize> = frame.rgb.chunks(3).enumerate().filter(|(_, pixel)| far(pixel)).map(|(i, _)| i).collect();
    let count = found.len().max(1) as f64;
    let x = found.iter().map(|i| i % width).sum::<usize>() as f64 / count / width as f64;
    let y = found.iter().map(|i| i / width).sum::<usize>() as f64 / count / height as f64;
    (x, y, found.len() as f64 / (width * height) as f64)
}

const PINK: [u8; 3] = [238, 146, 187];

/// The picture, mirrored where its thing is on the left: nothing that moves left begins there, in what the model saw.
fn with_room_on_the_left(mut picture: Frame) -> Frame {
    if thing(&picture, PINK).0 < 0.5 {
        for row in picture.rgb.chunks_mut(3 * picture.width as usize) {
            row.reverse(); // and with the pixels their channels
            row.chunks_mut(3).for_each(<[u8]>::reverse);
        }
    }
    picture
}

/// What both languages ask for: a bee that moves right on a pink background.
fn moves_right(prompt: &str) {
    let model = Model::embedded().unwrap_or_else(|e| panic!("{e}"));
    let frames = frames(&Request::new(prompt));
    let defaults = model.defaults();
    assert_eq!(frames.len(), defaults.frames);
    assert_eq!((frames[0].width as usize, frames[0].height as usize), (defaults.width, defaults.height));
    // At the lower edge, where nothing is that is in the middle.
    let last = &frames[frames.len() - 1];
    for pixel in last.rgb[last.rgb.len() - 3 * last.width as usize..].chunks(3).step_by(8) {
        let off = pixel.iter().zip(PINK).map(|(&a, b)| a.abs_diff(b)).max();
        assert!(off < Some(40), "{prompt}: the background is pink, not {pixel:?}");
    }
    let ((from, _, first), (to, _, end)) = (thing(&frames[1], PINK), thing(&frames[frames.len() - 2], PINK));
    println!("{prompt}: from {from:.2} ({first:.3} of the picture) to {to:.2} ({end:.3})");
    assert!(first > 0.012 && end > 0.012, "{prompt}: something is there: {first:.3} and {end:.3}");
    assert!(to - from > 0.15, "{prompt}: it moves right: from {from:.2} to {to:.2}");
}

#[test]
fn a_bee_moves_right_on_a_pink_background() {
    moves_right("a bee moves right on a pink background");
}

#[test]
fn a_bee_moves_right_in_chinese() {
    moves_right("一只蜜蜂在粉色背景上向右移动");
}

#[test]
fn a_picture_goes_on_and_every_size_and_length_is_made() {
    let still = Request {
        size: Some((80, 80)),
        frames: Some(1),
        steps: Some(6),
        ..Request::new("a bee stays still on a pink background")
    };
    let picture = with_room_on_the_left(frames(&still).remove(0));
    assert!(thing(&picture, PINK).2 > 0.02, "there is something on the picture");
    let moved = Request {
        size: Some((80, 80)),
        frames: Some(9),
        steps: Some(6),
        known: vec![Known::first(picture.clone())],
        ..Request::new("a bee moves left on a pink background")
    };
    let moved = frames(&moved);
    let values = |frame: &Frame| frame.rgb.iter().map(|&v| f64::from(v) / 255.0).collect::<Vec<_>>();
    let kept = psnr(&values(&moved[0]), &values(&picture));
    println!("the first frame is the picture within {kept:.1} dB");
    assert!(kept > 25.0, "the first frame is the picture: {kept:.1} dB");
    let (from, to) = (thing(&moved[0], PINK).0, thing(&moved[8], PINK).0);
    println!("it moves from {from:.2} to {to:.2}");
    assert!(to < from - 0.15, "it moves left: from {from:.2} to {to:.2}");
    for (size, count) in [((64, 96), 1), ((160, 96), 5), ((48, 48), 33)] {
        let request = Request {
            size: Some(size),
            frames: Some(count),
            steps: Some(3),
            ..Request::new("a bee stays still on a pink background")
        };
        let made = frames(&request);
        assert_eq!(made.len(), count);
        assert!(made.iter().all(|frame| (frame.width as usize, frame.height as usize) == size));
        let middle = thing(&made[count / 2], PINK).2;
        assert!(middle > 0.01 && middle < 0.7, "{size:?} {count}: something is there: {middle:.3}");
    }
}
