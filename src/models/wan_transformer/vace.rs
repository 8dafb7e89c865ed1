//! The branch of the transformer that reads a control video: `WanVACETransformerBlock` and what
//! `WanVACETransformer3DModel` does with it, of diffusers' `transformer_wan_vace.py` (VACE, arXiv:2503.07598).

use super::WanTransformerConfig;
use super::block::{Block, Surroundings};
use crate::error::Error;
use crate::graph::Var;
use crate::nn::{Context, Linear};
use crate::tensor::{HostTensor, Weight};
use crate::weights::Scope;

/// The branch: blocks of its own, each of which adds to what one of the transformer's blocks gives.
#[derive(Clone, Debug)]
pub(super) struct Vace {
    patch_weight: Weight,
    patch_bias: Weight,
    channels: usize,
    proj_in: Linear,
    blocks: Vec<VaceBlock>,
}

#[derive(Clone, Debug)]
struct VaceBlock {
    block: Block,
    proj_out: Linear,
    /// The block of the transformer that it adds to.
    after: usize,
}

/// A control video as the branch begins with it, and how loudly each of its blocks speaks.
#[derive(Clone, Debug)]
pub struct Control<'g> {
    /// \[1, L, C\] f32: [`WanTransformer::control_tokens`](super::WanTransformer::control_tokens).
    pub tokens: Var<'g>,
    /// One for each block of the branch.
    pub scales: Vec<f32>,
}

impl Vace {
    /// Reads the branch of a transformer with `depth` blocks of `dim` features.
    pub fn load(scope: &Scope, dim: usize, depth: usize, config: &WanTransformerConfig) -> Self {
        let [_, channels, pt, ph, pw] = scope.dims("vace_patch_embedding.weight");
        let count = scope.count("vace_blocks");
        let after = match layers(config.vace_layers.as_deref(), count, depth) {
            Ok(after) => after,
            Err(reason) => {
                scope.fail(Error::tensor(scope.source(), "vace_blocks", reason));
                (0..count).collect()
            }
        };
        if [pt, ph, pw] != config.patch && !scope.failed() {
            let reason = format!("its patches are {:?}, the video's {:?}", [pt, ph, pw], config.patch);
            scope.fail(Error::tensor(scope.source(), "vace_patch_embedding.weight", reason));
        }
        let blocks = scope.at("vace_blocks");
        Self {
            patch_weight: scope.flattened("vace_patch_embedding.weight", [dim, channels, pt, ph, pw]),
            patch_bias: scope.vector("vace_patch_embedding.bias", [dim]),
            channels,
            proj_in: Linear::load_sized(&blocks.at(0).at("proj_in"), dim, dim),
            blocks: (after.into_iter().enumerate())
                .map(|(i, after)| VaceBlock {
                    block: Block::load(&blocks.at(i), dim, config),
                    proj_out: Linear::load_sized(&blocks.at(i).at("proj_out"), dim, dim),
                    after,
                })
                .collect(),
        }
    }

    /// Channels of the control video's latents.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How many blocks it has.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Keys and values of what its blocks attend to.
    #[track_caller]
    pub fn contexts<'g>(&self, text: Var<'g>) -> impl Iterator<Item = Context<'g>> {
        self.blocks.iter().map(move |vace| vace.block.context(text, None))
    }

    /// The control video's latents \[1, I, F, h, w\] -> the tokens \[1, L, C\] that the branch begins with, but for the
    /// transformer's own.
    #[track_caller]
    pub fn tokens<'g>(&self, latents: Var<'g>, patch: [usize; 3]) -> Var<'g> {
        let graph = latents.graph();
        let tokens = latents.patch_embed(graph.weight(&self.patch_weight), graph.weight(&self.patch_bias), patch, 1);
        self.proj_in.apply(tokens)
    }

    /// After the transformer's block `layer` gave x \[B, L, C\]: one more block of the branch, whose tokens `state` become,
    /// and x with what that block has to say, if there is one for this layer.
    ///
    /// (diffusers runs the branch before the transformer. It sees nothing of the transformer's blocks, so it can go along
    /// with them, and nothing of it is kept for later.)
    #[track_caller]
    pub fn step<'g>(
        &self,
        layer: usize,
        x: Var<'g>,
        state: &mut Var<'g>,
        mut contexts: impl Iterator<Item = Context<'g>>,
        scales: &[f32],
        around: &Surroundings<'g>,
    ) -> Var<'g> {
        let Some(i) = self.blocks.iter().position(|vace| vace.after == layer) else { return x };
        let (Some(context), Some(&scale)) = (contexts.nth(i), scales.get(i)) else { return x };
        let graph = x.graph();
        let VaceBlock { block, proj_out, .. } = &self.blocks[i];
        let _scope = graph.scope(format_args!("vace_blocks.{i}"));
        *state = block.forward(*state, context, around);
        let said = state.cast(around.compute);
        if scale == 1.0 {
            return proj_out.add_to(x, said);
        }
        let channels = x.shape().last();
        let gate = graph.constant(HostTensor::from_f32([channels], &vec![scale; channels]));
        proj_out.gated_add_to(x, gate, said)
    }
}

/// The transformer's blocks that the branch's add to: as the config has them, or else at even distances from the first.
fn layers(wanted: Option<&[usize]>, count: usize, depth: usize) -> Result<Vec<usize>, String> {
    let mut layers = match wanted {
        Some(layers) => layers.to_vec(),
        None if count > 0 && depth.is_multiple_of(count) => (0..count).map(|i| i * (depth / count)).collect(),
        None => {
            return Err(format!("{count} blocks do not go evenly into {depth}, and no config says where they belong"));
        }
    };
    layers.sort_unstable();
    let distinct = layers.windows(2).all(|pair| pair[0] != pair[1]);
    if layers.len() != count || !distinct || layers.first() != Some(&0) || layers.last().is_some_and(|&l| l >= depth) {
        return Err(format!("there are {count}, which cannot add to the blocks {layers:?} of {depth} (0 among them)"));
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::layers;

    #[test]
    fn layers_are_the_configs_or_even() {
        assert_eq!(layers(None, 15, 30), Ok((0..15).map(|i| 2 * i).collect()));
        assert_eq!(layers(None, 8, 40), Ok((0..8).map(|i| 5 * i).collect()));
        assert_eq!(layers(Some(&[2, 0]), 2, 3), Ok(vec![0, 2]));
        for (wanted, count) in
            [(None, 4), (None, 0), (Some(&[0, 3][..]), 2), (Some(&[1, 2]), 2), (Some(&[0, 0]), 2), (Some(&[0]), 2)]
        {
            assert!(layers(wanted, count, 3).is_err(), "{wanted:?} {count}");
        }
    }
}
