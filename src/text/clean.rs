//! The cleaning that diffusers' Wan pipelines give a prompt.

use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use super::{html, mojibake};

/// `prompt_clean` of diffusers' Wan pipelines: ftfy 6.3's `fix_text` with its default settings, HTML entities resolved
/// twice, every run of white space one space, none at the ends.
///
/// What `fix_text` does, as its documentation says: it resolves unambiguous HTML entities unless there is a `<`,
/// repairs text that was decoded with the wrong encoding (mojibake), takes apart Latin ligatures, gives full-width and
/// half-width characters their usual width, straightens quotes, unifies line breaks, removes terminal escapes and
/// control characters, and composes accents (NFC), until nothing changes any more.
pub fn prompt_clean(prompt: &str) -> String {
    let text = html::unescape(&html::unescape(&fix_text(prompt)));
    text.split(is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Python's `str.isspace`: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The escapes that colour text in a terminal.
static TERMINAL_ESCAPE: LazyLock<Regex> = LazyLock::new(|| mojibake::pattern(r"\x1b\[[\d;]*[a-zA-Z]"));

/// Line by line, as `ftfy.fix_text`: once a line has a `<`, no later line has its entities resolved either.
fn fix_text(text: &str) -> String {
    let mut entities = true;
    text.split_inclusive('\n')
        .map(|line| {
            entities &= !line.contains('<');
            fix_line(line, entities)
        })
        .collect()
}

fn fix_line(line: &str, entities: bool) -> String {
    let mut text = line.to_owned();
    loop {
        let mut next = if entities { html::unescape_closed(&text) } else { text.clone() };
        next = mojibake::fix_encoding(&next);
        next = next.chars().map(mojibake::without_c1).flat_map(Spelled::new).collect();
        next = next.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n");
        next = TERMINAL_ESCAPE.replace_all(&next, "").into_owned();
        next.retain(|c| !is_control(c));
        if !is_nfc(&next) {
            next = next.nfc().collect();
        }
        if next == text {
            return text;
        }
        text = next;
    }
}

/// A character's usual spelling: ligatures apart, width usual, quotes straight.
enum Spelled {
    One(Option<char>),
    Letters(std::str::Chars<'static>),
    Width(std::vec::IntoIter<char>),
}

impl Spelled {
    fn new(c: char) -> Self {
        if let Some(letters) = ligature(c) {
            return Self::Letters(letters.chars());
        }
        match c {
            '\u{3000}' => Self::One(Some(' ')),
            '\u{ff01}'..='\u{ffef}' => {
                Self::Width(std::iter::once(c).nfkc().map(straight).collect::<Vec<_>>().into_iter())
            }
            _ => Self::One(Some(straight(c))),
        }
    }
}

impl Iterator for Spelled {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        match self {
            Self::One(c) => c.take(),
            Self::Letters(letters) => letters.next(),
            Self::Width(chars) => chars.next(),
        }
    }
}

fn straight(c: char) -> char {
    match c {
        '\u{201c}'..='\u{201f}' => '"',
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => '\'',
        _ => c,
    }
}

/// The letters of a Latin ligature or digraph. That of U+0149 begins with a quote, straightened here.
fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

/// Characters without a visible effect that nobody means to write.
fn is_control(c: char) -> bool {
    matches!(c,
        '\0'..='\u{8}' | '\u{b}' | '\u{e}'..='\u{1f}' | '\u{7f}' | '\u{206a}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffc}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_pythons() {
        assert_eq!(prompt_clean(" a\u{a0}b\u{2003}\u{3000} c\n\td\u{85}e "), "a b c d…e");
        assert_eq!(prompt_clean("a\u{1c}b"), "ab", "a control character goes before white space is looked at");
        assert!(is_space('\u{1f}') && is_space('\u{85}') && !is_space('\u{200b}'));
    }

    #[test]
    fn a_less_than_sign_keeps_the_entities_of_later_lines_for_the_second_pass() {
        assert_eq!(fix_text("&amp;\n<\n&amp;"), "&\n<\n&amp;");
        assert_eq!(prompt_clean("< &amp;amp;amp;"), "< &amp;");
        assert_eq!(prompt_clean("&amp;amp;amp;"), "&");
    }

    #[test]
    fn terminal_escapes_go_and_other_brackets_stay() {
        assert_eq!(prompt_clean("\u{1b}[36;44mblue\u{1b}[0m [1m"), "blue [1m");
        assert_eq!(prompt_clean("\u{1b}[36"), "[36");
    }

    #[test]
    fn cleaning_twice_changes_nothing_more() {
        for text in ["ﬂuﬃest ŉ", "ＬＯＵＤ　ＮＯＩＳＥＳ", "Ｕﾀｰﾝ", "“here’s a test”", "q\u{307}\u{323}", "가각", ""]
        {
            let once = prompt_clean(text);
            assert_eq!(prompt_clean(&once), once);
        }
    }
}
