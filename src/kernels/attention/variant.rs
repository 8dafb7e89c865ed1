//! Which shader computes attention, and with what tiles: a table over sizes and profile.

use super::{Sizes, Window};
use crate::graph::{DeviceKind, DeviceProfile, Needs, Source, Value};
use crate::tensor::DType;

const TILE: Source = Source { path: "attention/tile", text: include_str!("../../../shaders/attention/tile.wgsl") };
const BROADCAST: Source =
    Source { path: "attention/broadcast", text: include_str!("../../../shaders/attention/broadcast.wgsl") };
const COOP: Source = Source { path: "attention/coop", text: include_str!("../../../shaders/attention/coop.wgsl") };

/// A shader with its tile sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Variant {
    /// Register tiles, for any size.
    Tile(Tile),
    /// Register tiles of subgroups that lend each other operands.
    Broadcast(Broadcast),
    /// Cooperative matrices.
    Coop(Coop),
}

/// Tile sizes of `tile.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    /// Elements of a head that are loaded at once: 4 where heads are whole fours, else 1.
    vec: usize,
    /// Whether keys pass through workgroup memory, some chunks of their elements at a time.
    staged: bool,
    /// Queries of a workgroup.
    block_queries: usize,
    /// Invocations side by side over keys and over the head's elements.
    across: usize,
    /// Keys that an invocation computes logits of, and chunks of `vec` elements of the output, for 8 queries.
    keys: usize,
    chunks: usize,
    /// Chunks of a head, and those that one workgroup sums up.
    head_chunks: usize,
    slice: usize,
}

/// Tile sizes of `broadcast.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Broadcast {
    /// Elements of a head that are loaded at once: 4 where heads are whole fours, else 1.
    vec: usize,
    /// Lanes of a subgroup.
    lanes: usize,
    /// Queries of a lane that it lends the others, of its workgroup in all `lanes` times as many.
    lent: usize,
}

/// Tile sizes of `coop.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Coop {
    /// Rows and columns of a matrix.
    size: usize,
    /// Invocations of a subgroup.
    subgroup: usize,
    /// Subgroups of a workgroup, each with 16 queries.
    subgroups: usize,
}

/// Most invocations of a workgroup: what WebGPU guarantees.
const MOST_INVOCATIONS: usize = 256;
/// Most invocations side by side over a head: fewer, so that 8 queries' probabilities and maxima leave room for the rest in
/// the 16 KiB of workgroup memory that WebGPU guarantees.
const MOST_ACROSS: usize = 240;
/// Most probabilities in workgroup memory: half of the 16 KiB that WebGPU guarantees.
const MOST_PROBABILITIES: usize = 2048;
/// Queries that an invocation of `tile.wgsl` takes.
const QUERIES: usize = 8;
/// Chunks of keys staged at a time.
const STAGED_CHUNKS: usize = 4;
/// Most bytes of staged keys: with the probabilities and the maxima they stay within 16 KiB.
const MOST_STAGED: usize = 5 << 10;

/// Keys of a lane in `broadcast.wgsl`, keys whose values are summed up at a time, and the most sums of a lane.
const BROADCAST_KEYS: usize = 4;
const BROADCAST_UNROLL: usize = 2;
const BROADCAST_SUMS: usize = 256;

/// Queries of a subgroup in `coop.wgsl`, and keys of a block.
const COOP_QUERIES: usize = 16;
const COOP_KEYS: usize = 32;
/// The longest head whose sums stay in a subgroup's accumulators; and the longest that software drivers, which write
/// matrices out as scalars, compile in seconds (a head of 128 took half a minute).
const COOP_HEAD: usize = 256;
const COOP_HEAD_IN_SOFTWARE: usize = 64;

impl Variant {
    /// The variant for a window on this device.
    pub fn choose(sizes: &Sizes, window: &Window, profile: &DeviceProfile) -> Self {
        let coop = Coop::choose(sizes, window, profile).map(Self::Coop);
        let broadcast = || Broadcast::choose(sizes, window, profile).map(Self::Broadcast);
        coop.or_else(broadcast).unwrap_or_else(|| Self::Tile(Tile::choose(sizes, window, profile)))
    }

