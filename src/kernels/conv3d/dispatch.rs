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
const STAGED: Source =
    Source { path: "conv/conv3d_staged", text: include_str!("../../../shaders/conv/conv3d_staged.wgsl") };

/// How outputs are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    /// Straight from storage: `strip` outputs of a row by `channels` for each of `width` invocations.
    Direct { width: usize, strip: usize, channels: usize },
    /// The same, with the weights read once for a subgroup of at least 8.
    Shared { width: usize, strip: usize, channels: usize },
    /// Through workgroup memory: tiles of positions by channels, 8 x 8 for each invocation.
    Staged { positions: usize, channels: usize },
}

impl Variant {
    /// The variant for a shape on a device.
    fn choose(sizes: &Sizes, profile: &DeviceProfile) -> Self {
        let [_, rows, columns, outputs] = sizes.y;
        let strip = if columns > 4 { 8 } else { 4 };
        let cpu = profile.kind == DeviceKind::Cpu;
        // Lanes 0 to 7 must exist in every subgroup of the workgroup.
        let shared = profile.subgroups.filter(|&(least, most)| least >= 8 && most <= 64 && 64u32.is_multiple_of(most));
        match (outputs, shared) {
            (1..=4, _) => Self::Direct { width: 32, strip: if cpu { strip } else { 4 }, channels: outputs },
            (_, Some((_, most))) if cpu => Self::Shared { width: most.max(16) as usize, strip, channels: 8 },
            _ if cpu => Self::Direct { width: 16, strip, channels: 8 },
            // Steps of 16 channels would be mostly padding, or most of a tile's columns would; and staging is by vectors.
            _ if sizes.x[3] < 8 || outputs <= 16 || !sizes.x[3].is_multiple_of(4) => {
                Self::Direct { width: 64, strip: 4, channels: 8 }
            }
            // Small frames in small tiles, so that there are enough of them to fill a device.
            _ if rows * columns <= 4096 => Self::Staged { positions: 64, channels: 64 },
            _ => Self::Staged { positions: 128, channels: 64 },
        }
    }

    fn source(self) -> Source {
        match self {
            Self::Direct { .. } | Self::Shared { .. } => DIRECT,
            Self::Staged { .. } => STAGED,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Direct { .. } => "conv3d",
            Self::Shared { .. } => "conv3d_shared",
            Self::Staged { .. } => "conv3d_staged",
        }
    }

    /// Output channels of a workgroup.
    fn channels(self) -> usize {
        match self {
            Self::Direct { channels, .. } | Self::Shared { channels, .. } | Self::Staged { channels, .. } => channels,
        }
    }

    /// Workgroups for whole rows of a frame, by those for the channels.
    fn tiles(self, rows: usize, columns: usize, channels: usize) -> [usize; 2] {
        let down = match self {
            Self::Direct { width, strip, .. } | Self::Shared { width, strip, .. } => {
                (rows * columns.div_ceil(strip)).div_ceil(width)
            }
            Self::Staged { positions, .. } => (rows * columns).div_ceil(positions),
        };
        [down, channels.div_ceil(self.channels())]
    }

