// Convolution as implicit GEMM through workgroup memory: formula and operands in conv/operands.wgsl.
// The rows of the GEMM are positions of one frame, its columns output channels, its depth K = (kt, kh, kw, c). A
// workgroup computes BM x BN of it, an invocation 8 x 8, rows BM / 8 and columns BN / 8 apart so that neighbours read
// neighbours. In each step 16 channels of one tap are staged, as 4 vectors of 4 to a row and one of padding against bank
// conflicts; what the next step stages is read into registers while this one is multiplied. Nothing is unfolded: the
// steps are counted in (kt, kh, kw, c), and where an element lies follows from that.
//# from "lib/storage.wgsl" import storage1, storage4, load4
//# include "lib/grid.wgsl"
//# include "conv/operands.wgsl"
//# set WIDTH = BM * BN // 64
//# set ROWS = WIDTH // 4

var<workgroup> xs: array<vec4<f32>, ${BM * 5}>;
var<workgroup> ws: array<vec4<f32>, ${BN * 5}>;

// A step of the depth: a tap and the first of its channels, counted in vectors of 4.
struct Step { kt: u32, kh: u32, kw: u32, c: u32 }

fn after(s: Step) -> Step {
    var n = s;
    n.c += 4u;
    if (n.c >= p.units) { n.c = 0u; n.kw += 1u; }
    if (n.kw == p.kw) { n.kw = 0u; n.kh += 1u; }
    if (n.kh == p.kh) { n.kh = 0u; n.kt += 1u; }
    return n;
}

// The vector c of the channels that the output whose first tap is at (top, left) of frame t sees in a step.
fn seen(s: Step, c: u32, t: u32, top: u32, left: u32) -> vec4<f32> {
    let row = top + s.kh;
    let column = left + s.kw;
    // Rows above or left of x wrap around to huge numbers: one comparison tells on both sides.
    let inside = c < p.units && row < (p.h << p.up) && column < (p.w << p.up);
    let frame = t * p.st + s.kt - p.origin;
    let at = ((frame * p.h + (row >> p.up)) * p.w + (column >> p.up)) * p.units + c - p.x_base;
    return select(vec4<f32>(), x[select(0u, at, inside)], inside);
}

// The vector c of a step's weights; the output channel's begin at `start`.
fn weight(s: Step, c: u32, start: u32) -> vec4<f32> {
    let at = start + ((s.kt * p.kh + s.kh) * p.kw + s.kw) * p.units + min(c, p.units - 1u);
    return select(vec4<f32>(), ${load4("w", "at", WT)}, c < p.units);
}

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_group(wid, groups);
    let t = p.t0 + group / (p.tiles_n * p.tiles_m);
    if (t >= p.t_end) {
        return;
    }
    let o0 = p.o0 + group % p.tiles_n * ${BN}u;
    let q0 = group / p.tiles_n % p.tiles_m * ${BM}u;

    // What this invocation stages: the vector `part` of some rows of each tile, in (top, left) and w of those rows.
    let part = lane % 4u;
    let row = lane / 4u;
    //# for n in range(BM // ROWS)
    let at${n} = p.q0 + min(q0 + row + ${n * ROWS}u, p.positions - 1u);
    let top${n} = at${n} / p.wo * p.sh - p.pad_top;
    let left${n} = at${n} % p.wo * p.sw - p.pad_left;
    //# endfor
    //# for n in range(BN // ROWS)
    let w${n} = min(o0 + row + ${n * ROWS}u, p.o_end - 1u) * p.kt * p.kh * p.kw * p.units - p.w_base;
    //# endfor

    // What it computes.
    let across = lane % ${BN // 8}u;
    let down = lane / ${BN // 8}u;
    //# for i in range(8)
    //# for j in range(8)
    var sum${i}_${j} = 0.0;
    //# endfor
    //# endfor

    let taps = time_taps(t);
    let steps = (max(taps.x, taps.y) - taps.x) * p.kh * p.kw * ((p.units + 3u) / 4u);
    var step = Step(taps.x, 0u, 0u, 0u);
    //# for n in range(BM // ROWS)
    var x${n} = vec4<f32>();
    //# endfor
    //# for n in range(BN // ROWS)
    var v${n} = vec4<f32>();
    //# endfor
    // One round more than there are steps: the first only reads, the last only multiplies.
    for (var round = 0u; round <= steps; round += 1u) {
        workgroupBarrier();
        //# for n in range(BM // ROWS)
        xs[(row + ${n * ROWS}u) * 5u + part] = x${n};
        //# endfor
        //# for n in range(BN // ROWS)
        ws[(row + ${n * ROWS}u) * 5u + part] = v${n};
        //# endfor
        workgroupBarrier();
        if (round < steps) {
            let c = step.c + part;
            //# for n in range(BM // ROWS)
            x${n} = seen(step, c, t, top${n}, left${n});
            //# endfor
            //# for n in range(BN // ROWS)
            v${n} = weight(step, c, w${n});
            //# endfor
            step = after(step);
        }
        for (var s = 0u; s < 4u; s += 1u) {
            //# for j in range(8)
            let b${j} = ws[(across + ${j * (BN // 8)}u) * 5u + s];
            //# endfor
            //# for i in range(8)
            let a${i} = xs[(down + ${i * (BM // 8)}u) * 5u + s];
            //# for j in range(8)
            sum${i}_${j} += dot(a${i}, b${j});
            //# endfor
            //# endfor
        }
    }
    //# for i in range(8)
    {
        let q = q0 + down + ${i * (BM // 8)}u;
        if (q < p.positions) {
            //# for j in range(8)
            if (o0 + across + ${j * (BN // 8)}u < p.o_end) {
                finish(t, q, o0 + across + ${j * (BN // 8)}u, sum${i}_${j});
            }
            //# endfor
        }
    }
    //# endfor
}
