//! Weights in other types and containers, for this program and for others.
//!
//! A file is written tensor by tensor: what is in memory at once is the largest tensor, expanded. Which tensors become
//! what is settled first, from names and shapes alone, since both containers begin with a list of everything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use half::f16;
use serde_json::{Map, Value as Json, json};

use super::layout::{Found, Layout, Network, recognise, settings};
use super::save::write_whole;
use super::{Archive, Container, Metadata, clip, gguf, safetensors};
use crate::error::{Error, Result};
use crate::tensor::{DType, HostTensor, Shape};

/// What ComfyUI calls the scale of an fp8 weight, and what it knows files of such weights by.
const SCALE: &str = "scale_weight";
const SCALED: &str = "scaled_fp8";
/// A tensor of ComfyUI's text encoders that is no weight: the tokenizer.
const TOKENIZER: &str = "spiece_model";
/// The token table of a text encoder; some files have it under both names.
const TABLES: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];
/// GGML has no more dimensions.
const GGML_DIMS: usize = 4;
/// What llama.cpp calls the architecture of T5's encoder, UMT5's too.
const T5: &str = "t5encoder";
/// Tokens that T5 was trained with; it has no limit.
const T5_CONTEXT: u32 = 512;

/// What came of a conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Tensors by their new types, and the bytes of all of one type.
    pub types: BTreeMap<String, (usize, u64)>,
    /// Matrices whose rows are no whole blocks of the type that was asked for, and what they became instead.
    pub instead: BTreeMap<&'static str, usize>,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
}

/// A tensor of the new file.
struct Item {
    name: String,
    dims: Vec<usize>,
    kind: Kind,
    /// In the new file.
    bytes: usize,
    source: Source,
}

/// The type of a tensor in the new file.
#[derive(Clone, PartialEq)]
enum Kind {
    Known(DType),
    /// As it is stored, by the file's name of the type.
    Raw(String),
}

/// Where a new tensor comes from.
enum Source {
    /// A tensor as it was read, its scale included.
    Tensor(Archive, String),
    /// A tensor's bytes.
    Raw(String),
    /// The scale of the weight that was converted before.
    Scale,
    /// The mark of files with scaled weights.
    Mark,
}

/// Opens what is to be converted: a file, or the folder of a network.
///
/// # Errors
/// Those of [`Archive::open_file`] and [`Archive::open`].
pub fn open_for_conversion(path: impl AsRef<Path>) -> Result<Archive> {
    let path = path.as_ref();
    if !path.is_dir() {
        return Archive::open_file(path);
    }
    if path.join("model_index.json").exists() {
        let reason = "this is a whole pipeline; name the folder of one network in it, such as `transformer`";
        return Err(Error::model(path, reason));
    }
    Archive::open(path, "diffusion_pytorch_model").or_else(|error| Archive::open(path, "model").map_err(|_| error))
}

