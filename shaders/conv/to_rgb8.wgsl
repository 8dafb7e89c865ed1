// y = r | g << 8 | b << 16 | 255 << 24, each round(clamp(x / 2 + 0.5, 0, 1) * 255), halves to the even; NaN is 0.
// An invocation per pixel.
//# include "lib/grid.wgsl"

struct Params {
    count: u32,     // pixels
    x_base: u32,    // elements of x that are bound before the first
    y_base: u32,    // pixels of y that are bound before the first
}

@group(0) @binding(${next()}) var<storage, read> x: array<f32>;        // [T, H, W, 3]
@group(0) @binding(${next()}) var<storage, read_write> y: array<u32>;  // [T, H, W]
@group(0) @binding(${next()}) var<uniform> p: Params;

fn byte(value: f32) -> u32 {
    // By its bits, since some drivers take it for granted that nothing is NaN.
    let nan = (bitcast<u32>(value) & 0x7fffffffu) > 0x7f800000u;
    return select(u32(round(clamp(value * 0.5 + 0.5, 0.0, 1.0) * 255.0)), 0u, nan);
}

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = linear_group(wid, groups) * ${WIDTH}u + lane;
    if (pixel < p.count) {
        let i = p.x_base + 3u * pixel;
        y[p.y_base + pixel] = byte(x[i]) | byte(x[i + 1u]) << 8u | byte(x[i + 2u]) << 16u | 0xff000000u;
    }
}
