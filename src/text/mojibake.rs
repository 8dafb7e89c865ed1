//! Mojibake: text in UTF-8 that was read in another encoding, found and read again.
//!
//! The rules are those of ftfy 6.3 (Robyn Speer, Apache-2.0; its `badness` and `chardata` modules document them): a
//! text is only touched when it has neighbours that no language writes, and then only if it is UTF-8 once encoded in
//! one of ten single-byte encodings.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use regex::bytes;

use super::codepages::{CODE_PAGES, Kind, windows_1252};

/// Characters of many contexts.
const COMMON: &str = "\u{a0}\u{ad}·´–—―…’";
/// Controls that nobody uses.
const C1: &str = "\u{80}-\u{9f}";
/// Characters hardly seen but in mojibake.
const BAD: &str = "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊�ªº";
/// Signs of legal texts.
const LAW: &str = "¶§";
/// Signs of money.
const CURRENCY: &str = "¢£¥₧€";
/// Signs before a word.
const START_PUNCTUATION: &str = "¡«¿©΄΅‘‚“„•‹\u{f8ff}";
/// Signs after a word.
const END_PUNCTUATION: &str = "®»˝”›™";
/// Signs of numbers and formulas.
const NUMERIC: &str = "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№";
/// Letters that faces are made of.
const KAOMOJI: &str = "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°";
/// Capitals with accents, those of faces left out.
const UPPER_ACCENTED: &str = "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ";
/// Small letters with accents, those of faces left out.
const LOWER_ACCENTED: &str = "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ";
/// Capitals of other alphabets, at home at the beginning of words.
const UPPER_COMMON: &str = "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я";
/// Small letters of other alphabets.
const LOWER_COMMON: &str = "α-ωάέήίΰа-џ";
/// Pieces of boxes.
const BOX: &str = "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓";
/// What the first of two bytes of UTF-8 looks like in some encoding.
const FIRST_OF_2: &str = "\
    ĂÂÄĀÅÃÆĆČÇĎĐÉĚÊËĖÈĒĘÐĞĢÍÎÏİÌĪĶĹĻŁŃŇŅÑÓÔÖŐÒŌØÕŘŚŠŞŢÞÚÛÜŰÙŪŲŮÝŹŽŻß×ΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫάέήίВГДЕЖЗ\
    ИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ";
/// The first of three.
const FIRST_OF_3: &str = "áăâäàāąåãæćčçďéěêëėèēęęģíîïìīįķĺļŕźΰαβγδεζηθικλμνξοабвгдежзийклмноп";
/// The first of four.
const FIRST_OF_4: &str = "đðğóšπσру";
/// What a later byte looks like, a lost no-break space included.
const CONTINUATION: &str = "\
    \u{80}-¿ ĄÆĽŁØŖŚŠŞŤŸŹŽŻŒąæƒľłøŗśšşťźžżœˆˇ˘˛˜˝΄΅ΆΈΉΊΌΎΏЁЂЃЄЅІЇЈЉЊЋЌЎЏёђѓєѕіїјљњћќўџҐґ–—―‘’‚“”„†‡•…‰‹›\
    €№™";
/// The same without characters that also stand alone.
const CONTINUATION_STRICT: &str = "\
    \u{80}-¿ĄÆĽŁØŖŚŠŞŤŸŹŽŻŒąæƒľłøŗśšşťźžżœˆˇ˘˛˜˝΄΅ΆΈΉΊΌΎΏЁЂЃЄЅІЇЈЉЊЋЌЎЏёђѓєѕіїјљњћќўџҐґ†‡‰‹›€№™";

/// A pattern of this module, which is known to be valid.
pub(super) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the program's own patterns are valid")
}

fn byte_pattern(alternatives: &[&str]) -> bytes::Regex {
    bytes::Regex::new(&format!("(?-u){}", alternatives.join("|"))).expect("the program's own patterns are valid")
}

