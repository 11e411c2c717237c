//! A load or store through a memory mapping of a DAX file that its page table does not permit yet.
//!
//! Owns the fault: size check, entry, mapping of blocks, copy of shared ones, and what the page
//! table shows then; and synchronous faults. Kernel counterpart: `dax_iomap_fault`,
//! `dax_finish_sync_fault`.
//!
//! # A synchronous fault
//!
//! A mapping asked to be synchronous promises: while a page is writable in it, its bytes are found
//! in the file after a crash. So a store whose block is not durably mapped (rules S1, S4) goes:
//!
//! ```text
//! page for loads, entry clean (S2) → entry, locks and transaction given back (S3) → bytes and
//! metadata made durable → entry locked again; still the same (S5)? → dirty, page writable
//! ```

use std::ops::Range;
use std::sync::Arc;

use smallvec::SmallVec;

use super::change::{copy_around, is_copied};
use super::{flush_range, persist_entry, table_of};
use crate::dax::{DaxTable, Entry, EntryGuard, EntrySize, Place};
use crate::error::{DeviceError, DeviceOp, Errno, FaultError, FsError, ProtocolError, Result};
use crate::inode::Inode;
use crate::iomap::{FsFlags, MapKind};
use crate::iter::{Flow, Step, for_each_mapping};
use crate::mmap::{Access, Frames, MappedRange};
use crate::mutation::{Rule, off};
use crate::ops::{FolioOp, FolioRequest, Intent, MapFlags, WritebackOps};
use crate::stats::Event;
use crate::units::{DevAddr, FileRange, PAGE_SIZE, PageIndex};

/// How often a store may find shared blocks: somebody may have shared them again after the copy.
const COPIES_MAX: u32 = 16;

/// Makes `page` of the file accessible in `range`. Holds no locks, before and after.
///
/// # Errors
///
/// The page lies past the end of the file; what the backend or the device answers, `NoSpace` for a
/// store into a hole among it. Nothing is lost then.
pub fn fault<B: WritebackOps + ?Sized>(
    backend: &B,
    range: &Arc<MappedRange>,
    page: PageIndex,
    access: Access,
) -> Result<(), FaultError> {
    let inode = backend.inode();
    let table = table_of(inode)?;
    inode.counters().count(Event::dax_faults);
    if access.is_store() {
        backend.file_modified(false)?;
    }
    let mut fault = Fault {
        backend,
        inode,
        table,
        range,
        page,
        access,
        size: size_for(range, page),
    };
    loop {
        match fault.attempt()? {
            Tried::Done => return Ok(()),
            Tried::Smaller => fault.size = EntrySize::Page,
            Tried::Again => {}
        }
    }
}

/// The entry a fault asks for: a large one if the mapping shows all of it.
fn size_for(range: &MappedRange, page: PageIndex) -> EntrySize {
    let around = EntrySize::Huge.around(page);
    let shown = range.pages();
    if shown.start <= around.start && around.end <= shown.end {
        EntrySize::Huge
    } else {
        EntrySize::Page
    }
}

/// A fault under way.
struct Fault<'a, B: ?Sized> {
    backend: &'a B,
    inode: &'a Inode,
    table: &'a DaxTable,
    range: &'a Arc<MappedRange>,
    page: PageIndex,
    access: Access,
    size: EntrySize,
}

/// What became of an attempt.
enum Tried {
    /// The access may be tried again.
    Done,
    /// Not with a large entry.
    Smaller,
    /// The entry changed while nobody held it.
    Again,
}

/// What became of the part with the entry locked.
enum Shown {
    Done,
    Smaller,
    /// Shown for loads: the metadata of this entry has to be durable before stores.
    AfterSync(Entry),
}

/// Where the pages of an entry are, and what the backend said of it.
#[derive(Clone, Copy)]
struct Found {
    place: Place,
    durable: bool,
}

