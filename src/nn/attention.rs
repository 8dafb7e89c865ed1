//! Multi-head attention as Wan has it: RMS norm of queries and keys over all heads, biased projections.

use super::{Linear, RmsNorm, Rope};
use crate::graph::Var;
use crate::kernels::attention::AttentionBias;
use crate::weights::Scope;

/// `WanAttention` of diffusers' `transformer_wan.py`, for self- and cross-attention.
#[derive(Clone, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    heads: usize,
}

/// Projected keys and values, \[B, S, N D\] each.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue<'g> {
    /// Keys, normalised.
    pub keys: Var<'g>,
    /// Values.
    pub values: Var<'g>,
}

impl Attention {
    /// Reads the four projections, between `dim` features and as many in the heads, and two norms.
    pub fn load(scope: &Scope, dim: usize, heads: usize, eps: f32) -> Self {
        let square = |name: &str| Linear::load_sized(&scope.at(name), dim, dim);
        let (to_q, inner) = (square("to_q"), dim);
        Self {
            to_k: square("to_k"),
            to_v: square("to_v"),
            to_out: square("to_out.0"),
            norm_q: RmsNorm::load(&scope.at("norm_q"), inner, eps),
            norm_k: RmsNorm::load(&scope.at("norm_k"), inner, eps),
            to_q,
            heads,
        }
    }

    /// Keys and values of a context \[B, S, C\], which cross-attention computes once and uses in every step.
    #[track_caller]
    pub fn key_value<'g>(&self, context: Var<'g>) -> KeyValue<'g> {
        KeyValue { keys: self.norm_k.apply(self.to_k.apply(context)), values: self.to_v.apply(context) }
    }

    /// x \[B, L, C\] attends to itself; before the output projection: \[B, L, N D\].
    #[track_caller]
    pub fn self_attend<'g>(&self, x: Var<'g>, rope: Rope<'g>) -> Var<'g> {
        let q = rope.apply(self.norm_q.apply(self.to_q.apply(x)), self.heads);
        let KeyValue { keys, values } = self.key_value(x);
        let keys = rope.apply(keys, self.heads);
        q.attention(keys, values, self.heads, self.scale(), AttentionBias::default())
    }

    /// x \[B, L, C\] attends to a context whose logits get `key_bias` \[B, S\]; before the output projection.
    #[track_caller]
    pub fn cross_attend<'g>(&self, x: Var<'g>, context: KeyValue<'g>, key_bias: Var<'g>) -> Var<'g> {
        let q = self.norm_q.apply(self.to_q.apply(x));
        let bias = AttentionBias { key: Some(key_bias), relative: None };
        q.attention(context.keys, context.values, self.heads, self.scale(), bias)
    }

    /// The output projection.
    pub fn out(&self) -> &Linear {
        &self.to_out
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.to_q.outputs() / self.heads.max(1)) as f32).sqrt()
    }
}
