//! A journal whose log holds file data, against stores through memory mappings: rules J1 to J5 of
//! the data=journal discussion; and ordered data, rule J6.
//!
//! The journal logs straight out of the folio, checksum first, payload later, unless a copy was
//! frozen. So a byte that changes in between breaks the checksum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use iomap_core::commit::{
    CommitInode, CommitList, Committing, finish_ordered, protect_journalled, submit_ordered,
};
use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{FsError, Result};
use iomap_core::fault::PageFaults;
use iomap_core::folio::{FolioRef, LockedFolio, Pool, PoolConfig};
use iomap_core::fsync;
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{Iomap, MapKind};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{FaultHandler, MapOptions};
use iomap_core::ops::{
    Finished, FolioOp, FolioOps, FolioRequest, IoendRange, MapError, MapOps, MapRequest, Mapped,
    Prepared, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::page_cache::{CacheOwner, ErrSeq};
use iomap_core::stats::Counters;
use iomap_core::sync::rank::{self, Held};
use iomap_core::sync::{Condvar, Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FileRange};
use iomap_core::user::SliceSource;
use iomap_core::write::{WriteOptions, buffered_write};

use crate::device::SECRET;
use crate::file::{BOTH, Block, Config, TestFile, page, pos};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 16;

/// A block in the log.
#[derive(Clone, Debug)]
struct Logged {
    block: u64,
    sum: u64,
    data: Vec<u8>,
}

fn checksum(data: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    data.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

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
    log: Vec<Vec<Logged>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The transaction was switched; nothing is protected yet.
    Switched,
    /// The checksum of a block was taken, its payload not yet written.
    Summed,
}

type OnStep = Box<dyn FnMut(Step) + Send>;

/// An open handle; above the folio lock.
#[derive(Default)]
struct Handle {
    _held: Option<Held>,
}

struct JournalFile {
    inode: Inode,
    device: Arc<MemoryDevice>,
    journal: Mutex<Journal>,
    changed: Condvar,
    me: std::sync::Weak<Self>,
    owner: Mutex<Option<Arc<dyn CacheOwner>>>,
}

impl JournalFile {
    fn new() -> Arc<Self> {
        let config = PoolConfig {
            huge_pages: false,
            ..PoolConfig::with_budget(64 << 12)
        };
        let device = Arc::new(MemoryDevice::new(BLOCKS * BLOCK));
        let as_device: Arc<dyn BlockDevice> = device.clone();
        let file = Arc::new_cyclic(|me| Self {
            inode: Inode::new(InodeConfig {
                ino: 7,
                block_bits: BlockBits::PAGE,
                size: pos(BLOCKS * BLOCK),
                pool: Pool::new(config).expect("memory"),
                device: as_device,
                counters: Counters::new(),
                stable_writes: false,
            }),
            device,
            journal: Mutex::new(Rank::Journal, Journal::default()),
            changed: Condvar::new(),
            me: me.clone(),
            owner: Mutex::new(Rank::Wait, None),
        });
        let owner: Arc<dyn CacheOwner> = Arc::new(Keeper(Arc::downgrade(&file)));
        file.inode.cache().set_owner(Arc::downgrade(&owner));
        *file.owner.lock() = Some(owner);
        file
    }

    fn map(self: &Arc<Self>) -> SoftMapping {
        let faults: Arc<dyn FaultHandler> = Arc::new(PageFaults::new(Arc::clone(self)));
        SoftMapping::new(faults, page(0)..page(BLOCKS), BOTH, MapOptions::empty())
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let _inode = self.inode.lock_exclusive();
        let mut source = SliceSource::new(bytes);
        let done = buffered_write(self, pos(at), &mut source, WriteOptions::default());
        assert_eq!(done, Ok(bytes.len() as u64));
    }

    fn commit(&self) {
        self.commit_with(Box::new(|_| ()));
    }

    /// Commits the running transaction, with a word to the test at each step, no lock held.
    fn commit_with(&self, mut on_step: OnStep) {
        let (blocks, list) = {
            let mut journal = self.journal.lock();
            while journal.locked || journal.committing.is_some() {
                self.changed.wait(&mut journal);
            }
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
        };
        on_step(Step::Switched);
        list.submit().expect("nothing fails");
        let mut logged = Vec::new();
        for (block, folio) in blocks {
            let sum = checksum(&self.bytes_to_log(block, &folio));
            on_step(Step::Summed);
            let data = self.bytes_to_log(block, &folio);
            logged.push(Logged { block, sum, data });
        }
        list.finish().expect("nothing fails");
        let mut journal = self.journal.lock();
        journal.log.push(logged);
        let committed = journal.committing.take();
        self.changed.notify_all();
        drop(journal);
        drop(committed);
    }

    fn bytes_to_log(&self, block: u64, folio: &FolioRef) -> Vec<u8> {
        let journal = self.journal.lock();
        let committing = journal.committing.as_ref().expect("one commits");
        if let Some(frozen) = committing.frozen.get(&block) {
            return frozen.clone();
        }
        block_bytes(block, folio)
    }

    fn is_pinned(&self, range: FileRange) -> bool {
        let (first, end) = range.pages();
        let journal = self.journal.lock();
        let in_it = |transaction: &Transaction| {
            let blocks = first.get()..end.get();
            transaction.blocks.range(blocks).next().is_some()
        };
        in_it(&journal.running) || journal.committing.as_ref().is_some_and(in_it)
    }

    fn log(&self) -> Vec<Vec<Logged>> {
        self.journal.lock().log.clone()
    }

    /// What recovery makes of the log over zeroes; fails on a bad checksum.
    fn replayed(&self) -> Vec<u8> {
        let mut image = vec![0; (BLOCKS * BLOCK) as usize];
        for Logged { block, sum, data } in self.log().iter().flatten() {
            assert_eq!(
                checksum(data),
                *sum,
                "block {block} changed while it was logged"
            );
            let at = (block * BLOCK) as usize;
            image[at..at + BLOCK as usize].copy_from_slice(data);
        }
        image
    }
}

fn block_bytes(block: u64, folio: &FolioRef) -> Vec<u8> {
    let mut data = vec![0; BLOCK as usize];
    let offset = block * BLOCK - folio.range().start().bytes();
    folio.copy_out(offset as usize, &mut data);
    data
}

struct Keeper(std::sync::Weak<JournalFile>);

impl CacheOwner for Keeper {
    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        self.0
            .upgrade()
            .is_none_or(|file| !file.is_pinned(folio.range()))
    }

    fn write_dirty(&self, _range: FileRange, _nr: usize) -> Result<usize> {
        Ok(0)
    }
}

