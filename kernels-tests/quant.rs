//! Quantised elements against the `gguf` package and torch, bit for bit.

use mutoscope::tensor::{DType, HostTensor};
use serde_json::Value;

use crate::golden::{Golden, count, text};

/// A case's elements as they are stored, and its values.
fn case(golden: &Golden, case: &Value) -> (HostTensor, HostTensor) {
    let dtype = DType::ALL.into_iter().find(|dtype| dtype.name() == text(case, "type"));
    let dtype = dtype.expect("a known type");
    let shape = [count(case, "rows"), count(case, "columns")];
    let stored = golden.tensor(case, "stored").bytes().to_vec();
    let stored = HostTensor::from_bytes(shape, dtype, stored.into()).expect("whole rows of blocks");
    (stored, golden.tensor(case, "values"))
}

#[test]
fn quantised_elements_are_expanded_as_gguf_and_torch_do() {
    let golden = Golden::open("quant");
    let mut seen = Vec::new();
    for known in golden.list("expanded") {
        let (stored, bits) = case(&golden, known);
        let values = stored.to_f32();
        assert!(values.iter().any(|v| *v != 0.0));
        for (at, (value, bits)) in values.iter().zip(bits.to_u32().expect("words")).enumerate() {
            let wanted = f32::from_bits(bits);
            let same = if wanted.is_nan() { value.is_nan() } else { value.to_bits() == bits };
            assert!(same, "{stored:?}: element {at} is {value} and not {wanted}");
        }
        seen.push(stored.dtype());
    }
    let all: Vec<DType> = DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()).collect();
    assert_eq!(all.iter().filter(|dtype| !seen.contains(dtype)).count(), 0, "only {seen:?}");
}

#[test]
fn elements_are_quantised_as_gguf_and_torch_do() {
    let golden = Golden::open("quant");
    for known in golden.list("quantised") {
        let (stored, values) = case(&golden, known);
        let quantised = values.quantise(stored.dtype()).expect("finite values");
        let differ = quantised.bytes().iter().zip(stored.bytes()).position(|(a, b)| a != b);
        assert_eq!((differ, quantised.bytes().len()), (None, stored.bytes().len()), "{stored:?}");
    }
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let ramp = HostTensor::from_f32([2, 48], &(0..96).map(|v| v as f32 * 1000.0).collect::<Vec<_>>());
    let refused = |tensor: &HostTensor, dtype| tensor.quantise(dtype).expect_err("refused");
    assert!(refused(&ramp, DType::Q8_0).contains("48"));
    let rows = ramp.reshape([3, 32]).expect("as many");
    assert!(refused(&rows, DType::Q5_1).contains("written"));
    assert!(refused(&rows, DType::F16).contains("f16"));
    assert!(refused(&HostTensor::from_f32([2], &[1.0, f32::NAN]), DType::F8E4M3).contains("element 1"));
    assert!(refused(&HostTensor::from_u32([2], &[1, 2]), DType::F8E4M3).contains("u32"));
    let saturated = rows.quantise(DType::F8E4M3).expect("finite").to_f32();
    assert_eq!(saturated.iter().copied().fold(0.0, f32::max), 448.0);
}
