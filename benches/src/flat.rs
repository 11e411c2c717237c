//! The library path without a file system: one file whose bytes lie on the device in order.
//!
//! What a row "iomap-core" measures: the core's own cost, with the cheapest mapping there can be.

use std::sync::Arc;

use iomap_core::device::BlockDevice;
use iomap_core::error::{FsError, Result};
use iomap_core::file::File;
use iomap_core::folio::{Pool, PoolConfig};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{Iomap, MapKind};
use iomap_core::ops::{
    DirectDone, DirectOps, Finished, FolioOps, IoendRange, MapError, MapOps, MapRequest, Mapped,
    Overwrite, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::stats::Counters;
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange};
use iomap_core::vfs::OpenFlags;

/// A file as large as its device.
#[derive(Debug)]
pub struct Flat {
    inode: Inode,
}

impl Flat {
    /// The bytes of `device` as a file, with `cache` bytes of page cache in folios of at most
    /// `1 << max_order` pages.
    ///
    /// # Errors
    ///
    /// No memory for the cache.
    pub fn new(device: Arc<dyn BlockDevice>, cache: u64, max_order: u32) -> Result<Arc<Self>> {
        let pool = Pool::new(PoolConfig {
            max_order,
            ..PoolConfig::with_budget(cache)
        })?;
        let inode = Inode::new(InodeConfig {
            ino: 1,
            block_bits: BlockBits::PAGE,
            size: FilePos::saturating(device.size()),
            pool,
            device,
            counters: Counters::new(),
            stable_writes: false,
        });
        Ok(Arc::new(Self { inode }))
    }

    /// Opens it for reading and writing.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> File<Self> {
        File::new(Arc::clone(self), OpenFlags::READ | OpenFlags::WRITE)
    }

    /// Bytes that describe the cached pages: folios and index.
    #[must_use]
    pub fn metadata_bytes(&self) -> u64 {
        self.inode.cache().pool().stats().metadata_bytes
    }

    fn extent(&self) -> Iomap {
        let all = FileRange::at_most(FilePos::ZERO, self.inode.device().size());
        let addr = DevAddr::default();
        Iomap::new(all, MapKind::Mapped { addr })
    }
}

impl MapOps for Flat {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::InFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        if !self.extent().range.contains(req.range.start()) {
            return Err(FsError::NoSpace.into());
        }
        Ok(Mapped::new(self.extent(), ()))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        Ok(())
    }
}

impl FolioOps for Flat {
    type Guard = ();
}

impl WritebackOps for Flat {
    fn map_writeback(&self, _: Option<&mut ()>, _: &WritebackRequest) -> Result<Option<Iomap>> {
        Ok(Some(self.extent()))
    }

    fn ioend_needs_work(&self, _: &IoendRange) -> bool {
        false
    }

    fn ioend_done(&self, _: &IoendRange) -> Result<()> {
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        Ok(self.inode.device().flush()?)
    }
}

impl DirectOps for Flat {
    fn direct_done(&self, _: &DirectDone) -> Result<()> {
        Ok(())
    }

    fn is_overwrite(&self, range: FileRange) -> Result<Overwrite> {
        let inside = self.extent().range.covers(range);
        Ok(if inside {
            Overwrite::Written
        } else {
            Overwrite::No
        })
    }
}
