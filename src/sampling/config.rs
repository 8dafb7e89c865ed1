//! Which sampler, and its settings as diffusers' `scheduler_config.json` spells them.

use std::path::Path;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The highest UniPC order there is support for; the settings of Wan say 2.
pub const MAX_ORDER: usize = 3;

/// A family of noise levels and steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sampler {
    /// UniPC (arXiv:2302.04867) on the noise levels of diffusers' `UniPCMultistepScheduler` with `use_flow_sigmas`.
    UniPc,
    /// UniPC on the noise levels of Wan's own program (`FlowUniPCMultistepScheduler`).
    UniPcWan,
    /// Euler steps along the flow, diffusers' `FlowMatchEulerDiscreteScheduler`.
    Euler,
}

impl Sampler {
    /// Every sampler, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::UniPc, Self::UniPcWan, Self::Euler];

    /// Its name on the command line: `unipc`, `unipc-wan` or `euler`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UniPc => "unipc",
            Self::UniPcWan => "unipc-wan",
            Self::Euler => "euler",
        }
    }

    /// The `_class_name` of its settings.
    pub const fn class_name(self) -> &'static str {
        match self {
            Self::UniPc => "UniPCMultistepScheduler",
            Self::UniPcWan => "FlowUniPCMultistepScheduler",
            Self::Euler => "FlowMatchEulerDiscreteScheduler",
        }
    }
}

impl std::fmt::Display for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sampler {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            Error::request("--sampler", format!("there is no sampler `{name}`; there are unipc, unipc-wan and euler"))
        })
    }
}

/// The function B(h) of UniPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolverType {
    /// B(h) = h.
    Bh1,
    /// B(h) = exp(h) - 1.
    Bh2,
}

/// What the network predicts, with alpha = 1 - sigma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The velocity: x0 = x - sigma v.
    Flow,
    /// The noise: x0 = (x - sigma v) / alpha.
    Epsilon,
    /// The sample itself: x0 = v.
    Sample,
    /// x0 = alpha x - sigma v.
    V,
}

/// Where the noise levels end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalSigma {
    /// At zero: the last step goes all the way.
    Zero,
    /// At the last level before it.
    SigmaMin,
}

/// How the Euler sampler spreads its noise levels between the first and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// As the shift leaves them.
    Linear,
    /// Evenly in sigma^(1/7) (arXiv:2206.00364).
    Karras,
    /// Evenly in ln sigma.
    Exponential,
}

/// All settings of a sampler, those of a model folder or the defaults of its class.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// Which sampler.
    pub sampler: Sampler,
    /// s in `sigma' = s sigma / (1 + (s - 1) sigma)`: above 1, more of the steps go to high noise.
    pub shift: f64,
    /// Timesteps of training; the model's timestep is sigma times this.
    pub num_train_timesteps: u32,
    /// The order of UniPC, 1 to [`MAX_ORDER`].
    pub solver_order: usize,
    /// B(h) of UniPC.
    pub solver_type: SolverType,
    /// What the network predicts.
    pub prediction: Prediction,
    /// Whether the order falls towards the last step.
    pub lower_order_final: bool,
    /// Steps after which the corrector of UniPC is left out.
    pub disable_corrector: Vec<usize>,
    /// Where the noise levels end.
    pub final_sigma: FinalSigma,
    /// Stretch the noise levels so that the last of them is this, if set.
    pub shift_terminal: Option<f64>,
    /// Euler only: run from sample to noise.
    pub invert_sigmas: bool,
    /// Euler only: how the levels are spread.
    pub spacing: Spacing,
}

impl SamplerConfig {
    /// Wan's settings of a sampler: second-order `bh2` with its corrector, velocity prediction, no shift.
    pub fn new(sampler: Sampler) -> Self {
        Self {
            sampler,
            shift: 1.0,
            num_train_timesteps: 1000,
            solver_order: 2,
            solver_type: SolverType::Bh2,
            prediction: Prediction::Flow,
            lower_order_final: true,
            disable_corrector: Vec::new(),
            final_sigma: FinalSigma::Zero,
            shift_terminal: None,
            invert_sigmas: false,
            spacing: Spacing::Linear,
        }
    }

