//! A folder with an image in it, and the program to run on it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A scratch folder.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// A folder without anything.
    pub(crate) fn empty() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A folder with an empty image `t.img`.
    pub(crate) fn new() -> Self {
        let bench = Self::empty();
        bench.ok([
            "mkfs",
            "-t",
            "testfs",
            "t.img",
            "--size",
            "256M",
            "--root-owner",
            "0:0",
        ]);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The program, in the folder, with everything that could colour its output gone.
    pub(crate) fn command<I, A>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_iomapfs"));
        command.current_dir(self.folder.path()).args(args);
        command
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR_FORCE")
            .env("TZ", "UTC");
        command
    }

    pub(crate) fn run<I, A>(&self, args: I) -> Output
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        self.command(args).output().unwrap()
    }

    /// Runs what must succeed without a word on the standard error. Returns what it printed.
    #[track_caller]
    pub(crate) fn ok<I, A>(&self, args: I) -> String
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && errors.is_empty(),
            "{:?}: {errors}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail with this exit code. Returns what it said.
    #[track_caller]
    pub(crate) fn fails<I, A>(&self, code: i32, args: I) -> String
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let output = self.run(args);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        errors
    }

    #[track_caller]
    pub(crate) fn json<I, A>(&self, args: I) -> serde_json::Value
    where
        I: IntoIterator<Item = A>,
        A: AsRef<OsStr>,
    {
        let value: serde_json::Value = serde_json::from_str(&self.ok(args)).unwrap();
        assert_eq!(value["schema"], 1);
        value
    }
}
