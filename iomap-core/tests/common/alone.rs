//! A test that ends the process, or changes all of it: run in a process of its own.

use std::process::{Command, ExitStatus, Stdio};

/// In the environment of that process.
const MARK: &str = "IOMAP_TEST_ALONE";

/// Runs the test again in a process of its own, where it does `work`. `None`: this is that process.
pub(crate) fn alone(test: &str, work: impl FnOnce()) -> Option<ExitStatus> {
    if std::env::var_os(MARK).is_some() {
        work();
        return None;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(MARK, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Some(child.unwrap())
}
