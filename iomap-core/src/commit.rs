//! What the page cache does for the commit of a journal: the two moments at which an inode that
//! takes part is called.
//!
//! Owns the list of inodes of a transaction ([`CommitList`]) and the two bodies a backend puts
//! behind it: ordered data ([`submit_ordered`], [`finish_ordered`]) and journalled data
//! ([`protect_journalled`]). Does not own journals: when transactions begin and end, what is in
//! them, logs and checkpoints are a backend's.
//!
//! # A commit
//!
//! ```text
//! wait for the handles of the transaction → switch to the next one
//! CommitList::submit     ordered data is on its way; journalled pages are write-protected
//! write the log          what is logged holds still: a store faults, and folio_prepare keeps a copy
//! CommitList::finish     ordered data is on the device (rule J6)
//! flush, commit record
//! ```
//!
//! # The race it closes
//!
//! ```text
//! program                                    journal
//!   store: fault, page joins transaction 1
//!                                              commits 1: checksum of the page
//!   store: needs no fault
//!                                              writes the page: not what was summed up
//! ```
//!
//! With the page write-protected before the checksum the second store faults, joins transaction 2,
//! and the journal keeps what it has of transaction 1 (rules J1, J2). A page that is pinned by a
//! device changes all the same: who may have such pages copies what it logs, with the folio locked.
//!
//! Kernel counterpart: `j_submit_inode_data_buffers`, `j_finish_inode_data_buffers`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::error::{FsError, Result};
use crate::folio::LockedFolio;
use crate::mutation::{Rule, off};
use crate::ops::{MapOps, WritebackOps};
use crate::page_cache::{ErrSeq, Mark, PageCache};
use crate::sync::{Condvar, Mutex, Rank};
use crate::units::{FileRange, PageIndex};
use crate::writeback::{WritebackControl, write_pages};

/// An inode as the commit of a transaction sees it.
///
/// Called by the committing thread with no lock of the core or of a [`CommitList`] held, and with
/// no handle open. The journal holds none of its own locks that writeback or a write fault needs
/// (rule J5).
pub trait CommitInode: Send + Sync {
    /// Before any block of the transaction is logged: no handle of it is open. `range` covers
    /// everything that was registered.
    ///
    /// # Errors
    ///
    /// The commit must not become durable.
    fn submit(&self, range: FileRange) -> Result<()>;

    /// Before the commit record is written.
    ///
    /// # Errors
    ///
    /// The commit must not become durable.
    fn finish(&self, range: FileRange) -> Result<()>;
}

/// The inodes that take part in the commit of one transaction.
pub struct CommitList {
    members: Mutex<BTreeMap<u64, Member>>,
    changed: Condvar,
}

struct Member {
    inode: Arc<dyn CommitInode>,
    range: FileRange,
    /// A hook of it runs.
    running: bool,
}

/// The two moments.
#[derive(Clone, Copy)]
enum Moment {
    Submit,
    Finish,
}

impl CommitList {
    /// A transaction without inodes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            members: Mutex::new(Rank::InodeState, BTreeMap::new()),
            changed: Condvar::new(),
        }
    }

    /// Registers `range` of inode `ino`. To be called with a handle of the transaction open, in
    /// `folio_done` of every operation that dirties what the commit has to care for (rule J3).
    pub fn add(&self, ino: u64, inode: &Arc<dyn CommitInode>, range: FileRange) {
        let mut members = self.members.lock();
        let member = members.entry(ino).or_insert_with(|| Member {
            inode: Arc::clone(inode),
            range,
            running: false,
        });
        let start = member.range.start().min(range.start());
        member.range = FileRange::between(start, member.range.end().max(range.end()));
    }

    /// Calls [`CommitInode::submit`] of every inode.
    ///
    /// # Errors
    ///
    /// The first one; the others were called all the same.
    pub fn submit(&self) -> Result<()> {
        self.call_all(Moment::Submit)
    }

    /// Calls [`CommitInode::finish`] of every inode.
    ///
    /// # Errors
    ///
    /// The first one; the others were called all the same.
    pub fn finish(&self) -> Result<()> {
        self.call_all(Moment::Finish)
    }

    /// Takes an inode off the list because it is going away, and waits while a hook of it runs
    /// (rule J5).
    pub fn forget(&self, ino: u64) {
        let mut members = self.members.lock();
        while !off(Rule::J5) && members.get(&ino).is_some_and(|member| member.running) {
            self.changed.wait(&mut members);
        }
        let gone = members.remove(&ino);
        drop(members);
        drop(gone);
    }

    fn call_all(&self, moment: Moment) -> Result<()> {
        let inodes: Vec<u64> = self.members.lock().keys().copied().collect();
        let mut result = Ok(());
        for ino in inodes {
            result = result.and(self.call(ino, moment));
        }
        result
    }

    fn call(&self, ino: u64, moment: Moment) -> Result<()> {
        let mut members = self.members.lock();
        let Some(member) = members.get_mut(&ino) else {
            return Ok(());
        };
        member.running = true;
        let (inode, range) = (Arc::clone(&member.inode), member.range);
        let held = off(Rule::J5).then_some(members);
        let result = match moment {
            Moment::Submit => inode.submit(range),
            Moment::Finish => inode.finish(range),
        };
        drop(held);
        if let Some(member) = self.members.lock().get_mut(&ino) {
            member.running = false;
        }
        self.changed.notify_all();
        result
    }
}

