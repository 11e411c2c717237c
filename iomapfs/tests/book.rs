//! The reference in `docs/iomapfs.md` is what the program says of itself.
//!
//! `UPDATE_DOCS=1 cargo test -p iomapfs --test book` writes the new texts into it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

fn help(verb: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_iomapfs"));
    if verb != "iomapfs" {
        command.arg(verb);
    }
    let output = command
        .arg("--help")
        .env_remove("COLUMNS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{verb}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// The verbs, as the program lists them.
fn verbs() -> Vec<String> {
    let text = help("iomapfs");
    let list = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = list.take_while(|line| !line.is_empty());
    let names = verbs.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names
        .map(|line| line.split_whitespace().next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_reference_has_the_help_of_every_verb() {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/iomapfs.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut expected = text.clone();
    let all = verbs();
    assert!(all.len() > 20, "{all:?}");
    for verb in all
        .iter()
        .map(String::as_str)
        .chain(["iomapfs"])
        .filter(|verb| *verb != "help")
    {
        let mark = format!("<!-- help: {verb} -->\n```text\n");
        let at = expected.find(&mark);
        let at = at.unwrap_or_else(|| panic!("docs/iomapfs.md: no block for {verb}")) + mark.len();
        let end = at + expected[at..].find("```").unwrap();
        expected.replace_range(at..end, &format!("{}\n", help(verb)));
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, expected).unwrap();
        return;
    }
    assert!(
        text == expected,
        "docs/iomapfs.md is not what the program says: UPDATE_DOCS=1 writes it"
    );
}

#[test]
fn the_reference_names_every_mount_option_that_means_something() {
    let text = include_str!("../../docs/iomapfs.md");
    let help = help("mount");
    for option in [
        "allow_other",
        "default_permissions",
        "auto_unmount",
        "io_uring",
        "cache_mb=N",
        "max_request=SIZE",
        "log=FILE",
    ] {
        assert!(help.contains(option), "help: {option}");
        assert!(text.contains(&format!("`{option}")), "docs: {option}");
    }
}

/// The book is not built by the tests, so a part of a program that it shows could go away unseen.
#[test]
fn every_part_of_a_program_that_the_book_shows_is_there() {
    let docs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
    let text = std::fs::read_to_string(docs.join("your-own.md")).unwrap();
    let includes = text.split("{{#include ").skip(1);
    let mut shown = 0;
    for include in includes.map(|rest| rest.split("}}").next().unwrap()) {
        let (path, anchor) = include.split_once(':').unwrap();
        let program = std::fs::read_to_string(docs.join(path)).unwrap();
        for mark in ["ANCHOR", "ANCHOR_END"] {
            let line = format!("// {mark}: {anchor}");
            let found = program.lines().filter(|l| l.trim() == line).count();
            assert_eq!(found, 1, "{path}: {line}");
        }
        shown += 1;
    }
    assert!(shown > 5, "{shown}");
}