    /// Constants that only this variant has. Strips unroll the taps and the stride in columns.
    fn constants(self, taps: usize, stride: usize) -> Vec<(&'static str, Value)> {
        let int = |v: usize| Value::Int(v as u32);
        match self {
            Self::Direct { width, strip, channels } | Self::Shared { width, strip, channels } => vec![
                ("WIDTH", int(width)),
                ("P", int(strip)),
                ("Q", int(channels)),
                ("KW", int(taps)),
                ("SW", int(stride)),
                ("SHARE", Value::Bool(matches!(self, Self::Shared { .. }))),
            ],
            Self::Staged { positions, channels } => vec![("BM", int(positions)), ("BN", int(channels))],
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
    let mut channels = fit("an output channel's weights", sizes.depth() * call.inputs[1].dtype.block_bytes())?;
    if channels < outputs && channels > variant.channels() {
        channels -= channels % variant.channels();
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
        let vec = c.is_multiple_of(4);
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
        let (w_window, w_base) = window(o.start * depth..o.end * depth, dtype.block_bytes(), profile);
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
        let tiles = variant.tiles(rows.len(), columns, o.len());
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
            plane,
            columns,
            outputs,
            conv.pad[0][0],
            conv.pad[1][0],
            up - 1,
            c / unit,
            sizes.taps[0],
            sizes.taps[1],
            sizes.taps[2],
            conv.stride[0],
            conv.stride[1],
            conv.stride[2],
        ];
        Ok(Dispatch {
            shader: Shader {
                source: variant.source(),
                label: variant.label(),
                constants: [
                    ("WT", Value::Name(profile.storage(dtype))),
                    ("VEC", Value::Bool(vec)),
                    ("BIAS", Value::Bool(bias.is_some())),
                    ("RESIDUAL", Value::Bool(residual.is_some())),
                    ("ADD", Value::Bool(*add)),
                ]
                .into_iter()
                .chain(variant.constants(sizes.taps[2], conv.stride[2]))
                .collect(),
                needs: Needs {
                    f16: dtype == DType::F16 && profile.f16,
                    subgroups: matches!(variant, Variant::Shared { .. }),
                    ..Needs::default()
                },
            },
            bindings,
            params: params.iter().map(|&v| v as u32).collect(),
            groups: profile.grid(t.len() * tiles[0] * tiles[1])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Kernel, Operand, TensorType};

    const SAME: Conv3d =
        Conv3d { front: 0, prev: true, stride: [1; 3], pad: [[1; 2]; 2], upsample: 1, bias: true, residual: true };

    fn plan(x: [usize; 4], profile: &DeviceProfile) -> (Vec<TensorType>, Launch) {
        let [t, h, w, c] = x;
        let shapes = [&[t, h, w, c][..], &[c, 3, 3, 3, c], &[2, h, w, c], &[c], &[t, h, w, c]];
        let inputs: Vec<_> = shapes.iter().map(|&shape| TensorType::f32(shape)).collect();
        let output = SAME.infer(&inputs).expect("fits");
        let launch = SAME.launch(&Call { inputs: &inputs, output }, profile).expect("can be dispatched");
        (inputs, launch)
    }

    /// The largest layer of a decoder at 1280 x 720: a frame of it is 354 MB.
    #[test]
    fn large_frames_go_through_small_bindings() {
        let profile = DeviceProfile::webgpu_floor();
        let (inputs, launch) = plan([4, 720, 1280, 96], &profile);
        for dispatch in &launch.dispatches {
            assert!(dispatch.bindings.len() <= profile.max_storage_buffers as usize);
            assert!(dispatch.groups.iter().all(|&n| n <= profile.max_groups));
            for binding in &dispatch.bindings {
                let bytes = match binding.operand {
                    Operand::Input(i) => inputs[i].bytes(),
                    _ => inputs[0].bytes(),
                };
                let window = binding.window.clone().unwrap_or(0..bytes);
                assert!(window.start % profile.offset_alignment == 0 && window.end <= bytes);
                assert!(window.end - window.start <= profile.max_binding);
            }
        }
    }

    /// One for x, one for the frames before it; more only where bindings are small.
    #[test]
    fn small_convolutions_take_one_dispatch_for_each_source() {
        let (_, launch) = plan([1, 30, 52, 96], &DeviceProfile::webgpu_floor());
        assert_eq!(launch.dispatches.len(), 2);
        let (_, launch) =
            plan([1, 30, 52, 96], &DeviceProfile { max_binding: 1 << 18, ..DeviceProfile::webgpu_floor() });
        assert!(launch.dispatches.len() > 20, "{}", launch.dispatches.len());
    }

    #[test]
    fn devices_get_their_variant() {
        let sizes = |o| Sizes { x: [1, 30, 52, 96], front: 2, taps: [3; 3], y: [1, 30, 52, o] };
        let floor = DeviceProfile::webgpu_floor();
        let cpu = DeviceProfile { kind: DeviceKind::Cpu, subgroups: Some((8, 8)), ..floor.clone() };
        assert_eq!(Variant::choose(&sizes(96), &floor).label(), "conv3d_staged");
        assert_eq!(Variant::choose(&sizes(3), &floor).label(), "conv3d");
        let odd = Sizes { x: [1, 30, 52, 90], ..sizes(96) };
        assert_eq!(Variant::choose(&odd, &floor).label(), "conv3d", "staging is by vectors of channels");
        assert_eq!(Variant::choose(&sizes(96), &cpu).label(), "conv3d_shared");
        let narrow = DeviceProfile { subgroups: Some((4, 8)), ..cpu };
        assert_eq!(Variant::choose(&sizes(96), &narrow).label(), "conv3d");
    }
}
