//! `completions` and `man`: made from the arguments themselves, so they cannot be out of date.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::failure::{Failure, Outcome};

/// Prints a completion script.
pub(crate) fn completions(args: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "iomapfs", &mut script);
    let mut output = std::io::stdout();
    output.write_all(&script)?;
    output.flush()?;
    Ok(0)
}

/// Prints one page, or writes all of them.
pub(crate) fn man(args: &ManArgs) -> Outcome {
    // Built, so that the pages of the verbs have the options all verbs share.
    let mut command = Cli::command();
    command.build();
    if let Some(folder) = &args.all {
        clap_mangen::generate_to(command, folder).map_err(|error| Failure::host(folder, error))?;
        return Ok(0);
    }
    let page = match &args.verb {
        None => command,
        Some(verb) => {
            let found = command.find_subcommand(verb).cloned();
            found.ok_or_else(|| no_verb(&command, verb))?
        }
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text)?;
    let mut output = std::io::stdout();
    output.write_all(&text)?;
    output.flush()?;
    Ok(0)
}

fn no_verb(command: &clap::Command, verb: &str) -> Failure {
    let failure = Failure::usage(format!("there is no verb '{verb}'"));
    let verbs = command.get_subcommands().map(clap::Command::get_name);
    match crate::image::closest(verb, verbs) {
        Some(similar) => failure.hint(format!("did you mean '{similar}' ?")),
        None => failure.hint("`iomapfs --help` lists them"),
    }
}
