//! What was found for a model, which of it is taken, and what is missing.

use std::path::{Path, PathBuf};

use super::Defaults;
use super::candidate::{Candidate, Side};
use super::files::{ModelFiles, option};
use super::kind::Traits;
use super::parts::{Index, Part, Parts};
use super::pipeline::Source;
use super::scan::{Scan, tokenizers_near};
use crate::error::{Error, Result};
use crate::sampling::{Sampler, SamplerConfig};
use crate::text::Tokenizer;
use crate::weights::Config;
use crate::weights::layout::Network;

/// Folders that name their tokenizer so belong to another network than UMT5.
const OTHER_TOKENIZERS: &[&str] = &["xlm-roberta", "clip", "qwen", "llama"];
/// The shift that diffusers' conversion of Wan's models writes into folders of nearly all of them, whatever their authors
/// run them with (`scripts/convert_wan_to_diffusers.py`); that of models that are none of Wan's and say nothing.
const CONVERTED_SHIFT: f64 = 3.0;
/// Where diffusers' folders say what is done to pictures before CLIP.
const PROCESSOR: &str = "image_processor/preprocessor_config.json";
const PROCESSOR_FILE: &str = "preprocessor_config.json";

/// The files that a model would be put together from.
pub(super) struct Inventory {
    /// What the model is called.
    pub name: String,
    /// What errors about the whole are about.
    pub place: PathBuf,
    /// The files beside the networks.
    pub source: Option<Source>,
    /// What `model_index.json` says, if there is one.
    pub index: Option<Index>,
    pub transformer: Option<Candidate>,
    pub transformer_low: Option<Candidate>,
    pub text_encoder: Option<Candidate>,
    pub vae: Option<Candidate>,
    pub image_encoder: Option<Candidate>,
    /// The tokenizer's folder or file; without one, the text encoder's file may hold it.
    pub tokenizer: Option<PathBuf>,
    /// What is missing or undecided, and what to do, in words.
    pub problems: Vec<String>,
    /// Files that were looked at and are of no use, with the reason.
    pub others: Vec<(PathBuf, String)>,
}

impl Inventory {
    /// Looks for the parts of a model.
    ///
    /// # Errors
    /// When a place that is named cannot be read, is broken, or does not hold what it is named for.
    pub fn of(files: &ModelFiles) -> Result<Self> {
        let main = files.main().ok_or_else(|| Error::request("--model", "no file is named"))?;
        let mut inventory = Self::empty(name_of(main), main.to_path_buf());
        let mut whole = Scan::default();
        if let Some(model) = &files.model {
            let meta = std::fs::metadata(model).map_err(|error| Error::io(model, error))?;
            let folder = if meta.is_dir() { model.clone() } else { model.parent().unwrap_or(Path::new("")).into() };
            inventory.source = Some(Source::Folder(folder.clone()));
            let source = Source::Folder(folder);
            inventory.index = if meta.is_dir() { source.index()? } else { None };
            if inventory.index.is_some() {
                inventory.take_pipeline(&source, files)?;
            } else {
                whole = Scan::at(model)?;
                if meta.is_file() {
                    let around = Scan::around(model)?;
                    whole.networks.extend(beside(&whole.networks, around.networks));
                    whole.tokenizers.extend(around.tokenizers);
                }
            }
        }
        inventory.choose(files, whole)?;
        Ok(inventory)
    }

    /// The model inside the binary.
    ///
    /// # Errors
    /// When this build has none.
    pub fn embedded() -> Result<Self> {
        let mut inventory = Self::empty("embedded".into(), "embedded".into());
        let source = Source::Memory(crate::embedded::files()?);
        inventory.index = source.index()?;
        inventory.source = Some(source.clone());
        inventory.take_pipeline(&source, &ModelFiles::default())?;
        inventory.choose(&ModelFiles::default(), Scan::default())?;
        Ok(inventory)
    }

    fn empty(name: String, place: PathBuf) -> Self {
        Self {
            name,
            place,
            source: None,
            index: None,
            transformer: None,
            transformer_low: None,
            text_encoder: None,
            vae: None,
            image_encoder: None,
            tokenizer: None,
            problems: Vec::new(),
            others: Vec::new(),
        }
    }

