//! DAX files of a mounted testfs: synchronous mappings across crashes, pins, the flag of a file.

use std::sync::Arc;

use fastrand::Rng;
use iomap_core::dax::DaxDevice;
use iomap_core::error::Errno;
use iomap_core::fiemap::Extent;
use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{Access, MapOptions, Prot};
use iomap_core::units::{DevAddr, FilePos, FileRange, PageIndex};
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, SetAttr, Vfs};
use testfs::device::PmemDevice;
use testfs::fs::MountOptions;

use super::util::*;

const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

fn new_bed() -> Bed {
    Bed::dax(32 * MIB, 4096)
}

fn truncate(bed: &Bed, file: &dyn OpenFile, size: u64) -> iomap_core::error::Result<()> {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    bed.fs.setattr(file.ino(), &set).map(|_| ())
}

/// Where a byte of a file is on the device.
fn addr_of(file: &dyn OpenFile, pos: u64) -> DevAddr {
    let extents = file.fiemap(FileRange::ALL, false).unwrap();
    let holds = |e: &&Extent| e.range.contains(at(pos));
    let extent = extents.iter().find(holds).unwrap();
    let skipped = pos - extent.range.start().bytes();
    DevAddr::new(extent.physical.unwrap().bytes() + skipped)
}

/// What a program does with a synchronous mapping: store, then flush the lines itself.
fn store_and_flush(bed: &Bed, file: &Arc<dyn OpenFile>, to: &SoftMapping, pos: u64, bytes: &[u8]) {
    to.store(at(pos), bytes).unwrap();
    let pmem = bed.pmem.as_ref().unwrap();
    pmem.persist(addr_of(&**file, pos), bytes.len() as u64)
        .unwrap();
}

/// Every image a power cut may leave: the worst, what the processor saw, and some between.
fn crash_images(pmem: &PmemDevice) -> Vec<Vec<u8>> {
    let mut images = vec![pmem.durable_image(), pmem.image()];
    images.extend((0..6).map(|seed| pmem.crash_image(&mut Rng::with_seed(seed))));
    images
}

/// What `name` holds after each of the crashes, up to `len`.
fn after_crashes(pmem: &PmemDevice, name: &str, len: usize) -> Vec<Vec<u8>> {
    let after = |image: Vec<u8>| {
        let bed = Bed::on_pmem(PmemDevice::from_image(&image).unwrap(), dax_mount());
        let mut bytes = bed.content(name);
        bed.fs.unmount().unwrap();
        check(&bed.device);
        bytes.truncate(len);
        bytes
    };
    crash_images(pmem).into_iter().map(after).collect()
}

#[test]
fn what_a_synchronous_mapping_stored_and_flushed_is_in_every_crash_image() {
    let bed = Bed::dax(4 * MIB, 4096);
    let file = bed.create("a");
    truncate(&bed, &*file, 64 * PAGE).unwrap();
    file.fsync(false).unwrap();
    let mapping = map(&file, MapOptions::SYNC);
    let mut rng = Rng::with_seed(7);
    let mut model = vec![0; 64 * PAGE as usize];
    for round in 0..6_u64 {
        let pos = rng.u64(..63) * PAGE + rng.u64(..4000);
        let bytes = pattern(round, 90);
        store_and_flush(&bed, &file, &mapping, pos, &bytes);
        model[pos as usize..][..90].copy_from_slice(&bytes);
        // Metadata of others is on its way meanwhile.
        write(&*bed.create(&format!("other{round}")), 0, &[1; 9000]);
        for left in after_crashes(bed.pmem.as_ref().unwrap(), "a", model.len()) {
            assert!(
                left == model,
                "round {round}: the stores are not all there (rule S1)"
            );
        }
    }
}

/// The block is there and committed; only the size is still to follow.
#[test]
fn a_store_beyond_the_durable_size_is_found_after_a_crash() {
    let bed = new_bed();
    let file = bed.create("a");
    write(&*file, 0, &[1; 5000]);
    file.fsync(false).unwrap();
    let before = bed.fs.meta().newest_generation();
    write(&*file, 5000, &[2; 2000]);
    assert_eq!(
        bed.fs.meta().newest_generation(),
        before,
        "growing inside a block is free"
    );
    let mapping = map(&file, MapOptions::SYNC);
    store_and_flush(&bed, &file, &mapping, 6000, b"found");
    for left in after_crashes(bed.pmem.as_ref().unwrap(), "a", usize::MAX) {
        assert_eq!(left.get(6000..6005), Some(&b"found"[..]), "rule S4");
    }
}

