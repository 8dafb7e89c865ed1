// y = residual + gate * act(x w^T + bias), by cooperative matrices: f16 operands, f32 sums
// A workgroup of WIDTH invocations computes 2 x 2 tiles, each of ACROSS x ACROSS matrices of SIZE x SIZE, one tile to a
// subgroup of the SUBGROUPS that there are at most; should it have fewer subgroups than tiles, they take turns, and should it have more, the last tile is computed
// more than once (matrices need uniform control flow). A slice of DEPTH of K of both operands is staged as f16: this is
// where bf16, f32 and quantised weights are rounded. Rows and columns past the end repeat the last one and are not stored; past the
// end of K there are zeros.
//# include "matmul/operands.wgsl"

//# set matrix = SIZE * SIZE
//# set side = ACROSS * SIZE
// Rows are PITCH apart, a little more than DEPTH, so that those of a matrix fall into different banks.
var<workgroup> xs: array<f16, ${2 * side * PITCH}>;       // [rows, DEPTH]
var<workgroup> ws: array<f16, ${2 * side * PITCH}>;  // [columns, DEPTH]
var<workgroup> sums: array<f32, ${SUBGROUPS * matrix}>;       // a matrix of each subgroup, on its way out

//# for name, T, limit in [("x", X, "rows"), ("w", W, "columns")]
// Stages four elements of one row of ${name}, the `unit`-th four of the slice that begins at row `first` and `k`.
fn stage_${name}(first: u32, k: u32, unit: u32) {
    let row = unit / ${DEPTH // 4}u;
    let inner = unit % ${DEPTH // 4}u * 4u;
    var value = vec4<f16>();
    //# if VEC
    if (k + inner < p.depth) {
        let at = min(first + row, p.${limit} - 1u) * (p.depth / 4u) + (k + inner) / 4u;
        value = ${name ~ "[at]" if T == "f16" else "vec4<f16>(" ~ name ~ "_at(at))"};
    }
    //# else
    let at = min(first + row, p.${limit} - 1u) * p.depth + k + inner;
    //# for i in range(4)
    if (k + inner + ${i}u < p.depth) { value[${i}] = f16(${name}_at(at + ${i}u)); }
    //# endfor
    //# endif
    let to = row * ${PITCH}u + inner;
    //# for i in range(4)
    ${name}s[to + ${i}u] = value[${i}];
    //# endfor
}
//# endfor

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    @builtin(subgroup_size) lanes: u32,
) {
    let group = linear_group(wid, groups);
    let across = (p.columns + ${2 * side - 1}u) / ${2 * side}u;
    let first_row = group / across * ${2 * side}u;
    let first_column = group % across * ${2 * side}u;
    for (var turn = 0u; turn < 4u; turn += subgroups) {
        let tile = min(turn + subgroup, 3u);
        let tile_row = tile / 2u * ${side}u;
        let tile_column = tile % 2u * ${side}u;
        //# for i in range(ACROSS)
        //# for j in range(ACROSS)
        var s${i}_${j} = coop_mat${SIZE}x${SIZE}<f32, C>();
        //# endfor
        //# endfor
        for (var k = 0u; k < p.depth; k += ${DEPTH}u) {
            for (var unit = invocation; unit < ${side * DEPTH // 2}u; unit += ${WIDTH}u) {
                stage_x(first_row, k, unit);
            }
            for (var unit = invocation; unit < ${side * DEPTH // 2}u; unit += ${WIDTH}u) {
                stage_w(first_column, k, unit);
            }
            workgroupBarrier();
            for (var inner = 0u; inner < ${DEPTH}u; inner += ${SIZE}u) {
                //# for i in range(ACROSS)
                let a${i} = coopLoadT<coop_mat${SIZE}x${SIZE}<f16, A>>(&xs[(tile_row + ${i * SIZE}u) * ${PITCH}u + inner], ${PITCH}u);
                //# endfor
                //# for j in range(ACROSS)
                let b${j} = coopLoad<coop_mat${SIZE}x${SIZE}<f16, B>>(&ws[(tile_column + ${j * SIZE}u) * ${PITCH}u + inner], ${PITCH}u);
                //# for i in range(ACROSS)
                s${i}_${j} = coopMultiplyAdd(a${i}, b${j}, s${i}_${j});
                //# endfor
                //# endfor
            }
            workgroupBarrier();
        }
        let at = subgroup * ${matrix}u;
        let apart = ${SIZE}u;
        //# for i in range(ACROSS)
        //# for j in range(ACROSS)
        coopStoreT(s${i}_${j}, &sums[at], apart);
        workgroupBarrier();
        for (var four = lane * 4u; four < ${matrix}u; four += lanes * 4u) {
            let row = first_row + tile_row + ${i * SIZE}u + four / ${SIZE}u;
            let column = first_column + tile_column + ${j * SIZE}u + four % ${SIZE}u;
            if (row < p.rows && column < p.columns) {
                let first = at + four;
                finish4(vec4<f32>(sums[first], sums[first + 1u], sums[first + 2u], sums[first + 3u]), row, column);
            }
        }
        workgroupBarrier();
        //# endfor
        //# endfor
    }
}
