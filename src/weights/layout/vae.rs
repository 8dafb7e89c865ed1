//! How the layers of the authors' VAEs are numbered.
//!
//! Wan 2.1 lists a decoder's layers flat: on each level one more residual block than the encoder has, then the layer
//! that resamples, if any. Wan 2.2 lists the levels, and in each its layers. The tables know the second way alone.

use super::rule::Repeats;

/// Counts the residual blocks of a level in names of the authors.
pub(super) fn repeats_of_theirs(names: &[&str], nested: Option<bool>) -> Repeats {
    let residual = |list: &str| {
        let number = |name: &&str| name.strip_prefix(list)?.split_once(".residual.")?.0.parse::<usize>().ok();
        // Nothing that exists has thousands of blocks; the bound keeps sums from overflowing.
        names.iter().filter_map(number).filter(|&n| n < 1000).map(|n| n + 1).max().unwrap_or(0)
    };
    match nested {
        Some(true) => Repeats {
            encoder: residual("encoder.downsamples.0.downsamples."),
            decoder: residual("decoder.upsamples.0.upsamples."),
        },
        // The first layer that resamples ends the first level; a decoder without one is a single level.
        Some(false) => {
            let number = |name: &&str| {
                name.strip_prefix("decoder.upsamples.")?.split_once(".resample.")?.0.parse::<usize>().ok()
            };
            let first = names.iter().filter_map(number).filter(|&n| n < 1000).min();
            Repeats { encoder: 0, decoder: first.unwrap_or_else(|| residual("decoder.upsamples.")) }
        }
        None => Repeats::default(),
    }
}

/// Counts the residual blocks of a level in names of ours.
pub(super) fn repeats_of_ours(names: &[&str]) -> Repeats {
    let blocks = |list: &str| {
        let number = |name: &&str| name.strip_prefix(list)?.split_once('.')?.0.parse::<usize>().ok();
        names.iter().filter_map(number).filter(|&n| n < 1000).map(|n| n + 1).max().unwrap_or(0)
    };
    Repeats { encoder: blocks("encoder.down_blocks.0.resnets."), decoder: blocks("decoder.up_blocks.0.resnets.") }
}

/// `decoder.upsamples.N.` of a flat list as `decoder.upsamples.LEVEL.upsamples.LAYER.`.
pub(super) fn nest(name: &str, repeats: Repeats) -> String {
    let nested = || {
        let (number, rest) = name.strip_prefix("decoder.upsamples.")?.split_once('.')?;
        let (number, layers) = (number.parse::<usize>().ok()?, repeats.decoder + 1);
        Some(format!("decoder.upsamples.{}.upsamples.{}.{rest}", number / layers, number % layers))
    };
    nested().unwrap_or_else(|| name.to_owned())
}

/// The other way.
pub(super) fn flatten(name: &str, repeats: Repeats) -> String {
    let flat = || {
        let (level, rest) = name.strip_prefix("decoder.upsamples.")?.split_once(".upsamples.")?;
        let (layer, rest) = rest.split_once('.')?;
        let level = level.parse::<usize>().ok().filter(|&n| n < 1000)?;
        let number = level * (repeats.decoder + 1) + layer.parse::<usize>().ok().filter(|&n| n < 1000)?;
        Some(format!("decoder.upsamples.{number}.{rest}"))
    };
    flat().unwrap_or_else(|| name.to_owned())
}
