//! One block of the transformer.

use super::WanTransformerConfig;
use crate::graph::Var;
use crate::nn::{Attention, Context, FeedForward, LayerNorm, Linear, Rope};
use crate::tensor::{DType, Weight};
use crate::weights::Scope;

/// `WanTransformerBlock`: attention to itself, to the text (and pictures), and a feed-forward layer.
#[derive(Clone, Debug)]
pub(super) struct Block {
    attn1: Attention,
    attn2: Attention,
    /// None without `cross_attn_norm`.
    norm2: Option<LayerNorm>,
    ffn: FeedForward,
    /// \[6, C\]
    table: Weight,
    eps: f32,
}

/// What is the same for all blocks of a step.
pub(super) struct Surroundings<'g> {
    /// \[R, 6 C\]
    pub modulation: Var<'g>,
    pub rope: Rope<'g>,
    /// \[B, S\], of the text's keys.
    pub key_bias: Var<'g>,
    /// The precision of matrix products and attention.
    pub compute: DType,
}

/// table \[P, C\] + rows \[R, C\] or \[R, P C\] -> P tensors \[R, C\].
pub(super) fn add_table<'g, const P: usize>(table: Var<'g>, rows: Var<'g>) -> [Var<'g>; P] {
    let (count, channels) = (rows.shape()[0], table.shape().last());
    if rows.shape().last() == channels {
        return table.unstack::<P>().map(|row| rows.add(row));
    }
    let sum = rows.add(table.reshape([P * channels])).reshape([count, P, channels]);
    let by_part = if count == 1 { sum.reshape([P, 1, channels]) } else { sum.permute(&[1, 0, 2]) };
    by_part.unstack()
}

impl Block {
    pub fn load(scope: &Scope, dim: usize, config: &WanTransformerConfig) -> Self {
        let up = Linear::load(&scope.at("ffn.net.0.proj"), dim);
        let down = Linear::load_sized(&scope.at("ffn.net.2"), dim, up.outputs());
        Self {
            attn1: Attention::load(&scope.at("attn1"), dim, config.heads, config.eps),
            attn2: Attention::load(&scope.at("attn2"), dim, config.heads, config.eps),
            norm2: (config.cross_attn_norm || scope.has("norm2"))
                .then(|| LayerNorm::load(&scope.at("norm2"), dim, config.eps)),
            ffn: FeedForward::new(up, down),
            table: scope.vector("scale_shift_table", [6, dim]),
            eps: config.eps,
        }
    }

    /// Whether it attends to pictures.
    pub fn sees_pictures(&self) -> bool {
        self.attn2.sees_pictures()
    }

    /// Keys and values of what it attends to.
    #[track_caller]
    pub fn context<'g>(&self, text: Var<'g>, pictures: Option<Var<'g>>) -> Context<'g> {
        self.attn2.context(text, pictures)
    }

    /// x \[B, L, C\] -> the same.
    #[track_caller]
    pub fn forward<'g>(&self, x: Var<'g>, context: Context<'g>, around: &Surroundings<'g>) -> Var<'g> {
        let &Surroundings { modulation, rope, key_bias, compute } = around;
        let table = x.graph().weight(&self.table);
        let [shift1, scale1, gate1, shift2, scale2, gate2] = add_table(table, modulation);
        let attended = self.attn1.self_attend(x.ada_norm(shift1, scale1, self.eps, compute), rope);
        let x = self.attn1.out().gated_add_to(x, gate1, attended);
        let normed = self.norm2.as_ref().map_or_else(|| x.cast(compute), |norm| norm.apply(x, compute));
        let x = self.attn2.out().add_to(x, self.attn2.cross_attend(normed, context, key_bias));
        self.ffn.gated_add_to(x, gate2, x.ada_norm(shift2, scale2, self.eps, compute))
    }
}
