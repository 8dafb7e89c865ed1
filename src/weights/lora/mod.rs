//! LoRA files: small changes to a transformer's weights, in any of the dialects that they are written in.
//!
//! A file names the layer that it changes in diffusers' words, in those of Wan's authors, or in either with underscores
//! for dots, below any of several prefixes; what a layer may be called is made from the model's own names. What stands
//! behind the layer's name says what the tensor is: a factor of a low-rank product (`lora_down`/`lora_up`,
//! `lora_A`/`lora_B`), its `alpha`, or a difference of a weight (`diff`), a bias (`diff_b`) or a modulation table
//! (`diff_m`). W' = W + strength alpha / rank B A (arXiv:2106.09685).

mod settings;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::delta::{Delta, LowRank, matrix};
use super::layout::{Layout, Network};
use super::{Archive, Fingerprint, clip, list};
use crate::error::{Error, Result};
use crate::tensor::{HostTensor, Shape};
use settings::Alpha;

/// What PEFT and diffusers call the file in a folder of theirs.
const IN_FOLDERS: [&str; 4] =
    ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin", "pytorch_lora_weights.bin"];

/// What stands before the layers' names.
const PREFIXES: &[&str] = &[
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "pipe.dit.",
    "dit.",
    "unet.",
    "lora_unet__",
    "lora_unet_",
    "lycoris_",
];

/// What stands before the names of layers, behind the prefixes, where a file tells the two transformers of a model apart:
/// that for high noise and that for low. Beside `transformer_2.` the first is also called by what a single one is.
const OF_TWO: [&str; 2] = ["transformer_1.", "transformer_2."];

/// Endings of tensors of methods other than LoRA, and what these are called.
const OTHER_METHODS: &[(&str, &str)] = &[
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".hada_w", "LoHa"),
    (".lokr_w", "LoKr"),
    (".lora_mid.", "a LoRA of three factors"),
    (".oft_", "OFT"),
    (".a1.weight", "GLoRA"),
    (".on_input", "IA3"),
];

/// Parts of the names of layers that only transformers with CLIP have. Files made for those are used with others too.
const OF_PICTURES: &[&str] =
    &["k_img", "v_img", "img_emb", "add_k_proj", "add_v_proj", "norm_added_k", "image_embedder"];

/// A LoRA file, its tensors sorted by the layers that they change.
#[derive(Clone, Debug)]
pub struct Lora {
    archive: Archive,
    layers: BTreeMap<String, Layer>,
    /// For a model's first transformer, and for its second.
    alphas: [Alpha; 2],
    /// Whether names tell the layers of two transformers apart.
    of_two: bool,
}

/// What a file holds for one layer: names of its tensors.
#[derive(Clone, Debug, Default)]
struct Layer {
    down: Option<String>,
    up: Option<String>,
    up_bias: Option<String>,
    alpha: Option<String>,
    diff: Option<String>,
    diff_bias: Option<String>,
    diff_table: Option<String>,
}

/// A model's tensors with those of LoRA files added to them.
pub struct Adapted {
    /// The tensors. Low-rank products that are cheap beside their weight are kept beside it.
    pub archive: Archive,
    /// Tensors of the files that this model has no layers for: those of transformers that see pictures by CLIP.
    pub unused: Vec<String>,
}

/// What a layer of a file is to the model.
struct Target {
    /// The weight, or the table itself.
    tensor: String,
    bias: String,
}