/// Writes the tensors of `archive` to a new file, GGUF if it ends with `.gguf` and safetensors otherwise, whole or not at
/// all. `to` is f32, f16, bf16, fp8 (e4m3, scaled; safetensors only) or a type of GGUF's blocks (GGUF only).
///
/// Quantised become the matrices inside the blocks of transformers and text encoders; embeddings, heads, modulation tables
/// and whatever has one dimension stay what they are, as is custom, but for the token table in GGUF (Q8_0: it is most of
/// some files, and is read by rows). GGUF has the names of Wan's authors for transformers and of llama.cpp for text encoders.
/// `metadata` is what else the file is to tell, of which safetensors keeps the texts. `progress` is told the bytes that were
/// written and those of all; an error that it returns ends the conversion.
///
/// # Errors
/// [`Error::Request`] for types that the container does not have or that nothing of the model can have,
/// [`Error::Tensor`] for values that the type cannot hold, [`Error::Io`] when the file cannot be written: then nothing is
/// left of it.
pub fn convert(
    archive: &Archive,
    path: impl AsRef<Path>,
    to: DType,
    metadata: &[(String, Metadata)],
    progress: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<Converted> {
    let path = path.as_ref();
    let container = match path.extension() {
        Some(ending) if ending.eq_ignore_ascii_case("gguf") => Container::Gguf,
        _ => Container::Safetensors,
    };
    let blocks = to.block_elements() > 1;
    if blocks && container != Container::Gguf {
        return Err(Error::request(
            "--type",
            format!("only GGUF has {to}; give the new file a name that ends with .gguf"),
        ));
    }
    if to.is_fp8() && container == Container::Gguf {
        return Err(Error::request("--type", "GGUF has no fp8; give the new file a name that ends with .safetensors"));
    }
    let mut report = Converted { read: archive.size(), ..Converted::default() };
    let mut planner = Planner { archive, container, to, items: Vec::new(), report: &mut report };
    let network = planner.plan()?;
    let items = planner.items;
    let is_quantised = |item: &Item| matches!(item.kind, Kind::Known(dtype) if dtype.is_quantised());
    if to.is_quantised() && !items.iter().any(is_quantised) {
        return Err(Error::request(
            "--type",
            format!("there is no matrix in {} that could be {to}", archive.path().display()),
        ));
    }
    let header = match container {
        Container::Gguf => gguf_header(archive, &items, network, to, metadata)?,
        _ => safetensors_header(&items, metadata),
    };
    let align = if container == Container::Gguf { gguf::ALIGNMENT } else { 1 };
    for item in &items {
        let (count, bytes) = report.types.entry(item.kind.name()).or_default();
        (*count, *bytes) = (*count + 1, *bytes + item.bytes as u64);
    }
    let total = items.iter().map(|item| item.bytes.next_multiple_of(align) as u64).sum::<u64>() + header.len() as u64;
    let (failed, progress) = (RefCell::new(None), RefCell::new(progress));
    let written = write_whole(path, |out| {
        out.write_all(&header)?;
        let (mut done, mut scale) = (header.len() as u64, 1.0f32);
        for item in &items {
            let keep = |error| {
                *failed.borrow_mut() = Some(error);
                io::Error::other("as kept")
            };
            let bytes = item.bytes(archive, &mut scale).map_err(keep)?;
            out.write_all(&bytes)?;
            let padding = bytes.len().next_multiple_of(align) - bytes.len();
            out.write_all(&vec![0; padding])?;
            done += (bytes.len() + padding) as u64;
            (progress.borrow_mut())(done, total).map_err(keep)?;
        }
        Ok(())
    });
    if let Some(error) = failed.into_inner() {
        return Err(error);
    }
    written.map_err(|error| Error::io(path, error))?;
    report.written = total;
    Ok(report)
}

/// What is settled before anything is written.
struct Planner<'a> {
    archive: &'a Archive,
    container: Container,
    to: DType,
    items: Vec<Item>,
    report: &'a mut Converted,
}

