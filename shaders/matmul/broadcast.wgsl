// y = residual + gate * act(x w^T + bias), by subgroups whose lanes lend each other their rows of x
// A subgroup of SUBGROUP lanes computes SUBGROUP*LENT rows by SUBGROUP*COLUMNS columns: each lane keeps COLUMNS columns of
// all those rows, loads LENT rows of x, and hears of the others by broadcasts. Where a load costs one instruction per
// lane, as in software drivers, that saves most of them. One such subgroup is a workgroup.
//# include "matmul/operands.wgsl"

@compute @workgroup_size(${SUBGROUP})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let group = linear_group(wid, groups);
    let across = (p.columns + ${SUBGROUP * COLUMNS - 1}u) / ${SUBGROUP * COLUMNS}u;
    let row = group / across * ${SUBGROUP * LENT}u;
    let column = group % across * ${SUBGROUP * COLUMNS}u + lane * ${COLUMNS}u;
    let depth = ${"p.depth / 4u" if VEC else "p.depth"};
    //# for g in range(LENT)
    let x${g} = min(row + ${g * SUBGROUP}u + lane, p.rows - 1u) * depth;
    //# endfor
    //# for j in range(COLUMNS)
    let w${j} = min(column + ${j}u, p.columns - 1u) * depth;
    //# endfor
    //# for i in range(LENT * SUBGROUP)
    //# for j in range(COLUMNS)
    var s${i}_${j} = 0.0;
    //# endfor
    //# endfor
    for (var k = 0u; k < depth; k += 1u) {
        //# for j in range(COLUMNS)
        let b${j} = w_at(w${j} + k);
        //# endfor
        //# for g in range(LENT)
        let l${g} = x_at(x${g} + k);
        //# for r in range(SUBGROUP)
        let a${g * SUBGROUP + r} = subgroupBroadcast(l${g}, ${r}u);
        //# for j in range(COLUMNS)
        //# if VEC
        s${g * SUBGROUP + r}_${j} += dot(a${g * SUBGROUP + r}, b${j});
        //# else
        s${g * SUBGROUP + r}_${j} += a${g * SUBGROUP + r} * b${j};
        //# endif
        //# endfor
        //# endfor
        //# endfor
    }
    //# for i in range(LENT * SUBGROUP)
    if (row + ${i}u < p.rows) {
        //# for q in range(COLUMNS // 4)
        if (column + ${4 * q}u < p.columns) {
            finish4(vec4<f32>(s${i}_${4 * q}, s${i}_${4 * q + 1}, s${i}_${4 * q + 2}, s${i}_${4 * q + 3}), row + ${i}u, column + ${4 * q}u);
        }
        //# endfor
    }
    //# endfor
}
