//! Renaming by tables that can be read in both directions.

use super::Origin;

/// How often the networks of one file repeat what only their names tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repeats {
    /// Residual blocks on a level of a VAE's encoder.
    pub encoder: usize,
    /// Residual blocks on a level of a VAE's decoder.
    pub decoder: usize,
}

/// One line of a table: a name as a file has it, and as this crate has it.
///
/// Names are dotted. `#` stands for a number, `*` at the end for everything that follows, `$e` and `$d` for the number
/// behind the last residual block of a level in a VAE's encoder and decoder ([`Repeats`]). On our side, an empty name
/// says that the tensor is of no use, `a|b|c` that it holds those below each other, and a leading `~` that dimensions of
/// one are left out in front.
pub(super) type Rule = (&'static str, &'static str);

/// What a table makes of a file's name: our names, with the piece of the tensor that each is; none for what is of no
/// use. `None` when no line fits.
pub(super) fn ours(rules: &[Rule], repeats: Repeats, name: &str) -> Option<Vec<(String, Origin)>> {
    let (found, target) = rules.iter().find_map(|&(theirs, ours)| Some((matching(theirs, repeats, name)?, ours)))?;
    if target.is_empty() {
        return Some(Vec::new());
    }
    let squeeze = target.starts_with('~');
    let parts: Vec<&str> = target.trim_start_matches('~').split('|').collect();
    let count = parts.len();
    let piece = |(i, part): (usize, &&str)| {
        let origin = Origin { name: name.to_owned(), part: (count > 1).then_some((i, count)), squeeze };
        (filled(part, repeats, &found), origin)
    };
    Some(parts.iter().enumerate().map(piece).collect())
}

/// What a file calls one of our tensors, and which piece of that tensor ours is, of how many. `None` when no line fits.
pub(super) fn theirs(rules: &[Rule], repeats: Repeats, name: &str) -> Option<(String, Option<(usize, usize)>)> {
    rules.iter().find_map(|&(theirs, ours)| {
        let parts: Vec<&str> = ours.trim_start_matches('~').split('|').collect();
        let fit = |(i, part): (usize, &&str)| {
            let found = matching(part, repeats, name)?;
            Some((filled(theirs, repeats, &found), (parts.len() > 1).then_some((i, parts.len()))))
        };
        parts.iter().enumerate().find_map(fit)
    })
}

/// What the wildcards of a template stand for in a name, in their order.
fn matching<'n>(template: &str, repeats: Repeats, name: &'n str) -> Option<Vec<&'n str>> {
    if template.is_empty() {
        return None;
    }
    let mut found = Vec::new();
    let mut rest = Some(name);
    for piece in template.split('.') {
        let text = rest?;
        if piece == "*" {
            found.push(text);
            return (!text.is_empty()).then_some(found);
        }
        let (segment, tail) = match text.split_once('.') {
            Some((segment, tail)) => (segment, Some(tail)),
            None => (text, None),
        };
        let fits = match piece {
            "#" => segment.parse::<u32>().is_ok_and(|n| n.to_string() == segment),
            "$e" => segment == repeats.encoder.to_string(),
            "$d" => segment == repeats.decoder.to_string(),
            literal => segment == literal,
        };
        if !fits {
            return None;
        }
        if piece == "#" {
            found.push(segment);
        }
        rest = tail;
    }
    rest.is_none().then_some(found)
}

/// A template with what its wildcards stand for.
fn filled(template: &str, repeats: Repeats, found: &[&str]) -> String {
    let mut found = found.iter();
    let piece = |piece: &str| match piece {
        "#" | "*" => found.next().copied().unwrap_or_default().to_owned(),
        "$e" => repeats.encoder.to_string(),
        "$d" => repeats.decoder.to_string(),
        literal => literal.to_owned(),
    };
    template.split('.').map(piece).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &[Rule] = &[
        ("blocks.#.q.*", "layers.#.to_q.*"),
        ("blocks.#.qkv.*", "layers.#.q.*|layers.#.k.*|layers.#.v.*"),
        ("up.#.up.$d.resample.*", "ups.#.resample.*"),
        ("cls", "~class"),
        ("text.*", ""),
    ];
    const REPEATS: Repeats = Repeats { encoder: 1, decoder: 3 };

    fn names(name: &str) -> Option<Vec<String>> {
        Some(ours(RULES, REPEATS, name)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn wildcards_stand_for_the_same_on_both_sides() {
        assert_eq!(names("blocks.12.q.weight"), Some(vec!["layers.12.to_q.weight".into()]));
        assert_eq!(names("up.1.up.3.resample.1.bias"), Some(vec!["ups.1.resample.1.bias".into()]));
        assert_eq!(names("text.a.b"), Some(vec![]));
        for none in [
            "blocks.x.q.weight",
            "blocks.01.q.weight",
            "blocks.1.q",
            "blocks.1.q.",
            "up.1.up.2.resample.1",
            "cls.x",
            "",
        ] {
            assert_eq!(names(none), None, "{none}");
        }
        for name in ["blocks.12.q.weight", "up.1.up.3.resample.1.bias", "cls"] {
            let [(ours, origin)] = &ours(RULES, REPEATS, name).expect("known")[..] else { panic!("{name}: one piece") };
            assert_eq!(theirs(RULES, REPEATS, ours), Some((name.to_owned(), None)));
            assert_eq!((origin.name.as_str(), origin.squeeze), (name, name == "cls"));
        }
        assert_eq!(theirs(RULES, REPEATS, "nothing"), None);
    }

    #[test]
    fn fused_tensors_are_pieces_below_each_other() {
        let pieces = ours(RULES, REPEATS, "blocks.0.qkv.bias").expect("known");
        let parts: Vec<_> = pieces.iter().map(|(name, origin)| (name.as_str(), origin.part)).collect();
        let expected =
            [("layers.0.q.bias", Some((0, 3))), ("layers.0.k.bias", Some((1, 3))), ("layers.0.v.bias", Some((2, 3)))];
        assert_eq!(parts, expected);
        assert_eq!(theirs(RULES, REPEATS, "layers.0.k.bias"), Some(("blocks.0.qkv.bias".into(), Some((1, 3)))));
    }
}
