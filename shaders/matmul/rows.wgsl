// y = residual + gate * act(x w^T + bias) for few rows: the weights are read once and everything waits for them
// A workgroup of WIDTH invocations shares COLUMNS columns of ROWS rows; invocations stride K, each keeping a part of all
// ROWS*COLUMNS sums. The parts meet in workgroup memory, those of a subgroup already added up where SUBGROUPS is set.
//# include "matmul/operands.wgsl"

//# set sums = ROWS * COLUMNS
// One more than WIDTH apart, so that neighbours' reads fall into different banks.
var<workgroup> parts: array<f32, ${sums * (WIDTH + 1)}>;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
    //# if SUBGROUPS
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) lane: u32,
    //# endif
) {
    let column = linear_group(wid, groups) * ${COLUMNS}u;
    let depth = ${"p.depth / 4u" if VEC else "p.depth"};
    //# for i in range(ROWS)
    let x${i} = min(${i}u, p.rows - 1u) * depth;
    //# endfor
    //# for j in range(COLUMNS)
    let w${j} = min(column + ${j}u, p.columns - 1u) * depth;
    //# endfor
    //# for i in range(ROWS)
    //# for j in range(COLUMNS)
    var s${i}_${j} = 0.0;
    //# endfor
    //# endfor
    for (var k = invocation; k < depth; k += ${WIDTH}u) {
        //# for j in range(COLUMNS)
        let b${j} = w_at(w${j} + k);
        //# endfor
        //# for i in range(ROWS)
        let a${i} = x_at(x${i} + k);
        //# for j in range(COLUMNS)
        s${i}_${j} += ${"dot" if VEC else ""}(a${i}${", " if VEC else " * "}b${j});
        //# endfor
        //# endfor
    }
    //# for i in range(ROWS)
    //# for j in range(COLUMNS)
    //# set first = (i * COLUMNS + j) * (WIDTH + 1)
    //# if SUBGROUPS
    let t${i}_${j} = subgroupAdd(s${i}_${j});
    if (lane == 0u) { parts[${first}u + subgroup] = t${i}_${j}; }
    //# else
    parts[${first}u + invocation] = s${i}_${j};
    //# endif
    //# endfor
    //# endfor
    workgroupBarrier();
    if (invocation >= ${sums}u) {
        return;
    }
    let row = invocation / ${COLUMNS}u;
    let n = column + invocation % ${COLUMNS}u;
    if (row < p.rows && n < p.columns) {
        var sum = 0.0;
        for (var part = 0u; part < ${"subgroups" if SUBGROUPS else WIDTH ~ "u"}; part += 1u) {
            sum += parts[invocation * ${WIDTH + 1}u + part];
        }
        finish1(sum, row, n);
    }
}
