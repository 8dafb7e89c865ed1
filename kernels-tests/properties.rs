//! What holds for any graph: plans keep live tensors apart, devices agree with the interpreter and with themselves,
//! cancelled programs stay usable, and nothing that is asked of a graph panics.
//!
//! Graphs are made from random steps with a fixed seed; a failure is shrunk and printed by proptest.

use std::collections::HashMap;

use mutoscope::Error;
use mutoscope::graph::{
    Bindings, Call, DeviceProfile, Graph, NodeKind, Place, Plan, Recording, TensorType, Twin, Var, interpret, plan,
};
use mutoscope::kernels::ALL;
use mutoscope::kernels::matmul::Epilogue;
use mutoscope::kernels::pointwise::Activation;
use mutoscope::ops::check::distance;
use mutoscope::tensor::{DType, HostTensor, Shape};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::device::gpu;
use crate::portability::{Shaders, Use, audit};

const SEED: u64 = 20_250_101;

fn config(cases: u32) -> Config {
    // The seed is fixed, so a failure needs no file to be found again.
    Config { cases, rng_seed: RngSeed::Fixed(SEED), failure_persistence: None, ..Config::default() }
}

/// A step of a random graph: which operation, on which of the tensors there are.
type Step = (u8, usize, usize);

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..12, 0usize..64, 0usize..64), 1..=most)
}

