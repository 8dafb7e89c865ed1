// y[b, i, n, :] = sum_j softmax_j(scale q[b, i, n, :] . k[b, j, n, :] + bias) v[b, j, n, :]
// with cooperative matrices: f16 operands, f32 sums                    arXiv:2205.14135, arXiv:2307.08691 alg. 1
//
// A workgroup of SUBGROUPS subgroups takes 16 queries of one head for each and walks over the keys, BK at a time.
// Logits pass through workgroup memory to be scaled, biased and turned into probabilities by one or more invocations
// a row; the output's sums stay in accumulators. Rows of accumulators cannot be scaled where they are, so a row's
// reference is not its maximum but a bound that is moved, through workgroup memory, only when the maximum has outgrown
// it by SLACK powers of two: probabilities reach 2^SLACK at most, which f16 holds as exactly as 1.
// Tiles are read straight from storage. The last tile of queries and of keys is moved back so that it ends with the
// last row: queries seen before are not written again, keys seen before weigh nothing. So L >= BQ and S >= BK.
//# include "attention/operands.wgsl"

const SLACK = 8.0;
/*% set MATRIX = "coop_mat" ~ SIZE ~ "x" ~ SIZE %*/
/*% set ROW_TILES = 16 // SIZE %*/
/*% set COLUMN_TILES = D // SIZE %*/

