//! A backend of the other lock order: transactions are opened before the folio lock, and file data
//! goes through a journal, as in ext4 with `data=journal` and gfs2 with jdata.
//!
//! The journal pins what it has been told of, commits in another thread, and asks the core for what
//! a real one needs: the four folio points in write, zero, unshare and writeback, the right to
//! refuse reclaim, a folio that holds still while it is copied. What is proved: every accepted byte
//! is told to the journal exactly once (rules F2, F3), nothing unlogged reaches its place, and the
//! log alone, replayed, gives a state the writers had reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{FsError, Result};
use iomap_core::folio::{FolioRef, LockedFolio, Pool, PoolConfig};
use iomap_core::inode::{Inode, InodeConfig};
use iomap_core::iomap::{FsFlags, Iomap, MapKind};
use iomap_core::ops::{
    Finished, FolioOp, FolioOps, FolioRequest, Intent, IoendRange, MapError, MapOps, MapRequest,
    Mapped, Prepared, TransactionOrder, WritebackOps, WritebackRequest,
};
use iomap_core::read::{ReadOptions, buffered_read};
use iomap_core::stats::Counters;
use iomap_core::sync::rank::{self, Held};
use iomap_core::sync::{Mutex, Rank};
use iomap_core::units::{BlockBits, DevAddr, FilePos, FileRange};
use iomap_core::user::SliceSource;
use iomap_core::write::{WriteOptions, buffered_write};
use iomap_core::{fsync, unshare, zero};

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;

/// What the running transaction knows of a block.
struct Pinned {
    folio: FolioRef,
}

/// One committed block.
#[derive(Clone)]
struct Logged {
    block: u64,
    data: Vec<u8>,
}

/// The journal: a running transaction, and the log of committed ones.
struct Journal {
    id: u64,
    /// Blocks the running transaction was told of.
    running: BTreeMap<u64, Pinned>,
    /// Handles open on the running transaction.
    handles: u32,
    /// A commit waits for them: no new ones.
    locked: bool,
    log: Vec<Vec<Logged>>,
}

/// The private state of a folio with blocks in a transaction that is not committed.
struct Pin {
    transaction: u64,
}

/// An open handle. In order A it stands above the folio lock.
#[derive(Default)]
struct Handle {
    held: Option<Held>,
    /// Blocks prepared and not done.
    credits: u64,
}

/// A file whose data is journalled.
struct JournalFile {
    inode: Inode,
    journal: Mutex<Journal>,
    changed: iomap_core::sync::Condvar,
    told: AtomicU64,
    prepared: AtomicI64,
    opened: AtomicI64,
    shared: AtomicBool,
    unlogged_writes: AtomicU64,
}

impl JournalFile {
    fn new(device: Arc<dyn BlockDevice>, budget: u64) -> Arc<Self> {
        let pool = Pool::new(PoolConfig::with_budget(budget)).expect("memory");
        let file = Arc::new(Self {
            inode: Inode::new(InodeConfig {
                ino: 7,
                block_bits: BlockBits::PAGE,
                size: FilePos::saturating(BLOCKS * BLOCK),
                pool,
                device,
                counters: Counters::new(),
                stable_writes: false,
            }),
            journal: Mutex::new(
                Rank::Journal,
                Journal {
                    id: 1,
                    running: BTreeMap::new(),
                    handles: 0,
                    locked: false,
                    log: vec![],
                },
            ),
            changed: iomap_core::sync::Condvar::new(),
            told: AtomicU64::new(0),
            prepared: AtomicI64::new(0),
            opened: AtomicI64::new(0),
            shared: AtomicBool::new(false),
            unlogged_writes: AtomicU64::new(0),
        });
        let owner: Arc<dyn iomap_core::page_cache::CacheOwner> =
            Arc::new(Keeper(Arc::downgrade(&file)));
        file.inode.cache().set_owner(Arc::downgrade(&owner));
        std::mem::forget(owner);
        file
    }

