//! The models of Wan that people have, known by their dimensions, and what their authors run them with.
//!
//! Sources: `generate.py` and `wan/configs` of <https://github.com/Wan-Video/Wan2.1> and
//! <https://github.com/Wan-Video/Wan2.2>, and their model cards where these say more: 1.3B runs with a shift of 8 and a
//! guidance of 6, 480p with a shift of 3.

use super::Defaults;
use super::parts::{Index, Part};
use crate::error::Result;

/// What a transformer is, as far as dimensions tell models apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    /// Features of a token.
    pub dim: usize,
    /// Blocks.
    pub depth: usize,
    /// Channels that it takes.
    pub inputs: usize,
    /// Channels that it gives.
    pub outputs: usize,
    /// Whether it sees pictures by CLIP: not at all, one, or a first and a last.
    pub pictures: Pictures,
    /// Whether VACE's blocks control it.
    pub vace: bool,
    /// Whether there is a second one for low noise.
    pub experts: bool,
}

/// How a transformer sees pictures by CLIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pictures {
    /// It does not.
    None,
    /// One.
    First,
    /// One to begin with and one to end with.
    FirstAndLast,
}

/// A model that is known.
pub(super) struct Kind {
    /// Its name.
    pub name: &'static str,
    traits: Traits,
    size: (usize, usize),
    frames: usize,
    fps: f64,
    steps: usize,
    guidance: f64,
    guidance_low: Option<f64>,
    /// Shift of the noise levels.
    pub shift: f64,
    /// The same for videos of 480p.
    shift_480p: Option<f64>,
    negative: Negative,
}

/// What a video does not show, in the words of Wan's authors: `sample_neg_prompt` of `shared_config.py`.
const NEGATIVE: &str = "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，\
    JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，\
    静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/// What the authors put before it.
#[derive(Clone, Copy)]
enum Negative {
    Plain,
    /// "A shaking camera", of Wan 2.1's models that begin with a picture.
    Shaking,
    /// "A cut to another shot", before the same.
    Cuts,
}

impl Negative {
    fn text(self) -> String {
        let before = match self {
            Self::Plain => "",
            Self::Shaking => "镜头晃动，",
            Self::Cuts => "镜头切换，镜头晃动，",
        };
        format!("{before}{NEGATIVE}")
    }
}

const SMALL: Traits =
    Traits { dim: 1536, depth: 30, inputs: 16, outputs: 16, pictures: Pictures::None, vace: false, experts: false };
const LARGE: Traits = Traits { dim: 5120, depth: 40, ..SMALL };

const T2V_14B: Kind = Kind {
    name: "Wan 2.1 T2V 14B",
    traits: LARGE,
    size: (1280, 720),
    frames: 81,
    fps: 16.0,
    steps: 50,
    guidance: 5.0,
    guidance_low: None,
    shift: 5.0,
    shift_480p: Some(3.0),
    negative: Negative::Plain,
};

const KINDS: &[Kind] = &[
    Kind {
        name: "Wan 2.1 T2V 1.3B",
        traits: SMALL,
        size: (832, 480),
        guidance: 6.0,
        shift: 8.0,
        shift_480p: None,
        ..T2V_14B
    },
    T2V_14B,
    Kind {
        name: "Wan 2.1 I2V 14B",
        traits: Traits { inputs: 36, pictures: Pictures::First, ..LARGE },
        steps: 40,
        negative: Negative::Shaking,
        ..T2V_14B
    },
    Kind {
        name: "Wan 2.1 FLF2V 14B",
        traits: Traits { inputs: 36, pictures: Pictures::FirstAndLast, ..LARGE },
        shift: 16.0,
        shift_480p: None,
        negative: Negative::Cuts,
        ..T2V_14B
    },
    Kind {
        name: "Wan 2.1 VACE 1.3B",
        traits: Traits { vace: true, ..SMALL },
        size: (832, 480),
        shift: 16.0,
        shift_480p: None,
        ..T2V_14B
    },
    Kind { name: "Wan 2.1 VACE 14B", traits: Traits { vace: true, ..LARGE }, shift: 16.0, shift_480p: None, ..T2V_14B },
    Kind {
        name: "Wan 2.2 T2V A14B",
        traits: Traits { experts: true, ..LARGE },
        steps: 40,
        guidance: 4.0,
        guidance_low: Some(3.0),
        shift: 12.0,
        shift_480p: None,
        ..T2V_14B
    },
    Kind {
        name: "Wan 2.2 I2V A14B",
        traits: Traits { inputs: 36, experts: true, ..LARGE },
        steps: 40,
        guidance: 3.5,
        guidance_low: Some(3.5),
        shift_480p: None,
        ..T2V_14B
    },
    Kind {
        name: "Wan 2.2 TI2V 5B",
        traits: Traits { dim: 3072, inputs: 48, outputs: 48, ..SMALL },
        size: (1280, 704),
        frames: 121,
        fps: 24.0,
        shift_480p: None,
        ..T2V_14B
    },
];

