//! The smallest file system on iomap-core: a volume that holds one file, block by block.
//!
//! Supplies the mapping (device address = file position + what stands before the file) and three answers about
//! durability; everything else is the framework's: cache, readahead, writeback, direct I/O.
//!
//! ```console
//! $ cargo run --example flat_file
//! ```

use std::sync::Arc;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{FsError, Result};
use iomap_core::file::File;
use iomap_core::folio::{Pool, PoolConfig, PoolHandle};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{Iomap, MapKind};
use iomap_core::ops::{
    DirectDone, DirectOps, Finished, FolioOps, IoendRange, MapError, MapOps, MapRequest, Mapped,
    Overwrite, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::stats::Counters;
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange};
use iomap_core::vfs::{IoFlags, OpenFlags};

/// The one file of a volume.
#[derive(Debug)]
pub struct Flat {
    inode: Inode,
    /// Where the file starts on the device, bytes.
    header: u64,
}

impl Flat {
    /// What follows `header` bytes of `device`, whole blocks, as a file that is cached in `pool`.
    #[must_use]
    pub fn new(device: Arc<dyn BlockDevice>, header: u64, pool: PoolHandle) -> Arc<Self> {
        let inode = Inode::new(InodeConfig {
            ino: 1,
            block_bits: BlockBits::PAGE,
            size: FilePos::saturating(device.size().saturating_sub(header)),
            pool,
            device,
            counters: Counters::new(),
            stable_writes: false,
        });
        Arc::new(Self { inode, header })
    }

    /// Opens it for reading and writing.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> File<Self> {
        File::new(Arc::clone(self), OpenFlags::READ | OpenFlags::WRITE)
    }

    /// Where the whole file lives: one mapping.
    fn extent(&self) -> Iomap {
        let len = self.inode.device().size().saturating_sub(self.header);
        let all = FileRange::at_most(FilePos::ZERO, len);
        let addr = DevAddr::new(self.header);
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

    fn ioend_needs_work(&self, _ioend: &IoendRange) -> bool {
        false
    }

    fn ioend_done(&self, _ioend: &IoendRange) -> Result<()> {
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        Ok(self.inode.device().flush()?)
    }
}

impl DirectOps for Flat {
    fn direct_done(&self, _done: &DirectDone) -> Result<()> {
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Arc::new(MemoryDevice::new(1 << 20));
    let pool = Pool::new(PoolConfig::with_budget(16 << 20))?;
    let flat = Flat::new(device, 4096, pool);
    let file = flat.open();

    file.write_at(
        FilePos::saturating(10_000),
        b"hello, iomap",
        IoFlags::empty(),
    )?;
    file.fsync(false)?;

    let mut bytes = [0; 12];
    file.read_at(FilePos::saturating(10_000), &mut bytes, IoFlags::empty())?;
    assert_eq!(&bytes, b"hello, iomap");
    println!("read back: {}", String::from_utf8_lossy(&bytes));
    println!("{:?}", flat.inode.counters().snapshot());
    Ok(())
}
