//! Synchronous faults: discussion 2017-07, rules S1, S2, S3, S5. (S4 is the backend's: `testfs`.)

use std::sync::Arc;

use iomap_core::dax::DaxDevice;
use iomap_core::mmap::MapOptions;

use crate::file::{DaxFile, Disk, PAGE, addr, page, pos};

/// What a program does with a synchronous mapping: store, then flush the cache lines itself.
fn store_and_flush<const A: bool>(
    file: &Arc<DaxFile<A>>,
    mapping: &iomap_core::mmap::soft::SoftMapping,
    at: u64,
    bytes: &[u8],
) {
    mapping.store(pos(at), bytes).unwrap();
    let block = file.block(at / PAGE).unwrap();
    let line = iomap_core::units::DevAddr::new(addr(block).bytes() + at % PAGE);
    file.disk.pmem.persist(line, bytes.len() as u64).unwrap();
}

#[test]
fn what_was_stored_and_flushed_by_the_program_is_found_after_a_crash() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(8 * PAGE);
    file.fsync();
    let mapping = file.map(MapOptions::SYNC);
    for n in [0, 3, 7] {
        store_and_flush(&file, &mapping, n * PAGE + 100, b"found");
        let left = file.after_crash();
        let at = (n * PAGE + 100) as usize;
        assert_eq!(&left[at..at + 5], b"found", "page {n} (rule S1)");
    }
}

#[test]
fn a_mapping_that_is_not_synchronous_syncs_nothing() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(PAGE);
    let mapping = file.map(MapOptions::empty());
    mapping.store(pos(0), b"later").unwrap();
    assert_eq!(file.core().counters().snapshot().dax_sync_faults, 0);
    assert_eq!(file.after_crash(), b"");
    file.fsync();
    assert_eq!(&file.after_crash()[..5], b"later");
}

#[test]
fn a_second_store_to_a_durable_page_syncs_nothing() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 1);
    let mapping = file.map(MapOptions::SYNC);
    store_and_flush(&file, &mapping, 0, b"one");
    store_and_flush(&file, &mapping, PAGE, b"two");
    assert_eq!(file.core().counters().snapshot().dax_sync_faults, 0);
    let left = file.after_crash();
    assert_eq!(
        (&left[..3], &left[PAGE as usize..][..3]),
        (&b"one"[..], &b"two"[..])
    );
}

/// The sync inside the fault flushes dirty entries: one that is dirty already would be clean when the
/// page becomes writable, and nobody would flush what is stored then.
#[test]
fn a_store_after_the_sync_of_its_fault_is_seen_by_fsync() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(PAGE);
    let mapping = file.map(MapOptions::SYNC);
    mapping.store(pos(10), b"dirty").unwrap();
    let dirty = file.core().dax().unwrap().has_dirty(&(page(0)..page(1)));
    assert!(dirty, "rule S2: stored to, and clean");
    file.fsync();
    assert_eq!(&file.after_crash()[10..15], b"dirty", "rule S2");
}

/// The commit waits for the transactions that joined it, the fault's own among them.
#[test]
fn no_transaction_is_open_while_a_fault_syncs() {
    let disk = Disk::new(64);
    let file = disk.file::<true>();
    file.set_size(PAGE);
    let mapping = file.map(MapOptions::SYNC);
    let stored = mapping.store(pos(0), b"closed");
    assert_eq!(stored.map_err(|error| error.errno()), Ok(()), "rule S3");
    assert_eq!(file.core().counters().snapshot().dax_sync_faults, 1);
}

/// | P, a synchronous store | T | Q, another file |
/// |---|---|---|
/// | fault: block b, metadata synced | | |
/// | | punches the page, frees b | |
/// | | | gets b, writes |
/// | without S5: page writable at b | | |
/// | stores | | corrupted |
#[test]
fn a_block_that_was_punched_during_the_sync_is_not_mapped() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    let other = disk.file::<false>();
    file.set_size(PAGE);
    let mapping = file.map(MapOptions::SYNC);
    let (punched, taken) = (Arc::clone(&file), Arc::clone(&other));
    file.after_sync(move || {
        punched.punch(0, 1).unwrap();
        taken.write(0, &[b'Q'; PAGE as usize]);
    });
    mapping.store(pos(0), b"mine").unwrap();
    assert_eq!(other.read(0, 4), b"QQQQ", "rule S5");
    assert_eq!(file.read(0, 4), b"mine");
    assert_ne!(file.block(0), other.block(0));
}

/// The same place again is not the same entry: the new one is not durable.
#[test]
fn a_block_that_was_punched_and_came_back_is_synced_again() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(PAGE);
    let mapping = Arc::new(file.map(MapOptions::SYNC));
    let (punched, other) = (Arc::clone(&file), file.map(MapOptions::empty()));
    file.after_sync(move || {
        let before = punched.block(0);
        punched.punch(0, 1).unwrap();
        other.store(pos(1), b"x").unwrap();
        assert_eq!(
            punched.block(0),
            before,
            "the block freed last is given out first"
        );
    });
    store_and_flush(&file, &mapping, 0, b"y");
    assert_eq!(file.after_crash()[0], b'y', "rule S5");
    assert_eq!(file.core().counters().snapshot().dax_sync_faults, 2);
}
