// y = x / max(|x|, eps) * sqrt(C) * w, then SiLU if SILU    PyTorch's F.normalize, diffusers' WanRMS_norm
// over each row of C channels: one pixel. GROUP invocations share a row, each striding over it by VEC elements. Sums are
// f32.
//# from "lib/storage.wgsl" import total
//# include "norm/operands.wgsl"
//# if SILU
//# include "lib/activation.wgsl"
//# endif

//# set T = "vec4<f32>" if VEC == 4 else "f32"

@group(0) @binding(${next()}) var<storage, read> x: array<${T}>;        // [..., C]
@group(0) @binding(${next()}) var<storage, read> w: array<${T}>;        // [C]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${T}>;  // [..., C]
@group(0) @binding(${next()}) var<uniform> p: Params;

fn norm(row: Row) {
    var squares = ${T}(0.0);
    for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
        let v = x[row.x_at + i];
        squares += v * v;
    }
    let total = row_sum(${total(VEC, "squares")}, row.lane, 0u);
    let factor = sqrt(${C}.0) / max(sqrt(total), p.eps);

    if (row.exists) {
        for (var i = row.first; i < ${UNITS}u; i += ${GROUP}u) {
            let value = x[row.x_at + i] * factor * w[i];
            //# if SILU
            y[row.y_at + i] = ${"silu4" if VEC == 4 else "silu"}(value);
            //# else
            y[row.y_at + i] = value;
            //# endif
        }
    }
}
