// y[b, c, f PT + i, h PH + j, v PW + k] = x[b, (f, h, v), (i, j, k, c)]
// An invocation for all channels of a pixel: neighbours write neighbours, and where a pixel lies is reckoned once.
//# include "lib/grid.wgsl"

struct Params {
    first: u32, count: u32,     // pixels of this dispatch, of [B, F, H, W]
    c0: u32, c_end: u32,        // and channels
    x_base: u32, y_base: u32,   // first element that is bound
    c: u32,                     // channels of x and y
    f: u32, h: u32, w: u32,     // frames, rows and columns of y
}

@group(0) @binding(${next()}) var<storage, read> x: array<f32>;         // [B, L, PT PH PW C]
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;   // [B, C, F, H, W]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = linear_group(wid, groups) * ${WIDTH}u + lane;
    if (n >= p.count) {
        return;
    }
    let i = p.first + n;
    let plane = p.f * p.h * p.w;
    let column = i % p.w;
    let row = i / p.w % p.h;
    let frame = i / (p.w * p.h) % p.f;
    let batch = i / plane;
    let token = ((batch * (p.f / ${PT}u) + frame / ${PT}u) * (p.h / ${PH}u) + row / ${PH}u) * (p.w / ${PW}u) + column / ${PW}u;
    let tap = (frame % ${PT}u * ${PH}u + row % ${PH}u) * ${PW}u + column % ${PW}u;
    let x_at = (token * ${PT * PH * PW}u + tap) * p.c - p.x_base;
    let y_at = batch * p.c * plane + i % plane - p.y_base;
    for (var c = p.c0; c < p.c_end; c += 1u) {
        y[y_at + c * plane] = x[x_at + c];
    }
}
