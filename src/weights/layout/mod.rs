//! Recognising networks by the names of their tensors, in whatever file or mix they come, and giving every tensor the
//! name that this crate's constructors ask for: that of diffusers or transformers.
//!
//! [`recognise`] finds the networks among a file's names, each in one of several [`Layout`]s and below any prefix; the
//! tables of the layouts can be read in both directions, so [`Layout::theirs`] names tensors for other programs.

mod known;
mod rule;
mod scales;
mod settings;
mod tables;
mod vae;

use std::collections::BTreeMap;

use rule::Rule;
pub use settings::{Settings, settings};

use crate::error::{Error, Result};
use crate::weights::Archive;

/// A network of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// The diffusion transformer.
    Transformer,
    /// UMT5.
    TextEncoder,
    /// The video VAE.
    Vae,
    /// CLIP's vision half.
    ImageEncoder,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Transformer, Self::TextEncoder, Self::Vae, Self::ImageEncoder];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text encoder",
            Self::Vae => "VAE",
            Self::ImageEncoder => "image encoder",
        }
    }

    /// The folder that it has in a diffusers pipeline.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::TextEncoder => "text_encoder",
            Self::Vae => "vae",
            Self::ImageEncoder => "image_encoder",
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A way to name a network's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    /// diffusers' and transformers': this crate's own.
    Diffusers,
    /// That of Wan's authors, which ComfyUI keeps.
    Wan,
    /// llama.cpp's.
    Gguf,
}

impl Layout {
    /// Its name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Wan => "original",
            Self::Gguf => "llama.cpp",
        }
    }

    /// What this layout calls tensors of ours (given by all their names, for some names of the VAE follow from how
    /// many blocks there are); ours that it has no name for are missing from the answer. Of fused tensors, each of ours
    /// says which of how many pieces below each other it is. `None` when networks of this kind have no such layout.
    pub fn theirs<'n>(
        self,
        network: Network,
        ours: impl IntoIterator<Item = &'n str>,
    ) -> Option<BTreeMap<&'n str, Theirs>> {
        let ours: Vec<&str> = ours.into_iter().collect();
        let residual = ours.iter().any(|name| {
            name.starts_with("encoder.down_blocks.0.resnets.") || name.starts_with("decoder.up_blocks.0.upsampler.")
        });
        let wanted = |dialect: &&Dialect| {
            dialect.network == network
                && dialect.layout == self
                && dialect.nested.is_none_or(|nested| nested == residual)
        };
        let dialect = DIALECTS.iter().find(wanted)?;
        let repeats = vae::repeats_of_ours(&ours);
        let name = |name: &&'n str| {
            let (theirs, part) = dialect.tables.iter().find_map(|rules| rule::theirs(rules, repeats, name))?;
            let theirs = if dialect.nested == Some(false) { vae::flatten(&theirs, repeats) } else { theirs };
            Some((*name, Theirs { name: format!("{}{theirs}", dialect.prefix), part }))
        };
        Some(ours.iter().filter_map(name).collect())
    }
}

/// What another layout calls a tensor of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Theirs {
    /// The name.
    pub name: String,
    /// Of a tensor that is several of ours below each other: which piece is ours, of how many.
    pub part: Option<(usize, usize)>,
}

/// Where a tensor of ours comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The tensor's name in the file.
    pub name: String,
    /// Of a tensor that is several of ours below each other: which piece is ours, of how many.
    pub part: Option<(usize, usize)>,
    /// Whether ours lacks the dimensions of one that the file's begins with.
    pub squeeze: bool,
}

/// A network that was found among the names of a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which.
    pub network: Network,
    /// In which names.
    pub layout: Layout,
    /// What stands before all of them.
    pub prefix: String,
    /// Our names, and where each comes from. Names that the layout does not know are kept as they are, for whoever builds
    /// the network to refuse.
    pub tensors: BTreeMap<String, Origin>,
}

/// What tells transformers of Wan's kin that are not supported, by parts of their tensors' names.
const KIN: &[(&str, &str)] = &[
    ("face_adapter.", "Wan 2.2 Animate"),
    ("motion_encoder.", "Wan 2.2 Animate"),
    ("audio_injector.", "Wan 2.2 S2V"),
    ("casual_audio_encoder.", "Wan 2.2 S2V"),
    ("control_adapter.", "Wan Fun Camera"),
    ("ref_conv.", "Wan Fun Control"),
    ("add_ref_proj.", "Phantom or another model of references"),
    ("audio_proj.", "MultiTalk or FantasyTalking"),
    ("recam.", "ReCamMaster"),
];

