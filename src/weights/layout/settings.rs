//! What the shapes of a network's tensors say about its settings.
//!
//! Copies of models are found with the `config.json` of another one, and single files have none. So what shapes decide
//! is taken from them, what they leave open from `config.json`, and what nobody says is what all of Wan's models have.
//! Keys are those of diffusers' and transformers' `config.json`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Network, known};
use crate::error::{Error, Result};
use crate::weights::{Archive, Config};

/// Features of an attention head in every transformer of Wan. No shape tells: heads are split off within a matrix.
const HEAD: usize = 128;

/// The settings of a network, and what was wrong with its `config.json`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings.
    pub config: Config,
    /// Where `config.json` says what the tensors belie, in words.
    pub corrections: Vec<String>,
}

/// What shapes say.
struct Shapes {
    /// What they decide.
    decided: Map<String, Value>,
    /// What goes without saying.
    usual: Map<String, Value>,
}

/// The settings of a network whose tensors have this crate's names; `config` is what lies beside it, if anything does.
///
/// # Errors
/// When tensors are missing that say what it is, or neither their shapes nor `config` tell what must be known: the size of
/// attention heads where features cannot be divided in heads of 128, the latents' statistics of an unknown VAE.
pub fn settings(network: Network, archive: &Archive, config: Option<Config>) -> Result<Settings> {
    let shapes = match network {
        Network::Transformer => transformer(archive)?,
        Network::TextEncoder => umt5(archive)?,
        Network::Vae => vae(archive)?,
        Network::ImageEncoder => clip(archive, config.is_some())?,
    };
    let path = config.as_ref().map_or(archive.path(), Config::path).to_path_buf();
    let given = config.map(|config| in_our_words(config.into_values())).unwrap_or_default();
    // The config of a whole CLIP has that of each half within it.
    let given = match given.get("vision_config") {
        Some(Value::Object(vision)) if network == Network::ImageEncoder => vision.clone(),
        _ => given,
    };
    let mut corrections = Vec::new();
    let mut values = shapes.usual;
    // `null` says as little as nothing does.
    values.extend(given.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())));
    for (key, value) in shapes.decided {
        if let Some(said) = given.get(&key).filter(|said| **said != value && !(said.is_null() && is_default(&value))) {
            let by_tensors = if value.is_null() { "nothing".into() } else { value.to_string() };
            corrections.push(format!("`{key}` is {said} in {}, and {by_tensors} by the tensors", name_of(&path)));
        }
        values.insert(key, value);
    }
    if network == Network::Transformer {
        heads(archive, &mut values, &given, &mut corrections)?;
        control(archive, &mut values, &mut corrections);
    }
    if network == Network::Vae && !values.contains_key("latents_mean") {
        let reason = "no Wan VAE that is known has this many latent channels, so the mean and deviation of its latents \
                      must come from the config.json that belongs to it: put it beside the file";
        return Err(Error::model(archive.path(), reason));
    }
    Ok(Settings { config: Config::from_values(path, values), corrections })
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// Whether `null` in a config means this value.
fn is_default(value: &Value) -> bool {
    *value == json!(1) || *value == json!(false)
}

/// The keys of the authors' `config.json` in diffusers' words.
fn in_our_words(values: Map<String, Value>) -> Map<String, Value> {
    const WORDS: [(&str, &str); 4] = [
        ("num_heads", "num_attention_heads"),
        ("in_dim", "in_channels"),
        ("out_dim", "out_channels"),
        ("vace_in_dim", "vace_in_channels"),
    ];
    let authors = values.contains_key("dim") && !values.contains_key("attention_head_dim");
    let word = |key: String| {
        let found = WORDS.iter().find(|(theirs, _)| authors && *theirs == key);
        found.map_or(key, |(_, ours)| (*ours).to_owned())
    };
    values.into_iter().map(|(key, value)| (word(key), value)).collect()
}

