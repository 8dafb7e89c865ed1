// y[t,h,w,o] = bias[o] + residual[t,h,w,o]
//            + sum over kt,kh,kw,c of  w[o,kt,kh,kw,c] * s[t ST + kt, h SH + kh - pad, w SW + kw - pad, c]
// s is front ++ x, its rows and columns repeated UP times (nearest-exact), zero outside.
// Straight from storage: each invocation computes P neighbouring positions of a frame by Q channels in registers, and
// all invocations of a workgroup the same channels. For processors, whose caches do what staging would do, and for
// few channels.
//# from "lib/storage.wgsl" import storage1, storage4, load1, load4
//# include "lib/grid.wgsl"
//# include "conv/operands.wgsl"

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_group(wid, groups);
    let o = p.o0 + group % p.tiles_n * ${Q}u;
    let q = (group / p.tiles_n % p.tiles_m * ${WIDTH}u + lane) * ${P}u;
    let t = p.t0 + group / (p.tiles_n * p.tiles_m);
    if (t >= p.t_end || q >= p.positions) {
        return;
    }
    //# for i in range(P)
    let at${i} = p.q0 + min(q + ${i}u, p.positions - 1u);
    let row${i} = at${i} / p.wo * ${SH}u - p.pad_top;
    let column${i} = at${i} % p.wo * ${SW}u - p.pad_left;
    //# endfor
    //# for j in range(Q)
    let w${j} = min(o + ${j}u, p.o_end - 1u) * ${KT * KH * KW * UNITS}u - p.w_base;
    //# endfor
    //# for i in range(P)
    //# for j in range(Q)
    var sum${i}_${j} = 0.0;
    //# endfor
    //# endfor
    let rows = p.h * ${UP}u;
    let columns = p.w * ${UP}u;
    let taps = time_taps(t);
    for (var kt = taps.x; kt < taps.y; kt += 1u) {
        let frame = (t * ${ST}u + kt - p.origin) * p.h;
        for (var kh = 0u; kh < ${KH}u; kh += 1u) {
            for (var kw = 0u; kw < ${KW}u; kw += 1u) {
                let tap = ((kt * ${KH}u + kh) * ${KW}u + kw) * ${UNITS}u;
                //# for i in range(P)
                let r${i} = row${i} + kh;
                let c${i} = column${i} + kw;
                let inside${i} = r${i} < rows && c${i} < columns;
                let pixel${i} = select(0u, ((frame + r${i} / ${UP}u) * p.w + c${i} / ${UP}u) * ${UNITS}u - p.x_base, inside${i});
                //# endfor
                for (var c = 0u; c < ${UNITS}u; c += 1u) {
                    //# for i in range(P)
                    //# if VEC
                    let a${i} = select(vec4<f32>(), x[pixel${i} + c], inside${i});
                    //# else
                    let a${i} = select(0.0, x[pixel${i} + c], inside${i});
                    //# endif
                    //# endfor
                    //# for j in range(Q)
                    //# if VEC
                    let b${j} = ${load4("w", "w" ~ j ~ " + tap + c", WT)};
                    //# else
                    let b${j} = ${load1("w", "w" ~ j ~ " + tap + c", WT)};
                    //# endif
                    //# for i in range(P)
                    //# if VEC
                    sum${i}_${j} += dot(a${i}, b${j});
                    //# else
                    sum${i}_${j} += a${i} * b${j};
                    //# endif
                    //# endfor
                    //# endfor
                }
            }
        }
    }
    //# for i in range(P)
    if (q + ${i}u < p.positions) {
        //# for j in range(Q)
        if (o + ${j}u < p.o_end) {
            store(t, q + ${i}u, o + ${j}u, sum${i}_${j});
        }
        //# endfor
    }
    //# endfor
}
