//! What the transformer makes of the pictures that CLIP has seen: `WanImageEmbedding` of diffusers' `transformer_wan.py`.

use crate::graph::Var;
use crate::kernels::pointwise::Activation;
use crate::nn::{LayerNorm, Linear};
use crate::tensor::{DType, Weight};
use crate::weights::Scope;

/// Epsilon of the norms, which no config changes.
const EPS: f32 = 1e-5;

/// CLIP's states to the transformer's features.
#[derive(Clone, Debug)]
pub(super) struct ImageEmbedder {
    /// \[P, I\]: what is added to the tokens of a first and a last picture (Wan 2.1 FLF2V).
    positions: Option<Weight>,
    norm1: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
    norm2: LayerNorm,
}

impl ImageEmbedder {
    pub fn load(scope: &Scope, dim: usize) -> Self {
        let [inputs] = scope.dims("norm1.weight");
        let positions = scope.has("pos_embed").then(|| {
            let [_, tokens, _] = scope.dims("pos_embed");
            scope.vector("pos_embed", [tokens, inputs])
        });
        let ff_in = Linear::load(&scope.at("ff.net.0.proj"), inputs);
        Self {
            positions,
            norm1: LayerNorm::load(&scope.at("norm1"), inputs, EPS),
            ff_out: Linear::load_sized(&scope.at("ff.net.2"), dim, ff_in.outputs()),
            ff_in,
            norm2: LayerNorm::load(&scope.at("norm2"), dim, EPS),
        }
    }

    /// Features of a state.
    pub fn inputs(&self) -> usize {
        self.ff_in.inputs()
    }

    /// Tokens that there are positions for.
    pub fn tokens(&self) -> Option<usize> {
        self.positions.as_ref().map(|positions| positions.shape()[0])
    }

    /// States \[1, P, I\] -> \[1, P, C\], in f32.
    #[track_caller]
    pub fn forward<'g>(&self, states: Var<'g>) -> Var<'g> {
        let graph = states.graph();
        let placed = self.positions.as_ref().map_or(states, |positions| states.add(graph.weight(positions)));
        let hidden = self.ff_in.activate(self.norm1.apply(placed, DType::F32), Activation::GeluErf);
        self.norm2.apply(self.ff_out.apply(hidden), DType::F32)
    }
}
