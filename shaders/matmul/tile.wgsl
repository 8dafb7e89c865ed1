// y = residual + gate * act(x w^T + bias), through workgroup memory
// A workgroup of THREADS x THREADS invocations computes a tile of SIDE = THREADS*PER rows by SIDE columns, DEPTH of K at a time.
// Each slice of the operands is loaded once, by blocks of four rows by four of K, which are transposed on the way so
// that what is multiplied lies in vectors: [k, rows] and [k, columns]. Then each invocation multiplies PER rows by PER
// columns, in fours that are 4*THREADS apart, so that neighbours read neighbours. Rows and columns past the end repeat the
// last one and are not stored; past the end of K there are zeros.
//# include "matmul/operands.wgsl"

//# set quads = PER // 4
//# set side = THREADS * quads
//# set blocks = side * DEPTH // 4
var<workgroup> xs: array<vec4<f32>, ${side * DEPTH}>;  // [DEPTH, SIDE / 4]
var<workgroup> ws: array<vec4<f32>, ${side * DEPTH}>;  // [DEPTH, SIDE / 4]

//# for name, limit in [("x", "rows"), ("w", "columns")]
// Four elements of the row `row` of ${name} from `k` on, zeros past the end.
fn load_${name}(row: u32, k: u32) -> vec4<f32> {
    var value = vec4<f32>();
    //# if VEC
    if (k < p.depth) {
        value = ${name}_at(min(row, p.${limit} - 1u) * (p.depth / 4u) + k / 4u);
    }
    //# else
    let at = min(row, p.${limit} - 1u) * p.depth + k;
    //# for i in range(4)
    if (k + ${i}u < p.depth) { value[${i}] = ${name}_at(at + ${i}u); }
    //# endfor
    //# endif
    return value;
}

fn stage_${name}(first: u32, k: u32, block: u32) {
    let row = block / ${DEPTH // 4}u;
    let inner = block % ${DEPTH // 4}u * 4u;
    //# for i in range(4)
    let r${i} = load_${name}(first + row * 4u + ${i}u, k + inner);
    //# endfor
    //# for i in range(4)
    ${name}s[(inner + ${i}u) * ${side}u + row] = vec4<f32>(r0[${i}], r1[${i}], r2[${i}], r3[${i}]);
    //# endfor
}
//# endfor

@compute @workgroup_size(${THREADS * THREADS})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) invocation: u32,
) {
    let group = linear_group(wid, groups);
    let across = (p.columns + ${4 * side - 1}u) / ${4 * side}u;
    let first_row = group / across * ${4 * side}u;
    let first_column = group % across * ${4 * side}u;
    let down = invocation / ${THREADS}u;
    let right = invocation % ${THREADS}u;
    //# for i in range(PER)
    //# for q in range(quads)
    var s${i}_${q} = vec4<f32>();
    //# endfor
    //# endfor
    for (var k = 0u; k < p.depth; k += ${DEPTH}u) {
        for (var block = invocation; block < ${2 * blocks}u; block += ${THREADS * THREADS}u) {
            if (block < ${blocks}u) {
                stage_x(first_row, k, block);
            } else {
                stage_w(first_column, k, block - ${blocks}u);
            }
        }
        workgroupBarrier();
        for (var inner = 0u; inner < ${DEPTH * side}u; inner += ${side}u) {
            //# for q in range(quads)
            let a${q} = xs[inner + ${q * THREADS}u + down];
            let b${q} = ws[inner + ${q * THREADS}u + right];
            //# endfor
            //# for i in range(PER)
            //# for q in range(quads)
            s${i}_${q} += a${i // 4}[${i % 4}] * b${q};
            //# endfor
            //# endfor
        }
        workgroupBarrier();
    }
    //# for i in range(PER)
    let row${i} = first_row + (${i // 4 * THREADS}u + down) * 4u + ${i % 4}u;
    if (row${i} < p.rows) {
        //# for q in range(quads)
        let column${i}_${q} = first_column + (${q * THREADS}u + right) * 4u;
        if (column${i}_${q} < p.columns) { finish4(s${i}_${q}, row${i}, column${i}_${q}); }
        //# endfor
    }
    //# endfor
}
