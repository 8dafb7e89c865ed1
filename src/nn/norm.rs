//! Normalisations over features.

use crate::graph::Var;
use crate::tensor::{DType, Weight};
use crate::weights::Scope;

/// LayerNorm with weight and bias.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Weight,
    bias: Weight,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both \[C\].
    pub fn load(scope: &Scope, channels: usize, eps: f32) -> Self {
        Self { weight: scope.vector("weight", [channels]), bias: scope.vector("bias", [channels]), eps }
    }

    /// x \[..., C\] f32 -> the same shape as `out`.
    #[track_caller]
    pub fn apply<'g>(&self, x: Var<'g>, out: DType) -> Var<'g> {
        let graph = x.graph();
        x.layer_norm(Some((graph.weight(&self.weight), graph.weight(&self.bias))), self.eps, out)
    }
}

/// Root-mean-square norm with weight (arXiv:1910.07467).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Weight,
    eps: f32,
}

impl RmsNorm {
    /// Reads `weight` \[C\].
    pub fn load(scope: &Scope, channels: usize, eps: f32) -> Self {
        Self { weight: scope.vector("weight", [channels]), eps }
    }

    /// x \[..., C\] -> the same shape and type.
    #[track_caller]
    pub fn apply<'g>(&self, x: Var<'g>) -> Var<'g> {
        x.rms_norm(x.graph().weight(&self.weight), self.eps, x.dtype())
    }
}

/// The VAE's norm over channels: L2-normalised, times sqrt(C) and a weight (`WanRMS_norm` of diffusers'
/// `autoencoder_kl_wan.py`).
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    gamma: Weight,
}

impl ChannelNorm {
    /// Reads `gamma` \[C, 1, ...\].
    pub fn load(scope: &Scope, channels: usize) -> Self {
        Self { gamma: scope.vector("gamma", [channels]) }
    }

    /// x \[..., C\] f32 -> the same.
    #[track_caller]
    pub fn apply<'g>(&self, x: Var<'g>) -> Var<'g> {
        x.l2_norm(x.graph().weight(&self.gamma), false)
    }

    /// silu of the norm.
    #[track_caller]
    pub fn apply_silu<'g>(&self, x: Var<'g>) -> Var<'g> {
        x.l2_norm(x.graph().weight(&self.gamma), true)
    }
}
