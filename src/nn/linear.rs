//! Fully connected layers.

use crate::graph::Var;
use crate::kernels::matmul::Epilogue;
use crate::kernels::pointwise::Activation;
use crate::tensor::{DType, Weight};
use crate::weights::Scope;

/// y = x W^T + b, with `weight` \[N, K\] and `bias` \[N\]; with LoRA (arXiv:2106.09685), y = x W^T + b + x A^T B^T
/// for each pair of factors A \[R, K\] and B \[N, R\], in f32.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
    low_rank: Vec<[Weight; 2]>,
}

impl Linear {
    /// Of `weight` \[N, K\] and `bias` \[N\].
    pub fn new(weight: Weight, bias: Option<Weight>) -> Self {
        Self { weight, bias, low_rank: Vec::new() }
    }

    /// Reads `weight` \[N, inputs\] and `bias`; N is the file's.
    pub fn load(scope: &Scope, inputs: usize) -> Self {
        let [n, _] = scope.dims("weight");
        Self::load_sized(scope, n, inputs)
    }

    /// Reads `weight` \[n, k\] and `bias` \[n\].
    pub fn load_sized(scope: &Scope, n: usize, k: usize) -> Self {
        Self {
            weight: scope.matrix("weight", [n, k]),
            bias: Some(scope.vector("bias", [n])),
            low_rank: scope.low_rank("weight"),
        }
    }

    /// Reads `weight` \[N, inputs\] of a layer without a bias; N is the file's.
    pub fn load_bare(scope: &Scope, inputs: usize) -> Self {
        let [n, _] = scope.dims("weight");
        Self::load_bare_sized(scope, n, inputs)
    }

    /// Reads `weight` \[n, k\] of a layer without a bias.
    pub fn load_bare_sized(scope: &Scope, n: usize, k: usize) -> Self {
        Self { weight: scope.matrix("weight", [n, k]), bias: None, low_rank: scope.low_rank("weight") }
    }

    /// Reads a convolution of kernel size one (`weight` \[n, inputs, 1, 1, ...\], `bias` \[n\]) as a linear layer over
    /// channels.
    pub fn load_pointwise(scope: &Scope, inputs: usize) -> Self {
        let mut stored = scope.shape_of("weight").map_or(vec![1, inputs], |shape| shape.dims().to_vec());
        let n = stored.first().copied().unwrap_or(1);
        stored.iter_mut().skip(1).for_each(|dim| *dim = 1);
        if let Some(k) = stored.get_mut(1) {
            *k = inputs;
        }
        let stored = crate::tensor::Shape::new(&stored);
        Self {
            weight: scope.flattened("weight", stored),
            bias: Some(scope.vector("bias", [n])),
            low_rank: scope.low_rank("weight"),
        }
    }

    /// Layers of the first, second, ... Nth part of this one's outputs.
    pub fn split<const N: usize>(&self) -> [Self; N] {
        std::array::from_fn(|i| Self {
            weight: self.weight.part(i, N),
            bias: self.bias.as_ref().map(|bias| bias.part(i, N)),
            low_rank: self.low_rank.iter().map(|[down, up]| [down.clone(), up.part(i, N)]).collect(),
        })
    }

    /// How many features it takes.
    pub fn inputs(&self) -> usize {
        self.weight.shape().last()
    }

    /// How many features it gives.
    pub fn outputs(&self) -> usize {
        self.weight.shape().dims().first().copied().unwrap_or(0)
    }

    /// x \[..., K\] -> \[..., N\], in the type of x.
    #[track_caller]
    pub fn apply<'g>(&self, x: Var<'g>) -> Var<'g> {
        self.apply_with(x, Epilogue { out: Some(x.dtype()), ..Epilogue::default() })
    }

    /// act(x W^T + b), in the type of x.
    #[track_caller]
    pub fn activate<'g>(&self, x: Var<'g>, activation: Activation) -> Var<'g> {
        self.apply_with(x, Epilogue { activation, out: Some(x.dtype()), ..Epilogue::default() })
    }

    /// residual + x W^T + b, in f32.
    #[track_caller]
    pub fn add_to<'g>(&self, residual: Var<'g>, x: Var<'g>) -> Var<'g> {
        self.apply_with(x, Epilogue { residual: Some(residual), ..Epilogue::default() })
    }

    /// residual + gate (x W^T + b), in f32; `gate` \[R, N\] repeats over rows.
    #[track_caller]
    pub fn gated_add_to<'g>(&self, residual: Var<'g>, gate: Var<'g>, x: Var<'g>) -> Var<'g> {
        self.apply_with(x, Epilogue { residual: Some(residual), gate: Some(gate), ..Epilogue::default() })
    }

    /// With an epilogue of the caller's, which has an activation or a residual and never both; the bias is the layer's own.
    #[track_caller]
    fn apply_with<'g>(&self, x: Var<'g>, epilogue: Epilogue<'g>) -> Var<'g> {
        let graph = x.graph();
        let bias = self.bias.as_ref().map(|bias| graph.weight(bias));
        let weight = graph.weight(&self.weight);
        if self.low_rank.is_empty() {
            return x.matmul(weight, Epilogue { bias, ..epilogue });
        }
        // residual + gate (x W^T + b) + gate (x A^T B^T) + ...; what is not linear has to wait for the whole sum.
        let Epilogue { activation, gate, out, .. } = epilogue;
        let linear = Epilogue { bias, activation: Activation::default(), out: None, ..epilogue };
        let sum = self.low_rank.iter().fold(x.matmul(weight, linear), |sum, [down, up]| {
            let inner = x.matmul(graph.weight(down), Epilogue::default());
            inner.matmul(graph.weight(up), Epilogue { residual: Some(sum), gate, ..Epilogue::default() })
        });
        let sum = if activation == Activation::default() { sum } else { sum.activate(activation) };
        sum.cast(out.unwrap_or(DType::F32))
    }
}
