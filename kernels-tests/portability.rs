//! Every kernel's dispatches, on devices of many kinds, without a device: each shader is valid with what it says it
//! needs and translates for Vulkan, DirectX 12 and Metal; what it declares is what the dispatch binds; grids, windows
//! and workgroups stay within the device's limits.

mod profiles;
mod translate;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use mutoscope::graph::{
    Access, Binding, Call, DeviceProfile, Dispatch, Launch, Needs, Operand, Shader, TensorType, render,
};
use mutoscope::kernels::{ALL, Case};
use mutoscope::tensor::DType;
use translate::{Reflection, Resource};

/// Labels of shaders that naga cannot write HLSL of: it has none for cooperative matrices, and no profile of a device
/// under DirectX claims them.
const NO_HLSL: &[&str] = &["attention_coop", "matmul_coop"];

/// Shaders by what they are made of, each rendered, validated and translated once.
#[derive(Default)]
pub struct Shaders {
    known: HashMap<Shader, Result<Arc<Reflection>, String>>,
    texts: HashSet<String>,
    /// Labels of those without HLSL.
    no_hlsl: BTreeSet<&'static str>,
}

impl Shaders {
    fn get(&mut self, shader: &Shader) -> Result<Arc<Reflection>, String> {
        if let Some(known) = self.known.get(shader) {
            return known.clone();
        }
        let result = self.check(shader).map(Arc::new);
        self.known.insert(shader.clone(), result.clone());
        result
    }

    fn check(&mut self, shader: &Shader) -> Result<Reflection, String> {
        let text = render(shader)?;
        let checked = translate::check(&text, shader.needs)?;
        let reflection = checked.reflect()?;
        if !checked.has_hlsl() {
            self.no_hlsl.insert(shader.label);
        }
        if self.texts.insert(text) {
            checked.translate(&reflection)?;
        }
        Ok(reflection)
    }
}

/// One use of a kernel.
pub struct Use {
    /// Types of its inputs.
    pub inputs: Vec<TensorType>,
    /// Type of its output.
    pub output: TensorType,
}

impl Use {
    fn of(case: &Case) -> Result<Self, String> {
        let inputs: Vec<TensorType> = case.inputs.iter().map(|input| input.ty()).collect();
        let output = case.kernel.infer(&inputs)?;
        Ok(Self { inputs, output })
    }

    fn call(&self) -> Call<'_> {
        Call { inputs: &self.inputs, output: self.output }
    }

    /// Whether activations are stored in f16, which takes a device that has it: weights, which come second, need not be.
    fn activations_f16(&self) -> bool {
        self.output.dtype == DType::F16 || self.inputs[0].dtype == DType::F16
    }

    /// Bytes of what a binding binds.
    fn bytes(&self, operand: Operand, launch: &Launch) -> Result<u64, String> {
        match operand {
            Operand::Input(i) => self.inputs.get(i).map(TensorType::bytes).ok_or(format!("there is no input {i}")),
            Operand::Output => Ok(self.output.bytes()),
            Operand::Scratch(i) => launch.scratch.get(i).copied().ok_or(format!("there is no scratch {i}")),
        }
    }
}

/// What is wrong with a dispatch on a device.
pub fn audit(
    dispatch: &Dispatch,
    launch: &Launch,
    used: &Use,
    profile: &DeviceProfile,
    shaders: &mut Shaders,
) -> Result<(), String> {
    let shader = &dispatch.shader;
    let Needs { f16, subgroups, coop } = shader.needs;
    if (f16 && !profile.f16) || (subgroups && profile.subgroups.is_none()) || (coop && profile.coop.is_none()) {
        return Err(format!("the device lacks what it needs: {:?}", shader.needs));
    }
    let reflection = shaders.get(shader)?;
    let threads: u32 = reflection.size.iter().product();
    let [x, y, z] = reflection.size;
    if threads == 0 || threads > profile.max_invocations || x > 256.max(profile.max_invocations) || y > 256 || z > 64 {
        return Err(format!("a workgroup of {:?}", reflection.size));
    }
    if reflection.workgroup_memory > profile.max_workgroup_memory {
        return Err(format!("{} bytes of workgroup memory", reflection.workgroup_memory));
    }
    if dispatch.groups.iter().any(|&groups| groups == 0 || groups > profile.max_groups) {
        return Err(format!("a grid of {:?}", dispatch.groups));
    }
    declared(dispatch, &reflection)?;
    if dispatch.bindings.len() > profile.max_storage_buffers as usize {
        return Err(format!("{} storage buffers", dispatch.bindings.len()));
    }
    for (i, Binding { operand, window, access }) in dispatch.bindings.iter().enumerate() {
        let bytes = used.bytes(*operand, launch)?;
        let window = window.clone().unwrap_or(0..bytes);
        // Devices move whole words, so the window of 16-bit elements may end in the middle of none.
        if window.start >= window.end || window.end > bytes.next_multiple_of(4) {
            return Err(format!("binding {i}: a window {window:?} of {bytes} bytes"));
        }
        if window.start % profile.offset_alignment != 0 {
            return Err(format!("binding {i}: the window {window:?} does not start aligned"));
        }
        if window.end - window.start > profile.max_binding {
            return Err(format!("binding {i}: the window {window:?} is larger than a binding may be"));
        }
        if matches!(operand, Operand::Input(_)) && *access == Access::ReadWrite {
            return Err(format!("binding {i}: an input is written"));
        }
        // Usage is tracked per buffer: one that is written can be bound only once.
        let same = dispatch.bindings.iter().filter(|other| other.operand == *operand).count();
        if *access == Access::ReadWrite && same > 1 {
            return Err(format!("binding {i}: {operand:?} is written and bound again"));
        }
    }
    Ok(())
}

