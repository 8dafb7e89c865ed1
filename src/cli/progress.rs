//! Telling how far a run is: a bar on a terminal, a line now and then elsewhere, or JSON.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use mutoscope::Error;
use mutoscope::pipeline::Phase;
use serde_json::{Value, json};

use super::{Stop, output};

/// Seconds between lines where there is no terminal to draw on.
const LINE_SECONDS: f64 = 5.0;
/// Ticks of the bar.
const TICKS: u64 = 1000;

/// Where progress goes.
enum Sink {
    Bar(ProgressBar),
    Lines,
    Json,
    Nowhere,
}

/// Tells of a run and keeps the time that each phase took.
pub struct Reporter {
    sink: Sink,
    /// Events on standard output.
    json: bool,
    quiet: bool,
    start: Instant,
    current: Option<Stretch>,
    /// Seconds of the phases that are over, in the order they first came.
    phases: Vec<(Phase, f64)>,
    /// When there was last a line of what has no phases.
    last_line: Option<Instant>,
}

/// An uninterrupted part of a run in one phase.
struct Stretch {
    phase: Phase,
    start: Instant,
    /// What was done when it was first heard of, which may have waited for compilers: the pace counts from there.
    base: (Instant, f64),
    last_line: Option<Instant>,
}

impl Stretch {
    fn new(phase: Phase, fraction: f64) -> Self {
        let now = Instant::now();
        Self { phase, start: now, base: (now, fraction), last_line: None }
    }

    /// Seconds that the phase still takes at its pace so far, once there is a pace.
    fn left(&self, fraction: f64) -> Option<f64> {
        let (since, base) = self.base;
        let done = fraction - base;
        (done > 0.0).then(|| since.elapsed().as_secs_f64() * (1.0 - fraction) / done)
    }
}

impl Reporter {
    /// Progress on standard error, as JSON on standard output, or (quiet) none.
    pub fn new(json: bool, quiet: bool) -> Self {
        let sink = match (quiet, json) {
            (true, _) => Sink::Nowhere,
            (false, true) => Sink::Json,
            (false, false) if std::io::stderr().is_terminal() => {
                let style = ProgressStyle::with_template("{prefix:>8} [{wide_bar}] {msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
                Sink::Bar(ProgressBar::new(TICKS).with_style(style))
            }
            (false, false) => Sink::Lines,
        };
        Self { sink, json, quiet, start: Instant::now(), current: None, phases: Vec::new(), last_line: None }
    }

    /// Seconds since the start.
    pub fn elapsed(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// Seconds that each phase took, by name.
    pub fn phases(&self) -> impl Iterator<Item = (&'static str, f64)> {
        self.phases.iter().map(|(phase, seconds)| (phase.name(), *seconds))
    }

    /// An event for programs, when JSON was asked for.
    pub fn event(&self, event: &Value) -> mutoscope::Result<()> {
        if !self.json {
            return Ok(());
        }
        match output::line(event) {
            Err(Stop::Error(error)) => Err(error),
            // The video is wanted even when nobody listens any more.
            Err(Stop::ReaderGone) | Ok(()) => Ok(()),
        }
    }

    /// A line for people, unless they asked for quiet or for JSON.
    pub fn note(&self, text: &str) {
        match &self.sink {
            _ if self.json || self.quiet => {}
            Sink::Bar(bar) => bar.suspend(|| output::note(text)),
            _ => output::note(text),
        }
    }

    /// The run was saved, or could not be.
    pub fn checkpoint(&self, step: usize, steps: usize, error: Option<&Error>) -> mutoscope::Result<()> {
        if let Some(error) = error {
            let text = format!("the run could not be saved: {error}. It goes on, and saving is tried again");
            match (self.quiet, self.json) {
                // Not a note: whoever asked for quiet still wants to hear of errors.
                (true, false) => output::note(text),
                _ => self.note(&text),
            }
        }
        let error = error.map(ToString::to_string);
        self.event(&json!({"event": "checkpoint", "step": step, "steps": steps, "error": error}))
    }

    /// So much of a phase is done.
    pub fn progress(&mut self, phase: Phase, step: usize, steps: usize, fraction: f64) -> mutoscope::Result<()> {
        let fraction = fraction.clamp(0.0, 1.0);
        let same = self.current.as_ref().is_some_and(|current| current.phase == phase);
        if !same {
            self.end_phase();
        }
        let elapsed = self.elapsed();
        let current = self.current.get_or_insert_with(|| Stretch::new(phase, fraction));
        // Steps that are done, as the one that is under way.
        let shown = (step + 1).min(steps);
        let of = format!("step {shown}/{steps}");
        let left = current.left(fraction).map(|left| format!(", {} left", output::duration(left))).unwrap_or_default();
        match &self.sink {
            Sink::Bar(bar) => {
                bar.set_prefix(phase.name());
                bar.set_message(format!("{of}{left}"));
                bar.set_position((fraction * TICKS as f64) as u64);
            }
            Sink::Lines => {
                if current.last_line.is_none_or(|last| last.elapsed().as_secs_f64() >= LINE_SECONDS) {
                    current.last_line = Some(Instant::now());
                    output::note(format_args!("{}: {of}{left}", phase.name()));
                }
            }
            Sink::Json => {
                let event = json!({
                    "event": "progress",
                    "phase": phase.name(),
                    "step": step,
                    "steps": steps,
                    "fraction": fraction,
                    "elapsed": elapsed,
                });
                return self.event(&event);
            }
            Sink::Nowhere => {}
        }
        Ok(())
    }

    /// So many bytes of work without phases are done.
    pub fn bytes(&mut self, what: &'static str, done: u64, total: u64) -> mutoscope::Result<()> {
        let fraction = done as f64 / total.max(1) as f64;
        let of = format!("{:.0} of {:.0} MB", done as f64 / 1e6, total as f64 / 1e6);
        match &self.sink {
            Sink::Bar(bar) => {
                bar.set_prefix(what);
                bar.set_message(of);
                bar.set_position((fraction * TICKS as f64) as u64);
            }
            Sink::Lines => {
                let since = self.last_line.get_or_insert_with(Instant::now);
                if since.elapsed().as_secs_f64() >= LINE_SECONDS {
                    *since = Instant::now();
                    output::note(format_args!("{what}: {of}"));
                }
            }
            Sink::Json => {
                let event =
                    json!({"event": "progress", "phase": what, "fraction": fraction, "elapsed": self.elapsed()});
                return self.event(&event);
            }
            Sink::Nowhere => {}
        }
        Ok(())
    }

    /// No more progress comes: the bar goes, the times are complete.
    pub fn end(&mut self) {
        self.end_phase();
        if let Sink::Bar(bar) = &self.sink {
            bar.finish_and_clear();
        }
    }

    fn end_phase(&mut self) {
        let Some(current) = self.current.take() else { return };
        let seconds = current.start.elapsed().as_secs_f64();
        match self.phases.iter_mut().find(|(phase, _)| *phase == current.phase) {
            Some((_, total)) => *total += seconds,
            None => self.phases.push((current.phase, seconds)),
        }
    }
}
