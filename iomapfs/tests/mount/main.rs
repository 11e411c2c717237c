//! `mount` and `stats` on real mounts: by the verb, by mount(8)'s conventions, and their ends.
//!
//! Where nothing can be mounted every scenario is skipped by name, with the reason.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;
mod dax;
mod ends;
mod starts;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use common::Bench;
use libtest_mimic::{Arguments, Trial};

/// A scenario: its name and what it does.
type Scenario = (&'static str, fn(&Bed));

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let obstacle = obstacle();
    let mut trials = Vec::new();
    for (name, run) in [starts::SCENARIOS, dax::SCENARIOS, ends::SCENARIOS].concat() {
        match &obstacle {
            None => trials.push(Trial::test(name, move || {
                run(&Bed::new());
                Ok(())
            })),
            Some(why) => println!("SKIP iomapfs {name}: {why}"),
        }
    }
    libtest_mimic::run(&args, trials).exit_code()
}

/// Why nothing can be mounted here.
fn obstacle() -> Option<String> {
    let bed = Bed::new();
    let output = bed.mount(&[]);
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (!output.status.success()).then(|| said.replace('\n', "; "))
}

/// A folder with the image `t.img` and the directory `mnt`, which is free again at the end.
struct Bed {
    bench: Bench,
}

impl Bed {
    fn new() -> Self {
        let bench = Bench::new();
        std::fs::create_dir(bench.path("mnt")).unwrap();
        Self { bench }
    }

    /// `iomapfs mount t.img mnt` with more arguments.
    fn mount(&self, more: &[&str]) -> Output {
        let args = [&["mount", "t.img", "mnt"], more].concat();
        self.bench.run(args)
    }

    /// The same; it must work.
    #[track_caller]
    fn mounted(&self, more: &[&str]) {
        let output = self.mount(more);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.is_empty(),
            "{:?}: {said}",
            output.status
        );
        assert!(self.is_mounted());
    }

    /// The program under another name.
    fn helper(&self, name: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iomapfs"));
        command
            .arg0(name)
            .args(args)
            .current_dir(self.bench.path(""));
        command.output().unwrap()
    }

    /// A path in the mount.
    fn at(&self, name: &str) -> PathBuf {
        self.bench.path("mnt").join(name)
    }

    /// The line of the mount in the kernel's table.
    fn line(&self) -> Option<String> {
        let dir = self.bench.path("mnt").canonicalize().ok();
        let dir = dir
            .unwrap_or_else(|| self.bench.path("mnt"))
            .display()
            .to_string();
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let found = table
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(&dir));
        found.map(str::to_owned)
    }

    fn is_mounted(&self) -> bool {
        self.line().is_some()
    }

    /// Takes the mount away as a user does, and waits until nobody holds the image. A program that
    /// looks at every mount of the machine, such as `df`, may hold it for a moment.
    #[track_caller]
    fn unmount(&self) {
        until("unmounted", || self.try_unmount());
        self.wait_for_image();
    }

    /// Whether it could be taken away.
    fn try_unmount(&self) -> bool {
        let mut command = Command::new("fusermount3");
        command.args(["-u", "--"]).arg(self.at(""));
        command.stderr(Stdio::null()).status().unwrap().success()
    }

    /// Waits until the image can be locked: then it must be clean.
    #[track_caller]
    fn wait_for_image(&self) {
        let image = std::fs::File::open(self.bench.path("t.img")).unwrap();
        until("the image is free", || image.try_lock().is_ok());
        // Not by closing it: a program that another thread starts has it open for a moment, too.
        image.unlock().unwrap();
        assert!(self.bench.ok(["check", "t.img"]).contains("clean"));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.line().is_some() {
            let _ =
                rustix::mount::unmount(self.bench.path("mnt"), rustix::mount::UnmountFlags::DETACH);
            let _ = Command::new("fusermount3")
                .args(["-uzq", "--"])
                .arg(self.at(""))
                .status();
        }
    }
}

/// Asks until the answer is yes.
#[track_caller]
fn until(what: &str, mut question: impl FnMut() -> bool) {
    let started = Instant::now();
    while !question() {
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