impl Planner<'_> {
    /// Lists everything that the new file will hold, and tells of which network the first of it is.
    fn plan(&mut self) -> Result<Network> {
        let archive = self.archive;
        let found = recognise(archive.names());
        let what = found.iter().map(|found| found.network.name()).collect::<Vec<_>>().join(" and a ");
        let refuse = |can: &str, what: &str| Err(Error::model(archive.path(), format!("{can}, and this is {what}")));
        let Some(first) = found.first() else {
            return refuse("only networks of Wan's are converted", "no network that is known");
        };
        if self.container == Container::Gguf && (found.len() > 1 || names_in_gguf(first.network).is_none()) {
            return refuse("one transformer or text encoder of Wan's can be written as GGUF", &format!("a {what}"));
        }
        let network = first.network;
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        for found in &found {
            taken.extend(found.tensors.values().map(|origin| origin.name.as_str()));
            self.network(found)?;
        }
        // What belongs to no network goes on as it is, where the container has such types.
        let container = self.container;
        let rest = archive.names().filter(|name| !taken.contains(name) || name.ends_with(TOKENIZER));
        for name in rest.filter(|_| container == Container::Safetensors) {
            let raw = archive.raw(name)?;
            if gguf::is_quantised(&raw.dtype) {
                return Err(archive.error(name, format!("safetensors has no {}", raw.dtype)));
            }
            self.add(name.to_owned(), raw.dims, Kind::Raw(raw.dtype), raw.bytes.len(), Source::Raw(name.to_owned()));
        }
        let mut names = BTreeSet::new();
        match self.items.iter().find(|item| !names.insert(&item.name)) {
            Some(item) => Err(archive.error(&item.name, "the new file would hold it twice")),
            None => Ok(network),
        }
    }

    /// Lists the tensors of one network.
    fn network(&mut self, found: &Found) -> Result<()> {
        let view = found.open(self.archive)?;
        let layout = names_in_gguf(found.network).unwrap_or(Layout::Diffusers);
        let theirs = layout.theirs(found.network, view.names()).unwrap_or_default();
        let mut scaled = false;
        for (ours, origin) in &found.tensors {
            if !view.contains(ours) || origin.part.is_some_and(|(i, _)| i > 0) {
                continue; // a scale or a mark, which is in the view's values; a piece of what is written already
            }
            if self.container == Container::Gguf && ours == TABLES[1] && view.contains(TABLES[0]) {
                continue; // the same table again
            }
            let refuse = |reason: &str| self.archive.error(&origin.name, reason);
            let shape = self.archive.shape_of(&origin.name).ok_or_else(|| refuse("it has too many dimensions"))?;
            let name = match self.container {
                Container::Gguf => {
                    let theirs = theirs.get(ours.as_str());
                    theirs
                        .map(|theirs| theirs.name.clone())
                        .ok_or_else(|| refuse("GGUF has no name for such a tensor"))?
                }
                _ => origin.name.clone(),
            };
            // Pieces of one stored tensor go on together, as that tensor.
            let (from, of) = if origin.part.is_none() { (&view, ours) } else { (self.archive, &origin.name) };
            let stored = from.tensor(of)?.dtype();
            if stored == DType::U32 {
                let bytes = self.archive.size_of(&origin.name).unwrap_or(0) as usize;
                self.add(name, shape.dims().to_vec(), Kind::Raw("U32".into()), bytes, Source::Raw(origin.name.clone()));
                continue;
            }
            let dtype = self.dtype(stored, found.network, ours, shape);
            let bytes = dtype.bytes_of(shape.count()).ok_or_else(|| refuse("it is more than can be counted"))?;
            let base = name.strip_suffix(".weight").filter(|_| dtype.is_fp8()).map(|base| format!("{base}.{SCALE}"));
            self.add(name, shape.dims().to_vec(), Kind::Known(dtype), bytes, Source::Tensor(from.clone(), of.clone()));
            if let Some(scale) = base {
                scaled = true;
                self.add(scale, vec![1], Kind::Known(DType::F32), 4, Source::Scale);
            }
        }
        if scaled {
            // Two elements tell ComfyUI that the weights are to be expanded, and none that it may multiply in 8 bits.
            self.add(format!("{}{SCALED}", found.prefix), vec![2], Kind::Known(self.to), 2, Source::Mark);
        }
        Ok(())
    }

    fn add(&mut self, name: String, dims: Vec<usize>, kind: Kind, bytes: usize, source: Source) {
        self.items.push(Item { name, dims, kind, bytes, source });
    }

    /// What a tensor is to become.
    fn dtype(&mut self, stored: DType, network: Network, ours: &str, shape: Shape) -> DType {
        // Tables of modulation have several dimensions and are added, not multiplied.
        let small = shape.rank() < 2 || ours.ends_with("scale_shift_table") || shape.rows() == 1;
        let inside = match network {
            Network::Transformer => ours.contains("blocks."),
            Network::TextEncoder => ours.contains(".block.") && !ours.contains("relative_attention_bias"),
            Network::Vae | Network::ImageEncoder => false,
        };
        let table = self.container == Container::Gguf && network == Network::TextEncoder && TABLES.contains(&ours);
        let plain = if stored.is_quantised() { DType::F32 } else { stored };
        let kept = if small && self.container == Container::Gguf { DType::F32 } else { plain };
        match self.to {
            _ if small => kept,
            to if !to.is_quantised() => to,
            _ if table && shape.last().is_multiple_of(DType::Q8_0.block_elements()) => DType::Q8_0,
            _ if !inside || shape.rank() != 2 || !ours.ends_with(".weight") => kept,
            to if shape.last().is_multiple_of(to.block_elements()) => to,
            _ => {
                // As other tools do it: a type of smaller blocks, or none.
                let instead =
                    if shape.last().is_multiple_of(DType::Q8_0.block_elements()) { DType::Q8_0 } else { kept };
                *self.report.instead.entry(instead.name()).or_default() += 1;
                instead
            }
        }
    }
}

