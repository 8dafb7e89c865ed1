//! Compiled shaders, each compiled once per device.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::device::lock;
use crate::error::{Error, Result};
use crate::graph::{Access, Dispatch, Shader, render};

/// A compiled shader with the layout of its bindings.
pub struct Pipeline {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

type Key = (Shader, Vec<Access>, bool);

/// All pipelines of a device.
pub struct Pipelines {
    checked: bool,
    known: Mutex<HashMap<Key, Arc<Pipeline>>>,
}

impl Pipelines {
    pub fn new(checked: bool) -> Self {
        Self { checked, known: Mutex::default() }
    }

    /// The pipeline of a dispatch, compiled if this is its first use.
    pub fn get(&self, device: &wgpu::Device, dispatch: &Dispatch) -> Result<Arc<Pipeline>> {
        let access: Vec<Access> = dispatch.bindings.iter().map(|b| b.access).collect();
        let key = (dispatch.shader.clone(), access, dispatch.params.is_empty());
        if let Some(known) = lock(&self.known).get(&key) {
            return Ok(known.clone());
        }
        let pipeline = Arc::new(self.compile(device, dispatch)?);
        lock(&self.known).insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, device: &wgpu::Device, dispatch: &Dispatch) -> Result<Pipeline> {
        let label = dispatch.shader.label;
        let failed = |reason: String| Error::Kernel { kernel: label.into(), reason };
        let text = render(&dispatch.shader).map_err(failed)?;

        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(text.into()) };
        let module = if self.checked {
            device.create_shader_module(descriptor)
        } else {
            // SAFETY: the shaders are our own; every index they make stays within the bindings, which the tests hold
            // them to with sentinels around each output and in checked mode.
            unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let storage =
            dispatch.bindings.iter().map(|b| wgpu::BufferBindingType::Storage { read_only: b.access == Access::Read });
        let uniform = (!dispatch.params.is_empty()).then_some(wgpu::BufferBindingType::Uniform);
        let entries: Vec<wgpu::BindGroupLayoutEntry> = storage
            .chain(uniform)
            .enumerate()
            .map(|(i, ty)| wgpu::BindGroupLayoutEntry {
                binding: i as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            })
            .collect();
        let layout =
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: self.checked,
                ..Default::default()
            },
            cache: None,
        });
        let internal = pollster::block_on(internal.pop());
        let error = pollster::block_on(scope.pop()).or(internal);
        match error {
            None => Ok(Pipeline { pipeline, layout }),
            Some(error) => Err(failed(error.to_string())),
        }
    }
}
