//! Orders of locks that end in a deadlock, written out: the rank checker refuses each the first time
//! it is tried, whether or not anybody stands on the other side. Beside each, the order the core
//! takes instead. docs/TESTING.md has the list.

use std::ops::Range;
use std::sync::Arc;

use iomap_core::error::{FsError, Result};
use iomap_core::folio::LockedFolio;
use iomap_core::fsync;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::ops::MapOps;
use iomap_core::page_cache::{CacheOwner, GetFolio};
use iomap_core::sync::{Rank, rank};
use iomap_core::units::FileRange;
use iomap_core::user::UserSource;
use iomap_core::write::{WriteOptions, buffered_write};

use crate::file::{BOTH, Config, TestFile, page, pos};

const PAGE: usize = 4096;

/// The memory of a caller: a mapping of the file that is written.
struct Mapped<'a> {
    mapping: &'a SoftMapping,
    bytes: Range<usize>,
    /// Faults while the folio is locked.
    faults_inside: bool,
}

impl UserSource for Mapped<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn fault_in(&mut self, len: usize) -> usize {
        let first = pos(self.bytes.start as u64);
        if !self.faults_inside && self.mapping.load(first, &mut [0]).is_err() {
            return 0;
        }
        len.min(self.bytes.len())
    }

    fn copy_to(&mut self, folio: &mut LockedFolio, offset: usize, len: usize) -> usize {
        let (mut bytes, from) = (vec![0; len], pos(self.bytes.start as u64));
        if self.faults_inside {
            self.mapping.load(from, &mut bytes).unwrap();
        } else if !self.mapping.try_load(from, &mut bytes) {
            return 0;
        }
        folio.copy_in(offset, &bytes);
        len
    }

    fn consume(&mut self, n: usize) {
        self.bytes.start += n;
    }
}

/// Copies the first page of a file to its second half, out of a mapping of it.
fn copy_within(faults_inside: bool) -> Arc<TestFile> {
    let file = TestFile::new(Config::default(), 2 * PAGE as u64);
    file.write(0, &[1; 100]).unwrap();
    let mapping = file.map(0..2, BOTH);
    let mut source = Mapped {
        mapping: &mapping,
        bytes: 0..100,
        faults_inside,
    };
    let lock = file.inode().lock_exclusive();
    let done = buffered_write(&*file, pos(200), &mut source, WriteOptions::default());
    assert_eq!(done, Ok(100));
    drop(lock);
    file
}

#[test]
fn entry_1_a_copy_out_of_the_page_that_is_written_ends() {
    assert_eq!(copy_within(false).read(200, 100), [1; 100]);
}

#[test]
#[should_panic(expected = "taking Invalidate(7) while holding Folio(0)")]
fn entry_1_a_fault_under_the_folio_lock_is_refused() {
    copy_within(true);
}

#[test]
#[should_panic(expected = "taking Invalidate(7) while holding Glock(0)")]
fn entry_2_a_fault_under_a_cluster_lock_is_refused() {
    let file = TestFile::new(Config::default(), PAGE as u64);
    let mapping = file.map(0..1, BOTH);
    let _glock = rank::acquire(Rank::Glock, 0);
    let _loaded = mapping.load(pos(0), &mut [0]);
}

/// The lock is dropped, the page faulted in, the transfer goes on where it was.
#[test]
fn entry_2_a_transfer_that_gives_up_its_lock_for_the_fault_ends() {
    let file = TestFile::new(Config::default(), PAGE as u64);
    file.write(0, &[1; 100]).unwrap();
    let mapping = file.map(0..1, BOTH);
    let mut bytes = [0; 100];
    loop {
        let _glock = rank::acquire(Rank::Glock, 0);
        if mapping.try_load(pos(0), &mut bytes) {
            break;
        }
        drop(_glock);
        mapping.load(pos(0), &mut [0]).unwrap();
    }
    assert_eq!(bytes, [1; 100]);
}

#[test]
#[should_panic(expected = "fsync may wait for Inode, but Inode(7) is held")]
fn entry_9_ending_writeback_under_the_lock_its_completion_takes_is_refused() {
    let file = TestFile::new(Config::default(), PAGE as u64);
    file.write(0, &[1; 100]).unwrap();
    let _lock = file.inode().lock_exclusive();
    let _synced = fsync::fsync(&*file, FileRange::ALL, false);
}

/// Who holds the lock waits, and a thread that holds nothing runs the completion.
#[test]
fn entry_9_a_truncate_waits_for_writeback_that_the_worker_ends() {
    let file = TestFile::new(Config::default(), PAGE as u64);
    file.write(0, &[1; 100]).unwrap();
    let _lock = file.inode().lock_exclusive();
    fsync::write_and_wait(&*file, FileRange::ALL).unwrap();
    assert_eq!(file.inode().cache().nr_dirty(), 0);
}

#[test]
#[should_panic(expected = "taking Folio(0) while holding Folio(1)")]
fn entry_10_folios_in_falling_order_are_refused() {
    let file = TestFile::new(Config::default(), 2 * PAGE as u64);
    let cache = file.inode().cache();
    let _second = cache.get_or_create(page(1), GetFolio::default()).unwrap();
    let _first = cache.get_or_create(page(0), GetFolio::default());
}

#[test]
fn entry_10_large_writes_across_each_other_end() {
    let file = TestFile::new(Config::default(), 64 * PAGE as u64);
    std::thread::scope(|scope| {
        for byte in 1..=2 {
            let file = &file;
            scope.spawn(move || {
                for _ in 0..50 {
                    file.write(0, &vec![byte; 64 * PAGE]).unwrap();
                    fsync::write_and_wait(&**file, FileRange::ALL).unwrap();
                }
            });
        }
    });
    let back = file.read(0, 64 * PAGE);
    assert!(back == vec![1; 64 * PAGE] || back == vec![2; 64 * PAGE]);
}

/// Asked by reclaim whether a page may go; opens a transaction to find out, or does not.
struct Owner {
    opens: bool,
}

impl CacheOwner for Owner {
    fn release_folio(&self, _folio: &mut LockedFolio) -> bool {
        let _transaction = self
            .opens
            .then(|| rank::acquire(Rank::TransactionBeforeFolio, 0));
        true
    }

    fn write_dirty(&self, _range: FileRange, _nr: usize) -> Result<usize, FsError> {
        Ok(0)
    }
}

/// Fills the memory there is, a folio locked all the time.
fn allocate_with_a_folio_locked(opens: bool) {
    let config = Config {
        budget: 16,
        ..Config::default()
    };
    let file = TestFile::new(config, 64 * PAGE as u64);
    let owner: Arc<dyn CacheOwner> = Arc::new(Owner { opens });
    file.inode().cache().set_owner(Arc::downgrade(&owner));
    let cache = file.inode().cache();
    let _first = cache.get_or_create(page(0), GetFolio::default()).unwrap();
    for n in 1..64 {
        let mut folio = cache.get_or_create(page(n), GetFolio::default()).unwrap();
        folio.set_uptodate();
    }
}

#[test]
fn entry_11_reclaim_inside_an_allocation_with_a_folio_locked_ends() {
    allocate_with_a_folio_locked(false);
}

#[test]
#[should_panic(expected = "taking TransactionBeforeFolio(0) while holding Folio(0)")]
fn entry_11_reclaim_that_opens_a_transaction_under_a_folio_lock_is_refused() {
    allocate_with_a_folio_locked(true);
}