impl CommitInode for JournalFile {
    fn submit(&self, range: FileRange) -> Result<()> {
        // Writeback brings it to its place later, so it stays dirty.
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

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let all = FileRange::at_most(pos(0), BLOCKS * BLOCK);
        if !all.contains(req.range.start()) {
            return Err(FsError::NoSpace.into());
        }
        let addr = DevAddr::new(0);
        Ok(Mapped::new(Iomap::new(all, MapKind::Mapped { addr }), ()))
    }

    fn end(&self, (): (), _finished: &Finished<'_>) -> Result<()> {
        Ok(())
    }
}

impl FolioOps for JournalFile {
    type Guard = Handle;

    fn before_lock(&self, req: &FolioRequest) -> Result<Handle> {
        if req.op == FolioOp::Writeback && self.is_pinned(req.range) {
            // Its bytes may reach their place only after the log has them.
            self.commit();
        }
        let held = rank::acquire(Rank::TransactionBeforeFolio, 0);
        let mut journal = self.journal.lock();
        while journal.locked {
            self.changed.wait(&mut journal);
        }
        journal.handles += 1;
        Ok(Handle { _held: Some(held) })
    }

    /// Write access: what a committing transaction holds of the blocks is frozen.
    fn folio_prepare(
        &self,
        _handle: &mut Handle,
        folio: &mut LockedFolio,
        req: &FolioRequest,
    ) -> Result<Prepared> {
        if req.op == FolioOp::Writeback {
            let pinned = self.is_pinned(folio.range());
            return Ok(if pinned {
                Prepared::Again
            } else {
                Prepared::Ready
            });
        }
        let (first, end) = req.range.pages();
        let mut journal = self.journal.lock();
        if let Some(committing) = &mut journal.committing {
            for block in first.get()..end.get() {
                if committing.blocks.contains_key(&block) {
                    let frozen = committing.frozen.entry(block);
                    frozen.or_insert_with(|| block_bytes(block, folio));
                }
            }
        }
        Ok(Prepared::Ready)
    }

    fn folio_done(&self, _: &mut Handle, folio: &mut LockedFolio, req: &FolioRequest, done: u64) {
        if req.op == FolioOp::Writeback || done == 0 {
            return;
        }
        let (first, end) = req.range.take(done).pages();
        let mut journal = self.journal.lock();
        let running = &mut journal.running;
        for block in first.get()..end.get() {
            let folio = FolioRef::clone(folio);
            running.blocks.entry(block).or_insert(folio);
        }
        let me: Arc<dyn CommitInode> = self.me.upgrade().expect("alive");
        running.list.add(self.inode.ino(), &me, req.range);
    }

