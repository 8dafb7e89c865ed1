//! LoRA files on a small model.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use mutoscope::weights::{Archive, Lora};

static MODEL: OnceLock<Archive> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let model = MODEL.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels-tests/goldens/pipelines/a/transformer");
        Archive::open(folder, "diffusion_pytorch_model").expect("a golden pipeline")
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fuzzed.safetensors");
    std::fs::write(&path, bytes).expect("written");
    let Ok(lora) = Lora::open(&path) else { return };
    if let Ok(adapted) = model.adapted(&[(&lora, 0.5)]) {
        for name in adapted.archive.names() {
            let tensor = adapted.archive.tensor(name).expect("it was there before");
            assert_eq!(Some(tensor.shape()), model.shape_of(name));
        }
    }
});