/// Neighbours that no language writes.
static BAD_NEIGHBOURS: LazyLock<Regex> = LazyLock::new(|| {
    let accented = format!("{LOWER_ACCENTED}{UPPER_ACCENTED}");
    let signs = format!("{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}{NUMERIC}{LAW}");
    let around_faces = format!("{COMMON}{CURRENCY}{BAD}{NUMERIC}{START_PUNCTUATION}ŸŠ®°µ»");
    // Python's ideas of white space and of a word's characters.
    let (space, word) = (r"[\s\x1c-\x1f]", r"[\p{L}\p{N}_]");
    let alternatives = [
        format!("[{C1}]"),
        format!("[{BAD}{accented}{BOX}{signs}][{BAD}]"),
        format!("[a-zA-Z][{LOWER_COMMON}{UPPER_COMMON}][{BAD}]"),
        format!("[{BAD}][{accented}{BOX}{signs}]"),
        format!("[{LOWER_ACCENTED}{LOWER_COMMON}{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}][{UPPER_ACCENTED}]"),
        format!("[{BOX}{END_PUNCTUATION}{CURRENCY}{NUMERIC}][{LOWER_ACCENTED}]"),
        format!("[{LOWER_ACCENTED}{BOX}{END_PUNCTUATION}][{CURRENCY}]"),
        format!("{space}[{UPPER_ACCENTED}][{CURRENCY}]"),
        format!("[{UPPER_ACCENTED}{BOX}][{NUMERIC}{LAW}]"),
        format!("[{accented}{BOX}{CURRENCY}{END_PUNCTUATION}][{START_PUNCTUATION}][{NUMERIC}]"),
        format!("[{accented}{CURRENCY}{NUMERIC}{BOX}{LAW}][{END_PUNCTUATION}][{START_PUNCTUATION}]"),
        format!("[{CURRENCY}{NUMERIC}{BOX}][{START_PUNCTUATION}]"),
        format!("[a-z][{UPPER_ACCENTED}][{START_PUNCTUATION}{CURRENCY}]"),
        format!("[{BOX}][{KAOMOJI}]"),
        format!("[{accented}{CURRENCY}{NUMERIC}{START_PUNCTUATION}{END_PUNCTUATION}{LAW}][{BOX}]"),
        format!("[{BOX}][{END_PUNCTUATION}]"),
        format!("[{accented}][{START_PUNCTUATION}{END_PUNCTUATION}]{word}"),
        // The ligature without a letter after it, and degrees of a capital.
        "[Œœ][^A-Za-z]".to_owned(),
        format!("[{UPPER_ACCENTED}]°"),
        // Pairs of windows-1252 that the rules above leave out.
        format!("[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»{START_PUNCTUATION}{END_PUNCTUATION}–—´]"),
        "×[²³]".to_owned(),
        // Arabic in windows-1252, which takes four characters to be sure of; scripts of South Asia.
        format!("[ØÙ][{around_faces}][ØÙ][{around_faces}]"),
        "à[²µ¹¼½¾]".to_owned(),
        // Mac OS Roman.
        "√[±∂†≠®™´≤≥¥µø]|≈[°¢]|‚Ä[ìîïòôúùû†°¢π]|‚[âó][àä°ê]".to_owned(),
        // Windows-1251: punctuation, Latin-1 and Cyrillic, and either of them twice over.
        "вЂ".to_owned(),
        format!("[ВГРС][{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°µ][ВГРС]"),
        "ГўВЂВ.[A-Za-z ]".to_owned(),
        // Letters a with accents and the no-break space in windows-1252.
        format!("Ã[\u{a0}¡]|[a-z]{space}?[ÃÂ][ ]|^[ÃÂ][ ]"),
        format!("[a-z.,?!{END_PUNCTUATION}]Â[ {START_PUNCTUATION}{END_PUNCTUATION}]"),
        // Windows-1253: punctuation, Latin-1 and Greek. Windows-1257: punctuation.
        "β€[™\u{a0}Ά\u{ad}®°]".to_owned(),
        format!("[ΒΓΞΟ][{C1}{BAD}{START_PUNCTUATION}{END_PUNCTUATION}{CURRENCY}°][ΒΓΞΟ]"),
        "ā€".to_owned(),
    ];
    pattern(&alternatives.join("|"))
});

