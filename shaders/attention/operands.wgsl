// What the variants of attention share: their operands. Heads are counted in chunks of VEC elements.
//# from "lib/storage.wgsl" import storage
//# include "lib/grid.wgsl"

struct Params {
    first_group: u32,   // of this dispatch
    groups: u32,        // of all dispatches over this window
    queries: u32,       // L, or those in the window
    query_blocks: u32,  // BQ queries each, the last may be cut
    keys: u32,          // S, or those in the window
    heads: u32,
    scale: f32,         // times log2(e): probabilities are powers of two
    q_at: u32,          // first chunk of q and y in their windows
    k_at: u32,          // first chunk of k and v
    key_bias_at: u32,
    rel_bias_at: u32,
}

@group(0) @binding(${next()}) var<storage, read> q: array<${storage(VEC, T)}>;  // [B, L, N * D]
@group(0) @binding(${next()}) var<storage, read> k: array<${storage(VEC, T)}>;  // [B, S, N * D]
@group(0) @binding(${next()}) var<storage, read> v: array<${storage(VEC, T)}>;  // [B, S, N * D]
//# if KEY_BIAS
@group(0) @binding(${next()}) var<storage, read> key_bias: array<f32>;  // [B, S]
//# endif
//# if REL_BIAS
@group(0) @binding(${next()}) var<storage, read> rel_bias: array<f32>;  // [L + S - 1, N]
//# endif
//# if LAST
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage(VEC, T)}>;  // [B, L, N * D]
//# endif
//# if not (FIRST and LAST)
@group(0) @binding(${next()}) var<storage, read_write> state_y: array<${storage(VEC, "f32")}>;  // [L, N * D], not normalised
@group(0) @binding(${next()}) var<storage, read_write> state_ml: array<vec2<f32>>;                // [L, N, SLICES]: max, sum
//# endif
@group(0) @binding(${next()}) var<uniform> p: Params;

const NEVER = -1e38;
const LOG2E = 1.4426950408889634;
