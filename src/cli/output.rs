//! Lines on standard output and standard error that survive a closed pipe.

use std::fmt::Display;
use std::io::{self, Write};

use mutoscope::Error;

use super::Stop;

/// A line on standard output, at once.
pub fn line(text: impl Display) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop::ReaderGone),
        Err(error) => Err(Error::io("standard output", error).into()),
    }
}

/// A line on standard error. When that is closed there is nobody left to tell.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Seconds as people read them: `0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// Bytes as people read them.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value.fract() > 0.05);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Floating-point operations as people read them.
pub fn flops(count: f64) -> String {
    const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];
    let unit = ((count.max(1.0).log10() / 3.0) as usize).min(UNITS.len() - 1);
    format!("{:.1} {}FLOP", count / 1000f64.powi(unit as i32), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        let told: Vec<String> = [0.04, 9.7, 59.4, 61.0, 7800.0].map(duration).into();
        assert_eq!(told, ["0.0 s", "9.7 s", "59 s", "1 min 01 s", "2 h 10 min"]);
        let told: Vec<String> = [12, 16 << 10, (128 << 20) - 1, 1 << 41].map(bytes).into();
        assert_eq!(told, ["12 bytes", "16 KiB", "128.0 MiB", "2 TiB"]);
        assert_eq!([flops(1.5e12), flops(20.0), flops(3e19)], ["1.5 TFLOP", "20.0 FLOP", "30000.0 PFLOP"]);
    }
}
