// y[b, i, n, :] = sum_j softmax_j(scale q[b, i, n, :] . k[b, j, n, :] + bias) v[b, j, n, :]
// by subgroups whose lanes lend each other queries and probabilities  arXiv:2205.14135, arXiv:2307.08691 alg. 1
//
// A subgroup of LANES lanes, which is a workgroup, takes BQ queries of one head and walks over the keys, BK at a time.
// A lane computes the logits of all the queries with TK keys, and all the queries' sums of TC chunks (of VEC elements)
// of the output, both in registers. It loads BQ/LANES of the queries and hears of the others by broadcasts; the same
// with probabilities, which pass through workgroup memory. Where a load costs some instructions for each lane, as in
// software drivers, that saves most of them. Keys past the last get a logit of NEVER and weigh nothing.
// With keys in several windows, the running state lies in `state_y` and `state_ml` between dispatches.
//# from "lib/storage.wgsl" import load, store, product
//# include "attention/operands.wgsl"
/*% set LENT = BQ // LANES %*/

var<workgroup> probabilities: array<f32, ${BK * BQ}>;  // [BK, BQ]

@compute @workgroup_size(${LANES})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let group = linear_group(wid, group_count) + p.first_group;
    if (group >= p.groups) {
        return;
    }
    let first_query = group % p.query_blocks * ${BQ}u;
    let head = group / p.query_blocks % p.heads;
    let batch = group / p.query_blocks / p.heads;
    let stride = p.heads * ${DC}u;
    let last_query = p.queries - 1u;
    let q_at = p.q_at + batch * p.queries * stride + head * ${DC}u;
    let k_at = p.k_at + batch * p.keys * stride + head * ${DC}u;
    //# for g in range(LENT)
    let q${g}_at = q_at + min(first_query + lane + ${g * LANES}u, last_query) * stride;
    //# endfor
    //# for c in range(TC)
    let c${c} = min(lane + ${c * LANES}u, ${DC - 1}u);
    let v${c}_at = k_at + c${c};
    //# endfor

    //# for r in range(BQ)
    //# if FIRST
    var max${r} = NEVER;
    var sum${r} = 0.0;
    //# for c in range(TC)
    var y${r}_${c} = ${"vec4<f32>()" if VEC == 4 else "0.0"};
    //# endfor
    //# else
    let state${r} = min(first_query + ${r}u, last_query) * p.heads + head;
    var max${r} = state_ml[state${r}].x;
    var sum${r} = select(0.0, state_ml[state${r}].y, lane == 0u);
    //# for c in range(TC)
    var y${r}_${c} = state_y[state${r} * ${DC}u + c${c}];
    //# endfor
    //# endif
    //# endfor

    for (var first_key = 0u; first_key < p.keys; first_key += ${BK}u) {
        //# for t in range(TK)
        let j${t} = min(first_key + lane + ${t * LANES}u, p.keys - 1u);
        let k${t}_at = k_at + j${t} * stride;
        //# for r in range(BQ)
        var s${r}_${t} = 0.0;
        //# endfor
        //# endfor
        for (var d = 0u; d < ${DC}u; d += 1u) {
            //# for t in range(TK)
            let k${t} = ${load(VEC, "k", "k" ~ t ~ "_at + d", T)};
            //# endfor
            //# for g in range(LENT)
            let lent${g} = ${load(VEC, "q", "q" ~ g ~ "_at + d", T)};
            //# for l in range(LANES)
            let q${g * LANES + l} = subgroupBroadcast(lent${g}, ${l}u);
            //# for t in range(TK)
            s${g * LANES + l}_${t} += ${product(VEC, "q" ~ (g * LANES + l), "k" ~ t)};
            //# endfor
            //# endfor
            //# endfor
        }
        //# for t in range(TK)
        let gone${t} = first_key + lane + ${t * LANES}u >= p.keys;
        //# if KEY_BIAS
        let bias${t} = key_bias[p.key_bias_at + batch * p.keys + j${t}] * LOG2E;
        //# endif
        //# endfor
        //# for r in range(BQ)
        //# if REL_BIAS
        let i${r} = min(first_query + ${r}u, last_query);
        //# endif
        //# for t in range(TK)
        s${r}_${t} *= p.scale;
        //# if KEY_BIAS
        s${r}_${t} += bias${t};
        //# endif
        //# if REL_BIAS
        s${r}_${t} += rel_bias[p.rel_bias_at + (j${t} + last_query - i${r}) * p.heads + head] * LOG2E;
        //# endif
        s${r}_${t} = select(s${r}_${t}, NEVER, gone${t});
        //# endfor
        //# endfor
        //# for r in range(BQ)
        {
            var most = s${r}_0;
            //# for t in range(1, TK)
            most = max(most, s${r}_${t});
            //# endfor
            most = max(max${r}, subgroupMax(most));
            let factor = exp2(max${r} - most);
            max${r} = most;
            sum${r} *= factor;
            //# for c in range(TC)
            y${r}_${c} *= factor;
            //# endfor
            //# for t in range(TK)
            s${r}_${t} = exp2(s${r}_${t} - most);
            sum${r} += s${r}_${t};
            probabilities[(lane + ${t * LANES}u) * ${BQ}u + ${r}u] = s${r}_${t};
            //# endfor
        }
        //# endfor
        workgroupBarrier();
        let count = min(${BK}u, p.keys - first_key);
        for (var j = 0u; j < count; j += ${UNROLL}u) {
            // Past the last key the probabilities are zero, and the last value is read again.
            //# for u in range(UNROLL)
            let v_row${u} = min(first_key + j + ${u}u, p.keys - 1u) * stride;
            //# for c in range(TC)
            let v${u}_${c} = ${load(VEC, "v", "v" ~ c ~ "_at + v_row" ~ u, T)};
            //# endfor
            //# for g in range(LENT)
            let w${u}_${g} = probabilities[(j + ${u}u) * ${BQ}u + lane + ${g * LANES}u];
            //# endfor
            //# endfor
            //# for g in range(LENT)
            //# for l in range(LANES)
            //# for u in range(UNROLL)
            let w${u}_${g}_${l} = subgroupBroadcast(w${u}_${g}, ${l}u);
            //# for c in range(TC)
            y${g * LANES + l}_${c} += w${u}_${g}_${l} * v${u}_${c};
            //# endfor
            //# endfor
            //# endfor
            //# endfor
        }
        workgroupBarrier();
    }

    //# for r in range(BQ)
    {
        let total = subgroupAdd(sum${r});
        let i = first_query + ${r}u;
        if (i < p.queries) {
            //# if LAST
            let one_by_total = 1.0 / total;
            //# else
            if (lane == 0u) {
                state_ml[i * p.heads + head] = vec2<f32>(max${r}, total);
            }
            //# endif
            //# for c in range(TC)
            if (lane + ${c * LANES}u < ${DC}u) {
                //# if LAST
                y[q_at + i * stride + c${c}] = ${store(VEC, "(y" ~ r ~ "_" ~ c ~ " * one_by_total)", T)};
                //# else
                state_y[(i * p.heads + head) * ${DC}u + c${c}] = y${r}_${c};
                //# endif
            }
            //# endfor
        }
    }
    //# endfor
}
