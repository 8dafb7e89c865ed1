//! From what a driver claims to a [`DeviceProfile`]; claims that drivers get wrong are tried first.

use crate::graph::{CoopMatrix, DeviceKind, DeviceProfile};

/// Optional features that the engine makes use of.
pub fn wanted_features() -> wgpu::Features {
    wgpu::Features::SHADER_F16
        | wgpu::Features::SUBGROUP
        | wgpu::Features::TIMESTAMP_QUERY
        | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
}

pub fn kind(device_type: wgpu::DeviceType) -> DeviceKind {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
        wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
        wgpu::DeviceType::Cpu => DeviceKind::Cpu,
        wgpu::DeviceType::Other => DeviceKind::Other,
    }
}

/// The profile of a device with these features and limits, without cooperative matrices: see [`coop`].
pub fn profile(info: &wgpu::AdapterInfo, features: wgpu::Features, limits: &wgpu::Limits) -> DeviceProfile {
    let kind = kind(info.device_type);
    DeviceProfile {
        name: info.name.clone(),
        backend: info.backend.to_str().to_owned(),
        kind,
        max_binding: limits.max_storage_buffer_binding_size,
        max_buffer: limits.max_buffer_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_workgroup_memory: limits.max_compute_workgroup_storage_size,
        max_invocations: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
        max_groups: limits.max_compute_workgroups_per_dimension,
        offset_alignment: u64::from(limits.min_storage_buffer_offset_alignment.max(16)),
        f16: features.contains(wgpu::Features::SHADER_F16),
        subgroups: features
            .contains(wgpu::Features::SUBGROUP)
            .then_some((info.subgroup_min_size, info.subgroup_max_size)),
        coop: None,
        timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        memory: match kind {
            DeviceKind::Cpu | DeviceKind::Integrated => free_memory(),
            _ => None,
        },
        dispatch_flops: match kind {
            DeviceKind::Cpu => 2e9,
            DeviceKind::Discrete => 5e11,
            DeviceKind::Integrated | DeviceKind::Virtual | DeviceKind::Other => 5e10,
        },
    }
}

/// Bytes of an adapter's own memory that a run can count on, where the driver tells: nine tenths of it, since other programs
/// and the driver itself use some.
pub fn own_memory(adapter: &wgpu::Adapter) -> Option<u64> {
    let discrete = kind(adapter.get_info().device_type) == DeviceKind::Discrete;
    let largest = if discrete { largest_local_heap(adapter) } else { None };
    largest.map(|bytes| bytes / 10 * 9)
}

#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn largest_local_heap(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the adapter is only asked for its handles, which live as long as it does; none is destroyed here.
    let adapter = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let instance = adapter.shared_instance().raw_instance();
    // SAFETY: the physical device is this instance's.
    let memory = unsafe { instance.get_physical_device_memory_properties(adapter.raw_physical_device()) };
    const DEVICE_LOCAL: u32 = 1; // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(not(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn largest_local_heap(_adapter: &wgpu::Adapter) -> Option<u64> {
    None
}

/// Memory that the machine can still give, where the system tells.
fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// The cooperative-matrix shape to use, if one of those offered gives the right product. A shape that a driver offers
/// without supporting it silently yields zeros on some, so each is tried with a known product.
pub fn coop(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    offered: &[wgpu::CooperativeMatrixProperties],
) -> Option<CoopMatrix> {
    let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SHADER_F16;
    if !device.features().contains(needed) || ill_famed(&device.adapter_info()) {
        return None;
    }
    [16, 8]
        .into_iter()
        .find(|&size| {
            let fits = |p: &wgpu::CooperativeMatrixProperties| {
                [p.m_size, p.n_size, p.k_size] == [size; 3]
                    && p.ab_type == wgpu::CooperativeScalarType::F16
                    && p.cr_type == wgpu::CooperativeScalarType::F32
            };
            offered.iter().any(fits) && multiplies(device, queue, size)
        })
        .map(|size| CoopMatrix { size })
}

/// Drivers that offer cooperative matrices on hardware without matrix units, where using them ends the process:
/// AMD's Windows driver on RDNA 1 and 2.
fn ill_famed(info: &wgpu::AdapterInfo) -> bool {
    const AMD: u32 = 0x1002;
    let old = ["RX 5", "RX 6", "Pro W5", "Pro W6"].iter().any(|series| info.name.contains(series));
    cfg!(windows) && info.vendor == AMD && old
}

/// Whether `size` x `size` tiles of ones and twos multiply to what they should.
fn multiplies(device: &wgpu::Device, queue: &wgpu::Queue, size: u32) -> bool {
    let text = format!(
        "enable f16;\nenable wgpu_cooperative_matrix;\n
        @group(0) @binding(0) var<storage, read_write> x: array<f16>;
        @group(0) @binding(1) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) lane: u32) {{
            for (var i = lane; i < {count}u; i += 64u) {{ x[i] = f16(i % 3u); }}
            storageBarrier();
            workgroupBarrier();
            let l = coopLoadT<coop_mat{size}x{size}<f16,A>>(&x[0], {size}u);
            let r = coopLoadT<coop_mat{size}x{size}<f16,B>>(&x[0], {size}u);
            var sum = coop_mat{size}x{size}<f32,C>();
            sum = coopMultiplyAdd(l, r, sum);
            coopStoreT(sum, &y[0], {size}u);
        }}",
        count = size * size
    );
    let run = || -> Option<Vec<f32>> {
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some("coop probe"), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let module = device.create_shader_module(descriptor);
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("coop probe"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        if pollster::block_on(scope.pop()).is_some() {
            return None;
        }
        let count = u64::from(size * size);
        let buffer = |size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        use wgpu::BufferUsages as Usage;
        let x = buffer(count * 2, Usage::STORAGE);
        let y = buffer(count * 4, Usage::STORAGE | Usage::COPY_SRC);
        let back = buffer(count * 4, Usage::MAP_READ | Usage::COPY_DST);
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: x.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: y.as_entire_binding() },
            ],
        });
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        encoder.copy_buffer_to_buffer(&y, 0, &back, 0, count * 4);
        queue.submit([encoder.finish()]);
        back.map_async(wgpu::MapMode::Read, .., |_| {});
        device.poll(wgpu::PollType::wait_indefinitely()).ok()?;
        let view = back.get_mapped_range(..).ok()?;
        Some(view.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let Some(got) = run() else { return false };
    let n = size as usize;
    let x = |row: usize, column: usize| ((row * n + column) % 3) as f32;
    (0..n * n).all(|i| {
        let want: f32 = (0..n).map(|k| x(i / n, k) * x(k, i % n)).sum();
        got[i] == want
    })
}
