// y = x / max(|x|, eps) * sqrt(C) * w, then SiLU if SILU    PyTorch's F.normalize, diffusers' WanRMS_norm
// over each row of C channels: one pixel. GROUP invocations share a row, each striding over it by VEC elements. Sums are
// f32.
//# include "lib/grid.wgsl"
//# include "lib/rows.wgsl"
//# if SILU
//# include "lib/activation.wgsl"
//# endif

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

@group(0) @binding(${next()}) var<storage, read> x: array<${T}>;        // [..., C]
@group(0) @binding(${next()}) var<storage, read> w: array<${T}>;        // [C]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${T}>;  // [..., C]
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
        let v = x[start + i];
        squares += v * v;
    }
    let total = row_sum(${"dot(squares, vec4<f32>(1.0))" if VEC == 4 else "squares"}, lane, 0u);
    let factor = sqrt(${C}.0) / max(sqrt(total), p.eps);

    if (row < p.rows) {
        let to = p.y_at + row * ${UNITS}u;
        for (var i = first; i < ${UNITS}u; i += ${GROUP}u) {
            let value = x[start + i] * factor * w[i];
            //# if SILU
            y[to + i] = ${"silu4" if VEC == 4 else "silu"}(value);
            //# else
            y[to + i] = value;
            //# endif
        }
    }
}
