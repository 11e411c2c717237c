//! Serves a file system on a mount point, through FUSE.
//!
//! Anything that implements [`iomap_core::vfs::Vfs`] can be mounted: [`mount()`] takes it and a
//! directory, and returns when the mount is live.
//!
//! ```no_run
//! # fn serve(fs: std::sync::Arc<dyn iomap_core::vfs::Vfs>) -> Result<(), iomap_fuse::MountError> {
//! let mount = iomap_fuse::mount(fs, "/mnt".as_ref(), &iomap_fuse::MountOptions::default())?;
//! mount.wait() // until `umount /mnt`, or `mount.unmount()` by another thread
//! # }
//! ```
//!
//! The crate serves; it does not open images, does not daemonise and installs no signal handlers:
//! that is the program's. When [`Mount::wait`] returns, nobody uses the file system through the
//! mount any more and everything was synced; the program unmounts the file system itself then.
//!
//! # What is where
//!
//! | Question | File |
//! |---|---|
//! | How does a mount begin and end? | `mount.rs` |
//! | Who calls mount(2), and with what? | `mountpoint.rs` |
//! | What can be chosen? | `options.rs` |
//! | How far does the kernel read ahead? | `pages.rs` |
//! | What do the two sides agree on, and who serves? | `session.rs` |
//! | How do requests come and answers go? | `transport/` |
//! | What do their bytes mean? | `wire/` |
//! | Which request goes where? | `server.rs` |
//! | What does the kernel know, and for how long? | `nodes.rs` |
//! | Who reads and writes, and how? | `handles.rs`, `server/data.rs` |
//! | Names, directories, attributes | `server/names.rs`, `server/dir.rs`, `server/attr.rs` |
//! | What does reading change? | `server/access.rs` |
//! | Access control lists | `acl.rs`, `server/acl.rs` |
//! | What is `stat` in FUSE's words? | `convert.rs` |
//!
//! # Caches
//!
//! [`CachePolicy`] says whose cache holds file data: ours alone, or the kernel's in front of ours.
//! `docs/mount.md` says which to choose when, with figures.
//!
//! # Locks
//!
//! `flock`, POSIX and OFD locks are the kernel's own on this mount, so blocking, interruption and
//! deadlock detection are what they are on any local file system. Nothing but this mount can change
//! the image while it is open.

mod acl;
mod convert;
mod handles;
mod mount;
mod mountpoint;
mod nodes;
mod options;
mod pages;
mod server;
mod session;
mod transport;
mod wire;

pub use mount::{Mount, MountError, mount};
pub use mountpoint::remove_dead;
pub use options::{AccessTimes, CachePolicy, MountOptions};
