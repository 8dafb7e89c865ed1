//! Files of tensors that PyTorch and the gguf package wrote, against what these read back.

use mutoscope::Error;
use mutoscope::tensor::DType;
use mutoscope::weights::{Archive, Container, TensorFile, Value};

use crate::golden::{distance, folder};

/// Tensors of a file that are weights, compared with the golden; the others' names.
fn compare(file: &str, prefix: &str) -> (usize, Vec<String>) {
    let golden = TensorFile::open(folder().join("files.safetensors")).expect("goldens");
    let archive = Archive::open_file(folder().join("files").join(file)).expect(file);
    let (mut compared, mut others) = (0, Vec::new());
    for name in archive.names() {
        let expected = golden.tensor(&format!("{prefix}.{name}"));
        match (archive.tensor(name), expected) {
            (Ok(tensor), Ok(expected)) => {
                assert_eq!(tensor.shape(), expected.shape(), "{name}");
                if expected.shape().count() > 0 {
                    let error = distance(&tensor.to_f64(), &expected.to_f64());
                    assert!(error <= 1e-6, "{name}: {error:.2e}");
                }
                compared += 1;
            }
            (Ok(tensor), Err(error)) => panic!("{tensor:?}: {error}"),
            (Err(error), _) => {
                assert!(matches!(error, Error::Tensor { .. }) && error.to_string().contains(name), "{error}");
                assert!(!archive.raw(name).expect("as it is stored").bytes.is_empty());
                others.push(name.to_owned());
            }
        }
    }
    let there = golden.names().filter(|name| name.starts_with(&format!("{prefix}.")));
    assert_eq!(there.filter(|name| !archive.contains(name.split_once('.').expect("a prefix").1)).count(), 0);
    (compared, others)
}

#[test]
fn what_torch_saves_is_read() {
    let (compared, others) = compare("torch.pth", "torch");
    assert_eq!((compared, others), (10, ["f64", "flags", "ids"].map(str::to_owned).to_vec()));
    let archive = Archive::open_file(folder().join("files/torch.pth")).expect("opened");
    assert_eq!(archive.tensor("bf16").expect("there").dtype(), DType::BF16);
    let ids = archive.raw("ids").expect("there");
    assert_eq!((&*ids.dtype, &ids.dims[..], ids.bytes.len()), ("I64", &[5][..], 40));
    assert_eq!(archive.raw("flags").expect("there").bytes[..], [1, 0]);
    assert!(archive.files().all(|file| file.container() == Container::Torch));
}

#[test]
fn what_torch_saved_before_zip_archives_is_the_same() {
    let open = |name: &str| Archive::open_file(folder().join("files").join(name)).unwrap_or_else(|e| panic!("{e}"));
    let (new, old) = (open("torch.pth"), open("legacy.pth"));
    assert_eq!(compare("legacy.pth", "torch"), compare("torch.pth", "torch"));
    assert!(new.names().eq(old.names()) && new.names().count() == 13);
    for name in new.names() {
        let (new, old) = (new.raw(name).expect("there"), old.raw(name).expect("there"));
        assert_eq!((&new.dtype, &new.dims, &new.bytes[..]), (&old.dtype, &old.dims, &old.bytes[..]), "{name}");
    }
    assert!(old.files().all(|file| file.container() == Container::Torch));
}

#[test]
fn what_gguf_writes_is_read() {
    let (compared, others) = compare("types.gguf", "gguf");
    assert_eq!(compared, 14);
    assert_eq!(others.len(), 0, "{others:?}");
    let archive = Archive::open_file(folder().join("files/types.gguf")).expect("opened");
    assert_eq!(archive.shape_of("patch"), Some([4, 2, 1, 3, 2].into()));
    let types = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"];
    assert!(types.iter().all(|&name| archive.dtype_of(name) == Some(name)));
    assert_eq!(archive.metadata("general.architecture").and_then(Value::text), Some("wan"));
    let tokens = archive.metadata("tokenizer.ggml.tokens").and_then(Value::texts);
    assert_eq!(tokens, Some(&["<pad>", "\u{2581}a", "b"].map(str::to_owned)[..]));
    let scores = archive.metadata("tokenizer.ggml.scores").and_then(Value::numbers);
    assert_eq!(scores, Some(&[0.0, -1.5, -2.25][..]));
}
