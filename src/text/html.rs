//! HTML character references.

use entities::ENTITIES;

/// The longest name that is looked for, without its semicolon.
const LONGEST: usize = 32;

/// Python's `html.unescape`: all references of HTML 5, also those that may stand without a semicolon and then only
/// begin a word (`&notit;` is `¬it;`).
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        rest = match reference(after, &mut out) {
            Some(used) => &after[used..],
            None => {
                out.push('&');
                after
            }
        };
    }
    out.push_str(rest);
    out
}

/// Resolves the reference that `text`, which follows an ampersand, begins with: how many bytes of it are used up.
fn reference(text: &str, out: &mut String) -> Option<usize> {
    if let Some((value, used)) = number(text) {
        out.extend(code_point(value));
        return Some(used);
    }
    let ends = |c: char| matches!(c, '\t' | '\n' | '\u{c}' | ' ' | '<' | '&' | '#' | ';');
    let end = text.char_indices().take(LONGEST).find(|&(_, c)| ends(c)).map(|(i, _)| i);
    let end = end.or_else(|| text.char_indices().nth(LONGEST).map(|(i, _)| i)).unwrap_or(text.len());
    let closed = if text[end..].starts_with(';') { end + 1 } else { end };
    // The whole name, else its longest beginning that is one, of two characters at least.
    let ends = (0..=closed).rev().filter(|&i| text.is_char_boundary(i));
    ends.filter(|&i| i >= 2).find_map(|i| named(&text[..i]).map(|characters| (characters, i))).map(|(characters, i)| {
        out.push_str(characters);
        i
    })
}

/// `#10`, `#xa` and the like, with or without semicolon: the value (saturating) and the bytes used.
fn number(text: &str) -> Option<(u32, usize)> {
    let (radix, start) = match text.strip_prefix('#')? {
        hex if hex.starts_with(['x', 'X']) => (16, 2),
        _ => (10, 1),
    };
    let digits = text[start..].bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    let end = start + digits;
    let value = text[start..end].chars().filter_map(|c| c.to_digit(radix));
    let value = value.fold(0u32, |n, digit| n.saturating_mul(radix).saturating_add(digit));
    (digits > 0).then(|| (value, end + usize::from(text[end..].starts_with(';'))))
}

/// The character of a numeric reference: windows-1252 for 128 to 159, U+FFFD for what is no character, nothing for
/// what must not occur.
fn code_point(value: u32) -> Option<char> {
    match value {
        0 => Some('\u{fffd}'),
        0xd => Some('\r'),
        0x80..=0x9f => char::from_u32(value).map(super::mojibake::without_c1),
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if value <= 0x10_ffff && value & 0xfffe == 0xfffe => None,
        _ => Some(char::from_u32(value).unwrap_or('\u{fffd}')),
    }
}

/// The characters of a name, semicolon included where it has one.
fn named(name: &str) -> Option<&'static str> {
    ENTITIES.iter().find(|e| e.entity.strip_prefix('&') == Some(name)).map(|e| e.characters)
}

/// ftfy's `unescape_html`: only references with a semicolon, and also names in capitals where that is not ambiguous
/// (`&NTILDE;`).
pub(super) fn unescape_closed(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest[1..].strip_prefix('#').unwrap_or(&rest[1..]);
        let length = name.bytes().take_while(u8::is_ascii_alphanumeric).count();
        let end = rest.len() - name.len() + length + 1;
        if (1..=24).contains(&length) && name[length..].starts_with(';') {
            match closed(&rest[..end]) {
                Some(characters) => out.push_str(&characters),
                None => out.push_str(&rest[..end]),
            }
            rest = &rest[end..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// The characters of one whole reference with its ampersand and semicolon.
fn closed(reference: &str) -> Option<String> {
    if reference.starts_with("&#") {
        return Some(unescape(reference)).filter(|characters| !characters.contains(';'));
    }
    let name = &reference[1..];
    if let Some(characters) = named(name) {
        return Some(characters.to_owned());
    }
    let lower = name.to_ascii_lowercase();
    let in_capitals = name == name.to_ascii_uppercase() && unescape(reference) == reference;
    named(&lower).filter(|_| in_capitals).map(str::to_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_python_does() {
        // Each checked with Python 3.11's html.unescape.
        let cases = [
            ("&lt;tag&gt;", "<tag>"),
            ("&notit; &notin; &not", "¬it; ∉ ¬"),
            ("&unknown; & &; &a &#; &#x; &#xg;", "&unknown; & &; &a &#; &#x; &#xg;"),
            ("&#233;&#xE9&#Xe9;", "ééé"),
            ("&#0;&#128;&#129;&#xD800;&#1114112;&#99999999999;", "\u{fffd}€\u{81}\u{fffd}\u{fffd}\u{fffd}"),
            ("a&#1;b&#xfdd0;c&#xfffe;d&#x10ffff;e&#127;f", "abcdef"),
            ("&#13;&#10;", "\r\n"),
            ("&NotEqualTilde;", "≂\u{338}"),
            ("&amp&amp;&ampquot;", "&&&quot;"),
            ("&CounterClockwiseContourIntegral;", "∳"),
            ("&éamp;", "&éamp;"),
            ("&gté", ">é"),
        ];
        for (escaped, plain) in cases {
            assert_eq!(unescape(escaped), plain, "{escaped}");
        }
        assert_eq!(ENTITIES.len(), 2231);
    }

    #[test]
    fn only_closed_references_are_unambiguous() {
        // Each checked with ftfy 6.3's unescape_html.
        let cases = [
            ("P&EACUTE;REZ &ntilde; &Ntilde; &NTILDE; &nTILDE;", "PÉREZ ñ Ñ Ñ &nTILDE;"),
            ("BUNDESSTRA&SZLIG;E", "BUNDESSTRASSE"),
            ("this&not that &not; &HELLIP;", "this&not that ¬ …"),
            ("&#59; &#x3b; &#33; &#33", "&#59; &#x3b; ! &#33"),
            ("&&lt; &; &#;", "&< &; &#;"),
            ("&Jscr;ohn", "𝒥ohn"),
        ];
        for (escaped, plain) in cases {
            assert_eq!(unescape_closed(escaped), plain, "{escaped}");
        }
    }
}