/// What was in a block before, or was written and not synced, is not seen when the file grows later.
#[test]
fn a_file_that_grows_after_a_crash_shows_zeroes() {
    let bed = new_bed();
    let old = bed.create("old");
    write(&*old, 0, &vec![0xee; 20 * MIB as usize]);
    old.fsync(false).unwrap();
    drop(old);
    bed.fs.unlink(bed.fs.root(), b"old").unwrap();
    bed.fs.sync().unwrap();
    let file = bed.create("a");
    write(&*file, 0, &[1; 5000]);
    file.fsync(false).unwrap();
    write(&*file, 5000, &vec![2; 50_000]);
    for image in crash_images(bed.pmem.as_ref().unwrap()) {
        let bed = Bed::on_pmem(PmemDevice::from_image(&image).unwrap(), dax_mount());
        let size = bed.fs.getattr(bed.ino("a")).unwrap().size as usize;
        truncate(&bed, &*bed.open("a"), 100_000).unwrap();
        let bytes = bed.content("a");
        assert!(bytes[..5000].iter().all(|byte| *byte == 1));
        assert!(bytes[5000..size].iter().all(|byte| [0, 2].contains(byte)));
        assert!(bytes[size..].iter().all(|byte| *byte == 0), "{size}");
    }
}

#[test]
fn fsync_makes_stores_of_any_mapping_durable() {
    let mut bed = new_bed();
    let file = bed.create("a");
    write(&*file, 0, &pattern(1, 3 * 4096));
    let mapping = map(&file, MapOptions::empty());
    mapping.store(at(5000), b"stored").unwrap();
    file.fsync(true).unwrap();
    let mut wanted = pattern(1, 3 * 4096);
    wanted[5000..5006].copy_from_slice(b"stored");
    for left in after_crashes(bed.pmem.as_ref().unwrap(), "a", usize::MAX) {
        assert!(left == wanted);
    }
    drop((mapping, file));
    bed.remount();
    assert!(bed.content("a") == wanted);
}

/// An operation that frees or moves blocks, by name.
type Change = (
    &'static str,
    fn(&Bed, &Arc<dyn OpenFile>) -> iomap_core::error::Result<()>,
);

const CHANGES: [Change; 9] = [
    ("truncate", |bed, file| truncate(bed, &**file, PAGE)),
    ("open with truncation", |bed, file| {
        let flags = RW | iomap_core::vfs::OpenFlags::TRUNCATE;
        bed.fs.open(file.ino(), flags).map(|_| ())
    }),
    ("punch", |_, f| {
        f.fallocate(Fallocate::PunchHole, range(PAGE, 3 * PAGE))
    }),
    ("zero", |_, f| {
        f.fallocate(Fallocate::ZeroRange, range(PAGE, 3 * PAGE))
    }),
    ("zero, keep size", |_, f| {
        f.fallocate(Fallocate::ZeroRangeKeepSize, range(PAGE, 3 * PAGE))
    }),
    ("collapse", |_, f| {
        f.fallocate(Fallocate::CollapseRange, range(0, PAGE))
    }),
    ("insert", |_, f| {
        f.fallocate(Fallocate::InsertRange, range(0, PAGE))
    }),
    ("reflink over it", |bed, file| {
        bed.open("source")
            .clone_range(range(0, 4 * PAGE), &**file, at(0))
    }),
    ("reflink from it", |bed, file| {
        file.clone_range(range(0, 4 * PAGE), &*bed.open("target"), at(0))
    }),
];

