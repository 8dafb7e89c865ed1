//! Reading goldens, and measures of distance to them.

use std::path::{Path, PathBuf};

use mutoscope::tensor::HostTensor;
use mutoscope::weights::TensorFile;
use serde_json::Value;

/// The folder of goldens.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens")
}

/// A pipeline folder of the goldens.
pub fn pipeline(name: &str) -> PathBuf {
    folder().join("pipelines").join(name)
}

/// One part of the goldens: what its cases are, and their numbers.
pub struct Golden {
    cases: Value,
    numbers: TensorFile,
}

impl Golden {
    /// Reads `NAME.json` and `NAME.safetensors`.
    pub fn open(name: &str) -> Self {
        let path = folder().join(name);
        let text = std::fs::read(path.with_extension("json")).unwrap_or_else(|e| panic!("{name}: {e}"));
        Self {
            cases: serde_json::from_slice(&text).expect("valid JSON"),
            numbers: TensorFile::open(path.with_extension("safetensors")).expect("readable goldens"),
        }
    }

    /// A list of cases that must not be empty.
    pub fn list(&self, key: &str) -> &[Value] {
        let list = self.cases[key].as_array().expect("a list of cases");
        assert!(!list.is_empty(), "no {key}: nothing would be tested");
        list
    }

    /// A value that all cases share.
    pub fn value(&self, key: &str) -> &Value {
        &self.cases[key]
    }

    /// A number that all cases share.
    pub fn number(&self, key: &str) -> usize {
        count(&self.cases, key)
    }

    /// A case's tensor, if it has one of this name.
    pub fn find(&self, case: &Value, name: &str) -> Option<HostTensor> {
        let name = format!("{}.{name}", text(case, "key"));
        self.numbers
            .names()
            .any(|other| other == name)
            .then(|| self.numbers.tensor(&name).unwrap_or_else(|e| panic!("{e}")))
    }

    /// A case's tensor.
    pub fn tensor(&self, case: &Value, name: &str) -> HostTensor {
        let name = format!("{}.{name}", text(case, "key"));
        self.numbers.tensor(&name).unwrap_or_else(|e| panic!("{e}"))
    }
}

/// A text of a case.
pub fn text<'c>(case: &'c Value, key: &str) -> &'c str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} of {case} is a text"))
}

/// A count of a case.
pub fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("{key} of {case} is a count")) as usize
}

/// A number of a case.
pub fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("{key} of {case} is a number"))
}

/// |a - b| / |b|; infinite when the lengths differ, and refused for a reference without content.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert!(b.iter().any(|v| *v != b[0]) || b.len() == 1, "a reference without content proves nothing");
    if a.len() != b.len() { f64::INFINITY } else { mutoscope::ops::check::distance(a, b) }
}

/// PSNR in decibels of values in 0..1.
pub fn psnr(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let mse = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / a.len() as f64;
    -10.0 * mse.max(1e-12).log10()
}
