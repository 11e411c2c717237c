//! The program `iomapfs`: file system images on the command line.
//!
//! Owns the way from the arguments of the process to a verb, and from what the verb answers to the
//! exit code. The arguments are [`cli`], what is done is [`verbs`], copying is [`cp`], and what
//! serves an image is [`backend`].

mod backend;
mod cli;
mod cp;
mod failure;
mod image;
mod mode;
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
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    out::choose_color(cli.global.color);
    match verbs::run(cli) {
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
    let verb = std::env::args_os().nth(1);
    let is_check = verb.is_some_and(|verb| verb == "check");
    ExitCode::from(if is_check { CHECK_USAGE } else { code::USAGE })
}