#[test]
fn every_operation_that_frees_or_moves_blocks_waits_for_pins() {
    for (name, change) in CHANGES {
        let bed = new_bed();
        for other in ["source", "target"] {
            write(&*bed.create(other), 0, &[9; 4 * 4096]);
        }
        let file = bed.create("a");
        write(&*file, 0, &pattern(3, 8 * 4096));
        let mapping = map(&file, MapOptions::empty());
        let pin = mapping.pin(PageIndex::new(2), Access::Store).unwrap();
        let before = (file.fiemap(FileRange::ALL, true).unwrap(), bed.content("a"));
        let refused = change(&bed, &file);
        assert!(refused.is_err(), "{name} (rule D6)");
        assert_eq!(errno(refused), Errno::TIMEDOUT, "{name}");
        let after = (file.fiemap(FileRange::ALL, true).unwrap(), bed.content("a"));
        assert!(
            before == after,
            "{name}: refused, and yet something has changed (rule D5)"
        );
        // The pinned page is its own data still.
        pin.write(0, b"DMA");
        assert_eq!(read(&*file, 2 * PAGE, 3), b"DMA", "{name}");
        drop(pin);
        assert_eq!(change(&bed, &file).map_err(|e| e.errno()), Ok(()), "{name}");
        file.fsync(false).unwrap();
        drop((mapping, file));
        bed.fs.unmount().unwrap();
        check(&bed.device);
    }
}

#[test]
fn a_file_whose_pages_are_pinned_is_not_deleted_with_its_last_user() {
    let mut bed = new_bed();
    let file = bed.create("a");
    write(&*file, 0, &[1; 2 * 4096]);
    let mapping = map(&file, MapOptions::empty());
    let pin = mapping.pin(PageIndex::new(1), Access::Store).unwrap();
    bed.fs.unlink(bed.fs.root(), b"a").unwrap();
    drop((mapping, file));
    let other = bed.create("b");
    write(&*other, 0, &vec![b'Q'; 30 * MIB as usize / 2]);
    bed.fs.sync().unwrap();
    pin.write(0, b"DMA");
    assert!(bed.content("b").iter().all(|byte| *byte == b'Q'), "rule D1");
    drop((pin, other));
    bed.remount();
    assert_eq!(errno(bed.fs.lookup(bed.fs.root(), b"a")), Errno::NOENT);
}

#[test]
fn mappings_show_the_file_after_every_operation() {
    let bed = new_bed();
    let file = bed.create("a");
    let bytes = pattern(5, 8 * 4096);
    write(&*file, 0, &bytes);
    let mapping = map(&file, MapOptions::empty());
    let same = |what: &str| {
        let size = bed.fs.getattr(file.ino()).unwrap().size as usize;
        let mut seen = vec![0; size];
        mapping.load(FilePos::ZERO, &mut seen).unwrap();
        assert!(seen == read(&*file, 0, size), "{what}");
        mapping.store(at(PAGE + 7), what.as_bytes()).unwrap();
    };
    same("written");
    for (name, change) in CHANGES {
        if name.starts_with("reflink") {
            continue;
        }
        write(&*file, 0, &bytes);
        same("before");
        change(&bed, &file).unwrap();
        truncate(&bed, &*file, 8 * PAGE).unwrap();
        same(name);
    }
}

#[test]
fn a_small_file_leaves_its_inode_when_it_is_mapped() {
    let bed = new_bed();
    let file = bed.create("a");
    write(&*file, 0, b"tiny");
    let mapping = map(&file, MapOptions::empty());
    let mut seen = [0xaa; 6];
    mapping.load(at(0), &mut seen).unwrap();
    assert_eq!(&seen, b"tiny\0\0");
    mapping.store(at(1), b"h").unwrap();
    assert_eq!(bed.content("a"), b"thny");
}

#[test]
fn the_flag_of_a_file_counts_from_its_next_time_in_memory() {
    let bed = new_bed();
    let pmem = bed.pmem.clone().unwrap();
    let (dax, cached) = (bed.create("dax"), bed.create("cached"));
    bed.fs.set_dax(dax.ino(), true).unwrap();
    write(&*dax, 0, &[1; 9000]);
    write(&*cached, 0, &[2; 9000]);
    bed.fs.unmount().unwrap();
    drop((dax, cached, bed));
    let options = MountOptions {
        dax: false,
        ..dax_mount()
    };
    let bed = Bed::on_pmem(pmem, options);
    let before = bed.fs.counters();
    assert_eq!(bed.content("dax"), [1; 9000]);
    assert_eq!(bed.content("cached"), [2; 9000]);
    let since = bed.fs.counters().since(&before);
    assert_eq!(
        (since.dax_read_bytes, since.buffered_read_bytes),
        (9000, 9000)
    );
    let dir = bed.fs.root();
    assert_eq!(errno(bed.fs.set_dax(dir, true)), Errno::INVAL);
}

