//! Which variant computes a product, and in which parts.

use std::ops::Range;

use crate::graph::{DeviceProfile, Needs, Source, Value};
use crate::tensor::DType;

/// y \[rows, columns\] = x \[rows, depth\] w^T, with w \[columns, depth\].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
}

/// A way of computing it: a shader of `shaders/matmul/` with its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `direct.wgsl`: `rows` x `columns` sums an invocation, `across` x `down` invocations a workgroup.
    Direct { rows: u32, columns: u32, across: u32, down: u32 },
}

/// The variant for a product on a device.
pub fn choose(_size: Size, _x: DType, _profile: &DeviceProfile) -> Variant {
    Variant::Direct { rows: 8, columns: 8, across: 8, down: 4 }
}

const DIRECT: Source = Source { path: "matmul/direct", text: include_str!("../../../shaders/matmul/direct.wgsl") };

impl Variant {
    pub fn source(self) -> Source {
        match self {
            Self::Direct { .. } => DIRECT,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Direct { .. } => "matmul_direct",
        }
    }

    pub fn needs(self) -> Needs {
        Needs::default()
    }

    /// Whether it finishes four columns at once, which takes a number of columns that is a multiple of four.
    pub fn finishes_by_fours(self) -> bool {
        true
    }

    pub fn constants(self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Direct { rows, columns, across, down } => {
                vec![
                    ("ROWS", rows.into()),
                    ("COLUMNS", columns.into()),
                    ("ACROSS", across.into()),
                    ("DOWN", down.into()),
                ]
            }
        }
    }

    /// Workgroups for so many rows and columns.
    pub fn groups(self, rows: usize, columns: usize) -> usize {
        match self {
            Self::Direct { rows: r, columns: c, across, down } => {
                rows.div_ceil((r * down) as usize) * columns.div_ceil((c * across) as usize)
            }
        }
    }
}

/// Bytes of one row of each operand; `f32` is a row of the residual or the gate.
#[derive(Clone, Copy, Debug)]
pub struct RowBytes {
    pub x: u64,
    pub w: u64,
    pub y: u64,
    pub f32: u64,
}

/// Which f32 operands are read by rows.
#[derive(Clone, Copy, Debug)]
pub struct F32Rows {
    pub residual: bool,
    /// Rows of the gate, if there is one.
    pub gate: Option<usize>,
}

/// What one dispatch computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub rows: Range<usize>,
    pub columns: Range<usize>,
    /// The gate's rows to bind, those of `rows`, when all of it does not fit one binding.
    pub gate: Option<Range<usize>>,
}

/// Parts begin at multiples of this where they can, so that tiles are full.
const GRAIN: usize = 128;

/// Cuts a product into parts, each within the device's bindings and, by a factor of two, its dispatches' work.
///
/// # Errors
/// When rows do not fit a binding.
pub fn parts(size: Size, bytes: &RowBytes, f32: &F32Rows, profile: &DeviceProfile) -> Result<Vec<Part>, String> {
    if bytes.f32 > profile.max_binding {
        return Err(format!("a bias of {} bytes does not fit the device's largest binding", bytes.f32));
    }
    let gate_rows = f32.gate.unwrap_or(1);
    let gate_whole = gate_rows as u64 * bytes.f32 <= profile.max_binding;
    // With a gate that has to be windowed like the rows, no part may reach from its last row to its first again.
    let block = if gate_whole { size.rows } else { gate_rows };
    let by_row: &[u64] = if f32.residual { &[bytes.x, bytes.y, bytes.f32] } else { &[bytes.x, bytes.y] };
    let mut rows = Steps::new(block, by_row, profile)?;
    let mut columns = Steps::new(size.columns, &[bytes.w], profile)?;
    if block < size.rows && block % rows.aligned != 0 {
        return Err(format!("a gate of {block} rows of {} bytes does not fit the device's bindings", bytes.f32));
    }
    let budget = 2.0 * profile.dispatch_flops;
    while 2.0 * rows.step as f64 * columns.step as f64 * size.depth as f64 > budget {
        let wider = if rows.step >= columns.step { [&mut rows, &mut columns] } else { [&mut columns, &mut rows] };
        if !wider.into_iter().any(Steps::halve) {
            break;
        }
    }
    let (rows, columns) = (rows.even(), columns.even());
    let mut parts = Vec::new();
    for first in (0..size.columns).step_by(columns) {
        for start in (0..size.rows).step_by(block) {
            for inner in (0..block).step_by(rows) {
                let window = inner..(inner + rows).min(block);
                parts.push(Part {
                    rows: start + window.start..start + window.end,
                    columns: first..(first + columns).min(size.columns),
                    gate: (!gate_whole).then_some(window),
                });
            }
        }
    }
    Ok(parts)
}

/// A dimension that is cut in equal steps.
struct Steps {
    total: usize,
    step: usize,
    /// Windows of a multiple of so many rows end where another can begin.
    aligned: usize,
    /// What steps are multiples of.
    unit: usize,
}

impl Steps {
    /// As few steps as the bindings allow, for operands with rows of so many bytes.
    fn new(total: usize, row_bytes: &[u64], profile: &DeviceProfile) -> Result<Self, String> {
        let (mut step, mut aligned) = (total, 1);
        for &bytes in row_bytes {
            step = step.min(profile.window_rows(total, bytes)?);
            let common = bytes.trailing_zeros().min(profile.offset_alignment.trailing_zeros());
            aligned = aligned.max((profile.offset_alignment >> common) as usize);
        }
        // Multiples of four, where that can be, keep columns in vectors.
        let unit = [GRAIN, 4].into_iter().map(|grain| aligned.max(grain)).find(|&unit| unit <= step);
        let unit = unit.unwrap_or(aligned);
        if step < total {
            step = step / unit * unit;
        }
        if step == 0 {
            return Err(format!("{aligned} rows of {row_bytes:?} bytes do not fit the device's largest binding"));
        }
        Ok(Self { total, step, aligned, unit })
    }

    /// Halves the step if it can.
    fn halve(&mut self) -> bool {
        let half = self.step.div_ceil(2).next_multiple_of(self.unit);
        let less = half < self.step;
        self.step = self.step.min(half);
        less
    }

    /// The step that takes no more steps and makes them as equal as can be.
    fn even(&self) -> usize {
        let steps = self.total.div_ceil(self.step);
        if steps == 1 { self.total } else { self.total.div_ceil(steps).next_multiple_of(self.unit) }
    }
}
