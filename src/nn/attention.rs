//! Multi-head attention as Wan has it: RMS norm of queries and keys over all heads, biased projections.

use std::ops::Range;

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
    /// What reads pictures beside text (Wan 2.1 I2V).
    added: Option<Added>,
    heads: usize,
}

/// Keys and values of a second context, for queries that the first has too.
#[derive(Clone, Debug)]
struct Added {
    k: Linear,
    v: Linear,
    norm_k: RmsNorm,
}

/// Projected keys and values, \[B, S, N D\] each.
#[derive(Clone, Copy, Debug)]
pub struct KeyValue<'g> {
    /// Keys, normalised.
    pub keys: Var<'g>,
    /// Values.
    pub values: Var<'g>,
}

/// What cross-attention attends to, projected.
#[derive(Clone, Copy, Debug)]
pub struct Context<'g> {
    /// Of the text.
    pub text: KeyValue<'g>,
    /// Of pictures, \[1, S, N D\]: the same for every row of the batch.
    pub pictures: Option<KeyValue<'g>>,
}

impl Context<'_> {
    /// What some texts of the batch attend to.
    #[track_caller]
    pub fn of(&self, texts: Range<usize>) -> Self {
        let KeyValue { keys, values } = self.text;
        let text = KeyValue { keys: keys.slice(texts.clone()), values: values.slice(texts) };
        Self { text, pictures: self.pictures }
    }
}

impl Attention {
    /// Reads the four projections, between `dim` features and as many in the heads, two norms and, if they are there, the
    /// further keys and values of pictures.
    pub fn load(scope: &Scope, dim: usize, heads: usize, eps: f32) -> Self {
        let square = |name: &str| Linear::load_sized(&scope.at(name), dim, dim);
        let (to_q, inner) = (square("to_q"), dim);
        // Some files of Wan 2.1 I2V have it; it was never used.
        scope.ignore("norm_added_q");
        Self {
            to_k: square("to_k"),
            to_v: square("to_v"),
            to_out: square("to_out.0"),
            norm_q: RmsNorm::load(&scope.at("norm_q"), inner, eps),
            norm_k: RmsNorm::load(&scope.at("norm_k"), inner, eps),
            added: scope.has("add_k_proj").then(|| Added {
                k: square("add_k_proj"),
                v: square("add_v_proj"),
                norm_k: RmsNorm::load(&scope.at("norm_added_k"), inner, eps),
            }),
            to_q,
            heads,
        }
    }

    /// Whether it attends to pictures beside the text.
    pub fn sees_pictures(&self) -> bool {
        self.added.is_some()
    }

    /// Keys and values of a context \[B, S, C\], which cross-attention computes once and uses in every step.
    #[track_caller]
    pub fn key_value<'g>(&self, context: Var<'g>) -> KeyValue<'g> {
        KeyValue { keys: self.norm_k.apply(self.to_k.apply(context)), values: self.to_v.apply(context) }
    }

    /// Keys and values of a text \[B, S, C\] and, where they are seen, of pictures \[1, P, C\].
    #[track_caller]
    pub fn context<'g>(&self, text: Var<'g>, pictures: Option<Var<'g>>) -> Context<'g> {
        let seen = self.added.as_ref().zip(pictures);
        let pictures = seen.map(|(added, states)| KeyValue {
            keys: added.norm_k.apply(added.k.apply(states)),
            values: added.v.apply(states),
        });
        Context { text: self.key_value(text), pictures }
    }

    /// x \[B, L, C\] attends to itself; before the output projection: \[B, L, N D\].
    #[track_caller]
    pub fn self_attend<'g>(&self, x: Var<'g>, rope: Rope<'g>) -> Var<'g> {
        let q = rope.apply(self.norm_q.apply(self.to_q.apply(x)), self.heads);
        let KeyValue { keys, values } = self.key_value(x);
        let keys = rope.apply(keys, self.heads);
        q.attention(keys, values, self.heads, self.scale(), AttentionBias::default())
    }

    /// x \[B, L, C\] attends to a text whose logits get `key_bias` \[B, S\], plus what it attends to in pictures; before the
    /// output projection.
    #[track_caller]
    pub fn cross_attend<'g>(&self, x: Var<'g>, context: Context<'g>, key_bias: Var<'g>) -> Var<'g> {
        let q = self.norm_q.apply(self.to_q.apply(x));
        let bias = AttentionBias { key: Some(key_bias), relative: None };
        let attended = q.attention(context.text.keys, context.text.values, self.heads, self.scale(), bias);
        let Some(KeyValue { keys, values }) = context.pictures else { return attended };
        // All rows of the batch see the same pictures: to them, they are queries of one.
        let shape = q.shape();
        let all = q.reshape([1, shape.rows(), shape.last()]);
        let seen = all.attention(keys, values, self.heads, self.scale(), AttentionBias::default());
        attended.add_as(seen.reshape(shape))
    }

    /// The output projection.
    pub fn out(&self) -> &Linear {
        &self.to_out
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.to_q.outputs() / self.heads.max(1)) as f32).sqrt()
    }
}
