//! The feed-forward layer of a transformer's block.

use std::ops::Range;

use super::Linear;
use crate::graph::Var;
use crate::kernels::pointwise::Activation;

/// down(gelu(up(x))), for every token by itself (arXiv:1706.03762, section 3.3; GELU with tanh).
///
/// Long sequences go through in runs of tokens, one after the other. What lies between the two products is several times
/// as wide as x and would be the largest tensor of the whole model: 4 GiB in a 14B at 1280x720, more than most devices
/// have in one buffer.
#[derive(Clone, Debug)]
pub struct FeedForward {
    up: Linear,
    down: Linear,
}

/// Tokens that keep any device busy; a run has no fewer.
const ENOUGH: usize = 4096;

/// Runs begin at multiples of so many tokens, where rows of every element type can be bound without a copy.
const ALIGNED: usize = 128;

impl FeedForward {
    /// Of its two layers, the second of which takes what the first gives.
    pub fn new(up: Linear, down: Linear) -> Self {
        Self { up, down }
    }

    /// residual + gate * down(gelu(up(x))) \[B, L, C\], in f32, of x in the type of the products; `gate` \[R, C\] is shared
    /// out over the tokens as in [`Linear::gated_add_to`].
    #[track_caller]
    pub fn gated_add_to<'g>(&self, residual: Var<'g>, gate: Var<'g>, x: Var<'g>) -> Var<'g> {
        // So many that what lies in between is no larger than x. Sequences of a batch are short, and go through at once.
        let wanted = self.up.outputs().div_ceil(self.up.inputs().max(1)).min(x.shape().rows() / ENOUGH);
        let one = x.shape().dims().iter().rev().skip(2).all(|&sequences| sequences == 1);
        self.in_runs(residual, gate, x, if one { wanted } else { 1 })
    }

    /// The same for one sequence, in at most `wanted` runs.
    #[track_caller]
    fn in_runs<'g>(&self, residual: Var<'g>, gate: Var<'g>, x: Var<'g>, wanted: usize) -> Var<'g> {
        let through = |residual: Var<'g>, gate: Var<'g>, x: Var<'g>| {
            self.down.gated_add_to(residual, gate, self.up.activate(x, Activation::GeluTanh))
        };
        let (shape, gates) = (x.shape(), gate.shape().rows());
        let tokens = shape.rows();
        let runs = runs(tokens, gates, wanted);
        if runs.len() < 2 {
            return through(residual, gate, x);
        }
        let [residual, x] = [residual, x].map(|all| all.reshape([tokens, all.shape().last()]));
        let parts: Vec<Var<'g>> = (runs.into_iter())
            .map(|run| {
                let gate =
                    if gates == 1 { gate } else { gate.slice(run.start * gates / tokens..run.end * gates / tokens) };
                through(residual.slice(run.clone()), gate, x.slice(run))
            })
            .collect();
        let (first, rest) = parts.split_at(1);
        first[0].concat(rest).reshape(shape.with_last(self.down.outputs()))
    }
}

/// Divides `tokens` into at most `wanted` runs of one length but for the last; the tokens that one of a table's `gates` rows
/// serves stay together.
fn runs(tokens: usize, gates: usize, wanted: usize) -> Vec<Range<usize>> {
    let unit = if gates > 1 { tokens / gates } else { ALIGNED };
    let length = tokens.div_ceil(wanted.max(1)).next_multiple_of(unit.max(1)).max(1);
    (0..tokens).step_by(length).map(|start| start..tokens.min(start + length)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Bindings, Graph, NodeKind, interpret};
    use crate::tensor::{HostTensor, Weight};

    #[test]
    fn runs_cover_all_tokens_and_keep_a_gates_tokens_together() {
        for (tokens, wanted) in [(1000, 1), (1000, 0), (100, 3)] {
            assert_eq!(runs(tokens, 1, wanted), vec![0..tokens]);
        }
        assert_eq!(runs(1000, 1, 3), [0..384, 384..768, 768..1000]);
        assert_eq!(runs(1000, 5, 3), [0..400, 400..800, 800..1000]);
        assert_eq!(runs(1000, 5, 50), [0..200, 200..400, 400..600, 600..800, 800..1000]);
        assert_eq!(runs(6, 6, 2), [0..3, 3..6]);
        for (tokens, gates, wanted) in [(32_760, 1, 6), (75_600, 21, 3), (27_280, 31, 5), (7, 7, 7)] {
            let found = runs(tokens, gates, wanted);
            assert!(found.len() <= wanted, "{found:?}");
            assert_eq!((found[0].start, found[found.len() - 1].end), (0, tokens));
            assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].start < pair[0].end));
        }
    }

    #[test]
    fn runs_give_what_all_tokens_at_once_give() {
        let ramp = |dims: &[usize], salt: f32| {
            let count: usize = dims.iter().product();
            let values: Vec<f32> = (0..count).map(|i| ((i as f32 + salt) * 0.7).sin()).collect();
            HostTensor::from_f32(dims, &values)
        };
        let linear = |n: usize, k: usize| {
            Linear::new(Weight::new("w", ramp(&[n, k], n as f32)), Some(Weight::new("b", ramp(&[n], k as f32))))
        };
        let (channels, hidden) = (8, 24);
        let layer = FeedForward::new(linear(hidden, channels), linear(channels, hidden));
        for (tokens, gates, wanted, count) in [(300, 1, 3, 3), (300, 5, 2, 2), (300, 300, 4, 4), (300, 1, 1, 1)] {
            let graph = Graph::new();
            let residual = graph.constant(ramp(&[1, tokens, channels], 0.1));
            let gate = graph.constant(ramp(&[gates, channels], 0.2));
            let x = graph.constant(ramp(&[1, tokens, channels], 0.3));
            graph.output("whole", layer.in_runs(residual, gate, x, 1));
            graph.output("runs", layer.in_runs(residual, gate, x, wanted));
            let recording = graph.finish().expect("a graph");
            let products =
                recording.nodes.iter().filter(|node| node.ty.shape.last() == hidden && node.ty.shape.rank() > 1);
            let products = products.filter(|node| matches!(node.kind, NodeKind::Op { .. })).count();
            assert_eq!(products, 1 + count, "{tokens} tokens, {gates} gates");
            let values = interpret(&recording, &mut Bindings::default()).expect("a run");
            let [whole, runs] = [0, 1].map(|i| &values[recording.outputs[i].1]);
            assert_eq!(whole.shape, runs.shape);
            assert_eq!(whole.values, runs.values, "{tokens} tokens, {gates} gates");
            assert!(whole.values.iter().any(|value| value.abs() > 1.0));
        }
    }
}
