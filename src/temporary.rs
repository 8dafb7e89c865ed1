//! Files that take their place when they are complete: the names they bear meanwhile, and what killed processes left.
//!
//! What is to be `NAME` is written as `.NAME.PROCESS-COUNT.part` beside it. Two runs that write the same file never write
//! into each other's; the one that ends last has the name.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a name that its temporary file keeps. Some encrypted folders take names of 143 bytes, others of 255.
const STEM: usize = 100;

/// Makes a file beside `path`, to be renamed to it.
pub(crate) fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let stem = stem(path).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this names no file"))?;
    // A name that is too long shall fail now, and not when it is given to the complete file.
    if let Err(error) = fs::symlink_metadata(path)
        && error.kind() == io::ErrorKind::InvalidFilename
    {
        return Err(error);
    }
    loop {
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{stem}.{}-{count}.part", std::process::id()));
        match File::options().write(true).create_new(true).open(&temporary) {
            // This process counts on, so it is of one that had the same number, as the only one in a container has. It is
            // not written to: should that one live in another container, it is told by its rename, which fails.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(fs::remove_file(&temporary)),
            opened => return opened.map(|file| (temporary, file)),
        }
    }
}

/// Removes what processes that were killed left beside files of one folder, which have just taken their places.
///
/// One on another machine cannot be seen to live; it is told by its rename, which fails.
pub(crate) fn sweep<'a>(paths: impl IntoIterator<Item = &'a Path>) {
    let mut paths = paths.into_iter().peekable();
    let folder = paths.peek().and_then(|path| path.parent()).filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).to_path_buf();
    let stems: std::collections::BTreeSet<String> = paths.filter_map(stem).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let dead = name.to_str().and_then(parse).is_some_and(|(stem, process)| stems.contains(stem) && !lives(process));
        if dead {
            // Best effort: what cannot be removed is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What the temporary files of a file are called after: its name, or as much of it as leaves room for the rest.
fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    let end = (0..=STEM.min(name.len())).rev().find(|&at| name.is_char_boundary(at))?;
    Some(name[..end].to_owned())
}

/// The stem and the process of a temporary file's name.
fn parse(name: &str) -> Option<(&str, u32)> {
    let (stem, numbers) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    let (process, count) = numbers.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(process) && digits(count)).then(|| Some((stem, process.parse().ok()?))).flatten()
}

/// Whether there is such a process on this machine.
#[cfg(unix)]
fn lives(process: u32) -> bool {
    let Ok(process) = libc::pid_t::try_from(process) else { return false };
    // SAFETY: nothing is passed by reference, and signal 0 is sent to nobody: it only asks.
    let asked = unsafe { libc::kill(process, 0) };
    asked == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// Whether there is such a process: only this one is known to live here. Another that does keeps its file open, or is told
/// by its rename.
#[cfg(not(unix))]
fn lives(process: u32) -> bool {
    process == std::process::id()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of a process that was, and is no more.
    #[cfg(unix)]
    fn dead() -> u32 {
        let mut child = std::process::Command::new("true").spawn().expect("a process");
        let number = child.id();
        child.wait().expect("ended");
        number
    }

    #[cfg(unix)]
    #[test]
    fn what_the_dead_left_goes_and_what_the_living_write_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let (a, long) = (folder.path().join("a.mp4"), folder.path().join("ab".repeat(125)));
        let (dead, short) = (dead(), &"ab".repeat(STEM / 2));
        let gone =
            [format!(".a.mp4.{dead}-0.part"), format!(".{short}.{dead}-7.part"), ".a.mp4.4294967295-1.part".into()];
        let stay = [
            // The first process lives always, the parent of this one as long as it does.
            ".a.mp4.1-0.part".to_owned(),
            format!(".a.mp4.{}-0.part", std::os::unix::process::parent_id()),
            format!(".b.mp4.{dead}-0.part"),
            format!("a.mp4.{dead}-0.part"),
            format!(".a.mp4.{dead}-x.part"),
            format!(".a.mp4.{dead}.part"),
            ".a.mp4.part".to_owned(),
        ];
        for name in gone.iter().chain(&stay) {
            fs::write(folder.path().join(name), "half").expect("written");
        }
        let (mine, _) = create_beside(&a).expect("made");
        sweep([&*a, &*long]);
        assert!(gone.iter().all(|name| !folder.path().join(name).exists()));
        assert!(stay.iter().all(|name| folder.path().join(name).exists()) && mine.exists());
    }

    #[test]
    fn names_of_any_length_that_the_folder_takes_get_files_of_their_own() {
        let folder = tempfile::tempdir().expect("a folder");
        // 255 bytes each; é and 蓝 lie across the cut of some.
        for name in ["a".repeat(255), format!("a{}", "é".repeat(127)), "蓝".repeat(85)] {
            let path = folder.path().join(name);
            let made = [create_beside(&path), create_beside(&path)].map(|made| made.expect("made").0);
            assert!(made[0] != made[1] && made.iter().all(|made| made.exists()), "{made:?}");
            fs::rename(&made[0], &path).expect("renamed");
            assert!(path.exists());
        }
        let error = create_beside(&folder.path().join("a".repeat(256))).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
        assert_eq!(create_beside(Path::new("..")).expect_err("no name").kind(), io::ErrorKind::InvalidInput);
    }
}
