// add:      y[i] = act(a[i]) + b[i mod count(b)]
// mul:      y[i] = act(a[i]) * b[i mod count(b)]
// activate: y[i] = act(a[i])
// Each invocation takes PER_INVOCATION elements, a workgroup's width apart, so that neighbours read neighbours.
//# from "lib/storage.wgsl" import storage1, load1, store1
//# include "lib/grid.wgsl"
//# if ACTIVATION
//# include "lib/activation.wgsl"
//# endif

struct Params {
    count: u32,    // elements of a and y
    b_count: u32,  // elements of b
}

@group(0) @binding(${next()}) var<storage, read> a: array<${storage1(A)}>;        // [..., C]
//# if OP != "activate"
@group(0) @binding(${next()}) var<storage, read> b: array<${storage1(B)}>;        // [R, C]
//# endif
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage1(Y)}>;  // [..., C]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = linear_group(wid, groups) * ${WIDTH * PER_INVOCATION}u + lane;
    for (var n = 0u; n < ${PER_INVOCATION}u; n += 1u) {
        let i = first + n * ${WIDTH}u;
        if (i < p.count) {
            //# if ACTIVATION
            let x = ${ACTIVATION}(${load1("a", "i", A)});
            //# else
            let x = ${load1("a", "i", A)};
            //# endif
            //# if OP == "add"
            let value = x + ${load1("b", "i % p.b_count", B)};
            //# elif OP == "mul"
            let value = x * ${load1("b", "i % p.b_count", B)};
            //# else
            let value = x;
            //# endif
            y[i] = ${store1("value", Y)};
        }
    }
}