#[test]
fn a_lost_page_of_the_medium_is_an_error_of_its_file_alone() {
    let bed = new_bed();
    let (bad, good) = (bed.create("bad"), bed.create("good"));
    write(&*bad, 0, &[1; 3 * 4096]);
    write(&*good, 0, &[2; 3 * 4096]);
    let pmem = bed.pmem.as_ref().unwrap();
    pmem.lose_page(addr_of(&*bad, PAGE));
    assert_eq!(read(&*good, 0, 3 * 4096), [2; 3 * 4096]);
    assert_eq!(read(&*bad, 2 * PAGE, 100), [1; 100]);
    let mut bytes = [0; 10];
    let error = bad.read_at(at(PAGE), &mut bytes, iomap_core::vfs::IoFlags::empty());
    assert_eq!(errno(error), Errno::IO);
    write(&*good, 0, &[3; 100]);
    good.fsync(false).unwrap();
}

// ---- a program's own loads and stores

fn real(file: &Arc<dyn OpenFile>, len: u64, options: MapOptions) -> Mapping {
    let both = Prot::READ | Prot::WRITE;
    file.mmap_as(range(0, len), both, true, options).unwrap()
}

fn loaded(mapping: &Mapping, pos: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xCC; len];
    mapping.load(at(pos), &mut bytes).unwrap();
    bytes
}

/// Every operation that moves, frees or copies blocks, with all of them mapped writable before.
#[test]
fn a_real_mapping_shows_the_file_whatever_becomes_of_its_blocks() {
    let mut bed = new_bed();
    let mut model = pattern(1, 24 * PAGE as usize);
    let (file, clone, small) = (bed.create("a"), bed.create("b"), bed.create("small"));
    write(&*file, 0, &model);
    write(&*small, 0, b"inline");
    {
        let mapping = real(&file, 24 * PAGE, MapOptions::empty());
        let theirs = real(&clone, 24 * PAGE, MapOptions::empty());
        let few = real(&small, PAGE, MapOptions::empty());
        let store = |seed: u64, model: &mut [u8]| {
            for n in 0..model.len() as u64 / PAGE {
                let pos = n * PAGE + seed;
                mapping.store(at(pos), &[seed as u8]).unwrap();
                model[pos as usize] = seed as u8;
            }
            assert!(
                loaded(&mapping, 0, model.len()) == model,
                "after step {seed}"
            );
        };
        store(1, &mut model);
        file.fallocate(Fallocate::PunchHole, range(3 * PAGE, 2 * PAGE))
            .unwrap();
        model[3 * PAGE as usize..5 * PAGE as usize].fill(0);
        store(2, &mut model);
        file.fallocate(Fallocate::CollapseRange, range(6 * PAGE, PAGE))
            .unwrap();
        model.drain(6 * PAGE as usize..7 * PAGE as usize);
        store(3, &mut model);
        file.fallocate(Fallocate::InsertRange, range(8 * PAGE, PAGE))
            .unwrap();
        let new = vec![0; PAGE as usize];
        model.splice(8 * PAGE as usize..8 * PAGE as usize, new);
        store(4, &mut model);
        file.clone_range(range(0, 24 * PAGE), &*clone, at(0))
            .unwrap();
        let cloned = model.clone();
        store(5, &mut model);
        assert!(loaded(&theirs, 0, cloned.len()) == cloned);
        truncate(&bed, &*file, 10 * PAGE + 100).unwrap();
        truncate(&bed, &*file, 24 * PAGE).unwrap();
        model[10 * PAGE as usize + 100..].fill(0);
        store(6, &mut model);
        few.store(at(2), b"more").unwrap();
        assert_eq!(bed.content("small"), b"inmore");
    }
    drop((file, clone, small));
    bed.remount();
    assert!(bed.content("a") == model);
    assert_eq!(bed.content("small"), b"inmore");
}

