//! Writing tensors, and reading a single one back: latents and noise.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::safetensors::{METADATA, name_of};
use super::{TensorFile, clip, list};
use crate::error::{Error, Result};
use crate::temporary;
use crate::tensor::HostTensor;

/// Writes tensors to a safetensors file, whole or not at all: a file of the same name is replaced only once the new
/// one is complete. The same arguments give the same bytes.
///
/// # Errors
/// [`Error::Io`] when it cannot be written, [`Error::Tensor`] when two tensors share a name, one is called
/// `__metadata__`, is of a type that the format does not have (GGUF's blocks), or has a scale, which has to be saved as a
/// tensor of its own.
pub fn save_safetensors(
    path: impl AsRef<Path>,
    tensors: &[(&str, HostTensor)],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let path = path.as_ref();
    write(path, tensors, metadata, |content| write_whole(path, content))
}

/// The same for a file that is written again and again, each time over the last: what is no file is refused.
///
/// # Errors
/// As [`save_safetensors`].
pub fn save_checkpoint(
    path: impl AsRef<Path>,
    tensors: &[(&str, HostTensor)],
    metadata: &[(&str, &str)],
) -> Result<()> {
    let path = path.as_ref();
    write(path, tensors, metadata, |content| write_again(path, content))
}

/// What a file has, given to `put`, which knows how to put it in its place.
fn write(
    path: &Path,
    tensors: &[(&str, HostTensor)],
    metadata: &[(&str, &str)],
    put: impl FnOnce(&dyn Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()>,
) -> Result<()> {
    // Wider types first, so that every tensor stays aligned to its elements.
    let mut order: Vec<&(&str, HostTensor)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().block_bytes()));

    let mut header = Map::new();
    if !metadata.is_empty() {
        let strings: Map<String, Value> = metadata.iter().map(|&(k, v)| (k.to_owned(), v.into())).collect();
        header.insert(METADATA.to_owned(), strings.into());
    }
    let mut offset = 0;
    for (name, tensor) in &order {
        if *name == METADATA {
            return Err(Error::tensor(path, METADATA, "this name is taken by the format"));
        }
        let end = offset + tensor.bytes().len();
        let Some(dtype) = name_of(tensor.dtype()).filter(|_| tensor.scale() == 1.0) else {
            let reason = format!("{tensor:?} cannot be written to a safetensors file");
            return Err(Error::tensor(path, clip(name), reason));
        };
        let entry = json!({
            "dtype": dtype,
            "shape": tensor.shape().dims(),
            "data_offsets": [offset, end],
        });
        if header.insert((*name).to_owned(), entry).is_some() {
            return Err(Error::tensor(path, clip(name), "it is given twice"));
        }
        offset = end;
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    put(&|out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        order.iter().try_for_each(|(_, tensor)| out.write_all(tensor.bytes()))
    })
    .map_err(|e| Error::io(path, e))
}

/// Reads one tensor of a safetensors file into memory.
///
/// # Errors
/// Those of [`TensorFile::open`] and [`TensorFile::tensor`]; a missing tensor is reported with the names that are
/// there.
pub fn load_tensor(path: impl AsRef<Path>, name: &str) -> Result<HostTensor> {
    let path = path.as_ref();
    let file = TensorFile::open(path)?;
    if !file.names().any(|n| n == name) {
        let reason = match list(file.names()) {
            there if there.is_empty() => "it is not in the file, which holds none".to_owned(),
            there => format!("it is not in the file, which holds {there}"),
        };
        return Err(Error::tensor(path, name, reason));
    }
    // In memory, so that the file is not held open (or mapped) under whoever overwrites it next.
    file.tensor(name)?.load()
}

/// Writes a file under a temporary name beside its own and renames it when complete.
pub(super) fn write_whole(path: &Path, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()); // through links, when it exists
    let existing = fs::metadata(&path).ok();
    if existing.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "this is a folder"));
    }
    if existing.is_some_and(|m| !m.is_file()) {
        return write(&mut File::options().write(true).open(&path)?); // a device or a pipe: never replaced
    }
    replace(&path, write)
}

/// The same for a file that must be one that can be replaced.
fn write_again(path: &Path, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()); // through links, when it exists
    let refuse = |reason: &str| io::Error::new(io::ErrorKind::InvalidInput, reason);
    if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
        return Err(refuse("this is not a file that could be replaced"));
    }
    replace(&path, write)
}

