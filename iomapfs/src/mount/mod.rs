//! `mount`: an image as a directory, through FUSE.
//!
//! | Module | Owns |
//! |---|---|
//! | this | what is mounted where, foreground and background |
//! | [`options`] | the list behind `-o` |
//! | [`helper`] | being called by mount(8) |
//! | [`serve`] | the process that serves: signals, the end |
//! | [`observed`] | the hidden folder with the counters |
//! | [`watch`] | the mount point of a server that died |
//! | [`log`] | where the log goes |
//!
//! Answering the kernel is the crate `iomap-fuse`.
//!
//! # Background
//!
//! The program starts itself again, before it has threads, with a pipe as standard output, and
//! waits for a byte: the mount is live. The server then leaves the terminal behind. If it ends
//! before, it has said why on the standard error, and its exit code is ours.

pub(crate) mod helper;
mod log;
pub(crate) mod observed;
mod options;
mod serve;
pub(crate) mod watch;

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::options::Wanted;
use crate::cli::MountArgs;
use crate::failure::{Failure, Outcome, words};
use crate::image::Opening;

/// Exit codes of mount(8).
pub(crate) mod code {
    /// Wrong usage, or no permission.
    pub(crate) const USAGE: u8 = 1;
    /// The system failed us.
    pub(crate) const SYSTEM: u8 = 2;
    /// Not mounted.
    pub(crate) const FAILED: u8 = 32;
}

/// What the server writes when the mount is live.
const LIVE: u8 = b'1';

/// Mounts.
pub(crate) fn run(args: &MountArgs, opening: &Opening) -> Outcome {
    let usage = |why: String| Failure::new(why).code(code::USAGE);
    let mut wanted = Wanted::new();
    let list = args.options.join(",");
    wanted.read(&list, args.sloppy).map_err(usage)?;
    wanted.finish().map_err(usage)?;
    if let Some(forced) = &opening.forced {
        wanted.fs_type = Some(forced.clone());
    }
    wanted.cache_bytes = wanted.cache_bytes.or(Some(opening.cache_bytes));
    let job = Job::new(&args.image, &args.dir, wanted, list)?;
    match (args.foreground, args.daemon) {
        (_, true) => serve::run(&job, serve::Place::Background),
        (true, _) => serve::run(&job, serve::Place::Foreground),
        _ => job.in_background(args.sloppy),
    }
}

/// What is mounted where.
#[derive(Debug)]
struct Job {
    /// Without symbolic links, so that it means the same in another directory.
    image: PathBuf,
    dir: PathBuf,
    wanted: Wanted,
    /// The options as they were given, for the process that serves.
    list: String,
}

impl Job {
    fn new(image: &Path, dir: &Path, wanted: Wanted, list: String) -> Outcome<Self> {
        let failed = |failure: Failure| failure.code(code::FAILED);
        // With its advice for files that are not there.
        crate::image::read_head(image).map_err(failed)?;
        let real =
            |path: &Path| std::fs::canonicalize(path).map_err(|e| failed(Failure::host(path, e)));
        let at = real(dir).map_err(|failure| {
            Failure::new(format!("mount point {}", failure.message)).code(code::FAILED)
        })?;
        if !at.is_dir() {
            return Err(failed(Failure::new(format!(
                "mount point {} is not a directory",
                dir.display()
            ))));
        }
        Ok(Self {
            image: real(image)?,
            dir: at,
            wanted,
            list,
        })
    }

    /// Starts a process that serves, and waits until the mount is live.
    fn in_background(&self, sloppy: bool) -> Outcome {
        let system = |error: std::io::Error| {
            Failure::of("cannot start the server", words(&error)).code(code::SYSTEM)
        };
        let mut command = Command::new(std::env::current_exe().map_err(system)?);
        command.args(self.arguments(sloppy));
        let mut server = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(system)?;
        let mut answer = Vec::new();
        if let Some(pipe) = server.stdout.take() {
            pipe.take(1).read_to_end(&mut answer).map_err(system)?;
        }
        if answer == [LIVE] {
            return Ok(0);
        }
        // It said why itself.
        let status = server.wait().map_err(system)?;
        let told = status.code().and_then(|code| u8::try_from(code).ok());
        match told.filter(|code| *code != 0) {
            Some(code) => Err(Failure::quiet().code(code)),
            None => Err(Failure::new(format!("the server ended: {status}")).code(code::FAILED)),
        }
    }

    /// The command line of the process that serves.
    fn arguments(&self, sloppy: bool) -> Vec<OsString> {
        let mut args: Vec<OsString> = ["mount", "--daemon"].map(OsString::from).to_vec();
        if let Some(fs_type) = &self.wanted.fs_type {
            args.extend(["--type".into(), fs_type.into()]);
        }
        let mut list = self.list.clone();
        if let Some(bytes) = self.wanted.cache_bytes {
            args.extend(["--cache".into(), bytes.to_string().into()]);
        }
        // Defaults that depend on who asked.
        for (set, name) in [
            (self.wanted.serving.dev, "dev"),
            (self.wanted.serving.suid, "suid"),
        ] {
            let no = if set { "" } else { "no" };
            list.push_str(&format!(",{no}{name}"));
        }
        if sloppy {
            args.push("--sloppy".into());
        }
        args.extend(["-o".into(), list.into(), "--".into()]);
        args.extend([self.image.clone().into(), self.dir.clone().into()]);
        args
    }
}
