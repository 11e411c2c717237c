//! Each hook, each request, each allocation and each copy from the caller fails in turn: hooks
//! balance, reservations stand under dirty data only, and no byte is lost without a word.

#![cfg(not(any(iomap_shuttle, iomap_loom)))]
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::sync::Arc;

use common::file::SECRET;
use common::{Block, Mode, TestFile, Volume};
use iomap_core::error::{Errno, FsError};
use iomap_core::folio::LockedFolio;
use iomap_core::fsync;
use iomap_core::ops::MapOps;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::user::UserSource;
use iomap_core::write::{WriteOptions, buffered_write};
use iomap_core::zero;

/// What fails.
#[derive(Clone, Copy, Debug)]
enum Fails {
    Begin,
    End,
    Valid,
    BeforeLock,
    PrepareChange,
    AfterUnlock,
    SyncMetadata,
    MapWriteback,
    PrepareWriteback,
    Convert,
    Write,
    Read,
    Allocation,
    FaultIn,
    Copy,
}

const ALL: [Fails; 15] = [
    Fails::Begin,
    Fails::End,
    Fails::Valid,
    Fails::BeforeLock,
    Fails::PrepareChange,
    Fails::AfterUnlock,
    Fails::SyncMetadata,
    Fails::MapWriteback,
    Fails::PrepareWriteback,
    Fails::Convert,
    Fails::Write,
    Fails::Read,
    Fails::Allocation,
    Fails::FaultIn,
    Fails::Copy,
];

const BITS: u32 = 10;
const LEN: usize = 60_000;

/// A file, and every value each byte may have.
struct Run<const A: bool> {
    file: Arc<TestFile<A>>,
    /// What it was after the last sync that succeeded, and after each change since.
    versions: Vec<Vec<u8>>,
    fails: Fails,
    /// Copies and fault-ins left until the one that fails.
    left: Option<u64>,
    told: bool,
}

/// The caller's memory, of which one access fails.
struct Memory<'a> {
    bytes: &'a [u8],
    fails: Fails,
    left: &'a mut Option<u64>,
}

impl Memory<'_> {
    fn strikes(&mut self) -> bool {
        match self.left {
            Some(0) => {
                *self.left = None;
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        }
    }
}

impl UserSource for Memory<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn fault_in(&mut self, len: usize) -> usize {
        if matches!(self.fails, Fails::FaultIn) && self.strikes() {
            return 0;
        }
        len.min(self.bytes.len())
    }

    fn copy_to(&mut self, folio: &mut LockedFolio, offset: usize, len: usize) -> usize {
        let short = matches!(self.fails, Fails::Copy) && self.strikes();
        let len = if short { len / 2 } else { len };
        folio.copy_in(offset, &self.bytes[..len]);
        len
    }

    fn consume(&mut self, n: usize) {
        self.bytes = &self.bytes[n..];
    }
}

impl<const A: bool> Run<A> {
    fn new(fails: Fails, n: u64) -> Self {
        let volume = Volume::new(4 << 20, BITS, 4 << 20, Mode::Lazy);
        let file = volume.file::<A>(None);
        let start: Vec<u8> = (0..LEN).map(|at| (at % 100) as u8 + 1).collect();
        file.write(0, &start).unwrap();
        fsync::fsync(&*file, FileRange::ALL, false).unwrap();
        file.inode().cache().drop_clean(FileRange::ALL);
        let skip = n as usize;
        match fails {
            Fails::Begin => file.fail_begin(skip, Errno::IO),
            Fails::End => file.fail_end(skip, Errno::IO),
            Fails::Valid => file.say_stale(skip),
            Fails::BeforeLock => file.fail_open(skip, Errno::IO),
            Fails::PrepareChange => file.fail_change(skip, Errno::IO),
            Fails::AfterUnlock => file.fail_unlock(skip, Errno::IO),
            Fails::SyncMetadata => file.fail_sync(skip, Errno::IO),
            Fails::MapWriteback => file.fail_map(skip, Errno::IO),
            Fails::PrepareWriteback => file.fail_prepare(skip, Errno::IO),
            Fails::Convert => file.fail_convert(skip, Errno::IO),
            Fails::Write => volume.device.fail_write(skip, Errno::IO),
            // The device fails the next reads: all up to the n-th.
            Fails::Read => volume.device.fail_reads(skip + 1, Errno::IO),
            Fails::Allocation => volume.pool.refuse_nth(Some(n)),
            Fails::FaultIn | Fails::Copy => {}
        }
        Self {
            file,
            versions: vec![start],
            fails,
            left: matches!(fails, Fails::FaultIn | Fails::Copy).then_some(n),
            told: false,
        }
    }

