//! Fully connected layers.

use crate::graph::Var;
use crate::kernels::matmul::Epilogue;
use crate::kernels::pointwise::Activation;
use crate::tensor::Weight;
use crate::weights::Scope;

/// y = x W^T + b, with `weight` \[N, K\] and `bias` \[N\].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Weight>,
}

impl Linear {
    /// Reads `weight` \[N, inputs\] and, if there is one, `bias`; N is the file's.
    pub fn load(scope: &Scope, inputs: usize) -> Self {
        let [n, _] = scope.dims("weight");
        Self::load_sized(scope, n, inputs)
    }

    /// Reads `weight` \[n, k\] and, if there is one, `bias` \[n\].
    pub fn load_sized(scope: &Scope, n: usize, k: usize) -> Self {
        Self { weight: scope.matrix("weight", [n, k]), bias: scope.optional_vector("bias", [n]) }
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
        Self { weight: scope.flattened("weight", stored), bias: scope.optional_vector("bias", [n]) }
    }

    /// Layers of the first, second, ... Nth part of this one's outputs.
    pub fn split<const N: usize>(&self) -> [Self; N] {
        std::array::from_fn(|i| Self {
            weight: self.weight.part(i, N),
            bias: self.bias.as_ref().map(|bias| bias.part(i, N)),
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

    /// With an epilogue of the caller's; the bias is the layer's own.
    #[track_caller]
    fn apply_with<'g>(&self, x: Var<'g>, epilogue: Epilogue<'g>) -> Var<'g> {
        let graph = x.graph();
        let bias = self.bias.as_ref().map(|bias| graph.weight(bias));
        x.matmul(graph.weight(&self.weight), Epilogue { bias, ..epilogue })
    }
}
