//! What naga makes of a shader: is it valid with what it says it needs, what does it declare, does it translate.

use std::collections::BTreeMap;

use mutoscope::graph::{Access, Needs};
use naga::back::{hlsl, msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy, Layouter};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// A valid shader.
pub struct Checked {
    module: naga::Module,
    info: ModuleInfo,
    capabilities: Capabilities,
}

/// A resource that a shader declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A storage buffer.
    Storage(Access),
    /// A uniform block of so many 32-bit words.
    Uniform(u32),
}

/// What a shader declares.
#[derive(Clone, Debug)]
pub struct Reflection {
    /// Resources by `@binding`, with their names and whether the shader uses them; all of `@group(0)`.
    pub resources: BTreeMap<u32, (Resource, String, bool)>,
    /// `@workgroup_size`.
    pub size: [u32; 3],
    /// Bytes of workgroup memory, each variable rounded up to 16, as WebGPU counts.
    pub workgroup_memory: u32,
}

/// The capabilities of a device that has what `needs` says, and nothing else. Every device converts between f16 and
/// packed integers.
fn capabilities(needs: Needs) -> Capabilities {
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SHADER_FLOAT16, needs.f16);
    // DirectX has no barriers over subgroups, so they are never to be used.
    capabilities.set(Capabilities::SUBGROUP, needs.subgroups);
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, needs.coop);
    capabilities
}