impl Item {
    /// What is written for it; `scale` is that of the last weight.
    fn bytes(&self, archive: &Archive, scale: &mut f32) -> Result<Vec<u8>> {
        let bytes = match (&self.source, &self.kind) {
            (Source::Tensor(archive, name), Kind::Known(dtype)) => {
                let tensor = archive.tensor(name)?.load()?;
                let refuse = |reason: String| archive.error(name, reason);
                let converted = if dtype.is_fp8() {
                    let (tensor, by) = scaled(&tensor, *dtype).map_err(refuse)?;
                    *scale = by;
                    tensor
                } else if dtype.is_quantised() && tensor.dtype() != *dtype {
                    tensor.quantise(*dtype).map_err(refuse)?
                } else {
                    check_range(&tensor, *dtype).map_err(refuse)?;
                    tensor.cast(*dtype)
                };
                converted.bytes().to_vec()
            }
            (Source::Raw(name), _) => archive.raw(name)?.bytes.to_vec(),
            (Source::Scale, _) => scale.to_le_bytes().to_vec(),
            (Source::Mark, _) => vec![0; 2],
            (Source::Tensor(_, name), Kind::Raw(_)) => archive.raw(name)?.bytes.to_vec(),
        };
        if bytes.len() != self.bytes {
            let (is, planned) = (bytes.len(), self.bytes);
            return Err(Error::Internal(format!("`{}` has {is} bytes instead of {planned}", self.name)));
        }
        Ok(bytes)
    }
}

impl Kind {
    /// The type as listings have it.
    fn name(&self) -> String {
        match self {
            Self::Known(dtype) => dtype.name().to_owned(),
            Self::Raw(name) => name.to_ascii_lowercase(),
        }
    }
}

/// A tensor as fp8 with the scale that makes the most of its range.
fn scaled(tensor: &HostTensor, dtype: DType) -> Result<(HostTensor, f32), String> {
    // The scale that a file has is as good as any, and keeps its values.
    if tensor.dtype() == dtype {
        return Ok((tensor.clone(), tensor.scale()));
    }
    let largest: f32 = if dtype == DType::F8E4M3 { 448.0 } else { 57344.0 };
    let values = tensor.to_f32();
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(format!("it holds {value}, which cannot be quantised"));
    }
    let peak = values.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
    let scale = if peak > 0.0 { (peak / largest).max(f32::MIN_POSITIVE) } else { 1.0 };
    let divided: Vec<f32> = values.iter().map(|value| (value / scale).clamp(-largest, largest)).collect();
    Ok((HostTensor::from_f32(tensor.shape(), &divided).quantise(dtype)?, scale))
}

/// f16 ends where the other types go on.
fn check_range(tensor: &HostTensor, dtype: DType) -> Result<(), String> {
    if dtype != DType::F16 || tensor.dtype() == DType::F16 {
        return Ok(());
    }
    let values = tensor.to_f32();
    match values.iter().find(|value| value.is_finite() && f16::from_f32(**value).is_infinite()) {
        Some(value) => Err(format!("it holds {value}, which is more than f16 can; take bf16")),
        None => Ok(()),
    }
}

