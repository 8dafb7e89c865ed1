// y = x / sqrt(mean(x^2) + eps) * w                                                arXiv:1910.07467
// over each row of C elements. GROUP invocations share a row, each striding over it by VEC elements. Sums are f32.
//# from "lib/storage.wgsl" import storage1, storage4, load1, load4, store1, store4
//# include "lib/grid.wgsl"
//# include "lib/rows.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

struct Params {
    rows: u32,
    x_at: u32,        // where the first row begins, in vectors of VEC
    y_at: u32,
    first_row: u32,   // from here on unused but eps: w has one row
    table_rows: u32,
    table_each: u32,
    table_at: u32,
    eps: f32,
}

@group(0) @binding(${next()}) var<storage, read> x: array<${storage4(X) if VEC == 4 else storage1(X)}>;        // [..., C]
@group(0) @binding(${next()}) var<storage, read> w: array<${T}>;                                               // [C]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage4(Y) if VEC == 4 else storage1(Y)}>;  // [..., C]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) index: u32,
    //# if REDUCE == "subgroup"
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) in_subgroup: u32,
    //# endif
) {
    //# if REDUCE == "subgroup"
    let lane = Lane(index, subgroup, subgroups, in_subgroup);
    //# else
    let lane = Lane(index, 0u, 1u, 0u);
    //# endif
    let row = linear_group(wid, groups) * ${WIDTH // GROUP}u + index / ${GROUP}u;
    let first = index % ${GROUP}u;
    // Rows past the end do the last one again, and write nothing: all invocations meet at every barrier.
    let safe_row = min(row, p.rows - 1u);
    let start = p.x_at + safe_row * ${UNITS}u;

    var squares = ${T}(0.0);
    for (var i = first; i < ${UNITS}u; i += ${GROUP}u) {
        let v = ${load4("x", "start + i", X) if VEC == 4 else load1("x", "start + i", X)};
        squares += v * v;
    }
    let total = row_sum(${"dot(squares, vec4<f32>(1.0))" if VEC == 4 else "squares"}, lane, 0u);
    let factor = 1.0 / sqrt(total / ${C}.0 + p.eps);

    if (row < p.rows) {
        let to = p.y_at + row * ${UNITS}u;
        for (var i = first; i < ${UNITS}u; i += ${GROUP}u) {
            let value = ${load4("x", "start + i", X) if VEC == 4 else load1("x", "start + i", X)} * factor * w[i];
            y[to + i] = ${store4("value", Y) if VEC == 4 else store1("value", Y)};
        }
    }
}
