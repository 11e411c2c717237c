//! `check`: every inconsistency of an image, with the exit codes of fsck(8).

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::backend::CheckReport;
use crate::cli::CheckArgs;
use crate::failure::{Failure, Outcome};
use crate::image::{Access, Opening, open_device};
use crate::out;

/// Errors were found, and are still there.
const ERRORS_LEFT: u8 = 4;
/// The check itself failed.
const FAILED: u8 = 8;
/// The arguments make no sense.
const USAGE: u8 = 16;

/// Checks.
pub(crate) fn run(args: &CheckArgs, opening: &Opening) -> Outcome {
    let path = &args.image;
    let report = open_device(path, Access::Read, opening).and_then(|(driver, device)| {
        driver
            .check(device)
            .map_err(|why| Failure::of(path.display(), why))
    });
    let report = match report {
        Ok(report) => report,
        Err(failure) => {
            let code = if failure.code == crate::failure::code::USAGE {
                USAGE
            } else {
                FAILED
            };
            return Err(failure.code(code));
        }
    };
    let printed = match args.json.json {
        true => print_json(args, &report),
        false => print(args, &report),
    };
    let code = if report.errors.is_empty() && report.omitted == 0 {
        0
    } else {
        ERRORS_LEFT
    };
    // A reader that went away does not change what was found.
    match printed {
        Err(failure) if !failure.message.is_empty() => Err(failure.code(FAILED)),
        _ => Ok(code),
    }
}

fn print(args: &CheckArgs, report: &CheckReport) -> Outcome<()> {
    let mut output = out::stdout();
    for error in &report.errors {
        writeln!(output, "{error}")?;
    }
    if args.verbose {
        for note in &report.notes {
            writeln!(output, "note: {note}")?;
        }
    }
    if report.omitted > 0 {
        writeln!(output, "and {} more", report.omitted)?;
    }
    let errors = report.errors.len() as u64 + report.omitted;
    let verdict = match errors {
        0 => "clean".to_owned(),
        1 => "NOT CLEAN, 1 error".to_owned(),
        n => format!("NOT CLEAN, {n} errors"),
    };
    let counted = |key: &str| {
        report
            .census
            .iter()
            .find(|(k, _)| *k == key)
            .map_or(0, |(_, n)| *n)
    };
    writeln!(
        output,
        "{}: {verdict}: {} inodes, {} directories, {} extents, {} blocks used",
        args.image.display(),
        counted("inodes"),
        counted("directories"),
        counted("extents"),
        counted("used_blocks"),
    )?;
    output.flush()?;
    Ok(())
}

fn print_json(args: &CheckArgs, report: &CheckReport) -> Outcome<()> {
    let census: Map<String, Value> = report
        .census
        .iter()
        .map(|(key, n)| ((*key).to_owned(), (*n).into()))
        .collect();
    out::json(
        "check",
        json!({
            "image": args.image.display().to_string(),
            "clean": report.errors.is_empty() && report.omitted == 0,
            "errors": report.errors,
            "notes": report.notes,
            "omitted": report.omitted,
            "census": census,
        }),
    )
}