/// Fixed numbers between -1 and 1 that look like none in particular.
fn numbers(count: usize, salt: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + salt * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn tensor(shape: &[usize], salt: usize) -> HostTensor {
    HostTensor::from_f32(shape, &numbers(shape.iter().product(), salt))
}

/// The inputs of random graphs; `state` is assigned to.
const INPUTS: [(&str, [usize; 2]); 3] = [("x", [6, 64]), ("y", [4, 10]), ("state", [6, 64])];

/// A graph of matrices that follows random steps: chains, diamonds, views, copies, and assignments to an input.
fn random_graph(steps: &[Step]) -> Recording {
    let graph = Graph::new();
    let inputs = INPUTS.map(|(name, shape)| graph.input(name, shape, DType::F32));
    let mut vars: Vec<Var<'_>> = inputs.to_vec();
    for &(op, a, b) in steps {
        let (a, salt) = (vars[a % vars.len()], b);
        let b = vars[b % vars.len()];
        let (rows, columns) = (a.shape()[0], a.shape()[1]);
        let row = |salt| graph.constant(tensor(&[columns], salt));
        let next = match op {
            0 if a.shape() == b.shape() => a.add(b),
            0 | 1 => a.add(row(salt)),
            2 => a.mul(row(salt)),
            3 => a.activate([Activation::Silu, Activation::GeluTanh, Activation::GeluErf][salt % 3]),
            4 => {
                let width = [4, 10, 64][salt % 3];
                let epilogue = Epilogue { bias: Some(graph.constant(tensor(&[width], salt))), ..Default::default() };
                a.matmul(graph.constant(tensor(&[width, columns], salt + 1)), epilogue)
            }
            5 => {
                let first = salt % rows;
                a.slice(first..first + 1 + (salt / 8) % (rows - first))
            }
            6 if (rows * columns) % 8 == 0 => a.reshape([8, rows * columns / 8]),
            6 | 7 => a.permute(&[1, 0]),
            8 if b.shape()[1] == columns && rows + b.shape()[0] <= 64 => a.concat(&[b]),
            8 | 9 => a.layer_norm(Some((row(salt), row(salt + 1))), 1e-5, DType::F32),
            10 if a.shape() == b.shape() => {
                let weights = graph.constant(HostTensor::from_f32([2], &[0.5, -0.25]));
                Var::linear_combination(&[a, b], weights)
            }
            10 => a.rms_norm(row(salt), 1e-6, DType::F32),
            _ => {
                if a.shape() == inputs[2].shape() {
                    graph.assign(inputs[2], a);
                }
                a
            }
        };
        // What grows out of all bounds is left.
        if next.shape().count() <= 4096 {
            vars.push(next);
        }
    }
    graph.output("last", vars[vars.len() - 1]);
    graph.output("middle", vars[vars.len() / 2]);
    graph.finish().expect("every step fits")
}

/// Nodes that a node reads, by where their elements are stored.
fn reads(recording: &Recording, id: usize) -> Vec<usize> {
    let operands = match &recording.nodes[id].kind {
        NodeKind::Op { inputs, .. } => inputs.clone(),
        NodeKind::Copy { source, .. } => vec![*source],
        NodeKind::Leaf(_) | NodeKind::View { .. } => Vec::new(),
    };
    operands.into_iter().map(|operand| recording.storage(operand).0).collect()
}

/// Two tensors that would lie in one slot while both are wanted, or one that does not fit its slot.
fn overlap(recording: &Recording, plan: &Plan) -> Option<String> {
    // What lies in each slot, and until which node it is wanted.
    let mut last: Vec<usize> = (0..recording.nodes.len()).collect();
    for id in 0..recording.nodes.len() {
        for base in reads(recording, id) {
            last[base] = last[base].max(id);
        }
    }
    let mut holds: HashMap<usize, usize> = HashMap::new();
    for (id, &place) in plan.places.iter().enumerate() {
        if let Place::Slot(slot) = place {
            if recording.nodes[id].ty.bytes() > *plan.slots.get(slot)? {
                return Some(format!("node {id} does not fit slot {slot}"));
            }
            // A node's output must not share with what it reads, so even a last reader comes too early.
            match holds.insert(slot, id) {
                Some(earlier) if last[earlier] >= id => {
                    return Some(format!("nodes {earlier} and {id} in slot {slot}"));
                }
                _ => {}
            }
        }
    }
    None
}

#[test]
fn overlapping_plans_are_found() {
    let graph = Graph::new();
    let x = graph.input("x", [4], DType::F32);
    let a = x.activate(Activation::Silu);
    let b = a.activate(Activation::Silu);
    graph.output("y", a.add(b));
    let recording = graph.finish().expect("fits");
    let mut plan = plan(&recording);
    assert_eq!(overlap(&recording, &plan), None);
    assert_eq!(plan.slots.len(), 2, "a is wanted when b is made");
    for place in &mut plan.places {
        if let Place::Slot(slot) = place {
            *slot = 0;
        }
    }
    assert!(overlap(&recording, &plan).is_some());
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn live_tensors_never_share_a_slot(steps in steps(40)) {
        let recording = random_graph(&steps);
        let plan = plan(&recording);
        prop_assert_eq!(plan.places.len(), recording.nodes.len());
        prop_assert_eq!(overlap(&recording, &plan), None);
        for (id, node) in recording.nodes.iter().enumerate() {
            let own = match &node.kind {
                NodeKind::Leaf(_) => plan.places[id] == Place::Outside,
                NodeKind::View { .. } | NodeKind::Copy { into: Some(_), .. } => {
                    plan.places[id] == Place::With(recording.storage(id).0)
                }
                NodeKind::Op { .. } | NodeKind::Copy { .. } => {
                    matches!(plan.places[id], Place::Slot(_) | Place::Output)
                }
            };
            prop_assert!(own, "node {} lies in {:?}", id, plan.places[id]);
        }
        let all: u64 = recording.nodes.iter().map(|node| node.ty.bytes().max(1).next_multiple_of(256)).sum();
        prop_assert!(plan.activations() <= all, "more than with no sharing");
    }
}

/// A graph's outputs and its state on the device, and by the interpreter.
fn on_device(program: &mutoscope::gpu::Program) -> Result<Vec<HostTensor>, Error> {
    write_inputs(program)?;
    program.run(&mut |_| Ok(()))?;
    results(program)
}

fn write_inputs(program: &mutoscope::gpu::Program) -> Result<(), Error> {
    INPUTS.iter().enumerate().try_for_each(|(salt, (name, shape))| program.write(name, &tensor(shape, salt)))
}

fn results(program: &mutoscope::gpu::Program) -> Result<Vec<HostTensor>, Error> {
    let state = gpu().read(program.input("state")?)?;
    Ok(vec![program.read("last")?, program.read("middle")?, state])
}

fn by_interpreter(recording: &Recording) -> Result<Vec<Vec<f64>>, Error> {
    let bind = |(salt, (name, shape)): (usize, &(&str, [usize; 2]))| {
        let twin = Twin::from(&tensor(shape, salt));
        ((*name).to_owned(), twin)
    };
    let mut bindings: Bindings = INPUTS.iter().enumerate().map(bind).collect();
    let values = interpret(recording, &mut bindings)?;
    let mut results: Vec<Vec<f64>> = recording.outputs.iter().map(|(_, id)| values[*id].values.clone()).collect();
    results.push(bindings["state"].values.clone());
    Ok(results)
}

fn same_bytes(a: &[HostTensor], b: &[HostTensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.bytes() == b.bytes())
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn devices_agree_with_the_interpreter_and_with_themselves(steps in steps(14)) {
        let recording = random_graph(&steps);
        let wanted = by_interpreter(&recording).expect("inputs are bound");
        for profile in [gpu().profile().clone(), gpu().profile().shrunk()] {
            let program = gpu().restricted(profile).compile(&recording, &[]).expect("compiles");
            let first = on_device(&program).expect("runs");
            for (got, wanted) in first.iter().zip(&wanted) {
                // Norms of nearly constant rows magnify what f32 rounds off, hence not a kernel's bound.
                let error = distance(&got.to_f64(), wanted);
                prop_assert!(error <= 1e-3, "off by {:e}", error);
            }
            prop_assert!(same_bytes(&first, &on_device(&program).expect("runs")), "another run, other bits");

            write_inputs(&program).expect("inputs are there");
            let cancelled = program.run(&mut |_| Err(Error::Cancelled));
            prop_assert!(matches!(cancelled, Err(Error::Cancelled)), "{:?}", cancelled);
            prop_assert!(same_bytes(&first, &on_device(&program).expect("runs")), "other bits after a cancel");
        }
    }
}

#[test]
fn a_program_cancelled_between_submissions_is_usable() {
    let graph = Graph::new();
    let mut x = graph.input("x", [256, 512], DType::F32);
    let scaled: Vec<f32> = numbers(512 * 512, 3).iter().map(|v| v * 0.05).collect();
    let w = graph.constant(HostTensor::from_f32([512, 512], &scaled));
    for _ in 0..24 {
        x = x.matmul(w, Epilogue::default()).activate(Activation::Silu);
    }
    graph.output("y", x.rms_norm(graph.constant(HostTensor::from_f32([512], &[1.0; 512])), 1e-30, DType::F32));
    let program = gpu().compile(&graph.finish().expect("fits"), &[]).expect("compiles");
    program.write("x", &tensor(&[256, 512], 1)).expect("an input");
    let mut heard = Vec::new();
    program
        .run(&mut |done| {
            heard.push(done);
            Ok(())
        })
        .expect("runs");
    let whole = program.read("y").expect("an output");
    assert!(whole.to_f32().iter().all(|v| v.is_finite()), "a reference worth comparing with");
    assert!(heard.windows(2).all(|pair| pair[0] < pair[1]) && heard.last() == Some(&1.0), "progress: {heard:?}");
    for _ in 0..2 {
        let cancelled = program.run(&mut |_| Err(Error::Cancelled));
        assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
        program.run(&mut |_| Ok(())).expect("runs after a cancel");
        assert!(same_bytes(&[program.read("y").expect("an output")], std::slice::from_ref(&whole)), "other bits");
    }
}

fn poisoned(var: Var<'_>) -> bool {
    format!("{var:?}").starts_with("poisoned")
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop::collection::vec(0usize..6, 0..=5).prop_map(|dims| Shape::new(&dims))
}

fn any_dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(DType::ALL.to_vec())
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn wrong_shapes_are_errors_and_the_first_is_kept(
        shapes in prop::collection::vec((any_shape(), any_dtype()), 2..5),
        ops in prop::collection::vec((0u8..14, 0usize..8, 0usize..8), 1..12),
    ) {
        let graph = Graph::new();
        let mut vars: Vec<Var<'_>> = Vec::new();
        for (i, (shape, dtype)) in shapes.iter().enumerate() {
            vars.push(graph.input(&format!("x{i}"), *shape, *dtype));
        }
        let mut first: Option<usize> = None;
        for (i, &(op, a, b)) in ops.iter().enumerate() {
            let (x, y) = (vars[a % vars.len()], vars[b % vars.len()]);
            let _scope = graph.scope(format!("step{i}"));
            let next = match op {
                0 => x.add(y),
                1 => x.mul(y),
                2 => x.activate(Activation::Silu),
                3 => x.matmul(y, Epilogue::default()),
                4 => x.reshape([a, b]),
                5 => x.slice(a..b),
                6 => x.permute(&[1, 0]),
                7 => x.concat(&[y]),
                8 => x.attention(y, y, a, 1.0, Default::default()),
                9 => x.layer_norm(None, 1e-5, DType::F32),
                10 => x.rms_norm(y, 1e-5, DType::F16),
                11 => x.embedding(y),
                12 => Var::linear_combination(&[x, y], x),
                _ => {
                    let [one, two] = x.unstack::<2>();
                    if poisoned(one) { one } else { two }
                }
            };
            if first.is_none() && poisoned(next) {
                first = Some(i);
            }
            vars.push(next);
        }
        graph.output("y", vars[vars.len() - 1]);
        match (first, graph.finish()) {
            (None, result) => prop_assert!(result.is_ok(), "an error that no step showed"),
            (Some(_), Ok(_)) => prop_assert!(false, "a poisoned step and no error"),
            (Some(step), Err(Error::Graph { op, scope, reason, caller })) => {
                prop_assert_eq!(scope, format!("step{step}"), "not the first error");
                prop_assert!(!op.is_empty() && !reason.is_empty());
                prop_assert!(caller.contains("properties.rs"), "the caller is {}", caller);
            }
            (Some(_), Err(other)) => prop_assert!(false, "{}", other),
        }
    }
}

