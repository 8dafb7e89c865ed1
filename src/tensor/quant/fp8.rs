//! Floating-point numbers of 8 bits (arXiv:2209.05433).

/// Sign, four bits of exponent with a bias of 7, three of mantissa; all ones is NaN and there are no infinities.
pub(super) fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(byte >> 3 & 15), u32::from(byte & 7));
    let magnitude = match (exponent, mantissa) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa as f32 / 512.0,
        _ => f32::from_bits((exponent + 127 - 7) << 23 | mantissa << 20),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The upper half of an IEEE binary16.
pub(super) fn e5m2(byte: u8) -> f32 {
    half::f16::from_le_bytes([0, byte]).to_f32()
}

/// The nearest number of [`e4m3`], ties to even, and the largest for all that is larger.
pub(super) fn to_e4m3(value: f32) -> u8 {
    round(value, 3, 7, 448.0)
}

/// The nearest number of [`e5m2`], ties to even, and the largest finite one for all that is larger.
pub(super) fn to_e5m2(value: f32) -> u8 {
    round(value, 2, 15, 57344.0)
}

/// The nearest number with so many bits of mantissa and such a bias, ties to even; `most` is the largest.
fn round(value: f32, mantissa: u32, bias: u32, most: f32) -> u8 {
    let magnitude = value.abs().min(most);
    let least_exponent = 1 + 127 - bias; // of normal numbers, as f32 writes it
    let bits = if magnitude < f32::from_bits(least_exponent << 23) {
        // Below the least normal number all are multiples of the same power of two, 1 / unit.
        let unit = f32::from_bits((127 + bias - 1 + mantissa) << 23);
        (magnitude * unit).round_ties_even() as u32
    } else {
        let bits = magnitude.to_bits();
        let dropped = 23 - mantissa;
        let even = bits >> dropped & 1;
        ((bits + (1 << (dropped - 1)) - 1 + even) >> dropped) - ((127 - bias) << mantissa)
    };
    bits as u8 | u8::from(value.is_sign_negative()) << 7
}
