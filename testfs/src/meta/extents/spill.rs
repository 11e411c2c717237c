//! Moving the data of a short file out of its inode.
//!
//! Owns the one write of file data below the data paths: it has to be on the device before the inode
//! stops holding it.

use iomap_core::device::bytes;
use iomap_core::error::Result;

use super::super::{Meta, Purpose};
use crate::format::item::Body;
use crate::format::{FileBlock, Ino};

impl Meta {
    /// Gives a file with inline data a block with the same data, as its first extent. Does nothing to
    /// other files. The caller keeps the data from being changed meanwhile.
    ///
    /// # Errors
    ///
    /// [`FsError::NoSpace`](iomap_core::error::FsError::NoSpace); what the device says: then the
    /// data is still inline.
    pub fn spill_inline(&self, ino: Ino) -> Result<()> {
        let Body::Inline(data) = self.read(|view| view.inode(ino))?.body else {
            return Ok(());
        };
        let mut grant = None;
        if !data.is_empty() {
            let reservation = self.reserve(1)?;
            let block = self.update(Purpose::Must, |txn| txn.allocate(None, 1, &reservation))?;
            let mut bytes = data;
            bytes.resize(self.geometry().block_size(), 0);
            let addr = self.block_addr(block.run().start);
            bytes::write_bytes(self.device(), addr, &bytes, false)?;
            grant = Some(block);
        }
        self.update(Purpose::Must, |txn| {
            txn.update_inode(ino, |inode| {
                inode.body = Body::Extents;
                Ok(())
            })?;
            match grant {
                Some(grant) => txn.remap(ino, FileBlock::ZERO, grant),
                None => Ok(()),
            }
        })
    }
}