/// A small change to the types of a kernel's inputs, most of which make them wrong.
fn changed(types: &mut Vec<TensorType>, (what, which, by): (u8, usize, usize)) {
    if types.is_empty() {
        return;
    }
    let at = which % types.len();
    let mut dims = types[at].shape.dims().to_vec();
    let axis = by % dims.len().max(1);
    match what {
        0 => {
            types.remove(at);
        }
        1 => types.insert(at, types[at]),
        2 => types[at].dtype = DType::ALL[by % DType::ALL.len()],
        3 if !dims.is_empty() => dims[axis] = 0,
        4 if !dims.is_empty() => dims[axis] += 1,
        5 if !dims.is_empty() => {
            dims.remove(axis);
        }
        6 if dims.len() < 6 => dims.insert(axis, 1 + by % 3),
        7 if !dims.is_empty() => dims[axis] = 1 + by,
        _ => {
            let other = by % types.len();
            types.swap(at, other);
        }
    }
    if at < types.len() && matches!(what, 3..=7) {
        types[at].shape = Shape::new(&dims);
    }
}

proptest! {
    #![proptest_config(config(48))]

    /// Every kernel with the settings of one of its cases and inputs near it: refused with a reason, or launched soundly.
    #[test]
    fn kernels_refuse_or_launch_whatever_they_are_given(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((0u8..9, 0usize..8, 0usize..70), 1..4),
    ) {
        let small = DeviceProfile { max_binding: 64 << 10, max_groups: 300, ..DeviceProfile::webgpu_floor() };
        let profiles = [DeviceProfile::webgpu_floor(), DeviceProfile { f16: true, ..small.clone() }, small];
        let mut shaders = Shaders::default();
        for op in ALL {
            let cases = (op.cases)();
            let case = pick.get(&cases);
            let mut inputs: Vec<TensorType> = case.inputs.iter().map(|input| input.ty()).collect();
            changes.iter().for_each(|&change| changed(&mut inputs, change));
            // Graphs refuse these for all kernels.
            if inputs.iter().any(|ty| ty.shape.count() == 0) {
                continue;
            }
            let context = format!("{} {}: {inputs:?}", op.name, case.label);
            match case.kernel.infer(&inputs) {
                Err(reason) => prop_assert!(!reason.is_empty(), "{}: refused without a reason", context),
                Ok(output) => {
                    let call = Call { inputs: &inputs, output };
                    let cost = case.kernel.cost(&call);
                    prop_assert!(cost.flops >= 0.0 && cost.bytes >= 0.0 && cost.flops.is_finite(), "{}", context);
                    let used = Use { inputs: inputs.clone(), output };
                    for profile in &profiles {
                        let Ok(launch) = case.kernel.launch(&call, profile) else { continue };
                        for dispatch in &launch.dispatches {
                            let fault = audit(dispatch, &launch, &used, profile, &mut shaders).err();
                            prop_assert_eq!(fault, None, "{}", &context);
                        }
                    }
                }
            }
        }
    }
}