    /// The networks of a pipeline in the diffusers layout, but for those that are named one by one.
    fn take_pipeline(&mut self, source: &Source, files: &ModelFiles) -> Result<()> {
        let take = |role, network| match files.part(network) {
            Some(_) => Ok(None),
            None => source.network(role, network),
        };
        self.transformer = take("transformer", Network::Transformer)?;
        self.text_encoder = take("text_encoder", Network::TextEncoder)?;
        self.vae = take("vae", Network::Vae)?;
        self.image_encoder = take("image_encoder", Network::ImageEncoder)?;
        let boundary = self.index.as_ref().and_then(|index| index.boundary);
        if boundary.is_some() && files.transformer_low.is_none() {
            self.transformer_low = source.network("transformer_2", Network::Transformer)?;
            if self.transformer_low.is_none() && files.transformer.is_none() {
                let place = source.path("model_index.json");
                return Err(Error::model(place, "`boundary_ratio` is set, but there is no transformer_2"));
            }
        }
        let tokenizer = source.path("tokenizer");
        self.tokenizer = matches!(source, Source::Folder(_)).then_some(tokenizer).filter(|folder| folder.is_dir());
        Ok(())
    }

    /// Fills what is not there yet: from what is named for a part, else from what the whole holds.
    fn choose(&mut self, files: &ModelFiles, whole: Scan) -> Result<()> {
        self.others.extend(whole.others);
        let of = |network: Network| whole.networks.iter().filter(move |c| c.network() == network).cloned().collect();
        if let Some(path) = &files.transformer {
            let found = named(path, Network::Transformer, "--transformer")?;
            self.choose_transformers(found, files);
        } else if self.transformer.is_none() {
            self.choose_transformers(of(Network::Transformer), files);
        }
        if let Some(path) = &files.transformer_low {
            let found = named(path, Network::Transformer, "--transformer-low")?;
            self.transformer_low = self.one(found, Network::Transformer, "--transformer-low");
        }
        let (z, text, picture) = (
            self.latent_channels(),
            self.transformer_dim("condition_embedder.text_embedder.linear_1.weight", 1),
            self.transformer_dim("condition_embedder.image_embedder.norm1.weight", 0),
        );
        for (network, wanted, tensor, axis) in [
            (Network::TextEncoder, text, "encoder.final_layer_norm.weight", 0),
            (Network::Vae, z, "post_quant_conv.weight", 0),
            (Network::ImageEncoder, picture, "pre_layrnorm.weight", 0),
        ] {
            if network == Network::ImageEncoder && picture.is_none() && self.transformer.is_some() {
                continue; // nobody would look at it
            }
            if self.slot(network).is_some() && files.part(network).is_none() {
                continue;
            }
            let found: Vec<Candidate> = match files.part(network) {
                Some(path) => named(path, network, option(network))?,
                None => {
                    let all: Vec<Candidate> = of(network);
                    // A folder of files for many models: those that fit this transformer.
                    let fits = |c: &&Candidate| wanted.is_none() || c.dim(tensor, axis) == wanted;
                    let fitting: Vec<Candidate> = all.iter().filter(fits).cloned().collect();
                    if fitting.is_empty() { all } else { fitting }
                }
            };
            *self.slot(network) = self.one(found, network, option(network));
        }
        self.choose_tokenizer(files, whole.tokenizers)?;
        self.note_missing(picture.is_some());
        Ok(())
    }

    fn slot(&mut self, network: Network) -> &mut Option<Candidate> {
        match network {
            Network::Transformer => &mut self.transformer,
            Network::TextEncoder => &mut self.text_encoder,
            Network::Vae => &mut self.vae,
            Network::ImageEncoder => &mut self.image_encoder,
        }
    }

    /// Channels that the transformer gives: the rows of its last layer are those of a patch.
    fn latent_channels(&self) -> Option<usize> {
        let patch = |axis| self.transformer_dim("patch_embedding.weight", axis);
        let patch = patch(2)?.checked_mul(patch(3)?)?.checked_mul(patch(4)?)?;
        self.transformer_dim("proj_out.weight", 0)?.checked_div(patch)
    }

    fn transformer_dim(&self, tensor: &str, axis: usize) -> Option<usize> {
        self.transformer.as_ref()?.dim(tensor, axis)
    }

    /// One transformer, or one for high and one for low noise by their names.
    fn choose_transformers(&mut self, mut found: Vec<Candidate>, files: &ModelFiles) {
        if files.transformer_low.is_some() {
            found.retain(|candidate| candidate.side != Side::Low);
        }
        let sides = [Side::High, Side::Low].map(|side| found.iter().position(|c| c.side == side));
        if let ([_, _], [Some(high), Some(low)]) = (&found[..], sides) {
            let low = found.get(low).cloned();
            self.transformer = found.get(high).cloned();
            self.transformer_low = low;
            return;
        }
        self.transformer = self.one(found, Network::Transformer, "--transformer");
        // Half of a pair makes no video that anyone wants; whoever names it by an option knows what it is.
        let half = self.transformer.as_ref().filter(|_| files.transformer.is_none() && files.transformer_low.is_none());
        let (side, option) = match half.map(|half| half.side) {
            Some(Side::High) => ("high", "--transformer-low"),
            Some(Side::Low) => ("low", "--transformer, and this one with --transformer-low"),
            Some(Side::Unsaid) | None => return,
        };
        let place = half.map(|half| half.place.display().to_string()).unwrap_or_default();
        self.problems.push(format!("{place} is by its name the half for {side} noise: give the other with {option}"));
    }

