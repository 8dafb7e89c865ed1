// Activation functions by name, each for one value and, with a 4 behind its name, for four.
//# for suffix, T in [["", "f32"], ["4", "vec4<f32>"]]
// The exponent is clamped, so that nothing overflows: below -80 the result is zero either way.
fn silu${suffix}(x: ${T}) -> ${T} {
    return x / (1.0 + exp(min(-x, ${T}(80.0))));
}

// x sigmoid(1.702 x)                                                                  arXiv:1606.08415, section 2
fn quick_gelu${suffix}(x: ${T}) -> ${T} {
    return x / (1.0 + exp(min(-1.702 * x, ${T}(80.0))));
}

// gelu_new: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))                          arXiv:1606.08415
// The argument is clamped since tanh of large arguments is NaN in some drivers.
fn gelu_tanh${suffix}(x: ${T}) -> ${T} {
    let u = clamp(0.7978845608028654 * (x + 0.044715 * x * x * x), ${T}(-15.0), ${T}(15.0));
    return 0.5 * x * (1.0 + tanh(u));
}

// erf(x) = sign(x) (1 - p(t) exp(-x^2)), t = 1 / (1 + 0.3275911 |x|); |error| < 1.5e-7   Abramowitz & Stegun 7.1.26
fn erf${suffix}(x: ${T}) -> ${T} {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let p = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - p * exp(-a * a));
}

fn gelu_erf${suffix}(x: ${T}) -> ${T} {
    return 0.5 * x * (1.0 + erf${suffix}(x * 0.7071067811865476));
}

//# endfor
