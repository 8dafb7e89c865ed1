//! `mutoscope generate`: a prompt to a video.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use mutoscope::graph::DeviceKind;
use mutoscope::media::{Format, Writer, check_writable};
use mutoscope::pipeline::{Checkpoint, Engine, Event, Model, Request, Saved, Settings};
use mutoscope::tensor::{DType, HostTensor};
use mutoscope::weights::save_safetensors;
use mutoscope::{Error, Result};
use serde_json::{Value, json};

use super::progress::Reporter;
use super::request::RequestArguments;
use super::{Outcome, Stop, lora, output, resume, tiling};

const EXAMPLES: &str = "\
Examples:
  With the model inside the binary:
    mutoscope generate \"a strawberry moves up at night\" --out strawberry.mp4
  With a downloaded one, three seconds, another seed:
    mutoscope generate \"a cat walks on grass\" --model Wan2.1-T2V-1.3B-Diffusers \\
        --size 832x480 --seconds 3 --seed 7 --out cat.mp4
  A picture that moves, with a model that takes pictures, such as Wan 2.2 TI2V-5B; the same picture at the end is a loop:
    mutoscope generate \"the cat yawns\" --model Wan2.2-TI2V-5B-Diffusers \\
        --image cat.jpg --out yawn.mp4
    mutoscope generate \"the cat yawns\" --model Wan2.2-TI2V-5B-Diffusers \\
        --image cat.jpg --end-image cat.jpg \\
        --out loop.gif
  A video made into another, keeping its layout; less --strength keeps more:
    mutoscope generate \"the same street in deep snow\" --model Wan2.1-T2V-1.3B-Diffusers \\
        --video street.mp4 --strength 0.7 --out snow.mp4
  Something in a video made anew, after a picture of it, with a model that reads a control video:
    mutoscope generate \"a red fox sits on the bench\" --model Wan2.1-VACE-1.3B-diffusers \\
        --video bench.mp4 --mask white-where-the-fox-is.png --reference fox.jpg --out fox.mp4
  The frames as pictures, for an editor:
    mutoscope generate \"a star falls from above at night\" --out frames/%04d.png
  A long run that a power cut, a full disk or Ctrl-C does not undo; `mutoscope resume cat.run` goes on:
    mutoscope generate \"a cat walks on grass\" --model Wan2.1-T2V-14B-Diffusers \\
        --checkpoint cat.run --out cat.mp4
  For a program: events on standard output, one JSON object a line (start, progress, done or error):
    mutoscope generate \"a star falls from above at night\" --out star.gif --json

The recipe (prompt, seed, settings, model and its hash) is kept in the file's own metadata. The same seed and settings
on the same device give the same video, bit for bit; the noise is that of a diffusers script with the same seed.
Nothing half-written is left when a run fails or is cancelled; latents that were saved by then are complete and stay.";

/// Make a video from a prompt.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    request: RequestArguments,

    /// Where the video goes; the extension chooses the format: .mp4, .gif, .png, .apng, frames/%04d.png
    ///
    /// .mp4 is H.264 that browsers and QuickTime play; .gif loops; .png is a picture for one frame and an animated PNG
    /// for more; a name with %04d or %d in it is a folder of numbered pictures, made if absent. An older file of that
    /// name is replaced, once the new one is complete.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Save the state of the run in FILE while it goes on; `mutoscope resume FILE` continues to the same bits
    ///
    /// After every step. The file is whole at every moment, also after a kill. It stays when the run is done, and decodes
    /// again.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,

    /// Also write the final normalised latents, as tensor `latents` [1, C, F, h, w] in f32
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,

    /// Events as JSON on standard output, one a line, instead of a progress bar on standard error
    ///
    /// {"event":"start",...} with all settings, {"event":"progress","phase","step","steps","fraction","elapsed"} with the
    /// phases text, encode (with known frames or a video), denoise and decode,
    /// {"event":"tiling","size","stride"} when the device asks for tiles, {"event":"checkpoint","step","steps","error"} with
    /// --checkpoint, and {"event":"done","out","frames","seconds",...} or
    /// {"event":"error","code","message"}.
    #[arg(long)]
    json: bool,

    /// No progress, no summary: only errors (with --json: no progress events)
    #[arg(long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Outcome {
    start_or_resume(arguments, None)
}