fn safetensors_header(items: &[Item], metadata: &[(String, Metadata)]) -> Vec<u8> {
    let mut header = Map::new();
    let mut told = Map::from_iter([("format".to_owned(), json!("pt"))]);
    for (key, value) in metadata {
        if let Metadata::Text(text) = value {
            told.insert(key.clone(), json!(text));
        }
    }
    header.insert(safetensors::METADATA.to_owned(), Json::from(told));
    let mut offset = 0;
    for item in items {
        let dtype = match &item.kind {
            Kind::Known(dtype) => safetensors::name_of(*dtype).unwrap_or(dtype.name()).to_owned(),
            Kind::Raw(name) => name.clone(),
        };
        let end = offset + item.bytes;
        let entry = json!({"dtype": dtype, "shape": item.dims, "data_offsets": [offset, end]});
        header.insert(item.name.clone(), entry);
        offset = end;
    }
    let mut text = Json::from(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

/// Whose names a network has in GGUF, as other programs take them; `None` for those that nobody writes so.
fn names_in_gguf(network: Network) -> Option<Layout> {
    match network {
        Network::Transformer => Some(Layout::Wan),
        Network::TextEncoder => Some(Layout::Gguf),
        Network::Vae | Network::ImageEncoder => None,
    }
}

fn gguf_header(
    archive: &Archive,
    items: &[Item],
    network: Network,
    to: DType,
    metadata: &[(String, Metadata)],
) -> Result<Vec<u8>> {
    let mut header = match network {
        Network::TextEncoder => gguf::Writer::new(T5, to),
        _ => gguf::Writer::new("wan", to),
    };
    if network == Network::TextEncoder {
        for (key, value) in t5_settings(archive)? {
            header.value(&format!("{T5}.{key}"), &value);
        }
    }
    metadata.iter().for_each(|(key, value)| header.value(key, value));
    let mut offset = 0;
    for item in items {
        let refuse = |reason: String| archive.error(&item.name, reason);
        let Kind::Known(dtype) = item.kind else { return Err(refuse("GGUF has no such type".into())) };
        let kind = gguf::number_of(dtype).ok_or_else(|| refuse(format!("GGUF has no {dtype}")))?;
        // Too many dimensions for GGML: the first ones become one, and the metadata tells of it.
        let mut dims = item.dims.clone();
        if dims.len() > GGML_DIMS {
            header.original_shape(&item.name, &dims);
            let first: usize = dims.drain(..=dims.len() - GGML_DIMS).product();
            dims.insert(0, first);
        }
        header.tensor(&item.name, &dims, kind, offset);
        offset += item.bytes.next_multiple_of(gguf::ALIGNMENT);
    }
    Ok(header.finish())
}

/// What llama.cpp asks of a T5 encoder's file, by the shapes of its tensors.
fn t5_settings(archive: &Archive) -> Result<Vec<(&'static str, Metadata)>> {
    let found = recognise(archive.names());
    let Some(found) = found.first() else { return Ok(Vec::new()) };
    let config = settings(Network::TextEncoder, &found.open(archive)?, None)?.config;
    let numbers = [
        ("embedding_length", "d_model"),
        ("feed_forward_length", "d_ff"),
        ("block_count", "num_layers"),
        ("attention.head_count", "num_heads"),
        ("attention.key_length", "d_kv"),
        ("attention.value_length", "d_kv"),
        ("attention.relative_buckets_count", "relative_attention_num_buckets"),
    ];
    let mut values = vec![("context_length", Metadata::U32(T5_CONTEXT))];
    for (key, ours) in numbers {
        values.push((key, Metadata::U32(config.get(ours)?)));
    }
    let epsilon = config.get::<f32>("layer_norm_epsilon")?;
    values.push(("attention.layer_norm_epsilon", Metadata::F32(epsilon)));
    values.push(("attention.layer_norm_rms_epsilon", Metadata::F32(epsilon)));
    Ok(values)
}

/// What `text` means as a type to convert to.
///
/// # Errors
/// The types that there are.
pub fn conversion_type(text: &str) -> Result<DType, String> {
    match text {
        "fp8" => Ok(DType::F8E4M3),
        _ => {
            let types = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4K];
            let found = types.into_iter().find(|dtype| dtype.name() == text);
            found.ok_or_else(|| format!("`{}` is none of q8_0, q4_k, q4_0, fp8, bf16, f16, f32", clip(text)))
        }
    }
}