    /// The only one there is; of several, none, and a problem.
    fn one(&mut self, mut found: Vec<Candidate>, network: Network, option: &str) -> Option<Candidate> {
        if found.len() > 1 {
            let places: Vec<String> = found.iter().map(|c| c.place.display().to_string()).collect();
            let problem = format!(
                "there are {} files of a {network}: {}; choose one with {option}",
                found.len(),
                places.join(", ")
            );
            self.problems.push(problem);
            return None;
        }
        found.pop()
    }

    /// The tokenizer: what is named, the pipeline's, what the text encoder's file holds, what lies about.
    fn choose_tokenizer(&mut self, files: &ModelFiles, mut found: Vec<PathBuf>) -> Result<()> {
        if let Some(path) = &files.tokenizer {
            std::fs::metadata(path).map_err(|error| Error::io(path, error))?;
            self.tokenizer = Some(path.clone());
            return Ok(());
        }
        if self.tokenizer.is_some() || matches!(self.source, Some(Source::Memory(_))) {
            return Ok(());
        }
        if self.text_encoder.as_ref().is_some_and(Candidate::has_tokenizer) {
            return Ok(());
        }
        if let Some(encoder) = &files.text_encoder {
            found.extend(tokenizers_near(encoder));
        }
        let text = |path: &PathBuf| path.to_string_lossy().to_ascii_lowercase();
        found.retain(|path| {
            let last = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
            !OTHER_TOKENIZERS.iter().any(|other| last.contains(other))
        });
        found.sort_by_key(|path| (!text(path).contains("umt5"), !text(path).ends_with("tokenizer")));
        self.tokenizer = found.into_iter().next();
        Ok(())
    }

    fn note_missing(&mut self, sees_pictures: bool) {
        let said = |problems: &[String], option: &str| problems.iter().any(|problem| problem.ends_with(option));
        for network in Network::ALL {
            let needed = network != Network::ImageEncoder || sees_pictures;
            let option = option(network);
            if needed && self.slot(network).is_none() && !said(&self.problems, option) {
                self.problems.push(format!("the {network} is missing: give it with {option}"));
            }
        }
        if self.transformer_low.is_some() && self.transformer.is_none() && !said(&self.problems, "--transformer") {
            self.problems.push("the transformer for high noise is missing: give it with --transformer".into());
        }
        if self.tokenizer_place().is_none() {
            let problem =
                "the tokenizer is missing: give it with --tokenizer (a folder with tokenizer.json, or spiece.model)";
            self.problems.push(problem.into());
        }
    }

    /// What was found, in words.
    fn found(&self) -> String {
        let found: Vec<String> =
            self.candidates().map(|(role, candidate)| format!("{role} in {}", candidate.place.display())).collect();
        match found.is_empty() {
            true => "nothing of it was found".into(),
            false => format!("found: {}", found.join(", ")),
        }
    }

    /// What is wrong with the whole, as an error.
    pub fn error(&self) -> Option<Error> {
        if self.problems.is_empty() {
            return None;
        }
        let unusable = match &self.others[..] {
            [] => String::new(),
            [(path, reason), rest @ ..] => {
                let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
                format!("; not usable: {} ({reason}){more}", path.display())
            }
        };
        let reason = format!("this is no whole model: {}; {}{unusable}", self.problems.join("; "), self.found());
        Some(Error::model(&self.place, reason))
    }

    /// The networks that were found, with the folders that diffusers gives them.
    pub fn candidates(&self) -> impl Iterator<Item = (&'static str, &Candidate)> {
        let all = [
            ("transformer", &self.transformer),
            ("transformer_2", &self.transformer_low),
            ("text_encoder", &self.text_encoder),
            ("vae", &self.vae),
            ("image_encoder", &self.image_encoder),
        ];
        all.into_iter().filter_map(|(role, candidate)| Some((role, candidate.as_ref()?)))
    }

    /// Opens one of them.
    ///
    /// # Errors
    /// As for [`Candidate::part`].
    pub fn part_of(&self, role: &'static str, candidate: &Candidate) -> Result<Part> {
        candidate.part(role, self.given(role)?)
    }

