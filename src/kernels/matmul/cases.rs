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
    scale: f32,
}

/// x \[rows, depth\], w \[columns, depth\].
fn product(rows: usize, depth: usize, columns: usize) -> Draft {
    let f32 = DType::F32;
    let activation = Activation::Identity;
    Draft {
        rows,
        depth,
        columns,
        x: f32,
        w: f32,
        out: f32,
        bias: false,
        activation,
        residual: false,
        gate: None,
        scale: 1.0,
    }
}

impl Draft {
    fn types(self, x: DType, w: DType, out: DType) -> Self {
        Self { x, w, out, ..self }
    }

    fn weights(self, w: DType) -> Self {
        Self { w, ..self }
    }

    /// With fp8 weights stored divided by a scale.
    fn scale(self, scale: f32) -> Self {
        Self { scale, ..self }
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
        let Self { rows, depth, columns, x, w, out, bias, activation, residual, gate, scale } = self;
        let mut label = format!("{rows}x{depth}x{columns}_{x}_{w}_{out}");
        // Weights as large as a trained layer's, so that sums are about one.
        let deviation = 1.0 / (depth as f32).sqrt();
        let mut inputs = vec![
            CaseInput::normal([rows, depth], x),
            CaseInput::normal([columns, depth], w).fill(Fill::Normal(deviation)).scale(scale),
        ];
        if scale != 1.0 {
            label += &format!("_scale{scale}");
        }
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
        Case::new(label, Matmul { bias, activation, residual, gate: gate.is_some(), out, scale }, inputs)
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
    drafts.extend(quantised());
    let mut cases: Vec<Case> = drafts.into_iter().map(Draft::case).collect();
    // Sizes that mean something: a block's projections for a short clip, and the time embedding.
    cases.push(product(512, 512, 512).case().bench());
    cases.push(product(1024, 1024, 1024).case().bench());
    for w in [F16, DType::F8E4M3, DType::Q8_0, DType::Q4K, DType::Q6K] {
        cases.push(product(256, 1536, 512).weights(w).case().bench());
        cases.push(product(1, 1536, 8960).weights(w).case().bench());
    }
    cases.push(product(256, 1536, 512).weights(BF16).bias().activation(GeluTanh).case().bench());
    cases.push(product(256, 512, 1024).types(F16, F16, F16).bias().case().bench());
    cases.push(product(1, 1536, 1536).weights(BF16).bias().activation(Silu).case().bench());
    cases
}

/// Weights of every quantised type: with whole and ragged tiles, many rows and few, rows that begin in the middle of
/// words, and blocks as wide as layers have them.
fn quantised() -> Vec<Draft> {
    use DType::{F8E4M3, F8E5M2, F16, F32, Q3K, Q4K, Q6K, Q8_0};
    let mut drafts = Vec::new();
    for w in DType::ALL.into_iter().filter(|dtype| dtype.is_quantised()) {
        let block = w.block_elements().max(32);
        drafts.extend([
            product(40, 2 * block, 72).weights(w),
            product(21, block, 19).weights(w).bias(),
            product(3, 3 * block, 50).weights(w),
            product(1, 5 * block, 13).weights(w).bias(),
            product(9, 2560, 33).weights(w),
            product(40, 2 * block, 30).types(F16, w, F16),
        ]);
    }
    for w in [F8E4M3, F8E5M2] {
        drafts.extend([
            product(40, 64, 72).weights(w).scale(0.0625).bias(),
            product(21, 35, 19).weights(w).scale(3.7),
            product(3, 97, 50).weights(w),
            product(1, 37, 12).types(F16, w, F32).scale(0.3).bias(),
        ]);
    }
    // Larger than small windows, whose rows begin between words.
    drafts.push(product(2, 96, 3001).weights(Q8_0));
    drafts.push(product(10, 256, 3001).weights(Q3K));
    drafts.push(product(3, 97, 3001).weights(F8E4M3).scale(0.3));
    drafts.push(product(9, 4096, 300).weights(Q6K).bias());
    // Enough for the largest tiles.
    drafts.push(product(1030, 256, 1540).types(F16, Q4K, F16));
    drafts.push(product(523, 64, 1539).types(F16, Q8_0, F32).bias().gate(1));
    drafts.push(product(1030, 36, 1540).types(F32, F8E4M3, F32).scale(0.3));
    drafts
}
