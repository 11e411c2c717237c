//! The file of a race whose data goes through a journal, as in ext4's `data=journal`: a block of the
//! file is logged with a checksum, and replay refuses a block that does not match it.
//!
//! Owns the running and the committing transaction, the frozen copies, and the log. What it logs it
//! takes out of the folio, first the checksum, then the payload, unless a copy was frozen.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use iomap_core::commit::{CommitInode, CommitList, Committing, protect_journalled};
use iomap_core::device::MemoryDevice;
use iomap_core::error::Result;
use iomap_core::fault::PageFaults;
use iomap_core::folio::{FolioRef, LockedFolio, Pool, PoolConfig};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{Iomap, MapKind};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{FaultHandler, MapOptions, Prot};
use iomap_core::ops::{
    Finished, FolioOps, FolioRequest, IoendRange, MapError, MapOps, MapRequest, Mapped, Prepared,
    TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::stats::Counters;
use iomap_core::sync::rank::{self, Held};
use iomap_core::sync::{Condvar, Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FileRange, PageIndex};

use super::engine::{Watched, note};
use super::file::{PAGE, pos};

/// A block in the log: its checksum and what was written.
pub(super) type Logged = (u32, Vec<u8>);

#[derive(Default)]
struct Transaction {
    blocks: BTreeMap<u64, FolioRef>,
    /// What a block held when somebody was about to change it after the switch.
    frozen: BTreeMap<u64, Vec<u8>>,
    list: Arc<CommitList>,
}

#[derive(Default)]
struct Journal {
    running: Transaction,
    committing: Option<Transaction>,
    handles: u32,
    locked: bool,
}

/// See the module documentation.
pub(super) struct JournalFile {
    inode: Inode,
    journal: Mutex<Journal>,
    changed: Condvar,
    me: Weak<Self>,
}

/// An open handle, above the folio lock.
#[derive(Default)]
pub(super) struct Handle {
    held: Option<Held>,
}

impl JournalFile {
    /// A file of one page.
    pub(super) fn new() -> Arc<Self> {
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget((16 * PAGE) as u64)
        };
        Arc::new_cyclic(|me| Self {
            inode: Inode::new(InodeConfig {
                ino: 7,
                block_bits: BlockBits::PAGE,
                size: pos(PAGE),
                pool: Pool::new(config).expect("memory for a few pages"),
                device: Arc::new(MemoryDevice::new(PAGE as u64)),
                counters: Counters::new(),
                stable_writes: false,
            }),
            journal: Mutex::new(Rank::Journal, Journal::default()),
            changed: Condvar::new(),
            me: me.clone(),
        })
    }

    /// Maps the file, with a page table of its own.
    pub(super) fn map(self: &Arc<Self>) -> SoftMapping {
        let faults: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self)));
        let pages = PageIndex::ZERO..PageIndex::new(1);
        SoftMapping::new(faults, pages, Prot::READ | Prot::WRITE, MapOptions::empty())
    }

    /// Commits the running transaction; answers what is in the log of it.
    pub(super) fn commit(&self) -> Vec<Logged> {
        let (blocks, list) = self.switch();
        note("transaction switched");
        if list.submit().is_err() {
            super::engine::bad("the commit failed");
        }
        note("submit hook has run");
        let mut logged = Vec::new();
        for (block, folio) in blocks {
            let sum = crc32c::crc32c(&self.bytes_to_log(block, &folio));
            note("takes the checksum of the page");
            let data = self.bytes_to_log(block, &folio);
            note("writes the page to the log");
            logged.push((sum, data));
        }
        if list.finish().is_err() {
            super::engine::bad("the commit failed");
        }
        let committed = self.journal.lock().committing.take();
        self.changed.notify_all();
        drop(committed);
        logged
    }

    fn switch(&self) -> (BTreeMap<u64, FolioRef>, Arc<CommitList>) {
        let mut journal = self.journal.lock();
        journal.locked = true;
        while journal.handles > 0 {
            self.changed.wait(&mut journal);
        }
        let committing = std::mem::take(&mut journal.running);
        let parts = (committing.blocks.clone(), Arc::clone(&committing.list));
        journal.committing = Some(committing);
        journal.locked = false;
        self.changed.notify_all();
        parts
    }

    fn bytes_to_log(&self, block: u64, folio: &FolioRef) -> Vec<u8> {
        let journal = self.journal.lock();
        let frozen = journal
            .committing
            .as_ref()
            .and_then(|t| t.frozen.get(&block));
        frozen.cloned().unwrap_or_else(|| bytes_of(folio))
    }
}

