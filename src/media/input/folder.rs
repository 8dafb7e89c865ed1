//! Videos that are many pictures: numbered ones, or all of a folder.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::sniff::{Kind, open};
use crate::error::{Error, Result};
use crate::media::Pattern;

/// The pictures of a pattern: from number 0 or 1 on, with none missing.
pub(super) fn numbered(path: &Path, pattern: &Pattern) -> Result<Vec<PathBuf>> {
    let folder = if pattern.folder().as_os_str().is_empty() { Path::new(".") } else { pattern.folder() };
    let mut numbers: Vec<u32> = names(folder)?.iter().filter_map(|name| pattern.number(name.to_str()?)).collect();
    numbers.sort_unstable();
    let first = numbers.first().copied().filter(|&first| first < 2);
    let Some(first) = first else {
        let (zero, one) = (pattern.path(0), pattern.path(1));
        let reason = format!("there is neither {} nor {}; numbers start at 0 or 1", zero.display(), one.display());
        return Err(Error::media(path, reason));
    };
    if let Some((later, due)) = numbers.iter().zip(first..).find(|(number, due)| *number != due) {
        let (missing, later) = (pattern.path(due), pattern.path(*later));
        let reason = format!("{} is missing, while {} is there", missing.display(), later.display());
        return Err(Error::media(path, reason));
    }
    Ok(numbers.into_iter().map(|number| pattern.path(number)).collect())
}

/// The pictures in a folder, in natural order: `a2` before `a10`. Hidden files, folders and what is no picture are passed
/// over.
pub(super) fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for name in names(folder)? {
        let path = folder.join(&name);
        if !name.to_string_lossy().starts_with('.') && path.is_file() && is_picture(&path) {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(Error::media(folder, "holds no pictures; looked for PNG, JPEG and WebP files"));
    }
    let key = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    found.sort_by(|a, b| natural(&key(a), &key(b)));
    Ok(found)
}

/// By content or, so that a damaged one is told of and not left out, by name.
fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    matches!(extension.as_str(), "png" | "jpg" | "jpeg" | "webp")
        || open(path).is_ok_and(|file| matches!(file.kind, Kind::Png | Kind::Jpeg | Kind::WebP))
}

fn names(folder: &Path) -> Result<Vec<OsString>> {
    let io = |e| Error::io(folder, e);
    fs::read_dir(folder).map_err(io)?.map(|entry| entry.map(|entry| entry.file_name()).map_err(io)).collect()
}

/// Compares names with runs of digits as numbers; equal numbers with more leading zeros come later.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (Some(p), Some(q)) = (x.chars().next(), y.chars().next()) else {
            return x.len().cmp(&y.len()).then_with(|| a.cmp(b));
        };
        let order = if p.is_ascii_digit() && q.is_ascii_digit() {
            let (m, n) = (digits(&mut x), digits(&mut y));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            (x, y) = (&x[p.len_utf8()..], &y[q.len_utf8()..]);
            p.to_lowercase().cmp(q.to_lowercase())
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Takes the digits at the start, without leading zeros.
fn digits<'a>(text: &mut &'a str) -> &'a str {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number.trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order() {
        let sorted = ["1.png", "01.png", "2.png", "10.png", "a.png", "A1.png", "a2.png", "a10.png", "b", "蓝1", "蓝12"];
        let mut names = sorted;
        names.reverse();
        names.sort_by(|a, b| natural(a, b));
        // Equal but for zeros: the order of their bytes.
        assert_eq!(
            names,
            ["01.png", "1.png", "2.png", "10.png", "a.png", "A1.png", "a2.png", "a10.png", "b", "蓝1", "蓝12"]
        );
        let long = "9".repeat(400);
        assert_eq!(natural(&format!("{long}8"), &format!("{long}9")), Ordering::Less);
    }
}
