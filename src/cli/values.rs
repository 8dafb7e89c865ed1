//! Values of arguments from text, with errors that say what would work.

use mutoscope::sampling::MAX_STEPS;

/// `832x480`, also `832X480` and `832*480`.
pub fn size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once(['x', 'X', '*', '×']);
    let parsed = sides.and_then(|(width, height)| Some((width.trim().parse().ok()?, height.trim().parse().ok()?)));
    match parsed {
        Some((0, _) | (_, 0)) => Err("a picture needs at least one column and one row of pixels".into()),
        Some(size) => Ok(size),
        None => Err("give WIDTHxHEIGHT in pixels, such as 832x480".into()),
    }
}

/// A number of frames.
pub fn frames(text: &str) -> Result<usize, String> {
    whole(text, 1, u32::MAX as usize).ok_or_else(|| "give a whole number of frames, at least 1".into())
}

/// A number of steps.
pub fn steps(text: &str) -> Result<usize, String> {
    whole(text, 1, MAX_STEPS).ok_or_else(|| format!("give a whole number of steps, 1 to {MAX_STEPS}"))
}

fn whole(text: &str, least: usize, most: usize) -> Option<usize> {
    text.trim().parse().ok().filter(|number| (least..=most).contains(number))
}

/// A seed.
pub fn seed(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("give a whole number, 0 to {}", u64::MAX))
}

/// A length or a rate.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text).filter(|value| *value > 0.0).ok_or_else(|| "give a number above zero".into())
}

/// A strength of guidance.
pub fn strength(text: &str) -> Result<f64, String> {
    let usable = |value: &f64| *value >= 0.0 && (*value as f32).is_finite();
    number(text).filter(usable).ok_or_else(|| "give a number, 0 or more; 1 is off, 3 to 8 is usual".into())
}

/// What a control's part is multiplied by.
pub fn scale(text: &str) -> Result<f64, String> {
    number(text).filter(|value| (*value as f32).is_finite()).ok_or_else(|| "give a number; 0 is off, 1 is usual".into())
}

/// An amount of memory: `8GB`, `6.5 GiB`, `900MB`, or bytes. GB and GiB mean the same, 2^30: that is how cards are sold.
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].trim() {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => f64::from(1 << 20),
        "g" | "gb" | "gib" => f64::from(1 << 30),
        "t" | "tb" | "tib" => 1024.0 * f64::from(1 << 30),
        _ => return Err("give an amount of memory, such as 8GB or 900MB".into()),
    };
    match number(digits) {
        Some(value) if value > 0.0 && value * unit >= 1.0 && value * unit < 1e18 => Ok((value * unit) as u64),
        _ => Err("give an amount of memory, such as 8GB or 900MB".into()),
    }
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_understood() {
        for text in ["64x48", "64X48", "64*48", " 64 x 48 "] {
            assert_eq!(size(text), Ok((64, 48)), "{text}");
        }
        assert_eq!(bytes("8GB"), Ok(8 << 30));
        assert_eq!(bytes(" 1.5 gib "), Ok(3 << 29));
        assert_eq!((bytes("900MB"), bytes("4096")), (Ok(900 << 20), Ok(4096)));
        assert_eq!(frames("81"), Ok(81));
        assert_eq!(steps("1000"), Ok(1000));
        assert_eq!(seed("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(positive("2.5"), Ok(2.5));
        assert_eq!(strength("0"), Ok(0.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["", "GB", "-1GB", "0", "8 parsecs", "NaN", "1e30GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for text in ["", "64", "64x", "x64", "64x-1", "0x64", "64x0", "64x64x64", "1e3x64", "99999999999999999999x64"] {
            assert!(size(text).is_err(), "{text}");
        }
        for text in ["", "0", "-1", "1.5", "NaN", "4294967296", "many"] {
            assert!(frames(text).is_err(), "{text}");
        }
        assert!(steps("1001").is_err() && seed("18446744073709551616").is_err() && seed("-1").is_err());
        for text in ["", "0", "-1", "NaN", "inf", "-inf", "1e999", "fast"] {
            assert!(positive(text).is_err(), "{text}");
        }
        for text in ["-1", "NaN", "inf", "1e39"] {
            assert!(strength(text).is_err(), "{text}");
        }
    }
}
