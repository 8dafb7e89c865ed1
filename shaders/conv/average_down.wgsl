// y[h, w, o] = base[h, w, o] + mean over the G elements k = o G... of the block of x that (h, w) stands for, where
//     k = ((c FT + i) FS + j) FS + l   is   x[frame i][h FS + j, w FS + l, c]
// One output frame, some of its rows; an invocation per element. The frames are bound one by one, since the rows that a
// window of y needs lie far apart in them; the first may be one of zeros.
//# include "lib/grid.wgsl"

struct Params {
    count: u32,                 // elements of y
    w: u32, o: u32, c: u32,     // columns and channels of y, channels of x
    //# for i in range(FT)
    x${i}_at: u32,              // where the rows begin in frame ${i}
    //# endfor
    base_at: u32, y_at: u32,
}

//# for i in range(SKIP, FT)
@group(0) @binding(${next()}) var<storage, read> x${i}: array<f32>;    // [H FS, W FS, C]
//# endfor
@group(0) @binding(${next()}) var<storage, read> base: array<f32>;     // [H, W, O]
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;  // [H, W, O]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let n = linear_group(wid, groups) * ${WIDTH}u + lane;
    if (n >= p.count) {
        return;
    }
    let o = n % p.o;
    let column = n / p.o % p.w;
    let row = n / (p.o * p.w);
    var sum = 0.0;
    for (var g = 0u; g < ${GROUP}u; g++) {
        let k = o * ${GROUP}u + g;
        let c = k / ${FT * FS * FS}u;
        let j = k / ${FS}u % ${FS}u;
        let l = k % ${FS}u;
        let at = ((row * ${FS}u + j) * (p.w * ${FS}u) + column * ${FS}u + l) * p.c + c;
        //# for i in range(SKIP, FT)
        if (k / ${FS * FS}u % ${FT}u == ${i}u) {
            sum += x${i}[p.x${i}_at + at];
        }
        //# endfor
    }
    y[p.y_at + n] = base[p.base_at + n] + sum / ${GROUP}.0;
}