    fn now(&self) -> Vec<u8> {
        self.versions.last().unwrap().clone()
    }

    fn write(&mut self, pos: usize, len: usize, byte: u8) {
        let bytes = vec![byte; len];
        let mut memory = Memory {
            bytes: &bytes,
            fails: self.fails,
            left: &mut self.left,
        };
        let lock = self.file.inode().lock_exclusive();
        let at = FilePos::saturating(pos as u64);
        let done = buffered_write(&*self.file, at, &mut memory, WriteOptions::default());
        drop(lock);
        self.told |= done.as_ref().is_ok_and(|done| *done < len as u64);
        let done = self.told_if(done).unwrap_or(0) as usize;
        let mut next = self.now();
        next.resize(next.len().max(pos + done), 0);
        next[pos..pos + done].fill(byte);
        self.versions.push(next);
    }

    fn zero(&mut self, start: u64, end: u64) {
        let range = FileRange::between(FilePos::saturating(start), FilePos::saturating(end));
        let lock = self.file.inode().lock_exclusive();
        let zeroed = zero::zero_range(&*self.file, range);
        drop(lock);
        // In part, if it failed: both are possible until a sync succeeds.
        if self.told_if(zeroed).is_some() {
            let mut next = self.now();
            let end = (end as usize).min(next.len());
            next[start as usize..end].fill(0);
            self.versions.push(next);
        } else {
            let content = self.file.contents();
            self.versions.push(content);
        }
    }

    /// A sync; what it covers is the only value from then on.
    fn sync(&mut self) {
        let file = &*self.file;
        let mut seen = file.inode().cache().sample_error();
        let synced = fsync::fsync(file, FileRange::ALL, false);
        let earlier = file.inode().cache().check_and_advance(&mut seen);
        let synced = synced.and(earlier.map_err(FsError::Writeback));
        if self.told_if(synced).is_some() && !self.told {
            let last = self.now();
            self.versions = vec![last];
        }
    }

    fn told_if<T>(&mut self, result: Result<T, FsError>) -> Option<T> {
        self.told |= result.is_err();
        result.ok()
    }

    /// No fault is left: everything balances, and every byte has a value it may have.
    fn judge(mut self, n: u64) {
        self.file.volume.pool.refuse_nth(None);
        let file = Arc::clone(&self.file);
        let what = format!("{:?} {n}, told: {}", self.fails, self.told);
        file.check_balance();
        for _ in 0..64 {
            // Faults that were not met yet are met here.
            if fsync::fsync(&*file, FileRange::ALL, false).is_ok() {
                break;
            }
            self.told = true;
        }
        file.check_balance();
        let inode = file.inode();
        assert!(
            !inode.cache().has_dirty_or_writeback(FileRange::ALL),
            "{what}"
        );
        let blocks = (2 * LEN as u64) >> BITS;
        let promised = (0..blocks).find(|n| file.block(*n) == Some(Block::Delalloc));
        assert_eq!(promised, None, "{what}: a reservation under no dirty data");
        assert!(!inode.direct().is_busy_after_fence(), "{what}");
        let found = file.on_disk(inode.size().bytes());
        for (at, byte) in found.iter().enumerate() {
            let had = |v: &Vec<u8>| v.get(at).copied().unwrap_or(0) == *byte;
            assert!(*byte != SECRET, "{what}: byte {at} was never written");
            assert!(self.versions.iter().any(had), "{what}: byte {at} is {byte}");
        }
        if !self.told {
            assert!(found == self.now(), "{what}: lost without a word");
        }
    }
}

/// The workload. Returns whether the fault was told of.
fn run<const A: bool>(fails: Fails, n: u64) -> bool {
    let mut run = Run::<A>::new(fails, n);
    run.write(500, 3000, 201);
    run.write(20_100, 9000, 202);
    run.zero(1000, 22_000);
    run.sync();
    run.write(LEN, 30_000, 203);
    run.write(40_001, 1, 204);
    run.sync();
    run.zero(30_000, 70_000);
    run.write(10, 50_000, 205);
    run.sync();
    let told = run.told;
    run.judge(n);
    told
}

#[test]
fn whatever_fails_balances_and_is_told() {
    for fails in ALL {
        let mut told = 0;
        for n in 0..40 {
            told += u32::from(run::<false>(fails, n)) + u32::from(run::<true>(fails, n));
        }
        // A short copy and a mapping that is stale are taken up again, an `end` behind bytes that
        // are in the cache comes too late: nobody is told.
        let silent = matches!(fails, Fails::Copy | Fails::Valid | Fails::End);
        assert!((told > 0) != silent, "{fails:?}: {told} told");
    }
}