/// What may change when a run goes on.
pub struct Changes {
    /// The file that it goes on from and is saved in.
    pub checkpoint: PathBuf,
    /// Where the video goes.
    pub out: Option<PathBuf>,
    /// Where the model is.
    pub model: Option<PathBuf>,
    /// Where the latents go.
    pub save_latents: Option<PathBuf>,
    /// Events as JSON.
    pub json: bool,
    /// Only errors.
    pub quiet: bool,
}

/// Goes on with the run that began with `arguments`.
pub fn resume(arguments: Arguments, changes: Changes, saved: Saved) -> Outcome {
    let arguments = Arguments {
        checkpoint: Some(changes.checkpoint),
        out: changes.out.unwrap_or(arguments.out),
        request: arguments.request.resumed(changes.model),
        save_latents: changes.save_latents.or(arguments.save_latents),
        json: changes.json,
        quiet: changes.quiet,
    };
    start_or_resume(arguments, Some(saved))
}

fn start_or_resume(arguments: Arguments, saved: Option<Saved>) -> Outcome {
    let cancelled = Arc::new(AtomicBool::new(false));
    listen(&cancelled);
    let mut reporter = Reporter::new(arguments.json, arguments.quiet);
    let file = arguments.checkpoint.clone();
    let mut kept = saved.as_ref().map(|saved| (saved.done(), saved.steps()));
    let result = generate(arguments, saved.as_ref(), &cancelled, &mut reporter, &mut kept);
    reporter.end();
    if let (Err(Stop::Error(_)), Some(file), Some((done, steps))) = (&result, file, kept) {
        let file = file.display();
        output::note(format_args!("{done} of {steps} steps are kept in {file}; `mutoscope resume {file}` goes on"));
    }
    result
}

/// `kept` becomes how many steps the checkpoint has, and of how many.
fn generate(
    arguments: Arguments,
    saved: Option<&Saved>,
    cancelled: &AtomicBool,
    reporter: &mut Reporter,
    kept: &mut Option<(usize, usize)>,
) -> Outcome {
    let heed = || if cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) };

    // What costs nothing is checked first, the GPU is opened last.
    check(&arguments)?;
    let checkpoint = match &arguments.checkpoint {
        None => None,
        Some(path) => {
            let note = match saved {
                Some(saved) => saved.note().to_owned(),
                None => resume::note()?,
            };
            if saved.is_none() {
                check_unused(path)?;
            }
            Some(Checkpoint { path: path.clone(), note })
        }
    };
    let Arguments { request: wanted, out, save_latents, json, quiet, .. } = &arguments;
    let model = wanted.model()?;
    for correction in model.corrections() {
        reporter.note(&format!("the tensors are right: {correction}"));
    }
    if let Some(note) = lora::note(&model) {
        reporter.note(&note);
    }
    let request = Request { checkpoint, ..wanted.request(&model)? };
    let mut settings = Settings::resolve(&model, &request)?;
    let [width, height, frames] = [settings.width, settings.height, settings.frames].map(in_32_bits);
    let format = Format::of(out, frames)?;
    format.check(width, height, frames, settings.fps)?;
    heed()?;

    let engine = Engine::new(&wanted.options())?;
    let profile = engine.gpu().profile();
    let precision = request.precision.resolve(profile)?;
    if profile.kind == DeviceKind::Cpu {
        reporter.note(&format!("no GPU is used: {} runs on the processor, which is slow", profile.name));
    }
    reporter.note(&summary(&settings, &model, precision, &profile.name));
    if let Some(saved) = saved {
        reporter.note(&format!("going on after {} of {} steps", saved.done(), saved.steps()));
    }
    reporter.event(&start(&settings, &model, precision, &profile.name, out))?;

    // The recipe names the model by its hash, which reads every weight: it is computed meanwhile. Nobody waits for the
    // thread when the run ends before it.
    let model = Arc::new(model);
    let hashed = model.clone();
    std::thread::spawn(move || {
        hashed.hash();
    });

    let mut writer: Option<Writer> = None;
    let mut observer = |event: Event<'_>| {
        // What was saved is told also of a run that is cancelled.
        if let Event::Checkpoint { step, error } = event {
            let of = settings.steps_to_run();
            if error.is_none() {
                *kept = Some((step, of));
            }
            return reporter.checkpoint(step, of, error);
        }
        heed()?;
        match event {
            Event::Checkpoint { .. } => Ok(()),
            Event::Settled(settled) => {
                if settled.tile != settings.tile {
                    settings.clone_from(settled);
                    if let Some(tile) = settings.tile {
                        reporter.note(&tiling::told(tile));
                        reporter.event(&json!({"event": "tiling", "size": tile.size, "stride": tile.stride}))?;
                    }
                }
                Ok(())
            }
            Event::Progress { phase, step, steps, fraction } => reporter.progress(phase, step, steps, fraction),
            Event::Latents(latents) => match save_latents {
                Some(path) => save(path, latents, &settings.recipe(&model, precision).to_json()?),
                None => Ok(()),
            },
            Event::Frame { frame, .. } => {
                if writer.is_none() {
                    let recipe = settings.recipe(&model, precision);
                    writer = Some(Writer::create(out, &format, width, height, settings.fps, frames, &recipe)?);
                }
                writer.as_mut().map_or(Ok(()), |writer| writer.push(frame))
            }
        }
    };
    match saved {
        None => engine.generate(&model, &request, &mut observer)?,
        Some(saved) => engine.resume(&model, &request, saved, &mut observer)?,
    };
    heed()?;
    writer.ok_or_else(|| Error::Internal("the run ended without a frame".into()))?.finish()?;

    reporter.end();
    let phases: Vec<String> =
        reporter.phases().map(|(name, seconds)| format!("{name} {}", output::duration(seconds))).collect();
    reporter.note(&format!("done in {}: {}", output::duration(reporter.elapsed()), phases.join(", ")));
    reporter.event(&done(&settings, &model, reporter, out, save_latents.as_deref()))?;
    if !json && !quiet {
        match output::line(out.display()) {
            Err(Stop::Error(error)) => return Err(error.into()),
            Err(Stop::ReaderGone) | Ok(()) => {}
        }
    }
    Ok(0)
}

