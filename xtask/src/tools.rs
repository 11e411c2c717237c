//! Tools outside the workspace: looks for them, installs what can be installed.
//!
//! Never goes on without a tool: what cannot be installed is an error that names the command.

use std::process::{Command, Stdio};

/// Makes sure a component of the Rust toolchain is there: `rustfmt` or `clippy`.
pub(crate) fn component(name: &str) -> Result<(), String> {
    let subcommand = if name == "rustfmt" { "fmt" } else { name };
    if succeeds("cargo", &[subcommand, "--version"]) {
        return Ok(());
    }
    println!("installing {name}");
    if succeeds("rustup", &["component", "add", name]) {
        return Ok(());
    }
    Err(format!(
        "{name} is missing and could not be installed; run: rustup component add {name}"
    ))
}

/// Makes sure the program of a Debian package is there.
pub(crate) fn package(program: &str, package: &str) -> Result<(), String> {
    if succeeds(program, &["--version"]) {
        return Ok(());
    }
    println!("installing {package}");
    let install = ["install", "-qy", "--no-install-recommends", package];
    let _ = succeeds("apt-get", &["update", "-q"]);
    if succeeds("apt-get", &install) && succeeds(program, &["--version"]) {
        return Ok(());
    }
    Err(format!(
        "{program} is missing and could not be installed; run: apt-get install {package}"
    ))
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program)
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
