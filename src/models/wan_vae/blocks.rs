//! What encoder and decoder are both made of.

use crate::error::Error;
use crate::graph::Var;
use crate::kernels::attention::AttentionBias;
use crate::nn::{CausalConv3d, ChannelNorm, Linear, Stream};
use crate::weights::Scope;

/// Two norms with convolutions, and a way around them (`WanResidualBlock`).
#[derive(Clone, Debug)]
pub(super) struct ResidualBlock {
    norm1: ChannelNorm,
    conv1: CausalConv3d,
    norm2: ChannelNorm,
    conv2: CausalConv3d,
    shortcut: Option<CausalConv3d>,
}

/// Attention of each frame's pixels to each other, with one head (`WanAttentionBlock`).
#[derive(Clone, Debug)]
pub(super) struct AttentionBlock {
    norm: ChannelNorm,
    qkv: [Linear; 3],
    proj: Linear,
}

impl ResidualBlock {
    pub(super) fn load(scope: &Scope, inputs: usize) -> Self {
        let conv1 = CausalConv3d::load(&scope.at("conv1"), inputs);
        let outputs = conv1.outputs();
        let shortcut = || CausalConv3d::load(&scope.at("conv_shortcut"), inputs);
        Self {
            norm1: ChannelNorm::load(&scope.at("norm1"), inputs),
            norm2: ChannelNorm::load(&scope.at("norm2"), outputs),
            conv2: CausalConv3d::load(&scope.at("conv2"), outputs),
            shortcut: (inputs != outputs).then(shortcut),
            conv1,
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.conv2.outputs()
    }

    pub(super) fn forward<'g>(&self, x: Var<'g>, stream: &Stream<'g>) -> Var<'g> {
        let residual = self.shortcut.as_ref().map_or(x, |conv| conv.apply(x, None, stream));
        let x = self.conv1.apply(self.norm1.apply_silu(x), None, stream);
        self.conv2.apply(self.norm2.apply_silu(x), Some(residual), stream)
    }
}

impl AttentionBlock {
    pub(super) fn load(scope: &Scope, channels: usize) -> Self {
        let qkv = Linear::load_pointwise(&scope.at("to_qkv"), channels);
        if qkv.outputs() != 3 * channels {
            let reason = format!("{} outputs are not queries, keys and values of {channels} channels", qkv.outputs());
            scope.fail(Error::tensor(scope.source(), format!("{}.to_qkv.weight", scope.path()), reason));
        }
        Self {
            norm: ChannelNorm::load(&scope.at("norm"), channels),
            qkv: qkv.split(),
            proj: Linear::load_pointwise(&scope.at("proj"), channels),
        }
    }

    pub(super) fn forward<'g>(&self, x: Var<'g>) -> Var<'g> {
        let shape = x.shape();
        let channels = shape.last();
        let normed = self.norm.apply(x).reshape([shape[0], shape[1] * shape[2], channels]);
        let [q, k, v] = self.qkv.each_ref().map(|linear| linear.apply(normed));
        let scale = 1.0 / (channels as f32).sqrt();
        let attended = q.attention(k, v, 1, scale, AttentionBias::default());
        self.proj.add_to(x.reshape(attended.shape()), attended).reshape(shape)
    }
}

/// A residual block, attention, a residual block: the lowest level of both halves (`WanMidBlock`).
#[derive(Clone, Debug)]
pub(super) struct MidBlock {
    enter: ResidualBlock,
    attention: AttentionBlock,
    leave: ResidualBlock,
}

impl MidBlock {
    pub(super) fn load(scope: &Scope, channels: usize) -> Self {
        let enter = ResidualBlock::load(&scope.at("resnets.0"), channels);
        Self {
            attention: AttentionBlock::load(&scope.at("attentions.0"), enter.outputs()),
            leave: ResidualBlock::load(&scope.at("resnets.1"), enter.outputs()),
            enter,
        }
    }

    pub(super) fn outputs(&self) -> usize {
        self.leave.outputs()
    }

    pub(super) fn forward<'g>(&self, x: Var<'g>, stream: &Stream<'g>) -> Var<'g> {
        let x = self.attention.forward(self.enter.forward(x, stream));
        self.leave.forward(x, stream)
    }
}
