//! Latents to pixels: `WanDecoder3d`.

use std::path::Path;

use super::WanVaeConfig;
use super::blocks::{MidBlock, ResidualBlock};
use crate::error::{Error, Result};
use crate::graph::Var;
use crate::nn::{CausalConv3d, ChannelNorm, Linear, ResampleConv2d, Stream};
use crate::weights::{Archive, Config, Scope};

/// The decoder, latent frame by latent frame.
#[derive(Clone, Debug)]
pub struct WanVaeDecoder {
    config: WanVaeConfig,
    post_quant: Linear,
    conv_in: CausalConv3d,
    mid: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: ChannelNorm,
    conv_out: CausalConv3d,
}

#[derive(Clone, Debug)]
struct UpBlock {
    resnets: Vec<ResidualBlock>,
    upsampler: Option<Upsampler>,
    /// Whether what comes in is repeated and added to what goes out.
    residual: bool,
}

#[derive(Clone, Debug)]
struct Upsampler {
    /// Doubles the number of frames, of all chunks but the first.
    time_conv: Option<CausalConv3d>,
    resample: ResampleConv2d,
}

impl WanVaeDecoder {
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
        let decoder = scope.at("decoder");
        let post_quant = Linear::load_pointwise(&scope.at("post_quant_conv"), config.mean.len());
        let conv_in = CausalConv3d::load(&decoder.at("conv_in"), post_quant.outputs());
        let mid = MidBlock::load(&decoder.at("mid_block"), conv_in.outputs());
        let mut channels = mid.outputs();
        let mut up_blocks = Vec::new();
        for i in 0..decoder.count("up_blocks") {
            let block = UpBlock::load(&decoder.at("up_blocks").at(i), channels, config.residual);
            channels = block.outputs(channels);
            up_blocks.push(block);
        }
        let norm_out = ChannelNorm::load(&decoder.at("norm_out"), channels);
        let conv_out = CausalConv3d::load(&decoder.at("conv_out"), channels);
        let patch = config.patch;
        if conv_out.outputs() != 3 * patch * patch {
            let reason = format!(
                "it gives {} channels where {patch}x{patch} pixels have {}",
                conv_out.outputs(),
                3 * patch * patch
            );
            scope.fail(Error::tensor(archive.path(), "decoder.conv_out.weight", reason));
        }
        let model = Self { config, post_quant, conv_in, mid, up_blocks, norm_out, conv_out };
        scope.ignore("encoder");
        scope.ignore("quant_conv");
        scope.finish()?;
        Ok(model)
    }

    /// Latent channels.
    pub fn channels(&self) -> usize {
        self.post_quant.inputs()
    }

    /// Mean and standard deviation of each latent channel.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// Rows, and columns, of pixels to one of the latents.
    pub fn spatial_factor(&self) -> usize {
        self.config.patch << self.up_blocks.iter().filter(|block| block.upsampler.is_some()).count()
    }

    /// Frames of video to one of the latents, but for the first, which is one frame.
    pub fn temporal_factor(&self) -> usize {
        let doubles = |block: &&UpBlock| block.upsampler.as_ref().is_some_and(|up| up.time_conv.is_some());
        1 << self.up_blocks.iter().filter(doubles).count()
    }

    /// One latent frame z \[1, h, w, C\], not normalised, -> its frames \[t, H, W, 3\], roughly in -1..1: one for the
    /// first latent frame, [`temporal_factor`](Self::temporal_factor) for each after it.
    #[track_caller]
    pub fn forward<'g>(&self, z: Var<'g>, first: bool, stream: &Stream<'g>) -> Var<'g> {
        let x = self.conv_in.apply(self.post_quant.apply(z), None, stream);
        let mut x = self.mid.forward(x, stream);
        for (i, block) in self.up_blocks.iter().enumerate() {
            let _scope = x.graph().scope(format_args!("decoder.up_blocks.{i}"));
            x = block.forward(x, first, stream);
        }
        unpatchify(self.conv_out.apply(self.norm_out.apply_silu(x), None, stream), self.config.patch)
    }
}

impl UpBlock {
    fn load(scope: &Scope, mut channels: usize, residual: bool) -> Self {
        let mut resnets = Vec::new();
        for i in 0..scope.count("resnets") {
            let block = ResidualBlock::load(&scope.at("resnets").at(i), channels);
            channels = block.outputs();
            resnets.push(block);
        }
        let upsampler = scope.at(if residual { "upsampler" } else { "upsamplers.0" });
        let time_conv = || CausalConv3d::load(&upsampler.at("time_conv"), channels);
        let upsampler = upsampler.has("resample.1.weight").then(|| Upsampler {
            time_conv: upsampler.has("time_conv.weight").then(time_conv),
            resample: ResampleConv2d::load(&upsampler.at("resample.1"), channels),
        });
        Self { residual: residual && upsampler.is_some(), resnets, upsampler }
    }

    /// Channels that it gives when it takes `inputs`.
    fn outputs(&self, inputs: usize) -> usize {
        let resnets = self.resnets.last().map_or(inputs, ResidualBlock::outputs);
        self.upsampler.as_ref().map_or(resnets, |upsampler| upsampler.resample.outputs())
    }

    fn forward<'g>(&self, x: Var<'g>, first: bool, stream: &Stream<'g>) -> Var<'g> {
        let entered = x;
        let x = self.resnets.iter().fold(x, |x, block| block.forward(x, stream));
        let Some(upsampler) = &self.upsampler else { return x };
        let x = match &upsampler.time_conv {
            Some(time_conv) if !first => interleave_frames(time_conv.apply(x, None, stream)),
            _ => x,
        };
        let x = upsampler.resample.upsample(x);
        let frames = if upsampler.time_conv.is_some() { 2 } else { 1 };
        if self.residual { x.add_duplicated(entered, [frames, 2], first) } else { x }
    }
}

/// \[T, H, W, 2 C\] -> \[2 T, H, W, C\]: the halves of the channels are two frames after each other.
fn interleave_frames(x: Var<'_>) -> Var<'_> {
    let shape = x.shape();
    let [t, h, w, c] = [shape[0], shape[1], shape[2], shape[3] / 2];
    x.reshape([t, h, w, 2, c]).permute(&[0, 3, 1, 2, 4]).reshape([2 * t, h, w, c])
}

/// \[T, h, w, 3 p p\] -> \[T, h p, w p, 3\]: channels in (colour, column, row) order are the pixels of a patch.
fn unpatchify(x: Var<'_>, p: usize) -> Var<'_> {
    let shape = x.shape();
    let [t, h, w, c] = [shape[0], shape[1], shape[2], shape[3] / (p * p)];
    if p == 1 {
        return x;
    }
    x.reshape([t, h, w, c, p, p]).permute(&[0, 1, 5, 2, 4, 3]).reshape([t, h * p, w * p, c])
}
