//! What a device can do, as data, so that choosing variants and windows needs no device.

use crate::tensor::DType;

/// What sort of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A card with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU lent to a virtual machine.
    Virtual,
    /// A software driver.
    Cpu,
    /// Unknown.
    Other,
}

/// A cooperative-matrix shape: `size` x `size` tiles, f16 operands, f32 accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoopMatrix {
    /// 8 or 16.
    pub size: u32,
}

/// Limits and abilities of a device. Kernels choose by it and by nothing else; tests run with it shrunk.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceProfile {
    /// The adapter's name.
    pub name: String,
    /// The API behind it (`vulkan`, `metal`, `dx12`, `webgpu`).
    pub backend: String,
    /// What sort of device it is.
    pub kind: DeviceKind,
    /// Largest storage binding in bytes.
    pub max_binding: u64,
    /// Largest buffer in bytes.
    pub max_buffer: u64,
    /// Storage buffers that one dispatch may bind.
    pub max_storage_buffers: u32,
    /// Bytes of workgroup memory.
    pub max_workgroup_memory: u32,
    /// Invocations of a workgroup.
    pub max_invocations: u32,
    /// Workgroups in one dimension.
    pub max_groups: u32,
    /// A window's start must be a multiple of this many bytes.
    pub offset_alignment: u64,
    /// Whether shaders can compute with and store `f16`.
    pub f16: bool,
    /// Least and greatest subgroup size, when subgroup operations can be used.
    pub subgroups: Option<(u32, u32)>,
    /// Cooperative matrices, when they can be used and were seen to give the right product.
    pub coop: Option<CoopMatrix>,
    /// Whether passes can be timed on the device.
    pub timestamps: bool,
    /// Bytes that all buffers together may take, where that is known beforehand: free memory of software devices, which
    /// would otherwise be killed rather than refused.
    pub memory: Option<u64>,
    /// Operations that one dispatch should not exceed by far, so that no watchdog fires and a cancel is heard.
    pub dispatch_flops: f64,
}

impl DeviceProfile {
    /// The least that WebGPU guarantees: what every kernel must be right on.
    pub fn webgpu_floor() -> Self {
        Self {
            name: "WebGPU defaults".into(),
            backend: "webgpu".into(),
            kind: DeviceKind::Other,
            max_binding: 128 << 20,
            max_buffer: 256 << 20,
            max_storage_buffers: 8,
            max_workgroup_memory: 16 << 10,
            max_invocations: 256,
            max_groups: 65_535,
            offset_alignment: 256,
            f16: false,
            subgroups: None,
            coop: None,
            timestamps: false,
            memory: None,
            dispatch_flops: 5e10,
        }
    }

    /// This profile cut down to what WebGPU guarantees.
    pub fn shrunk(&self) -> Self {
        Self { name: self.name.clone(), backend: self.backend.clone(), kind: self.kind, ..Self::webgpu_floor() }
    }

    /// The name by which shaders choose how elements of this type lie in a buffer: `f16p` is packed `f16`, two to a
    /// `u32`, for devices whose shaders cannot store `f16`.
    pub fn storage(&self, dtype: DType) -> &'static str {
        match dtype {
            DType::F16 if !self.f16 => "f16p",
            other => other.name(),
        }
    }

    /// A grid of at least `groups` workgroups within the limit of each dimension. Shaders take the linear index as
    /// `wid.x + wid.y * num_workgroups.x` and must ignore those past the end.
    pub fn grid(&self, groups: usize) -> Result<[u32; 3], String> {
        let most = self.max_groups as usize;
        if groups <= most {
            return Ok([groups.max(1) as u32, 1, 1]);
        }
        let y = groups.div_ceil(most);
        let x = groups.div_ceil(y);
        if y > most {
            return Err(format!("{groups} workgroups are more than the device can dispatch"));
        }
        Ok([x as u32, y as u32, 1])
    }

    /// How many of `rows` rows of `row_bytes` each fit one binding, every window starting on an aligned byte; `rows`
    /// when all do.
    ///
    /// # Errors
    /// When even the fewest rows that keep the alignment are larger than a binding may be.
    pub fn window_rows(&self, rows: usize, row_bytes: u64) -> Result<usize, String> {
        if rows as u64 * row_bytes <= self.max_binding {
            return Ok(rows.max(1));
        }
        let step = self.offset_alignment / gcd(self.offset_alignment, row_bytes.max(1));
        let most = self.max_binding / row_bytes.max(1) / step * step;
        if most == 0 {
            return Err(format!(
                "rows of {row_bytes} bytes do not fit the device's largest binding of {} bytes",
                self.max_binding
            ));
        }
        Ok(most as usize)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_start_aligned_and_fit() {
        let profile = DeviceProfile { max_binding: 4096, ..DeviceProfile::webgpu_floor() };
        for row_bytes in [4, 20, 52, 64, 256] {
            let rows = profile.window_rows(100_000, row_bytes).expect("fits");
            assert!(
                rows as u64 * row_bytes <= 4096 && (rows as u64 * row_bytes).is_multiple_of(256),
                "{row_bytes}: {rows}"
            );
        }
        assert_eq!(profile.window_rows(10, 400), Ok(10), "what fits whole needs no alignment");
        assert!(profile.window_rows(100, 4097).is_err());
    }

    #[test]
    fn grids_cover_and_stay_within_limits() {
        let profile = DeviceProfile::webgpu_floor();
        for groups in [0, 1, 65_535, 65_536, 1_000_003] {
            let [x, y, z] = profile.grid(groups).expect("fits");
            assert!(x <= 65_535 && y <= 65_535 && z == 1 && (x as usize) * (y as usize) >= groups.max(1));
        }
    }
}
