//! The test programs of the table: built once with the feature `mutation`, run a test at a time.
//!
//! Owns the build flavours and the time a test may take. Each flavour has a target folder of its
//! own, so that none rebuilds another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::table::{Case, Flavour, Target};

/// Longest run of one test. One that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(120);
/// The same for a test that is expected to hang.
const HANG: Duration = Duration::from_secs(20);
/// Between two looks at a running test.
const LOOK: Duration = Duration::from_millis(5);

/// How a test ended.
#[derive(Debug)]
pub(super) enum Run {
    Passed,
    /// What it printed.
    Failed(String),
    TookTooLong,
    NoSuchTest,
}

/// One test program.
type Key = (Flavour, &'static str, Target);

/// The built test programs.
#[derive(Debug)]
pub(super) struct Programs(BTreeMap<Key, PathBuf>);

impl Programs {
    /// Builds what `cases` need.
    pub(super) fn build(cases: &[&Case]) -> Result<Self, String> {
        let wanted: BTreeSet<Key> = cases.iter().map(|case| key(case)).collect();
        let groups: BTreeSet<(Flavour, &str)> = wanted
            .iter()
            .map(|(flavour, package, _)| (*flavour, *package))
            .collect();
        let mut programs = BTreeMap::new();
        for (flavour, package) in groups {
            let of_group = |key: &&Key| (key.0, key.1) == (flavour, package);
            let targets: Vec<Target> = wanted
                .iter()
                .filter(of_group)
                .map(|(_, _, target)| *target)
                .collect();
            for (target, path) in build(flavour, package, &targets)? {
                programs.insert((flavour, package, target), path);
            }
        }
        if let Some((_, package, target)) = wanted.iter().find(|key| !programs.contains_key(key)) {
            return Err(format!("cargo names no program for {package} {target}"));
        }
        Ok(Self(programs))
    }

    /// Runs one test, with `without` off.
    pub(super) fn run(&self, case: &Case, without: Option<&str>) -> Run {
        let Some(program) = self.0.get(&key(case)) else {
            return Run::NoSuchTest;
        };
        let mut command = Command::new(program);
        command
            .args(["--exact", case.test, "--nocapture", "--test-threads", "1"])
            .current_dir(case.package)
            .env("RUST_BACKTRACE", "0")
            .env("IOMAP_WITHOUT", without.unwrap_or(""))
            .env("LOOM_MAX_PREEMPTIONS", "3")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let limit = if without.is_some() && case.hangs() {
            HANG
        } else {
            LIMIT
        };
        match command.spawn() {
            Ok(child) => follow(child, limit),
            Err(error) => Run::Failed(format!("cannot start: {error}")),
        }
    }
}

const fn key(case: &Case) -> Key {
    (case.flavour, case.package, case.target)
}

/// Waits for a test program; kills it when its time is over.
fn follow(mut child: Child, limit: Duration) -> Run {
    let started = Instant::now();
    let pipes = [
        child.stdout.take().map(|pipe| collect(Box::new(pipe))),
        child.stderr.take().map(|pipe| collect(Box::new(pipe))),
    ];
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if started.elapsed() < limit => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return Run::TookTooLong;
            }
        }
    };
    let text: String = pipes
        .into_iter()
        .flatten()
        .filter_map(|pipe| pipe.join().ok())
        .collect();
    match (status.success(), text.contains("running 1 test")) {
        (true, true) => Run::Passed,
        (true, false) => Run::NoSuchTest,
        (false, _) => Run::Failed(format!("{text}\n{status}")),
    }
}

fn collect(mut pipe: Box<dyn Read + Send>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Builds the tests of one package; each with the path of its program.
fn build(
    flavour: Flavour,
    package: &str,
    targets: &[Target],
) -> Result<Vec<(Target, PathBuf)>, String> {
    println!("building the tests of {package} ({flavour})");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "test",
        "--no-run",
        "--package",
        package,
        "--features",
        "mutation",
    ]);
    command.env("CARGO_TARGET_DIR", flavour.folder());
    if let Some(cfg) = flavour.cfg() {
        // A model checker runs a test thousands of times; the switches want debug assertions.
        command.args(["--profile", "mutate"]);
        command.env("RUSTFLAGS", format!("--cfg {cfg}"));
    }
    for target in targets {
        match target {
            Target::Lib => command.arg("--lib"),
            Target::Test(name) => command.args(["--test", name]),
        };
    }
    let output = command
        .output()
        .map_err(|error| format!("cannot start cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("the tests of {package} do not build:\n{said}"));
    }
    let built = said.lines().filter_map(executable);
    Ok(built
        .filter_map(|(name, path)| {
            let target = targets.iter().find(|target| target.to_string() == name)?;
            Some((*target, path))
        })
        .collect())
}

/// Reads a line such as `  Executable tests/buffered.rs (target/debug/deps/buffered-0123)`.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let rest = line.trim().strip_prefix("Executable ")?;
    let (source, path) = rest.strip_suffix(')')?.rsplit_once(" (")?;
    let path = std::env::current_dir().ok()?.join(path);
    if let Some(unit) = source.strip_prefix("unittests ") {
        return unit
            .ends_with("lib.rs")
            .then(|| (Target::Lib.to_string(), path));
    }
    let name = source.trim_end_matches("/main.rs").trim_end_matches(".rs");
    let name = name.rsplit('/').next()?.to_owned();
    Some((name, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_names_the_programs() {
        let read = |line: &str| executable(line).map(|(name, _)| name);
        assert_eq!(
            read("  Executable unittests src/lib.rs (target/debug/deps/iomap_core-1)"),
            Some("lib".to_owned())
        );
        assert_eq!(
            read("  Executable tests/buffered.rs (target/debug/deps/buffered-1)"),
            Some("buffered".to_owned())
        );
        assert_eq!(
            read("  Executable tests/direct/main.rs (target/debug/deps/direct-1)"),
            Some("direct".to_owned())
        );
        assert_eq!(read("    Finished `test` profile"), None);
    }
}