/// The buffer of a call may lie in a mapping of the same file, of which no page is there.
#[test]
fn a_buffer_in_a_real_mapping_of_the_same_file_is_read_and_written() {
    let bed = new_bed();
    let file = bed.create("a");
    let mut model = pattern(1, 8 * PAGE as usize);
    write(&*file, 0, &model);
    let mapping = real(&file, 8 * PAGE, MapOptions::empty());
    // SAFETY: inside the mapping, used by one thread; the test itself looks at copies only.
    let page = |n: usize| unsafe {
        std::slice::from_raw_parts_mut(mapping.as_ptr().add(n * PAGE as usize), PAGE as usize)
    };
    for direct in [IoFlags::empty(), IoFlags::DIRECT] {
        assert_eq!(
            file.write_at(at(2 * PAGE), page(5), direct).unwrap(),
            PAGE as usize
        );
        model.copy_within(5 * PAGE as usize..6 * PAGE as usize, 2 * PAGE as usize);
        assert_eq!(file.read_at(at(0), page(7), direct).unwrap(), PAGE as usize);
        model.copy_within(0..PAGE as usize, 7 * PAGE as usize);
        assert!(bed.content("a") == model);
    }
}

#[test]
fn what_a_real_synchronous_mapping_stored_and_flushed_is_in_every_crash_image() {
    let bed = Bed::dax(4 * MIB, 4096);
    let file = bed.create("a");
    truncate(&bed, &*file, 16 * PAGE).unwrap();
    file.fsync(false).unwrap();
    let mapping = real(&file, 16 * PAGE, MapOptions::SYNC);
    let pmem = bed.pmem.as_ref().unwrap();
    let mut model = vec![0; 16 * PAGE as usize];
    for (round, pos) in [(1, 5 * PAGE + 7), (2, 0), (3, 15 * PAGE + 4000)] {
        let bytes = pattern(round, 90);
        mapping.store(at(pos), &bytes).unwrap();
        pmem.persist(addr_of(&*file, pos), 90).unwrap();
        model[pos as usize..][..90].copy_from_slice(&bytes);
        for left in after_crashes(pmem, "a", model.len()) {
            assert!(
                left == model,
                "round {round}: the stores are not all there (rule S1)"
            );
        }
    }
}

/// What was stored where the clone was to go stays, and the next sync makes it durable.
#[test]
fn a_clone_that_is_refused_leaves_stores_to_its_destination() {
    let mut bed = new_bed();
    let (source, file) = (bed.create("source"), bed.create("a"));
    truncate(&bed, &*file, 4 * PAGE).unwrap();
    let mapping = map(&file, MapOptions::empty());
    mapping.store(at(PAGE), b"stored").unwrap();
    let refused = source.clone_range(range(0, 4 * PAGE), &*file, at(0));
    assert_eq!(refused.unwrap_err().errno(), Errno::INVAL);
    file.fsync(false).unwrap();
    drop((mapping, source, file));
    bed.crash();
    assert_eq!(read(&*bed.open("a"), PAGE, 6), b"stored");
}

/// A block of several pages becomes another one as a whole: no mapping goes on showing what was
/// there before in the pages that nobody stored to.
#[test]
fn pages_beside_a_store_follow_their_block() {
    for by_call in [false, true] {
        for shared in [false, true] {
            let bed = Bed::dax(32 * MIB, 16_384);
            let (file, clone) = (bed.create("a"), bed.create("b"));
            truncate(&bed, &*file, 4 * PAGE).unwrap();
            if shared {
                write(&*file, 0, &[1; 4 * PAGE as usize]);
                file.clone_range(range(0, 4 * PAGE), &*clone, at(0))
                    .unwrap();
            }
            let mapping = map(&file, MapOptions::empty());
            let mut all = vec![9; 4 * PAGE as usize];
            mapping.load(at(0), &mut all).unwrap();
            assert_eq!(all, vec![u8::from(shared); 4 * PAGE as usize]);
            if by_call {
                write(&*file, 2 * PAGE, b"new");
            } else {
                mapping.store(at(2 * PAGE), b"new").unwrap();
            }
            write(&*file, PAGE, b"call");
            write(&*file, 3 * PAGE, b"call");
            for (page, wanted) in [(1, &b"call"[..]), (2, b"new"), (3, b"call")] {
                let mut found = vec![0; wanted.len()];
                mapping.load(at(page * PAGE), &mut found).unwrap();
                assert_eq!(
                    found, wanted,
                    "page {page}, by call {by_call}, shared {shared}"
                );
            }
        }
    }
}
