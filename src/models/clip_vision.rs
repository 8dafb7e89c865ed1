//! The image encoder of CLIP: `CLIPVisionModel` of transformers' `models/clip/modeling_clip.py` (CLIP, arXiv:2103.00020;
//! ViT, arXiv:2010.11929). Wan 2.1 I2V sees its picture by a ViT-H/14.

use std::path::Path;

use crate::error::{Error, Result};
use crate::graph::Var;
use crate::kernels::attention::AttentionBias;
use crate::kernels::matmul::Epilogue;
use crate::kernels::pointwise::Activation;
use crate::nn::{LayerNorm, Linear};
use crate::tensor::{DType, Weight};
use crate::weights::{Archive, Config, Scope};

/// What the encoder's constructor needs beyond the shapes of its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipVisionConfig {
    /// Attention heads.
    pub heads: usize,
    /// Of the feed-forward layers.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub eps: f32,
}

impl ClipVisionConfig {
    /// Reads `config.json` of a transformers folder.
    ///
    /// # Errors
    /// When a key is missing, absurd, or asks for what is not supported.
    pub fn read(config: &Config) -> Result<Self> {
        let name: String = config.get_or("hidden_act", "quick_gelu".to_owned())?;
        let activation = match name.as_str() {
            "gelu" => Activation::GeluErf,
            "quick_gelu" => Activation::QuickGelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "silu" | "swish" => Activation::Silu,
            _ => {
                return Err(config.error(
                    "hidden_act",
                    format!("`{name}` is not supported; `gelu`, `quick_gelu`, `gelu_new` and `silu` are"),
                ));
            }
        };
        Ok(Self {
            heads: config.get_in("num_attention_heads", 1..=1024)?,
            activation,
            eps: config.get_or("layer_norm_eps", 1e-5)?,
        })
    }
}

/// The encoder, up to the layer before the last, whose states are what Wan uses.
#[derive(Clone, Debug)]
pub struct ClipVision {
    config: ClipVisionConfig,
    /// \[C\]: the token that stands for the whole picture.
    class: Weight,
    /// \[C, I p p\]
    patch_weight: Weight,
    /// I, the channels of a pixel, and p, the side of a patch.
    patch: [usize; 2],
    /// \[1 + P, C\], of the class token and of every patch.
    positions: Weight,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl ClipVision {
    /// Opens the `image_encoder` folder of a diffusers pipeline.
    ///
    /// # Errors
    /// When files are missing or broken, or tensors missing, extra or of the wrong shape.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = ClipVisionConfig::read(&Config::open(folder.join("config.json"))?)?;
        Self::load(&Archive::open(folder, "model")?, config)
    }

    /// Builds it from its tensors, with or without `vision_model.` before their names. Of a whole CLIP, or one with its
    /// projection, the rest is left alone, as are the last layer and the norm behind it.
    ///
    /// # Errors
    /// When tensors are missing, extra or of the wrong shape.
    pub fn load(archive: &Archive, config: ClipVisionConfig) -> Result<Self> {
        let root = Scope::new(archive);
        for unused in ["visual_projection", "text_model", "text_projection", "logit_scale"] {
            root.ignore(unused);
        }
        let scope = if root.has("vision_model") { root.at("vision_model") } else { root.clone() };
        let embeddings = scope.at("embeddings");
        let [dim, channels, rows, columns] = embeddings.dims("patch_embedding.weight");
        let [positions, _] = embeddings.dims("position_embedding.weight");
        let side = (positions - 1).isqrt();
        let wrong = |reason: String| Error::tensor(root.source(), "embeddings.patch_embedding.weight", reason);
        if !scope.failed() && (rows != columns || channels != 3 || side == 0 || side * side != positions - 1) {
            let reason = format!(
                "patches of {rows}x{columns} with {channels} channels, and {positions} positions: a picture is square and \
                 of 3 channels, and has a position for each patch and one more"
            );
            scope.fail(wrong(reason));
        }
        if !scope.failed() && dim % config.heads != 0 {
            scope.fail(wrong(format!("{dim} features cannot be divided among {} heads", config.heads)));
        }
        let depth = scope.count("encoder.layers");
        let used = depth.saturating_sub(1);
        for unused in [format!("encoder.layers.{used}"), "post_layernorm".into(), "embeddings.position_ids".into()] {
            scope.ignore(&unused);
        }
        if !scope.failed() && depth == 0 {
            scope.fail(Error::tensor(root.source(), "encoder.layers.0", "it is missing"));
        }
        let layers = scope.at("encoder.layers");
        let model = Self {
            class: embeddings.vector("class_embedding", [dim]),
            patch_weight: embeddings.flattened("patch_embedding.weight", [dim, channels, rows, columns]),
            patch: [channels, rows],
            positions: embeddings.vector("position_embedding.weight", [positions, dim]),
            // The name is transformers'.
            norm: LayerNorm::load(&scope.at("pre_layrnorm"), dim, config.eps),
            layers: (0..used).map(|i| Layer::load(&layers.at(i), dim, config.eps)).collect(),
            config,
        };
        root.finish()?;
        Ok(model)
    }

