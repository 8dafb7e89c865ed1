//! Single-byte encodings: what text looks like when UTF-8 was read as one of them.
//!
//! Positions that an encoding leaves open stand for the character of the same number, as browsers have it.

/// A single-byte encoding whose lower half is ASCII.
pub(super) struct CodePage {
    /// The characters of bytes 128 to 255; empty for Latin-1.
    high: &'static str,
    /// Whether byte 26 stands for U+FFFD, a character that was lost, instead of a control character.
    pub lossy: bool,
    /// Which one it is, where that matters.
    pub kind: Kind,
}

/// Code pages with a rule of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Latin-1, bytes as code points.
    Latin1,
    /// Mac OS Roman.
    MacRoman,
    /// Any other.
    Other,
}

/// The encodings that mojibake is looked for in, in this order.
pub(super) const CODE_PAGES: [CodePage; 10] = [
    CodePage { high: "", lossy: false, kind: Kind::Latin1 },
    CodePage { high: WINDOWS_1252, lossy: true, kind: Kind::Other },
    CodePage { high: WINDOWS_1251, lossy: true, kind: Kind::Other },
    CodePage { high: WINDOWS_1250, lossy: true, kind: Kind::Other },
    CodePage { high: WINDOWS_1253, lossy: true, kind: Kind::Other },
    CodePage { high: WINDOWS_1254, lossy: true, kind: Kind::Other },
    CodePage { high: WINDOWS_1257, lossy: true, kind: Kind::Other },
    CodePage { high: ISO_8859_2, lossy: false, kind: Kind::Other },
    CodePage { high: MAC_ROMAN, lossy: false, kind: Kind::MacRoman },
    CodePage { high: CP437, lossy: false, kind: Kind::Other },
];

impl CodePage {
    /// The bytes of a text, or `None` when some character is not in the encoding.
    pub fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.byte(c)).collect()
    }

    fn byte(&self, c: char) -> Option<u8> {
        match c {
            '\u{1a}' if self.lossy => None,
            '\u{fffd}' if self.lossy => Some(0x1a),
            '\0'..='\u{7f}' => Some(c as u8),
            _ if self.kind == Kind::Latin1 => u8::try_from(c).ok(),
            _ => self.high.chars().position(|h| h == c).and_then(|i| u8::try_from(i + 128).ok()),
        }
    }
}

/// The character of a byte in windows-1252.
pub(super) fn windows_1252(byte: u8) -> char {
    let high = byte.checked_sub(128).and_then(|i| WINDOWS_1252.chars().nth(usize::from(i)));
    high.unwrap_or(char::from(byte))
}

/// Western Europe.
const WINDOWS_1252: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß\
    àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";

/// Cyrillic.
const WINDOWS_1251: &str = "\
    ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\
    \u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕї\
    АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ\
    абвгдежзийклмнопрстуфхцчшщъыьэюя";

/// Central Europe.
const WINDOWS_1250: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\
    \u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";

/// Greek.
const WINDOWS_1253: &str = "\
    €\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏ\
    ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧΨΩΪΫάέήί\
    ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώÿ";

/// Turkish.
const WINDOWS_1254: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß\
    àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ";

/// Baltic.
const WINDOWS_1257: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\
    \u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ\
    ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß\
    ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙";

/// Central Europe; 128 to 159 are controls.
const ISO_8859_2: &str = "\
    \u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\u{8f}\
    \u{90}\u{91}\u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";

/// the old Macintosh.
const MAC_ROMAN: &str = "\
    ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü\
    †°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø\
    ¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ\
    ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";

/// DOS.
const CP437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
    áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        for page in CODE_PAGES.iter().filter(|page| page.kind != Kind::Latin1) {
            assert_eq!(page.high.chars().count(), 128);
            for (i, c) in page.high.chars().enumerate() {
                assert_eq!(page.byte(c), Some(128 + i as u8));
            }
        }
        assert_eq!(CODE_PAGES[0].encode("é\u{ff}\u{1a}"), Some(vec![0xe9, 0xff, 0x1a]));
        assert_eq!(CODE_PAGES[0].encode("€"), None);
        assert_eq!(CODE_PAGES[1].encode("€\u{fffd}a"), Some(vec![0x80, 0x1a, b'a']));
        assert_eq!([0x41, 0x80, 0x81, 0xe9].map(windows_1252), ['A', '€', '\u{81}', 'é']);
    }
}