/// Runs of characters that look like UTF-8 in some encoding, whichever.
static LOOKS_LIKE_UTF8: LazyLock<Regex> = LazyLock::new(|| {
    let later = format!("[{CONTINUATION}]");
    pattern(&format!("(?:[{FIRST_OF_2}]{later}|[{FIRST_OF_3}]{later}{{2}}|[{FIRST_OF_4}]{later}{{3}})+"))
});

/// UTF-8 with a space where a no-break space (byte A0) belongs.
static LOST_A0: LazyLock<bytes::Regex> = LazyLock::new(|| {
    byte_pattern(&[
        r"[\xc2\xc3\xc5\xce\xd0\xd9] ",
        r"[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]",
        r"[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] ",
        r"\xf0 [\x80-\xbf][\x80-\xbf]",
        r"\xf0[\x80-\xbf] [\x80-\xbf]",
        r"\xf0[\x80-\xbf][\x80-\xbf] ",
    ])
});

/// UTF-8 and CESU-8 in which a byte was lost: 1A stands for it, or one question mark.
static LOST_BYTE: LazyLock<bytes::Regex> = LazyLock::new(|| {
    byte_pattern(&[
        r"[\xc2-\xdf]\x1a",
        r"[\xc2-\xc3]\?",
        r"\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]",
        r"\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]",
        r"[\xe0-\xef][\x1a?][\x1a\x80-\xbf]",
        r"[\xe0-\xef][\x1a\x80-\xbf][\x1a?]",
        r"[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]",
        r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]",
        r"[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]",
        r"\x1a",
    ])
});

/// Reads a text again until it is right, or as right as it gets (`ftfy.fix_encoding`).
pub(super) fn fix_encoding(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    while let Some(next) = fix_once(&text) {
        text = Cow::Owned(next);
    }
    text.into_owned()
}

/// The character that a control character of the upper half (C1) was meant to be, as browsers read it.
pub(super) fn without_c1(c: char) -> char {
    match u8::try_from(c) {
        Ok(byte @ 0x80..=0x9f) => windows_1252(byte),
        _ => c,
    }
}

fn is_c1(c: char) -> bool {
    ('\u{80}'..='\u{9f}').contains(&c)
}

/// One reading; `None` when it would change nothing.
fn fix_once(text: &str) -> Option<String> {
    if text.is_ascii() || !BAD_NEIGHBOURS.is_match(text) {
        return None;
    }
    let changed = |fixed: &String| fixed != text;
    for page in &CODE_PAGES {
        let Some(mut bytes) = page.encode(text) else { continue };
        // In Mac OS Roman it would take a dash and a space for a letter.
        if page.kind != Kind::MacRoman && LOST_A0.is_match(&bytes) {
            bytes = restore_a0(&bytes);
        }
        if page.lossy {
            bytes = LOST_BYTE.replace_all(&bytes, "\u{fffd}".as_bytes()).into_owned();
        }
        if let Some(fixed) = decode_utf8(&bytes) {
            return Some(fixed).filter(changed);
        }
    }
    // Not one encoding throughout, but parts of the text may be.
    if let Some(fixed) = fix_parts(text).filter(changed) {
        return Some(fixed);
    }
    // Latin-1 that has no C1 controls is as it should be; with them it is windows-1252.
    text.contains(is_c1).then(|| text.chars().map(without_c1).collect()).filter(changed)
}

/// Puts no-break spaces back. A lone byte C3 and a space is the word `à`, which keeps its space, but for the
/// beginnings of Portuguese words that are contractions with it.
fn restore_a0(bytes: &[u8]) -> Vec<u8> {
    let mut words = Vec::with_capacity(bytes.len());
    for (i, &byte) in bytes.iter().enumerate() {
        words.push(byte);
        if let Some(after) = bytes[i..].strip_prefix(b"\xc3 ") {
            let contractions: [&[u8]; 5] = [b" ", b"quele", b"quela", b"quilo", b"s "];
            if !contractions.iter().any(|start| after.starts_with(start)) {
                words.push(0xa0);
            }
        }
    }
    let spaces_to_a0 = |found: &bytes::Captures| -> Vec<u8> {
        found[0].iter().map(|&byte| if byte == b' ' { 0xa0 } else { byte }).collect()
    };
    LOST_A0.replace_all(&words, spaces_to_a0).into_owned()
}

