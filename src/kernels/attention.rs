//! `attention`: softmax(scale q k^T + bias) v per batch and head, in one pass over the keys with a running maximum and
//! sum (arXiv:2205.14135; arXiv:2307.08691, algorithm 1).
//!
//! Shaders: `shaders/attention/*.wgsl`. Twin: [`twins::attention`].

use std::ops::Range;

use super::case::Op;
use super::twins;
use crate::graph::{
    Binding, Call, Cost, DeviceProfile, Dispatch, Kernel, Launch, Needs, Shader, TensorType, Twin, Value, Var,
};
use crate::tensor::DType;

mod cases;
mod variant;

use variant::{Tile, Variant};

/// y\[b, i, n, :\] = sum_j softmax_j(scale q\[b, i, n, :\] . k\[b, j, n, :\] + bias) v\[b, j, n, :\]
///
/// Inputs, in this order: q \[B, L, N * D\]; k and v \[B, S, N * D\] (f32 or f16, all the same); the key bias \[B, S\]
/// (f32) and the relative bias \[L + S - 1, N\] (f32), if they are there. Output: as q.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads, N.
    pub heads: usize,
    /// What products of queries and keys are multiplied by (usually D^-1/2).
    pub scale: f32,
    /// Whether every key has a bias of its own: 0, ln(count) for a key that stands for several, -1e30 for a masked one.
    /// A query all of whose keys are masked gets the mean of the values.
    pub key_bias: bool,
    /// Whether query i and key j of head n have the bias `rel_bias[j - i + L - 1, n]`.
    pub rel_bias: bool,
}

/// The biases of [`Var::attention`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionBias<'g> {
    /// \[B, S\] f32: added to every logit of that key (0, ln(count) for merged keys, -1e30 for masked ones).
    pub key: Option<Var<'g>>,
    /// \[L + S - 1, N\] f32: row j - i + L - 1 is added to the logit of query i and key j.
    pub relative: Option<Var<'g>>,
}

/// The bytes `start..end` as a window that begins on an aligned byte, and how many elements of `unit` bytes lie before
/// `start` in it. At most [`DeviceProfile::offset_alignment`] bytes are added.
pub(super) fn aligned(start: usize, end: usize, unit: usize, profile: &DeviceProfile) -> (Range<u64>, u32) {
    let from = start - start % profile.offset_alignment as usize;
    (from as u64..end as u64, ((start - from) / unit) as u32)
}

/// Sizes that windows and variants follow from.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batches: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
    dtype: DType,
}

/// How many batches, queries and keys one dispatch sees.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    batches: usize,
    queries: usize,
    keys: usize,
}

impl Sizes {
    fn of(heads: usize, call: &Call<'_>) -> Self {
        let (q, k) = (call.inputs[0], call.inputs[1]);
        Self {
            batches: q.shape[0],
            queries: q.shape[1],
            keys: k.shape[1],
            heads,
            head_dim: q.shape[2] / heads,
            dtype: q.dtype,
        }
    }

    /// Bytes of a row of q, k, v or y.
    fn row_bytes(&self) -> usize {
        self.heads * self.head_dim * self.dtype.block_bytes()
    }

    /// The widest windows whose bindings the device takes. Batches are only cut when queries and keys of one are whole,
    /// queries and keys only when there is one batch in the window.
    fn window(&self, kernel: &Attention, profile: &DeviceProfile) -> Result<Window, String> {
        let Self { batches, queries, keys, heads, .. } = *self;
        let row = self.row_bytes();
        let most = profile.max_binding as usize;
        let whole = Window { batches, queries, keys };
        let relative = |w: &Window| if kernel.rel_bias { (w.queries + w.keys - 1) * heads * 4 } else { 0 };
        let key_bias = |w: &Window| if kernel.key_bias { w.batches * w.keys * 4 } else { 0 };
        let fits = |w: &Window, room: usize| {
            let carried = w.keys < keys;
            let state = if carried { w.queries * heads * self.head_dim * 4 } else { 0 };
            let sums = if carried { w.queries * heads * Tile::slices(self.head_dim) * 8 } else { 0 };
            let rows = w.batches * w.queries.max(w.keys) * row;
            [rows, state, sums, relative(w), key_bias(w)].iter().all(|&bytes| bytes <= room)
        };
        if fits(&whole, most) {
            return Ok(whole);
        }
        // Windows in the middle of a tensor begin up to an alignment before their first byte.
        let room = most.saturating_sub(profile.offset_alignment as usize);
        if fits(&Window { batches: 1, ..whole }, room) {
            let cost = queries.max(keys) * row;
            return Ok(Window { batches: (room / cost).min(room / (keys * 4)).clamp(1, batches), ..whole });
        }
        let mut window = Window { batches: 1, ..whole };
        while !fits(&window, room) {
            // Rather several windows of queries, which cost nothing, than of keys, which cost a state between them.
            let bias_of_keys = relative(&window) > room && window.keys > window.queries;
            if window.keys * row.max(4) > room || bias_of_keys || window.queries == 1 {
                window.keys /= 2;
            } else {
                window.queries = window.queries.div_ceil(2);
            }
            if window.keys == 0 {
                let row = row.max(heads * self.head_dim * 4);
                return Err(format!("rows of {row} bytes do not fit the device's largest binding of {most} bytes"));
            }
        }
        Ok(window)
    }
}

