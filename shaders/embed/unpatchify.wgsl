// y[b, c, f PT + i, h PH + j, v PW + k] = x[b, (f, h, v), (i, j, k, c)]
// An invocation per element of y, so that neighbours write neighbours.
//# include "lib/grid.wgsl"

struct Params {
    first: u32, count: u32,     // elements of y of this dispatch, in y's order
    x_base: u32, y_base: u32,   // first element that is bound
    c: u32,                     // channels
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
    let column = i % p.w;
    let row = i / p.w % p.h;
    let frame = i / (p.w * p.h) % p.f;
    let channel = i / (p.w * p.h * p.f) % p.c;
    let batch = i / (p.w * p.h * p.f * p.c);
    let token = ((batch * (p.f / ${PT}u) + frame / ${PT}u) * (p.h / ${PH}u) + row / ${PH}u) * (p.w / ${PW}u) + column / ${PW}u;
    let tap = (frame % ${PT}u * ${PH}u + row % ${PH}u) * ${PW}u + column % ${PW}u;
    y[i - p.y_base] = x[(token * ${PT * PH * PW}u + tap) * p.c + channel - p.x_base];
}
