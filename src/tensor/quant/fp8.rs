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
