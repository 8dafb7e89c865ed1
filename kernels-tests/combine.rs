//! What no made-up input shows: terms that are left out may hold anything.

use mutoscope::graph::{Graph, Var};
use mutoscope::tensor::{DType, HostTensor};

use crate::device::gpu;

#[test]
fn a_zero_coefficient_leaves_its_term_out_whatever_it_holds() {
    let graph = Graph::new();
    let terms = [graph.input("a", [5], DType::F32), graph.input("b", [5], DType::F32)];
    let coefficients = graph.input("c", [2], DType::F32);
    graph.output("y", Var::linear_combination(&terms, coefficients));
    let recording = graph.finish().expect("fits");
    let program = gpu().compile(&recording, &[]).expect("compiles");
    let values = [1.0, -2.0, 3.0, 0.5, 0.0];
    program.write("a", &HostTensor::from_f32([5], &values)).expect("written");
    program.write("b", &HostTensor::from_f32([5], &[f32::NAN; 5])).expect("written");
    let run = |c: [f32; 2]| {
        program.write("c", &HostTensor::from_f32([2], &c)).expect("written");
        program.run(&mut |_| Ok(())).expect("runs");
        program.read("y").expect("read").to_f32()
    };
    assert_eq!(run([2.0, 0.0]), values.map(|v| 2.0 * v), "NaN times zero was added");
    assert!(run([2.0, 1.0]).iter().all(|v| v.is_nan()), "a used NaN must show");
}
