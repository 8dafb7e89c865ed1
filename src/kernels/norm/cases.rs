//! Cases of the norms.

use super::{Affine, L2Norm, LayerNorm, RmsNorm};
use crate::kernels::case::{Case, CaseInput, Fill};
use crate::tensor::DType::{self, F16, F32};

/// Rows far from zero, so that a variance from squares alone would lose its digits.
const OFFSET: Fill = Fill::Uniform(99.0, 101.0);

/// Cases of `layer_norm`.
pub(super) fn layer() -> Vec<Case> {
    use Affine::{Modulation, None, Weights};
    let case = |x: &[usize], table: &[usize], affine, eps, out: DType| {
        let mut inputs = vec![CaseInput::normal(x, F32)];
        if affine != None {
            inputs.extend([CaseInput::normal(table, F32), CaseInput::normal(table, F32)]);
        }
        Case::new(format!("{x:?}_{table:?}_{affine:?}_{out}"), LayerNorm { eps, affine, out }, inputs)
    };
    let c = |x: &[usize], affine, out| case(x, &x[x.len() - 1..], affine, 1e-6, out);
    let mut offset = c(&[9, 512], None, F32);
    offset.label = "[9, 512]_far_from_zero".into();
    offset.inputs[0].fill = OFFSET;
    vec![
        c(&[5, 12], None, F32),
        c(&[5, 12], Weights, F32),
        c(&[5, 12], Modulation, F32),
        case(&[3, 1], &[3, 1], Modulation, 1.0, F32),
        c(&[7, 33], Weights, F32),
        c(&[2, 3, 5, 36], Modulation, F32),
        case(&[2, 9, 20], &[9, 20], Modulation, 1e-6, F32),
        case(&[12, 7], &[4, 7], Modulation, 1e-6, F32),
        c(&[4, 1, 1024], Weights, F32),
        c(&[3, 1023], None, F32),
        c(&[300, 260], None, F32),
        case(&[301, 233], &[301, 233], Modulation, 1e-6, F32),
        case(&[2, 308, 132], &[308, 132], Modulation, 1e-6, F32),
        case(&[2, 400, 100], &[8, 100], Modulation, 1e-6, F32),
        // Runs of rows that share a row of the table, the table larger than small windows.
        case(&[2, 900, 260], &[300, 260], Modulation, 1e-6, F32),
        case(&[1, 602, 233], &[301, 233], Modulation, 1e-6, F16),
        c(&[6, 64], Modulation, F16),
        c(&[5, 37], Weights, F16),
        c(&[517, 129], None, F16),
        c(&[2, 16_384], Weights, F32),
        c(&[2, 16_383], Weights, F32),
        offset,
        c(&[1560, 1536], Modulation, F32).bench(),
    ]
}

/// Cases of `rms_norm`.
pub(super) fn rms() -> Vec<Case> {
    let case = |x: &[usize], ty, out| {
        let w = &x[x.len() - 1..];
        let inputs = vec![CaseInput::normal(x, ty), CaseInput::normal(w, F32)];
        Case::new(format!("{x:?}_{ty}_{out}"), RmsNorm { eps: 1e-6, out }, inputs)
    };
    vec![
        case(&[5, 12], F32, F32),
        case(&[3, 7], F32, F32),
        case(&[3, 1], F32, F32),
        case(&[2, 3, 36], F32, F32),
        case(&[4, 1024], F32, F32),
        case(&[3, 1025], F32, F32),
        case(&[77, 64], F32, F32),
        case(&[300, 260], F32, F32),
        case(&[301, 233], F32, F32),
        case(&[2, 16_384], F32, F32),
        case(&[2, 16_383], F32, F32),
        case(&[6, 64], F32, F16),
        case(&[6, 64], F16, F16),
        case(&[6, 64], F16, F32),
        case(&[5, 37], F16, F16),
        case(&[517, 132], F32, F16),
        case(&[1031, 129], F16, F32),
        case(&[512, 4096], F32, F32).bench(),
    ]
}

/// Cases of `l2_norm`.
pub(super) fn l2() -> Vec<Case> {
    let case = |x: &[usize], silu| {
        let w = &x[x.len() - 1..];
        let inputs = vec![CaseInput::normal(x, F32), CaseInput::normal(w, F32)];
        Case::new(format!("{x:?}{}", if silu { "_silu" } else { "" }), L2Norm { silu }, inputs)
    };
    let mut small = case(&[40, 24], true);
    small.label = "[40, 24]_silu_small_values".into();
    small.inputs[0].fill = Fill::Normal(1e-8);
    vec![
        case(&[3, 5, 7, 12], false),
        case(&[3, 5, 7, 12], true),
        case(&[4, 1], true),
        case(&[1, 3], false),
        case(&[17, 3], true),
        case(&[2, 9, 9, 24], true),
        case(&[1000, 3], false),
        case(&[3, 30_000], false),
        case(&[33, 5, 6], true),
        case(&[1, 2, 10, 96], true),
        case(&[250, 384], false),
        case(&[97, 1024], true),
        case(&[2, 4097], false),
        case(&[70_000, 3], true),
        case(&[1033, 65], false),
        small,
        case(&[2, 104, 60, 96], true).bench(),
        case(&[52, 60, 384], true).bench(),
    ]
}
