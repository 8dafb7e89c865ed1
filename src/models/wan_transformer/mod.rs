//! The Wan diffusion transformer: `WanTransformer3DModel` of diffusers' `models/transformers/transformer_wan.py`
//! (Wan, arXiv:2503.20314; DiT, arXiv:2212.09748).

mod block;
mod image;
mod vace;

use std::path::Path;

use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::kernels::embed::sinusoid_frequencies;
use crate::kernels::pointwise::Activation;
use crate::nn::{Context, Linear, Rope, rope_tables};
use crate::tensor::{DType, HostTensor, Weight};
use crate::weights::{Archive, Config, Scope};
use block::{Block, Surroundings, add_table};
use image::ImageEmbedder;
pub use vace::Control;
use vace::Vace;

/// What the transformer's constructor needs beyond the shapes of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct WanTransformerConfig {
    /// Attention heads.
    pub heads: usize,
    /// Frames, rows and columns of a patch.
    pub patch: [usize; 3],
    /// Features of the sinusoidal time embedding.
    pub freq_dim: usize,
    /// Whether cross-attention has a norm before it; one that is there is used without being asked for.
    pub cross_attn_norm: bool,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Tokens that one axis may have.
    pub rope_max_seq_len: usize,
    /// The blocks that those of a control video's branch add to (VACE); at even distances if it is not said.
    pub vace_layers: Option<Vec<usize>>,
}

impl WanTransformerConfig {
    /// Reads `config.json` of a diffusers folder.
    ///
    /// # Errors
    /// When a key is missing, absurd, or asks for what is not supported.
    pub fn read(config: &Config) -> Result<Self> {
        let patch: [usize; 3] = config.get_or("patch_size", [1, 2, 2])?;
        if patch.iter().any(|&p| p == 0 || p > 16) {
            return Err(config.error("patch_size", format!("{patch:?} is not a patch")));
        }
        if let Some(norm) = config.get_optional::<String>("qk_norm")?
            && norm != "rms_norm_across_heads"
        {
            return Err(config.error("qk_norm", format!("`{norm}` is not supported, only `rms_norm_across_heads`")));
        }
        let freq_dim = config.get_or("freq_dim", 256)?;
        if freq_dim == 0 || freq_dim % 2 != 0 || freq_dim > 1 << 16 {
            return Err(config.error("freq_dim", format!("{freq_dim} is not a positive even number")));
        }
        Ok(Self {
            heads: config.get_in("num_attention_heads", 1..=1024)?,
            patch,
            freq_dim,
            cross_attn_norm: config.get_or("cross_attn_norm", true)?,
            eps: config.get_or("eps", 1e-6)?,
            rope_max_seq_len: config.get_or("rope_max_seq_len", 1024)?,
            vace_layers: config.get_optional("vace_layers")?,
        })
    }
}

/// The transformer: latents, a timestep and a text in, a velocity out.
#[derive(Clone, Debug)]
pub struct WanTransformer {
    config: WanTransformerConfig,
    patch_weight: Weight,
    patch_bias: Weight,
    time_in: Linear,
    time_out: Linear,
    time_proj: Linear,
    text_in: Linear,
    text_out: Linear,
    /// Of transformers that see pictures by CLIP.
    image: Option<ImageEmbedder>,
    blocks: Vec<Block>,
    /// Of transformers that read a control video.
    vace: Option<Vace>,
    proj_out: Linear,
    table: Weight,
    dim: usize,
    in_channels: usize,
}

/// What the velocity depends on besides latents and time: the same in every step of a run.
#[derive(Clone, Debug)]
pub struct Conditions<'g> {
    /// Keys and values of the text, and of pictures that CLIP has seen, for each block, then for each of the control's.
    pub blocks: Vec<Context<'g>>,
    /// \[B, S\]: 0 for tokens, ln n for one row that stands for n rows of padding, very negative for rows not there.
    pub key_bias: Var<'g>,
    /// The control video, in transformers that read one.
    pub control: Option<Control<'g>>,
}

/// Tokens of all texts together up to which they go through a block at once.
const TOGETHER: usize = 4096;

/// Texts that go through the blocks together.
struct Group<'g> {
    /// Their places among all.
    texts: std::ops::Range<usize>,
    /// \[B, L, C\]
    x: Var<'g>,
    /// The tokens of the branch that reads a control video, as x.
    control: Option<Var<'g>>,
    around: Surroundings<'g>,
}

