//! testfs as a mounted file system: the glue between its metadata and the framework.
//!
//! Read it as the example of a backend. What a file system supplies is small:
//!
//! | To see | open |
//! |---|---|
//! | where a range of a file lives | [`map`] |
//! | where dirty bytes go, and what makes them findable | [`writeback`] |
//! | the same for direct I/O | [`direct`] |
//! | the same for files whose pages are the device's bytes | [`dax`] |
//! | promises and copies that only memory knows | [`mapping`] |
//! | changing the size | [`resize`] |
//! | punching, allocating, shifting | [`fallocate`] |
//! | sharing | [`reflink`] |
//! | names | [`namespace`] |
//! | which files are in memory, and how they leave | [`table`] |
//!
//! Owns mounting and unmounting. Everything on the device is [`meta`](crate::meta)'s; everything in
//! the page cache is the framework's.
//!
//! # Locking
//!
//! Order B: transactions open inside the folio lock.
//!
//! ```text
//! Inode -> Invalidate -> Folio -> transaction (Meta) -> Mapping -> space -> commit -> table
//! ```

mod attr;
mod autocommit;
mod balance;
mod dax;
mod direct;
mod fallocate;
mod flags;
mod inline;
mod inode;
mod map;
mod mapping;
mod namespace;
mod open;
mod reflink;
mod resize;
mod runs;
mod table;
mod volume;
mod writeback;
mod xattr;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use iomap_core::dax::{DaxDevice, DaxVolume};
use iomap_core::device::BlockDevice;
use iomap_core::error::{Corrupt, FsError, Result};
use iomap_core::flusher::{Flusher, FlusherConfig};
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use iomap_core::units::BlockBits;
use iomap_core::vfs::Ino;

pub use self::dax::DAX_FLAG;
pub use self::inode::TestInode;
pub use crate::meta::{MkfsOptions, OpenError as MountError};

use self::autocommit::Autocommit;
use self::dax::DaxMount;
use self::table::InodeTable;
use self::volume::Volume;
use crate::format::item::FileType;
use crate::meta::{Meta, OpenOptions, Purpose};

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Bytes of the page cache.
    pub cache_bytes: u64,
    /// Use this memory instead of a pool of its own.
    pub pool: Option<PoolHandle>,
    /// Refuse changes.
    pub read_only: bool,
    /// When dirty data is written.
    pub flusher: FlusherConfig,
    /// How often changes of metadata are committed when nobody asks; `None`: never, and no thread
    /// for it.
    pub commit_interval: Option<Duration>,
    /// Files that nobody uses to keep in memory.
    pub idle_inodes: usize,
    /// Clean nodes of the metadata tree to keep in memory.
    pub cached_nodes: usize,
    /// Every file is a DAX file, not only those with the flag. For [`TestFs::mount_dax`].
    pub dax: bool,
    /// How long a change waits for pinned pages before it frees or moves their blocks, and fails
    /// with `ETIMEDOUT`; `None`: as long as it takes. For [`TestFs::mount_dax`].
    pub pin_timeout: Option<Duration>,
}

impl Default for MountOptions {
    /// 64 MiB of page cache, read-write, commits every 5 seconds.
    fn default() -> Self {
        let meta = OpenOptions::default();
        Self {
            cache_bytes: 64 << 20,
            pool: None,
            read_only: meta.read_only,
            flusher: FlusherConfig::default(),
            commit_interval: Some(Duration::from_secs(5)),
            idle_inodes: 4096,
            cached_nodes: meta.cached_nodes,
            dax: false,
            pin_timeout: None,
        }
    }
}

/// A mounted testfs. Dropping it without [`TestFs::unmount`] is a crash: what was not synced is
/// lost, and nothing else.
pub struct TestFs {
    table: Arc<InodeTable>,
    _autocommit: Option<Autocommit>,
}

impl TestFs {
    /// Makes a file system on `device`. Everything that was there is lost.
    ///
    /// # Errors
    ///
    /// `EINVAL` for options the format does not have; what the device says.
    pub fn mkfs(device: Arc<dyn BlockDevice>, options: &MkfsOptions) -> Result<()> {
        Meta::mkfs(device, options).map(|_| ())
    }

    /// Mounts the file system on `device`.
    ///
    /// # Errors
    ///
    /// Why it cannot be mounted.
    pub fn mount(
        device: Arc<dyn BlockDevice>,
        options: MountOptions,
    ) -> Result<Arc<Self>, MountError> {
        Self::mount_on(device, None, options)
    }

    /// Mounts the file system on a device whose bytes are memory: files may use them in place.
    ///
    /// # Errors
    ///
    /// Why it cannot be mounted; [`FsError::Unsupported`] if its blocks are smaller than a page.
    pub fn mount_dax(
        device: Arc<dyn DaxDevice>,
        options: MountOptions,
    ) -> Result<Arc<Self>, MountError> {
        let dax = DaxMount {
            volume: DaxVolume::new(Arc::clone(&device)),
            all: options.dax,
            pin_timeout: options.pin_timeout,
        };
        Self::mount_on(device, Some(dax), options)
    }