    /// Features of a state.
    pub fn dim(&self) -> usize {
        self.class.shape().last()
    }

    /// States of a picture: one for the whole of it, and one for each patch.
    pub fn tokens(&self) -> usize {
        self.positions.shape()[0]
    }

    /// Rows, and columns, of the pictures that it takes.
    pub fn side(&self) -> usize {
        (self.tokens() - 1).isqrt() * self.patch[1]
    }

    /// A normalised picture \[1, 3, S, S\] -> the states \[1, 1 + P, C\] that go into the last layer
    /// (`hidden_states[-2]`), all in f32.
    #[track_caller]
    pub fn forward<'g>(&self, pixels: Var<'g>) -> Var<'g> {
        let graph = pixels.graph();
        let [channels, patch] = self.patch;
        let (dim, across) = (self.dim(), self.side() / patch);
        // A convolution whose stride is its size: a linear layer over the values of a patch.
        let patches = pixels
            .reshape([channels, across, patch, across, patch])
            .permute(&[1, 3, 0, 2, 4])
            .reshape([across * across, channels * patch * patch])
            .matmul(graph.weight(&self.patch_weight), Epilogue::default());
        let tokens = graph.weight(&self.class).reshape([1, dim]).concat(&[patches]);
        let placed = tokens.add(graph.weight(&self.positions)).reshape([1, self.tokens(), dim]);
        let mut x = self.norm.apply(placed, DType::F32);
        for (i, layer) in self.layers.iter().enumerate() {
            let _scope = graph.scope(format_args!("encoder.layers.{i}"));
            x = layer.forward(x, &self.config);
        }
        x
    }
}

impl Layer {
    fn load(scope: &Scope, dim: usize, eps: f32) -> Self {
        let attention = scope.at("self_attn");
        let square = |name: &str| Linear::load_sized(&attention.at(name), dim, dim);
        let fc1 = Linear::load(&scope.at("mlp.fc1"), dim);
        Self {
            norm1: LayerNorm::load(&scope.at("layer_norm1"), dim, eps),
            q: square("q_proj"),
            k: square("k_proj"),
            v: square("v_proj"),
            out: square("out_proj"),
            norm2: LayerNorm::load(&scope.at("layer_norm2"), dim, eps),
            fc2: Linear::load_sized(&scope.at("mlp.fc2"), dim, fc1.outputs()),
            fc1,
        }
    }

    /// x \[1, L, C\]
    fn forward<'g>(&self, x: Var<'g>, config: &ClipVisionConfig) -> Var<'g> {
        let scale = 1.0 / ((self.q.outputs() / config.heads) as f32).sqrt();
        let normed = self.norm1.apply(x, DType::F32);
        let (q, k, v) = (self.q.apply(normed), self.k.apply(normed), self.v.apply(normed));
        let x = self.out.add_to(x, q.attention(k, v, config.heads, scale, AttentionBias::default()));
        let hidden = self.fc1.activate(self.norm2.apply(x, DType::F32), config.activation);
        self.fc2.add_to(x, hidden)
    }
}