impl Traits {
    /// Those of a transformer by its settings.
    ///
    /// # Errors
    /// When these are broken.
    pub fn of(transformer: &Part, experts: bool) -> Result<Self> {
        let config = &transformer.config;
        let pictures = match (config.has("image_dim"), config.has("pos_embed_seq_len")) {
            (false, _) => Pictures::None,
            (true, false) => Pictures::First,
            (true, true) => Pictures::FirstAndLast,
        };
        let heads: usize = config.get("num_attention_heads")?;
        Ok(Self {
            dim: heads.saturating_mul(config.get("attention_head_dim")?),
            depth: config.get("num_layers")?,
            inputs: config.get("in_channels")?,
            outputs: config.get("out_channels")?,
            pictures,
            vace: config.has("vace_in_channels"),
            experts,
        })
    }

    /// The known model that has them.
    pub fn kind(&self) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.traits == *self)
    }

    /// What `model_index.json` would say, where there is none.
    pub fn index(&self, residual_vae: bool) -> Index {
        let boundary = if self.inputs > self.outputs { 0.9 } else { 0.875 };
        Index {
            scheduler: None,
            // The residual VAE is TI2V-5B's alone.
            expand_timesteps: residual_vae && self.inputs == self.outputs && !self.vace,
            boundary: self.experts.then_some(boundary),
        }
    }
}

impl Kind {
    /// What its authors run it with; `name` is what the model is called, for one thing that no dimension tells: which of
    /// two sizes an I2V was trained for. The shift of 480p counts where no scheduler config says another.
    pub fn defaults(&self, name: &str, says_shift: bool) -> Defaults {
        let small = self.traits.dim == LARGE.dim && name.to_ascii_lowercase().contains("480p");
        let (width, height) = if small { (832, 480) } else { self.size };
        Defaults {
            width,
            height,
            frames: self.frames,
            fps: self.fps,
            steps: self.steps,
            guidance: self.guidance,
            guidance_low: self.guidance_low,
            shift_480p: self.shift_480p.filter(|_| !says_shift),
            negative: self.negative.text(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_models_differ() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert_eq!(kind.traits.kind().map(|found| found.name), Some(kind.name));
            assert!(KINDS[..i].iter().all(|other| other.name != kind.name));
        }
        assert!(Traits { depth: 2, ..SMALL }.kind().is_none());
    }

    #[test]
    fn the_negative_prompt_is_one_line_without_gaps() {
        let text = Negative::Cuts.text();
        assert!(text.starts_with("镜头切换，镜头晃动，色调艳丽") && text.ends_with("倒着走"), "{text}");
        assert!(!text.contains(char::is_whitespace), "{text}");
    }

    #[test]
    fn what_no_index_says_follows_from_the_kind() {
        let pair = Traits { experts: true, ..LARGE };
        let index = |traits: Traits, residual| {
            let Index { expand_timesteps, boundary, .. } = traits.index(residual);
            (expand_timesteps, boundary)
        };
        assert_eq!(index(pair, false), (false, Some(0.875)));
        assert_eq!(index(Traits { inputs: 36, ..pair }, false), (false, Some(0.9)));
        assert_eq!(index(Traits { dim: 3072, inputs: 48, outputs: 48, ..SMALL }, true), (true, None));
        assert_eq!(index(SMALL, false), (false, None));
    }
}