    fn open_handle(&self) -> Handle {
        let held = rank::acquire(Rank::TransactionBeforeFolio, 0);
        let mut journal = self.journal.lock();
        while journal.locked {
            self.changed.wait(&mut journal);
        }
        journal.handles += 1;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Handle {
            held: Some(held),
            credits: 0,
        }
    }

    fn close_handle(&self, handle: Handle) {
        assert_eq!(handle.credits, 0, "a prepared folio was not done");
        let mut journal = self.journal.lock();
        journal.handles -= 1;
        self.opened.fetch_sub(1, Ordering::Relaxed);
        self.changed.notify_all();
        drop(journal);
        drop(handle.held);
    }

    /// Commits the running transaction: waits for its handles, copies every block with its folio
    /// locked, unpins.
    fn commit(&self) {
        let (id, pinned) = {
            let mut journal = self.journal.lock();
            while journal.locked {
                self.changed.wait(&mut journal);
            }
            journal.locked = true;
            while journal.handles > 0 {
                self.changed.wait(&mut journal);
            }
            (journal.id, std::mem::take(&mut journal.running))
        };
        let mut blocks = Vec::new();
        for (block, pin) in pinned {
            let folio = self.inode.cache().lock(&pin.folio);
            let mut folio = folio.expect("a pinned folio stays in the cache");
            let mut data = vec![0; BLOCK as usize];
            let offset = block * BLOCK - folio.range().start().bytes();
            folio.copy_out(offset as usize, &mut data);
            blocks.push(Logged { block, data });
            if folio
                .private::<Pin>()
                .is_some_and(|pin| pin.transaction == id)
            {
                drop(folio.take_private());
            }
        }
        let mut journal = self.journal.lock();
        if !blocks.is_empty() {
            journal.log.push(blocks);
        }
        journal.id += 1;
        journal.locked = false;
        self.changed.notify_all();
    }

    fn is_pinned(&self, range: FileRange) -> bool {
        let (first, end) = range.pages();
        let journal = self.journal.lock();
        journal
            .running
            .range(first.get()..end.get())
            .next()
            .is_some()
    }

    fn write(&self, pos: u64, bytes: &[u8]) -> Result<u64> {
        let _inode = self.inode.lock_exclusive();
        let mut source = SliceSource::new(bytes);
        buffered_write(
            self,
            FilePos::saturating(pos),
            &mut source,
            WriteOptions::default(),
        )
    }

    fn read(&self, pos: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let n = buffered_read(
            self,
            FilePos::saturating(pos),
            &mut bytes,
            ReadOptions::default(),
        );
        assert_eq!(n, Ok(len));
        bytes
    }
}

struct Keeper(std::sync::Weak<JournalFile>);

impl iomap_core::page_cache::CacheOwner for Keeper {
    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        self.0
            .upgrade()
            .is_none_or(|file| file.release_folio(folio))
    }

    fn write_dirty(&self, _range: FileRange, _nr: usize) -> Result<usize> {
        Ok(0)
    }
}

impl MapOps for JournalFile {
    type Lease = ();
    const ORDER: TransactionOrder = TransactionOrder::BeforeFolio;

    fn inode(&self) -> &Inode {
        &self.inode
    }

    fn begin(&self, req: &MapRequest) -> Result<Mapped<()>, MapError> {
        let all = FileRange::at_most(FilePos::ZERO, BLOCKS * BLOCK);
        if !all.contains(req.range.start()) {
            return Err(FsError::NoSpace.into());
        }
        let mut iomap = Iomap::new(
            all,
            MapKind::Mapped {
                addr: DevAddr::new(0),
            },
        );
        if req.intent == Intent::Unshare && self.shared.load(Ordering::Relaxed) {
            iomap = iomap.with_flags(FsFlags::SHARED);
        }
        Ok(Mapped::new(iomap, ()))
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
        Ok(self.open_handle())
    }

