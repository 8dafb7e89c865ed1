//! Which variant computes a convolution, and in how many dispatches over which windows.
//!
//! A dispatch computes a box of the output (frames, rows, channels) from those frames of one source, x or the frames
//! before it, that its binding holds. Taps whose frames lie in another source, or in another window of the same one,
//! are added by further dispatches. Thus nothing has to fit a binding but a few rows of one frame, and the shader knows
//! a single source.

use std::ops::Range;

use super::{Conv3d, Sizes};
use crate::graph::{Binding, Call, DeviceKind, DeviceProfile, Dispatch, Launch, Needs, Shader, Source, Value};
use crate::kernels::window::window;
use crate::tensor::DType;

const DIRECT: Source = Source { path: "conv/conv3d", text: include_str!("../../../shaders/conv/conv3d.wgsl") };

/// How outputs are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    source: Source,
    label: &'static str,
    /// Invocations of a workgroup.
    width: usize,
    /// Positions and channels that a workgroup computes.
    tile: [usize; 2],
    /// Positions and channels that an invocation computes.
    each: [usize; 2],
}

impl Variant {
    const fn direct(width: usize, positions: usize, channels: usize) -> Self {
        Self {
            source: DIRECT,
            label: "conv3d",
            width,
            tile: [width * positions, channels],
            each: [positions, channels],
        }
    }

    /// The variant for a shape on a device.
    fn choose(sizes: &Sizes, profile: &DeviceProfile) -> Self {
        let outputs = sizes.y[3];
        let cpu = profile.kind == DeviceKind::Cpu;
        match outputs {
            1..=4 => Self::direct(32, 4, outputs),
            _ if cpu => Self::direct(32, 8, 8),
            _ => Self::direct(64, 4, 8),
        }
    }
}

/// Frames of one input: which of the sequence front ++ x it holds.
struct Frames {
    input: usize,
    range: Range<usize>,
}

/// How large the parts are.
struct Parts {
    /// Output frames of a dispatch.
    frames: usize,
    /// Output rows of a dispatch.
    rows: usize,
    /// Output channels whose weights fit a binding.
    channels: usize,
    /// Frames of a source that fit a binding.
    source: usize,
}

pub(super) fn launch(conv: &Conv3d, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
    let sizes = conv.sizes(call.inputs)?;
    let variant = Variant::choose(&sizes, profile);
    let parts = parts(conv, &sizes, call, profile, variant)?;
    let [frames, ..] = sizes.x;
    let mut sources = vec![Frames { input: 0, range: sizes.front..sizes.front + frames }];
    if conv.prev {
        sources.push(Frames { input: 2, range: 0..sizes.front });
    }
    let mut launch = Launch::default();
    for t in chunks(sizes.y[0], parts.frames) {
        let seen = t.start * conv.stride[0]..(t.end - 1) * conv.stride[0] + sizes.taps[0];
        let mut windows: Vec<(&Frames, Range<usize>)> = Vec::new();
        for source in &sources {
            let common = seen.start.max(source.range.start)..seen.end.min(source.range.end);
            let steps = common.clone().step_by(parts.source);
            windows.extend(steps.map(|first| (source, first..common.end.min(first + parts.source))));
        }
        if windows.is_empty() {
            // Nothing but zeros is seen: no tap counts, and bias and residual are all there is.
            windows.push((&sources[0], seen.end.max(sizes.front)..seen.end.max(sizes.front)));
        }
        for rows in chunks(sizes.y[1], parts.rows) {
            for o in chunks(sizes.y[3], parts.channels) {
                for (i, (source, seen)) in windows.iter().enumerate() {
                    let part = Part { t: t.clone(), rows: rows.clone(), o: o.clone(), seen: seen.clone(), add: i > 0 };
                    launch.dispatches.push(part.dispatch(conv, &sizes, call, profile, variant, source)?);
                }
            }
        }
    }
    Ok(launch)
}

/// 0..count in ranges of at most `step`.
fn chunks(count: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(step.max(1)).map(move |start| start..count.min(start + step.max(1)))
}

fn parts(
    conv: &Conv3d,
    sizes: &Sizes,
    call: &Call<'_>,
    profile: &DeviceProfile,
    variant: Variant,
) -> Result<Parts, String> {
    let [_, h, w, c] = sizes.x;
    let [frames, rows, columns, outputs] = sizes.y;
    // Windows begin on an aligned byte at or before what is needed.
    let most = profile.max_binding.saturating_sub(profile.offset_alignment) as usize;
    let fit = |what: &str, bytes: usize| match most / bytes.max(1) {
        0 => Err(format!("{what} of {bytes} bytes is more than a binding of this device holds")),
        n => Ok(n),
    };
    let mut channels = fit("an output channel's weights", sizes.depth() * call.inputs[1].dtype.size())?;
    if channels < outputs && channels > variant.tile[1] {
        channels -= channels % variant.tile[1];
    }
    let source_row = w * c * 4;
    let y_row = columns * outputs * 4;
    let row_flops = 2.0 * (columns * outputs.min(channels) * sizes.depth()) as f64;
    let affordable = ((profile.dispatch_flops / row_flops) as usize).max(1);
    let y_rows = fit("a row of the output", y_row)?;
    let source_rows = fit("a row of the input", source_row)?;
    if y_rows >= rows && source_rows >= h && affordable >= rows {
        return Ok(Parts {
            frames: (y_rows / rows).min(affordable / rows).min(frames),
            rows,
            channels,
            source: source_rows / h,
        });
    }
    // Rows of the source that n rows of the output see, at most: n - 1 strides and the taps, repeated rows once.
    let seen = |n: usize| ((n - 1) * conv.stride[1] + sizes.taps[1]).div_ceil(conv.upsample) + conv.upsample - 1;
    let part = (1..=rows.min(y_rows).min(affordable)).rev().find(|&n| seen(n) <= source_rows);
    let Some(part) = part else {
        return Err(format!(
            "{} input rows of {source_row} bytes are more than a binding of this device holds",
            seen(1)
        ));
    };
    // The rows of several frames are one window only when it holds the frames between them, too.
    Ok(Parts { frames: 1, rows: part, channels, source: (source_rows / h).max(1) })
}

