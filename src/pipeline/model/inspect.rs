//! What the files of a model are, without reading its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Defaults;
use super::candidate::Candidate;
use super::files::ModelFiles;
use super::inventory::Inventory;
use super::kind::{Pictures, Traits};
use super::parts::{Part, Parts};
use crate::error::Result;
use crate::sampling::SamplerConfig;
use crate::weights::layout::{Layout, Network};
use crate::weights::{Archive, Config};

/// What was recognised in some files.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What the model is called.
    pub name: String,
    /// The model of Wan's that it is, if its dimensions are those of one.
    pub kind: Option<&'static str>,
    /// The networks.
    pub parts: Vec<PartReport>,
    /// Where the tokenizer is.
    pub tokenizer: Option<PathBuf>,
    /// Licences, and pages that may state one, beside the files.
    pub licences: Vec<PathBuf>,
    /// What is missing, undecided or broken, and what to do.
    pub problems: Vec<String>,
    /// Files that are of no use, with the reason.
    pub others: Vec<(PathBuf, String)>,
    /// What it would run with; `None` when it cannot be run as it is.
    pub run: Option<RunReport>,
}

/// What a whole model takes, and what it runs with where a request says nothing.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// Size, length, steps, guidance, negative prompt.
    pub defaults: Defaults,
    /// The sampler with its shift.
    pub sampler: SamplerConfig,
    /// What it takes, in the options of the command line.
    pub inputs: Vec<&'static str>,
}

/// One network's files.
#[derive(Clone, Debug)]
pub struct PartReport {
    /// The folder that diffusers gives it: `transformer`, `transformer_2`, `vae`...
    pub role: &'static str,
    /// Which network.
    pub network: Network,
    /// In which names.
    pub layout: Layout,
    /// What stands before the names in the file; often nothing.
    pub prefix: String,
    /// The file, or the folder of several.
    pub place: PathBuf,
    /// Its settings, with what the shapes of its tensors say; `None` when they cannot be known.
    pub settings: Option<Config>,
    /// Where its `config.json` is wrong, in words.
    pub corrections: Vec<String>,
    /// Its tensors under the names of diffusers.
    pub tensors: Vec<TensorReport>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorReport {
    /// Our name.
    pub name: String,
    /// Its name in the file.
    pub stored: String,
    /// Its type, as the file spells it.
    pub dtype: String,
    /// Its dimensions.
    pub dims: Vec<usize>,
    /// Bytes as stored.
    pub bytes: u64,
}

/// Tensors of one place in a network and of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorGroup {
    /// The place: what their names begin with.
    pub name: String,
    /// Their type, as the file spells it.
    pub dtype: String,
    /// How many there are.
    pub count: usize,
    /// Elements of all.
    pub elements: u64,
    /// Bytes of all.
    pub bytes: u64,
}

impl PartReport {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Elements of all tensors.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().map(TensorReport::elements).sum()
    }

    /// The element types by the bytes that they take, most first.
    pub fn types(&self) -> Vec<(String, u64)> {
        let mut types: BTreeMap<&str, u64> = BTreeMap::new();
        for tensor in &self.tensors {
            *types.entry(&tensor.dtype).or_default() += tensor.bytes;
        }
        let mut types: Vec<(String, u64)> = types.into_iter().map(|(dtype, bytes)| (dtype.to_owned(), bytes)).collect();
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        types
    }

    /// The tensors by place and type, in the order of the names.
    pub fn groups(&self) -> Vec<TensorGroup> {
        let mut groups: BTreeMap<(String, &str), TensorGroup> = BTreeMap::new();
        for tensor in &self.tensors {
            let name = group_of(&tensor.name);
            let group = groups.entry((name.clone(), &tensor.dtype)).or_insert_with(|| TensorGroup {
                name,
                dtype: tensor.dtype.clone(),
                count: 0,
                elements: 0,
                bytes: 0,
            });
            group.count += 1;
            group.elements += tensor.elements();
            group.bytes += tensor.bytes;
        }
        groups.into_values().collect()
    }
}

impl TensorReport {
    fn elements(&self) -> u64 {
        self.dims.iter().fold(1, |product: u64, &n| product.saturating_mul(n as u64))
    }
}

/// What a name begins with up to the first number, or without its last word: `blocks`, `decoder.mid_block.resnets`.
fn group_of(name: &str) -> String {
    let words: Vec<&str> = name.split('.').collect();
    let number = words.iter().position(|word| word.parse::<u32>().is_ok());
    let end = number.unwrap_or(words.len().saturating_sub(1)).max(1);
    words.get(..end).unwrap_or_default().join(".")
}

