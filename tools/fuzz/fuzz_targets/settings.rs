//! The JSON files of a model folder, each read as every kind of them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mutoscope::media::Recipe;
use mutoscope::sampling::SamplerConfig;
use mutoscope::text::Tokenizer;
use mutoscope::weights::{Archive, Config};

fuzz_target!(|bytes: &[u8]| {
    let _ = SamplerConfig::from_json(Path::new("fuzzed"), bytes);
    if let Ok(tokenizer) = Tokenizer::from_bytes("fuzzed", bytes, None) {
        let _ = tokenizer.encode("a red circle \u{1f3a8}");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = Config::parse("fuzzed", text) {
        let _ = mutoscope::models::wan_transformer::WanTransformerConfig::read(&config);
        let _ = mutoscope::models::wan_vae::WanVaeConfig::read(&config);
        let _ = mutoscope::models::umt5::Umt5Config::read(&config);
    }
    let _ = Recipe::from_json(text);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("model.safetensors.index.json"), text).expect("written");
    let _ = Archive::open(folder.path(), "model");
});
