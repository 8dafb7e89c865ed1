//! Which variant computes a product, and in which parts.

use super::super::table::Repeat;
use std::ops::Range;

use crate::graph::{DeviceKind, DeviceProfile, Needs, Source, Value};
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
    /// `broadcast.wgsl`: `lent` rows of x loaded and 4 columns computed by each lane of subgroups of a known size.
    Broadcast { subgroup: u32, lent: u32 },
    /// `rows.wgsl`: up to `rows` rows by 4 columns a workgroup.
    Rows { rows: u32, subgroups: bool },
    /// `tile.wgsl`: `per` x `per` sums an invocation, 16 x 16 invocations a workgroup.
    Tile { per: u32 },
    /// `coop.wgsl`: `across` x `across` matrices of `size` x `size` a tile, 2 x 2 tiles a workgroup of `width`
    /// invocations, which are at most `subgroups` subgroups.
    Coop { size: u32, across: u32, width: u32, subgroups: u32 },
}

/// So many workgroups keep a GPU busy; with fewer, smaller tiles are better.
const BUSY: usize = 64;
/// Operations from which a larger shader, which takes software drivers longer to compile, is worth it.
const WORTH_COMPILING: f64 = 2e8;

/// The variant for a product on a device.
pub fn choose(size: Size, x: DType, profile: &DeviceProfile) -> Variant {
    match profile.kind {
        DeviceKind::Cpu => on_processor(size, profile),
        _ => on_gpu(size, x, profile),
    }
}

/// Software drivers pay for every load of every lane and for every barrier, and for matrices most of all.
fn on_processor(size: Size, profile: &DeviceProfile) -> Variant {
    let rows = size.rows as u32;
    match profile.subgroups {
        _ if size.rows <= 4 => Variant::Direct { rows: rows.next_power_of_two(), columns: 4, across: 32, down: 1 },
        Some((least, most)) if least == most && most <= 8 => {
            let lent = match () {
                () if rows <= most => 1,
                () if 2.0 * size.rows as f64 * size.columns as f64 * (size.depth as f64) < WORTH_COMPILING => 2,
                () => 4,
            };
            Variant::Broadcast { subgroup: most, lent }
        }
        _ => Variant::Direct { rows: 8, columns: 8, across: 8, down: 4 },
    }
}

fn on_gpu(size: Size, x: DType, profile: &DeviceProfile) -> Variant {
    if size.rows <= 8 {
        return Variant::Rows { rows: (size.rows as u32).next_power_of_two(), subgroups: profile.subgroups.is_some() };
    }
    let fits = |variant: &Variant| {
        variant.width() <= profile.max_invocations && variant.workgroup_memory() <= profile.max_workgroup_memory
    };
    // Large tiles while there are enough of them, then small ones.
    let matrices = profile.coop.zip(profile.subgroups).filter(|_| x == DType::F16 && profile.f16);
    let matrices = matrices.into_iter().flat_map(|(coop, (least, most))| {
        // Four subgroups of the size that is likeliest where a driver leaves it open.
        let width = 4 << ((least.ilog2() + most.ilog2()) / 2);
        [4, 2].map(|across| Variant::Coop { size: coop.size, across, width, subgroups: width / least })
    });
    let tiles = [8, 4].map(|per| Variant::Tile { per });
    let mut last = Variant::Direct { rows: 4, columns: 4, across: 8, down: 8 };
    for family in [matrices.collect::<Vec<_>>(), tiles.to_vec()] {
        let mut fitting = family.into_iter().filter(fits).peekable();
        if fitting.peek().is_some() {
            for variant in fitting {
                last = variant;
                if variant.groups(size.rows, size.columns) >= BUSY {
                    break;
                }
            }
            return last;
        }
    }
    last
}

const fn source(path: &'static str, text: &'static str) -> Source {
    Source { path, text }
}

const DIRECT: Source = source("matmul/direct", include_str!("../../../shaders/matmul/direct.wgsl"));
const BROADCAST: Source = source("matmul/broadcast", include_str!("../../../shaders/matmul/broadcast.wgsl"));
const ROWS: Source = source("matmul/rows", include_str!("../../../shaders/matmul/rows.wgsl"));
const TILE: Source = source("matmul/tile", include_str!("../../../shaders/matmul/tile.wgsl"));
const COOP: Source = source("matmul/coop", include_str!("../../../shaders/matmul/coop.wgsl"));

