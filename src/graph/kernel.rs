//! What a kernel is: shape inference, dispatches as data, a cost, and a twin in plain loops.

use std::ops::Range;

use super::{DeviceProfile, Shader};
use crate::tensor::{DType, HostTensor, Shape};

/// Shape and element type of a tensor in a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Dimensions.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> Self {
        Self { shape: shape.into(), dtype }
    }

    /// An `f32` tensor's type.
    pub fn f32(shape: impl Into<Shape>) -> Self {
        Self::new(shape, DType::F32)
    }

    /// Bytes that the elements take; those of rows that are not made of whole blocks are rounded up to such.
    pub fn bytes(&self) -> u64 {
        let row = self.shape.last().div_ceil(self.dtype.block_elements()) * self.dtype.block_bytes();
        (self.shape.rows() * row) as u64
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

/// The types around one use of a kernel: what [`Kernel::infer`] was given and what it answered.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Types of the inputs, in order.
    pub inputs: &'a [TensorType],
    /// Type of the output.
    pub output: TensorType,
}

/// What one use of a kernel takes at least: the two sides of the roofline.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Floating-point operations (a multiply-add counts two).
    pub flops: f64,
    /// Bytes that must be read and written once.
    pub bytes: f64,
}

impl Cost {
    /// The cost of `flops` operations that read every input and write the output once.
    pub fn of(call: &Call<'_>, flops: f64) -> Self {
        let bytes = call.inputs.iter().map(TensorType::bytes).sum::<u64>() + call.output.bytes();
        Self { flops, bytes: bytes as f64 }
    }
}

/// A tensor as twins see it: every element exact in `f64`.
#[derive(Clone, Debug)]
pub struct Twin {
    /// Dimensions.
    pub shape: Shape,
    /// Elements, row-major.
    pub values: Vec<f64>,
}

impl From<&HostTensor> for Twin {
    fn from(tensor: &HostTensor) -> Self {
        Self { shape: tensor.shape(), values: tensor.to_f64() }
    }
}

/// Which tensor a [`Binding`] binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The i-th input.
    Input(usize),
    /// The output.
    Output,
    /// The i-th scratch buffer of the [`Launch`].
    Scratch(usize),
}

/// How a shader uses a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    ReadWrite,
}

/// One storage buffer of a dispatch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The tensor.
    pub operand: Operand,
    /// Its bytes that the dispatch sees, or all of them. The start must be a multiple of
    /// [`DeviceProfile::offset_alignment`].
    pub window: Option<Range<u64>>,
    /// How the shader uses it.
    pub access: Access,
}

impl Binding {
    /// All of an input, read only.
    pub fn input(index: usize) -> Self {
        Self { operand: Operand::Input(index), window: None, access: Access::Read }
    }

    /// All of the output.
    pub fn output() -> Self {
        Self { operand: Operand::Output, window: None, access: Access::ReadWrite }
    }

    /// All of a scratch buffer.
    pub fn scratch(index: usize) -> Self {
        Self { operand: Operand::Scratch(index), window: None, access: Access::ReadWrite }
    }

    /// The same with a window of bytes.
    pub fn window(self, bytes: Range<u64>) -> Self {
        Self { window: Some(bytes), ..self }
    }

    /// The same, read only (for scratch and outputs that a second dispatch reads).
    pub fn read_only(self) -> Self {
        Self { access: Access::Read, ..self }
    }
}

/// One compute dispatch: a shader, its storage buffers in `@binding` order from 0, and after them (unless empty) one
/// uniform block of 32-bit words.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// The shader with its constants.
    pub shader: Shader,
    /// Storage buffers, `@binding(0)` first.
    pub bindings: Vec<Binding>,
    /// Words of the uniform block (floats by their bits), bound behind the storage buffers.
    pub params: Vec<u32>,
    /// Workgroups in x, y, z.
    pub groups: [u32; 3],
}

/// All dispatches of one use of a kernel, run in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launch {
    /// Sizes in bytes of buffers that live only during this launch.
    pub scratch: Vec<u64>,
    /// The dispatches.
    pub dispatches: Vec<Dispatch>,
}

impl From<Dispatch> for Launch {
    fn from(dispatch: Dispatch) -> Self {
        Self { scratch: Vec::new(), dispatches: vec![dispatch] }
    }
}

/// A handwritten kernel: descriptor of one operation, with its settings as fields.
///
/// The same snake_case [`name`](Kernel::name) is the shader's, the twin's, the bench's and the profiler's.
pub trait Kernel: std::fmt::Debug + Send + Sync {
    /// The kernel's name.
    fn name(&self) -> &'static str;

    /// Type of the output for these inputs.
    ///
    /// # Errors
    /// A sentence that says what does not fit, with the shapes.
    fn infer(&self, inputs: &[TensorType]) -> Result<TensorType, String>;

    /// The dispatches that compute it on a device of this profile: variant, grid and windows are chosen here.
    ///
    /// # Errors
    /// A sentence that says which limit of the device is in the way.
    fn launch(&self, call: &Call<'_>, profile: &DeviceProfile) -> Result<Launch, String>;

    /// Least work and traffic of one use.
    fn cost(&self, call: &Call<'_>) -> Cost;

    /// The same function in plain loops with `f64` sums: the elements of the output.
    fn twin(&self, inputs: &[Twin]) -> Vec<f64>;
}
