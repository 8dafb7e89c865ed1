// y[i] = x[sum of strides * coordinates of i]: dimensions reordered, RANK of them after those that stay together were
// merged. One invocation per VEC elements of y; a dispatch sees a window of each and writes what lies in both.
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
    let i = linear_group(wid, groups) * ${WIDTH}u + lane;
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
    if (source >= p.x_first && source - p.x_first < p.x_count) {
        y[p.y_at + i] = x[p.x_at + source - p.x_first];
    }
}
