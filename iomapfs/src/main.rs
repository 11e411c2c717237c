//! The program `iomapfs`: file system images on the command line.
//!
//! Owns the way from the arguments of the process to a verb, and from what the verb answers to the
//! exit code. The arguments are [`cli`], what is done is [`verbs`], copying is [`cp`],
//! mounting is [`mount`], and what serves an image is [`backend`].

mod backend;
mod cli;
mod cp;
mod failure;
mod image;
mod mode;
mod mount;
mod out;
mod owner;
mod place;
mod size;
mod verbs;
mod walk;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::failure::code;

/// The exit code of fsck(8) for wrong usage.
const CHECK_USAGE: u8 = 16;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    let outcome = if mount::helper::is_called(&args) {
        mount::helper::run(&args)
    } else {
        match Cli::try_parse_from(args) {
            Ok(cli) => {
                out::choose_color(cli.global.color);
                verbs::run(cli)
            }
            Err(error) => return usage(&error),
        }
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code)
        }
    }
}

/// Prints what is wrong with the arguments, or the help that was asked for.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a terminal that cannot be written to.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let verb = std::env::args_os().nth(1).unwrap_or_default();
    ExitCode::from(match verb.to_str() {
        Some("check") => CHECK_USAGE,
        Some("mount") => mount::code::USAGE,
        _ => code::USAGE,
    })
}