fn transformer(archive: &Archive) -> Result<Shapes> {
    let [dim, inputs, pt, ph, pw] = dims(archive, "patch_embedding.weight")?;
    let [outputs, _] = dims(archive, "proj_out.weight")?;
    let [_, text] = dims(archive, "condition_embedder.text_embedder.linear_1.weight")?;
    let [_, frequencies] = dims(archive, "condition_embedder.time_embedder.linear_1.weight")?;
    let [ffn, _] = dims(archive, "blocks.0.ffn.net.0.proj.weight")?;
    let control = count(archive, "vace_blocks.");
    let mut decided = object(json!({
        "in_channels": inputs,
        "out_channels": outputs / (pt * ph * pw).max(1),
        "num_layers": count(archive, "blocks."),
        "ffn_dim": ffn,
        "text_dim": text,
        "freq_dim": frequencies,
        "patch_size": [pt, ph, pw],
    }));
    let class = if control > 0 { "WanVACETransformer3DModel" } else { "WanTransformer3DModel" };
    let mut usual = object(json!({
        "_class_name": class,
        "cross_attn_norm": archive.contains("blocks.0.norm2.weight"),
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "rope_max_seq_len": 1024,
    }));
    // What is not there is decided, too: copies of T2V are found with the config of an I2V.
    for key in ["image_dim", "added_kv_proj_dim", "pos_embed_seq_len", "vace_in_channels"] {
        decided.insert(key.into(), Value::Null);
    }
    let picture = "condition_embedder.image_embedder";
    if let Some(image) = archive.shape_of(&format!("{picture}.norm1.weight")) {
        decided.insert("image_dim".into(), json!(image.count()));
        let [_, added] = dims(archive, "blocks.0.attn2.add_k_proj.weight")?;
        decided.insert("added_kv_proj_dim".into(), json!(added));
        if let Some(positions) = archive.shape_of(&format!("{picture}.pos_embed")) {
            let [.., count, _] = positions.dims() else {
                let reason = format!("its shape is {positions}, which is none of positions and features");
                return Err(Error::tensor(archive.path(), format!("{picture}.pos_embed"), reason));
            };
            decided.insert("pos_embed_seq_len".into(), json!(count));
        }
    }
    if control > 0 {
        let [_, channels, _, _, _] = dims(archive, "vace_patch_embedding.weight")?;
        decided.insert("vace_in_channels".into(), json!(channels));
    }
    usual.insert("dim".into(), json!(dim));
    Ok(Shapes { decided, usual })
}

/// Adds heads and their size: what `config.json` says if it fits, else heads of 128.
fn heads(
    archive: &Archive,
    values: &mut Map<String, Value>,
    given: &Map<String, Value>,
    corrections: &mut Vec<String>,
) -> Result<()> {
    let [dim, ..] = dims::<5>(archive, "patch_embedding.weight")?;
    let number = |key: &str| given.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let said = number("num_attention_heads");
    let size = number("attention_head_dim");
    let fits = |heads: usize| {
        heads > 0 && dim.is_multiple_of(heads) && size.is_none_or(|size| size.checked_mul(heads) == Some(dim))
    };
    let heads = match said {
        Some(heads) if fits(heads) => heads,
        _ if dim > 0 && dim.is_multiple_of(HEAD) => {
            if let Some(said) = said {
                let sized = size.map(|size| format!(" of {size}")).unwrap_or_default();
                let heads = dim / HEAD;
                corrections
                    .push(format!("{said} heads{sized} are not {dim} features: {heads} heads of {HEAD} are taken"));
            }
            dim / HEAD
        }
        _ => {
            if let Some(said) = said {
                let sized = size.map(|size| format!(" of {size}")).unwrap_or_default();
                let reason = format!(
                    "it has {dim} features, and its config.json {said} heads{sized}: one of the two is another model's"
                );
                return Err(Error::tensor(archive.path(), "patch_embedding.weight", reason));
            }
            let reason = format!(
                "its {dim} features are not whole heads of {HEAD}, as Wan's are, so the number of heads must come from its \
                 config.json (num_attention_heads): put it beside the file"
            );
            return Err(Error::tensor(archive.path(), "patch_embedding.weight", reason));
        }
    };
    values.insert("num_attention_heads".into(), json!(heads));
    values.insert("attention_head_dim".into(), json!(dim / heads));
    Ok(())
}