impl Kernel for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String> {
        let expected = 3 + usize::from(self.key_bias) + usize::from(self.rel_bias);
        if inputs.len() != expected {
            return Err(format!("takes {expected} tensors, not {}", inputs.len()));
        }
        let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
        if !matches!(q.dtype, DType::F32 | DType::F16) || k.dtype != q.dtype || v.dtype != q.dtype {
            return Err("takes q, k and v in f32 or f16, all the same".into());
        }
        let (&[batches, queries, channels], &[other, keys, width]) = (q.shape.dims(), k.shape.dims()) else {
            return Err(format!("q is [B, L, N * D] and k [B, S, N * D], not {} and {}", q.shape, k.shape));
        };
        if k.shape != v.shape || batches != other || channels != width || q.shape.count() == 0 || keys == 0 {
            return Err(format!("queries {}, keys {} and values {} do not fit", q.shape, k.shape, v.shape));
        }
        if self.heads == 0 || channels % self.heads != 0 {
            return Err(format!("{channels} channels are not {} heads", self.heads));
        }
        let tables = [
            (self.key_bias, "the key bias", [batches, keys]),
            (self.rel_bias, "the relative bias", [queries + keys - 1, self.heads]),
        ];
        for ((_, name, shape), ty) in tables.iter().filter(|(there, ..)| *there).zip(&inputs[3..]) {
            if ty.shape.dims() != shape || ty.dtype != DType::F32 {
                return Err(format!("{name} is f32{shape:?}, not {ty}"));
            }
        }
        Ok(q)
    }

    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String> {
        let sizes = Sizes::of(self.heads, call);
        if sizes.dtype == DType::F16 && !profile.f16 {
            return Err("f16 activations need a device with f16 shaders".into());
        }
        let window = sizes.window(self, profile)?;
        let mut launch = Launch::default();
        let carried = window.keys < sizes.keys;
        if carried {
            let rows = window.queries * sizes.heads;
            launch.scratch = vec![(rows * sizes.head_dim * 4) as u64, (rows * Tile::slices(sizes.head_dim) * 8) as u64];
        }
        for batch in (0..sizes.batches).step_by(window.batches) {
            for query in (0..sizes.queries).step_by(window.queries) {
                for key in (0..sizes.keys).step_by(window.keys) {
                    let seen = Window {
                        batches: window.batches.min(sizes.batches - batch),
                        queries: window.queries.min(sizes.queries - query),
                        keys: window.keys.min(sizes.keys - key),
                    };
                    let at = Window { batches: batch, queries: query, keys: key };
                    self.dispatch(&mut launch, &sizes, at, seen, profile)?;
                }
            }
        }
        Ok(launch)
    }

    fn cost(&self, call: &Call<'_>) -> Cost {
        let Sizes { batches, queries, keys, heads, head_dim, .. } = Sizes::of(self.heads, call);
        Cost::of(call, 4.0 * batches as f64 * heads as f64 * queries as f64 * keys as f64 * head_dim as f64)
    }

    fn twin(&self, inputs: &[Twin]) -> Vec<f64> {
        twins::attention::attention(self, inputs)
    }
}

