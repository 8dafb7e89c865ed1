// Quantised weights as they are stored, expanded where they are read: W is f8e4m3, f8e5m2 or the name of a GGUF block.
// w_at(index) gives elements 4 index .. 4 index + 3 of the buffer w; only where VEC is not set, which fp8 alone allows,
// it gives the element `index`. Four neighbours never lie in two blocks or two groups, so their scales are read once.
// Layouts: src/tensor/quant, ggml-common.h. Halves are expanded by integer arithmetic, since those of blocks are
// often below the least normal one and drivers may flush such to zero.
//# set bytes = {"q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "q8_0": 34, "q2_k": 84, "q3_k": 110, "q4_k": 144, "q5_k": 176, "q6_k": 210}
//# set fp8 = W in ["f8e4m3", "f8e5m2"]
//# set U = "vec4<u32>" if fp8 and VEC else "u32"
//# set F = "vec4<f32>" if fp8 and VEC else "f32"
//# if W == "f8e4m3"
// Sign, four bits of exponent with a bias of 7, three of mantissa; all ones is NaN.
fn expand(bits: ${U}) -> ${F} {
    let magnitude = bits & ${U}(127u);
    let offset = select(${U}(0x3c000000u), ${U}(0x78000000u), magnitude == ${U}(127u));
    let normal = bitcast<${F}>((magnitude << ${U}(20u)) + offset);
    let value = select(normal, ${F}(magnitude) * 0.001953125, magnitude < ${U}(8u));
    return bitcast<${F}>(bitcast<${U}>(value) | ((bits & ${U}(128u)) << ${U}(24u)));
}
//# else
// The IEEE binary16 in the lower 16 bits.
fn expand(bits: ${U}) -> ${F} {
    let magnitude = bits & ${U}(0x7fffu);
    let offset = select(${U}(0x38000000u), ${U}(0x70000000u), magnitude >= ${U}(0x7c00u));
    let normal = bitcast<${F}>((magnitude << ${U}(13u)) + offset);
    let value = select(normal, ${F}(magnitude) * 5.9604644775390625e-8, magnitude < ${U}(0x400u));
    return bitcast<${F}>(bitcast<${U}>(value) | ((bits & ${U}(0x8000u)) << ${U}(16u)));
}
//# endif
//# if fp8
//# set up = 0 if W == "f8e4m3" else 8

fn w_at(index: u32) -> ${F} {
    //# if VEC
    return expand(((vec4<u32>(w[index]) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)) << vec4<u32>(${up}u));
    //# else
    return expand(((w[index >> 2u] >> ((index & 3u) * 8u)) & 255u) << ${up}u);
    //# endif
}
//# else
//# set size = bytes[W]

// The byte at a place.
fn w_byte(place: u32) -> u32 {
    return (w[place >> 2u] >> ((place & 3u) * 8u)) & 255u;
}

// The four bytes from a place on, which is ${"even" if size % 4 else "that of a word"}.
fn w_word(place: u32) -> u32 {
    //# if size % 4
    let low = w[place >> 2u];
    let high = w[(place + 3u) >> 2u];
    return select(low, (low >> 16u) | (high << 16u), (place & 2u) != 0u);
    //# else
    return w[place >> 2u];
    //# endif
}

// The half at an even place.
fn w_half(place: u32) -> f32 {
    return expand(w[place >> 2u] >> ((place & 2u) * 8u));
}

// Bits `shift` and up of each byte, as many as `mask` has.
fn fields(word: u32, shift: u32, mask: u32) -> vec4<u32> {
    return (vec4<u32>(word >> shift) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(mask);
}

fn w_at(index: u32) -> vec4<f32> {
    //# if W in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
    let block = index / 8u * ${size}u;
    let four = index % 8u;
    let d = w_half(block);
    //# if W == "q8_0"
    let word = bitcast<i32>(w_word(block + 2u + four * 4u));
    return d * vec4<f32>((vec4<i32>(word) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
    //# else
    //# set place = {"q4_0": 2, "q4_1": 4, "q5_0": 6, "q5_1": 8}[W]
    let low = fields(w_word(block + ${place}u + four % 4u * 4u), four / 4u * 4u, 15u);
    //# if W in ["q5_0", "q5_1"]
    let bits = vec4<u32>(w_word(block + ${place - 4}u) >> (four * 4u));
    let fifth = (bits >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u);
    let q = vec4<f32>(low | (fifth << vec4<u32>(4u)));
    //# else
    let q = vec4<f32>(low);
    //# endif
    //# if W in ["q4_1", "q5_1"]
    return d * q + w_half(block + 2u);
    //# else
    return d * (q - ${"8.0" if W == "q4_0" else "16.0"});
    //# endif
    //# endif
    //# else
    let block = index / 64u * ${size}u;
    let four = index % 64u;
    //# if W in ["q4_k", "q5_k"]
    let halves = w[block >> 2u];
    let group = four / 8u;
    let shift = group % 4u * 8u;
    let a = (w[(block >> 2u) + 1u] >> shift) & 255u;
    let b = (w[(block >> 2u) + 2u] >> shift) & 255u;
    let c = (w[(block >> 2u) + 3u] >> shift) & 255u;
    let first = group < 4u;
    let scale = expand(halves) * f32(select((c & 15u) | ((a >> 6u) << 4u), a & 63u, first));
    let least = expand(halves >> 16u) * f32(select((c >> 4u) | ((b >> 6u) << 4u), b & 63u, first));
    let low = fields(w_word(block + ${16 if W == "q4_k" else 48}u + four / 16u * 32u + four % 8u * 4u), group % 2u * 4u, 15u);
    //# if W == "q5_k"
    let q = low | (fields(w_word(block + 16u + four % 8u * 4u), group, 1u) << vec4<u32>(4u));
    //# else
    let q = low;
    //# endif
    return scale * vec4<f32>(q) - least;
    //# else
    let group = four / 4u;
    let pair = four / 8u % 4u * 2u;
    //# set place = {"q2_k": 16, "q3_k": 32, "q6_k": 128}[W]
    let two = fields(w_word(block + ${place}u + four / 32u * 32u + four % 8u * 4u), pair, 3u);
    //# if W == "q2_k"
    let scales = w_byte(block + group);
    return w_half(block + 80u) * f32(scales & 15u) * vec4<f32>(two) - w_half(block + 82u) * f32(scales >> 4u);
    //# elif W == "q3_k"
    let third = fields(w_word(block + four % 8u * 4u), four / 8u, 1u);
    let low = (w_byte(block + 96u + group % 8u) >> (group / 8u * 4u)) & 15u;
    let high = (w_byte(block + 104u + group % 4u) >> (group / 4u * 2u)) & 3u;
    let scale = w_half(block + 108u) * (f32(low | (high << 4u)) - 32.0);
    return scale * (vec4<f32>(two | (third << vec4<u32>(2u))) - 4.0);
    //# else
    let low = fields(w_word(block + four / 32u * 64u + four % 16u * 4u), four / 16u % 2u * 4u, 15u);
    let scale = w_half(block + 208u) * f32((bitcast<i32>(w_byte(block + 192u + group)) << 24u) >> 24u);
    return scale * (vec4<f32>(low | (two << vec4<u32>(4u))) - 32.0);
    //# endif
    //# endif
    //# endif
}
//# endif
