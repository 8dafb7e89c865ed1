// y[i] = x[sum of strides * coordinates of i]: dimensions reordered, RANK of them after those that stay together were
// merged. An invocation moves RUN neighbours, of VEC elements each, of y's last dimension, so that it reckons their
// coordinates once. A dispatch sees a window of each tensor and writes what lies in both.
//# include "lib/grid.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

struct Params {
    first: u32,     // the first vector of y that the dispatch may write, of all of y
    count: u32,     // and how many
    y_at: u32,      // where it is in the window
    x_first: u32,   // the first vector of x that the dispatch sees
    x_count: u32,   // and how many
    x_at: u32,      // where it is in the window
    //# for d in range(RANK)
    extent${d}: u32,  // of y's dimension ${d}, in vectors for the last
    stride${d}: u32,  // of that dimension in x, in vectors
    //# endfor
}

@group(0) @binding(${next()}) var<storage, read> x: array<${T}>;        // [d0, d1, ...]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${T}>;  // [d of axis 0, d of axis 1, ...]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (linear_group(wid, groups) * ${WIDTH}u + lane) * ${RUN}u;
    if (i >= p.count) {
        return;
    }
    var rest = p.first + i;
    var source = 0u;
    //# for d in range(RANK - 1, 0, -1)
    source += (rest % p.extent${d}) * p.stride${d};
    rest /= p.extent${d};
    //# endfor
    source += rest * p.stride0;
    // What lies before the window wraps around to huge numbers: one comparison tells on both sides.
    source -= p.x_first;
    for (var n = 0u; n < ${RUN}u; n += 1u) {
        if (source < p.x_count) {
            y[p.y_at + i + n] = x[p.x_at + source];
        }
        source += p.stride${RANK - 1};
    }
}
