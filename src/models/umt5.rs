//! The UMT5 text encoder: `UMT5EncoderModel` of transformers' `models/umt5/modeling_umt5.py` (T5, arXiv:1910.10683;
//! UMT5, arXiv:2304.09151): a relative bias in every layer, unscaled attention, gated GELU.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Result};
use crate::graph::{Graph, Var};
use crate::kernels::attention::AttentionBias;
use crate::kernels::pointwise::Activation;
use crate::nn::{Linear, RmsNorm};
use crate::tensor::{Bytes, HostTensor, Weight};
use crate::weights::{Archive, Config, Scope};

/// What the encoder's constructor needs beyond the shapes of its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Umt5Config {
    /// Attention heads.
    pub heads: usize,
    /// Buckets of relative positions.
    pub buckets: usize,
    /// Distance from which on all positions share a bucket.
    pub max_distance: usize,
    /// Epsilon of the norms.
    pub eps: f32,
}

impl Umt5Config {
    /// Reads `config.json` of a transformers folder.
    ///
    /// # Errors
    /// When a key is missing, absurd, or asks for what is not supported.
    pub fn read(config: &Config) -> Result<Self> {
        let projection: String = config.get_or("feed_forward_proj", "gated-gelu".to_owned())?;
        if projection != "gated-gelu" {
            return Err(
                config.error("feed_forward_proj", format!("`{projection}` is not supported, only `gated-gelu`"))
            );
        }
        // What transformers makes of `feed_forward_proj`, but these have the last word.
        let activation = config.get_or("dense_act_fn", "gelu_new".to_owned())?;
        if activation != "gelu_new" {
            return Err(config.error("dense_act_fn", format!("`{activation}` is not supported, only `gelu_new`")));
        }
        if !config.get_or("is_gated_act", true)? {
            return Err(config.error("is_gated_act", "is false, and only gated layers are supported"));
        }
        let buckets = config.get_or("relative_attention_num_buckets", 32)?;
        if buckets % 4 != 0 || !(4..=4096).contains(&buckets) {
            return Err(config.error("relative_attention_num_buckets", format!("{buckets} cannot be divided in four")));
        }
        Ok(Self {
            heads: config.get_in("num_heads", 1..=1024)?,
            buckets,
            max_distance: config.get_or("relative_attention_max_distance", 128)?,
            eps: config.get_or("layer_norm_epsilon", 1e-6)?,
        })
    }
}

/// The encoder.
#[derive(Clone, Debug)]
pub struct Umt5 {
    config: Umt5Config,
    /// \[V, C\]; only the rows of a prompt's tokens ever reach a device.
    tokens: Weight,
    layers: Vec<Layer>,
    final_norm: RmsNorm,
}

#[derive(Clone, Debug)]
struct Layer {
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// \[buckets, N\]
    relative: Weight,
    norm2: RmsNorm,
    wi_0: Linear,
    wi_1: Linear,
    wo: Linear,
}

impl Umt5 {
    /// Opens the `text_encoder` folder of a diffusers pipeline.
    ///
    /// # Errors
    /// When files are missing or broken, or tensors missing, extra or of the wrong shape.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = Umt5Config::read(&Config::open(folder.join("config.json"))?)?;
        Self::load(&Archive::open(folder, "model")?, config)
    }

    /// Builds it from its tensors.
    ///
    /// # Errors
    /// When tensors are missing, extra or of the wrong shape.
    pub fn load(archive: &Archive, config: Umt5Config) -> Result<Self> {
        let scope = Scope::new(archive);
        // The table is saved under either name, or both: they are tied.
        let table = if scope.has("shared.weight") { "shared.weight" } else { "encoder.embed_tokens.weight" };
        let [vocabulary, dim] = scope.dims(table);
        let blocks = scope.at("encoder").at("block");
        let count = scope.at("encoder").count("block");
        let model = Self {
            tokens: scope.matrix(table, [vocabulary, dim]),
            layers: (0..count).map(|i| Layer::load(&blocks.at(i), dim, &config)).collect(),
            final_norm: RmsNorm::load(&scope.at("encoder.final_layer_norm"), dim, config.eps),
            config,
        };
        scope.ignore("encoder.embed_tokens");
        scope.finish()?;
        Ok(model)
    }

    /// Features of a state.
    pub fn dim(&self) -> usize {
        self.tokens.shape().last()
    }

    /// How many tokens the vocabulary has.
    pub fn vocabulary(&self) -> usize {
        self.tokens.shape()[0]
    }

    /// States \[L, C\] of a prompt's L tokens, without padding: masked padding changes nothing for them.
    ///
    /// # Errors
    /// [`Error::Model`] when a token is not in the vocabulary.
    pub fn forward<'g>(&self, graph: &'g Graph, ids: &[u32]) -> Result<Var<'g>> {
        let length = ids.len();
        let (rows, local) = self.rows(ids)?;
        let ids = graph.constant(HostTensor::from_u32([length], &local));
        let buckets = graph.constant(relative_buckets(length, self.config.buckets, self.config.max_distance));
        let mut x = ids.embedding(graph.constant(rows)).reshape([1, length, self.dim()]);
        for (i, layer) in self.layers.iter().enumerate() {
            let _scope = graph.scope(format_args!("encoder.block.{i}"));
            x = layer.forward(x, buckets, self.config.heads);
        }
        Ok(self.final_norm.apply(x).reshape([length, self.dim()]))
    }

    /// The table's rows that these tokens use, and the tokens as indices of those rows: of 2 GB of table a prompt needs
    /// a few hundred rows, read straight from the mapped file. Quantised ones are expanded, and no others of the table.
    fn rows(&self, ids: &[u32]) -> Result<(HostTensor, Vec<u32>)> {
        let dim = self.dim();
        let mut dtype = self.tokens.dtype();
        let mut index = BTreeMap::new();
        let mut bytes = Vec::new();
        let mut local = Vec::with_capacity(ids.len());
        for &id in ids {
            let next = index.len() as u32;
            let row = *index.entry(id).or_insert(next);
            if row == next {
                let id = id as usize;
                let row = self.tokens.value().rows(id..id + 1).ok_or_else(|| {
                    let reason = format!(
                        "token {id} is not in a vocabulary of {}: the tokenizer is not this encoder's",
                        self.vocabulary()
                    );
                    Error::model("text_encoder", reason)
                })?;
                let row = row.load()?.expand();
                dtype = row.dtype();
                bytes.extend_from_slice(row.bytes());
            }
            local.push(row);
        }
        let rows = HostTensor::from_bytes([index.len(), dim], dtype, Bytes::from(bytes));
        Ok((rows.ok_or_else(|| Error::Internal("rows of the wrong size".into()))?, local))
    }
}

