//! Files that appear under their name only when complete.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Pattern;
use crate::error::{Error, Result};
use crate::temporary;

/// A file being written beside its target. Dropped, it is removed; [`StagedFile::commit`] moves it to its target.
#[derive(Debug)]
pub(super) struct StagedFile {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// Makes the temporary sibling of `target` and opens it for writing.
    pub(super) fn create(target: &Path) -> Result<(Self, File)> {
        let (temporary, file) = temporary::create_beside(target).map_err(|e| Error::io(target, e))?;
        Ok((Self { temporary, target: target.to_path_buf(), committed: false }, file))
    }

    /// Moves the file to its target, over what may be there, and removes what killed runs left beside it. The file must be
    /// closed.
    pub(super) fn commit(mut self) -> Result<()> {
        self.settle()?;
        temporary::sweep([&*self.target]);
        Ok(())
    }

    /// Moves the file to its target.
    fn settle(&mut self) -> Result<()> {
        // Some file systems report a full disk no sooner than this.
        let synced = File::options().write(true).open(&self.temporary).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(&self.temporary, &self.target)).map_err(|e| Error::io(&self.target, e))?;
        self.committed = true;
        Ok(())
    }

    /// Takes the target away again, when the set it belongs to cannot be completed.
    fn withdraw(&mut self) {
        if self.committed {
            // Best effort on the way out of an error that is being reported.
            let _ = fs::remove_file(&self.target);
        }
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            // Best effort: there is nobody to tell.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// The pictures of a frame folder being written. Dropped uncommitted, the pictures and a folder made for them go.
#[derive(Debug)]
pub(super) struct StagedFolder {
    pattern: Pattern,
    // Before `_made`: the pictures must be gone for the folder to go.
    files: Vec<StagedFile>,
    made: MadeFolder,
}

/// A folder that is removed on drop, when it was made here and is empty.
#[derive(Debug)]
struct MadeFolder(Option<PathBuf>);

impl Drop for MadeFolder {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            // Fails when something else was put there, and then the folder is rightly kept.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl StagedFolder {
    /// Makes the folder, when absent; its parent must exist.
    pub(super) fn create(pattern: &Pattern) -> Result<Self> {
        let folder = here_if_empty(pattern.folder());
        let made = match fs::create_dir(folder) {
            Ok(()) => Some(folder.to_path_buf()),
            Err(_) if folder.is_dir() => None,
            Err(e) => return Err(Error::io(folder, e)),
        };
        Ok(Self { pattern: pattern.clone(), files: Vec::new(), made: MadeFolder(made) })
    }

    /// Opens the next picture for writing.
    pub(super) fn next(&mut self) -> Result<File> {
        let number = u32::try_from(self.files.len() + 1).unwrap_or(u32::MAX);
        let (staged, file) = StagedFile::create(&self.pattern.path(number))?;
        self.files.push(staged);
        Ok(file)
    }

    /// Gives all pictures their names, or none.
    pub(super) fn commit(mut self) -> Result<()> {
        let renamed = self.files.iter_mut().try_for_each(StagedFile::settle);
        if renamed.is_err() {
            self.files.iter_mut().for_each(StagedFile::withdraw);
        } else {
            temporary::sweep(self.files.iter().map(|file| &*file.target));
            self.made.0 = None;
        }
        renamed
    }
}

/// The folder, with the working directory under its name.
fn here_if_empty(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

/// Whether the output could be written: to be asked before a long run. It tries, by making and removing a temporary
/// file; an existing output is left as it is. For a pattern such as `frames/%04d.png` the folder may be absent, but
/// not its parent.
///
/// # Errors
/// [`Error::Request`] when the path names a folder, its own folder is missing or is a file, or the output is
/// read-only; [`Error::Io`] when the folder cannot be written to.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let refuse = |reason: String| Err(Error::request("--out", reason));
    if path.file_name().is_none() || path.to_string_lossy().ends_with(std::path::is_separator) {
        return refuse(format!("`{}` names no file", path.display()));
    }
    let mut folder = here_if_empty(path.parent().unwrap_or(Path::new("")));
    if Pattern::parse(path).is_some() {
        if !folder.exists() {
            // It will be made, so what counts is where.
            folder = here_if_empty(folder.parent().unwrap_or(Path::new("")));
        }
    } else if let Ok(found) = fs::metadata(path) {
        if found.is_dir() {
            return refuse(format!("`{}` is a folder; name a file in it", path.display()));
        }
        if found.permissions().readonly() {
            return refuse(format!("`{}` exists and is read-only", path.display()));
        }
    }
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return refuse(format!("`{}` is not a folder", folder.display())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return refuse(format!("the folder `{}` does not exist; make it first", folder.display()));
        }
        Err(e) => return Err(Error::io(folder, e)),
    }
    let probe = folder.join(path.file_name().unwrap_or_default());
    StagedFile::create(&probe).map(drop)
}
