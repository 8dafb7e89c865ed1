// y[b,l,d] = bias[d] + sum over c,i,j,k of  w[d,(c,i,j,k)] * x[c, f PT + i, h PH + j, v PW + k],   l = (f, h, v)
// The patch embedding of transformers over video (a convolution whose stride is its size).        arXiv:2212.09748
// An invocation computes P neighbouring tokens by Q neighbouring channels; an invocation's neighbours have the next
// channels of the same tokens, so that they write side by side and share what they read of x.
//# from "lib/storage.wgsl" import storage1, load1
//# include "lib/grid.wgsl"

struct Params {
    row0: u32, rows: u32,   // rows of y, counted over the batch
    length: u32, dim: u32,  // tokens of a video; channels of a token
    c0: u32, c_end: u32,    // channels of x that are bound
    x_base: u32, y_base: u32, // first element that is bound
    f: u32, h: u32, w: u32, // frames, rows and columns of x
    tiles: u32,             // tiles over a token's channels
}

@group(0) @binding(${next()}) var<storage, read> x: array<f32>;                // [1, C, F, H, W]
@group(0) @binding(${next()}) var<storage, read> w: array<${storage1(WT)}>;    // [dim, C PT PH PW]
//# if not ADD
@group(0) @binding(${next()}) var<storage, read> bias: array<f32>;             // [dim]
//# endif
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;          // [batch, L, dim]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let group = linear_group(wid, groups);
    let row = group / p.tiles * ${P}u;
    // Channels d, d + WIDTH, ...: neighbours write neighbours.
    let d = group % p.tiles * ${WIDTH * Q}u + lane;
    if (row >= p.rows || d >= p.dim) {
        return;
    }
    let columns = p.w / ${PW}u;
    let plane = p.h / ${PH}u * columns;
    //# for i in range(P)
    let token${i} = (p.row0 + min(row + ${i}u, p.rows - 1u)) % p.length;
    let pixel${i} = (token${i} / plane * ${PT}u * p.h + token${i} % plane / columns * ${PH}u) * p.w
        + token${i} % columns * ${PW}u - p.x_base;
    //# endfor
    //# for j in range(Q)
    let w${j} = min(d + ${WIDTH * j}u, p.dim - 1u) * ${DEPTH}u;
    //# endfor
    //# for i in range(P)
    //# for j in range(Q)
    var sum${i}_${j} = 0.0;
    //# endfor
    //# endfor
    var k = p.c0 * ${PT * PH * PW}u;
    for (var c = p.c0; c < p.c_end; c += 1u) {
        //# for t in range(PT)
        //# for r in range(PH)
        //# for s in range(PW)
        {
            let tap = ((c * p.f + ${t}u) * p.h + ${r}u) * p.w + ${s}u;
            //# for j in range(Q)
            let b${j} = ${load1("w", "w" ~ j ~ " + k", WT)};
            //# endfor
            //# for i in range(P)
            let a${i} = x[pixel${i} + tap];
            //# for j in range(Q)
            sum${i}_${j} += a${i} * b${j};
            //# endfor
            //# endfor
            k += 1u;
        }
        //# endfor
        //# endfor
        //# endfor
    }
    //# for i in range(P)
    if (row + ${i}u < p.rows) {
        let start = (p.row0 + row + ${i}u) * p.dim - p.y_base;
        //# for j in range(Q)
        if (d + ${WIDTH * j}u < p.dim) {
            let at${j} = start + d + ${WIDTH * j}u;
            //# if ADD
            y[at${j}] += sum${i}_${j};
            //# else
            y[at${j}] = sum${i}_${j} + bias[d + ${WIDTH * j}u];
            //# endif
        }
        //# endfor
    }
    //# endfor
}