/// Everything that can be checked without a model.
fn check(arguments: &Arguments) -> Result<()> {
    let Arguments { request, out, save_latents, .. } = arguments;
    // The number of frames matters only to .png, which takes any.
    Format::of(out, 1)?;
    request.check()?;
    if let Some(path) = save_latents {
        if path == out {
            return Err(Error::request("--save-latents", "this is the file that --out names; give another"));
        }
        check_writable(path).map_err(|error| match error {
            Error::Request { reason, .. } => Error::request("--save-latents", reason),
            other => other,
        })?;
    }
    if let Some(path) = &arguments.checkpoint {
        if path == out || Some(path) == save_latents.as_ref() {
            return Err(Error::request("--checkpoint", "another option names this file; give another"));
        }
        check_writable(path).map_err(|error| match error {
            Error::Request { reason, .. } => Error::request("--checkpoint", reason),
            other => other,
        })?;
    }
    check_writable(out)
}

/// Refuses to write a new run over one that is not done.
fn check_unused(path: &Path) -> Result<()> {
    match Saved::open(path) {
        Ok(saved) if saved.done() < saved.steps() => {
            let (done, steps) = (saved.done(), saved.steps());
            let file = path.display();
            let reason = format!(
                "{file} has {done} of {steps} steps of a run; go on with `mutoscope resume {file}`, or remove it first"
            );
            Err(Error::request("--checkpoint", reason))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

fn save(path: &Path, latents: &HostTensor, recipe: &str) -> Result<()> {
    save_safetensors(path, &[("latents", latents.clone())], &[("mutoscope", recipe)])
}

/// A count that the settings keep far below this.
fn in_32_bits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn summary(settings: &Settings, model: &Model, precision: DType, device: &str) -> String {
    let Settings { width, height, frames, fps, steps, guidance, seed, .. } = settings;
    let (sampler, shift) = (settings.sampler.sampler, settings.sampler.shift);
    let low = settings.guidance_low.map(|low| format!(" ({low} at low noise)")).unwrap_or_default();
    let length = *frames as f64 / fps;
    let given = match settings.known.iter().map(|known| known.pixels.len()).sum() {
        0 => String::new(),
        given => format!(", {given} of them given"),
    };
    let mut from = String::new();
    if settings.from_video() {
        from = format!(", from a video with strength {}", settings.strength);
    } else if !settings.video.is_empty() {
        from = ", with a control video".into();
    }
    if !settings.references.is_empty() {
        from += &format!(", references {}", settings.references.len());
    }
    format!(
        "{width}x{height}, {frames} frames ({length:.1} s at {fps} a second{given}), {steps} steps of {sampler}{from}, guidance \
         {guidance}{low}, shift {shift}, seed {seed}\nmodel {}, {precision} on {device}",
        model.name()
    )
}

/// What is the same in the first and the last event.
fn basics(settings: &Settings, out: &Path) -> Vec<(&'static str, Value)> {
    vec![
        ("out", json!(out.to_string_lossy())),
        ("width", json!(settings.width)),
        ("height", json!(settings.height)),
        ("frames", json!(settings.frames)),
        ("fps", json!(settings.fps)),
        ("seed", json!(settings.seed)),
    ]
}

fn event(name: &str, fields: Vec<(&'static str, Value)>) -> Value {
    let named = std::iter::once(("event", json!(name)));
    named.chain(fields).map(|(key, value)| (key.to_owned(), value)).collect::<serde_json::Map<_, _>>().into()
}

fn start(settings: &Settings, model: &Model, precision: DType, device: &str, out: &Path) -> Value {
    let mut fields = vec![("prompt", json!(settings.prompt)), ("negative", json!(settings.negative))];
    fields.extend(basics(settings, out));
    fields.extend([
        ("steps", json!(settings.steps)),
        ("guidance", json!(settings.guidance)),
        ("guidance_low", json!(settings.guidance_low)),
        ("shift", json!(settings.sampler.shift)),
        ("sampler", json!(settings.sampler.sampler.name())),
        ("known", settings.known.iter().map(|k| json!({"start": k.start, "count": k.pixels.len()})).collect()),
        ("strength", json!(settings.from_video().then_some(settings.strength))),
        ("control_scales", json!(settings.control_scales)),
        ("references", json!(settings.references.len())),
        ("precision", json!(precision.name())),
        ("model", json!(model.name())),
        ("device", json!(device)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
    ]);
    event("start", fields)
}

fn done(settings: &Settings, model: &Model, reporter: &Reporter, out: &Path, latents: Option<&Path>) -> Value {
    let mut fields = basics(settings, out);
    let phases: serde_json::Map<String, Value> =
        reporter.phases().map(|(name, seconds)| (name.to_owned(), json!(seconds))).collect();
    fields.extend([
        ("seconds", json!(reporter.elapsed())),
        ("phases", phases.into()),
        ("vae_tile", json!(settings.tile.map(|tile| tile.to_string()))),
        ("latents", json!(latents.map(Path::to_string_lossy))),
        ("model_hash", json!(model.hash())),
    ]);
    event("done", fields)
}

/// Lets Ctrl-C (and, on Unix, a termination signal) end the run at the next submission; the second time, at once.
pub fn listen(cancelled: &Arc<AtomicBool>) {
    let ignored = ignored_signals();
    let flag = cancelled.clone();
    // Without a handler, Ctrl-C still ends the program.
    let _ = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(Error::Cancelled.exit_code()));
        }
        output::note("\nstopping; Ctrl-C again ends it at once");
    });
    ignore(&ignored);
}

/// The signals that whoever started us wants ignored: a hang-up under `nohup`, Ctrl-C for a job in the background of a
/// script. A handler would take them all.
#[cfg(unix)]
fn ignored_signals() -> Vec<libc::c_int> {
    let is_ignored = |signal: &libc::c_int| {
        // SAFETY: sigaction is plain data for which zeros are a value, and with no new action the call only fills it in.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(*signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
        }
    };
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM].into_iter().filter(is_ignored).collect()
}

#[cfg(unix)]
fn ignore(signals: &[libc::c_int]) {
    for &signal in signals {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

#[cfg(not(unix))]
fn ignored_signals() -> Vec<()> {
    Vec::new()
}

#[cfg(not(unix))]
fn ignore(_signals: &[()]) {}
