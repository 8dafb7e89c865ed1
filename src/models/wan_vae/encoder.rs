//! Pixels to latents: `WanEncoder3d`.

use std::path::Path;

use super::WanVaeConfig;
use super::blocks::{AttentionBlock, MidBlock, ResidualBlock};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{CausalConv3d, ChannelNorm, Linear, ResampleConv2d, Stream};
use crate::weights::{Archive, Config, Scope};

/// The encoder, one latent frame's pixels at a time.
#[derive(Clone, Debug)]
pub struct WanVaeEncoder {
    config: WanVaeConfig,
    conv_in: CausalConv3d,
    down_blocks: Vec<DownBlock>,
    mid: MidBlock,
    norm_out: ChannelNorm,
    conv_out: CausalConv3d,
    /// The half of `quant_conv` that gives the means of the posterior.
    quant: Linear,
}

/// One entry of `down_blocks`: a flat list of layers, or, in the residual VAE, a level's layers with a way around them.
#[derive(Clone, Debug)]
enum DownBlock {
    Residual(ResidualBlock),
    Attention(AttentionBlock),
    Downsample(Downsampler),
    /// `WanResidualDownBlock`
    Level(Vec<DownBlock>),
}

/// `WanResample`, downwards.
#[derive(Clone, Debug)]
struct Downsampler {
    resample: ResampleConv2d,
    /// Halves the number of frames, of all chunks but the first.
    time_conv: Option<CausalConv3d>,
}

impl WanVaeEncoder {
    /// Opens the `vae` folder of a diffusers pipeline.
    ///
    /// # Errors
    /// When files are missing or broken, or tensors missing, extra or of the wrong shape.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = WanVaeConfig::read(&Config::open(folder.join("config.json"))?)?;
        Self::load(&Archive::open(folder, "diffusion_pytorch_model")?, config)
    }

    /// Builds it from its tensors.
    ///
    /// # Errors
    /// When tensors are missing, extra or of the wrong shape.
    pub fn load(archive: &Archive, config: WanVaeConfig) -> Result<Self> {
        let scope = Scope::new(archive);
        let encoder = scope.at("encoder");
        let conv_in = CausalConv3d::load(&encoder.at("conv_in"), 3 * config.patch * config.patch);
        let mut channels = conv_in.outputs();
        let mut down_blocks = Vec::new();
        for i in 0..encoder.count("down_blocks") {
            let block = DownBlock::load(&encoder.at("down_blocks").at(i), channels);
            channels = block.outputs(channels);
            down_blocks.push(block);
        }
        let mid = MidBlock::load(&encoder.at("mid_block"), channels);
        let norm_out = ChannelNorm::load(&encoder.at("norm_out"), mid.outputs());
        let conv_out = CausalConv3d::load(&encoder.at("conv_out"), mid.outputs());
        let quant = Linear::load_pointwise(&scope.at("quant_conv"), conv_out.outputs());
        if quant.outputs() != 2 * config.mean.len() {
            let reason = format!(
                "{} channels are not means and variances of {} latent channels",
                quant.outputs(),
                config.mean.len()
            );
            scope.fail(Error::tensor(archive.path(), "quant_conv.weight", reason));
        }
        let [quant, _variance] = quant.split();
        scope.ignore("decoder");
        scope.ignore("post_quant_conv");
        scope.finish()?;
        Ok(Self { config, conv_in, down_blocks, mid, norm_out, conv_out, quant })
    }

    /// Mean and standard deviation of each latent channel.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// The pixels of one latent frame \[t, H, W, 3\] in -1..1 -> the mean of its posterior \[1, h, w, C\], not
    /// normalised; t is one for the first latent frame, as many as the decoder makes of one for each after it.
    #[track_caller]
    pub fn forward<'g>(&self, pixels: Var<'g>, first: bool, stream: &Stream<'g>) -> Var<'g> {
        let mut x = self.conv_in.apply(patchify(pixels, self.config.patch), None, stream);
        for (i, block) in self.down_blocks.iter().enumerate() {
            let _scope = x.graph().scope(format_args!("encoder.down_blocks.{i}"));
            x = block.forward(x, first, stream);
        }
        let x = self.norm_out.apply_silu(self.mid.forward(x, stream));
        self.quant.apply(self.conv_out.apply(x, None, stream))
    }
}

impl DownBlock {
    fn load(scope: &Scope, channels: usize) -> Self {
        if scope.has("resnets") {
            let mut level = Vec::new();
            let resnets = (0..scope.count("resnets")).map(|i| scope.at("resnets").at(i));
            for layer in resnets.chain(scope.has("downsampler").then(|| scope.at("downsampler"))) {
                let channels = level.iter().fold(channels, |channels, block: &Self| block.outputs(channels));
                level.push(Self::load(&layer, channels));
            }
            return Self::Level(level);
        }
        if scope.has("to_qkv.weight") {
            return Self::Attention(AttentionBlock::load(scope, channels));
        }
        if !scope.has("resample.1.weight") {
            return Self::Residual(ResidualBlock::load(scope, channels));
        }
        let resample = ResampleConv2d::load(&scope.at("resample.1"), channels);
        let time_conv = || CausalConv3d::load(&scope.at("time_conv"), resample.outputs());
        let time_conv = scope.has("time_conv.weight").then(time_conv);
        Self::Downsample(Downsampler { resample, time_conv })
    }

    /// Channels that it gives when it takes `inputs`.
    fn outputs(&self, inputs: usize) -> usize {
        match self {
            Self::Residual(block) => block.outputs(),
            Self::Attention(_) => inputs,
            Self::Downsample(block) => block.resample.outputs(),
            Self::Level(blocks) => blocks.iter().fold(inputs, |channels, block| block.outputs(channels)),
        }
    }

    /// By how much it reduces frames, and rows and columns.
    fn factor(&self) -> [usize; 2] {
        match self {
            Self::Downsample(block) => [if block.time_conv.is_some() { 2 } else { 1 }, 2],
            Self::Residual(_) | Self::Attention(_) | Self::Level(_) => [1, 1],
        }
    }

    fn forward<'g>(&self, x: Var<'g>, first: bool, stream: &Stream<'g>) -> Var<'g> {
        match self {
            Self::Residual(block) => block.forward(x, stream),
            Self::Attention(block) => block.forward(x),
            Self::Downsample(Downsampler { resample, time_conv }) => {
                let x = resample.downsample(x);
                time_conv.as_ref().map_or(x, |conv| conv.halve_frames(x, first, stream))
            }
            Self::Level(blocks) => {
                let factor = blocks.iter().map(Self::factor).fold([1, 1], |[ft, fs], [t, s]| [ft * t, fs * s]);
                let y = blocks.iter().fold(x, |x, block| block.forward(x, first, stream));
                y.add_averaged(x, factor)
            }
        }
    }
}

/// \[T, H, W, 3\] -> \[T, H / p, W / p, 3 p p\]: the pixels of a patch as channels in (colour, column, row) order.
fn patchify(x: Var<'_>, p: usize) -> Var<'_> {
    let shape = x.shape();
    let [t, h, w, c] = [shape[0], shape[1] / p, shape[2] / p, shape[3]];
    if p == 1 {
        return x;
    }
    x.reshape([t, h, p, w, p, c]).permute(&[0, 1, 3, 5, 4, 2]).reshape([t, h, w, c * p * p])
}
