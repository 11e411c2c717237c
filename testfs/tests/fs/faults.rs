//! A device that fails: the caller hears of it, once, and nothing else is damaged.

use std::sync::Arc;

use iomap_core::device::{BlockDevice, MemoryDevice};
use iomap_core::error::{DeviceOp, Errno};
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, Vfs};
use testfs::device::{Fault, FaultyDevice, When};

use super::util::*;

fn faulty() -> (Arc<FaultyDevice<MemoryDevice>>, Bed) {
    let device = Arc::new(FaultyDevice::new(MemoryDevice::new(32 << 20), 1));
    let bed = Bed::on(Arc::clone(&device) as Arc<dyn BlockDevice>, 4096);
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
