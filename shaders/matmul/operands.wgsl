// What every variant of matmul shares: its operands and what becomes of a finished sum,
//     y[m, n] = residual[m, n] + gate[(m / each) mod R, n] * act(sum + bias[n]).
// VEC: K is a multiple of four, x and w are read as vectors. WIDE: so is N, and columns are finished by fours.
// A dispatch computes `rows` rows, all that its windows of x, residual and y hold, by `columns` columns, those whose
// weights its window of w holds; these are the columns first_column... of y. QUANTISED weights are read as they are
// stored, by words; sums with those of fp8 are multiplied by the tensor's scale.
//# from "lib/storage.wgsl" import storage1, storage4, load1, load4, store1, store4
//# include "lib/grid.wgsl"
//# if ACTIVATION
//# include "lib/activation.wgsl"
//# endif

struct Params {
    rows: u32,          // M
    columns: u32,
    depth: u32,         // K
    stride: u32,        // N
    first_column: u32,
    first_row: u32,     // the number of the first row among all that the gate serves
    gate_rows: u32,     // R
    gate_each: u32,     // rows in a run that share a row of the gate
    scale: f32,         // of all weights
}

/*% macro of(T, vector) %*/
/*%- if vector %*/${storage4(T)}/*% else %*/${storage1(T)}/*% endif -%*/
/*% endmacro %*/
@group(0) @binding(${next()}) var<storage, read> x: array<${of(X, VEC)}>;           // [M, K]
@group(0) @binding(${next()}) var<storage, read> w: array<${"u32" if QUANTISED else of(W, VEC)}>;           // [N, K]
//# if BIAS
@group(0) @binding(${next()}) var<storage, read> bias: array<${of("f32", WIDE)}>;      // [N]
//# endif
//# if RESIDUAL
@group(0) @binding(${next()}) var<storage, read> residual: array<${of("f32", WIDE)}>;  // [M, N]
//# endif
//# if GATE
@group(0) @binding(${next()}) var<storage, read> gate: array<${of("f32", WIDE)}>;      // [R, N]
//# endif
@group(0) @binding(${next()}) var<storage, read_write> y: array<${of(Y, WIDE)}>;    // [M, N]
@group(0) @binding(${next()}) var<uniform> p: Params;

// Elements of x and w: the index-th four of them where VEC is set, else the index-th.
//# set element = "vec4<f32>" if VEC else "f32"
fn x_at(index: u32) -> ${element} {
    return ${load4("x", "index", X) if VEC else load1("x", "index", X)};
}
//# if QUANTISED
//# include "lib/quant.wgsl"
//# else
fn w_at(index: u32) -> ${element} {
    return ${load4("w", "index", W) if VEC else load1("w", "index", W)};
}
//# endif

//# if WIDE
// Four columns from `column` (a multiple of four) on; `row` and `column` count within the dispatch.
fn finish4(sum: vec4<f32>, row: u32, column: u32) {
    let stride = p.stride / 4u;
    let n = (p.first_column + column) / 4u;
    let at = row * stride + n;
    var value = sum${" * p.scale" if W in ["f8e4m3", "f8e5m2"] else ""};
    //# if BIAS
    value += bias[n];
    //# endif
    //# if ACTIVATION
    value = vec4<f32>(${ACTIVATION}(value.x), ${ACTIVATION}(value.y), ${ACTIVATION}(value.z), ${ACTIVATION}(value.w));
    //# endif
    //# if GATE
    value *= gate[((p.first_row + row) / p.gate_each % p.gate_rows) * stride + n];
    //# endif
    //# if RESIDUAL
    value += residual[at];
    //# endif
    y[at] = ${store4("value", Y)};
}
//# else
fn finish1(sum: f32, row: u32, column: u32) {
    let n = p.first_column + column;
    let at = row * p.stride + n;
    var value = sum${" * p.scale" if W in ["f8e4m3", "f8e5m2"] else ""};
    //# if BIAS
    value += bias[n];
    //# endif
    //# if ACTIVATION
    value = ${ACTIVATION}(value);
    //# endif
    //# if GATE
    value *= gate[((p.first_row + row) / p.gate_each % p.gate_rows) * p.stride + n];
    //# endif
    //# if RESIDUAL
    value += residual[at];
    //# endif
    y[at] = ${store1("value", Y)};
}

// Those of four columns from `column` on that exist.
fn finish4(sum: vec4<f32>, row: u32, column: u32) {
    finish1(sum.x, row, column);
    if (column + 1u < p.columns) { finish1(sum.y, row, column + 1u); }
    if (column + 2u < p.columns) { finish1(sum.z, row, column + 2u); }
    if (column + 3u < p.columns) { finish1(sum.w, row, column + 3u); }
}
//# endif
