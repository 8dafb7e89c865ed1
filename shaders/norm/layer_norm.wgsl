// y = (x - mean) / sqrt(var + eps)                              AFFINE none        arXiv:1607.06450
//   ... * w + b                                                 AFFINE weights
//   ... * (1 + scale) + shift                                   AFFINE modulation  arXiv:2212.09748, fig. 3
// over each row of C elements. GROUP invocations share a row, each striding over it by VEC elements; the mean first, then
// the deviations from it and their squares, so that no large numbers cancel; what the deviations sum to is by how much the
// mean was rounded, and is taken off again. Sums are f32.
//# from "lib/storage.wgsl" import storage, load, store, total
//# include "norm/operands.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

@group(0) @binding(${next()}) var<storage, read> x: array<${storage(VEC, X)}>;        // [..., C]
//# if AFFINE != "none"
@group(0) @binding(${next()}) var<storage, read> a: array<${T}>;  // weights: w [C]; modulation: shift [R, C]
@group(0) @binding(${next()}) var<storage, read> b: array<${T}>;  // weights: b [C]; modulation: scale [R, C]
//# endif
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage(VEC, Y)}>;  // [..., C]
@group(0) @binding(${next()}) var<uniform> p: Params;

fn norm(row: Row) {
    var sum = ${T}(0.0);
    for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
        sum += ${load(VEC, "x", "row.x_at + i", X)};
    }
    let mean = row_sum(vec2<f32>(${total(VEC, "sum")}, 0.0), row.lane, 0u).x / ${C}.0;
    sum = ${T}(0.0);
    var squares = ${T}(0.0);
    for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
        let d = ${load(VEC, "x", "row.x_at + i", X)} - mean;
        sum += d;
        squares += d * d;
    }
    let moments = row_sum(vec2<f32>(${total(VEC, "sum")}, ${total(VEC, "squares")}), row.lane, 1u) / ${C}.0;
    let factor = 1.0 / sqrt(max(moments.y - moments.x * moments.x, 0.0) + p.eps);

    if (row.exists) {
        //# if AFFINE != "none"
        let table = p.table_at + ((row.index + p.first_row) / p.table_each % p.table_rows) * ${UNITS}u;
        //# endif
        for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
            let d = (${load(VEC, "x", "row.x_at + i", X)} - mean - moments.x) * factor;
            //# if AFFINE == "weights"
            let value = d * a[table + i] + b[table + i];
            //# elif AFFINE == "modulation"
            let value = d * (1.0 + b[table + i]) + a[table + i];
            //# else
            let value = d;
            //# endif
            y[row.y_at + i] = ${store(VEC, "value", Y)};
        }
    }
}
