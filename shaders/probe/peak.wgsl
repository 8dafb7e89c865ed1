// y[i] = sum over 8 chains of vec4 of f^ROUNDS(x[i] + offset), f(c) = c * a + b
// What the arithmetic units can do when nothing is read or written: eight independent chains hide their latency.
//# include "lib/grid.wgsl"

struct Params {
    count: u32,  // elements of x and y
    a: f32,
    b: f32,
}

@group(0) @binding(${next()}) var<storage, read> x: array<f32>;        // [I]
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;  // [I]
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
    let start = x[i] + vec4<f32>(0.0, 0.25, 0.5, 0.75);
    //# for c in range(CHAINS)
    var c${c} = start + ${c}.0;
    //# endfor
    for (var round = 0u; round < ${ROUNDS}u; round += 1u) {
        //# for c in range(CHAINS)
        c${c} = c${c} * p.a + p.b;
        //# endfor
    }
    var sum = vec4<f32>();
    //# for c in range(CHAINS)
    sum += c${c};
    //# endfor
    y[i] = sum.x + sum.y + sum.z + sum.w;
}
