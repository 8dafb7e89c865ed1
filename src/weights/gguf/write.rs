//! Writing GGUF's header: everything before the data.

use super::{ALIGNMENT, ORIGINAL_SHAPE, TYPES};
use crate::tensor::DType;

/// What the format calls its own rules for quantised types.
const QUANTISATION_VERSION: u32 = 2;
/// Numbers of the types of values.
const U8: u32 = 0;
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// A value of a file's metadata, of the type that readers of GGUF expect.
#[derive(Clone, Debug, PartialEq)]
pub enum Metadata {
    /// A number without sign.
    U32(u32),
    /// A number.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Whole numbers.
    I32s(Vec<i32>),
    /// Numbers.
    F32s(Vec<f32>),
}

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
        writer.value("general.architecture", &Metadata::Text(architecture.to_owned()));
        writer.value("general.quantization_version", &Metadata::U32(QUANTISATION_VERSION));
        // `llama_ftype` of llama.cpp.
        let file_type: u32 = match mostly {
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q8_0 => 7,
            DType::Q4K => 14,
            DType::BF16 => 32,
            _ => 0,
        };
        writer.value("general.file_type", &Metadata::U32(file_type));
        writer
    }

    /// Adds a value to the metadata.
    pub fn value(&mut self, key: &str, value: &Metadata) {
        text(&mut self.values, key);
        self.value_count += 1;
        let out = &mut self.values;
        match value {
            Metadata::U32(n) => out.extend([U32, *n].map(u32::to_le_bytes).concat()),
            Metadata::F32(n) => out.extend([F32.to_le_bytes(), n.to_le_bytes()].concat()),
            Metadata::Bool(yes) => {
                out.extend(BOOL.to_le_bytes());
                out.push(u8::from(*yes));
            }
            Metadata::Text(value) => {
                out.extend(TEXT.to_le_bytes());
                text(out, value);
            }
            Metadata::Texts(texts) => {
                array(out, TEXT, texts.len());
                texts.iter().for_each(|value| text(out, value));
            }
            Metadata::Bytes(bytes) => {
                array(out, U8, bytes.len());
                out.extend(bytes);
            }
            Metadata::I32s(numbers) => {
                array(out, I32, numbers.len());
                numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Metadata::F32s(numbers) => {
                array(out, F32, numbers.len());
                numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }

    /// Keeps the shape of a tensor that is listed under another.
    pub fn original_shape(&mut self, tensor: &str, dims: &[usize]) {
        let dims = dims.iter().map(|&dim| dim as i32).collect();
        self.value(&format!("{ORIGINAL_SHAPE}{tensor}"), &Metadata::I32s(dims));
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
}

fn array(out: &mut Vec<u8>, kind: u32, length: usize) {
    out.extend([ARRAY, kind].map(u32::to_le_bytes).concat());
    out.extend((length as u64).to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
