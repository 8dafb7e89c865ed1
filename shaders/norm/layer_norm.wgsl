// y = (x - mean) / sqrt(var + eps)                              AFFINE none        arXiv:1607.06450
//   ... * w + b                                                 AFFINE weights
//   ... * (1 + scale) + shift                                   AFFINE modulation  arXiv:2212.09748, fig. 3
// over each row of C elements. GROUP invocations share a row, each striding over it by VEC elements; the mean first, then
// the deviations from it and their squares, so that no large numbers cancel; what the deviations sum to is by how much the
// mean was rounded, and is taken off again. Sums are f32.
//# from "lib/storage.wgsl" import storage1, storage4, load1, load4, store1, store4
//# include "lib/grid.wgsl"
//# include "lib/rows.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

struct Params {
    rows: u32,
    x_at: u32,        // where the first row begins, in vectors of VEC
    y_at: u32,
    first_row: u32,   // the number of the first row among all that the table serves
    table_rows: u32,  // R
    table_each: u32,  // rows in a run that share a row of the table
    table_at: u32,    // where row 0 of those begins, in vectors of VEC
    eps: f32,
}

@group(0) @binding(${next()}) var<storage, read> x: array<${storage4(X) if VEC == 4 else storage1(X)}>;        // [..., C]
//# if AFFINE != "none"
@group(0) @binding(${next()}) var<storage, read> a: array<${T}>;  // weights: w [C]; modulation: shift [R, C]
@group(0) @binding(${next()}) var<storage, read> b: array<${T}>;  // weights: b [C]; modulation: scale [R, C]
//# endif
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

    var sum = ${T}(0.0);
    for (var i = first; i < ${UNITS}u; i += ${GROUP}u) {
        sum += ${load4("x", "start + i", X) if VEC == 4 else load1("x", "start + i", X)};
    }
    let mean = row_sum(vec2<f32>(${"dot(sum, vec4<f32>(1.0))" if VEC == 4 else "sum"}, 0.0), lane, 0u).x / ${C}.0;
    sum = ${T}(0.0);
    var squares = ${T}(0.0);
    for (var i = first; i < ${UNITS}u; i += ${GROUP}u) {
        let d = ${load4("x", "start + i", X) if VEC == 4 else load1("x", "start + i", X)} - mean;
        sum += d;
        squares += d * d;
    }
    //# if VEC == 4
    let part = vec2<f32>(dot(sum, vec4<f32>(1.0)), dot(squares, vec4<f32>(1.0)));
    //# else
    let part = vec2<f32>(sum, squares);
    //# endif
    let moments = row_sum(part, lane, 1u) / ${C}.0;
    let factor = 1.0 / sqrt(max(moments.y - moments.x * moments.x, 0.0) + p.eps);

    if (row < p.rows) {
        let to = p.y_at + row * ${UNITS}u;
        //# if AFFINE != "none"
        let table = p.table_at + ((row + p.first_row) / p.table_each % p.table_rows) * ${UNITS}u;
        //# endif
        for (var i = first; i < ${UNITS}u; i += ${GROUP}u) {
            let d = (${load4("x", "start + i", X) if VEC == 4 else load1("x", "start + i", X)} - mean - moments.x) * factor;
            //# if AFFINE == "weights"
            let value = d * a[table + i] + b[table + i];
            //# elif AFFINE == "modulation"
            let value = d * (1.0 + b[table + i]) + a[table + i];
            //# else
            let value = d;
            //# endif
            y[to + i] = ${store4("value", Y) if VEC == 4 else store1("value", Y)};
        }
    }
}
