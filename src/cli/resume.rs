//! `mutoscope resume`: a run that was saved goes on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use mutoscope::pipeline::Saved;
use mutoscope::{Error, Result};
use serde::{Deserialize, Serialize};

use super::generate::{self, Changes};
use super::{Cli, Command, Outcome};

const EXAMPLES: &str = "\
Examples:
  A long run, in pieces:
    mutoscope generate \"a cat walks on grass\" --model Wan2.1-T2V-14B-Diffusers \\
        --checkpoint cat.run --out cat.mp4
    mutoscope resume cat.run
  What the first disk had no room for, on another:
    mutoscope resume cat.run --out /mnt/large/cat.mp4

The result is that of the run without a break, bit for bit. It takes the same model, mutoscope, device and driver; what it
was given (--image, --video and others) must still be where it was.";

/// Go on with a run that `generate --checkpoint` saved.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {
    /// The file that --checkpoint named; it is kept up to date from now on
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where the video goes [default: where the run began with]
    #[arg(long, value_name = "FILE", alias = "output")]
    out: Option<PathBuf>,

    /// The model, if it was moved; it must have the same content
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Also write the final normalised latents [default: as the run began with]
    #[arg(long, value_name = "FILE")]
    save_latents: Option<PathBuf>,

    /// Events as JSON on standard output, one a line, as with `generate`
    #[arg(long)]
    json: bool,

    /// No progress, no summary: only errors
    #[arg(long)]
    quiet: bool,
}

/// What the command line keeps in a checkpoint: how it was called, and where.
#[derive(Serialize, Deserialize)]
struct Note {
    folder: PathBuf,
    arguments: Vec<String>,
}

/// The note of this call of the program.
pub fn note() -> Result<String> {
    let refuse = |reason: &str| Error::request("--checkpoint", reason);
    let text = |argument: OsString| argument.into_string();
    let arguments = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>();
    let arguments = arguments.map_err(|_| refuse("an argument is not Unicode, and so it cannot be saved"))?;
    let folder = std::env::current_dir().map_err(|error| Error::io("the working directory", error))?;
    serde_json::to_string(&Note { folder, arguments })
        .map_err(|_| refuse("the working directory is not Unicode, and so it cannot be saved"))
}

/// Runs the command.
pub fn run(arguments: Arguments) -> Outcome {
    let (began, changes, saved) = read(arguments)?;
    generate::resume(began, changes, saved)
}

fn read(arguments: Arguments) -> Result<(generate::Arguments, Changes, Saved)> {
    let Arguments { file, out, model, save_latents, json, quiet } = arguments;
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Error::io(path, error));
    let saved = Saved::open(&file)?;
    let foreign =
        || Error::model(&file, "this run was not begun by `mutoscope generate`, and so there is no call to repeat");
    let note: Note = serde_json::from_str(saved.note()).map_err(|_| foreign())?;
    let began = match Cli::try_parse_from(&note.arguments).map(|cli| cli.command) {
        Ok(Command::Generate(began)) => *began,
        Ok(_) | Err(_) => return Err(foreign()),
    };
    let changes = Changes {
        checkpoint: absolute(&file)?,
        out: out.as_deref().map(absolute).transpose()?,
        model: model.as_deref().map(absolute).transpose()?,
        save_latents: save_latents.as_deref().map(absolute).transpose()?,
        json,
        quiet,
    };
    // The paths of the first call are relative to its folder.
    std::env::set_current_dir(&note.folder).map_err(|error| Error::io(&note.folder, error))?;
    Ok((began, changes, saved))
}
