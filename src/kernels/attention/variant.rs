//! Which shader computes attention, and with what tiles: a table over sizes and profile.

use super::Sizes;
use crate::graph::{DeviceProfile, Needs, Source, Value};

const TILE: Source = Source { path: "attention/tile", text: include_str!("../../../shaders/attention/tile.wgsl") };

/// A shader with its tile sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Variant {
    /// Elements of a head that are loaded at once: 4 where heads are whole fours, else 1.
    vec: usize,
    /// Queries of a workgroup.
    block_queries: usize,
    /// Invocations side by side over keys and over the head's elements.
    across: usize,
    /// Queries, keys and chunks of `vec` elements of the output that an invocation computes.
    queries: usize,
    keys: usize,
    chunks: usize,
    /// Chunks of a head, and those that one workgroup sums up.
    head_chunks: usize,
    slice: usize,
}

/// Most invocations of a workgroup: what WebGPU guarantees.
const MOST_INVOCATIONS: usize = 256;
/// Most probabilities in workgroup memory: half of the 16 KiB that WebGPU guarantees.
const MOST_PROBABILITIES: usize = 2048;

impl Variant {
    /// The variant for these sizes on this device.
    pub fn choose(sizes: &Sizes, _profile: &DeviceProfile) -> Self {
        let vec = if sizes.head_dim % 4 == 0 { 4 } else { 1 };
        let head_chunks = sizes.head_dim / vec;
        let chunks = (8 / vec).min(head_chunks);
        let queries = 8;
        let across = head_chunks.div_ceil(chunks).clamp(4, MOST_INVOCATIONS);
        let slice = head_chunks.min(across * chunks);
        let rows =
            (32 / across).next_power_of_two().clamp(1, 4).min(sizes.queries.div_ceil(queries).next_power_of_two());
        let block_queries = rows * queries;
        let keys = (MOST_PROBABILITIES / block_queries / across).clamp(1, 8);
        Self { vec, block_queries, across, queries, keys, chunks, head_chunks, slice }
    }

    /// The shader's template.
    pub fn source(&self) -> Source {
        TILE
    }

    /// The label in profiles.
    pub fn label(&self) -> &'static str {
        if self.vec == 4 { "attention_tile" } else { "attention_tile_scalar" }
    }

    /// What the device must be able to do, besides f16 storage.
    pub fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Elements that are loaded at once.
    pub fn unit(&self) -> usize {
        self.vec
    }

    /// Queries of a workgroup.
    pub fn block_queries(&self) -> usize {
        self.block_queries
    }

    /// Workgroups that share the output's elements of one block of queries.
    pub fn slices(&self) -> usize {
        self.head_chunks.div_ceil(self.slice)
    }

    /// The template's constants, without those of biases and windows.
    pub fn constants(&self, sizes: &Sizes, profile: &DeviceProfile) -> Vec<(&'static str, Value)> {
        let width = self.block_queries / self.queries * self.across;
        let sizes = [
            ("VEC", self.vec),
            ("DC", self.head_chunks),
            ("SLICE", self.slice),
            ("SLICES", self.slices()),
            ("BQ", self.block_queries),
            ("BK", self.across * self.keys),
            ("R", self.queries),
            ("TK", self.keys),
            ("TC", self.chunks),
            ("ACROSS", self.across),
            ("WIDTH", width),
        ]
        .map(|(name, size)| (name, Value::Int(size as u32)))
        .into_iter()
        .chain([("T", Value::Name(profile.storage(sizes.dtype)))]);
        sizes.collect()
    }
}
