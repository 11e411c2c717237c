//! A device that fails: the caller hears of it, once, and nothing else is damaged.

use std::sync::Arc;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{DeviceOp, Errno};
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, Vfs};
use testfs::device::{Fault, FaultyDevice, When};

use super::util::*;

fn faulty() -> (Arc<FaultyDevice<MemoryDevice>>, Bed) {
    faulty_with(4096)
}

fn faulty_with(block_size: u32) -> (Arc<FaultyDevice<MemoryDevice>>, Bed) {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(32 << 20), 1));
    let bed = Bed::on(Arc::clone(&device) as Arc<dyn BlockDevice>, block_size);
    (device, bed)
}

/// Fails writes of what the file has.
fn fail_data(device: &FaultyDevice<MemoryDevice>, file: &dyn OpenFile) {
    for extent in file.fiemap(range(0, 4 << 20), false).unwrap() {
        let start = extent.physical.unwrap().bytes();
        let fault = Fault::new(Errno::IO).on(DeviceOp::Write);
        device.plan(fault.within(start..start + extent.range.len()));
    }
}

#[test]
fn a_failed_data_write_is_reported_by_every_open_file_once() {
    let (device, bed) = faulty();
    let (file, other) = (bed.create("a"), bed.open("a"));
    write(&*file, 0, &pattern(1, 100_000));
    file.fsync(false).unwrap();
    fail_data(&device, &*file);
    write(&*file, 0, &pattern(2, 8192));
    assert_eq!(errno(file.fsync(false)), Errno::IO);
    device.heal();
    file.fsync(false).unwrap();
    assert_eq!(errno(other.fsync(false)), Errno::IO);
    other.fsync(false).unwrap();
    write(&*file, 0, &pattern(3, 8192));
    file.fsync(false).unwrap();
    assert_eq!(read(&*file, 0, 8192), pattern(3, 8192));
}

/// A file of `len` bytes on the device, and writes of its blocks fail from here on.
fn lossy(
    bed: &Bed,
    device: &FaultyDevice<MemoryDevice>,
    name: &str,
    len: usize,
) -> Arc<dyn OpenFile> {
    let file = bed.create(name);
    write(&*file, 0, &pattern(1, len));
    file.fsync(false).unwrap();
    fail_data(device, &*file);
    file
}

#[test]
fn lost_data_is_reported_by_the_next_sync_of_everything_and_by_an_unmount() {
    let (device, bed) = faulty();
    let file = lossy(&bed, &device, "a", 100_000);
    write(&*file, 0, &pattern(2, 8192));
    // Written in the background: nobody waits for it.
    assert_eq!(errno(bed.fs.sync()), Errno::IO);
    bed.fs.sync().unwrap();
    // Each open file hears of it as well.
    assert_eq!(errno(file.fsync(false)), Errno::IO);
    write(&*file, 0, &pattern(2, 8192));
    drop(file);
    assert_eq!(errno(bed.fs.unmount()), Errno::IO);
}

#[test]
fn a_file_stays_in_memory_until_somebody_was_told_of_its_lost_data() {
    let (device, mut bed) = faulty();
    bed.fs.unmount().unwrap();
    bed.fs = mount_with(&bed.device, |options| options.idle_inodes = 0);
    let file = lossy(&bed, &device, "a", 100_000);
    write(&*file, 0, &pattern(2, 8192));
    // Nobody uses it any more: it is written and would leave.
    drop(file);
    device.heal();
    assert_eq!(errno(bed.open("a").fsync(false)), Errno::IO);
    bed.open("a").fsync(false).unwrap();
    assert_eq!(bed.fs.inodes_in_memory(), 0);
}

#[test]
fn a_sync_of_a_closed_file_reports_what_was_lost() {
    let (device, bed) = faulty();
    let file = lossy(&bed, &device, "a", 100_000);
    write(&*file, 0, &pattern(2, 8192));
    drop(file);
    assert_eq!(errno(bed.fs.fsync_inode(bed.ino("a"), false)), Errno::IO);
    bed.fs.fsync_inode(bed.ino("a"), false).unwrap();
}

