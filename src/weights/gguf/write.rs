//! Writing GGUF's header: everything before the data.

use super::{ALIGNMENT, ORIGINAL_SHAPE, TYPES};
use crate::tensor::DType;

/// What the format calls its own rules for quantised types.
const QUANTISATION_VERSION: u32 = 2;
/// Numbers of the types of values.
const U32: u32 = 4;
const I32: u32 = 5;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The number of a type; `None` for those that the format does not have.
pub(in crate::weights) fn number_of(dtype: DType) -> Option<u32> {
    TYPES.iter().find(|(_, name, ..)| dtype.name().eq_ignore_ascii_case(name)).map(|(number, ..)| *number)
}

/// A header of version 3 in the making.
pub(in crate::weights) struct Writer {
    values: Vec<u8>,
    value_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
}

impl Writer {
    /// Of a model of this architecture whose matrices are mostly of this type.
    pub fn new(architecture: &str, mostly: DType) -> Self {
        let mut writer = Self { values: Vec::new(), value_count: 0, tensors: Vec::new(), tensor_count: 0 };
        writer.key("general.architecture", TEXT);
        text(&mut writer.values, architecture);
        writer.key("general.quantization_version", U32);
        writer.values.extend(QUANTISATION_VERSION.to_le_bytes());
        // `llama_ftype` of llama.cpp.
        let file_type: u32 = match mostly {
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q8_0 => 7,
            DType::Q4K => 14,
            DType::BF16 => 32,
            _ => 0,
        };
        writer.key("general.file_type", U32);
        writer.values.extend(file_type.to_le_bytes());
        writer
    }

    /// Keeps the shape of a tensor that is listed under another.
    pub fn original_shape(&mut self, tensor: &str, dims: &[usize]) {
        self.key(&format!("{ORIGINAL_SHAPE}{tensor}"), ARRAY);
        self.values.extend(I32.to_le_bytes());
        self.values.extend((dims.len() as u64).to_le_bytes());
        dims.iter().for_each(|&dim| self.values.extend((dim as i32).to_le_bytes()));
    }

    /// Lists a tensor, its dimensions outermost first and its place from the beginning of the data.
    pub fn tensor(&mut self, name: &str, dims: &[usize], kind: u32, offset: usize) {
        text(&mut self.tensors, name);
        self.tensors.extend((dims.len() as u32).to_le_bytes());
        dims.iter().rev().for_each(|&dim| self.tensors.extend((dim as u64).to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend((offset as u64).to_le_bytes());
        self.tensor_count += 1;
    }

    /// The header, up to where the data begins.
    pub fn finish(self) -> Vec<u8> {
        let counts = [self.tensor_count.to_le_bytes(), self.value_count.to_le_bytes()].concat();
        let mut header = [b"GGUF", &3u32.to_le_bytes()[..], &counts, &self.values, &self.tensors].concat();
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        header
    }

    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.values, key);
        self.values.extend(kind.to_le_bytes());
        self.value_count += 1;
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
