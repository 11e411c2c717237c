//! The process that serves a mount, from opening the image to giving it back clean.
//!
//! Owns the order of the end. The mount point goes first, so that nothing new comes; then
//! everything is written and made durable; then the lock on the image goes. Whoever finds the image
//! unlocked finds it clean.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use iomap_fuse::{Mount, MountError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::observed::Observed;
use super::watch::Watcher;
use super::{Job, LIVE, code, log};
use crate::failure::{Failure, Outcome, fs_words, words};
use crate::image::{Access, Image, Opening};

/// Where the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the terminal it was started in.
    Foreground,
    /// On its own; the standard output is a pipe to whoever waits for the mount.
    Background,
}

/// Serves until the mount is gone.
pub(super) fn run(job: &Job, place: Place) -> Outcome {
    if place == Place::Background {
        // Signals of the terminal are for others. Fails only for a leader of a group, which a
        // process that was just started is not.
        let _ = rustix::process::setsid();
    }
    log::start(place, job.wanted.log.as_deref())?;
    // Before there are threads that a signal could hit.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let signals =
        signals.map_err(|error| Failure::of("signals", words(&error)).code(code::SYSTEM))?;
    let mut image = open(job)?;
    let mount = match mount(job, &mut image) {
        Ok(mount) => Arc::new(mount),
        Err(error) => {
            let failure = refused(&error);
            return image.close(Err(failure));
        }
    };
    // If it cannot be started, a crash leaves a dead mount point; everything else works.
    let watcher = (!job.wanted.serving.auto_unmount).then(|| Watcher::start(mount.dir()));
    tracing::info!(target: "iomapfs", image = %job.image.display(), dir = %mount.dir().display(), rings = mount.has_rings(), "mounted");
    if job.wanted.io_uring && !mount.has_rings() {
        tracing::warn!(target: "iomapfs", "the kernel offers no rings for FUSE: it needs Linux 6.14, and root to write Y to /sys/module/fuse/parameters/enable_uring");
    }
    if let Err(failure) = live(place) {
        // Nobody waits for this mount any more.
        drop(watcher);
        drop(mount);
        return image.close(Err(failure));
    }
    let stopper = Stopper::start(signals, &mount, &image);
    let served = mount.wait();
    let closed =
        image.close(served.map_err(|error| Failure::new(error.to_string()).code(code::FAILED)));
    stopper.stop();
    drop(watcher);
    match closed {
        Ok(()) => {
            tracing::info!(target: "iomapfs", image = %job.image.display(), "unmounted, clean");
            Ok(0)
        }
        Err(failure) => {
            tracing::error!(target: "iomapfs", image = %job.image.display(), "{}", failure.message);
            Err(failure)
        }
    }
}

fn open(job: &Job) -> Outcome<Image> {
    let access = if job.wanted.serving.read_only {
        Access::Read
    } else {
        Access::Write
    };
    let opening = Opening {
        forced: job.wanted.fs_type.clone(),
        cache_bytes: job.wanted.cache_bytes.unwrap_or(256 << 20),
        dax: job.wanted.dax,
    };
    Image::open(&job.image, access, &opening).map_err(|failure| failure.code(code::FAILED))
}

fn mount(job: &Job, image: &mut Image) -> Result<Mount, MountError> {
    let mut options = job.wanted.serving.clone();
    if options.fs_name.is_none() {
        options.fs_name = Some(job.image.display().to_string());
    }
    let observed = Observed::new(Arc::clone(image.vfs()), image.take_gauges());
    iomap_fuse::mount(Arc::new(observed), &job.dir, &options)
}

/// Why there is no mount, and what can be done.
fn refused(error: &MountError) -> Failure {
    // The words of fusermount3 come with the ends of their lines.
    let failure = Failure::new(error.to_string().trim_end()).code(code::FAILED);
    match error {
        MountError::NoFuse(error) if error.kind() == std::io::ErrorKind::NotFound => {
            failure.hint("the kernel has no FUSE, or its module is not loaded: modprobe fuse")
        }
        MountError::NoFuse(_) => {
            failure.hint("this user may not use FUSE; every verb but mount works without")
        }
        MountError::Refused { error, .. } if error.kind() == std::io::ErrorKind::NotFound => {
            failure.hint("fusermount3 is missing: it is in the package fuse3")
        }
        // It says what is wrong itself.
        MountError::Refused { dir, error }
            if dir.parent().is_none() || error.kind() == std::io::ErrorKind::Unsupported =>
        {
            failure
        }
        MountError::Refused { .. } => failure.hint(
            "an ordinary user needs fusermount3 (package fuse3) and a directory that is their own",
        ),
        _ => failure,
    }
}

/// Tells whoever waits, and leaves the terminal.
fn live(place: Place) -> Outcome<()> {
    notify_systemd();
    if place == Place::Foreground {
        return Ok(());
    }
    let mut out = std::io::stdout();
    // Whoever waited may be gone; the mount is live all the same.
    let _ = out.write_all(&[LIVE]).and_then(|()| out.flush());
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null");
    let null: OwnedFd = null
        .map_err(|error| Failure::of("/dev/null", words(&error)))?
        .into();
    let detached = rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null));
    if let Err(errno) = detached {
        tracing::warn!(target: "iomapfs", %errno, "the terminal could not be left");
    }
    // The directory we were started in can be unmounted.
    let _ = std::env::set_current_dir("/");
    Ok(())
}

/// `READY=1` for a service of type notify.
fn notify_systemd() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent =
        address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        tracing::warn!(target: "iomapfs", %error, "systemd could not be told");
    }
}

/// The thread that waits for signals to end.
struct Stopper {
    handle: signal_hook::iterator::Handle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stopper {
    fn start(mut signals: Signals, mount: &Arc<Mount>, image: &Image) -> Self {
        let handle = signals.handle();
        let (mount, fs) = (Arc::clone(mount), Arc::clone(image.vfs()));
        let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for (count, signal) in signals.forever().enumerate() {
                if count > 0 {
                    // Whoever still has files open loses them; what was written is kept.
                    let code = i32::from(fs.sync().is_err());
                    tracing::warn!(target: "iomapfs", signal, "the second signal: ending at once");
                    std::process::exit(code);
                }
                tracing::info!(target: "iomapfs", signal, "ending");
                end(&mount, &*fs);
            }
        });
        if let Err(error) = &thread {
            tracing::warn!(target: "iomapfs", %error, "signals end the program without unmounting");
        }
        Self {
            handle,
            thread: thread.ok(),
        }
    }

    fn stop(mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            // It does nothing that could fail after the handle is closed.
            let _ = thread.join();
        }
    }
}

/// Takes the mount point away, also from those who use it, and writes what they have written.
fn end(mount: &Mount, fs: &dyn iomap_core::vfs::Vfs) {
    let taken = match mount.unmount() {
        Err(MountError::Busy { dir }) => {
            tracing::warn!(target: "iomapfs", dir = %dir.display(), "busy: waiting for those who have files open; a second signal ends at once");
            mount.detach()
        }
        other => other,
    };
    if let Err(error) = taken {
        tracing::error!(target: "iomapfs", %error, "the mount stays");
    }
    if let Err(error) = fs.sync() {
        tracing::error!(target: "iomapfs", "not everything could be written: {}", fs_words(&error));
    }
}