impl Default for CommitList {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CommitList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitList").finish_non_exhaustive()
    }
}

/// Starts writing the ordered data of `range`: what is dirty and has storage. Opens no transaction,
/// and leaves what is only reserved: no transaction exposes it yet. Returns where
/// [`finish_ordered`] begins to look for errors.
///
/// # Errors
///
/// What keeps data from being written.
pub fn submit_ordered<B: WritebackOps + ?Sized>(backend: &B, range: FileRange) -> Result<ErrSeq> {
    let since = backend.inode().cache().sample_error();
    if !off(Rule::J6) {
        write_pages(backend, &WritebackControl::sync(range).mapped_only())?;
    }
    Ok(since)
}

/// Waits until the data that [`submit_ordered`] started is on the device (rule J6). Leaves an error
/// for `fsync` to report as well.
///
/// # Errors
///
/// Data was lost: the commit would expose what the blocks held before.
pub fn finish_ordered<B: MapOps + ?Sized>(
    backend: &B,
    range: FileRange,
    mut since: ErrSeq,
) -> Result<()> {
    let cache = backend.inode().cache();
    cache.wait_writeback(range);
    cache
        .check_and_advance(&mut since)
        .map_err(FsError::Writeback)
}

/// What becomes of a folio with journalled data in a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committing {
    /// It stays dirty: the cache has to write it to its place yet, or it belongs to another
    /// transaction than the one that commits, as well or instead.
    KeepDirty,
    /// The journal itself brings all of it to its place.
    Clean,
}

/// Folios looked at between two looks at the index.
const BATCH: usize = 32;

/// Takes write permission for the dirty folios of `range` away from every memory mapping, and asks
/// the backend what becomes of each. Does no I/O.
///
/// `ask` runs with the folio locked: what it copies is what is logged.
///
/// Locks a few folios at a time, in ascending order.
///
/// Called in the commit, with no handle and no folio lock held, after the last handle of the
/// transaction was closed and before its first block is logged (rule J1).
pub fn protect_journalled<B: MapOps + ?Sized>(
    backend: &B,
    range: FileRange,
    mut ask: impl FnMut(&mut LockedFolio) -> Committing,
) {
    let cache = backend.inode().cache();
    let (mut at, end) = range.pages();
    loop {
        let batch = cache.batch(at, end, Some(Mark::Dirty), BATCH);
        let Some(last) = batch.last() else { return };
        at = last.end_index();
        let locked = batch.iter().filter_map(|folio| cache.lock(folio));
        let mut locked: SmallVec<[LockedFolio; BATCH]> =
            locked.filter(|folio| folio.is_dirty()).collect();
        if !off(Rule::J1) {
            write_protect(cache, &locked);
        }
        for folio in &mut locked {
            protect(folio, &mut ask);
        }
    }
}

/// Takes write permission for locked folios, in ascending order, away: once for those that lie side
/// by side, because the cost is in the request and not in its length.
fn write_protect(cache: &PageCache, folios: &[LockedFolio]) {
    let mut run = PageIndex::ZERO..PageIndex::ZERO;
    for folio in folios.iter().filter(|folio| folio.is_mapped()) {
        if folio.index() != run.end {
            cache.mappings().write_protect(&run);
            run.start = folio.index();
        }
        run.end = folio.end_index();
    }
    cache.mappings().write_protect(&run);
}

/// One folio, locked and dirty, and writable nowhere.
fn protect(folio: &mut LockedFolio, ask: &mut impl FnMut(&mut LockedFolio) -> Committing) {
    let dirty: Vec<_> = folio.dirty_ranges(folio.len()).collect();
    if off(Rule::J1) {
        folio.cancel_dirty();
    } else {
        folio.clear_dirty_protected();
    }
    // The mark stays until the folio is dirty again or its blocks are clean.
    if ask(folio) == Committing::KeepDirty && !off(Rule::J4) {
        for range in dirty {
            folio.set_range_dirty(range);
        }
    } else {
        folio.clear_all_dirty_blocks();
    }
}