#[test]
fn lost_data_is_not_cloned_before_its_owner_knows() {
    let (device, bed) = faulty();
    let (file, copy) = (lossy(&bed, &device, "a", 65_536), bed.create("b"));
    write(&*file, 0, &pattern(2, 8192));
    let nobody_waits = file.sync_range(range(0, 65_536), false);
    nobody_waits.unwrap();
    // The cache shows the new bytes, the device has the old ones.
    while bed.fs.counters().writeback_errors == 0 {
        std::thread::yield_now();
    }
    device.heal();
    let clone = || file.clone_range(range(0, 65_536), &*copy, at(0));
    assert_eq!(errno(clone()), Errno::IO);
    assert!(bed.content("b").is_empty());
    assert_eq!(errno(file.fsync(false)), Errno::IO);
    clone().unwrap();
    assert_eq!(bed.content("b"), pattern(1, 65_536));
}

/// Extents of the file that is cut, and bytes from one to the next.
const STRIPES: u64 = 800;
const STRIPE: u64 = 2048;

/// What a truncate to one block leaves if the n-th read it needs fails; `None` if it needs fewer.
fn cut_with_a_failing_read(n: u64) -> Option<(Bed, Arc<dyn OpenFile>)> {
    let (device, mut bed) = faulty_with(1024);
    // Its inode shares no node with what every look at an extent needs.
    for n in 0..64 {
        drop(bed.create(&format!("before {n}")));
    }
    let file = bed.create("a");
    // As many extents as blocks: the tree of the file has more nodes than are kept in memory.
    for block in 0..STRIPES {
        write(&*file, block * STRIPE, &pattern(block, 1024));
    }
    drop(file);
    bed.fs.unmount().unwrap();
    bed.fs = mount_with(&bed.device, |options| options.cached_nodes = 1);
    let file = bed.open("a");
    let ino = bed.ino("a");
    // Looks at the rest of the tree until what it begins with has left memory.
    for quarter in [1, 2, 3, 1, 2, 3] {
        let len = STRIPES / 4 * STRIPE;
        file.fiemap(range(quarter * len, len), false).unwrap();
    }
    let fault = Fault::new(Errno::IO).on(DeviceOp::Read);
    device.plan(fault.when(When::Nth(n)));
    let cut = bed.fs.setattr(ino, &size(1024));
    let failed = device.counts().failed > 0;
    device.heal();
    assert!(failed || cut.is_ok());
    failed.then_some((bed, file))
}

#[test]
fn what_a_failed_truncate_left_does_not_come_back_when_the_file_grows() {
    let mut cut = 0;
    for n in 0.. {
        let Some((mut bed, file)) = cut_with_a_failing_read(n) else {
            break;
        };
        if bed.fs.getattr(bed.ino("a")).unwrap().size != 1024 {
            continue;
        }
        cut += 1;
        // By a write behind the end, and by a truncate.
        let (middle, end) = (STRIPES / 2 * STRIPE, STRIPES * STRIPE);
        let mut expected = vec![0; end as usize];
        expected[..1024].copy_from_slice(&pattern(0, 1024));
        expected[middle as usize..][..3].copy_from_slice(b"new");
        write(&*file, middle, b"new");
        let content = bed.content("a");
        assert!(content == expected[..content.len()], "read {n} failed");
        bed.fs.setattr(bed.ino("a"), &size(end)).unwrap();
        assert!(bed.content("a") == expected, "read {n} failed");
        drop(file);
        bed.remount();
        assert!(bed.content("a") == expected, "read {n} failed");
    }
    assert!(cut > 0, "no read failed behind the change of the size");
}

#[test]
fn a_sync_after_a_failed_truncate_makes_the_size_durable() {
    for n in 0.. {
        let Some((mut bed, file)) = cut_with_a_failing_read(n) else {
            break;
        };
        let size = bed.fs.getattr(bed.ino("a")).unwrap().size;
        write(&*file, size - 1, b"x");
        file.fsync(true).unwrap();
        drop(file);
        bed.crash();
        assert_eq!(bed.fs.getattr(bed.ino("a")).unwrap().size, size, "{n}");
    }
}