    /// Reads a `scheduler_config.json`, or the one in a scheduler folder.
    ///
    /// # Errors
    /// When it cannot be read or says what no sampler here can do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let mut path = path.as_ref().to_path_buf();
        if path.is_dir() {
            path.push("scheduler_config.json");
        }
        let json = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        Self::from_json(&path, &json, None)
    }

    /// Reads settings from JSON; `path` is named in errors. Keys that the reference leaves unused are ignored, as
    /// it does; absent ones have its defaults. `class` is the sampler's that the pipeline names (`model_index.json`), which
    /// counts for more than the `_class_name` within.
    ///
    /// # Errors
    /// When it is not JSON, is of another class, or holds a value that cannot be honoured; the key is named.
    pub fn from_json(path: &Path, json: &[u8], class: Option<&str>) -> Result<Self> {
        let value: Value =
            super::json::from_python(json).map_err(|e| Error::model(path, format!("this is not valid JSON: {e}")))?;
        let Value::Object(map) = value else {
            return Err(Error::model(path, "scheduler settings must be a JSON object"));
        };
        let keys = Keys { path, map: &map };
        let class = match class {
            Some(class) => class,
            None => keys.text("_class_name", "")?,
        };
        if class.is_empty() {
            return Err(keys.wrong("_class_name", "it is missing, so nothing says which sampler this is"));
        }
        let Some(sampler) = Sampler::ALL.into_iter().find(|s| s.class_name() == class) else {
            let known = Sampler::ALL.map(Sampler::class_name).join(", ");
            return Err(keys.wrong(
                "_class_name",
                format!("`{class}` is not supported; put the settings of one of these here: {known}"),
            ));
        };
        let mut config = Self::new(sampler);
        config.num_train_timesteps = keys.integer("num_train_timesteps", 1000, 1, 1_000_000)? as u32;
        config.shift = keys.number(if sampler == Sampler::UniPc { "flow_shift" } else { "shift" }, 1.0)?;
        if !is_usable_shift(config.shift) {
            let key = if sampler == Sampler::UniPc { "flow_shift" } else { "shift" };
            return Err(keys.wrong(key, format!("{} is not a positive number of ordinary size", config.shift)));
        }
        keys.must_be_off("use_dynamic_shifting", "a shift that depends on the size is passed by no Wan pipeline")?;
        match sampler {
            Sampler::UniPc | Sampler::UniPcWan => config.read_unipc(&keys)?,
            Sampler::Euler => config.read_euler(&keys)?,
        }
        Ok(config)
    }

    fn read_unipc(&mut self, keys: &Keys) -> Result<()> {
        let diffusers = self.sampler == Sampler::UniPc;
        if diffusers {
            if !keys.flag("use_flow_sigmas", false)? {
                return Err(keys.wrong("use_flow_sigmas", "must be true: only flow models are supported"));
            }
            for key in ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"] {
                keys.must_be_off(key, "only flow noise levels are supported")?;
            }
            self.shift_terminal = keys.terminal("shift_terminal")?;
        }
        keys.must_be_off("thresholding", "thresholding of samples is not supported")?;
        keys.must_be_absent("solver_p", "another solver inside UniPC is not supported")?;
        keys.one_of("timestep_spacing", "linspace", &["linspace", "leading", "trailing"])?;
        self.solver_order = keys.integer("solver_order", 2, 1, MAX_ORDER as u64)? as usize;
        self.solver_type = match keys.one_of("solver_type", "bh2", &["bh1", "bh2", "midpoint", "heun", "logrho"])? {
            "bh1" => SolverType::Bh1,
            // The reference takes the names of other solvers for `bh2`.
            _ => SolverType::Bh2,
        };
        if !keys.flag("predict_x0", true)? {
            let reason = "must be true: predicting noise instead loses all precision where a flow begins";
            return Err(keys.wrong("predict_x0", reason));
        }
        let default = if diffusers { "epsilon" } else { "flow_prediction" };
        let known = ["flow_prediction", "epsilon", "sample", "v_prediction"];
        self.prediction = match keys.one_of("prediction_type", default, &known)? {
            "epsilon" => Prediction::Epsilon,
            "sample" => Prediction::Sample,
            "v_prediction" => Prediction::V,
            _ => Prediction::Flow,
        };
        if !diffusers && self.prediction != Prediction::Flow {
            return Err(keys.wrong("prediction_type", "must be `flow_prediction` for this class"));
        }
        self.lower_order_final = keys.flag("lower_order_final", true)?;
        self.disable_corrector = keys.indices("disable_corrector")?;
        self.final_sigma = match keys.one_of("final_sigmas_type", "zero", &["zero", "sigma_min"])? {
            "sigma_min" if diffusers => FinalSigma::SigmaMin,
            "sigma_min" => return Err(keys.wrong("final_sigmas_type", "must be `zero` for this class")),
            _ => FinalSigma::Zero,
        };
        Ok(())
    }

    fn read_euler(&mut self, keys: &Keys) -> Result<()> {
        keys.must_be_off("stochastic_sampling", "fresh noise in every step is not supported")?;
        keys.must_be_off("use_beta_sigmas", "the beta spacing is not supported")?;
        keys.one_of("time_shift_type", "exponential", &["exponential", "linear"])?;
        self.shift_terminal = keys.terminal("shift_terminal")?;
        self.invert_sigmas = keys.flag("invert_sigmas", false)?;
        self.spacing = match (keys.flag("use_karras_sigmas", false)?, keys.flag("use_exponential_sigmas", false)?) {
            (false, false) => Spacing::Linear,
            (true, false) => Spacing::Karras,
            (false, true) => Spacing::Exponential,
            (true, true) => {
                return Err(keys.wrong("use_karras_sigmas", "cannot be combined with `use_exponential_sigmas`"));
            }
        };
        Ok(())
    }

    /// These settings with another sampler: shift and training timesteps stay, and between the two kinds of UniPC
    /// the solver's settings too.
    pub fn with_sampler(self, sampler: Sampler) -> Self {
        if sampler == self.sampler {
            return self;
        }
        let kept =
            Self { sampler, shift: self.shift, num_train_timesteps: self.num_train_timesteps, ..Self::new(sampler) };
        if sampler == Sampler::Euler || self.sampler == Sampler::Euler {
            return kept;
        }
        Self {
            solver_order: self.solver_order,
            solver_type: self.solver_type,
            lower_order_final: self.lower_order_final,
            disable_corrector: self.disable_corrector,
            ..kept
        }
    }

    /// These settings with another shift.
    ///
    /// # Errors
    /// When it is not a positive number of ordinary size (1e-3 to 1e3).
    pub fn with_shift(self, shift: f64) -> Result<Self> {
        if is_usable_shift(shift) {
            Ok(Self { shift, ..self })
        } else {
            let reason = format!("{shift} is not between 0.001 and 1000; 3 suits small pictures, 5 to 12 large ones");
            Err(Error::request("--shift", reason))
        }
    }
}

