// y = x / sqrt(mean(x^2) + eps) * w                                                arXiv:1910.07467
// over each row of C elements. GROUP invocations share a row, each striding over it by VEC elements. Sums are f32.
//# from "lib/storage.wgsl" import storage, load, store, total
//# include "norm/operands.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

@group(0) @binding(${next()}) var<storage, read> x: array<${storage(VEC, X)}>;        // [..., C]
@group(0) @binding(${next()}) var<storage, read> w: array<${T}>;                     // [C]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${storage(VEC, Y)}>;  // [..., C]
@group(0) @binding(${next()}) var<uniform> p: Params;

fn norm(row: Row) {
    var squares = ${T}(0.0);
    for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
        let v = ${load(VEC, "x", "row.x_at + i", X)};
        squares += v * v;
    }
    let total = row_sum(${total(VEC, "squares")}, row.lane, 0u);
    let factor = 1.0 / sqrt(total / ${C}.0 + p.eps);

    if (row.exists) {
        for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
            let value = ${load(VEC, "x", "row.x_at + i", X)} * factor * w[i];
            y[row.y_at + i] = ${store(VEC, "value", Y)};
        }
    }
}