    fn folio_prepare(
        &self,
        handle: &mut Handle,
        folio: &mut LockedFolio,
        req: &FolioRequest,
    ) -> Result<Prepared> {
        assert!(rank::is_held(Rank::TransactionBeforeFolio) && rank::is_held(Rank::Folio));
        assert!(
            folio.range().covers(req.range),
            "{:?} outside of the folio",
            req.range
        );
        if req.op == FolioOp::Writeback && folio.has_private() {
            // Told of again after `before_lock` committed: the next commit comes first.
            return Ok(Prepared::Again);
        }
        self.prepared.fetch_add(1, Ordering::Relaxed);
        handle.credits += 1;
        Ok(Prepared::Ready)
    }

    fn folio_done(
        &self,
        handle: &mut Handle,
        folio: &mut LockedFolio,
        req: &FolioRequest,
        done: u64,
    ) {
        assert!(
            folio.is_locked() && folio.is_mapped_in(self.inode.cache()),
            "rule F1"
        );
        self.prepared.fetch_sub(1, Ordering::Relaxed);
        handle.credits -= 1;
        if req.op == FolioOp::Writeback {
            return;
        }
        self.told.fetch_add(done, Ordering::Relaxed);
        let (first, end) = req.range.take(done).pages();
        let mut journal = self.journal.lock();
        for block in first.get()..end.get() {
            journal.running.entry(block).or_insert_with(|| Pinned {
                folio: FolioRef::clone(folio),
            });
        }
        let transaction = journal.id;
        drop(journal);
        if done > 0 {
            folio.set_private(Box::new(Pin { transaction }));
        }
    }

    fn after_unlock(&self, handle: Handle, _req: &FolioRequest) -> Result<()> {
        self.close_handle(handle);
        Ok(())
    }
}

impl WritebackOps for JournalFile {
    fn map_writeback(
        &self,
        handle: Option<&mut Handle>,
        req: &WritebackRequest,
    ) -> Result<Option<Iomap>> {
        assert!(
            handle.is_some() || !req.may_allocate,
            "writeback outside of a transaction"
        );
        if self.is_pinned(req.range) {
            self.unlogged_writes.fetch_add(1, Ordering::Relaxed);
        }
        let all = FileRange::at_most(FilePos::ZERO, BLOCKS * BLOCK);
        Ok(Some(Iomap::new(
            all,
            MapKind::Mapped {
                addr: DevAddr::new(0),
            },
        )))
    }

    fn ioend_needs_work(&self, _ioend: &IoendRange) -> bool {
        false
    }

    fn ioend_done(&self, _ioend: &IoendRange) -> Result<()> {
        Ok(())
    }

    fn sync_metadata(&self, _data_only: bool) -> Result<()> {
        self.commit();
        Ok(self.inode.device().flush()?)
    }

    fn release_folio(&self, folio: &mut LockedFolio) -> bool {
        !folio.has_private()
    }
}

fn volume() -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::new(BLOCKS * BLOCK))
}

/// The log, replayed over zeroes.
fn replayed(file: &JournalFile) -> Vec<u8> {
    let mut image = vec![0; (BLOCKS * BLOCK) as usize];
    for Logged { block, data } in file.journal.lock().log.iter().flatten() {
        let at = (block * BLOCK) as usize;
        image[at..at + BLOCK as usize].copy_from_slice(data);
    }
    image
}

#[test]
fn every_accepted_byte_is_told_to_the_journal_with_the_folio_locked() {
    let file = JournalFile::new(volume(), 4 << 20);
    let bytes: Vec<u8> = (0..30_000_u32).map(|n| n as u8).collect();
    assert_eq!(file.write(1_000, &bytes), Ok(30_000));
    assert_eq!(file.told.load(Ordering::Relaxed), 30_000);
    assert_eq!(file.prepared.load(Ordering::Relaxed), 0, "rule F2");
    assert_eq!(file.opened.load(Ordering::Relaxed), 0);
    file.commit();
    assert_eq!(replayed(&file)[1_000..31_000], bytes);
}

