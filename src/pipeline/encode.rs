//! Prompts to text states.

use super::{Event, Model, Phase, Settings};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::Graph;
use crate::tensor::HostTensor;
use crate::text::prompt_clean;

/// Rows of text that the transformer attends to, padding included (`max_sequence_length` of `WanPipeline`).
const TEXT_LENGTH: usize = 512;
/// The logit bias of rows that are not there.
const ABSENT: f32 = -1e30;

/// Text states of all prompts of a run, and how their padding counts.
pub struct Text {
    /// \[B, S, E\] f32: each prompt's tokens, then zeros. The prompt comes first; with guidance the negative second.
    pub states: HostTensor,
    /// \[B, S\] f32. The transformer was trained with zeros up to 512 rows, all of which give the same keys and values:
    /// one such row with ln(n) on its logit counts as n of them.
    pub key_bias: HostTensor,
}

/// Encodes the prompt and, with guidance, the negative prompt.
pub fn encode(
    gpu: &Gpu,
    model: &Model,
    settings: &Settings,
    observer: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<Text> {
    let mut prompts = vec![settings.prompt.as_str()];
    if settings.guidance()?.is_on() {
        prompts.push(&settings.negative);
    }
    let count = prompts.len();
    let mut states = Vec::with_capacity(count);
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = model.tokenizer.encode(&prompt_clean(prompt))?;
        let graph = Graph::new();
        let output = model.text_encoder.forward(&graph, &ids)?;
        graph.output("states", output);
        let program = gpu.compile(&graph.finish()?, &[])?;
        program.run(&mut |done| {
            let fraction = (i as f64 + done) / count as f64;
            observer(Event::Progress { phase: Phase::Text, step: i, steps: count, fraction })
        })?;
        states.push(program.read("states")?);
    }
    observer(Event::Progress { phase: Phase::Text, step: count, steps: count, fraction: 1.0 })?;
    Ok(pad(&states, model.text_encoder.dim()))
}

/// Stacks states of different lengths with the padding that the transformer expects, merged into one row each.
fn pad(states: &[HostTensor], dim: usize) -> Text {
    let lengths: Vec<usize> = states.iter().map(|s| s.shape()[0].min(TEXT_LENGTH)).collect();
    let rows = lengths.iter().map(|&n| (n + 1).min(TEXT_LENGTH)).max().unwrap_or(1);
    let mut values = vec![0f32; states.len() * rows * dim];
    let mut bias = vec![ABSENT; states.len() * rows];
    for (b, (state, &length)) in states.iter().zip(&lengths).enumerate() {
        let start = b * rows * dim;
        values[start..start + length * dim].copy_from_slice(&state.to_f32()[..length * dim]);
        bias[b * rows..b * rows + length].fill(0.0);
        if length < TEXT_LENGTH {
            bias[b * rows + length] = ((TEXT_LENGTH - length) as f32).ln();
        }
    }
    Text {
        states: HostTensor::from_f32([states.len(), rows, dim], &values),
        key_bias: HostTensor::from_f32([states.len(), rows], &bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_merged_into_one_row_that_counts_as_many() {
        let full = HostTensor::from_f32([512, 1], &[1.0; 512]);
        let short = HostTensor::from_f32([2, 1], &[3.0, 4.0]);
        let text = pad(std::slice::from_ref(&short), 1);
        assert_eq!(text.states.to_f32(), [3.0, 4.0, 0.0]);
        assert_eq!(text.key_bias.to_f32(), [0.0, 0.0, 510f32.ln()]);
        let text = pad(&[full, short], 1);
        assert_eq!(text.states.shape().dims(), [2, 512, 1]);
        assert_eq!(text.key_bias.to_f32()[511], 0.0, "a full prompt has no padding");
        assert_eq!(text.key_bias.to_f32()[512 + 3], ABSENT);
    }
}