    fn after_unlock(&self, handle: Handle, _req: &FolioRequest) -> Result<()> {
        let mut journal = self.journal.lock();
        journal.handles -= 1;
        self.changed.notify_all();
        drop(journal);
        drop(handle);
        Ok(())
    }
}

impl WritebackOps for JournalFile {
    fn map_writeback(
        &self,
        _handle: Option<&mut Handle>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        assert!(
            !self.is_pinned(req.range),
            "in place before it is in the log"
        );
        let all = FileRange::at_most(pos(0), BLOCKS * BLOCK);
        let addr = DevAddr::new(0);
        Ok(Some(Iomap::new(all, MapKind::Mapped { addr })))
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

    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        !self.is_pinned(folio.range())
    }
}

fn sync(file: &JournalFile) {
    fsync::fsync(file, FileRange::ALL, false).unwrap();
}

/// The six steps of the discussion: the page is in transaction 1 and writable; between its checksum
/// and its payload the program stores again (rules J1, J2).
#[test]
fn a_store_between_checksum_and_payload_belongs_to_the_next_transaction() {
    let file = JournalFile::new();
    let mapping = Arc::new(file.map());
    mapping.store(pos(0), b"a").unwrap();
    file.write(1, b"b");
    assert!(mapping.try_store(pos(2), b"c"), "writable without a fault");
    let storer = Arc::clone(&mapping);
    file.commit_with(Box::new(move |step| {
        if step == Step::Summed {
            storer.store(pos(0), b"X").unwrap();
        }
    }));
    assert_eq!(file.replayed()[..3], *b"abc", "transaction 1 as it was");
    file.commit();
    assert_eq!(file.replayed()[..3], *b"Xbc", "transaction 2 has the store");
}

/// A block that has its place already is told to every transaction in which it is stored to (rule
/// J3), or its commit neither logs nor protects it.
#[test]
fn each_transaction_hears_of_a_page_that_is_stored_to_again() {
    let file = JournalFile::new();
    let mapping = Arc::new(file.map());
    for round in 1..=3_u8 {
        mapping.store(pos(5 * BLOCK), &[round]).unwrap();
        let storer = Arc::clone(&mapping);
        file.commit_with(Box::new(move |step| {
            if step == Step::Summed {
                assert!(!storer.try_store(pos(5 * BLOCK), &[99]), "protected");
            }
        }));
        let logged = file.replayed()[5 * BLOCK as usize];
        assert_eq!(logged, round, "rule J3: a commit without the store");
    }
    assert_eq!(file.log().len(), 3);
}

/// The folio is in the committing transaction and in the next one: it stays dirty, so that its data
/// reaches its place when the log is used again (rule J4).
#[test]
fn a_folio_of_two_transactions_stays_dirty_until_it_is_in_its_place() {
    let file = JournalFile::new();
    let mapping = file.map();
    mapping.store(pos(0), b"1").unwrap();
    let writer = Arc::clone(&file);
    file.commit_with(Box::new(move |step| {
        if step == Step::Switched {
            writer.write(10, b"2");
        }
    }));
    let dirty = file.inode.cache().nr_dirty();
    assert!(
        dirty > 0,
        "rule J4: clean, and also in the next transaction"
    );
    sync(&file);
    file.journal.lock().log.clear();
    let image = file.device.image();
    assert_eq!(
        (image[0], image[10]),
        (b'1', b'2'),
        "the log was the only copy"
    );
    assert_eq!(file.inode.cache().nr_dirty(), 0);
}

/// Stores that come at every step of many commits, while others write, sync and reclaim: every
/// block in the log holds what its checksum says, and log and place agree in the end.
#[test]
fn storers_a_committer_and_writeback_together_keep_log_and_place_in_step() {
    let file = JournalFile::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (file, stop) = (&file, &stop);
        let storers: Vec<_> = (0..2_u64)
            .map(|n| {
                scope.spawn(move || {
                    let mapping = file.map();
                    let mut rng = fastrand::Rng::with_seed(n);
                    for round in 1..=400_u32 {
                        // Each storer owns a half of every page.
                        let at = rng.u64(..BLOCKS) * BLOCK + n * BLOCK / 2 + rng.u64(..2000);
                        mapping.store(pos(at), &round.to_le_bytes()).unwrap();
                        let mut back = [0; 4];
                        mapping.load(pos(at), &mut back).unwrap();
                        assert_eq!(back, round.to_le_bytes());
                    }
                })
            })
            .collect();
        let committer = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                file.commit();
                std::thread::yield_now();
            }
        });
        let flusher = scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sync(file);
                file.inode.cache().pool_handle().shrink(4);
            }
        });
        for storer in storers {
            storer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        committer.join().unwrap();
        flusher.join().unwrap();
    });
    sync(&file);
    assert!(
        file.replayed() == file.device.image(),
        "log and place differ"
    );
}

