//! Pictures as diffusers loads and resizes them (`goldens/media.*`), videos as ffmpeg decodes them (`goldens/videos.*`).

use mutoscope::media::{Frame, read_picture, read_video, resize};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::golden::{folder, number, text};

/// The cases of a list, and all numbers.
struct Golden {
    cases: Value,
    numbers: Vec<u8>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let read = |extension: &str| {
            let path = folder().join(name).with_extension(extension);
            std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        };
        let cases = serde_json::from_slice(&read("json")).expect("valid JSON");
        Self { cases, numbers: read("safetensors") }
    }

    fn list(&self, key: &str) -> &[Value] {
        let list = self.cases[key].as_array().expect("a list of cases");
        assert!(list.len() >= 5, "{key}: too few cases");
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
    let golden = Golden::open("media");
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
            wrong.push(format!("{key}: {off} levels off"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pictures_are_resized_as_by_pillow() {
    let golden = Golden::open("media");
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

#[test]
fn videos_of_others_are_read() {
    let golden = Golden::open("videos");
    let place = tempfile::tempdir().expect("a temporary folder");
    for case in golden.list("read") {
        let key = text(case, "key");
        let path = place.path().join(key);
        std::fs::write(&path, golden.bytes(&format!("{key}.file")).1).expect("write");
        let (shape, rgb) = golden.bytes(&format!("{key}.rgb"));
        let video = read_video(&path).unwrap_or_else(|e| panic!("{e}"));
        let got = (video.frames() as usize, video.height() as usize, video.width() as usize, 3);
        assert_eq!(got, (shape[0], shape[1], shape[2], shape[3]), "{key}");
        let fps = video.fps().expect("a rate");
        assert!((fps - number(case, "fps")).abs() < 1e-6, "{key}: {fps} frames a second");
        let size = rgb.len() / shape[0];
        let frames: Vec<Frame> = video.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(frames.len(), shape[0], "{key}");
        for (index, (frame, want)) in frames.iter().zip(rgb.chunks_exact(size)).enumerate() {
            let want = Frame { width: shape[2] as u32, height: shape[1] as u32, rgb: want.to_vec() };
            // The planes are equal; sums in f32 may be rounded to the other side.
            assert!(levels(frame, &want) <= 1, "{key}, frame {index}: {} levels off", levels(frame, &want));
        }
    }
}

#[test]
fn videos_that_cannot_be_read_say_why() {
    let golden = Golden::open("videos");
    let place = tempfile::tempdir().expect("a temporary folder");
    for case in golden.list("refused") {
        let (key, word) = (text(case, "key"), text(case, "word"));
        let path = place.path().join(key);
        std::fs::write(&path, golden.bytes(&format!("{key}.file")).1).expect("write");
        let message = read_video(&path).err().unwrap_or_else(|| panic!("{key} was read")).to_string();
        assert!(message.contains(word) && message.contains(key) && !message.contains('\n'), "{message}");
    }
}
