// What the conv3d shaders share: the parameters, the bindings, and which part of the output a workgroup computes.
// Lengths of rows of channels are counted in units: vec4<f32> where VEC, else f32.
struct Params {
    t0: u32, t_end: u32,        // output frames of this dispatch
    q0: u32, positions: u32,    // first position in a frame (row * W' + column), and how many
    o0: u32, o_end: u32,        // output channels of this dispatch
    tiles_m: u32, tiles_n: u32, // tiles over a frame's positions and over output channels
    first: u32, end: u32,       // frames of the sequence front ++ x that the bound x holds
    origin: u32,                // frame of the sequence that is frame 0 of the bound x
    x_base: u32, w_base: u32, y_base: u32, // first element that is bound; x and w in units
    h: u32, w: u32,             // rows and columns of x
    wo: u32, plane: u32,        // columns of y, and H' W'
    o: u32,                     // output channels in all
    pad_top: u32, pad_left: u32,
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
    let start = t * ${ST}u;
    return vec2<u32>(max(p.first, start) - start, min(${KT}u, max(p.end, start) - start));
}

// Writes one output: position q of those of this dispatch, channel o.
fn store(t: u32, q: u32, o: u32, sum: f32) {
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