#[test]
fn a_failed_write_of_new_blocks_leaves_them_unwritten() {
    let (device, mut bed) = faulty();
    let file = bed.create("a");
    write(&*file, 0, &[1; 100]);
    file.fallocate(Fallocate::Allocate, range(0, 1 << 20))
        .unwrap();
    file.fsync(false).unwrap();
    fail_data(&device, &*file);
    write(&*file, 65_536, &pattern(2, 65_536));
    assert_eq!(errno(file.fsync(false)), Errno::IO);
    device.heal();
    drop(file);
    assert_eq!(errno(bed.fs.sync()), Errno::IO);
    bed.remount();
    let content = bed.content("a");
    assert!(content[65_536..131_072].iter().all(|b| *b == 0));
}

#[test]
fn after_a_failed_commit_nothing_is_changed_any_more_and_reading_goes_on() {
    let (device, mut bed) = faulty();
    let file = bed.create("a");
    let bytes = pattern(1, 100_000);
    write(&*file, 0, &bytes);
    file.fsync(false).unwrap();
    device.plan(Fault::new(Errno::IO).on(DeviceOp::Flush));
    write(&*file, 0, b"new");
    assert_eq!(errno(file.fsync(false)), Errno::IO);
    device.heal();
    assert_eq!(
        errno(file.write_at(at(0), b"x", IoFlags::empty())),
        Errno::ROFS
    );
    assert_eq!(errno(bed.fs.mkdir(bed.fs.root(), b"d", &NEW)), Errno::ROFS);
    assert_eq!(errno(file.fsync(false)), Errno::IO);
    assert_eq!(read(&*file, 3, 100_000), bytes[3..]);
    bed.crash();
    assert_eq!(bed.content("a")[3..], bytes[3..]);
}

#[test]
fn every_single_failed_request_is_survived() {
    for n in 0..60 {
        let (device, bed) = faulty();
        write(&*bed.create("a"), 0, &pattern(1, 50_000));
        bed.fs.sync().unwrap();
        device.plan(Fault::new(Errno::IO).when(When::Nth(n)));
        // Any of these may fail; none may hang, panic or lie.
        let root = bed.fs.root();
        let made = bed.fs.mkdir(root, b"d", &NEW);
        let file = bed.open("a");
        let _any = file.write_at(at(10_000), &pattern(2, 50_000), IoFlags::empty());
        let synced = file.fsync(false);
        let _any = bed.fs.unlink(root, b"a");
        let all = bed.fs.sync();
        device.heal();
        drop(file);
        let _any = bed.fs.unmount();
        check(&bed.device);
        let fs = mount(&bed.device);
        if made.is_ok() && (synced.is_ok() || all.is_ok()) {
            fs.lookup(root, b"d").unwrap();
        }
    }
}

#[test]
fn a_read_only_mount_refuses_every_change() {
    let mut bed = Bed::new(16 << 20);
    write(&*bed.create("a"), 0, &pattern(1, 10_000));
    bed.fs.unmount().unwrap();
    let options = testfs::fs::MountOptions {
        read_only: true,
        ..Default::default()
    };
    bed.fs = testfs::fs::TestFs::mount(Arc::clone(&bed.device), options).unwrap();
    let (root, ino) = (bed.fs.root(), bed.ino("a"));
    assert_eq!(errno(bed.fs.open(ino, RW).map(|_| ())), Errno::ROFS);
    let file = bed.fs.open(ino, iomap_core::vfs::OpenFlags::READ).unwrap();
    assert_eq!(read(&*file, 0, 10_000), pattern(1, 10_000));
    assert_eq!(errno(bed.fs.unlink(root, b"a")), Errno::ROFS);
    assert_eq!(errno(bed.fs.mkdir(root, b"d", &NEW)), Errno::ROFS);
    file.fsync(false).unwrap();
    bed.fs.unmount().unwrap();
}
