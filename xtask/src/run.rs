//! Runs a program, shows what it prints, and counts the tests it reports.
//!
//! Owns the meaning of the counts: what a runner says, plus one failure for a runner that fails
//! without naming a failed test (a crash, an abort, a build that does not compile, a time limit).

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::ops::AddAssign;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest silence-independent run of one step. A suite that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// Tests by outcome. Every skip carries its reason.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skips: Vec<String>,
}

impl Counts {
    /// One thing that was tried.
    pub(crate) fn one(ok: bool) -> Self {
        Self {
            passed: usize::from(ok),
            failed: usize::from(!ok),
            skips: Vec::new(),
        }
    }

    /// Prints each skip with its reason, then the counts, alone on the last line.
    pub(crate) fn print(&self) {
        for skip in &self.skips {
            println!("skipped: {skip}");
        }
        println!("{self}");
    }

    /// Adds what one line of a test runner says.
    fn read_line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number_before(rest, " passed");
            self.failed += number_before(rest, " failed");
        } else if let Some((test, reason)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() {
                "no reason given"
            } else {
                reason
            };
            self.skips.push(format!("{test}: {reason}"));
        } else if let Some(skip) = line.strip_prefix("SKIP ") {
            self.skips.push(skip.to_owned());
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed, skipped) = (self.passed, self.failed, self.skips.len());
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skips.extend(other.skips);
    }
}

/// The number that stands directly before `label`; zero if there is none.
fn number_before(text: &str, label: &str) -> usize {
    let Some((before, _)) = text.split_once(label) else {
        return 0;
    };
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

/// One program to run.
#[derive(Debug)]
pub(crate) struct Step {
    name: String,
    command: Command,
}

impl Step {
    /// `cargo` with `args`.
    pub(crate) fn cargo(name: &str, args: &[&str]) -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(args);
        Self {
            name: name.to_owned(),
            command,
        }
    }

    /// A shell script that stops at the first failure, run in `folder`.
    pub(crate) fn shell(name: &str, script: &str, folder: &std::path::Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-ec", script]).current_dir(folder);
        Self {
            name: name.to_owned(),
            command,
        }
    }

    /// Sets a variable of the program's environment.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs it as one check: passed or failed as a whole.
    pub(crate) fn check(self) -> Counts {
        let (ok, _) = self.run();
        Counts::one(ok)
    }

    /// Runs it as a test runner: the counts are the ones it prints.
    pub(crate) fn tests(self) -> Counts {
        let (ok, mut counts) = self.run();
        if !ok && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }

    fn run(mut self) -> (bool, Counts) {
        println!("\n== {} ==", self.name);
        let started = Instant::now();
        let child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let (status, counts) = match child {
            Ok(child) => follow(child, started),
            Err(error) => (Err(format!("cannot start: {error}")), Counts::default()),
        };
        let seconds = started.elapsed().as_secs();
        let ok = matches!(&status, Ok(status) if status.success());
        match status {
            Ok(_) if ok => println!("== {}: ok, {seconds} s ==", self.name),
            Ok(status) => println!("== {}: FAILED, {status}, {seconds} s ==", self.name),
            Err(why) => println!("== {}: FAILED, {why} ==", self.name),
        }
        (ok, counts)
    }
}

/// Passes the output of `child` on, line by line, and counts, until it ends or the limit is over.
fn follow(mut child: Child, started: Instant) -> (Result<ExitStatus, String>, Counts) {
    let (sender, lines) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|out| forward(out, sender.clone())),
        child.stderr.take().map(|err| forward(err, sender)),
    ];
    let mut counts = Counts::default();
    let status = loop {
        let left = LIMIT.saturating_sub(started.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                println!("{line}");
                counts.read_line(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                break child.wait().map_err(|error| error.to_string());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                // The pipe may be held by a grandchild: its readers are not waited for.
                let _ = child.kill();
                let minutes = LIMIT.as_secs() / 60;
                return (Err(format!("took more than {minutes} minutes")), counts);
            }
        }
    };
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    (status, counts)
}

fn forward(
    pipe: impl Read + Send + 'static,
    lines: mpsc::Sender<String>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            if lines.send(text.trim_end_matches('\n').to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Counts {
        let mut counts = Counts::default();
        text.lines().for_each(|line| counts.read_line(line));
        counts
    }

    #[test]
    fn results_of_several_runners_add_up() {
        let counts = read(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out\n\
             noise: 9 passed\n\
             test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!((counts.passed, counts.failed), (14, 5));
    }

    #[test]
    fn an_ignored_test_is_a_skip_with_its_reason() {
        let counts =
            read("test a::b ... ignored, needs a mount\ntest c ... ignored\ntest d ... ok");
        assert_eq!(counts.skips, ["a::b: needs a mount", "c: no reason given"]);
        assert_eq!(counts.to_string(), "0 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn a_runner_that_dies_without_a_word_counts_as_a_failure() {
        let counts = Step::cargo("no such command", &["no-such-command"]).tests();
        assert_eq!(counts.failed, 1);
    }
}
