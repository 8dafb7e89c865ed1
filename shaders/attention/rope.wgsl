// (x0, x1) -> (x0 cos - x1 sin, x0 sin + x1 cos) for the interleaved pairs of every head          arXiv:2104.09864
// Each invocation turns UNITS units of one head, each of PAIRS pairs (two where the head has whole fours), which lie side
// by side, so that it finds its place in the table once.
//# from "lib/storage.wgsl" import storage1, load1, store1, storage4, load4, store4
//# include "lib/grid.wgsl"

struct Params {
    count: u32,      // units of PAIRS pairs in the window
    rows: u32,       // L, or those in the window: the tables' rows repeat after as many
    row_units: u32,  // units in a row of all heads
    x_at: u32,       // first unit of x and y in their windows
    table_at: u32,   // first angle in the tables' windows
}

//# if PAIRS == 2
@group(0) @binding(${next()}) var<storage, read> x: array<${storage4(T)}>;        // [B, L, N * D]
//# else
@group(0) @binding(${next()}) var<storage, read> x: array<${storage1(T)}>;        // [B, L, N * D]
//# endif
@group(0) @binding(${next()}) var<storage, read> cosines: array<f32>;             // [L, D / 2]
@group(0) @binding(${next()}) var<storage, read> sines: array<f32>;               // [L, D / 2]
//# if PAIRS == 2
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage4(T)}>;  // [B, L, N * D]
//# else
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage1(T)}>;  // [B, L, N * D]
//# endif
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (linear_group(wid, groups) * ${WIDTH}u + lane) * ${UNITS}u;
    if (i >= p.count) {
        return;
    }
    let first_angle = p.table_at + i / p.row_units % p.rows * ${HALF}u + i % ${HALF // PAIRS}u * ${PAIRS}u;
    for (var n = 0u; n < ${UNITS}u; n += 1u) {
        let angle = first_angle + n * ${PAIRS}u;
        //# if PAIRS == 2
        let at = p.x_at + i + n;
        let c = vec2<f32>(cosines[angle], cosines[angle + 1u]);
        let s = vec2<f32>(sines[angle], sines[angle + 1u]);
        let z = ${load4("x", "at", T)};
        let turned = vec4<f32>(
            z.x * c.x - z.y * s.x, z.x * s.x + z.y * c.x,
            z.z * c.y - z.w * s.y, z.z * s.y + z.w * c.y);
        y[at] = ${store4("turned", T)};
        //# else
        let at = 2u * (p.x_at + i + n);
        let c = cosines[angle];
        let s = sines[angle];
        let x0 = ${load1("x", "at", T)};
        let x1 = ${load1("x", "at + 1u", T)};
        y[at] = ${store1("(x0 * c - x1 * s)", T)};
        y[at + 1u] = ${store1("(x0 * s + x1 * c)", T)};
        //# endif
    }
}
