//! `--video` and `--strength`: a video to make another from.

use std::path::PathBuf;

use clap::Args;
use mutoscope::Result;
use mutoscope::media::{read_video, resize};
use mutoscope::pipeline::{Model, Request};

use super::values;

/// A video to make another from.
#[derive(Args)]
pub struct VideoArguments {
    /// A video to make another from: an MP4, a GIF, an APNG, a folder of pictures or a pattern such as frames/%04d.png
    ///
    /// The prompt says what it is to become, --strength how much of it may change. Without --size the result has about the
    /// model's usual number of pixels in the shape of the video, without --frames or --seconds its length (but for up to
    /// three frames at the end that make no latent one), without --fps its rate. Any text-to-video model takes it. A VACE
    /// model reads it as its control instead, with --mask and --reference, and --control-scale in place of --strength.
    #[arg(long, value_name = "FILE|DIR")]
    video: Option<PathBuf>,

    /// How far to go from --video, above 0 to 1 [default: 0.8]
    ///
    /// That share of the steps is run, from the video with as much noise: 0.3 keeps nearly all of it, 0.9 little more than
    /// the layout.
    #[arg(long, value_name = "X", value_parser = values::positive, allow_hyphen_values = true, requires = "video")]
    strength: Option<f64>,
}

/// Adds the video that was given, and what follows from it, to a request.
pub fn read(arguments: &VideoArguments, model: &Model, request: Request) -> Result<Request> {
    let request = Request { strength: arguments.strength, ..request };
    let Some(path) = &arguments.video else { return Ok(request) };
    let mut reader = read_video(path)?;
    let fps = request.fps.or(reader.fps());
    let Some(first) = reader.next().transpose()? else { return Ok(request) };
    // Frames are stretched as they come, so that a large video takes no more memory than the one that is made of it.
    let sized = Request { video: vec![first.clone()].into(), fps, ..request };
    let (width, height) = sized.dimensions(model);
    let asked = sized.frames.is_some() || sized.seconds.is_some();
    let count = if asked { sized.length(model)? } else { model.most_frames() };
    let (width, height) = (in_32_bits(width), in_32_bits(height));
    let mut frames = vec![resize(&first, width, height)?];
    for frame in reader.take(count.saturating_sub(1)) {
        frames.push(resize(&frame?, width, height)?);
    }
    Ok(Request { video: frames.into(), size: Some(sized.dimensions(model)), ..sized })
}

/// A side that is checked with the other settings.
fn in_32_bits(side: usize) -> u32 {
    u32::try_from(side).unwrap_or(u32::MAX)
}