impl Layer {
    fn load(scope: &Scope, dim: usize, config: &Umt5Config) -> Self {
        let attention = scope.at("layer").at(0).at("SelfAttention");
        let feed_forward = scope.at("layer").at(1).at("DenseReluDense");
        let q = Linear::load_bare(&attention.at("q"), dim);
        let wi_0 = Linear::load_bare(&feed_forward.at("wi_0"), dim);
        let (inner, hidden) = (q.outputs(), wi_0.outputs());
        if inner % config.heads != 0 {
            let reason = format!("{inner} features cannot be divided among {} heads", config.heads);
            scope.fail(Error::tensor(scope.source(), format!("{}.q.weight", attention.path()), reason));
        }
        Self {
            norm1: RmsNorm::load(&scope.at("layer.0.layer_norm"), dim, config.eps),
            q,
            k: Linear::load_bare_sized(&attention.at("k"), inner, dim),
            v: Linear::load_bare_sized(&attention.at("v"), inner, dim),
            o: Linear::load_bare_sized(&attention.at("o"), dim, inner),
            relative: attention.at("relative_attention_bias").vector("weight", [config.buckets, config.heads]),
            norm2: RmsNorm::load(&scope.at("layer.1.layer_norm"), dim, config.eps),
            wi_0,
            wi_1: Linear::load_bare_sized(&feed_forward.at("wi_1"), hidden, dim),
            wo: Linear::load_bare_sized(&feed_forward.at("wo"), dim, hidden),
        }
    }

    /// x \[1, L, C\]; buckets \[2 L - 1\] u32
    fn forward<'g>(&self, x: Var<'g>, buckets: Var<'g>, heads: usize) -> Var<'g> {
        let bias = buckets.embedding(x.graph().weight(&self.relative));
        let normed = self.norm1.apply(x);
        let (q, k, v) = (self.q.apply(normed), self.k.apply(normed), self.v.apply(normed));
        let attended = q.attention(k, v, heads, 1.0, AttentionBias { key: None, relative: Some(bias) });
        let x = self.o.add_to(x, attended);
        let normed = self.norm2.apply(x);
        let hidden = self.wi_0.apply(normed).gated(Activation::GeluTanh, self.wi_1.apply(normed));
        self.wo.add_to(x, hidden)
    }
}

/// The bucket of each relative position key - query, from 1 - L to L - 1: \[2 L - 1\] u32.
///
/// Half of the buckets are for keys behind the query; in each half, half are for exact distances and the rest grow
/// logarithmically (`UMT5Attention._relative_position_bucket`, in f32 as there).
fn relative_buckets(length: usize, buckets: usize, max_distance: usize) -> HostTensor {
    let half = buckets / 2;
    let exact = half / 2;
    let bucket = |relative: i64| {
        let distance = relative.unsigned_abs() as usize;
        let side = if relative > 0 { half } else { 0 };
        if distance < exact {
            return side + distance;
        }
        let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
        side + (exact + (ratio * (half - exact) as f32) as usize).min(half - 1)
    };
    let values: Vec<u32> = (0..2 * length - 1).map(|i| bucket(i as i64 - (length as i64 - 1)) as u32).collect();
    HostTensor::from_u32([values.len()], &values)
}