/// UTF-8, where characters above U+FFFF may also be two surrogates of three bytes (CESU-8) and zero two bytes (Java).
fn decode_utf8(bytes: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                out.push_str(valid);
                return Some(out);
            }
            Err(error) => {
                let (valid, wrong) = rest.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(valid).ok()?);
                let (character, used) = match *wrong {
                    [0xc0, 0x80, ..] => ('\0', 2),
                    [0xed, a @ 0xa0..=0xaf, b @ 0x80..=0xbf, 0xed, c @ 0xb0..=0xbf, d @ 0x80..=0xbf, ..] => {
                        let [a, b, c, d] = [a & 15, b & 63, c & 15, d & 63].map(u32::from);
                        (char::from_u32(0x1_0000 + (a << 16) + (b << 10) + (c << 6) + d)?, 6)
                    }
                    _ => return None,
                };
                out.push(character);
                rest = &wrong[used..];
            }
        }
    }
}

/// Reads every part again that looks like UTF-8 on its own; `None` when there is no such part.
fn fix_parts(text: &str) -> Option<String> {
    let strict = |c: char| CONTINUATION_STRICT_SET.is_match(c.encode_utf8(&mut [0; 4]));
    let (mut out, mut done, mut from) = (String::new(), 0, 0);
    let mut any = false;
    while let Some(found) = LOOKS_LIKE_UTF8.find_at(text, from) {
        // After such a character a few would be fixed in the middle of a longer garble, and make it worse.
        if text[..found.start()].ends_with(strict) {
            from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        any = true;
        out.push_str(&text[done..found.start()]);
        let part = found.as_str();
        if part.len() < text.len() && BAD_NEIGHBOURS.is_match(part) {
            out.push_str(&fix_encoding(part));
        } else {
            out.push_str(part);
        }
        (done, from) = (found.end(), found.end());
    }
    out.push_str(&text[done..]);
    any.then_some(out)
}

static CONTINUATION_STRICT_SET: LazyLock<Regex> = LazyLock::new(|| pattern(&format!("[{CONTINUATION_STRICT}]")));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mojibake_is_read_again() {
        // Each checked with ftfy 6.3's fix_encoding.
        let cases = [
            ("âœ” No problems", "✔ No problems"),
            ("sÃ³ voilÃ le travail", "só voilà le travail"),
            ("â€œ like this â€�", "“ like this �"),
            ("Ã la mode, fÃ cil", "à la mode, fà cil"),
            ("P&amp;C â\u{80}\u{99}s", "P&amp;C ’s"),
            ("í\u{a0}½í¸\u{80}", "😀"),
            ("ÎµÎ»Î»Î·Î½Î¹ÎºÎ¬", "ελληνικά"),
            ("naïve café — 50 €", "naïve café — 50 €"),
            ("中文 Ã© 中文", "中文 é 中文"),
            ("РїСЂРёРІРµС‚", "привет"),
            ("中\u{81}\u{91}", "中\u{81}‘"),
        ];
        for (wrong, right) in cases {
            assert_eq!(fix_encoding(wrong), right, "{wrong}");
        }
    }

    #[test]
    fn utf8_has_its_variants_but_no_lone_surrogates() {
        assert_eq!(decode_utf8(b"a\xc0\x80b").as_deref(), Some("a\0b"));
        assert_eq!(decode_utf8(b"\xed\xa0\xbd\xed\xb8\x80!").as_deref(), Some("😀!"));
        for wrong in [&b"\xed\xa0\xbd"[..], b"\xc0\x81", b"\xff", b"\xed\xb8\x80\xed\xa0\xbd", b"\xe2\x80"] {
            assert_eq!(decode_utf8(wrong), None);
        }
    }
}
