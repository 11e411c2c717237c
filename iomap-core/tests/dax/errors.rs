//! A medium that loses pages, and a backend that points beyond it.

use iomap_core::dax::HUGE_PAGES;
use iomap_core::dax_io;
use iomap_core::error::Errno;
use iomap_core::mmap::{Access, MapOptions};

use crate::file::{Disk, PAGE, addr, page, pos};

#[test]
fn a_read_stops_before_a_lost_page_and_fails_in_it() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(3, 1);
    disk.pmem.lose_page(addr(file.block(1).unwrap()));
    assert_eq!(file.read(10, 3 * PAGE as usize).len() as u64, PAGE - 10);
    let _lock = file.core().lock_shared();
    let error = dax_io::read(&*file, pos(PAGE), &mut [0; 4], false).unwrap_err();
    assert_eq!(error.errno(), Errno::IO);
    assert_eq!(
        dax_io::read(&*file, pos(2 * PAGE), &mut [0; 4], false),
        Ok(4)
    );
}

#[test]
fn a_write_stops_before_a_lost_page_and_fails_in_it() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(3, 1);
    disk.pmem.lose_page(addr(file.block(1).unwrap()));
    let _lock = file.core().lock_exclusive();
    let bytes = vec![2; 2 * PAGE as usize];
    assert_eq!(dax_io::write(&*file, pos(0), &bytes, false), Ok(PAGE));
    let error = dax_io::write(&*file, pos(PAGE), &bytes, false).unwrap_err();
    assert_eq!(error.errno(), Errno::IO);
}

/// The next blocks are lost: nothing is written behind the end, and the file does not grow.
#[test]
fn a_write_behind_the_end_that_fails_leaves_the_size() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(1, 1);
    (2..64).for_each(|block| disk.pmem.lose_page(addr(block)));
    let _lock = file.core().lock_exclusive();
    let error = dax_io::write(&*file, pos(4 * PAGE), b"lost", false).unwrap_err();
    assert_eq!(error.errno(), Errno::IO);
    assert_eq!(file.core().size(), pos(PAGE));
}

#[test]
fn an_access_to_a_lost_page_is_a_bus_error() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(3, 1);
    disk.pmem.lose_page(addr(file.block(1).unwrap()));
    let mapping = file.map(MapOptions::empty());
    for access in [Access::Load, Access::Store] {
        let error = mapping.fault(page(1), access).unwrap_err();
        assert_eq!(error.signal(), iomap_core::error::FaultSignal::Bus);
        assert_eq!(error.errno(), Errno::IO);
    }
    mapping.store(pos(0), b"x").unwrap();
}

/// The store is done; what went wrong afterwards is for `fsync`, and nobody hears of it twice.
#[test]
fn a_transaction_that_fails_after_the_page_is_writable_is_told_once_by_fsync() {
    let disk = Disk::new(2 * HUGE_PAGES);
    let file = disk.written::<true>(HUGE_PAGES, 1);
    let mapping = file.map(MapOptions::empty());
    let mut seen = file.core().cache().sample_error();
    file.fail_close(Errno::IO);
    mapping.store(pos(0), b"x").unwrap();
    let told = file.core().cache().check_and_advance(&mut seen);
    assert_eq!(told.unwrap_err(), Errno::IO);
    assert_eq!(file.core().cache().check_and_advance(&mut seen), Ok(()));
}

/// What the store still waits for did not begin: it is refused, and `fsync` has nothing to tell.
#[test]
fn a_transaction_that_fails_before_the_page_is_writable_refuses_the_store() {
    let disk = Disk::new(64);
    let file = disk.file::<true>();
    file.set_size(PAGE);
    let mapping = file.map(MapOptions::SYNC);
    let mut seen = file.core().cache().sample_error();
    file.fail_close(Errno::IO);
    let error = mapping.store(pos(0), b"x").unwrap_err();
    assert_eq!(error.errno(), Errno::IO);
    assert_eq!(file.core().cache().check_and_advance(&mut seen), Ok(()));
    mapping.store(pos(0), b"x").unwrap();
}
