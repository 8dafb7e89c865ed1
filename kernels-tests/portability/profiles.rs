//! Devices that kernels must be fit for: like real ones, and smaller than any.

use mutoscope::graph::{CoopMatrix, DeviceKind, DeviceProfile};

/// Profiles as `gpu` would make them of such devices, and some that no device has but every one contains.
pub fn all() -> Vec<DeviceProfile> {
    let floor = DeviceProfile::webgpu_floor();
    let card = DeviceProfile {
        name: "a card with matrix units".into(),
        backend: "vulkan".into(),
        kind: DeviceKind::Discrete,
        max_binding: (1 << 31) - 4,
        max_buffer: 1 << 40,
        memory: None,
        max_storage_buffers: 1 << 20,
        max_workgroup_memory: 48 << 10,
        max_invocations: 1024,
        max_groups: 65_535,
        offset_alignment: 16,
        f16: true,
        subgroups: Some((32, 32)),
        coop: Some(CoopMatrix { size: 16 }),
        timestamps: true,
        dispatch_flops: 5e11,
    };
    let shared = DeviceProfile {
        name: "a GPU in a laptop's processor".into(),
        kind: DeviceKind::Integrated,
        subgroups: Some((8, 32)),
        coop: None,
        max_buffer: (1 << 31) - 1,
        max_workgroup_memory: 64 << 10,
        dispatch_flops: 5e10,
        ..card.clone()
    };
    let software = DeviceProfile {
        name: "a software driver".into(),
        kind: DeviceKind::Cpu,
        max_binding: 128 << 20,
        max_buffer: (1 << 31) - 1,
        max_storage_buffers: 8_000,
        max_workgroup_memory: 32 << 10,
        subgroups: Some((8, 8)),
        coop: None,
        dispatch_flops: 2e9,
        ..card.clone()
    };
    let small =
        DeviceProfile { name: "small windows".into(), max_binding: 256 << 10, max_groups: 300, ..floor.clone() };
    vec![
        DeviceProfile { name: "a card with wide subgroups".into(), subgroups: Some((32, 64)), ..card.clone() },
        DeviceProfile {
            name: "a card under DirectX 12".into(),
            backend: "dx12".into(),
            max_workgroup_memory: 32 << 10,
            coop: None,
            offset_alignment: 256,
            ..card.clone()
        },
        DeviceProfile {
            name: "a card under DirectX 12 without DXC".into(),
            backend: "dx12".into(),
            max_workgroup_memory: 32 << 10,
            f16: false,
            subgroups: None,
            coop: None,
            offset_alignment: 256,
            ..card.clone()
        },
        DeviceProfile {
            name: "an Apple GPU".into(),
            backend: "metal".into(),
            kind: DeviceKind::Integrated,
            max_storage_buffers: 29,
            max_workgroup_memory: 32 << 10,
            coop: Some(CoopMatrix { size: 8 }),
            offset_alignment: 32,
            dispatch_flops: 5e10,
            ..card.clone()
        },
        DeviceProfile { name: "an old GPU without f16".into(), f16: false, subgroups: None, ..shared.clone() },
        shared,
        DeviceProfile {
            name: "a software driver with cooperative matrices".into(),
            coop: Some(CoopMatrix { size: 8 }),
            ..software.clone()
        },
        DeviceProfile {
            name: "a software driver without f16".into(),
            f16: false,
            subgroups: Some((4, 4)),
            ..software.clone()
        },
        software,
        DeviceProfile { name: "a browser with f16".into(), f16: true, ..floor.clone() },
        floor,
        // Not so small: rows of an odd number of f16 elements start aligned only at every 128th.
        DeviceProfile { name: "small windows with f16".into(), f16: true, max_binding: 1 << 20, ..small.clone() },
        DeviceProfile {
            name: "small windows with all abilities".into(),
            max_binding: 1 << 20,
            max_groups: small.max_groups,
            offset_alignment: 256,
            max_workgroup_memory: 16 << 10,
            max_invocations: 256,
            max_storage_buffers: 8,
            ..card.clone()
        },
        small,
        card,
    ]
}