    /// The shader's template.
    pub fn source(&self) -> Source {
        match self {
            Self::Tile(_) => TILE,
            Self::Broadcast(_) => BROADCAST,
            Self::Coop(_) => COOP,
        }
    }

    /// The label in profiles.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Tile(Tile { vec: 1, .. }) => "attention_tile_scalar",
            Self::Tile(Tile { staged: true, .. }) => "attention_tile_staged",
            Self::Tile(_) => "attention_tile",
            Self::Broadcast(_) => "attention_broadcast",
            Self::Coop(_) => "attention_coop",
        }
    }

    /// What the device must be able to do, besides f16 storage.
    pub fn needs(&self) -> Needs {
        let coop = matches!(self, Self::Coop(_));
        Needs { coop, subgroups: coop || matches!(self, Self::Broadcast(_)), ..Needs::default() }
    }

    /// Elements that are loaded at once: what windows' offsets are counted in.
    pub fn unit(&self) -> usize {
        match self {
            Self::Tile(tile) => tile.vec,
            Self::Broadcast(broadcast) => broadcast.vec,
            Self::Coop(_) => 1,
        }
    }

    /// Queries of a workgroup.
    pub fn block_queries(&self) -> usize {
        match self {
            Self::Tile(tile) => tile.block_queries,
            Self::Broadcast(broadcast) => broadcast.lanes * broadcast.lent,
            Self::Coop(coop) => coop.subgroups * COOP_QUERIES,
        }
    }

    /// Workgroups that share the output's elements of one block of queries.
    pub fn slices(&self) -> usize {
        match self {
            Self::Tile(tile) => tile.head_chunks.div_ceil(tile.slice),
            Self::Broadcast(_) | Self::Coop(_) => 1,
        }
    }

    /// The template's constants, without those of biases and windows.
    pub fn constants(&self, sizes: &Sizes, profile: &DeviceProfile) -> Vec<(&'static str, Value)> {
        let ints = |list: &[(&'static str, usize)]| -> Vec<(&'static str, Value)> {
            list.iter().map(|&(name, size)| (name, Value::Int(size as u32))).collect()
        };
        let mut constants = match self {
            Self::Tile(tile) => ints(&[
                ("VEC", tile.vec),
                ("DC", tile.head_chunks),
                ("SLICE", tile.slice),
                ("SLICES", self.slices()),
                ("BQ", tile.block_queries),
                ("BK", tile.across * tile.keys),
                ("R", QUERIES),
                ("TK", tile.keys),
                ("TC", tile.chunks),
                ("ACROSS", tile.across),
                ("STEP", STAGED_CHUNKS),
                ("WIDTH", tile.block_queries / QUERIES * tile.across),
            ]),
            Self::Broadcast(Broadcast { vec, lanes, lent }) => {
                let chunks = sizes.head_dim / vec;
                ints(&[
                    ("VEC", *vec),
                    ("DC", chunks),
                    ("TC", chunks.div_ceil(*lanes)),
                    ("LANES", *lanes),
                    ("BQ", lanes * lent),
                    ("BK", lanes * BROADCAST_KEYS),
                    ("TK", BROADCAST_KEYS),
                    ("UNROLL", BROADCAST_UNROLL),
                ])
            }
            Self::Coop(coop) => {
                let width = coop.subgroups * coop.subgroup;
                let rows = coop.subgroups * COOP_QUERIES;
                ints(&[
                    ("VEC", 1),
                    ("SIZE", coop.size),
                    ("D", sizes.head_dim),
                    ("BQ", rows),
                    ("BK", COOP_KEYS),
                    ("ROWS", rows.div_ceil(width)),
                    ("SHARE", width.div_ceil(rows)),
                    ("WIDTH", width),
                ])
            }
        };
        if let Self::Tile(tile) = self {
            constants.push(("STAGED", Value::Bool(tile.staged)));
        }
        constants.push(("T", Value::Name(profile.storage(sizes.dtype))));
        constants
    }
}