// ---- the list

/// An inode that counts its calls, and waits in them for the test.
#[derive(Default)]
struct Slow {
    submitted: AtomicU32,
    go_on: AtomicBool,
    done: AtomicBool,
}

impl CommitInode for Slow {
    fn submit(&self, _range: FileRange) -> Result<()> {
        rank::assert_none_from(Rank::Freeze, "the hook of a commit");
        self.submitted.fetch_add(1, Ordering::SeqCst);
        while !self.go_on.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        self.done.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn finish(&self, range: FileRange) -> Result<()> {
        assert_eq!(range, FileRange::at_most(pos(100), 900));
        Err(FsError::NoSpace)
    }
}

/// An inode that goes away waits for its hook; the hook runs without a lock of the list (rule J5).
#[test]
fn an_inode_that_goes_away_during_a_commit_waits_for_its_hook() {
    let (list, slow) = (CommitList::new(), Arc::new(Slow::default()));
    let member: Arc<dyn CommitInode> = slow.clone();
    list.add(3, &member, FileRange::at_most(pos(500), 500));
    list.add(3, &member, FileRange::at_most(pos(100), 100));
    std::thread::scope(|scope| {
        let committer = scope.spawn(|| list.submit());
        while slow.submitted.load(Ordering::SeqCst) == 0 && !committer.is_finished() {
            std::thread::yield_now();
        }
        let evicter = scope.spawn(|| {
            list.forget(3);
            assert!(slow.done.load(Ordering::SeqCst), "the hook still runs");
        });
        slow.go_on.store(true, Ordering::SeqCst);
        committer.join().unwrap().unwrap();
        evicter.join().unwrap();
    });
    assert_eq!(list.finish(), Ok(()), "nobody is left");
    list.add(3, &member, FileRange::at_most(pos(100), 900));
    assert_eq!(list.finish(), Err(FsError::NoSpace));
}

// ---- ordered data

/// A file whose allocations a journal commits: its data comes first.
struct Ordered {
    file: Arc<TestFile>,
    since: Mutex<Option<ErrSeq>>,
}

impl CommitInode for Ordered {
    fn submit(&self, range: FileRange) -> Result<()> {
        let since = submit_ordered(&*self.file, range)?;
        *self.since.lock() = Some(since);
        Ok(())
    }

    fn finish(&self, range: FileRange) -> Result<()> {
        let since = self.since.lock().take().expect("submitted");
        finish_ordered(&*self.file, range, since)
    }
}

fn ordered() -> (Arc<TestFile>, CommitList) {
    let config = Config {
        delalloc: false,
        ..Config::default()
    };
    let file = TestFile::new(config, 8192);
    file.map(0..2, BOTH).store(pos(0), &[7; 4096]).unwrap();
    let list = CommitList::new();
    let member: Arc<dyn CommitInode> = Arc::new(Ordered {
        file: Arc::clone(&file),
        since: Mutex::new(Rank::Wait, None),
    });
    list.add(7, &member, FileRange::at_most(pos(0), 4096));
    (file, list)
}

/// What a crash right after the commit record would leave of the first block.
fn durable(file: &TestFile) -> Vec<u8> {
    match file.block(0) {
        Some(Block::Written(at)) => file.device.bytes(at << 12, 4096),
        other => panic!("not allocated by the fault: {other:?}"),
    }
}

/// A store through a mapping allocates a block; the commit that makes the block findable comes
/// after its data, however slow the device is (rule J6).
#[test]
fn ordered_data_of_a_store_is_on_the_device_before_the_commit_record() {
    let (file, list) = ordered();
    assert!(durable(&file) == [SECRET; 4096]);
    file.device.hold();
    let record = std::thread::scope(|scope| {
        let committer = scope.spawn(|| {
            list.submit()?;
            list.finish()?;
            // The commit record is written now.
            Ok::<_, FsError>(durable(&file))
        });
        while file.device.held().is_empty() && !committer.is_finished() {
            std::thread::yield_now();
        }
        file.device.release();
        committer.join().unwrap()
    });
    assert!(
        record == Ok(vec![7; 4096]),
        "somebody else's bytes would be exposed"
    );
}

#[test]
fn ordered_data_that_was_lost_keeps_the_commit_from_becoming_durable() {
    let (file, list) = ordered();
    file.device
        .set_fault(|_| Some(iomap_core::error::Errno::IO));
    let committed = list.submit().and_then(|()| list.finish());
    assert_eq!(
        committed,
        Err(FsError::Writeback(iomap_core::error::Errno::IO))
    );
}
