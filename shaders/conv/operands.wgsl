// What the conv3d shaders share: their operands, and what becomes of a finished sum.
//
// y[t,h,w,o] = bias[o] + residual[t,h,w,o]
//            + sum over kt,kh,kw,c of  w[o,kt,kh,kw,c] * s[t stride + kt, h stride + kh - pad, w stride + kw - pad, c]
// s is front ++ x with its rows and columns repeated (nearest-exact), and zero outside. A dispatch computes some frames,
// rows and channels of y from those frames of s that are bound as x; with ADD it adds to what others have computed.
// Channels are counted in units: vec4<f32> where VEC, else f32.
struct Params {
    t0: u32, t_end: u32,        // output frames of this dispatch
    q0: u32, positions: u32,    // first position in a frame (row * W' + column), and how many: whole rows
    o0: u32, o_end: u32,        // output channels of this dispatch
    tiles_m: u32, tiles_n: u32, // tiles over a frame's positions and over output channels
    first: u32, end: u32,       // frames of s that the bound x holds
    origin: u32,                // frame of s that is frame 0 of the tensor bound as x
    x_base: u32, w_base: u32, y_base: u32, // element of each tensor at which its binding begins; x and w in units
    h: u32, w: u32,             // rows and columns of x
    plane: u32, wo: u32, o: u32, // H' W', W' and O of y
    pad_top: u32, pad_left: u32,
    up: u32,                    // each row and column of x counts 1 << up times
    units: u32,                 // C
    kt: u32, kh: u32, kw: u32,  // taps
    st: u32, sh: u32, sw: u32,  // strides in frames, rows and columns
}

//# if VEC
@group(0) @binding(${next()}) var<storage, read> x: array<vec4<f32>>;          // [T, H, W, C]
@group(0) @binding(${next()}) var<storage, read> w: array<${storage4(WT)}>;    // [O, kt, kh, kw, C]
//# else
@group(0) @binding(${next()}) var<storage, read> x: array<f32>;                // [T, H, W, C]
@group(0) @binding(${next()}) var<storage, read> w: array<${storage1(WT)}>;    // [O, kt, kh, kw, C]
//# endif
//# if BIAS
@group(0) @binding(${next()}) var<storage, read> bias: array<f32>;             // [O]
//# endif
//# if RESIDUAL
@group(0) @binding(${next()}) var<storage, read> residual: array<f32>;         // [T', H', W', O]
//# endif
@group(0) @binding(${next()}) var<storage, read_write> y: array<f32>;          // [T', H', W', O]
@group(0) @binding(${next()}) var<uniform> p: Params;

// The taps in time of output frame t whose frames are bound: from .x to before .y.
fn time_taps(t: u32) -> vec2<u32> {
    let start = t * p.st;
    return vec2<u32>(max(p.first, start) - start, min(p.kt, max(p.end, start) - start));
}

// Writes one output: position q of those of this dispatch, channel o.
fn finish(t: u32, q: u32, o: u32, sum: f32) {
    let i = (t * p.plane + p.q0 + q) * p.o + o - p.y_base;
    var value = sum;
    //# if BIAS
    value += bias[o];
    //# endif
    //# if RESIDUAL
    value += residual[i];
    //# endif
    //# if ADD
    value += y[i];
    //# endif
    y[i] = value;
}
