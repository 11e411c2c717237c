//! The life of a mount: made, served, ended.
//!
//! Owns the session with the kernel and its threads, and what is told when it cannot be had. Does
//! not own the answers to requests ([`server`](crate::server)), nor mount(2) and its kin
//! ([`mountpoint`](crate::mountpoint)).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use iomap_core::error::{Errno, FsError};
use iomap_core::units::FileRange;
use iomap_core::vfs::{Ino, Vfs};
use parking_lot::{Condvar, Mutex};

use crate::mountpoint::{Connection, Keeper, attach, detach, remove_dead};
use crate::nodes::node_of;
use crate::options::{CachePolicy, MountOptions};
use crate::server::{Shared, acl_are_kept};
use crate::session::Session;
use crate::transport::Notifier;

/// Why a file system could not be mounted, served or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mount point is not there, or cannot be looked at.
    #[error("mount point {dir}: {error}", dir = .dir.display())]
    NoMountPoint {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The mount point is no directory.
    #[error("mount point {dir} is not a directory", dir = .dir.display())]
    NotADirectory {
        /// The mount point.
        dir: PathBuf,
    },
    /// FUSE cannot be used here: no device, or no right to it.
    #[error("/dev/fuse cannot be opened: {0}")]
    NoFuse(io::Error),
    /// Neither this user nor `fusermount3` may mount there.
    #[error("cannot mount on {dir}: {error}", dir = .dir.display())]
    Refused {
        /// The mount point.
        dir: PathBuf,
        /// Why, often in the words of `fusermount3`.
        error: io::Error,
    },
    /// Somebody uses the mount: a program has a file open or works in a directory of it.
    #[error("{dir} is busy", dir = .dir.display())]
    Busy {
        /// The mount point.
        dir: PathBuf,
    },
    /// It could not be unmounted.
    #[error("cannot unmount {dir}: {error}", dir = .dir.display())]
    Unmount {
        /// The mount point.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The session with the kernel ended with an error.
    #[error("serving the mount failed: {0}")]
    Session(io::Error),
    /// The file system could not write everything when the mount ended.
    #[error("not everything could be written: {0}")]
    Sync(FsError),
}

/// Mounts `fs` on `dir` and serves it with threads of its own. The mount is live when this returns.
///
/// Descriptors 0, 1 and 2 must be open, be it to `/dev/null`.
///
/// # Errors
///
/// Why it could not be mounted.
pub fn mount(fs: Arc<dyn Vfs>, dir: &Path, options: &MountOptions) -> Result<Mount, MountError> {
    let dir = check_mount_point(dir)?;
    if options.acl && !acl_are_kept(&*fs) {
        let error = io::Error::new(
            io::ErrorKind::Unsupported,
            "this file system keeps no access control lists: mount it without acl",
        );
        return Err(MountError::Refused { dir, error });
    }
    let root = fs.root();
    let shared = Arc::new(Shared::new(fs, options));
    let Connection { device, keeper } = attach(&dir, options)?;
    let session = Session::begin(&shared, device, options).map_err(|error| {
        // The connection is closed, so the mount is dead.
        clean_up(&dir);
        MountError::Refused {
            dir: dir.clone(),
            error,
        }
    })?;
    let notifier = session.notifier();
    shared.set_notifier(notifier.clone());
    let has_rings = session.has_rings();
    let ended = Arc::new(Ended::default());
    let serving = Serving {
        session,
        shared,
        dir: dir.clone(),
        keeper,
    };
    let spawned = std::thread::Builder::new()
        .name("fuse-session".to_owned())
        .spawn({
            let ended = Arc::clone(&ended);
            move || ended.set(serving.run())
        });
    let thread = spawned.map_err(|error| {
        // Rings may serve it already, but nobody reads the device.
        if let Err(error) = detach(&dir, true) {
            tracing::warn!(target: "iomap_fuse", %error, "the mount stays");
        }
        MountError::Session(error)
    })?;
    if options.cache == CachePolicy::Kernel {
        crate::pages::widen(&dir, options.max_request);
    }
    Ok(Mount {
        dir,
        notifier,
        root,
        has_rings,
        ended,
        thread: Mutex::new(Some(thread)),
    })
}

/// What the thread of a session works with.
struct Serving {
    session: Session,
    shared: Arc<Shared>,
    dir: PathBuf,
    keeper: Option<Keeper>,
}

impl Serving {
    /// Serves until the mount is gone, then gives everything back and syncs.
    fn run(self) -> Result<(), MountError> {
        let served = match self.session.run() {
            Err(error) if is_abort(&error) => {
                tracing::warn!(
                    target: "iomap_fuse", dir = %self.dir.display(),
                    "the connection was aborted: requests under way failed"
                );
                Ok(())
            }
            served => served.map_err(MountError::Session),
        };
        drop(self.keeper);
        clean_up(&self.dir);
        self.shared.forget_all();
        served.and(self.shared.fs().sync().map_err(MountError::Sync))
    }
}

/// Whether a session ended because its connection was taken away (`/sys/fs/fuse/connections`, or an
/// unmount that met requests under way) and not by an error of its own.
fn is_abort(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error())
}