    /// Where the tokenizer is, if there is one.
    pub fn tokenizer_place(&self) -> Option<PathBuf> {
        let place = match &self.source {
            Some(source @ Source::Memory(_)) => Some(source.path("tokenizer")),
            _ => self.text_encoder.as_ref().filter(|c| c.has_tokenizer()).map(|c| c.place.clone()),
        };
        self.tokenizer.clone().or(place)
    }

    /// Opens everything.
    ///
    /// # Errors
    /// When something is missing, undecided or broken.
    pub fn parts(self) -> Result<Parts> {
        if let Some(error) = self.error() {
            return Err(error);
        }
        let part = |candidate: &Option<Candidate>, role| {
            candidate.as_ref().map(|candidate| self.part_of(role, candidate)).transpose()
        };
        let missing = |role: &str| Error::Internal(format!("no {role} where one was found"));
        let transformer = part(&self.transformer, "transformer")?.ok_or_else(|| missing("transformer"))?;
        let transformer_low = part(&self.transformer_low, "transformer_2")?;
        let text_encoder = part(&self.text_encoder, "text_encoder")?.ok_or_else(|| missing("text encoder"))?;
        let vae = part(&self.vae, "vae")?.ok_or_else(|| missing("VAE"))?;
        let image_encoder = part(&self.image_encoder, "image_encoder")?;
        let (tokenizer, tokenizer_path, tokenizer_text) = self.open_tokenizer()?;

        let traits = Traits::of(&transformer, transformer_low.is_some())?;
        let kind = traits.kind();
        let mut index = self
            .index
            .clone()
            .unwrap_or_else(|| traits.index(vae.config.get_or("is_residual", false).unwrap_or(false)));
        if transformer_low.is_some() && index.boundary.is_none() {
            index.boundary = traits.index(false).boundary;
        }
        let scheduler = self.scheduler()?;
        let converted = SamplerConfig::new(Sampler::UniPc).with_shift(CONVERTED_SHIFT)?;
        let says_shift = scheduler.as_ref().is_some_and(|scheduler| *scheduler != converted);
        let mut defaults = match kind {
            Some(kind) => kind.defaults(&self.place.to_string_lossy(), says_shift),
            None => Defaults::default(),
        };
        if let Some(config) = self.source.as_ref().map(|source| source.config("defaults.json")).transpose()?.flatten() {
            defaults = defaults.read(&config)?;
        }
        let sampler = match (scheduler, kind) {
            (Some(sampler), Some(kind)) if !says_shift => sampler.with_shift(kind.shift)?,
            (Some(sampler), _) => sampler,
            // The authors' own program.
            (None, Some(kind)) => SamplerConfig::new(Sampler::UniPcWan).with_shift(kind.shift)?,
            (None, None) => converted,
        };
        let networks = [Some(&transformer), Some(&text_encoder), Some(&vae), image_encoder.as_ref()];
        let mut texts: Vec<(String, Vec<u8>)> =
            networks.into_iter().flatten().map(|part| self.text(part)).collect::<Result<_>>()?;
        let (image_processor, processor_text) = self.image_processor()?.unzip();
        texts.extend(processor_text.map(|text| (PROCESSOR.to_owned(), text)));
        texts.push(("tokenizer/tokenizer.json".into(), tokenizer_text));
        Ok(Parts {
            name: self.name,
            kind: kind.map(|kind| kind.name),
            tokenizer,
            tokenizer_path,
            text_encoder,
            transformer,
            transformer_low,
            vae,
            image_encoder,
            image_processor,
            index,
            sampler,
            defaults,
            texts,
        })
    }

    /// The settings of a network that is in memory.
    fn given(&self, role: &str) -> Result<Option<Config>> {
        match &self.source {
            Some(source @ Source::Memory(_)) => source.config(&format!("{role}/config.json")),
            _ => Ok(None),
        }
    }

    /// What decides, beside its tensors, what a network computes: `config.json` as it is, or what stands for it.
    fn text(&self, part: &Part) -> Result<(String, Vec<u8>)> {
        let name = format!("{}/config.json", part.role);
        let file = match (&self.source, part.config.path()) {
            (Some(source @ Source::Memory(_)), _) => source.optional(&name)?,
            (_, path) if path.extension().is_some_and(|ending| ending == "json") => {
                Some(std::fs::read(path).map_err(|e| Error::io(path, e))?)
            }
            _ => None,
        };
        let settings = || serde_json::Value::from(part.config.clone().into_values()).to_string().into_bytes();
        Ok((name, file.unwrap_or_else(settings)))
    }