/// Writes a temporary file beside one and renames it when complete; then those that killed processes left go.
fn replace(path: &Path, write: impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let (temporary, file) = temporary::create_beside(path)?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out).and_then(|()| out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all());
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    match renamed {
        Ok(()) => temporary::sweep([path]),
        Err(_) => drop(fs::remove_file(&temporary)), // the first error is the one to report
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;
    use crate::weights::Value;

    fn sample() -> Vec<(&'static str, HostTensor)> {
        let latents = HostTensor::from_f32([2, 3], &[0.0, -1.5, f32::MAX, 1e-40, f32::NAN, 2.0]);
        vec![
            ("half", latents.cast(DType::F16)),
            ("latents", latents.clone()),
            ("brain", latents.cast(DType::BF16)),
            ("ids", HostTensor::from_u32([], &[7])),
            ("none", HostTensor::from_f32([0, 4], &[])),
        ]
    }

    #[test]
    fn what_is_saved_comes_back_bit_for_bit_here_and_in_the_crate() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        save_safetensors(&path, &sample(), &[("seed", "7"), ("prompt", "a \"red\" circle")]).expect("saved");
        let bytes = fs::read(&path).expect("read");
        let theirs = safetensors::SafeTensors::deserialize(&bytes).expect("the crate takes it");
        for (name, tensor) in sample() {
            let back = load_tensor(&path, name).expect(name);
            assert_eq!((back.shape(), back.dtype(), back.bytes()), (tensor.shape(), tensor.dtype(), tensor.bytes()));
            let theirs = theirs.tensor(name).expect(name);
            assert_eq!((theirs.shape(), theirs.data()), (tensor.shape().dims(), tensor.bytes()));
        }
        let file = TensorFile::open(&path).expect("opened");
        assert_eq!(file.metadata().get("prompt").and_then(Value::text), Some("a \"red\" circle"));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "no temporary file is left");
    }

    #[test]
    fn the_same_arguments_give_the_same_bytes_and_replace_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        fs::write(&path, b"old").expect("written");
        let mut seen = None;
        for _ in 0..3 {
            save_safetensors(&path, &sample(), &[("a", "1"), ("b", "2"), ("c", "3")]).expect("saved");
            let bytes = fs::read(&path).expect("read");
            assert_eq!(seen.get_or_insert_with(|| bytes.clone()), &bytes);
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("missing").join("a.safetensors");
        for path in [missing.as_path(), folder.path()] {
            let error = save_safetensors(path, &sample(), &[]).expect_err("unwritable");
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        let twice = [("a", HostTensor::from_u32([1], &[1])), ("a", HostTensor::from_u32([1], &[1]))];
        let error = save_safetensors(folder.path().join("b"), &twice, &[]).expect_err("twice");
        assert!(error.to_string().contains("twice"), "{error}");
        let reserved = [("__metadata__", HostTensor::from_u32([1], &[1]))];
        save_safetensors(folder.path().join("b"), &reserved, &[]).expect_err("reserved");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    }

    #[test]
    fn what_killed_processes_left_beside_a_checkpoint_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.run");
        for name in [".a.run.4294967295-3.part", ".a.run.x.part", ".b.run.4294967295-3.part", "a.run.1.part"] {
            fs::write(folder.path().join(name), b"half").expect("written");
        }
        for _ in 0..2 {
            save_checkpoint(&path, &sample(), &[]).expect("saved");
            load_tensor(&path, "latents").expect("whole");
        }
        let listed = fs::read_dir(folder.path()).expect("listed").map(|e| e.expect("read").file_name());
        let mut left: Vec<_> = listed.collect();
        left.sort();
        assert_eq!(left, [".a.run.x.part", ".b.run.4294967295-3.part", "a.run", "a.run.1.part"]);
        let error = save_checkpoint(folder.path(), &sample(), &[]).expect_err("a folder");
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_followed_and_a_device_is_not_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, b"old").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        save_safetensors(&link, &sample(), &[]).expect("saved");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        load_tensor(&real, "latents").expect("written through the link");
        save_safetensors("/dev/null", &sample(), &[]).expect("swallowed");
        assert!(!fs::metadata("/dev/null").expect("there").is_file());
    }

    #[test]
    fn a_missing_tensor_is_reported_with_those_that_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        save_safetensors(&path, &sample(), &[]).expect("saved");
        let error = load_tensor(&path, "noise").expect_err("missing").to_string();
        assert!(error.contains("`noise`") && error.contains("`latents`"), "{error}");
        let error = load_tensor(folder.path().join("b"), "noise").expect_err("missing");
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}
