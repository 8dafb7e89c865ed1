// y = residual + gate * act(x w^T + bias), straight from storage
// Each invocation keeps ROWS x COLUMNS sums in registers and walks K once; ACROSS x DOWN invocations make a workgroup.
// Nothing is staged: processors' caches do that better, and their drivers pay for barriers. Rows and columns past
// the end repeat the last one and are not stored.
//# include "matmul/operands.wgsl"

@compute @workgroup_size(${ACROSS * DOWN})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_group(wid, groups);
    let across = (p.columns + ${ACROSS * COLUMNS - 1}u) / ${ACROSS * COLUMNS}u;
    let row = group / across * ${DOWN * ROWS}u + lane / ${ACROSS}u * ${ROWS}u;
    let column = group % across * ${ACROSS * COLUMNS}u + lane % ${ACROSS}u * ${COLUMNS}u;
    if (row >= p.rows || column >= p.columns) {
        return;
    }
    let depth = ${"p.depth / 4u" if VEC else "p.depth"};
    //# for i in range(ROWS)
    let x${i} = min(row + ${i}u, p.rows - 1u) * depth;
    //# endfor
    //# for j in range(COLUMNS)
    let w${j} = min(column + ${j}u, p.columns - 1u) * depth;
    //# endfor
    //# for i in range(ROWS)
    //# for q in range(COLUMNS // 4)
    var s${i}_${q} = vec4<f32>();
    //# endfor
    //# endfor
    for (var k = 0u; k < depth; k += 1u) {
        //# for j in range(COLUMNS)
        let b${j} = w_at(w${j} + k);
        //# endfor
        //# for i in range(ROWS)
        let a${i} = x_at(x${i} + k);
        //# for q in range(COLUMNS // 4)
        //# if VEC
        s${i}_${q} += vec4<f32>(dot(a${i}, b${4 * q}), dot(a${i}, b${4 * q + 1}), dot(a${i}, b${4 * q + 2}), dot(a${i}, b${4 * q + 3}));
        //# else
        s${i}_${q} += a${i} * vec4<f32>(b${4 * q}, b${4 * q + 1}, b${4 * q + 2}, b${4 * q + 3});
        //# endif
        //# endfor
        //# endfor
    }
    //# for i in range(ROWS)
    if (row + ${i}u < p.rows) {
        //# for q in range(COLUMNS // 4)
        if (column + ${4 * q}u < p.columns) { finish4(s${i}_${q}, row + ${i}u, column + ${4 * q}u); }
        //# endfor
    }
    //# endfor
}
