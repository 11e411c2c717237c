//! What the torture and run commands need of a file system beyond its interface: making, mounting,
//! unmounting, checking.
//!
//! Owns the seam ([`Target`], [`Mounted`]) and the target for the reference file system, with which
//! the harness is tested. The target for testfs images is [`image`](super::image).

use std::sync::Arc;

use iomap_core::error::FsError;
use iomap_core::vfs::Vfs;

use crate::model::MemFs;

/// Something that can be mounted again and again.
pub trait Target: Send + Sync {
    /// Makes it empty.
    ///
    /// # Errors
    ///
    /// What writing it gives.
    fn format(&self) -> Result<(), TargetError>;

    /// Mounts it.
    ///
    /// # Errors
    ///
    /// What opening gives.
    fn mount(&self, read_only: bool) -> Result<Box<dyn Mounted>, TargetError>;

    /// Checks it while nobody has it mounted; with `repair`, mends what it can. Answers the faults
    /// left.
    ///
    /// # Errors
    ///
    /// What reading it gives.
    fn check(&self, repair: bool) -> Result<Vec<String>, TargetError>;

    /// Lets the device fail from now on (or not any more), each request with this probability.
    fn set_faults(&self, probability: f64) {
        let _ = probability;
    }

    /// Bytes of a block of it.
    fn block_size(&self) -> u64 {
        4096
    }

    /// Requests that were failed so far.
    fn faults(&self) -> u64 {
        0
    }

    /// Whether files are read and written through memory mappings, too.
    fn maps(&self) -> bool {
        false
    }
}

/// A mounted file system.
pub trait Mounted: Send + Sync {
    /// Its interface.
    fn vfs(&self) -> Arc<dyn Vfs>;

    /// Takes `pages` pages from its page cache.
    fn shrink(&self, pages: usize);

    /// Unmounts. Every open file was closed before.
    fn unmount(self: Box<Self>) -> Left;
}

/// How an unmount went.
#[derive(Debug)]
#[must_use = "something may be lost"]
pub struct Left {
    /// What writing the rest gave; it is unmounted all the same.
    pub result: Result<(), FsError>,
    /// What is durable is not known: the device refused metadata.
    pub gave_up: bool,
}

/// A target could not be made, mounted or checked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(pub String);

/// Wraps a mounted file system in another that misbehaves.
type Wrap = dyn Fn(Arc<dyn Vfs>) -> Arc<dyn Vfs> + Send + Sync;

/// The reference file system as a target; stays in memory while unmounted.
pub struct MemTarget {
    fs: parking_lot::Mutex<Arc<MemFs>>,
    wrap: Box<Wrap>,
}

impl std::fmt::Debug for MemTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MemTarget")
    }
}

impl MemTarget {
    /// A target whose file system is seen through `wrap`.
    pub fn new(wrap: impl Fn(Arc<dyn Vfs>) -> Arc<dyn Vfs> + Send + Sync + 'static) -> Self {
        Self {
            fs: parking_lot::Mutex::new(MemFs::new()),
            wrap: Box::new(wrap),
        }
    }
}

struct MemMounted(Arc<dyn Vfs>);

impl Target for MemTarget {
    fn format(&self) -> Result<(), TargetError> {
        *self.fs.lock() = MemFs::new();
        Ok(())
    }

    fn mount(&self, _read_only: bool) -> Result<Box<dyn Mounted>, TargetError> {
        let fs: Arc<dyn Vfs> = Arc::clone(&*self.fs.lock()) as Arc<dyn Vfs>;
        Ok(Box::new(MemMounted((self.wrap)(fs))))
    }

    fn check(&self, _repair: bool) -> Result<Vec<String>, TargetError> {
        Ok(Vec::new())
    }
}

impl Mounted for MemMounted {
    fn vfs(&self) -> Arc<dyn Vfs> {
        Arc::clone(&self.0)
    }

    fn shrink(&self, _pages: usize) {}

    fn unmount(self: Box<Self>) -> Left {
        Left {
            result: Ok(()),
            gave_up: false,
        }
    }
}
