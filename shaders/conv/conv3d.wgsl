// Convolution straight from storage: formula and operands in conv/operands.wgsl.
// Each invocation keeps P neighbouring outputs of a row by Q channels in registers and reads each x that they see once
// for all KW taps of a row: (P - 1) SW + KW reads serve P KW products. All invocations of a workgroup compute the same
// channels. With SHARE, each invocation of a subgroup (of 8 or more) reads the weights of one of 8 channels and the others
// get them by broadcast: on software drivers, whose reads go lane by lane, this is what counts.
// Control flow is uniform but for the end: invocations past the last strip repeat it and store nothing.
//# from "lib/storage.wgsl" import storage1, storage4, load1, load4
//# include "lib/grid.wgsl"
//# include "conv/operands.wgsl"
//# set SEEN = (P - 1) * SW + KW
//# set load = load4 if VEC else load1
//# set zero = "vec4<f32>()" if VEC else "0.0"

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    //# if SHARE
    @builtin(subgroup_invocation_id) subgroup_lane: u32,
    //# endif
) {
    let group = linear_group(wid, groups);
    let t = p.t0 + group / (p.tiles_n * p.tiles_m);
    if (t >= p.t_end) {
        return;
    }
    let o = p.o0 + group % p.tiles_n * ${Q}u;
    let strips = (p.wo + ${P - 1}u) / ${P}u;
    let strip = group / p.tiles_n % p.tiles_m * ${WIDTH}u + lane;
    let last = p.positions / p.wo * strips - 1u;
    let q = min(strip, last) / strips * p.wo;
    let column = min(strip, last) % strips * ${P}u;

    let rows = p.h << p.up;
    let columns = p.w << p.up;
    let top = (p.q0 + q) / p.wo * p.sh - p.pad_top;
    // Rows above or left of x wrap around to huge numbers: one comparison tells on both sides.
    //# for s in range(SEEN)
    let c${s} = column * ${SW}u + ${s}u - p.pad_left;
    let inside${s} = c${s} < columns;
    let x${s} = select(0u, (c${s} >> p.up) * p.units, inside${s});
    //# endfor
    let row_units = ${KW}u * p.units;
    let depth = p.kt * p.kh * row_units;
    //# if SHARE
    //# for g in range(Q // 8)
    let w${g} = min(o + ${8 * g}u + subgroup_lane % 8u, p.o_end - 1u) * depth - p.w_base;
    //# endfor
    //# else
    //# for j in range(Q)
    let w${j} = min(o + ${j}u, p.o_end - 1u) * depth - p.w_base;
    //# endfor
    //# endif
    //# for k in range(KW)
    let tap${k} = ${k}u * p.units;
    //# endfor
    //# for i in range(P)
    //# for j in range(Q)
    var sum${i}_${j} = 0.0;
    //# endfor
    //# endfor

    let taps = time_taps(t);
    for (var kt = taps.x; kt < taps.y; kt += 1u) {
        let frame = (t * p.st + kt - p.origin) * p.h;
        for (var kh = 0u; kh < p.kh; kh += 1u) {
            let row = top + kh;
            let inside = row < rows;
            let x_row = select(0u, (frame + (row >> p.up)) * p.w * p.units - p.x_base, inside);
            let w_row = (kt * p.kh + kh) * row_units;
            for (var c = 0u; c < p.units; c += 1u) {
                let xc = x_row + c;
                let wc = w_row + c;
                //# for s in range(SEEN)
                let a${s} = select(${zero}, x[xc + x${s}], inside && inside${s});
                //# endfor
                //# if SHARE
                //# for g in range(Q // 8)
                //# for k in range(KW)
                let v${g}_${k} = ${load("w", "w" ~ g ~ " + wc + tap" ~ k, WT)};
                //# endfor
                //# endfor
                //# endif
                //# for j in range(Q)
                //# for k in range(KW)
                //# if SHARE
                let b${j}_${k} = subgroupBroadcast(v${j // 8}_${k}, ${j % 8}u);
                //# else
                let b${j}_${k} = ${load("w", "w" ~ j ~ " + wc + tap" ~ k, WT)};
                //# endif
                //# for i in range(P)
                //# if VEC
                sum${i}_${j} += dot(a${i * SW + k}, b${j}_${k});
                //# else
                sum${i}_${j} += a${i * SW + k} * b${j}_${k};
                //# endif
                //# endfor
                //# endfor
                //# endfor
            }
        }
    }
    if (strip > last) {
        return;
    }
    //# for i in range(P)
    if (column + ${i}u < p.wo) {
        //# for j in range(Q)
        if (o + ${j}u < p.o_end) {
            finish(t, q + column + ${i}u, o + ${j}u, sum${i}_${j});
        }
        //# endfor
    }
    //# endfor
}
