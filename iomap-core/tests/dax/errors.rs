//! A medium that loses pages, and a backend that points beyond it.

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
