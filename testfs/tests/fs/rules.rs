//! Rules that a file system and the framework keep together: each fails here when its switch is off
//! (`cargo xtask mutate`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomap_core::device::bytes::read_bytes;
use iomap_core::device::{BioOp, BlockDevice, DeviceBuf, MemoryDevice};
use iomap_core::direct::{self, DirectFlags};
use iomap_core::ops::MapOps;
use iomap_core::units::DevAddr;
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, SetAttr, Vfs};
use testfs::device::DeferredDevice;

use super::util::*;

/// Whether `act` on a file ends while a direct write of its first block is on its way to the device.
fn ends_beside_a_direct_write(act: impl Fn(&Bed, &dyn OpenFile) + Sync) -> bool {
    let holding = Arc::new(AtomicBool::new(false));
    let hold = Arc::clone(&holding);
    let device = DeferredDevice::manual(MemoryDevice::new(16 << 20)).holding(move |held| {
        matches!(held.op, BioOp::Write { .. }) && hold.load(Ordering::Relaxed)
    });
    let device = Arc::new(device);
    let bed = Bed::on(Arc::clone(&device) as Arc<dyn BlockDevice>, 4096);
    let file = bed.create("a");
    write(&*file, 0, &[1; 32_768]);
    file.fsync(false).unwrap();
    holding.store(true, Ordering::Relaxed);
    let ticket = {
        let backend = bed.fs.backend(file.ino()).unwrap();
        let _lock = backend.inode().lock_shared();
        let from = DeviceBuf::from_slice(&[2; 4096], 4096);
        direct::submit_write(Arc::clone(&backend), at(0), from, DirectFlags::empty())
    };
    assert_eq!(device.held().len(), 1);
    holding.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let polls = device.polls();
        let other = scope.spawn(|| act(&bed, &*file));
        // It ends, or looks at the device for the direct write to end.
        while !other.is_finished() && device.polls() == polls {
            std::thread::yield_now();
        }
        let early = other.is_finished();
        device.complete_all();
        other.join().unwrap();
        let _written = ticket.wait().outcome.unwrap();
        early
    })
}

#[test]
fn truncate_and_punch_wait_for_direct_writes_on_their_way() {
    let truncated = ends_beside_a_direct_write(|bed, file| {
        let set = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        bed.fs.setattr(file.ino(), &set).unwrap();
    });
    assert!(!truncated, "rule O6: truncated under a direct write");
    let punched = ends_beside_a_direct_write(|_, file| {
        file.fallocate(Fallocate::PunchHole, range(0, 8192))
            .unwrap();
    });
    assert!(!punched, "rule O6: punched under a direct write");
}

#[test]
fn a_buffered_write_waits_for_direct_writes_on_their_way() {
    let early = ends_beside_a_direct_write(|_, file| write(file, 0, &[3; 100]));
    assert!(!early, "rule B62: written beside a direct write");
}

#[test]
fn what_went_through_the_cache_for_a_direct_write_is_on_the_device_when_it_answers() {
    let memory = Arc::new(MemoryDevice::new(16 << 20));
    let bed = Bed::on(Arc::clone(&memory) as Arc<dyn BlockDevice>, 4096);
    let file = bed.create("a");
    write(&*file, 0, &[1; 32_768]);
    file.fsync(false).unwrap();
    // Not aligned to anything the device could take.
    let bytes = pattern(5, 301);
    write_with(&*file, 4097, &bytes, IoFlags::DIRECT);
    let mut image = vec![0; 16 << 20];
    read_bytes(&*memory, DevAddr::new(0), &mut image).unwrap();
    let found = image.windows(bytes.len()).any(|window| window == bytes);
    assert!(
        found,
        "rule O9: a direct write answered before its bytes were written"
    );
}