    /// What is done to pictures before CLIP, if that is said in the pipeline's folder or beside CLIP: its settings and their
    /// text.
    fn image_processor(&self) -> Result<Option<(Config, Vec<u8>)>> {
        let Some(encoder) = &self.image_encoder else { return Ok(None) };
        let folder = if encoder.place.is_dir() { Some(encoder.place.as_path()) } else { encoder.place.parent() };
        let beside = folder.map(|folder| (Source::Folder(folder.to_path_buf()), PROCESSOR_FILE));
        for (source, name) in self.source.clone().map(|source| (source, PROCESSOR)).into_iter().chain(beside) {
            if let Some(found) = source.config(name)?.zip(source.optional(name)?) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The sampler of a scheduler config, if there is one.
    fn scheduler(&self) -> Result<Option<SamplerConfig>> {
        const NAME: &str = "scheduler/scheduler_config.json";
        let Some(source) = &self.source else { return Ok(None) };
        let Some(text) = source.optional(NAME)? else { return Ok(None) };
        let class = self.index.as_ref().and_then(|index| index.scheduler.as_deref());
        SamplerConfig::from_json(&source.path(NAME), &text, class).map(Some)
    }

    /// The tokenizer, where it is, and the text that the fingerprint has of it.
    fn open_tokenizer(&self) -> Result<(Tokenizer, PathBuf, Vec<u8>)> {
        if let Some(path) = &self.tokenizer {
            let tokenizer = Tokenizer::open(path)?;
            let file = if path.is_dir() { path.join("tokenizer.json") } else { path.clone() };
            let file = if file.exists() { file } else { path.join("spiece.model") };
            let text = std::fs::read(&file).map_err(|error| Error::io(&file, error))?;
            return Ok((tokenizer, path.clone(), text));
        }
        if let Some(source @ Source::Memory(_)) = &self.source {
            let path = source.path("tokenizer/tokenizer.json");
            let text = source.optional("tokenizer/tokenizer.json")?.unwrap_or_default();
            let config = source.optional("tokenizer/tokenizer_config.json")?;
            return Ok((Tokenizer::from_bytes(&path, &text, config.as_deref())?, source.path("tokenizer"), text));
        }
        let encoder = self.text_encoder.as_ref();
        let found = encoder.map(Candidate::tokenizer).transpose()?.flatten();
        let (tokenizer, text) = found.ok_or_else(|| Error::model(&self.place, "the tokenizer is missing"))?;
        Ok((tokenizer, encoder.map(|c| c.place.clone()).unwrap_or_default(), text))
    }
}

/// What a path that was named for a network holds of it.
fn named(path: &Path, network: Network, option: &str) -> Result<Vec<Candidate>> {
    let scan = Scan::at(path)?;
    let all = scan.networks;
    let others: Vec<&str> = all.iter().map(|c| c.network().name()).collect();
    let found: Vec<Candidate> = all.iter().filter(|c| c.network() == network).cloned().collect();
    if found.is_empty() {
        let there = match (&others[..], &scan.others[..]) {
            ([other, ..], _) => format!("it holds a {other}"),
            ([], [(_, reason), ..]) => reason.clone(),
            ([], []) => "it holds no tensors".into(),
        };
        return Err(Error::model(path, format!("there is no {network} for {option} in it: {there}")));
    }
    Ok(found)
}

/// Of what lies around a file that was named, what may complete it: other kinds of networks, and the other transformer
/// of a pair, whose file is called the same but for high and low.
fn beside(chosen: &[Candidate], around: Vec<Candidate>) -> Vec<Candidate> {
    let has = |network: Network| chosen.iter().any(|c| c.network() == network);
    let plain = |place: &Path| name_of(place).to_ascii_lowercase().replace("high", "#").replace("low", "#");
    let other_half = |c: &Candidate| match chosen {
        [one] => {
            one.network() == Network::Transformer
                && one.side != Side::Unsaid
                && c.side != Side::Unsaid
                && c.side != one.side
                && plain(&c.place) == plain(&one.place)
        }
        _ => false,
    };
    let wanted = |c: &Candidate| match c.network() {
        Network::Transformer => other_half(c),
        network => !has(network),
    };
    around.into_iter().filter(wanted).collect()
}

/// What to call a model that lies at a path.
fn name_of(path: &Path) -> String {
    let folder = if path.is_dir() { path.file_name() } else { path.file_stem() };
    // `.` and `..` have names elsewhere.
    let real = folder.is_none().then(|| std::fs::canonicalize(path).ok()).flatten();
    let folder = folder.or_else(|| real.as_ref().and_then(|path| path.file_name()));
    folder.map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
