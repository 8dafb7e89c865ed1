//! Cases of `attention`.

use super::super::case::{Case, CaseInput, Fill};
use super::Attention;
use crate::tensor::DType;

/// B, L, S, N, D.
type Dims = [usize; 5];

struct Biases {
    key: Option<Fill>,
    relative: bool,
}

const NONE: Biases = Biases { key: None, relative: false };
const KEY: Biases = Biases { key: Some(Fill::Normal(1.0)), relative: false };
const RELATIVE: Biases = Biases { key: None, relative: true };
const BOTH: Biases = Biases { key: Some(Fill::Normal(1.0)), relative: true };
/// Every key masked, up to what rounding leaves of the logits: nothing.
const MASKED: Biases = Biases { key: Some(Fill::Uniform(-1e30, -1e30)), relative: false };

fn case([batches, queries, keys, heads, head_dim]: Dims, ty: DType, biases: &Biases) -> Case {
    // Logits of a deviation of about 2.5 whatever the size, as normalised queries and keys have.
    let kernel = Attention {
        heads,
        scale: 1.0 / (head_dim as f32).sqrt(),
        key_bias: biases.key.is_some(),
        rel_bias: biases.relative,
    };
    let mut inputs = vec![
        CaseInput::normal([batches, queries, heads * head_dim], ty),
        CaseInput::normal([batches, keys, heads * head_dim], ty),
        CaseInput::normal([batches, keys, heads * head_dim], ty),
    ];
    let mut label = format!("{batches}x{queries}x{keys}x{heads}x{head_dim}_{ty}");
    if let Some(fill) = biases.key {
        inputs.push(CaseInput::normal([batches, keys], DType::F32).fill(fill));
        label += if fill == Fill::Normal(1.0) { "_key" } else { "_masked" };
    }
    if biases.relative {
        inputs.push(CaseInput::normal([queries + keys - 1, heads], DType::F32));
        label += "_relative";
    }
    Case::new(label, kernel, inputs)
}

/// Cases over B, L, S, N, D: tiny, ragged, typical of each model, larger than a workgroup, larger than a window.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let small: &[Dims] = &[
        [1, 1, 1, 1, 1],
        [1, 2, 3, 1, 2],
        [2, 5, 7, 3, 3],
        [3, 1, 9, 2, 4],
        [1, 33, 17, 2, 5],
        [2, 9, 70, 2, 8],
        [1, 40, 40, 3, 12],
        [2, 31, 65, 2, 16],
        [1, 66, 3, 3, 20],
        [1, 50, 77, 2, 24],
        [3, 20, 33, 2, 32],
        [1, 34, 45, 2, 40],
        [1, 61, 130, 2, 64],
        [1, 70, 129, 1, 80],
        [2, 35, 140, 2, 128],
        [1, 13, 29, 1, 129],
    ];
    for &dims in small {
        cases.push(case(dims, DType::F32, &NONE));
        cases.push(case(dims, DType::F16, &NONE));
    }
    for dims in [[2, 5, 7, 3, 3], [1, 40, 52, 2, 12], [2, 33, 100, 2, 64], [1, 20, 150, 1, 128]] {
        for biases in [&KEY, &RELATIVE, &BOTH, &MASKED] {
            cases.push(case(dims, DType::F32, biases));
        }
        cases.push(case(dims, DType::F16, &BOTH));
    }
    // The VAE's: one head, per frame.
    cases.push(case([3, 36, 36, 1, 384], DType::F32, &NONE));
    cases.push(case([2, 20, 20, 1, 1024], DType::F32, &NONE));
    cases.push(case([2, 9, 33, 1, 1024], DType::F16, &NONE));
    cases.push(case([24, 12, 12, 1, 24], DType::F32, &NONE));
    cases.push(case([1, 3, 11, 1, 1026], DType::F32, &NONE));
    // Larger than any workgroup's registers, with elements in fours and not.
    cases.push(case([1, 4, 9, 1, 2052], DType::F32, &NONE));
    cases.push(case([1, 3, 5, 1, 2049], DType::F32, &KEY));
    // Windows over batches, over queries, over keys with the state carried, and the biases in each.
    cases.push(case([5, 40, 100, 2, 64], DType::F32, &KEY));
    cases.push(case([1, 600, 20, 2, 64], DType::F32, &BOTH));
    cases.push(case([2, 30, 700, 2, 64], DType::F32, &BOTH));
    cases.push(case([1, 40, 900, 1, 128], DType::F32, &NONE));
    cases.push(case([1, 70, 1100, 1, 67], DType::F32, &KEY));
    cases.push(case([1, 10, 90, 1, 1024], DType::F32, &NONE));
    cases.push(case([1, 3, 61, 1, 2052], DType::F32, &RELATIVE));
    cases.push(case([1, 500, 600, 1, 128], DType::F16, &RELATIVE));
    // The text encoder's: 64 heads of 64 with a relative bias; the transformer's: heads of 128.
    cases.push(case([1, 60, 60, 8, 64], DType::F32, &BOTH));
    cases.push(case([1, 1024, 1024, 2, 64], DType::F32, &NONE).bench());
    cases.push(case([1, 1024, 1024, 1, 128], DType::F16, &NONE).bench());
    cases
}
