// add:      y[i] = act(a[i]) + b[i mod count(b)]
// mul:      y[i] = act(a[i]) * b[i mod count(b)]
// activate: y[i] = act(a[i])
// Each invocation takes PER_INVOCATION vectors of VEC elements, a workgroup's width apart, so that neighbours read
// neighbours. REPEAT says how b's index follows from a's: "same", or "step" when b is longer than a workgroup is wide, so
// that at most one subtraction takes each step back into it, or "mod".
//# from "lib/storage.wgsl" import storage, load, store
//# include "lib/grid.wgsl"
//# if ACTIVATION
//# include "lib/activation.wgsl"
//# endif

struct Params {
    count: u32,    // vectors of a and y
    a_at: u32,     // where the first one is
    y_at: u32,
    b_count: u32,  // vectors of b
    b_first: u32,  // the one of b that goes with the first one of a
    b_at: u32,     // where vector 0 of b is
}

@group(0) @binding(${next()}) var<storage, read> a: array<${storage(VEC, A)}>;        // [..., C]
//# if OP != "activate"
@group(0) @binding(${next()}) var<storage, read> b: array<${storage(VEC, B)}>;        // [R, C]
//# endif
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage(VEC, Y)}>;  // [..., C]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = linear_group(wid, groups) * ${WIDTH * PER_INVOCATION}u + lane;
    //# if OP != "activate"
    //# if REPEAT == "same"
    var j = first;
    //# else
    var j = (p.b_first + first) % p.b_count;
    //# endif
    //# endif
    for (var n = 0u; n < ${PER_INVOCATION}u; n += 1u) {
        let i = first + n * ${WIDTH}u;
        if (i < p.count) {
            var x = ${load(VEC, "a", "p.a_at + i", A)};
            //# if ACTIVATION and VEC == 4
            x = ${ACTIVATION}4(x);
            //# elif ACTIVATION
            x = ${ACTIVATION}(x);
            //# endif
            //# if OP != "activate"
            x = x ${"+" if OP == "add" else "*"} ${load(VEC, "b", "p.b_at + j", B)};
            //# endif
            y[p.y_at + i] = ${store(VEC, "x", Y)};
        }
        //# if OP != "activate"
        j += ${WIDTH}u;
        //# if REPEAT == "step"
        j -= select(0u, p.b_count, j >= p.b_count);
        //# elif REPEAT == "mod"
        j %= p.b_count;
        //# endif
        //# endif
    }
}
