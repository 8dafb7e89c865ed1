//! Files of tensors in every container: whatever is read in full can be asked for, whatever is not says why.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mutoscope::weights::TensorFile;

fuzz_target!(|bytes: &[u8]| {
    match TensorFile::from_bytes("fuzzed", bytes.to_vec().into()) {
        Ok(file) => {
            for name in file.names() {
                let raw = file.raw(name).expect("a listed tensor");
                if let Ok(tensor) = file.tensor(name) {
                    assert_eq!(tensor.bytes(), &raw.bytes[..]);
                }
            }
        }
        Err(error) => assert!(error.to_string().starts_with("fuzzed: ")),
    }
});