fn bytes_of(folio: &FolioRef) -> Vec<u8> {
    let mut bytes = vec![0; PAGE];
    folio.copy_out(0, &mut bytes);
    bytes
}

impl Watched for JournalFile {
    fn state(&self) -> String {
        let Some(journal) = self.journal.try_lock() else {
            return "journal locked".to_owned();
        };
        let running = journal.running.blocks.contains_key(&0);
        let committing = journal.committing.as_ref();
        let frozen = committing.is_some_and(|t| t.frozen.contains_key(&0));
        let committing = committing.is_some_and(|t| t.blocks.contains_key(&0));
        let marks = [
            (running, " running"),
            (committing, " committing"),
            (frozen, " frozen copy"),
        ];
        let set: String = marks.iter().filter(|m| m.0).map(|m| m.1).collect();
        let none = if set.is_empty() {
            " no transaction"
        } else {
            ""
        };
        format!("page 0:{set}{none}")
    }
}

impl CommitInode for JournalFile {
    fn submit(&self, range: FileRange) -> Result<()> {
        protect_journalled(self, range, |_| Committing::KeepDirty);
        Ok(())
    }

    fn finish(&self, _range: FileRange) -> Result<()> {
        Ok(())
    }
}

impl MapOps for JournalFile {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::BeforeFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, _req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let addr = DevAddr::new(0);
        let all = FileRange::at_most(pos(0), PAGE as u64);
        Ok(Mapped::new(Iomap::new(all, MapKind::Mapped { addr }), ()))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        Ok(())
    }
}

impl FolioOps for JournalFile {
    type Guard = Handle;

    fn before_lock(&self, _req: &FolioRequest) -> Result<Handle> {
        let held = rank::acquire(Rank::TransactionBeforeFolio, 0);
        let mut journal = self.journal.lock();
        while journal.locked {
            self.changed.wait(&mut journal);
        }
        journal.handles += 1;
        Ok(Handle { held: Some(held) })
    }

    fn folio_prepare(
        &self,
        _handle: &mut Handle,
        folio: &mut LockedFolio,
        req: &FolioRequest,
    ) -> Result<Prepared> {
        let page = req.range.start().page().get();
        if let Some(committing) = &mut self.journal.lock().committing
            && committing.blocks.contains_key(&page)
        {
            let frozen = committing.frozen.entry(page);
            frozen.or_insert_with(|| bytes_of(folio));
        }
        Ok(Prepared::Ready)
    }

    fn folio_done(&self, _: &mut Handle, folio: &mut LockedFolio, req: &FolioRequest, done: u64) {
        if done == 0 {
            return;
        }
        let page = req.range.start().page().get();
        let running = &mut self.journal.lock().running;
        running.blocks.insert(page, FolioRef::clone(folio));
        if let Some(me) = self.me.upgrade() {
            let me: Arc<dyn CommitInode> = me;
            running.list.add(self.inode.ino(), &me, req.range);
        }
    }

    fn after_unlock(&self, handle: Handle, _req: &FolioRequest) -> Result<()> {
        self.journal.lock().handles -= 1;
        self.changed.notify_all();
        drop(handle.held);
        note("write fault resolved");
        Ok(())
    }
}

impl WritebackOps for JournalFile {
    fn map_writeback(
        &self,
        _handle: Option<&mut Handle>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        let addr = DevAddr::new(0);
        Ok(Some(Iomap::new(req.range, MapKind::Mapped { addr })))
    }

    fn ioend_needs_work(&self, _ioend: &IoendRange) -> bool {
        false
    }

    fn ioend_done(&self, _ioend: &IoendRange) -> Result<()> {
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        self.commit();
        Ok(())
    }
}