impl Found {
    /// The tensors of the network in our names, with the scales that their files have for them.
    ///
    /// # Errors
    /// [`Error::Tensor`] for weights that are quantised in a way that is not known, [`Error::Model`] for a transformer of
    /// Wan's kin that is known by name and not supported.
    pub fn open(&self, archive: &Archive) -> Result<Archive> {
        let kin = |name: &String| KIN.iter().find(|(mark, _)| name.contains(mark)).map(|(_, kin)| kin);
        let kin = (self.network == Network::Transformer).then(|| self.tensors.keys().find_map(kin)).flatten();
        if let Some(kin) = kin {
            let reason =
                format!("this is a transformer of {kin}, which is not supported; T2V, I2V, FLF2V, TI2V and VACE are");
            return Err(Error::model(archive.path(), reason));
        }
        archive.view(scales::sources(archive, self)?)
    }
}

/// One layout of one network.
struct Dialect {
    network: Network,
    layout: Layout,
    /// A name that only this one has.
    marker: &'static str,
    /// What its authors put before the names.
    prefix: &'static str,
    tables: &'static [&'static [Rule]],
    /// Of the authors' VAEs: whether layers lie in levels, as in Wan 2.2's.
    nested: Option<bool>,
}

const DIALECTS: &[Dialect] = &[
    Dialect {
        network: Network::Transformer,
        layout: Layout::Wan,
        marker: "blocks.0.self_attn.q.weight",
        prefix: "",
        tables: &[tables::TRANSFORMER],
        nested: None,
    },
    Dialect {
        network: Network::Transformer,
        layout: Layout::Diffusers,
        marker: "condition_embedder.time_proj.weight",
        prefix: "",
        tables: &[tables::SAME],
        nested: None,
    },
    Dialect {
        network: Network::TextEncoder,
        layout: Layout::Diffusers,
        marker: "encoder.block.0.layer.0.SelfAttention.q.weight",
        prefix: "",
        tables: &[tables::UMT5],
        nested: None,
    },
    Dialect {
        network: Network::TextEncoder,
        layout: Layout::Wan,
        marker: "blocks.0.ffn.gate.0.weight",
        prefix: "",
        tables: &[tables::UMT5_WAN],
        nested: None,
    },
    Dialect {
        network: Network::TextEncoder,
        layout: Layout::Gguf,
        marker: "enc.blk.0.attn_q.weight",
        prefix: "",
        tables: &[tables::UMT5_GGUF],
        nested: None,
    },
    Dialect {
        network: Network::Vae,
        layout: Layout::Diffusers,
        marker: "decoder.mid_block.resnets.0.norm1.gamma",
        prefix: "",
        tables: &[tables::SAME],
        nested: None,
    },
    Dialect {
        network: Network::Vae,
        layout: Layout::Wan,
        marker: "decoder.upsamples.0.upsamples.0.residual.0.gamma",
        prefix: "",
        tables: &[tables::VAE, tables::VAE_22],
        nested: Some(true),
    },
    Dialect {
        network: Network::Vae,
        layout: Layout::Wan,
        marker: "decoder.upsamples.0.residual.0.gamma",
        prefix: "",
        tables: &[tables::VAE, tables::VAE_21],
        nested: Some(false),
    },
    Dialect {
        network: Network::ImageEncoder,
        layout: Layout::Diffusers,
        marker: "embeddings.class_embedding",
        prefix: "",
        tables: &[tables::CLIP],
        nested: None,
    },
    Dialect {
        network: Network::ImageEncoder,
        layout: Layout::Wan,
        marker: "cls_embedding",
        prefix: "visual.",
        tables: &[tables::CLIP_WAN],
        nested: None,
    },
];

/// The networks among the names of a file's tensors: several in ComfyUI's checkpoints, none in files of other models.
pub fn recognise<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<Found> {
    let names: Vec<&str> = names.into_iter().collect();
    let place = |marker: &str| {
        let prefix = |name: &&'n str| name.strip_suffix(marker).filter(|p| p.is_empty() || p.ends_with('.'));
        names.iter().find_map(prefix)
    };
    let found = |dialect: &Dialect| Some(dialect.found(place(dialect.marker)?, &names));
    DIALECTS.iter().filter_map(found).collect()
}

impl Dialect {
    fn found(&self, prefix: &str, names: &[&str]) -> Found {
        let below: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(prefix)).collect();
        let repeats = vae::repeats_of_theirs(&below, self.nested);
        let mut tensors = BTreeMap::new();
        for name in below {
            let full = || format!("{prefix}{name}");
            let nested = if self.nested == Some(false) { vae::nest(name, repeats) } else { name.to_owned() };
            match self.tables.iter().find_map(|rules| rule::ours(rules, repeats, &nested)) {
                Some(pieces) => {
                    tensors.extend(pieces.into_iter().map(|(ours, origin)| (ours, Origin { name: full(), ..origin })));
                }
                None => {
                    tensors.insert(name.to_owned(), Origin { name: full(), part: None, squeeze: false });
                }
            }
        }
        Found { network: self.network, layout: self.layout, prefix: prefix.to_owned(), tensors }
    }
}

#[cfg(test)]
mod tests;
