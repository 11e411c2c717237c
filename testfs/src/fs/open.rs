//! Open files and links to files: the part of the interface with bytes.
//!
//! Owns [`OpenHandle`], a thin wrapper of the framework's [`File`], which routes reads and writes.

use std::any::Any;
use std::sync::Arc;

use iomap_core::error::{Errno, FaultError, Result, SeekError};
use iomap_core::fault::fault;
use iomap_core::fiemap::Extent;
use iomap_core::file::File;
use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::{Access, FaultHandler, MapOptions, MappedRange, Prot};
use iomap_core::page_cache::PageCache;
use iomap_core::seek::Whence;
use iomap_core::units::{FilePos, FileRange, PageIndex};
use iomap_core::vfs::{Fallocate, Ino, IoFlags, OpenFile, OpenFlags};

use super::inode::TestInode;
use super::reflink::other_mount;
use super::table::InodeRef;

/// An open file of a testfs.
pub(super) struct OpenHandle {
    file: File<TestInode>,
    /// Keeps the inode, also without a name. Last: dropping it may delete the file.
    used: Arc<InodeRef>,
}

impl OpenHandle {
    pub(super) fn new(used: InodeRef, flags: OpenFlags) -> Self {
        Self {
            file: File::new(used.inode().clone(), flags),
            used: Arc::new(used),
        }
    }

    fn check_writable(&self) -> Result<()> {
        if self.file.flags().contains(OpenFlags::WRITE) {
            return Ok(());
        }
        Err(Errno::BADF.into())
    }
}

impl OpenFile for OpenHandle {
    fn ino(&self) -> Ino {
        Ino(self.used.ino.get())
    }

    fn read_at(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        self.file.read_at(pos, to, flags)
    }

    fn write_at(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        self.file.write_at(pos, from, flags)
    }

    fn fsync(&self, data_only: bool) -> Result<()> {
        self.file.fsync(data_only)
    }

    fn sync_range(&self, range: FileRange, wait: bool) -> Result<()> {
        self.file.sync_range(range, wait)
    }

    fn fallocate(&self, mode: Fallocate, range: FileRange) -> Result<()> {
        self.check_writable()?;
        self.used.fallocate(mode, range)
    }

    fn seek(&self, pos: FilePos, whence: Whence) -> Result<FilePos, SeekError> {
        self.file.seek(pos, whence)
    }

    fn fiemap(&self, range: FileRange, sync: bool) -> Result<Vec<Extent>> {
        self.file.fiemap(range, sync)
    }

    fn clone_range(&self, range: FileRange, to: &dyn OpenFile, at: FilePos) -> Result<()> {
        let to = to.as_any().downcast_ref::<Self>().ok_or_else(other_mount)?;
        if !self.used.same_mount(&to.used) {
            return Err(other_mount());
        }
        if !self.file.flags().contains(OpenFlags::READ) {
            return Err(Errno::BADF.into());
        }
        to.check_writable()?;
        let lost = || self.file.check_writeback();
        self.used.clone_to((range, &lost), &to.used, at)
    }

    fn fault_handler(self: Arc<Self>) -> Result<Arc<dyn FaultHandler>> {
        self.get_ready()?;
        Ok(self)
    }

    fn mmap_as(
        &self,
        range: FileRange,
        prot: Prot,
        shared: bool,
        options: MapOptions,
    ) -> Result<Mapping> {
        self.get_ready()?;
        let mapping = self.file.mmap_as(range, prot, shared, options)?;
        // As an open file: an inode without a name stays until the mapping has gone.
        Ok(mapping.keeping(self.used.clone()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl OpenHandle {
    /// Before a memory mapping.
    fn get_ready(&self) -> Result<()> {
        if self.file.is_dax() {
            let _lock = self.used.core.lock_exclusive();
            // Inline bytes are no page of the device.
            self.used.leave_inline()?;
        }
        Ok(())
    }
}

/// Keeps the inode while memory mappings of it live.
impl FaultHandler for OpenHandle {
    fn cache(&self) -> &PageCache {
        self.used.core.cache()
    }

    fn fault(
        &self,
        range: &Arc<MappedRange>,
        page: PageIndex,
        access: Access,
    ) -> Result<(), FaultError> {
        fault(&**self.used.inode(), range, page, access)
    }

    fn reaches(&self, page: PageIndex) -> bool {
        page.pos() < self.used.core.size()
    }
}