/// Invocations across, and down, a workgroup of `tile.wgsl`.
const TILE_THREADS: u32 = 16;
/// Invocations of a workgroup of `rows.wgsl`.
const ROWS_WIDTH: u32 = 64;
/// Columns that an invocation of `rows.wgsl` or `broadcast.wgsl` computes.
const FEW_COLUMNS: u32 = 4;
/// Elements of K that `coop.wgsl` stages at a time, and those between two staged rows.
const COOP_DEPTH: u32 = 32;
const COOP_PITCH: u32 = COOP_DEPTH + 8;

impl Variant {
    pub fn source(self) -> Source {
        match self {
            Self::Direct { .. } => DIRECT,
            Self::Broadcast { .. } => BROADCAST,
            Self::Rows { .. } => ROWS,
            Self::Tile { .. } => TILE,
            Self::Coop { .. } => COOP,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Direct { .. } => "matmul_direct",
            Self::Broadcast { .. } => "matmul_broadcast",
            Self::Rows { .. } => "matmul_rows",
            Self::Tile { .. } => "matmul_tile",
            Self::Coop { .. } => "matmul_coop",
        }
    }

    pub fn needs(self) -> Needs {
        let subgroups = match self {
            Self::Broadcast { .. } | Self::Coop { .. } => true,
            Self::Rows { subgroups, .. } => subgroups,
            Self::Direct { .. } | Self::Tile { .. } => false,
        };
        let coop = matches!(self, Self::Coop { .. });
        Needs { f16: coop, subgroups, coop }
    }

    /// Whether it finishes four columns at once, which takes a number of columns that is a multiple of four.
    pub fn finishes_by_fours(self) -> bool {
        !matches!(self, Self::Rows { .. })
    }