impl<B: WritebackOps + ?Sized> Fault<'_, B> {
    /// One attempt, from no locks to no locks.
    fn attempt(&self) -> Result<Tried, FaultError> {
        let req = FolioRequest {
            op: FolioOp::WriteFault,
            range: self.bytes(&self.size.around(self.page)),
            nowait: false,
        };
        let invalidate = self.inode.invalidate_lock().read();
        let mut guard = None;
        if self.access.is_store() {
            guard = Some(self.backend.before_lock(&req)?);
        }
        let shown = self.show();
        if off(Rule::S3)
            && let Ok(Shown::AfterSync(_)) = &shown
        {
            self.sync()?;
        }
        if let Some(guard) = guard {
            match (&shown, self.backend.after_unlock(guard, &req)) {
                // The page is writable already: for `fsync`.
                (Ok(Shown::Done), Err(error)) => self.inode.cache().record_error(error.errno()),
                (Ok(_), closed) => closed?,
                (Err(_), _) => {}
            }
        }
        drop(invalidate);
        match shown? {
            Shown::Done => Ok(Tried::Done),
            Shown::Smaller => Ok(Tried::Smaller),
            Shown::AfterSync(entry) => {
                self.sync()?;
                self.finish(entry)
            }
        }
    }

    /// The part with the entry locked.
    fn show(&self) -> Result<Shown, FaultError> {
        let Some((entry, others)) = self.lock() else {
            return Ok(Shown::Smaller);
        };
        // The size is looked at with the entry locked: a truncate that came first has been here
        // (rule B70).
        let end = self.inode.size().page_up();
        if self.page >= end {
            return Err(FaultError::BeyondEnd { page: self.page });
        }
        if entry.size() == EntrySize::Huge && entry.pages().end > end {
            return self.give_up_large(entry);
        }
        if self.access.is_store() {
            // Who writes to a new block by call finds no mapping that shows zeroes in its place.
            let zeroes = |entry: &&EntryGuard<'_>| is_zero(entry);
            let all = others.iter().chain([&entry]);
            all.filter(zeroes).for_each(|entry| self.unmap(entry));
        }
        let mut copied = false;
        for _ in 0..COPIES_MAX {
            match self.locate(&entry, &others)? {
                Located::Smaller => return self.give_up_large(entry),
                Located::Copied => copied = true,
                Located::Here(found) => {
                    // They were clean: what is dirty has blocks of the file's own.
                    let stale = |other: &EntryGuard<'_>| copied || is_zero(other);
                    let stale = others.into_iter().filter(stale);
                    stale.for_each(EntryGuard::delete);
                    return self.show_found(&entry, found);
                }
            }
        }
        Err(self.protocol("blocks that are shared again and again"))
    }

    /// The entry of the page, and for a store those of the other pages of its block: the block may
    /// become another one.
    fn lock(&self) -> Option<(EntryGuard<'_>, Others<'_>)> {
        let block = self.bytes(&self.size.around(self.page));
        let block = block.round_out(self.inode.block_bits());
        if !self.access.is_store() || self.size == EntrySize::Huge {
            return Some((self.table.lock(self.page, self.size)?, Others::new()));
        }
        let (mut page, end) = block.pages();
        let (mut ours, mut others) = (None, Others::new());
        while page < end {
            let entry = self.table.lock(page, self.size)?;
            page = entry.pages().end;
            if entry.pages().contains(&self.page) {
                ours = Some(entry);
            } else {
                others.push(entry);
            }
        }
        Some((ours?, others))
    }

    fn unmap(&self, entry: &EntryGuard<'_>) {
        self.inode.cache().mappings().unmap(&entry.pages());
    }

    /// Where the pages of the entry are; a store gets blocks of the file's own.
    fn locate(
        &self,
        entry: &EntryGuard<'_>,
        others: &[EntryGuard<'_>],
    ) -> Result<Located, FaultError> {
        let intent = if self.access.is_store() {
            Intent::WriteFault
        } else {
            Intent::Read
        };
        let range = self.bytes(&entry.pages());
        let mut located = Located::Smaller;
        let mut copying = None;
        loop {
            let mut shared = false;
            let outcome = for_each_mapping(self.backend, range, intent, MapFlags::DAX, |step| {
                if self.access.is_store() && is_copied(step) && copying.is_none() {
                    shared = true;
                    return Ok(Flow::Stop);
                }
                if is_copied(step) && self.access.is_store() {
                    // Nobody may go on seeing the old block when the copy is the file's.
                    others
                        .iter()
                        .chain([entry])
                        .for_each(|entry| self.unmap(entry));
                }
                located = self.take(step, range)?;
                if !matches!(located, Located::Smaller) {
                    step.advance(range.len())?;
                }
                Ok(Flow::Stop)
            });
            outcome.all_or_error()?;
            if !shared {
                break;
            }
            copying = Some(self.table.copy_lock());
        }
        if matches!(located, Located::Smaller) && entry.size() == EntrySize::Page {
            return Err(self.protocol("a mapping of a part of a page"));
        }
        Ok(located)
    }

    /// The body for one mapping.
    fn take(&self, step: &Step<'_>, range: FileRange) -> Result<Located> {
        if step.rest() != range {
            return Ok(Located::Smaller);
        }
        let store = self.access.is_store();
        match &step.iomap().kind {
            MapKind::Mapped { .. } if store && is_copied(step) => {
                copy_around(self.inode, self.table.device(), step, range, true)?;
                let blocks = range.round_out(self.inode.block_bits());
                let blocks = blocks.intersect(step.iomap().range);
                if let Some(start) = step.iomap().addr_at(blocks.start()) {
                    self.table.device().persist(start, blocks.len())?;
                }
                Ok(Located::Copied)
            }
            MapKind::Mapped { addr } => {
                let addr = addr.plus(range.start().since(step.iomap().range.start()));
                self.check_device(addr, range.len(), store)?;
                Ok(Located::Here(Found {
                    place: Place::Device(addr),
                    durable: !step.iomap().flags.contains(FsFlags::DIRTY),
                }))
            }
            MapKind::Hole | MapKind::Unwritten { .. } if !store => Ok(Located::Here(Found {
                place: Place::Zero,
                durable: true,
            })),
            _ => Err(ProtocolError::BadKind {
                what: "storage that cannot be mapped",
                pos: range.start(),
            }
            .into()),
        }
    }

    /// Whether the pages lie on the device, at a place a page table can show.
    fn check_device(&self, addr: DevAddr, len: u64, store: bool) -> Result<()> {
        let device = self.table.device();
        let memory = device.memory();
        let op = if store {
            DeviceOp::Write
        } else {
            DeviceOp::Read
        };
        let inside = addr.checked_add(len);
        let inside = inside.is_some_and(|end| end.bytes() <= memory.len());
        let errno = if !addr.is_aligned(PAGE_SIZE as u64) {
            Some(Errno::INVAL)
        } else if !inside {
            Some(Errno::NXIO)
        } else if store && !memory.is_writable() {
            Some(Errno::ROFS)
        } else if device.usable(addr, len)? < len {
            Some(Errno::IO)
        } else {
            None
        };
        match errno {
            Some(errno) => Err(DeviceError::new(op, addr, len, errno).into()),
            None => Ok(()),
        }
    }

    /// Puts the place into the entry and shows it.
    fn show_found(&self, guard: &EntryGuard<'_>, found: Found) -> Result<Shown, FaultError> {
        if guard.entry().is_some_and(|old| old.place != found.place) {
            // Zeroes, or a block that was shared: nobody may go on seeing it.
            self.inode.cache().mappings().unmap(&guard.pages());
        }
        let entry = guard.set(found.place);
        if !self.access.is_store() {
            self.map(guard, entry.place, false)?;
            return Ok(Shown::Done);
        }
        if self.range.is_synchronous() && !found.durable && !off(Rule::S1) {
            if off(Rule::S2) {
                guard.set_dirty();
            }
            self.map(guard, entry.place, false)?;
            return Ok(Shown::AfterSync(entry));
        }
        guard.set_dirty();
        self.map(guard, entry.place, true)?;
        Ok(Shown::Done)
    }

    /// Makes what is stored in the pages and what finds it durable. No lock is held.
    fn sync(&self) -> Result<()> {
        self.inode.counters().count(Event::dax_sync_faults);
        flush_range(self.inode, self.bytes(&self.size.around(self.page)))?;
        self.backend.sync_metadata(true)
    }

    /// The metadata of `entry` is durable; if it is still there, the page may be stored to.
    fn finish(&self, entry: Entry) -> Result<Tried, FaultError> {
        let _invalidate = self.inode.invalidate_lock().read();
        let Some(guard) = self.table.lock(self.page, self.size) else {
            return Ok(Tried::Again);
        };
        // Whoever frees or moves the block takes the entry away first; a new one at the same place
        // is another one (rule S5).
        if guard.entry() != Some(entry) && !off(Rule::S5) {
            return Ok(Tried::Again);
        }
        if !off(Rule::S2) {
            guard.set_dirty();
        }
        self.map(&guard, entry.place, true)?;
        Ok(Tried::Done)
    }

    /// A large entry cannot be had, or not any more: takes it away.
    fn give_up_large(&self, entry: EntryGuard<'_>) -> Result<Shown, FaultError> {
        if entry.entry().is_some() {
            self.inode.cache().mappings().unmap(&entry.pages());
            if entry.is_dirty() {
                persist_entry(self.table, &entry).map_err(FsError::from)?;
            }
            entry.delete();
        }
        Ok(Shown::Smaller)
    }

    fn map(&self, guard: &EntryGuard<'_>, place: Place, writable: bool) -> Result<(), FaultError> {
        let pages = guard.pages();
        let count = guard.size().pages();
        let frames = match place {
            Place::Zero => Frames::zero(count),
            Place::Device(addr) => self.table.volume().frames(addr, count),
        };
        let mappings = self.inode.cache().mappings();
        // A range that was unmapped meanwhile: the access finds that out when it is tried again.
        let _gone = mappings.map(self.range, pages.start, &frames, writable)?;
        Ok(())
    }

    fn bytes(&self, pages: &Range<PageIndex>) -> FileRange {
        FileRange::between(pages.start.pos(), pages.end.pos())
    }

    fn protocol(&self, what: &'static str) -> FaultError {
        let pos = self.page.pos();
        FsError::from(ProtocolError::BadKind { what, pos }).into()
    }
}

/// The entries of the other pages of a block.
type Others<'a> = SmallVec<[EntryGuard<'a>; 4]>;

/// Whether it shows zeroes, and no block.
fn is_zero(entry: &EntryGuard<'_>) -> bool {
    entry
        .entry()
        .is_some_and(|entry| entry.place == Place::Zero)
}

/// What asking the backend gave.
#[derive(Clone, Copy)]
enum Located {
    /// One mapping does not cover the entry.
    Smaller,
    /// The blocks were shared, and are copied: ask again.
    Copied,
    Here(Found),
}