fn is_usable_shift(shift: f64) -> bool {
    (1e-3..=1e3).contains(&shift)
}

/// A JSON object being read, and the file to blame.
struct Keys<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        Error::model(self.path, format!("`{key}`: {reason}"))
    }

    fn get<T>(&self, key: &str, kind: &str, default: T, read: impl Fn(&'a Value) -> Option<T>) -> Result<T> {
        match self.map.get(key) {
            None => Ok(default),
            Some(value) => read(value).ok_or_else(|| self.wrong(key, format!("{value} is not {kind}"))),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key, "a number", default, Value::as_f64)
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key, "true or false", default, |v| if v.is_null() { Some(false) } else { v.as_bool() })
    }

    fn text(&self, key: &str, default: &'a str) -> Result<&'a str> {
        self.get(key, "a string", default, Value::as_str)
    }

    fn integer(&self, key: &str, default: u64, least: u64, most: u64) -> Result<u64> {
        let kind = format!("a whole number from {least} to {most}");
        self.get(key, &kind, default, |v| v.as_u64().filter(|n| (least..=most).contains(n)))
    }

    fn one_of(&self, key: &str, default: &'a str, known: &[&str]) -> Result<&'a str> {
        let value = self.text(key, default)?;
        if known.contains(&value) {
            Ok(value)
        } else {
            Err(self.wrong(key, format!("`{value}` is unknown; known are {}", known.join(", "))))
        }
    }

    fn must_be_off(&self, key: &str, reason: &str) -> Result<()> {
        if self.flag(key, false)? { Err(self.wrong(key, format!("must be false: {reason}"))) } else { Ok(()) }
    }

    fn must_be_absent(&self, key: &str, reason: &str) -> Result<()> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(self.wrong(key, format!("must be null: {reason}"))),
        }
    }

    /// A level to end at: `null`, like the reference's 0, is none.
    fn terminal(&self, key: &str) -> Result<Option<f64>> {
        let in_range = |n: &f64| (0.0..1.0).contains(n);
        let read = |v: &Value| if v.is_null() { Some(None) } else { v.as_f64().filter(in_range).map(Some) };
        Ok(self.get(key, "null or a number from 0 to 1", None, read)?.filter(|&n| n != 0.0))
    }

    /// Step numbers; negative ones are legal in the reference and match no step.
    fn indices(&self, key: &str) -> Result<Vec<usize>> {
        let index = |v: &Value| v.as_i64().map(|n| usize::try_from(n).ok());
        let all = |v: &Value| v.as_array()?.iter().map(index).collect::<Option<Vec<_>>>();
        Ok(self.get(key, "a list of step numbers", Vec::new(), all)?.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<SamplerConfig> {
        SamplerConfig::from_json(Path::new("scheduler/scheduler_config.json"), json.as_bytes(), None)
    }

    const WAN: &str = r#"{"_class_name": "UniPCMultistepScheduler", "_diffusers_version": "0.33.0",
        "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001, "disable_corrector": [],
        "dynamic_thresholding_ratio": 0.995, "final_sigmas_type": "zero", "flow_shift": 3.0,
        "lower_order_final": true, "num_train_timesteps": 1000, "predict_x0": true,
        "prediction_type": "flow_prediction", "rescale_betas_zero_snr": false, "sample_max_value": 1.0,
        "solver_order": 2, "solver_p": null, "solver_type": "bh2", "steps_offset": 0, "thresholding": false,
        "timestep_spacing": "linspace", "trained_betas": null, "use_beta_sigmas": false,
        "use_exponential_sigmas": false, "use_flow_sigmas": true, "use_karras_sigmas": false}"#;

    #[test]
    fn wan_settings_are_the_defaults_with_their_shift() {
        let expected = SamplerConfig { shift: 3.0, ..SamplerConfig::new(Sampler::UniPc) };
        assert_eq!(parse(WAN).expect("valid"), expected);
        let euler = r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5, "shift_terminal": null}"#;
        let expected = SamplerConfig { shift: 5.0, ..SamplerConfig::new(Sampler::Euler) };
        assert_eq!(parse(euler).expect("valid"), expected);
    }

    #[test]
    fn values_that_cannot_be_honoured_are_named() {
        let cases = [
            ("\"flow_shift\": 3.0", "\"flow_shift\": -1", "flow_shift"),
            ("\"flow_shift\": 3.0", "\"flow_shift\": \"3\"", "flow_shift"),
            ("\"solver_order\": 2", "\"solver_order\": 0", "solver_order"),
            ("\"solver_order\": 2", "\"solver_order\": 4", "solver_order"),
            ("\"solver_type\": \"bh2\"", "\"solver_type\": \"rk4\"", "solver_type"),
            ("\"use_flow_sigmas\": true", "\"use_flow_sigmas\": false", "use_flow_sigmas"),
            ("\"use_karras_sigmas\": false", "\"use_karras_sigmas\": true", "use_karras_sigmas"),
            ("\"predict_x0\": true", "\"predict_x0\": false", "predict_x0"),
            ("\"solver_p\": null", "\"solver_p\": {}", "solver_p"),
            ("\"thresholding\": false", "\"thresholding\": true", "thresholding"),
            ("\"thresholding\": false", "\"use_dynamic_shifting\": true", "use_dynamic_shifting"),
            ("\"disable_corrector\": []", "\"disable_corrector\": [0.5]", "disable_corrector"),
            ("\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 0", "num_train_timesteps"),
            ("\"prediction_type\": \"flow_prediction\"", "\"prediction_type\": \"x\"", "prediction_type"),
            ("\"final_sigmas_type\": \"zero\"", "\"final_sigmas_type\": \"one\"", "final_sigmas_type"),
            ("UniPCMultistepScheduler", "DDIMScheduler", "_class_name"),
        ];
        for (from, to, key) in cases {
            assert!(WAN.contains(from), "{from}");
            let error = parse(&WAN.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(&format!("`{key}`")) && error.contains("scheduler_config.json"), "{error}");
        }
        for broken in ["", "{", "[]", "null", "{\"_class_name\": 3}"] {
            let error = parse(broken).expect_err(broken).to_string();
            assert!(error.starts_with("scheduler/scheduler_config.json: "), "{error}");
        }
    }

    #[test]
    fn another_sampler_keeps_the_shift() {
        let config = parse(WAN).expect("valid").with_sampler(Sampler::Euler);
        assert_eq!(config, SamplerConfig { shift: 3.0, ..SamplerConfig::new(Sampler::Euler) });
        let third = SamplerConfig { solver_order: 3, ..SamplerConfig::new(Sampler::UniPc) };
        assert_eq!(third.with_sampler(Sampler::UniPcWan).solver_order, 3);
        for shift in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            let error = SamplerConfig::new(Sampler::Euler).with_shift(shift).expect_err("unusable").to_string();
            assert!(error.starts_with("--shift:"), "{error}");
        }
        for sampler in Sampler::ALL {
            assert_eq!(sampler.name().parse::<Sampler>().ok(), Some(sampler));
        }
        assert!("ddim".parse::<Sampler>().is_err());
    }
}