/// Whether a shader declares what the dispatch binds: the storage buffers in order, then the uniform block.
fn declared(dispatch: &Dispatch, reflection: &Reflection) -> Result<(), String> {
    let words = dispatch.params.len() as u32;
    let uniform = (words > 0).then_some(Resource::Uniform(words));
    let wanted: Vec<Resource> =
        dispatch.bindings.iter().map(|binding| Resource::Storage(binding.access)).chain(uniform).collect();
    if reflection.resources.len() != wanted.len() {
        let names: Vec<&String> = reflection.resources.values().map(|(_, name, _)| name).collect();
        return Err(format!("{} resources for the shader's {names:?}", wanted.len()));
    }
    let mut names = HashSet::new();
    for (i, ((&at, (declared, name, used)), wanted)) in reflection.resources.iter().zip(&wanted).enumerate() {
        let same = match (declared, wanted) {
            // A uniform block may end in padding to 16 bytes.
            (Resource::Uniform(a), Resource::Uniform(b)) => a.next_multiple_of(4) == b.next_multiple_of(4) && a <= b,
            _ => declared == wanted,
        };
        if at != i as u32 || !same {
            return Err(format!("binding {at}: `{name}` is {declared:?}, the dispatch's {i} is {wanted:?}"));
        }
        if !used {
            return Err(format!("binding {at}: `{name}` is bound and not used"));
        }
        if !names.insert(name) {
            return Err(format!("binding {at}: a second `{name}`"));
        }
    }
    Ok(())
}

#[test]
fn every_shader_is_fit_for_every_device() {
    let mut shaders = Shaders::default();
    let mut failures = BTreeMap::new();
    let (mut uses, mut dispatches) = (0, 0);
    for profile in profiles::all() {
        let before = uses;
        for op in ALL {
            for case in (op.cases)() {
                let mut fail = |reason: String| {
                    failures.entry((op.name, reason)).or_insert(format!("{} on {}", case.label, profile.name));
                };
                let used = match Use::of(&case) {
                    Ok(used) => used,
                    Err(reason) => {
                        fail(reason);
                        continue;
                    }
                };
                let launch = match case.kernel.launch(&used.call(), &profile) {
                    Ok(launch) => launch,
                    // The one thing that a device may lack: nothing could run it.
                    Err(_) if used.activations_f16() && !profile.f16 => continue,
                    Err(reason) => {
                        fail(format!("refused: {reason}"));
                        continue;
                    }
                };
                if launch.dispatches.is_empty() {
                    fail("nothing is dispatched".into());
                }
                uses += 1;
                for dispatch in &launch.dispatches {
                    dispatches += 1;
                    if let Err(reason) = audit(dispatch, &launch, &used, &profile, &mut shaders) {
                        fail(format!("{}: {reason}", dispatch.shader.label));
                    }
                }
            }
        }
        assert!(uses > before, "no kernel ran on {}", profile.name);
    }
    println!("{} shaders in {dispatches} dispatches of {uses} uses of {} kernels", shaders.texts.len(), ALL.len());
    assert!(shaders.texts.len() > ALL.len() / 2 && uses > 0, "hardly anything was looked at");
    let list: Vec<String> =
        failures.iter().map(|((kernel, reason), place)| format!("{kernel} ({place}): {reason}")).collect();
    assert!(list.is_empty(), "{} faults:\n{}", list.len(), list.join("\n"));
    let no_hlsl: Vec<&str> = shaders.no_hlsl.iter().copied().collect();
    assert_eq!(no_hlsl, NO_HLSL, "the list of what has no HLSL is not true");
}

/// A use of `add` with its launch on the floor: sound, to be spoilt.
fn sound() -> (Use, Launch, DeviceProfile) {
    let profile = DeviceProfile::webgpu_floor();
    let add = ALL.iter().find(|op| op.name == "add").expect("add is a kernel");
    let f32_only = |case: &Case| Use::of(case).is_ok_and(|used| !used.activations_f16());
    let case = (add.cases)().into_iter().rfind(f32_only).expect("a case in f32");
    let used = Use::of(&case).expect("its own case");
    let launch = case.kernel.launch(&used.call(), &profile).expect("its own case");
    (used, launch, profile)
}