impl Attention {
    /// The dispatches over one window: `seen` batches, queries and keys from `at` on.
    fn dispatch(
        &self,
        launch: &mut Launch,
        sizes: &Sizes,
        at: Window,
        seen: Window,
        profile: &DeviceProfile,
    ) -> Result<(), String> {
        let variant = Variant::choose(sizes, &seen, profile);
        let row = sizes.row_bytes();
        let unit = variant.unit() * sizes.dtype.block_bytes();
        let (first, last) = (at.keys == 0, at.keys + seen.keys == sizes.keys);
        let q_row = at.batches * sizes.queries + at.queries;
        let (q, q_at) = aligned(q_row * row, (q_row + seen.batches * seen.queries) * row, unit, profile);
        let k_row = at.batches * sizes.keys + at.keys;
        let (k, k_at) = aligned(k_row * row, (k_row + seen.batches * seen.keys) * row, unit, profile);
        let mut bindings =
            vec![Binding::input(0).window(q.clone()), Binding::input(1).window(k.clone()), Binding::input(2).window(k)];
        let (mut key_bias_at, mut rel_bias_at) = (0, 0);
        if self.key_bias {
            let window;
            (window, key_bias_at) = aligned(k_row * 4, (k_row + seen.batches * seen.keys) * 4, 4, profile);
            bindings.push(Binding::input(3).window(window));
        }
        if self.rel_bias {
            // Row 0 of the window belongs to its last query and its first key.
            let from = at.keys + sizes.queries - at.queries - seen.queries;
            let row = sizes.heads * 4;
            let window;
            (window, rel_bias_at) = aligned(from * row, (from + seen.queries + seen.keys - 1) * row, 4, profile);
            bindings.push(Binding::input(if self.key_bias { 4 } else { 3 }).window(window));
        }
        if last {
            bindings.push(Binding::output().window(q));
        }
        if !(first && last) {
            bindings.extend(launch.scratch.iter().enumerate().map(|(i, &bytes)| Binding::scratch(i).window(0..bytes)));
        }
        let mut constants = variant.constants(sizes, profile);
        constants.extend([
            ("KEY_BIAS", Value::Bool(self.key_bias)),
            ("REL_BIAS", Value::Bool(self.rel_bias)),
            ("FIRST", Value::Bool(first)),
            ("LAST", Value::Bool(last)),
        ]);
        let needs = Needs { f16: sizes.dtype == DType::F16, ..variant.needs() };
        let shader = Shader { source: variant.source(), label: variant.label(), constants: constants.into(), needs };

        let query_blocks = seen.queries.div_ceil(variant.block_queries());
        let groups = seen.batches * sizes.heads * query_blocks * variant.slices();
        let flops = 4.0 * (variant.block_queries() * seen.keys * sizes.head_dim) as f64;
        let step = ((profile.dispatch_flops / flops) as usize).clamp(1, groups);
        for from in (0..groups).step_by(step) {
            launch.dispatches.push(Dispatch {
                shader: shader.clone(),
                bindings: bindings.clone(),
                params: vec![
                    from as u32,
                    (from + step).min(groups) as u32,
                    seen.queries as u32,
                    query_blocks as u32,
                    seen.keys as u32,
                    sizes.heads as u32,
                    (self.scale * std::f32::consts::LOG2_E).to_bits(),
                    q_at,
                    k_at,
                    key_bias_at,
                    rel_bias_at,
                ],
                groups: profile.grid(step.min(groups - from))?,
            });
        }
        Ok(())
    }
}

impl<'g> Var<'g> {
    /// softmax(scale self k^T + bias) v for each of `heads` heads: self \[B, L, N * D\], k and v \[B, S, N * D\], all f32
    /// or all f16; the same type and shape as self out. A query whose keys are all masked gets the mean of the values.
    #[track_caller]
    pub fn attention(self, k: Var<'g>, v: Var<'g>, heads: usize, scale: f32, bias: AttentionBias<'g>) -> Var<'g> {
        let kernel = Attention { heads, scale, key_bias: bias.key.is_some(), rel_bias: bias.relative.is_some() };
        let inputs: Vec<Var<'g>> = [self, k, v].into_iter().chain(bias.key).chain(bias.relative).collect();
        self.graph().apply(kernel, &inputs)
    }
}

/// `attention` in [`ALL`](super::ALL).
pub const ATTENTION: Op =
    Op { name: "attention", summary: "softmax(scale q k^T + bias) v per head, in one pass", cases: cases::cases };
