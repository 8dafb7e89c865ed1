// y[b, i, n, :] = sum_j softmax_j(scale q[b, i, n, :] . k[b, j, n, :] + bias) v[b, j, n, :]
// One pass over the keys with a running maximum and sum per query      arXiv:2205.14135, arXiv:2307.08691 alg. 1
//
// A workgroup takes BQ queries of one head and walks over the keys, BK at a time. Its invocations form BQ/R rows of
// ACROSS: each computes R queries x TK keys of the logits, and R queries x TC chunks (of VEC elements) of the output,
// both in registers. Probabilities pass through workgroup memory, transposed so that four queries are one vector;
// logits never leave the workgroup. A head too long for one workgroup's registers is cut into SLICES of the output's
// elements, each of which computes the logits again. Keys past the last get a logit of NEVER and weigh nothing.
// STAGED: keys pass through workgroup memory, STEP chunks at a time, so that neighbours read neighbours; queries, the
// same for a whole row of invocations, and values, which lie side by side, are read from storage in either case.
// With keys in several windows, the running state lies in `state_y` and `state_ml` between dispatches.
//# from "lib/storage.wgsl" import load, store, product
//# include "attention/operands.wgsl"

var<workgroup> probabilities: array<vec4<f32>, ${BK * BQ // 4}>;  // [BK, BQ]
//# if STAGED
var<workgroup> staged: array<vec4<f32>, ${(BK + 1) * STEP}>;       // [STEP, BK + 1] chunks of k; one key more spreads banks
//# endif
var<workgroup> partial: array<f32, ${BQ * ACROSS}>;               // [BQ, ACROSS]: maxima, in the end sums
var<workgroup> row_max: array<f32, ${BQ}>;
var<workgroup> row_factor: array<f32, ${BQ}>;                     // by which the new maximum shrinks what was summed

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) group_count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_group(wid, group_count) + p.first_group;
    if (group >= p.groups) {
        return;
    }
    let slice = group % ${SLICES}u;
    let first_query = (group / ${SLICES}u) % p.query_blocks * ${BQ}u;
    let head = (group / ${SLICES}u) / p.query_blocks % p.heads;
    let batch = (group / ${SLICES}u) / p.query_blocks / p.heads;
    let stride = p.heads * ${DC}u;
    let row = lane / ${ACROSS}u * ${R}u;
    let across = lane % ${ACROSS}u;

    let last_query = p.queries - 1u;
    //# for r in range(R)
    let i${r} = min(first_query + row + ${r}u, last_query);
    let q${r}_at = p.q_at + (batch * p.queries + i${r}) * stride + head * ${DC}u;
    //# endfor
    let k_at = p.k_at + batch * p.keys * stride + head * ${DC}u;

    // The chunks of the head that this invocation sums up, clamped for loads.
    //# for c in range(TC)
    let c${c} = slice * ${SLICE}u + across + ${c * ACROSS}u;
    let mine${c} = across + ${c * ACROSS}u < ${SLICE}u && c${c} < ${DC}u;
    let v${c}_at = k_at + min(c${c}, ${DC - 1}u);
    //# endfor

    //# for r in range(R)
    var sum${r} = 0.0;
    //# endfor
    //# if FIRST
    //# for r in range(R)
    //# for c in range(TC)
    var y${r}_${c} = ${"vec4<f32>()" if VEC == 4 else "0.0"};
    //# endfor
    //# endfor
    for (var r = lane; r < ${BQ}u; r += ${WIDTH}u) {
        row_max[r] = NEVER;
    }
    //# else
    //# for r in range(R)
    let i${r}_ml = (i${r} * p.heads + head) * ${SLICES}u + slice;
    if (across == 0u) {
        sum${r} = state_ml[i${r}_ml].y;
        row_max[row + ${r}u] = state_ml[i${r}_ml].x;
    }
    //# for c in range(TC)
    var y${r}_${c} = state_y[i${r} * stride + head * ${DC}u + min(c${c}, ${DC - 1}u)];
    //# endfor
    //# endfor
    //# endif

    for (var first_key = 0u; first_key < p.keys; first_key += ${BK}u) {
        //# for t in range(TK)
        let j${t} = min(first_key + across + ${t * ACROSS}u, p.keys - 1u);
        let k${t}_at = k_at + j${t} * stride;
        //# endfor
        //# for r in range(R)
        //# for t in range(TK)
        var s${r}_${t} = 0.0;
        //# endfor
        //# endfor
        //# if STAGED
        for (var first_chunk = 0u; first_chunk < ${DC}u; first_chunk += ${STEP}u) {
            workgroupBarrier();
            for (var x = lane; x < ${BK * STEP}u; x += ${WIDTH}u) {
                let chunk = x % ${STEP}u;
                let at = k_at + min(first_key + x / ${STEP}u, p.keys - 1u) * stride + min(first_chunk + chunk, ${DC - 1}u);
                staged[chunk * ${BK + 1}u + x / ${STEP}u] = ${load(VEC, "k", "at", T)};
            }
            workgroupBarrier();
            for (var chunk = 0u; chunk < min(${STEP}u, ${DC}u - first_chunk); chunk += 1u) {
                //# for t in range(TK)
                let k${t} = staged[chunk * ${BK + 1}u + across + ${t * ACROSS}u];
                //# endfor
                //# for r in range(R)
                let q${r} = ${load(VEC, "q", "q" ~ r ~ "_at + first_chunk + chunk", T)};
                //# for t in range(TK)
                s${r}_${t} += ${product(VEC, "q" ~ r, "k" ~ t)};
                //# endfor
                //# endfor
            }
        }
        //# else
        for (var d = 0u; d < ${DC}u; d += 1u) {
            //# for t in range(TK)
            let k${t} = ${load(VEC, "k", "k" ~ t ~ "_at + d", T)};
            //# endfor
            //# for r in range(R)
            let q${r} = ${load(VEC, "q", "q" ~ r ~ "_at + d", T)};
            //# for t in range(TK)
            s${r}_${t} += ${product(VEC, "q" ~ r, "k" ~ t)};
            //# endfor
            //# endfor
        }
        //# endif
        //# for t in range(TK)
        let gone${t} = first_key + across + ${t * ACROSS}u >= p.keys;
        //# if KEY_BIAS
        let b${t} = key_bias[p.key_bias_at + batch * p.keys + j${t}] * LOG2E;
        //# endif
        //# for r in range(R)
        s${r}_${t} *= p.scale;
        //# if KEY_BIAS
        s${r}_${t} += b${t};
        //# endif
        //# if REL_BIAS
        s${r}_${t} += rel_bias[p.rel_bias_at + (j${t} + last_query - i${r}) * p.heads + head] * LOG2E;
        //# endif
        s${r}_${t} = select(s${r}_${t}, NEVER, gone${t});
        //# endfor
        //# endfor
        //# for r in range(R)
        var m${r} = s${r}_0;
        //# for t in range(1, TK)
        m${r} = max(m${r}, s${r}_${t});
        //# endfor
        partial[(row + ${r}u) * ${ACROSS}u + across] = m${r};
        //# endfor
        workgroupBarrier();
        for (var r = lane; r < ${BQ}u; r += ${WIDTH}u) {
            let before = row_max[r];
            var after = before;
            for (var a = 0u; a < ${ACROSS}u; a += 1u) {
                after = max(after, partial[r * ${ACROSS}u + a]);
            }
            row_max[r] = after;
            row_factor[r] = exp2(before - after);
        }
        workgroupBarrier();
        //# for r in range(R)
        let max${r} = row_max[row + ${r}u];
        let factor${r} = row_factor[row + ${r}u];
        sum${r} *= factor${r};
        //# for c in range(TC)
        y${r}_${c} *= factor${r};
        //# endfor
        //# endfor
        //# for t in range(TK)
        //# for r in range(R)
        let p${r}_${t} = exp2(s${r}_${t} - max${r});
        sum${r} += p${r}_${t};
        //# endfor
        //# for r in range(0, R, 4)
        probabilities[(across + ${t * ACROSS}u) * ${BQ // 4}u + row / 4u + ${r // 4}u] = vec4<f32>(p${r}_${t}, p${r + 1}_${t}, p${r + 2}_${t}, p${r + 3}_${t});
        //# endfor
        //# endfor
        workgroupBarrier();
        let count = min(${BK}u, p.keys - first_key);
        for (var j = 0u; j < count; j += 1u) {
            let j_at = (first_key + j) * stride;
            //# for c in range(TC)
            let v${c} = ${load(VEC, "v", "v" ~ c ~ "_at + j_at", T)};
            //# endfor
            //# for r in range(0, R, 4)
            let w${r // 4} = probabilities[j * ${BQ // 4}u + row / 4u + ${r // 4}u];
            //# for lane in range(4)
            //# for c in range(TC)
            y${r + lane}_${c} += w${r // 4}[${lane}] * v${c};
            //# endfor
            //# endfor
            //# endfor
        }
    }

    //# for r in range(R)
    partial[(row + ${r}u) * ${ACROSS}u + across] = sum${r};
    //# endfor
    workgroupBarrier();
    for (var r = lane; r < ${BQ}u; r += ${WIDTH}u) {
        var total = 0.0;
        for (var a = 0u; a < ${ACROSS}u; a += 1u) {
            total += partial[r * ${ACROSS}u + a];
        }
        row_factor[r] = total;
    }
    workgroupBarrier();
    //# for r in range(R)
    if (first_query + row + ${r}u < p.queries) {
        //# if LAST
        let one_by_sum = 1.0 / row_factor[row + ${r}u];
        //# for c in range(TC)
        if (mine${c}) {
            y[q${r}_at + c${c}] = ${store(VEC, "(y" ~ r ~ "_" ~ c ~ " * one_by_sum)", T)};
        }
        //# endfor
        //# else
        if (across == 0u) {
            let at = (i${r} * p.heads + head) * ${SLICES}u + slice;
            state_ml[at] = vec2<f32>(row_max[row + ${r}u], row_factor[row + ${r}u]);
        }
        //# for c in range(TC)
        if (mine${c}) {
            state_y[i${r} * stride + head * ${DC}u + c${c}] = y${r}_${c};
        }
        //# endfor
        //# endif
    }
    //# endfor
}