/// A dispatch's box of the output, and the frames of the sequence that it sees.
struct Part {
    t: Range<usize>,
    rows: Range<usize>,
    o: Range<usize>,
    seen: Range<usize>,
    /// Whether it adds to what an earlier dispatch has written.
    add: bool,
}

impl Part {
    fn dispatch(
        &self,
        conv: &Conv3d,
        sizes: &Sizes,
        call: &Call<'_>,
        profile: &DeviceProfile,
        variant: Variant,
        source: &Frames,
    ) -> Result<Dispatch, String> {
        let Self { t, rows, o, seen, add } = self;
        let [_, h, w, c] = sizes.x;
        let [_, y_rows, columns, outputs] = sizes.y;
        let vec = c % 4 == 0;
        let unit = if vec { 4 } else { 1 };
        let dtype = call.inputs[1].dtype;

        // Rows of the source that the output rows see: at least one, though all of them may be padding.
        let up = conv.upsample;
        let low = ((rows.start * conv.stride[1]).saturating_sub(conv.pad[0][0]) / up).min(h - 1);
        let last = (rows.end - 1) * conv.stride[1] + sizes.taps[1] - 1;
        let high = (last.saturating_sub(conv.pad[0][0]) / up).clamp(low, h - 1);
        let (first, last) = match seen.is_empty() {
            true => (0, 0),
            false => (seen.start - source.range.start, seen.end - 1 - source.range.start),
        };
        let row = w * c;
        let (x_window, x_base) = window((first * h + low) * row..(last * h + high + 1) * row, 4, profile);
        let depth = sizes.depth();
        let (w_window, w_base) = window(o.start * depth..o.end * depth, dtype.size(), profile);
        let plane = y_rows * columns;
        let y_start = (t.start * plane + rows.start * columns) * outputs;
        let y_end = ((t.end - 1) * plane + rows.end * columns) * outputs;
        let (y_window, y_base) = window(y_start..y_end, 4, profile);

        let bias = conv.bias_at().filter(|_| !add);
        let residual = conv.residual_at().filter(|_| !add);
        let mut bindings = vec![Binding::input(source.input).window(x_window), Binding::input(1).window(w_window)];
        bindings.extend(bias.map(Binding::input));
        bindings.extend(residual.map(|i| Binding::input(i).window(y_window.clone())));
        bindings.push(Binding::output().window(y_window));

        let positions = rows.len() * columns;
        let tiles = [positions.div_ceil(variant.tile[0]), o.len().div_ceil(variant.tile[1])];
        let params = [
            t.start,
            t.end,
            rows.start * columns,
            positions,
            o.start,
            o.end,
            tiles[0],
            tiles[1],
            seen.start,
            seen.end,
            source.range.start,
            x_base / unit,
            w_base / unit,
            y_base,
            h,
            w,
            columns,
            plane,
            outputs,
            conv.pad[0][0],
            conv.pad[1][0],
        ];
        Ok(Dispatch {
            shader: Shader {
                source: variant.source,
                label: variant.label,
                constants: vec![
                    ("WT", Value::Name(profile.storage(dtype))),
                    ("VEC", Value::Bool(vec)),
                    ("UNITS", Value::Int((c / unit) as u32)),
                    ("KT", Value::Int(sizes.taps[0] as u32)),
                    ("KH", Value::Int(sizes.taps[1] as u32)),
                    ("KW", Value::Int(sizes.taps[2] as u32)),
                    ("ST", Value::Int(conv.stride[0] as u32)),
                    ("SH", Value::Int(conv.stride[1] as u32)),
                    ("SW", Value::Int(conv.stride[2] as u32)),
                    ("UP", Value::Int(up as u32)),
                    ("BIAS", Value::Bool(bias.is_some())),
                    ("RESIDUAL", Value::Bool(residual.is_some())),
                    ("ADD", Value::Bool(*add)),
                    ("WIDTH", Value::Int(variant.width as u32)),
                    ("P", Value::Int(variant.each[0] as u32)),
                    ("Q", Value::Int(variant.each[1] as u32)),
                ],
                needs: Needs { f16: dtype == DType::F16 && profile.f16, ..Needs::default() },
            },
            bindings,
            params: params.iter().map(|&v| v as u32).collect(),
            groups: profile.grid(t.len() * tiles[0] * tiles[1])?,
        })
    }
}