impl WanTransformer {
    /// Opens the `transformer` folder of a diffusers pipeline.
    ///
    /// # Errors
    /// When files are missing or broken, or tensors missing, extra or of the wrong shape.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = WanTransformerConfig::read(&Config::open(folder.join("config.json"))?)?;
        Self::load(&Archive::open(folder, "diffusion_pytorch_model")?, config)
    }

    /// Builds it from its tensors, whose shapes give every dimension that `config` does not.
    ///
    /// # Errors
    /// When tensors are missing, extra or of the wrong shape.
    pub fn load(archive: &Archive, config: WanTransformerConfig) -> Result<Self> {
        let scope = Scope::new(archive);
        let [dim, in_channels, pt, ph, pw] = scope.dims("patch_embedding.weight");
        if !scope.failed()
            && ([pt, ph, pw] != config.patch || dim % config.heads != 0 || !(dim / config.heads).is_multiple_of(2))
        {
            let reason = format!(
                "patches {:?} and {dim} features do not fit config.json, which has patches {:?} and {} heads of an even size",
                [pt, ph, pw],
                config.patch,
                config.heads
            );
            return Err(Error::tensor(archive.path(), "patch_embedding.weight", reason));
        }
        let embedder = scope.at("condition_embedder");
        let [_, text_dim] = embedder.dims("text_embedder.linear_1.weight");
        let blocks: Vec<Block> =
            (0..scope.count("blocks")).map(|i| Block::load(&scope.at("blocks").at(i), dim, &config)).collect();
        let model = Self {
            patch_weight: scope.flattened("patch_embedding.weight", [dim, in_channels, pt, ph, pw]),
            patch_bias: scope.vector("patch_embedding.bias", [dim]),
            time_in: Linear::load_sized(&embedder.at("time_embedder.linear_1"), dim, config.freq_dim),
            time_out: Linear::load_sized(&embedder.at("time_embedder.linear_2"), dim, dim),
            time_proj: Linear::load_sized(&embedder.at("time_proj"), 6 * dim, dim),
            text_in: Linear::load_sized(&embedder.at("text_embedder.linear_1"), dim, text_dim),
            text_out: Linear::load_sized(&embedder.at("text_embedder.linear_2"), dim, dim),
            image: embedder.has("image_embedder").then(|| ImageEmbedder::load(&embedder.at("image_embedder"), dim)),
            vace: scope.has("vace_patch_embedding").then(|| Vace::load(&scope, dim, blocks.len(), &config)),
            blocks,
            proj_out: Linear::load(&scope.at("proj_out"), dim),
            table: scope.vector("scale_shift_table", [2, dim]),
            dim,
            in_channels,
            config,
        };
        scope.ignore("rope");
        scope.finish()?;
        // Each does nothing without the other.
        if model.image.is_some() != model.sees_pictures() {
            let reason = "it is there for pictures seen by CLIP, and not all that they take is";
            return Err(Error::tensor(archive.path(), "condition_embedder.image_embedder", reason));
        }
        Ok(model)
    }

    /// What it was built with.
    pub fn config(&self) -> &WanTransformerConfig {
        &self.config
    }

    /// Channels of the latents it takes.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Channels of the velocity it gives.
    pub fn out_channels(&self) -> usize {
        self.proj_out.outputs() / self.config.patch.iter().product::<usize>()
    }

    /// Whether its blocks attend to pictures that CLIP has seen, beside the text.
    pub fn sees_pictures(&self) -> bool {
        self.blocks.iter().any(Block::sees_pictures)
    }

    /// Features of CLIP's states that it takes, if it sees pictures.
    pub fn image_dim(&self) -> Option<usize> {
        self.image.as_ref().map(ImageEmbedder::inputs)
    }

    /// Tokens of CLIP, of all pictures together, that it has positions for (Wan 2.1 FLF2V: those of a first and a last
    /// picture).
    pub fn image_tokens(&self) -> Option<usize> {
        self.image.as_ref().and_then(ImageEmbedder::tokens)
    }

    /// Channels of the control video's latents that it reads, if it reads one (VACE).
    pub fn control_channels(&self) -> Option<usize> {
        self.vace.as_ref().map(Vace::channels)
    }

    /// How many blocks read the control video.
    pub fn control_depth(&self) -> usize {
        self.vace.as_ref().map_or(0, Vace::depth)
    }

    /// Features of the text states it takes.
    pub fn text_dim(&self) -> usize {
        self.text_in.inputs()
    }

    /// How many blocks it has.
    pub fn depth(&self) -> usize {
        self.blocks.len()
    }

    /// Frames, rows and columns of a patch.
    pub fn patch(&self) -> [usize; 3] {
        self.config.patch
    }

    /// Tokens that one axis may have.
    pub fn longest_axis(&self) -> usize {
        self.config.rope_max_seq_len
    }

    /// Features of a token.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Text states \[B, S, E\] and CLIP's states of pictures \[1, P, I\] -> keys and values of every block, and of
    /// those that read the control video, in `compute` precision.
    #[track_caller]
    pub fn contexts<'g>(&self, text: Var<'g>, pictures: Option<Var<'g>>, compute: DType) -> Vec<Context<'g>> {
        let hidden = self.text_in.activate(text, Activation::GeluTanh);
        let text = self.text_out.apply(hidden).cast(compute);
        let seen = self.image.as_ref().zip(pictures);
        let pictures = seen.map(|(embedder, states)| embedder.forward(states).cast(compute));
        let blocks = self.blocks.iter().map(|block| block.context(text, pictures));
        blocks.chain(self.vace.iter().flat_map(|vace| vace.contexts(text))).collect()
    }

    /// A control video's latents \[1, I, F, h, w\] -> the tokens \[1, L, C\] of [`Control`]; none where none is read.
    #[track_caller]
    pub fn control_tokens<'g>(&self, latents: Var<'g>) -> Option<Var<'g>> {
        self.vace.as_ref().map(|vace| vace.tokens(latents, self.config.patch))
    }

    /// The velocities \[1, C, F, H, W\] at latents \[1, C, F, H, W\] and timestep `time` \[R\], one for each of the B texts of
    /// `given`.
    ///
    /// R is 1, or the number of the grid's frames when each has its own timestep. Matrix products and attention run in `compute`;
    /// norms, modulation, gated residuals and the time embedding in f32.
    ///
    /// Where there are few tokens the texts go through a block together, which keeps a device busy; where there are many,
    /// one after the other, and what is between a block's input and its output is there for one of them only.
    #[track_caller]
    pub fn forward<'g>(&self, latents: Var<'g>, time: Var<'g>, given: &Conditions<'g>, compute: DType) -> Vec<Var<'g>> {
        let graph = latents.graph();
        let shape = latents.shape();
        let grid: [usize; 3] = std::array::from_fn(|axis| shape[axis + 2] / self.config.patch[axis]);
        let batch = given.key_bias.shape()[0];
        let together = if batch * grid.iter().product::<usize>() <= TOGETHER { batch } else { 1 };
        let (time, modulation) = self.embed_time(time);
        let rope = self.rope(graph, grid);
        let (contexts, of_control) = given.blocks.split_at(self.blocks.len().min(given.blocks.len()));
        let vace = self.vace.as_ref().zip(given.control.as_ref());

        let weight = graph.weight(&self.patch_weight);
        let tokens = latents.patch_embed(weight, graph.weight(&self.patch_bias), self.config.patch, together);
        let control = vace.map(|(_, control)| tokens.add(control.tokens));
        let mut groups: Vec<Group<'g>> = (0..batch)
            .step_by(together.max(1))
            .map(|first| {
                let texts = first..first + together;
                let key_bias = given.key_bias.slice(texts.clone());
                let around = Surroundings { modulation, rope, key_bias, compute };
                Group { texts, x: tokens, control, around }
            })
            .collect();
        for (i, (block, context)) in self.blocks.iter().zip(contexts).enumerate() {
            for Group { texts, x, control, around } in &mut groups {
                *x = {
                    let _scope = graph.scope(format_args!("blocks.{i}"));
                    block.forward(*x, context.of(texts.clone()), around)
                };
                if let Some(((vace, given), state)) = vace.zip(control.as_mut()) {
                    let contexts = of_control.iter().map(|context| context.of(texts.clone()));
                    *x = vace.step(i, *x, state, contexts, &given.scales, around);
                }
            }
        }
        let [shift, scale] = add_table::<2>(graph.weight(&self.table), time);
        let velocity = |x: Var<'g>| {
            let x = self.proj_out.apply(x.ada_norm(shift, scale, self.config.eps, DType::F32));
            x.unpatchify(grid, self.config.patch)
        };
        let velocities: Vec<Var<'g>> = groups.iter().map(|group| velocity(group.x)).collect();
        let one = [1, self.out_channels(), shape[2], shape[3], shape[4]];
        let of_group = |all: Var<'g>| (0..together).map(move |b| all.slice(b..b + 1).reshape(one));
        velocities.into_iter().flat_map(of_group).collect()
    }

    /// Timesteps \[R\] -> the time embedding \[R, C\] and the blocks' modulation \[R, 6 C\].
    fn embed_time<'g>(&self, time: Var<'g>) -> (Var<'g>, Var<'g>) {
        let graph = time.graph();
        let frequencies = sinusoid_frequencies(self.config.freq_dim);
        let frequencies = graph.constant(HostTensor::from_f32([frequencies.len()], &frequencies));
        let hidden = self.time_in.activate(time.sinusoid(frequencies), Activation::Silu);
        let time = self.time_out.apply(hidden);
        (time, self.time_proj.apply(time.activate(Activation::Silu)))
    }

    fn rope<'g>(&self, graph: &'g Graph, grid: [usize; 3]) -> Rope<'g> {
        let (cos, sin) = rope_tables(grid, self.dim / self.config.heads);
        Rope { cos: graph.constant(cos), sin: graph.constant(sin) }
    }
}