impl Lora {
    /// Opens a file, whatever its container, or the one in a folder that PEFT or diffusers saved.
    ///
    /// # Errors
    /// Those of [`Archive::open_file`]; [`Error::Tensor`] for tensors of other methods than LoRA, a factor without the
    /// other, or what is no part of a LoRA at all; [`Error::Model`] for a folder without a file of the usual names, and
    /// for settings that ask for what is not supported.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = &inside(path.as_ref())?;
        let archive = Archive::open_file(path)?;
        let mut layers: BTreeMap<String, Layer> = BTreeMap::new();
        for name in archive.names() {
            let other = OTHER_METHODS.iter().find(|(mark, _)| name.contains(mark));
            if let Some((_, method)) = other {
                return Err(archive.error(name, format!("it is a part of {method}, which is not supported")));
            }
            let Some((layer, place)) = sort(name, &mut layers) else {
                return Err(archive.error(name, unknown(name)));
            };
            if place.replace(name.to_owned()).is_some() {
                return Err(archive.error(name, format!("`{}` has two of its kind", clip(layer))));
            }
        }
        if layers.is_empty() {
            return Err(Error::model(path, "there is nothing in it"));
        }
        for layer in layers.values() {
            if let (Some(one), None) | (None, Some(one)) = (&layer.down, &layer.up) {
                return Err(archive.error(one, "the other factor of its product is missing"));
            }
        }
        let alphas = [
            Alpha::of(&archive, "transformer.", layers.keys())?,
            Alpha::of(&archive, "transformer_2.", layers.keys())?,
        ];
        let of_two = layers.keys().any(|layer| expert(layer).is_some());
        Ok(Self { archive, layers, alphas, of_two })
    }

    /// What each of a model's two transformers gets: that for high noise, and that for low. Both get the whole file, unless
    /// its names tell the layers of two apart, as those of a `transformer.` and a `transformer_2.`, which diffusers writes
    /// when it is given the layers of both, or of a `transformer_1.` and a `transformer_2.`, as trainers of both do.
    pub fn for_two(&self) -> [Self; 2] {
        if !self.of_two {
            return [self.clone(), self.clone()];
        }
        [0, 1].map(|at| {
            let of_this = |(name, _): &(&String, &Layer)| expert(name).unwrap_or(0) == at;
            let layers = self.layers.iter().filter(of_this).map(|(name, layer)| (name.clone(), layer.clone()));
            let alpha = if at == 0 { &self.alphas[0] } else { &self.alphas[1] };
            let alphas = [alpha.clone(), alpha.clone()];
            Self { archive: self.archive.clone(), layers: layers.collect(), alphas, of_two: false }
        })
    }

    /// Whether it changes no layer: one [of two](Lora::for_two) may not.
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.archive.path()
    }

    /// A name for its exact content, for recipes (see [`Fingerprint`]).
    pub fn hash(&self) -> String {
        Fingerprint::new().archive("lora", &self.archive).finish()
    }

    /// What it adds to a layer's weight, bias and table: names of ours and the additions.
    fn deltas(
        &self,
        model: &Archive,
        target: &Target,
        layer: &Layer,
        name: &str,
        strength: f32,
    ) -> Result<Vec<(String, Delta)>> {
        let mut deltas = Vec::new();
        let mut scale = strength;
        if let (Some(down), Some(up)) = (&layer.down, &layer.up) {
            let shape = self.shape_of(model, &target.tensor, down)?;
            let n = shape.dims().first().copied().unwrap_or(1);
            let k = shape.dims().iter().skip(1).product::<usize>();
            let (a, b) = (self.archive.tensor(down)?, self.archive.tensor(up)?);
            let r = a.shape().dims().first().copied().unwrap_or(1);
            let misfit = |of: &str, tensor: &HostTensor| {
                let reason = format!("its shape is {}, where {shape} needs a product of rank {r}", tensor.shape());
                self.archive.error(of, reason)
            };
            let fits = r > 0 && n > 0 && k > 0;
            let down = matrix(&a, r, k).filter(|_| fits).ok_or_else(|| misfit(down, &a))?;
            let up = matrix(&b, n, r).ok_or_else(|| misfit(up, &b))?;
            let alpha = layer.alpha.as_ref().map(|name| self.number(name)).transpose()?;
            scale *= self.alphas[0].scale(alpha, name, r);
            deltas.push((target.tensor.clone(), Delta::LowRank(LowRank { down, up, scale })));
        }
        let whole = [
            (&layer.diff, &target.tensor, strength),
            (&layer.diff_table, &target.tensor, strength),
            (&layer.diff_bias, &target.bias, strength),
            (&layer.up_bias, &target.bias, scale),
        ];
        for (stored, ours, scale) in whole {
            let Some(stored) = stored else { continue };
            let shape = self.shape_of(model, ours, stored)?;
            let tensor = self.archive.tensor(stored)?;
            let bare = |shape: Shape| shape.dims().iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
            if bare(tensor.shape()) != bare(shape) {
                let reason = format!("its shape is {}, and that of `{ours}` is {shape}", tensor.shape());
                return Err(self.archive.error(stored, reason));
            }
            deltas.push((ours.clone(), Delta::Whole(tensor, scale)));
        }
        Ok(deltas)
    }

    fn shape_of(&self, model: &Archive, ours: &str, stored: &str) -> Result<Shape> {
        let missing = || self.archive.error(stored, format!("the model has no `{ours}` for it to change"));
        model.shape_of(ours).ok_or_else(missing)
    }

    fn number(&self, name: &str) -> Result<f32> {
        let raw = self.archive.raw(name)?;
        let value = match (&*raw.dtype, &raw.bytes[..]) {
            ("F64", &[a, b, c, d, e, f, g, h]) => Some(f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32),
            ("I64", &[a, b, c, d, e, f, g, h]) => Some(i64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32),
            _ => self.archive.tensor(name)?.to_f32().first().copied(),
        };
        let one = raw.dims.iter().product::<usize>() == 1;
        value.filter(|v| one && v.is_finite()).ok_or_else(|| self.archive.error(name, "this is not one number"))
    }
}

