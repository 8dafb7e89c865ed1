//! Cases of `matmul`.

use super::Matmul;
use crate::kernels::case::{Case, CaseInput, Fill};
use crate::kernels::pointwise::Activation;
use crate::tensor::DType;

/// A case being put together: f32 throughout and no epilogue until said otherwise.
#[derive(Clone, Copy)]
struct Draft {
    rows: usize,
    depth: usize,
    columns: usize,
    x: DType,
    w: DType,
    out: DType,
    bias: bool,
    activation: Activation,
    residual: bool,
    gate: Option<usize>,
}

/// x \[rows, depth\], w \[columns, depth\].
fn product(rows: usize, depth: usize, columns: usize) -> Draft {
    let f32 = DType::F32;
    let activation = Activation::Identity;
    Draft { rows, depth, columns, x: f32, w: f32, out: f32, bias: false, activation, residual: false, gate: None }
}

impl Draft {
    fn types(self, x: DType, w: DType, out: DType) -> Self {
        Self { x, w, out, ..self }
    }

    fn weights(self, w: DType) -> Self {
        Self { w, ..self }
    }

    fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    fn activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    fn residual(self) -> Self {
        Self { residual: true, ..self }
    }

    /// With a residual and a gate of so many rows.
    fn gate(self, rows: usize) -> Self {
        Self { residual: true, gate: Some(rows), ..self }
    }

    fn case(self) -> Case {
        let Self { rows, depth, columns, x, w, out, bias, activation, residual, gate } = self;
        let mut label = format!("{rows}x{depth}x{columns}_{x}_{w}_{out}");
        // Weights as large as a trained layer's, so that sums are about one.
        let deviation = 1.0 / (depth as f32).sqrt();
        let mut inputs = vec![
            CaseInput::normal([rows, depth], x),
            CaseInput::normal([columns, depth], w).fill(Fill::Normal(deviation)),
        ];
        if bias {
            label += "_bias";
            inputs.push(CaseInput::normal([columns], DType::F32));
        }
        if activation != Activation::Identity {
            label += &format!("_{}", activation.function());
        }
        if residual {
            label += "_residual";
            inputs.push(CaseInput::normal([rows, columns], DType::F32));
        }
        if let Some(gate) = gate {
            label += &format!("_gate{gate}");
            inputs.push(CaseInput::normal([gate, columns], DType::F32));
        }
        Case::new(label, Matmul { bias, activation, residual, gate: gate.is_some(), out }, inputs)
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    use Activation::{GeluErf, GeluTanh, Silu};
    use DType::{BF16, F16, F32};
    let mut drafts = Vec::new();
    // Sizes: tiny, ragged, a little under and over the tiles, K by fours and not.
    for (rows, depth, columns) in [
        (1, 1, 2),
        (1, 4, 1),
        (2, 3, 1),
        (1, 260, 33),
        (7, 64, 9),
        (8, 1536, 40),
        (9, 5, 7),
        (16, 16, 16),
        (17, 52, 36),
        (33, 31, 65),
        (64, 128, 64),
        (65, 100, 67),
        (129, 36, 130),
        (131, 77, 12),
    ] {
        drafts.push(product(rows, depth, columns));
    }
    // Element types, each with and without vectors, for many rows and few.
    for (x, w, out) in
        [(F32, F16, F32), (F32, BF16, F32), (F16, F16, F16), (F16, BF16, F32), (F16, F32, F16), (F32, F32, F16)]
    {
        for (rows, depth, columns) in [(40, 64, 72), (21, 35, 19), (3, 96, 50), (1, 37, 12)] {
            drafts.push(product(rows, depth, columns).types(x, w, out));
        }
    }
    // What follows the sum.
    for (rows, depth, columns) in [(36, 48, 40), (5, 24, 30), (27, 13, 21)] {
        let plain = product(rows, depth, columns);
        drafts.extend([
            plain.bias(),
            plain.bias().activation(GeluTanh).weights(BF16),
            plain.activation(GeluErf),
            plain.activation(Silu).bias(),
            plain.residual().bias(),
            plain.gate(1),
            plain.bias().gate(rows),
            plain.bias().activation(Silu).gate(1).weights(F16),
        ]);
    }
    drafts.push(product(24, 40, 28).bias().gate(4));
    drafts.push(product(24, 40, 28).bias().gate(6).types(F16, F16, F16));
    drafts.push(product(63, 36, 30).bias().gate(9));
    // Larger than small windows: rows of x and y, rows of w, the gate, each with ragged ends.
    drafts.push(product(1300, 60, 52).bias().residual());
    drafts.push(product(70, 500, 300).bias());
    drafts.push(product(1, 500, 1001).bias());
    drafts.push(product(4, 300, 777).weights(BF16));
    drafts.push(product(1100, 20, 64).gate(1100));
    drafts.push(product(50, 501, 402).weights(F16).gate(2));
    // Enough for the largest tiles of each kind to be chosen.
    drafts.push(product(1030, 36, 1540).bias());
    drafts.push(product(1030, 21, 1539).types(F16, BF16, F32));
    drafts.push(product(523, 72, 516).types(F16, F16, F16).gate(1));
    let mut cases: Vec<Case> = drafts.into_iter().map(Draft::case).collect();
    // Sizes that mean something: a block's projections for a short clip, and the time embedding.
    cases.push(product(512, 512, 512).case().bench());
    cases.push(product(1024, 1024, 1024).case().bench());
    cases.push(product(256, 1536, 512).weights(BF16).bias().activation(GeluTanh).case().bench());
    cases.push(product(256, 512, 1024).types(F16, F16, F16).bias().case().bench());
    cases.push(product(1, 1536, 1536).weights(BF16).bias().activation(Silu).case().bench());
    cases
}