/// Adds the blocks of the transformer behind which VACE's act: what `config.json` says if there are as many, else evenly
/// spread from the first on, as in all of Wan's.
fn control(archive: &Archive, values: &mut Map<String, Value>, corrections: &mut Vec<String>) {
    let (blocks, control) = (count(archive, "blocks."), count(archive, "vace_blocks."));
    if control == 0 {
        if values.remove("vace_layers").is_some_and(|said| !said.is_null()) {
            corrections.push("`vace_layers` are given, and no tensors of VACE are there".into());
        }
        return;
    }
    let said = values.get("vace_layers").and_then(Value::as_array).map(Vec::len);
    if said == Some(control) {
        return;
    }
    if let Some(said) = said {
        corrections
            .push(format!("`vace_layers` has {said} entries, and the tensors {control}: they are spread evenly"));
    }
    let step = (blocks / control).max(1);
    values.insert("vace_layers".into(), (0..control).map(|i| i * step).collect());
}

fn umt5(archive: &Archive) -> Result<Shapes> {
    let table = if archive.contains("shared.weight") { "shared.weight" } else { "encoder.embed_tokens.weight" };
    let [vocabulary, dim] = dims(archive, table)?;
    let attention = "encoder.block.0.layer.0.SelfAttention";
    let [buckets, heads] = dims(archive, &format!("{attention}.relative_attention_bias.weight"))?;
    let [inner, _] = dims(archive, &format!("{attention}.q.weight"))?;
    let [ffn, _] = dims(archive, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight")?;
    let decided = json!({
        "vocab_size": vocabulary,
        "d_model": dim,
        "d_kv": inner / heads.max(1),
        "d_ff": ffn,
        "num_heads": heads,
        "num_layers": count(archive, "encoder.block."),
        "relative_attention_num_buckets": buckets,
    });
    let usual = json!({
        "feed_forward_proj": "gated-gelu",
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
    });
    Ok(Shapes { decided: object(decided), usual: object(usual) })
}

fn vae(archive: &Archive) -> Result<Shapes> {
    let z = shape(archive, "post_quant_conv.weight")?.first().copied().unwrap_or(0);
    let pixels = shape(archive, "decoder.conv_out.weight")?.first().copied().unwrap_or(0);
    let residual = archive.names().any(|name| name.starts_with("decoder.up_blocks.0.upsampler."));
    let patch = (1..=16).find(|patch| 3 * patch * patch == pixels).unwrap_or(1);
    let decided = json!({ "z_dim": z, "is_residual": residual, "patch_size": patch });
    let mut usual = object(json!({ "_class_name": "AutoencoderKLWan" }));
    if let Some((mean, std)) = known::latents(z, residual) {
        usual.extend(object(json!({ "latents_mean": mean, "latents_std": std })));
    }
    Ok(Shapes { decided: object(decided), usual })
}

fn clip(archive: &Archive, has_config: bool) -> Result<Shapes> {
    let [hidden, colours, patch, _] = dims(archive, "embeddings.patch_embedding.weight")?;
    let [positions, _] = dims(archive, "embeddings.position_embedding.weight")?;
    let [inner, _] = dims(archive, "encoder.layers.0.mlp.fc1.weight")?;
    let decided = json!({
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": count(archive, "encoder.layers."),
        "num_channels": colours,
        "patch_size": patch,
        "image_size": positions.saturating_sub(1).isqrt().saturating_mul(patch),
    });
    let usual = match has_config {
        // transformers leaves out of the file what its class has anyway.
        true => json!({ "num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5 }),
        // ViT-H, which Wan has, divides its 1280 features among 16 heads; smaller ones have heads of 64.
        false => {
            let heads = if hidden == 1280 { 16 } else { (hidden / 64).max(1) };
            json!({ "num_attention_heads": heads, "hidden_act": "gelu", "layer_norm_eps": 1e-5 })
        }
    };
    Ok(Shapes { decided: object(decided), usual: object(usual) })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// How many numbers follow a prefix.
fn count(archive: &Archive, prefix: &str) -> usize {
    let number = |name: &str| name.strip_prefix(prefix)?.split_once('.')?.0.parse::<usize>().ok();
    let mut numbers: Vec<usize> = archive.names().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.len()
}

fn shape(archive: &Archive, name: &str) -> Result<Vec<usize>> {
    let shape = archive.shape_of(name).ok_or_else(|| Error::tensor(archive.path(), name, "it is missing"))?;
    Ok(shape.dims().to_vec())
}

fn dims<const N: usize>(archive: &Archive, name: &str) -> Result<[usize; N]> {
    let found = shape(archive, name)?;
    <[usize; N]>::try_from(found).map_err(|found| {
        Error::tensor(archive.path(), name, format!("its shape is {found:?}, which should have {N} dimensions"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::HostTensor;
    use crate::weights::save_safetensors;

    fn archive(shapes: &[(&str, &[usize])]) -> Archive {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.safetensors");
        let zeros = |dims: &[usize]| HostTensor::from_f32(dims, &vec![0.0; dims.iter().product()]);
        let tensors: Vec<(&str, HostTensor)> = shapes.iter().map(|(name, dims)| (*name, zeros(dims))).collect();
        save_safetensors(&path, &tensors, &[]).expect("saved");
        let bytes = std::fs::read(&path).expect("read");
        Archive::from_parts("model", [("a.safetensors", bytes.into())]).expect("opened")
    }

    fn folder(pipeline: &str, network: Network) -> std::path::PathBuf {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/goldens/pipelines");
        goldens.join(pipeline).join(network.folder())
    }

    #[test]
    fn golden_networks_have_the_settings_that_their_files_say() {
        for pipeline in ["a", "b", "c", "d", "e", "f", "g"] {
            for network in Network::ALL {
                let folder = folder(pipeline, network);
                if !folder.exists() {
                    continue;
                }
                let transformers = matches!(network, Network::TextEncoder | Network::ImageEncoder);
                let stem = if transformers { "model" } else { "diffusion_pytorch_model" };
                let archive = Archive::open(&folder, stem).expect("a golden network");
                let config = Config::open(folder.join("config.json")).expect("its settings");
                let given = config.clone().into_values();
                let settings = settings(network, &archive, Some(config)).unwrap_or_else(|e| panic!("{e}"));
                assert!(settings.corrections.is_empty(), "{pipeline} {network}: {:?}", settings.corrections);
                let values = settings.config.into_values();
                for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                    assert_eq!(values.get(key), Some(value), "{pipeline} {network}: {key}");
                }
            }
        }
    }

    #[test]
    fn shapes_win_where_they_decide_and_say_so() {
        let folder = folder("a", Network::Transformer);
        let archive = Archive::open(&folder, "diffusion_pytorch_model").expect("a golden transformer");
        let wrong = r#"{"num_layers": 30, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": null}"#;
        let config = Config::parse("mirror/config.json", wrong).expect("JSON");
        let found = settings(Network::Transformer, &archive, Some(config)).expect("settings");
        assert_eq!(found.config.get::<usize>("num_layers").expect("there"), 2);
        assert_eq!(found.config.get::<usize>("in_channels").expect("there"), 16);
        assert_eq!(found.corrections.len(), 2, "{:?}", found.corrections);
        assert!(found.corrections.iter().any(|text| text.contains("`num_layers` is 30 in config.json, and 2")));
        // 32 features are no heads of 128.
        let error = settings(Network::Transformer, &archive, None).expect_err("no heads").to_string();
        assert!(error.contains("num_attention_heads"), "{error}");
        // A T2V beside the config of an I2V has no use for CLIP.
        let wrong = r#"{"num_attention_heads": 2, "image_dim": 1280, "added_kv_proj_dim": 32, "vace_layers": [0]}"#;
        let config = Config::parse("mirror/config.json", wrong).expect("JSON");
        let found = settings(Network::Transformer, &archive, Some(config)).expect("settings");
        assert!(!found.config.has("image_dim") && !found.config.has("vace_layers"));
        assert_eq!(found.corrections.len(), 3, "{:?}", found.corrections);
    }

    const WIDE: &[(&str, &[usize])] = &[
        ("patch_embedding.weight", &[256, 36, 1, 2, 2]),
        ("proj_out.weight", &[64, 256]),
        ("condition_embedder.text_embedder.linear_1.weight", &[256, 24]),
        ("condition_embedder.time_embedder.linear_1.weight", &[256, 256]),
        ("blocks.0.ffn.net.0.proj.weight", &[40, 256]),
        ("blocks.1.norm", &[1]),
        ("blocks.2.norm", &[1]),
        ("blocks.3.norm", &[1]),
        ("condition_embedder.image_embedder.norm1.weight", &[80]),
        ("condition_embedder.image_embedder.pos_embed", &[1, 34, 80]),
        ("blocks.0.attn2.add_k_proj.weight", &[256, 256]),
        ("vace_patch_embedding.weight", &[256, 96, 1, 2, 2]),
        ("vace_blocks.0.norm", &[1]),
        ("vace_blocks.1.norm", &[1]),
    ];

    #[test]
    fn a_transformer_without_config_is_known_by_its_tensors() {
        let found = settings(Network::Transformer, &archive(WIDE), None).expect("settings").config;
        let number = |key: &str| found.get::<usize>(key).unwrap_or_else(|e| panic!("{e}"));
        for (key, value) in [
            ("num_attention_heads", 2),
            ("attention_head_dim", 128),
            ("in_channels", 36),
            ("out_channels", 16),
            ("num_layers", 4),
            ("image_dim", 80),
            ("added_kv_proj_dim", 256),
            ("pos_embed_seq_len", 34),
            ("vace_in_channels", 96),
        ] {
            assert_eq!(number(key), value, "{key}");
        }
        assert_eq!(found.get::<Vec<usize>>("vace_layers").expect("there"), [0, 2]);
        assert_eq!(found.class(), Some("WanVACETransformer3DModel"));
        // The authors' words; heads that do not fit are put right.
        let text = r#"{"model_type": "t2v", "dim": 256, "num_heads": 4, "in_dim": 16, "vace_layers": [0, 3]}"#;
        let config = || Config::parse("config.json", text).expect("JSON");
        let found = settings(Network::Transformer, &archive(WIDE), Some(config())).expect("settings");
        assert_eq!(found.config.get::<usize>("num_attention_heads").expect("there"), 4);
        assert_eq!(found.config.get::<Vec<usize>>("vace_layers").expect("there"), [0, 3]);
        assert_eq!(found.corrections.len(), 1, "{:?}", found.corrections);
        let mirror = r#"{"num_attention_heads": 40, "attention_head_dim": 128}"#;
        let found = settings(Network::Transformer, &archive(WIDE), Some(Config::parse("c", mirror).expect("JSON")));
        let found = found.expect("settings");
        assert_eq!(found.config.get::<usize>("num_attention_heads").expect("there"), 2);
        assert_eq!(found.corrections.len(), 1, "{:?}", found.corrections);
    }

    #[test]
    fn a_vae_without_config_is_one_of_two_or_refused() {
        let of = |z: usize, pixels: usize, name: &'static str| {
            let shapes: &[(&str, &[usize])] = &[
                ("post_quant_conv.weight", &[z, z, 1, 1, 1]),
                ("decoder.conv_out.weight", &[pixels, 2, 3, 3, 3]),
                (name, &[1]),
            ];
            settings(Network::Vae, &archive(shapes), None)
        };
        let old = of(16, 3, "decoder.up_blocks.0.upsamplers.0.resample.1.bias").expect("Wan 2.1").config;
        assert_eq!(old.get::<Vec<f64>>("latents_mean").expect("there")[0], -0.7571);
        assert_eq!(old.get::<usize>("patch_size").expect("there"), 1);
        let new = of(48, 12, "decoder.up_blocks.0.upsampler.resample.1.bias").expect("Wan 2.2").config;
        assert_eq!(new.get::<Vec<f64>>("latents_std").expect("there")[47], 0.7744);
        assert_eq!(
            (new.get::<usize>("patch_size").expect("there"), new.get_or("is_residual", false).ok()),
            (2, Some(true))
        );
        let error = of(8, 3, "x").expect_err("unknown").to_string();
        assert!(error.contains("config.json"), "{error}");
    }
}
