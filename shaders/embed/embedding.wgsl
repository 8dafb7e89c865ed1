// y[l] = table[ids[l]], zeros where ids[l] >= V
// A dispatch sees rows v_first .. v_first + v_rows of the table and writes only what comes from them; the first of them
// writes the zeros, too. One invocation per VEC elements of y.
//# from "lib/storage.wgsl" import storage, load
//# include "lib/grid.wgsl"

//# set T = "vec4<f32>" if VEC == 4 else "f32"

struct Params {
    count: u32,      // vectors of VEC to write
    ids_at: u32,     // where the first id is
    y_at: u32,       // where the first vector is
    v_first: u32,
    v_rows: u32,
    table_at: u32,   // where row v_first begins, in vectors
    v_all: u32,      // V
}

@group(0) @binding(${next()}) var<storage, read> ids: array<u32>;         // [L]
@group(0) @binding(${next()}) var<storage, read> table: array<${storage(VEC, TABLE)}>;  // [V, C]
@group(0) @binding(${next()}) var<storage, read_write> y: array<${T}>;    // [L, C]
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
    let id = ids[p.ids_at + i / ${UNITS}u];
    if (id >= p.v_first && id - p.v_first < p.v_rows) {
        let source = p.table_at + (id - p.v_first) * ${UNITS}u + i % ${UNITS}u;
        y[p.y_at + i] = ${load(VEC, "table", "source", TABLE)};
    } else if (id >= p.v_all && p.v_first == 0u) {
        y[p.y_at + i] = ${T}(0.0);
    }
}
