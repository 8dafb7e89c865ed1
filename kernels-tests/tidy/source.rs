//! Source text without its comments and strings, and the paths in it.

use std::collections::BTreeSet;

/// Rust source with every comment blanked out, and the insides of every string and character literal; lines keep their
/// numbers.
pub fn code(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    // Copies `count` characters if they are code, else as spaces.
    let put = |out: &mut String, i: &mut usize, count: usize, is_code: bool| {
        for &c in chars.iter().skip(*i).take(count) {
            out.push(if is_code || c == '\n' { c } else { ' ' });
        }
        *i += count;
    };
    let at = |i: usize, wanted: &str| wanted.chars().enumerate().all(|(n, c)| chars.get(i + n) == Some(&c));
    while i < chars.len() {
        if at(i, "//") {
            let end = (i..chars.len()).find(|&j| chars[j] == '\n').unwrap_or(chars.len());
            let count = end - i;
            put(&mut out, &mut i, count, false);
        } else if at(i, "/*") {
            let (mut depth, mut j) = (1, i + 2);
            while depth > 0 && j < chars.len() {
                let step = if at(j, "/*") {
                    depth += 1;
                    2
                } else if at(j, "*/") {
                    depth -= 1;
                    2
                } else {
                    1
                };
                j += step;
            }
            let count = j - i;
            put(&mut out, &mut i, count, false);
        } else if let Some(hashes) = raw_string(&chars, i) {
            let closing = format!("\"{}", "#".repeat(hashes));
            let start = i + 2 + hashes;
            let end = (start..chars.len()).find(|&j| at(j, &closing)).unwrap_or(chars.len());
            put(&mut out, &mut i, start - (start - 2 - hashes), true);
            let count = end - i;
            put(&mut out, &mut i, count, false);
            put(&mut out, &mut i, closing.len(), true);
        } else if chars[i] == '"' {
            let mut end = i + 1;
            while end < chars.len() && chars[end] != '"' {
                end += if chars[end] == '\\' { 2 } else { 1 };
            }
            put(&mut out, &mut i, 1, true);
            let count = end.saturating_sub(i);
            put(&mut out, &mut i, count, false);
            put(&mut out, &mut i, 1, true);
        } else if chars[i] == '\'' && (chars.get(i + 1) == Some(&'\\') || chars.get(i + 2) == Some(&'\'')) {
            // A character, not a lifetime.
            let from = if chars.get(i + 1) == Some(&'\\') { i + 3 } else { i + 2 };
            let end = (from..chars.len()).find(|&j| chars[j] == '\'').unwrap_or(chars.len());
            let count = end + 1 - i;
            put(&mut out, &mut i, count, false);
        } else {
            put(&mut out, &mut i, 1, true);
        }
    }
    out
}

/// How many `#` a raw string that begins here has.
fn raw_string(chars: &[char], i: usize) -> Option<usize> {
    let inside_name = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_') && chars[i - 1] != 'b';
    if chars[i] != 'r' || inside_name {
        return None;
    }
    let hashes = chars[i + 1..].iter().take_while(|&&c| c == '#').count();
    (chars.get(i + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The names that follow `crate::` in code, those of a group included: modules of the crate, or what its root exports.
pub fn names_of_crate(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let inside_name = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        let rest = &code[at + path.len()..];
        if inside_name {
            continue;
        }
        match rest.strip_prefix('{') {
            None => names.extend(first_name(rest)),
            Some(group) => {
                let (mut depth, mut first) = (0, true);
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => first = true,
                        c if first && (c.is_alphabetic() || c == '_') => {
                            names.extend(first_name(&group[i..]));
                            first = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// Whether a word stands in code on its own.
pub fn has_word(code: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part_of_name) && !code[at + word.len()..].starts_with(part_of_name))
}

#[test]
fn comments_and_strings_are_not_code() {
    let text = "use a; // wgpu\n/* wgpu /* wgpu */ wgpu */ let s = \"wgpu \\\" wgpu\"; let r = r#\"wgpu \" wgpu\"#;\n\
                let c = '\"'; let q = '\\''; fn f<'a>(x: &'a str) {} let b = br\"wgpu\"; end";
    let code = code(text);
    assert!(!has_word(&code, "wgpu"), "{code}");
    assert!(has_word(&code, "end") && code.contains("fn f<'a>(x: &'a str)"), "{code}");
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(has_word("use wgpu::Device", "wgpu") && !has_word("wgpu_cooperative_matrix", "wgpu"));
}

#[test]
fn paths_of_the_crate_are_found() {
    let code = "use crate::gpu::{Gpu, Tensor}; use crate::{Error, graph::{Var, plan}, tensor::DType}; \
                fn f(_: crate::nn::Linear) {} use my_crate::other;";
    let names: Vec<String> = names_of_crate(code).into_iter().collect();
    assert_eq!(names, ["Error", "gpu", "graph", "nn", "tensor"]);
}