    pub fn constants(self) -> Vec<(&'static str, Value)> {
        let constants: &[(&'static str, u32)] = match self {
            Self::Direct { rows, columns, across, down } => {
                &[("ROWS", rows), ("COLUMNS", columns), ("ACROSS", across), ("DOWN", down)]
            }
            Self::Broadcast { subgroup, lent } => &[("SUBGROUP", subgroup), ("LENT", lent), ("COLUMNS", FEW_COLUMNS)],
            Self::Rows { rows, .. } => &[("ROWS", rows), ("COLUMNS", FEW_COLUMNS), ("WIDTH", ROWS_WIDTH)],
            Self::Tile { per } => &[("THREADS", TILE_THREADS), ("PER", per), ("DEPTH", tile_depth(per))],
            Self::Coop { size, across, width, subgroups } => &[
                ("SIZE", size),
                ("ACROSS", across),
                ("WIDTH", width),
                ("SUBGROUPS", subgroups),
                ("DEPTH", COOP_DEPTH),
                ("PITCH", COOP_PITCH),
            ],
        };
        let mut constants: Vec<_> = constants.iter().map(|&(name, value)| (name, Value::Int(value))).collect();
        if let Self::Rows { subgroups, .. } = self {
            constants.push(("SUBGROUPS", subgroups.into()));
        }
        constants
    }

    /// Rows and columns that a workgroup computes.
    fn tile(self) -> [u32; 2] {
        match self {
            Self::Direct { rows, columns, across, down } => [rows * down, columns * across],
            Self::Broadcast { subgroup, lent } => [subgroup * lent, subgroup * FEW_COLUMNS],
            Self::Rows { rows, .. } => [rows, FEW_COLUMNS],
            Self::Tile { per } => [TILE_THREADS * per; 2],
            Self::Coop { size, across, .. } => [2 * across * size; 2],
        }
    }

    /// Invocations of a workgroup.
    fn width(self) -> u32 {
        match self {
            Self::Direct { across, down, .. } => across * down,
            Self::Broadcast { subgroup, .. } => subgroup,
            Self::Rows { .. } => ROWS_WIDTH,
            Self::Tile { .. } => TILE_THREADS * TILE_THREADS,
            Self::Coop { width, .. } => width,
        }
    }

    /// Bytes of workgroup memory.
    fn workgroup_memory(self) -> u32 {
        let [rows, columns] = self.tile();
        match self {
            Self::Direct { .. } | Self::Broadcast { .. } => 0,
            Self::Rows { .. } => rows * columns * (ROWS_WIDTH + 1) * 4,
            Self::Tile { per } => (rows + columns) * tile_depth(per) * 4,
            Self::Coop { size, subgroups, .. } => (rows + columns) * COOP_PITCH * 2 + subgroups * size * size * 4,
        }
    }

    /// Workgroups for so many rows and columns.
    pub fn groups(self, rows: usize, columns: usize) -> usize {
        let [down, across] = self.tile().map(|side| side as usize);
        rows.div_ceil(down) * columns.div_ceil(across)
    }
}

/// Elements of K that `tile.wgsl` stages at a time: a block of 4 x 4 for each invocation.
const fn tile_depth(per: u32) -> u32 {
    128 / per
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
    /// How the gate's rows are shared out, if there is one.
    pub gate: Option<Repeat>,
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
    let gate = f32.gate.unwrap_or(Repeat { rows: 1, each: 1 });
    let gate_whole = gate.rows as u64 * bytes.f32 <= profile.max_binding;
    if !gate_whole && gate.each > 1 {
        // As many as the frames of a video, of a few KiB: all that can be is a device with bindings of under a MiB.
        return Err(format!("a gate of {} rows of {} bytes does not fit a binding", gate.rows, bytes.f32));
    }
    // With a gate that has to be windowed like the rows, no part may reach from its last row to its first again.
    let block = if gate_whole { size.rows } else { gate.rows };
    let by_row: &[u64] = if f32.residual { &[bytes.x, bytes.y, bytes.f32] } else { &[bytes.x, bytes.y] };
    let mut rows = Steps::new(block, by_row, profile)?;
    let mut columns = Steps::new(size.columns, &[bytes.w], profile)?;
    if block < size.rows && !block.is_multiple_of(rows.aligned) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element of y is in one part, and every window begins where one can and fits.
    #[test]
    fn parts_cover_and_fit() {
        let floor = DeviceProfile::webgpu_floor();
        let small = DeviceProfile { max_binding: 256 << 10, dispatch_flops: 1e8, ..floor.clone() };
        for profile in [&floor, &small] {
            for (rows, depth, columns, gate) in [
                (1, 1, 1, None),
                (32_760, 1536, 1536, Some(1)),
                (2_000, 77, 333, Some(2_000)),
                (512, 4096, 1536, None),
                (3, 1500, 8961, Some(3)),
            ] {
                let size = Size { rows, columns, depth };
                let bytes = RowBytes {
                    x: 4 * depth as u64,
                    w: 2 * depth as u64,
                    y: 4 * columns as u64,
                    f32: 4 * columns as u64,
                };
                let parts = parts(
                    size,
                    &bytes,
                    &F32Rows { residual: gate.is_some(), gate: gate.map(|rows| Repeat { rows, each: 1 }) },
                    profile,
                )
                .expect("fits");
                let covered: usize = parts.iter().map(|part| part.rows.len() * part.columns.len()).sum();
                assert_eq!(covered, rows * columns, "{size:?}");
                for (at, part) in parts.iter().enumerate() {
                    let mut windows = vec![(&part.rows, bytes.x), (&part.rows, bytes.y), (&part.columns, bytes.w)];
                    windows.extend(part.gate.as_ref().map(|rows| (rows, bytes.f32)));
                    for (range, bytes) in windows {
                        assert!(range.len() as u64 * bytes <= profile.max_binding, "{size:?}: {part:?}");
                        assert_eq!(range.start as u64 * bytes % profile.offset_alignment, 0, "{size:?}: {part:?}");
                    }
                    let apart = |other: &Part| {
                        let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
                        !meet(&part.rows, &other.rows) || !meet(&part.columns, &other.columns)
                    };
                    assert!(parts.iter().take(at).all(apart), "{size:?}: {part:?} is computed twice");
                }
            }
        }
    }

    #[test]
    fn variants_follow_size_type_and_device() {
        let size = |rows| Size { rows, columns: 1536, depth: 1536 };
        let gpu = DeviceProfile {
            kind: DeviceKind::Discrete,
            max_workgroup_memory: 48 << 10,
            f16: true,
            subgroups: Some((32, 32)),
            coop: Some(crate::graph::CoopMatrix { size: 16 }),
            ..DeviceProfile::webgpu_floor()
        };
        let label = |rows, x, profile: &DeviceProfile| choose(size(rows), x, profile).label();
        assert_eq!(label(1, DType::F32, &gpu), "matmul_rows");
        assert_eq!(label(1560, DType::F32, &gpu), "matmul_tile", "f32 is multiplied in f32");
        assert_eq!(label(1560, DType::F16, &gpu), "matmul_coop");
        assert_eq!(label(1560, DType::F16, &DeviceProfile { coop: None, ..gpu.clone() }), "matmul_tile");
        let software = DeviceProfile { kind: DeviceKind::Cpu, subgroups: Some((8, 8)), ..gpu };
        assert_eq!(label(1560, DType::F16, &software), "matmul_broadcast");
        assert_eq!(label(1560, DType::F32, &DeviceProfile { subgroups: None, ..software }), "matmul_direct");
        let wide = |rows| choose(size(rows), DType::F32, &DeviceProfile::webgpu_floor());
        assert_eq!([wide(9), wide(32_760)], [Variant::Tile { per: 4 }, Variant::Tile { per: 8 }]);
    }
}