/// Spoils a sound dispatch and expects the audit to say so.
#[track_caller]
fn spoilt(expected: &str, spoil: impl FnOnce(&mut Dispatch, &mut DeviceProfile)) {
    let (used, launch, mut profile) = sound();
    let mut dispatch = launch.dispatches[0].clone();
    audit(&dispatch, &launch, &used, &profile, &mut Shaders::default()).expect("sound before it is spoilt");
    spoil(&mut dispatch, &mut profile);
    let reason = audit(&dispatch, &launch, &used, &profile, &mut Shaders::default()).expect_err("spoilt");
    assert!(reason.contains(expected), "`{reason}` does not speak of `{expected}`");
}

#[test]
fn faults_are_found() {
    let end = |binding: &Binding| binding.window.clone().expect("add binds windows").end;
    spoilt("resources for", |d, _| d.bindings.push(Binding::input(0)));
    spoilt("resources for", |d, _| d.params.clear());
    spoilt("binding 0", |d, _| d.bindings[0].access = Access::ReadWrite);
    spoilt("binding 2", |d, _| d.bindings[2].access = Access::Read);
    spoilt("Uniform", |d, _| d.params.extend([0; 4]));
    spoilt("there is no input 2", |d, _| d.bindings[0].operand = Operand::Input(2));
    spoilt("there is no scratch 0", |d, _| d.bindings[0].operand = Operand::Scratch(0));
    spoilt("is written and bound again", |d, _| d.bindings[0].operand = Operand::Output);
    spoilt("an input is written", |d, _| d.bindings[2].operand = Operand::Input(0));
    spoilt("a window", |d, _| d.bindings[0].window = Some(0..end(&d.bindings[0]) + 4));
    spoilt("a window", |d, _| d.bindings[0].window = Some(4..4));
    spoilt("does not start aligned", |d, _| d.bindings[0].window = Some(4..end(&d.bindings[0])));
    spoilt("larger than a binding", |_, p| p.max_binding = 64);
    spoilt("storage buffers", |_, p| p.max_storage_buffers = 2);
    spoilt("a grid of", |d, _| d.groups[1] = 65_536);
    spoilt("a grid of", |d, _| d.groups[2] = 0);
    spoilt("a workgroup of", |_, p| p.max_invocations = 32);
    spoilt("the device lacks", |d, _| d.shader.needs.f16 = true);
    spoilt("undefined", |d, _| {
        let constants = &d.shader.constants;
        d.shader.constants = constants[..constants.len() - 1].into();
    });
    spoilt("error", |d, _| d.shader.source.text = "@compute @workgroup_size(64) fn main() { let x = 1u + 1.0f; }");
}

#[test]
fn abilities_that_are_not_declared_are_found() {
    let f16 = "@group(0) @binding(0) var<storage, read_write> y: array<f16>;
        @compute @workgroup_size(1) fn main() { y[0] = 1.0h; }";
    let subgroup = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(32) fn main() { y[0] = subgroupAdd(1.0); }";
    let coop = "@group(0) @binding(0) var<storage, read_write> y: array<f32>;
        @compute @workgroup_size(32) fn main() { let c = coop_mat8x8<f32, C>(); coopStoreT(c, &y[0], 8); }";
    let enabled_f16 = format!("enable f16;\n{f16}");
    let enabled_coop = format!("enable wgpu_cooperative_matrix;\n{coop}");
    let needs = |f16, subgroups, coop| Needs { f16, subgroups, coop };
    for (text, right) in [
        (&*enabled_f16, needs(true, false, false)),
        (subgroup, needs(false, true, false)),
        (&*enabled_coop, needs(false, false, true)),
    ] {
        let checked = translate::check(text, right).expect("declared");
        checked.translate(&checked.reflect().expect("plain")).expect("translates");
        assert_eq!(checked.has_hlsl(), !right.coop);
        assert!(translate::check(text, Needs::default()).is_err(), "{text}");
    }
    assert!(translate::check(f16, needs(true, false, false)).is_err(), "f16 without its enable");
}

#[test]
fn workgroup_memory_and_uniform_layouts_are_measured() {
    let text = |params: &str| {
        format!(
            "struct Params {{ {params} }}
            var<workgroup> a: array<f32, 5>;
            var<workgroup> b: array<vec4<f32>, 3>;
            @group(0) @binding(0) var<storage, read_write> y: array<f32>;
            @group(0) @binding(1) var<uniform> p: Params;
            @compute @workgroup_size(4, 2) fn main() {{ a[0] = 1.0; b[0] = vec4<f32>(); y[0] = a[0] + f32(p.n); }}"
        )
    };
    let reflect = |params: &str| {
        let checked = translate::check(&text(params), Needs::default()).expect("valid");
        checked.reflect()
    };
    let reflection = reflect("n: u32, scale: f32, rows: i32").expect("plain");
    assert_eq!(reflection.workgroup_memory, 32 + 48);
    assert_eq!(reflection.size, [4, 2, 1]);
    assert_eq!(reflection.resources[&1].0, Resource::Uniform(3));
    assert!(reflect("n: u32, at: vec3<u32>").is_err(), "words with gaps between them");
}