impl Archive {
    /// A transformer's tensors, in our names, with LoRA files added, each as strongly as its number says.
    ///
    /// Low-rank products whose two factors cost little beside the weight they change are left beside it
    /// ([`Scope::low_rank`](super::Scope::low_rank)); all else is merged, in f32, when the tensor is asked for.
    ///
    /// # Errors
    /// [`Error::Tensor`] when tensors of a file fit no layer, or not its shape, and are not those for pictures;
    /// [`Error::Model`] for a file with the layers of two transformers, of which [`Lora::for_two`] gives those of one.
    pub fn adapted(&self, loras: &[(&Lora, f32)]) -> Result<Adapted> {
        let aliases = aliases(self);
        let (mut deltas, mut unused) = (Vec::new(), Vec::new());
        for &(lora, strength) in loras {
            if lora.of_two {
                let reason = "it has layers for each of two transformers, and this model has one";
                return Err(Error::model(lora.path(), reason));
            }
            let mut unknown = Vec::new();
            for (name, layer) in &lora.layers {
                match find(&aliases, name, layer.diff_table.is_some()) {
                    Some(module) => {
                        let weight = format!("{module}.weight");
                        let tensor = if self.contains(&weight) { weight } else { module.to_owned() };
                        let target = Target { tensor, bias: format!("{module}.bias") };
                        deltas.extend(lora.deltas(self, &target, layer, name, strength)?);
                    }
                    None if OF_PICTURES.iter().any(|part| name.contains(part)) => unused.push(name.clone()),
                    None => unknown.push(name.as_str()),
                }
            }
            if let Some((first, rest)) = unknown.split_first() {
                let others = match rest {
                    [] => String::new(),
                    rest => format!(", nor for {} others: {}", rest.len(), list(rest.iter().copied())),
                };
                let reason = format!("the model has no layer `{}` for it to change{others}", clip(first));
                let stored = lora.archive.names().find(|name| name.starts_with(first)).unwrap_or(first);
                return Err(lora.archive.error(stored, reason));
            }
        }
        Ok(Adapted { archive: self.with_deltas(deltas)?, unused })
    }
}

/// Whatever a layer may be called -> our name of it.
fn aliases(model: &Archive) -> HashMap<String, String> {
    let mut aliases = HashMap::new();
    let theirs = Layout::Wan.theirs(Network::Transformer, model.names()).unwrap_or_default();
    for ours in model.names() {
        let theirs = theirs.get(ours).filter(|theirs| theirs.part.is_none()).map_or(ours, |theirs| &theirs.name);
        let layer = |name: &str| name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name).to_owned();
        let module = layer(ours);
        for name in [layer(ours), layer(theirs)] {
            aliases.insert(name.replace('.', "_"), module.clone());
            aliases.insert(name, module.clone());
        }
    }
    aliases
}

