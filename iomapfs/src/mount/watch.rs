//! The mount point of a server that died.
//!
//! Owns a process that does nothing but hold one end of a pipe. When the server ends, however it
//! ends, the kernel closes the other end; if the mount is then still there and dead, it is taken
//! away, so that nobody meets "transport endpoint is not connected". It is what `auto_unmount` of
//! FUSE does, without the need for `allow_other`.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::failure::Outcome;

/// The verb the process is started with.
pub(crate) const VERB: &str = "watch-mount";

/// The process, while the server lives.
#[derive(Debug)]
pub(super) struct Watcher {
    process: Option<Child>,
}

impl Watcher {
    /// Starts it.
    pub(super) fn start(dir: &Path) -> Self {
        let process = std::env::current_exe().and_then(|program| {
            Command::new(program)
                .arg(VERB)
                .arg(dir)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .current_dir("/")
                .spawn()
        });
        if let Err(error) = &process {
            tracing::warn!(target: "iomapfs", %error, "a crash would leave a dead mount point");
        }
        Self {
            process: process.ok(),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        drop(process.stdin.take());
        // It looks once and ends; nothing depends on how.
        let _ = process.wait();
    }
}

/// What the process does.
pub(crate) fn run(dir: &Path) -> Outcome {
    // A signal to the terminal's group must not end the one who cleans up.
    let _ = rustix::process::setsid();
    let mut nothing = Vec::new();
    // Ends when the server does; nobody ever writes.
    let _ = std::io::stdin().read_to_end(&mut nothing);
    Ok(u8::from(iomap_fuse::remove_dead(dir).is_err()))
}