var<workgroup> logits: array<f32, ${BQ * BK}>;         // [BQ, BK]; tiles of sums, [BQ, SIZE], when those are scaled
var<workgroup> probabilities: array<f16, ${BQ * BK}>;  // [BQ, BK]
var<workgroup> partial: array<f32, ${BQ * SHARE}>;     // [BQ, SHARE]: maxima, in the end sums
var<workgroup> outgrown: u32;                          // whether any row's bound was moved, the first time aside

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    // Matrices ask for uniform control flow: workgroups past the last do its work again.
    let group = min(linear_group(wid, group_count) + p.first_group, p.groups - 1u);
    let block = group % p.query_blocks * ${BQ}u;
    let first_query = min(block, p.queries - ${BQ}u);
    let head = group / p.query_blocks % p.heads;
    let batch = group / p.query_blocks / p.heads;
    let stride = p.heads * ${D}u;
    let rows = subgroup * 16u;
    let q_at = p.q_at + (batch * p.queries + first_query) * stride + head * ${D}u;
    let q_tile = q_at + rows * stride;
    let k_at = p.k_at + batch * p.keys * stride + head * ${D}u;

    // In between, invocations deal with rows: ROWS of them each, SHARE invocations to a row.
    let share = lane % ${SHARE}u;
    //# for r in range(ROWS)
    let row${r} = lane / ${SHARE}u * ${ROWS}u + ${r}u;
    var bound${r} = NEVER;
    var sum${r} = 0.0;
    //# endfor
    //# for r in range(ROW_TILES)
    //# for c in range(COLUMN_TILES)
    var y${r}_${c} = ${MATRIX}<f32, C>();
    //# endfor
    //# endfor

    for (var next_key = 0u; next_key < p.keys; next_key += ${BK}u) {
        let first_key = min(next_key, p.keys - ${BK}u);
        let k_tile = k_at + first_key * stride;
        for (var t = 0u; t < ${BK}u; t += ${SIZE}u) {
            //# for r in range(ROW_TILES)
            var s${r} = ${MATRIX}<f32, C>();
            //# endfor
            for (var d = 0u; d < ${D}u; d += ${SIZE}u) {
                let kt = coopLoad<${MATRIX}<f16, B>>(&k[k_tile + t * stride + d], stride);
                //# for r in range(ROW_TILES)
                let q${r} = coopLoadT<${MATRIX}<f16, A>>(&q[q_tile + ${r * SIZE}u * stride + d], stride);
                s${r} = coopMultiplyAdd(q${r}, kt, s${r});
                //# endfor
            }
            //# for r in range(ROW_TILES)
            let s${r}_at = (rows + ${r * SIZE}u) * ${BK}u + t;
            coopStoreT(s${r}, &logits[s${r}_at], ${BK}u);
            //# endfor
        }
        if (lane == 0u) {
            outgrown = 0u;
        }
        workgroupBarrier();
        //# for r in range(ROWS)
        {
            var most = NEVER;
            for (var t = share; t < ${BK}u; t += ${SHARE}u) {
                let j = first_key + t;
                var logit = logits[row${r} * ${BK}u + t] * p.scale;
                //# if KEY_BIAS
                logit += key_bias[p.key_bias_at + batch * p.keys + j] * LOG2E;
                //# endif
                //# if REL_BIAS
                let distance = j + p.queries - 1u - first_query - row${r};
                logit += rel_bias[p.rel_bias_at + distance * p.heads + head] * LOG2E;
                //# endif
                logit = select(logit, NEVER, j < next_key);
                logits[row${r} * ${BK}u + t] = logit;
                most = max(most, logit);
            }
            partial[row${r} * ${SHARE}u + share] = most;
        }
        //# endfor
        workgroupBarrier();
        //# for r in range(ROWS)
        var factor${r} = 1.0;
        {
            var most = NEVER;
            for (var a = 0u; a < ${SHARE}u; a += 1u) {
                most = max(most, partial[row${r} * ${SHARE}u + a]);
            }
            if (most > bound${r} + SLACK) {
                factor${r} = exp2(bound${r} - most);
                bound${r} = most;
                if (next_key > 0u) {
                    outgrown = 1u;
                }
            }
            sum${r} *= factor${r};
            for (var t = share; t < ${BK}u; t += ${SHARE}u) {
                // Rounded first, so that what is summed is what is multiplied.
                let probability = f16(exp2(logits[row${r} * ${BK}u + t] - bound${r}));
                probabilities[row${r} * ${BK}u + t] = probability;
                sum${r} += f32(probability);
            }
        }
        //# endfor
        let moved = workgroupUniformLoad(&outgrown);
        if (moved == 1u) {
            //# for c in range(COLUMN_TILES)
            //# for r in range(ROW_TILES)
            let y${r}_${c}_at = (rows + ${r * SIZE}u) * ${SIZE}u;
            coopStoreT(y${r}_${c}, &logits[y${r}_${c}_at], ${SIZE}u);
            //# endfor
            workgroupBarrier();
            //# for r in range(ROWS)
            for (var t = share; t < ${SIZE}u; t += ${SHARE}u) {
                logits[row${r} * ${SIZE}u + t] *= factor${r};
            }
            //# endfor
            workgroupBarrier();
            //# for r in range(ROW_TILES)
            y${r}_${c} = coopLoadT<${MATRIX}<f32, C>>(&logits[y${r}_${c}_at], ${SIZE}u);
            //# endfor
            workgroupBarrier();
            //# endfor
        }
        for (var t = 0u; t < ${BK}u; t += ${SIZE}u) {
            //# for r in range(ROW_TILES)
            let p${r} = coopLoadT<${MATRIX}<f16, A>>(&probabilities[(rows + ${r * SIZE}u) * ${BK}u + t], ${BK}u);
            //# endfor
            //# for c in range(COLUMN_TILES)
            let v${c} = coopLoadT<${MATRIX}<f16, B>>(&v[k_tile + t * stride + ${c * SIZE}u], stride);
            //# for r in range(ROW_TILES)
            y${r}_${c} = coopMultiplyAdd(p${r}, v${c}, y${r}_${c});
            //# endfor
            //# endfor
        }
    }

    //# for r in range(ROWS)
    partial[row${r} * ${SHARE}u + share] = sum${r};
    //# endfor
    workgroupBarrier();
    //# for r in range(ROWS)
    var total${r} = 0.0;
    for (var a = 0u; a < ${SHARE}u; a += 1u) {
        total${r} += partial[row${r} * ${SHARE}u + a];
    }
    let one_by_total${r} = 1.0 / total${r};
    //# endfor
    //# for c in range(COLUMN_TILES)
    //# for r in range(ROW_TILES)
    let out${r}_${c} = (rows + ${r * SIZE}u) * ${SIZE}u;
    coopStoreT(y${r}_${c}, &logits[out${r}_${c}], ${SIZE}u);
    //# endfor
    workgroupBarrier();
    //# for r in range(ROWS)
    if (first_query + row${r} >= block) {
        for (var t = share; t < ${SIZE}u; t += ${SHARE}u) {
            let value = logits[row${r} * ${SIZE}u + t] * one_by_total${r};
            y[q_at + row${r} * stride + ${c * SIZE}u + t] = f16(value);
        }
    }
    //# endfor
    workgroupBarrier();
    //# endfor
}