/// Our name of a file's layer, or of the modulation table in it.
fn find<'a>(aliases: &'a HashMap<String, String>, layer: &str, table: bool) -> Option<&'a str> {
    let mut name = layer;
    loop {
        let known = if table {
            let inside = |table: &str| if name.is_empty() { table.to_owned() } else { format!("{name}.{table}") };
            aliases.get(&inside("modulation")).or_else(|| aliases.get(&inside("scale_shift_table")))
        } else {
            aliases.get(name)
        };
        if let Some(known) = known {
            return Some(known);
        }
        name = PREFIXES.iter().chain(&OF_TWO).find_map(|prefix| name.strip_prefix(prefix))?;
    }
}

/// Which of two transformers a file's layer is for, if its name says so: 0 for high noise, 1 for low.
fn expert(layer: &str) -> Option<usize> {
    let mut name = layer;
    loop {
        if let Some(at) = OF_TWO.iter().position(|prefix| name.starts_with(prefix)) {
            return Some(at);
        }
        name = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    }
}

/// The file that is meant by a path, which may be a folder's.
fn inside(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let found = IN_FOLDERS.iter().map(|name| path.join(name)).find(|file| file.exists());
    found
        .ok_or_else(|| Error::model(path, format!("this is a folder without {}: name the file", IN_FOLDERS.join(", "))))
}

/// Why a tensor is no part of a LoRA.
fn unknown(name: &str) -> &'static str {
    match name.rsplit_once('.') {
        Some((layer, "weight")) if !layer.contains("lora") => {
            "this is a whole weight and not a change of one, as models have, and adapters of PEFT with `modules_to_save`; \
             a LoRA with such is not supported"
        }
        Some((layer, "bias")) if !layer.contains("lora") => {
            "this is a whole bias and not a change of one, as models have, and adapters of PEFT with `bias` or \
             `modules_to_save`; a LoRA with such is not supported"
        }
        _ => "this is no part of a LoRA that is known",
    }
}

/// The layer that a tensor belongs to and its place there.
fn sort<'a, 'n>(name: &'n str, layers: &'a mut BTreeMap<String, Layer>) -> Option<(&'n str, &'a mut Option<String>)> {
    type Place = fn(&mut Layer) -> &mut Option<String>;
    const ENDINGS: &[(&str, Place)] = &[
        (".lora_down.weight", |layer| &mut layer.down),
        (".lora_up.weight", |layer| &mut layer.up),
        (".lora_up.bias", |layer| &mut layer.up_bias),
        (".lora_A.weight", |layer| &mut layer.down),
        (".lora_B.weight", |layer| &mut layer.up),
        (".lora_B.bias", |layer| &mut layer.up_bias),
        (".lora.down.weight", |layer| &mut layer.down),
        (".lora.up.weight", |layer| &mut layer.up),
        (".alpha", |layer| &mut layer.alpha),
        (".diff", |layer| &mut layer.diff),
        (".diff_b", |layer| &mut layer.diff_bias),
        (".diff_m", |layer| &mut layer.diff_table),
    ];
    let plain = ENDINGS.iter().find_map(|&(ending, place)| Some((name.strip_suffix(ending)?, place)));
    // PEFT puts the name of an adapter in between: `lora_A.default.weight`.
    let (layer, place) = plain.or_else(|| {
        ENDINGS.iter().find_map(|&(ending, place)| {
            let (factor, kind) = ending.rsplit_once('.')?;
            let (layer, rest) = name.split_once(&format!("{factor}."))?;
            let adapter = rest.strip_suffix(kind)?.strip_suffix('.')?;
            (!adapter.contains('.')).then_some((layer, place))
        })
    })?;
    Some((layer, place(layers.entry(layer.to_owned()).or_default())))
}
