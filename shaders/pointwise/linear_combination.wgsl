// y = sum over i of coefficients[i] x_i, without the terms whose coefficient is zero: those may hold anything, even NaN.
// One invocation per VEC elements.
//# include "lib/grid.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

struct Params {
    count: u32,  // vectors of VEC
}

//# for i in range(TERMS)
@group(0) @binding(${next()}) var<storage, read> x${i}: array<${T}>;              // [...]
//# endfor
@group(0) @binding(${next()}) var<storage, read> coefficients: array<f32>;        // [TERMS]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${T}>;            // [...]
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
    var sum = ${T}(0.0);
    //# for i in range(TERMS)
    if (coefficients[${i}] != 0.0) {
        sum += coefficients[${i}] * x${i}[i];
    }
    //# endfor
    y[i] = sum;
}
