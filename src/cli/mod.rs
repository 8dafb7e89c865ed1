//! The command line: arguments to library calls. The only code that prints.

mod control;
mod convert;
mod doctor;
mod generate;
mod inspect;
mod known;
mod lora;
mod missing;
mod model;
mod ops;
mod output;
mod plan;
mod progress;
mod request;
mod resume;
mod speeds;
mod tiling;
mod values;
mod video;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use mutoscope::Error;
use serde_json::json;

/// What ends a command before its end.
enum Stop {
    /// Something went wrong.
    Error(Error),
    /// Whoever read standard output has gone (`| head`), so there is nothing left to do.
    ReaderGone,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The exit code, or what came in between.
type Outcome = Result<u8, Stop>;

/// Some kernel of `ops test` was wrong.
const EXIT_WRONG_KERNEL: u8 = 1;
/// Wrong usage, as clap has it and as [`Error::exit_code`] has it for bad settings.
const EXIT_USAGE: u8 = 2;
/// A fault of mutoscope itself: [`Error::Internal`]'s, and a panic's.
const EXIT_INTERNAL: u8 = 70;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   `ops test`: a kernel is wrong on this device
  2   wrong usage, or a setting that cannot be used
  3   a file that cannot be read or written
  4   a model that is broken or of a kind that is not supported
  5   no usable GPU, or it was lost
  6   not enough memory
  7   a video that cannot be encoded
  70  a fault of mutoscope itself; please report it
  99  cancelled (Ctrl-C)

Environment:
  MUTOSCOPE_CHECKED=1  compile shaders with every run-time check: slower, for finding faults";

const EXAMPLES: &str = "\
Examples:
  mutoscope generate \"a strawberry moves up at night\" --out strawberry.mp4
  mutoscope generate \"a cat walks on grass\" --model Wan2.1-T2V-1.3B-Diffusers --out cat.mp4
  mutoscope plan \"a cat walks on grass\" --model Wan2.1-T2V-1.3B-Diffusers --vram 6GB
  mutoscope inspect Wan2.1-T2V-1.3B
  mutoscope doctor
  mutoscope ops test";

/// Text to video on any GPU.
#[derive(Parser)]
#[command(
    name = "mutoscope",
    version,
    about,
    after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}\n\n`mutoscope COMMAND --help` tells more."),
    max_term_width = 110,
    arg_required_else_help = true,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(Box<generate::Arguments>),
    Resume(resume::Arguments),
    Plan(Box<plan::Arguments>),
    Inspect(inspect::Arguments),
    Convert(convert::Arguments),
    Doctor(doctor::Arguments),
    Ops(ops::Arguments),
}

/// Runs the command line and answers with the documented exit code.
pub fn main() -> ExitCode {
    hush();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // A panic is a fault of ours with an exit code of its own, and Rust's own would be above 100.
    ExitCode::from(std::panic::catch_unwind(|| run(&arguments)).unwrap_or(EXIT_INTERNAL))
}

/// Keeps Mesa's layer that sorts devices by the desktop's wishes from printing errors of its own where there is no
/// desktop. It would change nothing: `gpu` chooses by what devices are.
fn hush() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: this is the program's first act, and there is no other thread yet.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

fn run(arguments: &[OsString]) -> u8 {
    let json = arguments.iter().any(|argument| argument == "--json");
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, json),
    };
    let outcome = match cli.command {
        Command::Generate(arguments) => generate::run(*arguments),
        Command::Resume(arguments) => resume::run(arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Ops(arguments) => ops::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(Stop::ReaderGone) => 0,
        Err(Stop::Error(error)) => {
            failed(&error.to_string(), error.exit_code(), json);
            error.exit_code()
        }
    }
}

/// Whether `MUTOSCOPE_CHECKED=1` asks for shaders with every run-time check.
fn checked() -> bool {
    std::env::var("MUTOSCOPE_CHECKED").is_ok_and(|value| value == "1")
}

/// Tells of an error: to people on standard error, and to programs that asked for JSON on standard output.
fn failed(message: &str, code: u8, json: bool) {
    output::note(format_args!("error: {message}"));
    if json {
        // The exit code says it too, to whoever reads no more.
        let _ = output::line(json!({"event": "error", "code": code, "message": message}));
    }
}

/// Help and version as clap prints them; errors in one or two lines.
fn usage(error: &clap::Error, json: bool) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Printing fails when nobody reads any more.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            EXIT_USAGE
        }
        _ => {
            let text = error.render().to_string();
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let told: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:")).collect();
            let told = told.into_iter().filter(|line| !line.starts_with("For more information"));
            let message = told.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
            let message = message.strip_prefix("error: ").unwrap_or(&message);
            failed(&format!("{message} (see --help)"), EXIT_USAGE, json);
            EXIT_USAGE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
