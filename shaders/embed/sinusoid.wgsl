// y[r] = [cos(t[r] w), sin(t[r] w)]                        arXiv:1706.03762, 3.5; diffusers' order with flip_sin_to_cos
// Drivers may take sin and cos of large arguments, or of any, with few digits: the argument is reduced here to
// [-pi/4, pi/4] by pi/2 in three parts, the first two short enough that their multiples are exact (Cody and Waite), and
// the functions are Taylor sums. Exact to about 1e-7 for |t w| up to some thousands. One invocation per pair.
//# include "lib/grid.wgsl"

struct Params {
    count: u32,   // pairs to write
    t_at: u32,    // where the first row's t is
    y_at: u32,    // where the first row begins
    opaque: u32,  // zero
}

@group(0) @binding(${next()}) var<storage, read> t: array<f32>;             // [R]
@group(0) @binding(${next()}) var<storage, read> frequencies: array<f32>;   // [H]
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;       // [R, 2 H]
@group(0) @binding(${next()}) var<uniform> p: Params;

@compute @workgroup_size(${WIDTH})
fn main(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = linear_group(wid, groups) * ${WIDTH}u + lane;
    if (i >= p.count) {
        return;
    }
    let row = i / ${HALF}u;
    let column = i % ${HALF}u;
    // The product is rounded to f32, as PyTorch's is: adding a zero that the compiler does not know to its bits keeps it
    // from being fused into the subtraction below.
    let a = bitcast<f32>(bitcast<u32>(t[p.t_at + row] * frequencies[column]) + p.opaque);
    let turns = round(a * 0.6366197723675814);
    let r = ((a - turns * 1.5703125) - turns * 0.0004837512969970703) - turns * 7.549789948768648e-8;
    let z = r * r;
    let s = r * (1.0 - z / 6.0 * (1.0 - z / 20.0 * (1.0 - z / 42.0 * (1.0 - z / 72.0))));
    let c = 1.0 - z / 2.0 * (1.0 - z / 12.0 * (1.0 - z / 30.0 * (1.0 - z / 56.0 * (1.0 - z / 90.0))));
    let quarter = u32(i32(turns)) & 3u;
    let odd = (quarter & 1u) == 1u;
    let sine = select(s, c, odd) * select(1.0, -1.0, (quarter & 2u) != 0u);
    let cosine = select(c, s, odd) * select(1.0, -1.0, quarter == 1u || quarter == 2u);
    let to = p.y_at + row * ${2 * HALF}u + column;
    y[to] = cosine;
    y[to + ${HALF}u] = sine;
}
