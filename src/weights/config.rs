//! The JSON files beside a model's tensors.

use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::clip;
use super::file::open_file;
use crate::error::{Error, Result};

/// Larger than any config or index of a model; a bound on what is read before it is known to make sense.
const LARGEST: u64 = 64 << 20;

/// A JSON object of settings, such as `config.json` or `model_index.json`, whose errors name the file and the key.
#[derive(Clone, Debug)]
pub struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Model`] when it is not a JSON object.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::parse(&path, &read_json(path.as_ref())?)
    }

    /// Takes the text of a file that is in memory already; `path` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Model`] when it is not a JSON object.
    pub fn parse(path: impl AsRef<Path>, text: &str) -> Result<Self> {
        let path = path.as_ref();
        let values = serde_json::from_str(text)
            .map_err(|e| Error::model(path, format!("this is not a JSON object: {}", clip(&e.to_string()))))?;
        Ok(Self { path: path.to_path_buf(), values })
    }

    /// Settings that were found elsewhere than in a file; `path` is what errors call them.
    pub fn from_values(path: impl AsRef<Path>, values: Map<String, Value>) -> Self {
        Self { path: path.as_ref().to_path_buf(), values }
    }

    /// All settings.
    pub fn into_values(self) -> Map<String, Value> {
        self.values
    }

    /// The file, as errors name it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The class that the file says it configures (`_class_name`, as diffusers writes it), if it does.
    pub fn class(&self) -> Option<&str> {
        self.values.get("_class_name").and_then(Value::as_str)
    }

    /// Whether a key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// A setting that must be there.
    ///
    /// # Errors
    /// [`Error::Model`] when it is missing, null, or not of the type that is asked for.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.get_optional(key)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A setting that may be missing or null.
    ///
    /// # Errors
    /// [`Error::Model`] when it is there and not of the type that is asked for.
    pub fn get_optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let value = self.value(key);
        value.map(T::deserialize).transpose().map_err(|e| self.error(key, format!("is not usable: {e}")))
    }

    /// A setting with what it is when missing or null.
    ///
    /// # Errors
    /// [`Error::Model`] when it is there and not of the type that is asked for.
    pub fn get_or<T: DeserializeOwned>(&self, key: &str, default: T) -> Result<T> {
        Ok(self.get_optional(key)?.unwrap_or(default))
    }

    /// A setting that must be there and inside a range; also how a size is kept from zero and from the absurd.
    ///
    /// # Errors
    /// [`Error::Model`] as for [`Config::get`], and when it is outside.
    pub fn get_in<T>(&self, key: &str, range: RangeInclusive<T>) -> Result<T>
    where
        T: DeserializeOwned + PartialOrd + std::fmt::Display,
    {
        let value: T = self.get(key)?;
        if !range.contains(&value) {
            let reason = format!("is {value}, and must lie from {} to {}", range.start(), range.end());
            return Err(self.error(key, reason));
        }
        Ok(value)
    }

    /// An error about one key, for checks that only the reader can make.
    pub fn error(&self, key: &str, reason: impl AsRef<str>) -> Error {
        Error::model(&self.path, format!("`{}` {}", clip(key), clip(reason.as_ref())))
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }
}

/// The text of a JSON file of a sane size.
pub(super) fn read_json(path: &Path) -> Result<String> {
    let io = |e| Error::io(path, e);
    let file = open_file(path)?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Error::model(path, format!("more than {LARGEST} bytes of JSON are refused")));
    }
    String::from_utf8(bytes).map_err(|e| Error::model(path, format!("this is not UTF-8 text: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse("folder/config.json", text).expect("an object")
    }

    #[test]
    fn settings_are_read_by_type() {
        let config = config(
            r#"{"_class_name": "WanTransformer3DModel", "num_layers": 30, "eps": 1e-06, "patch_size": [1, 2, 2],
                "image_dim": null, "qk_norm": "rms_norm_across_heads", "cross_attn_norm": true}"#,
        );
        assert_eq!(config.class(), Some("WanTransformer3DModel"));
        assert_eq!(config.get::<usize>("num_layers").expect("there"), 30);
        assert_eq!(config.get::<f64>("eps").expect("there"), 1e-6);
        assert_eq!(config.get::<[usize; 3]>("patch_size").expect("there"), [1, 2, 2]);
        assert!(config.get::<bool>("cross_attn_norm").expect("there"));
        assert_eq!(config.get_optional::<usize>("image_dim").expect("null"), None);
        assert_eq!(config.get_or("image_dim", 5usize).expect("null"), 5);
        assert_eq!(config.get_in("num_layers", 1..=1000usize).expect("inside"), 30);
        assert!(config.has("eps") && !config.has("image_dim") && !config.has("nothing"));
    }

    #[test]
    fn errors_name_the_file_and_the_key() {
        let config = config(r#"{"n": 0, "m": 99999999999999999999, "s": "four", "v": [1, 2], "neg": -1, "f": 1.5}"#);
        let failures = [
            config.get::<usize>("absent").err(),
            config.get::<usize>("s").err(),
            config.get::<usize>("neg").err(),
            config.get::<usize>("f").err(),
            config.get::<usize>("m").err(),
            config.get::<[usize; 3]>("v").err(),
            config.get_or::<usize>("s", 1).err(),
            config.get_in::<usize>("n", 1..=8).err(),
            config.get_in::<f64>("f", 0.0..=1.0).err(),
        ];
        for (error, key) in failures.into_iter().zip(["absent", "s", "neg", "f", "m", "v", "s", "n", "f"]) {
            let error = error.expect(key).to_string();
            assert!(error.starts_with("folder/config.json: ") && error.contains(&format!("`{key}`")), "{error}");
        }
    }

    #[test]
    fn broken_files_are_refused() {
        for text in ["", "{", "[]", "3", r#"{"a": NaN}"#, r#"{"a": 1e999}"#, r#"{"a": 1} x"#, &"[".repeat(100_000)] {
            let error = Config::parse("c.json", text).expect_err(text).to_string();
            assert!(error.starts_with("c.json: this is not a JSON object"), "{error}");
            assert!(error.len() < 400, "{error}");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.json");
        assert!(matches!(Config::open(&path), Err(Error::Io { .. })));
        std::fs::write(&path, [b'{', 0xff, b'}']).expect("written");
        assert!(Config::open(&path).expect_err("not text").to_string().contains("UTF-8"));
        std::fs::write(&path, r#"{"a": 1}"#).expect("written");
        assert_eq!(Config::open(&path).expect("fine").get::<u8>("a").expect("there"), 1);
        assert!(Config::open(folder.path()).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn pipes_are_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["model.safetensors", "config.json"] {
            let path = folder.path().join(name);
            let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
            assert!(made.success());
            let error = match name {
                "config.json" => Config::open(&path).expect_err("no file"),
                _ => crate::weights::TensorFile::open(&path).expect_err("no file"),
            };
            assert!(error.to_string().ends_with("this is not a file"), "{error}");
        }
    }
}
