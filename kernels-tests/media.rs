//! Pictures as diffusers loads and resizes them (`goldens/media.*`).

use mutoscope::media::{Frame, read_picture, resize};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::golden::{count, folder, text};

/// The cases of a list, and all numbers.
struct Golden {
    cases: Value,
    numbers: Vec<u8>,
}

impl Golden {
    fn open() -> Self {
        let read = |name: &str| std::fs::read(folder().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let cases = serde_json::from_slice(&read("media.json")).expect("valid JSON");
        Self { cases, numbers: read("media.safetensors") }
    }

    fn list(&self, key: &str) -> &[Value] {
        let list = self.cases[key].as_array().expect("a list of cases");
        assert!(list.len() > 10, "{key}: too few cases");
        list
    }

    fn bytes(&self, key: &str) -> (Vec<usize>, Vec<u8>) {
        let tensors = SafeTensors::deserialize(&self.numbers).expect("valid safetensors");
        let tensor = tensors.tensor(key).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(tensor.dtype(), safetensors::Dtype::U8, "{key}");
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    fn frame(&self, key: &str) -> Frame {
        let (shape, rgb) = self.bytes(key);
        assert_eq!(shape[2], 3, "{key}");
        Frame { width: shape[1] as u32, height: shape[0] as u32, rgb }
    }
}

/// The largest difference of two pictures of one size.
fn levels(a: &Frame, b: &Frame) -> u8 {
    assert_eq!((a.width, a.height, a.rgb.len()), (b.width, b.height, b.rgb.len()));
    a.rgb.iter().zip(&b.rgb).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn pictures_are_read_as_by_diffusers() {
    let golden = Golden::open();
    let place = tempfile::tempdir().expect("a temporary folder");
    let mut wrong = Vec::new();
    for case in golden.list("pictures") {
        let key = text(case, "key");
        // No extension: the content tells.
        let path = place.path().join(key);
        std::fs::write(&path, golden.bytes(&format!("{key}.file")).1).expect("write");
        let want = golden.frame(&format!("{key}.rgb"));
        let got = match read_picture(&path) {
            Ok(frame) => frame,
            Err(e) => {
                wrong.push(format!("{key}: {e}"));
                continue;
            }
        };
        if (got.width, got.height) != (want.width, want.height) {
            wrong.push(format!("{key}: {}x{}, not {}x{}", got.width, got.height, want.width, want.height));
            continue;
        }
        let off = levels(&got, &want);
        if off > 0 {
            println!("{key}: {off} levels off");
        }
        if usize::from(off) > count(case, "levels") {
            wrong.push(format!("{key}: {off} levels off"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pictures_are_resized_as_by_pillow() {
    let golden = Golden::open();
    let mut wrong = Vec::new();
    for case in golden.list("resize") {
        let key = text(case, "key");
        let want = golden.frame(&format!("{key}.to"));
        let got = resize(&golden.frame(&format!("{key}.from")), want.width, want.height).expect("resized");
        if got != want {
            wrong.push(format!("{key}: {} levels off", levels(&got, &want)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