#[test]
fn a_pinned_folio_survives_reclaim_and_a_committed_one_does_not_have_to() {
    let file = JournalFile::new(volume(), 4 << 20);
    file.write(0, &[1; 4096]).expect("room");
    let pool = file.inode.cache().pool_handle().clone();
    pool.shrink(u64::MAX);
    assert!(file.inode.cache().nr_pages() > 0, "dirty and pinned");
    fsync::fsync(&*file, FileRange::ALL, false).expect("a device that works");
    pool.shrink(u64::MAX);
    assert_eq!(file.inode.cache().nr_pages(), 0);
}

#[test]
fn zero_and_unshare_pass_the_same_points() {
    let file = JournalFile::new(volume(), 4 << 20);
    file.write(0, &[7; 16_384]).expect("room");
    file.commit();
    let before = file.told.load(Ordering::Relaxed);
    {
        let _inode = file.inode.lock_exclusive();
        let range = FileRange::at_most(FilePos::saturating(100), 5_000);
        assert_eq!(zero::zero_range(&*file, range), Ok(true));
    }
    assert_eq!(file.told.load(Ordering::Relaxed) - before, 5_000);
    file.shared.store(true, Ordering::Relaxed);
    {
        let _inode = file.inode.lock_exclusive();
        let range = FileRange::at_most(FilePos::saturating(8_192), 4_096);
        unshare::unshare_range(&*file, range).expect("nothing fails");
    }
    assert_eq!(file.told.load(Ordering::Relaxed) - before, 9_096);
    file.commit();
    let image = replayed(&file);
    assert!(image[..100].iter().all(|b| *b == 7) && image[100..5_100].iter().all(|b| *b == 0));
    assert!(image[5_100..16_384].iter().all(|b| *b == 7));
}

#[test]
fn writeback_commits_first_and_then_writes_in_place() {
    let device = volume();
    let file = JournalFile::new(device.clone(), 4 << 20);
    file.write(4096, &[9; 8192]).expect("room");
    fsync::fsync(&*file, FileRange::ALL, false).expect("a device that works");
    assert_eq!(file.unlogged_writes.load(Ordering::Relaxed), 0);
    assert_eq!(file.journal.lock().log.len(), 1);
    assert!(device.image()[4096..12_288].iter().all(|b| *b == 9));
}

#[test]
fn writers_a_committer_and_writeback_together_keep_log_and_place_in_step() {
    const WRITERS: u64 = 3;
    const ROUNDS: u64 = 200;
    let device = volume();
    let file = JournalFile::new(device.clone(), 1 << 20);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (file, stop) = (&file, &stop);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(writer);
                    for round in 1..=ROUNDS {
                        // Each writer owns every third block, and fills it with its round.
                        let block = rng.u64(..BLOCKS / WRITERS) * WRITERS + writer;
                        let bytes = [(round % 251) as u8; BLOCK as usize];
                        file.write(block * BLOCK, &bytes).expect("room");
                        let back = file.read(block * BLOCK, BLOCK as usize);
                        assert_eq!(back, bytes, "a writer reads its own block");
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
                fsync::fsync(&**file, FileRange::ALL, true).expect("a device that works");
                file.inode.cache().pool_handle().shrink(16);
            }
        });
        for writer in writers {
            writer.join().expect("no writer fails");
        }
        stop.store(true, Ordering::Relaxed);
        committer.join().expect("no commit fails");
        flusher.join().expect("no flush fails");
    });
    fsync::fsync(&*file, FileRange::ALL, false).expect("a device that works");
    assert_eq!(
        file.told.load(Ordering::Relaxed),
        WRITERS * ROUNDS * BLOCK,
        "rule F3"
    );
    assert_eq!(file.unlogged_writes.load(Ordering::Relaxed), 0);
    for logged in file.journal.lock().log.iter().flatten() {
        assert!(
            logged.data.windows(2).all(|w| w[0] == w[1]),
            "a log block holds one whole write, never parts of two"
        );
    }
    let image = replayed(&file);
    assert_eq!(
        image,
        device.image(),
        "what is in place is what the log says"
    );
    assert_eq!(file.read(0, image.len()), image);
}