/// Parses and validates a shader with no other capabilities than it says it needs.
pub fn check(text: &str, needs: Needs) -> Result<Checked, String> {
    let capabilities = capabilities(needs);
    let options = naga::front::wgsl::Options { parse_doc_comments: false, capabilities };
    let module = naga::front::wgsl::Frontend::new_with_options(options)
        .parse(text)
        .map_err(|error| error.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .map_err(|error| error.emit_to_string(text))?;
    Ok(Checked { module, info, capabilities })
}

impl Checked {
    /// What it declares.
    pub fn reflect(&self) -> Result<Reflection, String> {
        let module = &self.module;
        let [entry] = module.entry_points.as_slice() else { return Err("not one entry point".into()) };
        if entry.name != "main" || entry.stage != naga::ShaderStage::Compute {
            return Err(format!("the entry point is {} of {:?}", entry.name, entry.stage));
        }
        let uses = self.info.get_entry_point(0);
        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).map_err(|error| error.to_string())?;
        let mut resources = BTreeMap::new();
        let mut workgroup_memory = 0;
        for (handle, variable) in module.global_variables.iter() {
            let size = layouter[variable.ty].size;
            let resource = match variable.space {
                naga::AddressSpace::Storage { access } => {
                    let write = access.contains(naga::StorageAccess::STORE);
                    Resource::Storage(if write { Access::ReadWrite } else { Access::Read })
                }
                naga::AddressSpace::Uniform => {
                    words_only(module, variable.ty)?;
                    Resource::Uniform(size / 4)
                }
                naga::AddressSpace::WorkGroup => {
                    workgroup_memory += size.next_multiple_of(16);
                    continue;
                }
                naga::AddressSpace::Private => continue,
                other => return Err(format!("a variable in {other:?}")),
            };
            let binding = variable.binding.ok_or("a resource without a binding")?;
            let name = variable.name.clone().unwrap_or_default();
            let used = !uses[handle].is_empty();
            if binding.group != 0 || resources.insert(binding.binding, (resource, name, used)).is_some() {
                return Err(format!(
                    "binding {} of group {}: twice, or not in group 0",
                    binding.binding, binding.group
                ));
            }
        }
        Ok(Reflection { resources, size: entry.workgroup_size, workgroup_memory })
    }

    /// Whether naga can write HLSL of it at all.
    pub fn has_hlsl(&self) -> bool {
        hlsl::supported_capabilities().contains(self.capabilities)
    }

    /// Translates it as `wgpu` does for Vulkan, DirectX 12 and Metal, with run-time checks and without.
    pub fn translate(&self, reflection: &Reflection) -> Result<(), String> {
        for policy in [BoundsCheckPolicy::Unchecked, BoundsCheckPolicy::Restrict] {
            let checked = policy != BoundsCheckPolicy::Unchecked;
            let policies = BoundsCheckPolicies { index: policy, buffer: policy, ..Default::default() };
            self.to_spirv(policies, checked).map_err(|error| format!("SPIR-V: {error}"))?;
            self.to_msl(reflection, policies, checked).map_err(|error| format!("MSL: {error}"))?;
            if self.has_hlsl() {
                self.to_hlsl(checked).map_err(|error| format!("HLSL: {error}"))?;
            }
        }
        Ok(())
    }

    fn to_spirv(&self, bounds_check_policies: BoundsCheckPolicies, checked: bool) -> Result<(), String> {
        let options = spv::Options {
            lang_version: (1, if self.capabilities.contains(Capabilities::SUBGROUP) { 3 } else { 1 }),
            bounds_check_policies,
            force_loop_bounding: checked,
            ..Default::default()
        };
        let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
        let words = spv::write_vec(&self.module, &self.info, &options, Some(&entry)).map_err(|e| e.to_string())?;
        if words.len() < 5 { Err("nothing was written".into()) } else { Ok(()) }
    }

    fn to_hlsl(&self, checked: bool) -> Result<(), String> {
        // What needs nothing must also do for FXC, which ends at 5.1.
        let f16 = self.capabilities.contains(Capabilities::SHADER_FLOAT16);
        let shader_model = match self.capabilities.contains(Capabilities::SUBGROUP) {
            _ if f16 => hlsl::ShaderModel::V6_2,
            true => hlsl::ShaderModel::V6_0,
            false => hlsl::ShaderModel::V5_1,
        };
        let options = hlsl::Options {
            shader_model,
            special_constants_binding: Some(hlsl::BindTarget { space: 1, ..Default::default() }),
            restrict_indexing: checked,
            force_loop_bounding: checked,
            ..Default::default()
        };
        let entry = hlsl::PipelineOptions { entry_point: Some((naga::ShaderStage::Compute, "main".into())) };
        let mut text = String::new();
        let written = hlsl::Writer::new(&mut text, &options, &entry)
            .write(&self.module, &self.info, None)
            .map_err(|error| error.to_string())?;
        match written.entry_point_names.as_slice() {
            [Ok(_)] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    fn to_msl(
        &self,
        reflection: &Reflection,
        bounds_check_policies: BoundsCheckPolicies,
        checked: bool,
    ) -> Result<(), String> {
        let slot = |(&binding, (resource, ..)): (&u32, &(Resource, String, bool))| {
            let target = msl::BindTarget {
                buffer: Some(binding as u8),
                mutable: *resource == Resource::Storage(Access::ReadWrite),
                ..Default::default()
            };
            (naga::ResourceBinding { group: 0, binding }, target)
        };
        let resources = msl::EntryPointResources {
            resources: reflection.resources.iter().map(slot).collect(),
            immediates_buffer: None,
            sizes_buffer: Some(reflection.resources.len() as u8),
        };
        let options = msl::Options {
            lang_version: (2, 4),
            per_entry_point_map: [("main".to_owned(), resources)].into(),
            fake_missing_bindings: false,
            bounds_check_policies,
            force_loop_bounding: checked,
            ..Default::default()
        };
        let entry = msl::PipelineOptions {
            entry_point: Some((naga::ShaderStage::Compute, "main".into())),
            ..Default::default()
        };
        let (_, translated) =
            msl::write_string(&self.module, &self.info, &options, &entry).map_err(|error| error.to_string())?;
        match translated.entry_point_names.as_slice() {
            [Ok(_)] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }
}

/// A uniform block is a struct of 32-bit scalars, since dispatches give words.
fn words_only(module: &naga::Module, ty: naga::Handle<naga::Type>) -> Result<(), String> {
    let naga::TypeInner::Struct { members, .. } = &module.types[ty].inner else {
        return Err("the uniform is not a struct".into());
    };
    for (i, member) in members.iter().enumerate() {
        let name = member.name.clone().unwrap_or_default();
        match module.types[member.ty].inner {
            naga::TypeInner::Scalar(scalar) if scalar.width == 4 && member.offset == 4 * i as u32 => {}
            _ => return Err(format!("`{name}` of the uniform block is not its word {i}")),
        }
    }
    Ok(())
}
