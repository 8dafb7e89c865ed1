// y[y_at ..][i] = x[x_at ..][i]: one operand of a concatenation, copied to its place.
// Elements are words, or vectors of four of them, or 16-bit halves of words (HALVES): those when they have to move within
// their words. Then one invocation makes a whole word of y, and the half of the first one that precedes y_at stays.
//# include "lib/grid.wgsl"

//# set T = "vec4<u32>" if VEC == 4 else "u32"

struct Params {
    count: u32,  // elements to copy
    x_at: u32,   // the first of them in x
    y_at: u32,   // and its place in y
}

@group(0) @binding(${next()}) var<storage, read> x: array<${T}>;        // [A, ...], one operand
@group(0) @binding(${next()}) var<storage, read_write> y: array<${T}>;  // [A + B + ..., ...]
@group(0) @binding(${next()}) var<uniform> p: Params;

//# if HALVES
fn half_of_x(i: u32) -> u32 {
    return (x[i >> 1u] >> ((i & 1u) * 16u)) & 0xffffu;
}
//# endif

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_group(wid, groups) * ${WIDTH}u + lane;
    //# if HALVES
    let word = p.y_at / 2u + i;
    let end = p.y_at + p.count;
    if (word * 2u >= end) {
        return;
    }
    var value = 0u;
    if (word * 2u < p.y_at) {
        value = y[word] & 0xffffu;
    } else {
        value = half_of_x(word * 2u - p.y_at + p.x_at);
    }
    if (word * 2u + 1u < end) {
        value |= half_of_x(word * 2u + 1u - p.y_at + p.x_at) << 16u;
    }
    y[word] = value;
    //# else
    if (i < p.count) {
        y[p.y_at + i] = x[p.x_at + i];
    }
    //# endif
}
