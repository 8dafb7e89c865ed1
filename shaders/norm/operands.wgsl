// What the norms share: their parameters, and which invocations deal with which row. Each defines what becomes of one,
// `fn norm(row: Row)`, which all invocations of a workgroup call together, since they may meet at barriers.
//# include "lib/grid.wgsl"
//# include "lib/rows.wgsl"

struct Params {
    rows: u32,
    x_at: u32,        // where the first row begins, in vectors of VEC
    y_at: u32,
    first_row: u32,   // the number of the first row among all that the table serves
    table_rows: u32,  // R
    table_each: u32,  // rows in a run that share a row of the table
    table_at: u32,    // where row 0 of the table begins, in vectors of VEC
    eps: f32,
}

struct Row {
    index: u32,
    exists: bool,  // rows past the end do the last one again, and write nothing
    first: u32,    // the invocation's first vector of the row; the others follow GROUP apart
    x_at: u32,     // where the row begins
    y_at: u32,
    lane: Lane,
}

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
    let safe = min(row, p.rows - 1u);
    norm(Row(safe, row == safe, index % ${GROUP}u, p.x_at + safe * ${UNITS}u, p.y_at + safe * ${UNITS}u, lane));
}