    fn mount_on(
        device: Arc<dyn BlockDevice>,
        dax: Option<DaxMount>,
        options: MountOptions,
    ) -> Result<Arc<Self>, MountError> {
        let meta = Meta::open(
            Arc::clone(&device),
            OpenOptions {
                read_only: options.read_only,
                cached_nodes: options.cached_nodes,
            },
        )?;
        let bits = BlockBits::new(meta.geometry().bits())
            .ok_or_else(|| Corrupt::new("superblock: block size out of range"))?;
        if dax.is_some() && bits < BlockBits::PAGE {
            return Err(FsError::Unsupported("DAX with blocks smaller than a page").into());
        }
        let pool = match options.pool {
            Some(pool) => pool,
            None => Pool::new(PoolConfig::with_budget(options.cache_bytes))?,
        };
        let flusher = Flusher::new(&pool, options.flusher);
        let volume = Arc::new(Volume::new(meta, device, pool, flusher, bits, dax));
        let table = InodeTable::new(volume, options.idle_inodes);
        let interval = options.commit_interval.filter(|_| !options.read_only);
        Ok(Arc::new(Self {
            _autocommit: interval.map(|interval| Autocommit::start(&table, interval)),
            table,
        }))
    }

    /// Writes everything, makes it durable, and refuses changes from here on. Files that are still
    /// open can be read; those without a name are deleted by the next mount.
    ///
    /// # Errors
    ///
    /// The first failure; the rest is written all the same. Among the failures is any loss of data
    /// by writeback since the last sync of the whole file system.
    pub fn unmount(&self) -> Result<()> {
        let written = self.sync_all();
        self.table.clear();
        let volume = self.volume();
        let durable = volume.make_durable(volume.meta().newest_generation());
        volume.close();
        written.and(durable)
    }

    /// The memory of the page cache.
    #[must_use]
    pub fn pool(&self) -> &PoolHandle {
        &self.volume().pool
    }

    /// The device's bytes and who has pinned pages of it, if it was mounted for DAX.
    #[must_use]
    pub fn dax(&self) -> Option<&Arc<DaxVolume>> {
        self.volume().dax.as_ref().map(|dax| &dax.volume)
    }

    /// Makes a file a DAX file, or one with a cache, from the next time it comes into memory.
    ///
    /// # Errors
    ///
    /// `ENOENT`, [`FsError::Invalid`] for anything but a regular file, [`FsError::ReadOnly`].
    pub fn set_dax(&self, ino: Ino, dax: bool) -> Result<()> {
        let ino = crate::format::Ino::new(ino.0);
        self.volume().update(Purpose::Normal, |txn| {
            txn.update_inode(ino, |inode| {
                if inode.file_type() != FileType::Regular {
                    return Err(FsError::Invalid("the DAX flag of no regular file"));
                }
                inode.flags = (inode.flags & !DAX_FLAG) | if dax { DAX_FLAG } else { 0 };
                Ok(())
            })
        })?;
        Ok(())
    }

    /// The metadata, for looking at.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        self.volume().meta()
    }

    /// Who writes in the background.
    #[must_use]
    pub fn flusher(&self) -> &Arc<Flusher> {
        &self.volume().flusher
    }

    /// Whether the device refused metadata: what is durable is not known, and nothing is changed any
    /// more.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.volume().has_failed()
    }

    /// Regular files in memory.
    #[must_use]
    pub fn inodes_in_memory(&self) -> usize {
        self.table.len()
    }

    /// The file `ino` as the framework's operations take it, if it is in memory: for direct I/O with
    /// a ticket, which [`OpenFile`](iomap_core::vfs::OpenFile) does not have. Good while it is open.
    #[must_use]
    pub fn backend(&self, ino: iomap_core::vfs::Ino) -> Option<Arc<TestInode>> {
        let used = self.table.peek(crate::format::Ino::new(ino.0))?;
        Some(Arc::clone(used.inode()))
    }

    fn volume(&self) -> &Volume {
        &self.table.volume
    }

    /// Writes everything and makes it durable.
    fn sync_all(&self) -> Result<()> {
        use iomap_core::fsync::{SyncRange, sync_file_range};
        use iomap_core::units::FileRange;
        let inodes = self.table.all();
        let mut result = Ok(());
        // All of it on its way before anything is waited for.
        for steps in [SyncRange::WRITE, SyncRange::WAIT_AFTER] {
            for inode in &inodes {
                let written = sync_file_range(&**inode, FileRange::ALL, steps);
                result = result.and(written);
            }
        }
        for inode in &inodes {
            result = result.and(inode.settle_cut());
            result = result.and(inode.flush_attributes());
            result = result.and(inode.report_errors());
        }
        let volume = self.volume();
        result.and(volume.make_durable(volume.meta().newest_generation()))
    }
}

impl fmt::Debug for TestFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestFs")
            .field("volume", &self.volume())
            .field("inodes", &self.table.len())
            .finish_non_exhaustive()
    }
}
