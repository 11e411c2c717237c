//! Files as memory: mapping one into the program, and I/O whose buffer is such a mapping.
//!
//! Owns what may be mapped by which open file, and the copies that keep memory of a mapping from
//! being touched with a lock or a folio held. What a mapping is and does is
//! [`mmap`](crate::mmap); its faults are [`fault`](crate::fault).

use std::sync::Arc;

use super::File;
use crate::dax_io;
use crate::device::DeviceBuf;
use crate::error::{Errno, FsError, Result};
use crate::fault::PageFaults;
use crate::mmap::real::{Mapping, is_ours};
use crate::mmap::{FaultHandler, FrameMemory, MapOptions, Prot};
use crate::ops::DirectOps;
use crate::units::{FilePos, FileRange, PAGE_SIZE};
use crate::vfs::{IoFlags, OpenFlags};

/// Whether the buffer of an I/O is, in part, a mapping of some file.
pub(super) fn is_shown(bytes: &[u8]) -> bool {
    is_ours(bytes)
}

impl<B: DirectOps + 'static> File<B> {
    /// Maps the pages that `range` touches into the program. The mapping may reach past the end of
    /// the file; see [`mmap::real`](crate::mmap::real) for what accesses there do. It keeps the file
    /// open by itself.
    ///
    /// Without `shared`, stores would be private to the program: such a mapping is for reading only.
    ///
    /// The memory of a DAX file's mapping is the device's own.
    ///
    /// # Errors
    ///
    /// `EACCES` if the file was not opened for it, `EINVAL` for a range that is empty or does not
    /// begin at a page; `Unsupported` for a private mapping with stores, for a synchronous one
    /// ([`MapOptions::SYNC`]) of a file that is no DAX file, where the process may not have its
    /// faults reported, and for a DAX device that has no file to map.
    pub fn mmap(&self, range: FileRange, prot: Prot, shared: bool) -> Result<Mapping> {
        self.mmap_as(range, prot, shared, MapOptions::empty())
    }

    /// The same with [`MapOptions`].
    ///
    /// # Errors
    ///
    /// As [`File::mmap`].
    pub fn mmap_as(
        &self,
        range: FileRange,
        prot: Prot,
        shared: bool,
        options: MapOptions,
    ) -> Result<Mapping> {
        let writes = prot.contains(Prot::WRITE);
        let allowed = self.flags().contains(OpenFlags::READ)
            && (!writes || !shared || self.flags().contains(OpenFlags::WRITE));
        if !allowed {
            return Err(Errno::ACCESS.into());
        }
        if range.is_empty() || range.start().offset_in_page() != 0 {
            return Err(FsError::Invalid(
                "a mapping of no pages, or of parts of one",
            ));
        }
        if writes && !shared {
            return Err(FsError::Unsupported("a private mapping that is stored to"));
        }
        let (first, end) = range.pages();
        let handler: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self.backend())));
        if let Some(table) = self.inode().dax() {
            let memory: Arc<dyn FrameMemory> = table.volume().clone();
            return Mapping::of_device(handler, memory, first..end, prot, options);
        }
        if options.contains(MapOptions::SYNC) {
            return Err(FsError::Unsupported(
                "a synchronous mapping of a file that is no DAX file",
            ));
        }
        let memory = Arc::clone(self.inode().cache().file_memory()?);
        Mapping::new(handler, memory, first..end, prot)
    }

    /// Makes what was stored to `range` of a mapping durable, as far as the file reaches, and lets
    /// pages that were refused try again.
    ///
    /// # Errors
    ///
    /// As [`File::fsync`].
    pub fn msync(&self, mapping: &Mapping, range: FileRange) -> Result<()> {
        mapping.forgive(range);
        self.sync(range, true)
    }
}

impl<B: DirectOps> File<B> {
    /// A read of a DAX file: there is no cache to go around.
    pub(super) fn read_dax(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        let nowait = flags.contains(IoFlags::NOWAIT);
        let _shared = self.lock_shared(nowait)?;
        // No larger than the slice.
        dax_io::read(&**self.backend(), pos, to, nowait).map(|done| done as usize)
    }

    /// A read into a mapping: into other memory first.
    pub(super) fn read_shown(&self, pos: FilePos, to: &mut [u8], flags: IoFlags) -> Result<usize> {
        let mut copy = DeviceBuf::zeroed(to.len(), PAGE_SIZE);
        let done = self.read_at(pos, &mut copy, flags)?;
        to[..done].copy_from_slice(&copy[..done]);
        Ok(done)
    }

    /// A write from a mapping: out of it first.
    pub(super) fn write_shown(&self, pos: FilePos, from: &[u8], flags: IoFlags) -> Result<usize> {
        let copy = DeviceBuf::from_slice(from, PAGE_SIZE);
        self.write_at(pos, &copy, flags)
    }
}
