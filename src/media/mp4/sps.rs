//! What of an H.264 sequence parameter set a reader must know before it decodes (ITU-T H.264, section 7.3.2.1.1 and annex E).

/// The part of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sps {
    /// 0 grey, 1 for 4:2:0, 2 for 4:2:2, 3 for 4:4:4.
    pub(super) chroma: u32,
    /// Bits of a luma or chroma sample, the larger.
    pub(super) depth: u32,
    pub(super) interlaced: bool,
    /// Columns and rows, before cropping.
    pub(super) width: u32,
    pub(super) height: u32,
    /// Whether samples fill all 8 bits, when said.
    pub(super) full: Option<bool>,
    /// MatrixCoefficients (ITU-T H.273, table 4), when said.
    pub(super) matrix: Option<u16>,
}

impl Sps {
    /// Reads a unit of type 7, its header included; `None` when it is none, or ends too soon.
    pub(super) fn parse(unit: &[u8]) -> Option<Self> {
        if unit.first()? & 0x1f != 7 {
            return None;
        }
        let mut bits = Bits { bytes: unescaped(unit.get(1..)?), at: 0 };
        let profile = bits.read(8)?;
        bits.read(16)?; // constraints and level
        bits.unsigned()?; // its number
        let (mut chroma, mut depth) = (1, 8);
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma = bits.unsigned()?;
            if chroma == 3 {
                bits.read(1)?;
            }
            depth = 8 + bits.unsigned()?.max(bits.unsigned()?).min(100);
            bits.read(1)?;
            if bits.read(1)? == 1 {
                for list in 0..if chroma == 3 { 12 } else { 8 } {
                    if bits.read(1)? == 1 {
                        bits.skip_scaling_list(if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.unsigned()?; // frame numbers
        match bits.unsigned()? {
            0 => {
                bits.unsigned()?;
            }
            1 => {
                bits.read(1)?;
                bits.unsigned()?;
                bits.unsigned()?;
                for _ in 0..bits.unsigned()?.min(255) {
                    bits.unsigned()?;
                }
            }
            _ => {}
        }
        bits.unsigned()?; // reference frames
        bits.read(1)?;
        let width = bits.unsigned()?.checked_add(1)?.checked_mul(16)?;
        let height = bits.unsigned()?.checked_add(1)?.checked_mul(16)?;
        let interlaced = bits.read(1)? == 0;
        if interlaced {
            bits.read(1)?;
        }
        bits.read(1)?;
        if bits.read(1)? == 1 {
            for _ in 0..4 {
                bits.unsigned()?; // cropping, which the decoder does
            }
        }
        let (full, matrix) = if bits.read(1)? == 1 { bits.colours().unwrap_or_default() } else { (None, None) };
        Some(Self { chroma, depth, interlaced, width, height, full, matrix })
    }
}

/// A sequence parameter set that says the same under the number of a profile that has no order of its own: the decoder then
/// hands out each picture at once. (Where it keeps pictures back to put them in order, it loses a place for each that is
/// asked for early, and fails when all are lost.) Other units are left as they are.
///
/// Scalable Baseline (83) has the fields of High; sets of Main and Extended get them, with the values that they imply.
pub(super) fn without_order(unit: &[u8]) -> Vec<u8> {
    const NO_ORDER: u8 = 83;
    let mut out = unit.to_vec();
    let (Some(7), Some(profile)) = (unit.first().map(|header| header & 0x1f), out.get_mut(1)) else {
        return out;
    };
    let old = std::mem::replace(profile, NO_ORDER);
    match old {
        100 => out,
        77 | 88 => inserted(&out).unwrap_or_else(|| unit.to_vec()),
        _ => unit.to_vec(),
    }
}

/// The set with chroma_format_idc 1, both depths 8, no bypass and no scaling matrix after its number: 010 1 1 0 0.
fn inserted(unit: &[u8]) -> Option<Vec<u8>> {
    let bytes = unescaped(unit.get(1..)?);
    let end = 8 * bytes.len();
    let mut bits = Bits { bytes, at: 0 };
    bits.read(24)?;
    bits.unsigned()?;
    let place = bits.at;
    bits.at = 0;
    let mut packed = vec![0; end / 8 + 1];
    let mut all: Vec<u32> = Vec::with_capacity(end + 7);
    for at in 0..end {
        if at == place {
            all.extend([0, 1, 0, 1, 1, 0, 0]);
        }
        all.push(bits.read(1)?);
    }
    for (at, bit) in all.into_iter().enumerate() {
        *packed.get_mut(at / 8)? |= (bit as u8) << (7 - at % 8);
    }
    while packed.last() == Some(&0) {
        packed.pop();
    }
    let (mut out, mut zeros) = (vec![*unit.first()?], 0);
    for byte in packed {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    Some(out)
}

/// The payload of a unit: a 3 after two zeros is there only to tell it from a start code.
fn unescaped(unit: &[u8]) -> Vec<u8> {
    let (mut out, mut zeros) = (Vec::with_capacity(unit.len()), 0);
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Bits, the highest of a byte first.
struct Bits {
    bytes: Vec<u8>,
    at: usize,
}

impl Bits {
    /// A number of up to 32 bits.
    fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let bit = self.bytes.get(self.at / 8)? >> (7 - self.at % 8) & 1;
            value = value << 1 | u32::from(bit);
            self.at += 1;
        }
        Some(value)
    }

    /// An Exp-Golomb code (section 9.1): as many bits after its first 1 as zeros before it. Signed ones are as long.
    fn unsigned(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read(1)? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.read(zeros)?)
    }

    /// Section 7.3.2.1.1.1: differences, up to one that leads to zero.
    fn skip_scaling_list(&mut self, size: usize) -> Option<()> {
        let mut last = 8_i64;
        for _ in 0..size {
            let code = i64::from(self.unsigned()?);
            last += if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 };
            if last.rem_euclid(256) == 0 {
                break;
            }
        }
        Some(())
    }

    /// Range and matrix in the usability information (annex E.1.1).
    fn colours(&mut self) -> Option<(Option<bool>, Option<u16>)> {
        // The shape of a pixel, in full when it is 255.
        if self.read(1)? == 1 && self.read(8)? == 255 {
            self.read(32)?;
        }
        if self.read(1)? == 1 {
            self.read(1)?; // overscan
        }
        if self.read(1)? == 0 {
            return Some((None, None));
        }
        self.read(3)?;
        let full = Some(self.read(1)? == 1);
        if self.read(1)? == 0 {
            return Some((full, None));
        }
        self.read(16)?; // primaries and transfer
        Some((full, Some(self.read(8)? as u16)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set that x264 wrote: High profile, 96x64.
    #[test]
    fn a_set_of_x264() {
        let high = [
            0x67, 0x64, 0x00, 0x0a, 0xac, 0xd9, 0x46, 0x26, 0xc0, 0x44, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00, 0x03,
            0x00, 0xc8, 0x3c, 0x48, 0x96, 0x58,
        ];
        let sps = Sps { chroma: 1, depth: 8, interlaced: false, width: 96, height: 64, full: None, matrix: None };
        assert_eq!(Sps::parse(&high), Some(sps));
        for length in 0..high.len() {
            // Cut anywhere it is refused, or what was cut is only of the pixels' shape and colours.
            assert!(Sps::parse(&high[..length]).is_none_or(|cut| cut == sps), "{length}");
        }
        assert_eq!(Sps::parse(&[0x68, 1, 2, 3]), None);
    }

    /// The same set in another profile, read back field by field.
    #[test]
    fn sets_without_order() {
        // Main, 40x24 by x264, with BT.709 and limited range.
        let main = [
            0x67, 0x4d, 0x40, 0x0a, 0xf2, 0x1a, 0xf2, 0xcb, 0x80, 0xb5, 0x01, 0x01, 0x01, 0x40, 0x00, 0x00, 0x03, 0x00,
            0x40, 0x00, 0x00, 0x0c, 0x83, 0xc4, 0x89, 0x44, 0x80,
        ];
        let set =
            Sps { chroma: 1, depth: 8, interlaced: false, width: 48, height: 32, full: Some(false), matrix: Some(1) };
        let before = Sps::parse(&main);
        assert_eq!(before, Some(set));
        let other = without_order(&main);
        assert_eq!((other[0], other[1]), (0x67, 83));
        assert_eq!(Sps::parse(&other), before);
        for unit in [&[0x67, 66, 0, 10, 0xff][..], &[0x68, 77, 1], &[], &[0x67], &[0x67, 77, 0]] {
            assert_eq!(without_order(unit), unit);
        }
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_are_parsed_without_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 1..80)) {
            bytes[0] = 0x67;
            if let Some(profile) = bytes.get_mut(1).filter(|profile| **profile % 2 == 0) {
                *profile = 77;
            }
            let before = Sps::parse(&bytes);
            let _ = without_order(&bytes);
            // Whatever follows, a set of Main says the same in another profile (or ends sooner, without its last zeros; or
            // later, where it was cut short in the description of its colours, which then may be read to its end).
            if let (Some(77 | 88), Some(before)) = (bytes.get(1), before) {
                let same = |after: Sps| match before.full {
                    None => Sps { full: None, matrix: None, ..after } == Sps { matrix: None, ..before },
                    Some(_) => after == before,
                };
                proptest::prop_assert!(Sps::parse(&without_order(&bytes)).is_none_or(same));
            }
        }
    }
}