impl Inspection {
    /// Looks at the files of a model; at the model inside the binary when none is named.
    ///
    /// # Errors
    /// When a place that is named cannot be read or is broken. What is missing or unknown is no error but among the
    /// problems.
    pub fn of(files: &ModelFiles) -> Result<Self> {
        let inventory = if files.is_empty() { Inventory::embedded()? } else { Inventory::of(files)? };
        let mut found = Self {
            name: inventory.name.clone(),
            kind: None,
            parts: Vec::new(),
            tokenizer: inventory.tokenizer_place(),
            licences: licences(files),
            problems: inventory.problems.clone(),
            others: inventory.others.clone(),
            run: None,
        };
        let mut faults = Vec::new();
        for (role, candidate) in inventory.candidates() {
            match inventory.part_of(role, candidate) {
                Ok(part) => {
                    faults.extend(fault(candidate.network(), &part));
                    found.parts.push(report(role, candidate, Some(part)));
                }
                Err(error) => {
                    found.problems.push(error.to_string());
                    found.parts.push(report(role, candidate, None));
                }
            }
        }
        if !found.problems.is_empty() {
            found.problems.extend(faults);
            return Ok(found);
        }
        found.problems = faults;
        match inventory.parts() {
            Ok(parts) => {
                found.problems.extend(misfits(&parts));
                found.kind = parts.kind;
                let traits = Traits::of(&parts.transformer, parts.transformer_low.is_some())?;
                let inputs = inputs(&traits, parts.index.expand_timesteps);
                found.run = Some(RunReport { defaults: parts.defaults, sampler: parts.sampler, inputs });
            }
            Err(error) => found.problems.push(error.to_string()),
        }
        Ok(found)
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(PartReport::bytes).sum()
    }
}

/// Where the parts do not fit each other.
fn misfits(parts: &Parts) -> Vec<String> {
    let number = |part: &Part, key: &str| part.config.get::<usize>(key).unwrap_or(0);
    let mut problems = Vec::new();
    for transformer in [Some(&parts.transformer), parts.transformer_low.as_ref()].into_iter().flatten() {
        let pairs = [
            ("channels", "out_channels", "VAE", &parts.vae, "z_dim", "--vae"),
            ("features of text", "text_dim", "text encoder", &parts.text_encoder, "d_model", "--text-encoder"),
        ];
        for (what, ours, name, other, theirs, option) in pairs {
            let (takes, has) = (number(transformer, ours), number(other, theirs));
            if takes != has {
                let role = transformer.role;
                problems
                    .push(format!("the {role} has {takes} {what}, and the {name} {has}: give another with {option}"));
            }
        }
    }
    problems
}

/// What is known of a network, and of its settings where they can be known.
fn report(role: &'static str, candidate: &Candidate, part: Option<Part>) -> PartReport {
    let archive = part.as_ref().map_or(&candidate.archive, |part| &part.archive);
    let tensors = archive.names().map(|name| tensor(archive, name)).collect();
    let (settings, corrections) = part.map_or((None, Vec::new()), |part| (Some(part.config), part.corrections));
    PartReport {
        role,
        network: candidate.network(),
        layout: candidate.found.layout,
        prefix: candidate.found.prefix.clone(),
        place: candidate.place.clone(),
        settings,
        corrections,
        tensors,
    }
}

/// Why the network cannot be built: a tensor that is missing, does not fit, or is of no use.
fn fault(network: Network, part: &Part) -> Option<String> {
    let fault = match network {
        Network::Transformer => part.transformer().err(),
        Network::TextEncoder => part.text_encoder().err(),
        Network::Vae => part.vae().err(),
        Network::ImageEncoder => part.image_encoder().err(),
    };
    fault.map(|error| error.to_string())
}

fn tensor(archive: &Archive, name: &str) -> TensorReport {
    TensorReport {
        name: name.to_owned(),
        stored: archive.stored(name).1.to_owned(),
        dtype: archive.dtype_of(name).unwrap_or("?").to_owned(),
        dims: archive.shape_of(name).map(|shape| shape.dims().to_vec()).unwrap_or_default(),
        bytes: archive.size_of(name).unwrap_or(0),
    }
}

/// What a model takes, as the command line calls it.
fn inputs(traits: &Traits, expand_timesteps: bool) -> Vec<&'static str> {
    let mut inputs = vec!["PROMPT", "--video"];
    if traits.vace {
        inputs.extend(["--mask", "--reference", "--control-scale", "--image", "--end-image", "--known"]);
    } else if traits.pictures == Pictures::FirstAndLast {
        inputs.extend(["--image", "--end-image"]);
    } else if expand_timesteps || traits.inputs > traits.outputs {
        inputs.extend(["--image", "--end-image", "--known"]);
    }
    inputs
}

/// Licences beside the files, and the pages that state one in their first lines.
fn licences(files: &ModelFiles) -> Vec<PathBuf> {
    let folder =
        |path: &Path| if path.is_dir() { path.to_path_buf() } else { path.parent().unwrap_or(path).to_path_buf() };
    let mut found: Vec<PathBuf> = files.all().map(folder).flat_map(|folder| licences_in(&folder)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn licences_in(folder: &Path) -> Vec<PathBuf> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_licence = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let named = ["licen", "copying", "notice"].iter().any(|start| name.starts_with(start));
        path.is_file() && (named || name == "readme.md" && states_licence(path))
    };
    entries.map(|entry| entry.path()).filter(is_licence).collect()
}

/// Whether a model card's head has a line `license: ...`.
fn states_licence(path: &Path) -> bool {
    use std::io::Read;
    let mut head = Vec::new();
    let read = std::fs::File::open(path).map(|file| file.take(4096).read_to_end(&mut head));
    read.is_ok() && String::from_utf8_lossy(&head).lines().any(|line| line.starts_with("license"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_grouped_by_their_place() {
        for (name, group) in [
            ("blocks.17.attn1.to_q.weight", "blocks"),
            ("decoder.up_blocks.0.resnets.1.conv1.bias", "decoder.up_blocks"),
            ("condition_embedder.time_proj.weight", "condition_embedder.time_proj"),
            ("scale_shift_table", "scale_shift_table"),
            ("shared.weight", "shared"),
        ] {
            assert_eq!(group_of(name), group);
        }
    }
}
