//! `--mask`, `--reference` and `--control-scale`: what models with a control video take beside it.

use std::path::PathBuf;

use clap::Args;
use mutoscope::Result;
use mutoscope::media::{Frame, read_picture, read_video, resize};
use mutoscope::pipeline::{Model, Request};

use super::values;

/// What VACE models take beside --video.
#[derive(Args)]
pub struct ControlArguments {
    /// What of --video is to be made, where white; what is black is kept. Only VACE models take it
    ///
    /// A picture for all frames, or a video or folder with a mask for each. Without it everything is made, and the video
    /// only guides it: depth, poses, lines, grey. Another size is stretched to that of the video.
    #[arg(long, value_name = "FILE|DIR", requires = "video")]
    mask: Option<PathBuf>,

    /// Pictures of what the video is to show: a face, a thing, a place. Only VACE models take them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    reference: Vec<PathBuf>,

    /// How loudly the control speaks: one number, or one for each block that reads it, with commas between [default: 1]
    ///
    /// Only VACE models take it.
    #[arg(long, value_name = "X", value_parser = values::scale, value_delimiter = ',', allow_hyphen_values = true)]
    control_scale: Vec<f64>,
}

/// Adds what was given to a request that has its video already.
pub fn read(arguments: &ControlArguments, model: &Model, request: Request) -> Result<Request> {
    let references = arguments.reference.iter().map(read_picture).collect::<Result<_>>()?;
    let control_scales = arguments.control_scale.iter().map(|&scale| scale as f32).collect();
    let request = Request { references, control_scales, ..request };
    let Some(path) = &arguments.mask else { return Ok(request) };
    let (width, height) = request.dimensions(model);
    let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
    let count = request.length(model)?.min(request.video.len());
    let masks = read_video(path)?.take(count).map(|mask| resize(&mask?, side(width), side(height)));
    Ok(Request { mask: masks.collect::<Result<Vec<Frame>>>()?.into(), ..request })
}