impl Tile {
    /// Workgroups that a head of this many elements is shared by: the same for every window.
    pub fn slices(head_dim: usize) -> usize {
        let (_, _, slice, head_chunks) = Self::head(head_dim);
        head_chunks.div_ceil(slice)
    }

    /// How a head is shared out: elements of a chunk, chunks of an invocation, of a workgroup, of the head.
    fn head(head_dim: usize) -> (usize, usize, usize, usize) {
        let vec = if head_dim.is_multiple_of(4) { 4 } else { 1 };
        let head_chunks = head_dim / vec;
        let chunks = (8 / vec).min(head_chunks);
        (vec, chunks, head_chunks.min(MOST_ACROSS * chunks), head_chunks)
    }

    fn choose(sizes: &Sizes, window: &Window, profile: &DeviceProfile) -> Self {
        let (vec, chunks, slice, head_chunks) = Self::head(sizes.head_dim);
        let across = slice.div_ceil(chunks).max(4);
        // Software drivers with subgroups run fastest from storage; all else, and a software driver cut down to what
        // WebGPU guarantees, takes what is meant for GPUs.
        let direct = profile.kind == DeviceKind::Cpu && profile.subgroups.is_some();
        let (width, most_rows) = if direct { (32, 4) } else { (64, 8) };
        let rows = (width / across).clamp(1, most_rows).min(window.queries.div_ceil(QUERIES));
        let block_queries = rows * QUERIES;
        let keys = (MOST_PROBABILITIES / block_queries / across).clamp(1, 8);
        let staged = !direct && vec == 4 && (across * keys + 1) * STAGED_CHUNKS * 16 <= MOST_STAGED;
        Self { vec, staged, block_queries, across, keys, chunks, head_chunks, slice }
    }
}

impl Broadcast {
    /// On software drivers whose subgroups have one size, for heads whose sums fit the lanes.
    fn choose(sizes: &Sizes, window: &Window, profile: &DeviceProfile) -> Option<Self> {
        let (least, most) = profile.subgroups?;
        let lanes = most as usize;
        let vec = if sizes.head_dim.is_multiple_of(4) { 4 } else { 1 };
        let elements = (sizes.head_dim / vec).div_ceil(lanes) * vec;
        // Few queries are not worth the longer compilation, and would leave threads idle.
        let lent = (BROADCAST_SUMS / lanes / elements).min(4).min((window.queries / lanes / 16).max(1));
        let fits = profile.kind == DeviceKind::Cpu && least == most && [4, 8, 16].contains(&lanes);
        (fits && lent > 0).then_some(Self { vec, lanes, lent })
    }
}

impl Coop {
    /// Where the device has f16 matrices, knows its subgroups' size, and tiles fit the head, the queries and the keys.
    fn choose(sizes: &Sizes, window: &Window, profile: &DeviceProfile) -> Option<Self> {
        let size = profile.coop?.size as usize;
        let (least, most) = profile.subgroups?;
        let longest = if profile.kind == DeviceKind::Cpu { COOP_HEAD_IN_SOFTWARE } else { COOP_HEAD };
        let fits = least == most
            && sizes.dtype == DType::F16
            && sizes.head_dim.is_multiple_of(size)
            && sizes.head_dim <= longest
            && window.keys == sizes.keys
            && window.keys >= COOP_KEYS
            && window.queries >= COOP_QUERIES
            && COOP_QUERIES.is_multiple_of(size)
            && [8, 16, 32, 64].contains(&most);
        let subgroups = (window.queries / COOP_QUERIES).min(4).min(MOST_INVOCATIONS / most as usize);
        fits.then_some(Self { size, subgroup: most as usize, subgroups })
    }
}
