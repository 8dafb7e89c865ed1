// y[h, w, o] = base[h, w, o] + x[h / FS, w / FS, k / REPEATS],   k = ((o FT + i) FS + h mod FS) FS + w mod FS
// One output frame, the i-th of FT that a frame of x stands for, and some of its rows; an invocation per element.
//# include "lib/grid.wgsl"

struct Params {
    count: u32,                 // elements of y
    first_row: u32,             // the first row of y
    w: u32, o: u32, c: u32,     // columns and channels of y, channels of x
    i: u32,
    x_at: u32,                  // where the row of x begins that the first row of y is made of
    base_at: u32, y_at: u32,
}

@group(0) @binding(${next()}) var<storage, read> x: array<f32>;        // [H / FS, W / FS, C]
@group(0) @binding(${next()}) var<storage, read> base: array<f32>;     // [H, W, O]
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;  // [H, W, O]
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
    let o = n % p.o;
    let column = n / p.o % p.w;
    let row = p.first_row + n / (p.o * p.w);
    let k = ((o * ${FT}u + p.i) * ${FS}u + row % ${FS}u) * ${FS}u + column % ${FS}u;
    let source = ((row / ${FS}u - p.first_row / ${FS}u) * (p.w / ${FS}u) + column / ${FS}u) * p.c + k / ${REPEATS}u;
    y[p.y_at + n] = base[p.base_at + n] + x[p.x_at + source];
}