/// Nobody shall meet a mount without a server. One that cannot be removed is told of.
fn clean_up(dir: &Path) {
    if let Err(error) = remove_dead(dir) {
        tracing::warn!(target: "iomap_fuse", %error, "a dead mount stays");
    }
}

fn check_mount_point(dir: &Path) -> Result<PathBuf, MountError> {
    let no_mount_point = |error| MountError::NoMountPoint {
        dir: dir.to_path_buf(),
        error,
    };
    let dir = dir.canonicalize().map_err(no_mount_point)?;
    if dir.parent().is_none() {
        // Nobody would see it, and an unmount of `/` is another thing: it makes the root read-only.
        let error = io::Error::other("the root directory is no mount point; an empty directory is");
        return Err(MountError::Refused { dir, error });
    }
    if dir.metadata().map_err(no_mount_point)?.is_dir() {
        return Ok(dir);
    }
    Err(MountError::NotADirectory { dir })
}

/// How a session ended, for whoever waits.
#[derive(Default)]
struct Ended {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
enum State {
    #[default]
    Serving,
    Over(Option<MountError>),
}

impl Ended {
    fn set(&self, result: Result<(), MountError>) {
        *self.state.lock() = State::Over(result.err());
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<(), MountError> {
        let mut state = self.state.lock();
        loop {
            match &mut *state {
                State::Serving => self.changed.wait(&mut state),
                State::Over(error) => return error.take().map_or(Ok(()), Err),
            }
        }
    }
}

/// A file system that is mounted. Dropping it unmounts, also if somebody uses it: they get errors. The
/// last sync may then still be under way in a thread: a program that ends right after it calls
/// [`Mount::wait`] before.
pub struct Mount {
    dir: PathBuf,
    notifier: Notifier,
    /// The number of the root directory, which the kernel calls 1.
    root: Ino,
    has_rings: bool,
    ended: Arc<Ended>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Mount {
    /// Where, as an absolute path without symbolic links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it is still mounted and served.
    #[must_use]
    pub fn is_live(&self) -> bool {
        matches!(*self.ended.state.lock(), State::Serving)
    }

    /// Whether the kernel has agreed that requests come through rings ([`MountOptions::io_uring`]). If
    /// it refuses them after all, they come by `/dev/fuse`.
    #[must_use]
    pub const fn has_rings(&self) -> bool {
        self.has_rings
    }

    /// Waits until it is unmounted, by [`Mount::unmount`], `umount` or `fusermount3 -u`, and
    /// everything was written. May be called by several threads; one of them is told of an error.
    ///
    /// # Errors
    ///
    /// [`MountError::Session`], [`MountError::Sync`].
    pub fn wait(&self) -> Result<(), MountError> {
        self.ended.wait()
    }

    /// Unmounts. Returns when the mount point is free; [`Mount::wait`] waits for the rest.
    ///
    /// # Errors
    ///
    /// [`MountError::Busy`] if somebody uses it, and it stays then; [`MountError::Unmount`].
    pub fn unmount(&self) -> Result<(), MountError> {
        self.take_away(false)
    }

    /// Takes the mount point away now. Who has a file open may go on; [`Mount::wait`] waits for
    /// the last of them.
    ///
    /// # Errors
    ///
    /// [`MountError::Unmount`].
    pub fn detach(&self) -> Result<(), MountError> {
        self.take_away(true)
    }

    /// Tells the kernel that bytes of a file, and its attributes, were changed not through the
    /// mount. With [`CachePolicy::Kernel`] it writes its own changes of
    /// the range first.
    ///
    /// # Errors
    ///
    /// What the kernel says; a file it does not know of is none.
    pub fn invalidate(&self, ino: Ino, range: FileRange) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let start = i64::try_from(range.start().bytes()).unwrap_or(i64::MAX);
        // Zero and less: up to the end.
        let len = i64::try_from(range.len()).unwrap_or(0);
        self.notifier
            .inval_inode(node_of(self.root, ino), start, len)
    }

    /// Tells the kernel that a name was changed not through the mount.
    ///
    /// # Errors
    ///
    /// What the kernel says; a name it does not know of is none.
    pub fn invalidate_name(&self, dir: Ino, name: &[u8]) -> io::Result<()> {
        self.notifier.inval_entry(node_of(self.root, dir), name)
    }

    fn take_away(&self, lazily: bool) -> Result<(), MountError> {
        if !self.is_live() {
            return Ok(());
        }
        detach(&self.dir, lazily)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(target: "iomap_fuse", %error, "the mount stays");
            return;
        }
        if let Some(thread) = self.thread.lock().take() {
            // Who still has files open keeps it serving: then it is not waited for.
            if !self.is_live() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount")
            .field("dir", &self.dir)
            .field("live", &self.is_live())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_directory_and_files_are_no_mount_points() {
        for root in ["/", "/..", "/tmp/.."] {
            let refused = check_mount_point(root.as_ref());
            assert!(matches!(refused, Err(MountError::Refused { .. })), "{root}");
        }
        let file = check_mount_point("/proc/self/status".as_ref());
        assert!(matches!(file, Err(MountError::NotADirectory { .. })));
        let missing = check_mount_point("/nothing/there".as_ref());
        assert!(matches!(missing, Err(MountError::NoMountPoint { .. })));
        assert!(check_mount_point("/proc".as_ref()).is_ok());
    }
}
