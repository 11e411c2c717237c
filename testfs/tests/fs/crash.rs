//! Power cuts: at every point where something became durable, what was synced is there and the
//! check finds nothing.

use std::sync::Arc;

use iomap_core::device::{BioOp, BlockDevice, Limits, MemoryDevice};
use iomap_core::units::DevAddr;
use iomap_core::vfs::{Fallocate, IoFlags, SetAttr, Vfs};
use testfs::device::{DeferredDevice, RecordingDevice};
use testfs::format::{BlockRange, FileBlock, Ino};
use testfs::fs::TestFs;
use testfs::meta::extents::ExtentState;

use super::util::*;

const BYTES: u64 = 4 << 20;

/// A device with a volatile cache that remembers every write.
fn recorded() -> (Arc<RecordingDevice<MemoryDevice>>, Bed) {
    let limits = Limits {
        volatile_cache: true,
        ..MemoryDevice::LIMITS
    };
    let memory = MemoryDevice::with_limits(BYTES, limits);
    let device = Arc::new(RecordingDevice::new(memory).unwrap());
    let bed = Bed::on(Arc::clone(&device) as Arc<dyn BlockDevice>, 4096);
    (device, bed)
}

/// Mounts what a power cut left.
fn recovered(image: &[u8]) -> Bed {
    let device: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(BYTES));
    device.write_at(DevAddr::new(0), image).unwrap();
    check(&device);
    let fs: Arc<TestFs> = mount(&device);
    Bed {
        device,
        pmem: None,
        fs,
    }
}

/// Goes through the crash points after `start`: `verify` gets the number of marks passed.
fn replay(device: &RecordingDevice<MemoryDevice>, start: usize, verify: impl Fn(&Bed, usize)) {
    let recording = device.recording();
    for point in recording.flush_points() {
        if point < start {
            continue;
        }
        let marks = recording.marks(point).len();
        let mut images = vec![recording.durable_image(point), recording.image(point)];
        for seed in 0..4 {
            images.push(recording.image_with(point, &recording.fates(point, seed)));
        }
        for image in images {
            verify(&recovered(&image), marks);
        }
    }
}

#[test]
fn synced_appends_are_there() {
    let (device, bed) = recorded();
    let start = device.point();
    let file = bed.create("a");
    let bytes = pattern(1, 200_000);
    let mut ends = vec![0];
    for (n, chunk) in bytes.chunks(9_000).enumerate() {
        write(&*file, n as u64 * 9_000, chunk);
        file.fsync(n % 2 == 0).unwrap();
        device.mark(n as u64);
        ends.push(n * 9_000 + chunk.len());
    }
    replay(&device, start, |bed, marks| {
        if marks == 0 {
            return;
        }
        let content = bed.content("a");
        assert!(
            content.len() >= ends[marks],
            "{} after {marks}",
            content.len()
        );
        assert!(
            content[..ends[marks]] == bytes[..ends[marks]],
            "after {marks} syncs"
        );
        // Beyond what was synced: the data or nothing, never anything else.
        for (found, expected) in content.iter().zip(&bytes).skip(ends[marks]) {
            assert!(*found == *expected || *found == 0);
        }
    });
}

#[test]
fn blocks_freed_and_used_again_never_show_old_content() {
    let (device, bed) = recorded();
    let root = bed.fs.root();
    let secret = vec![0xa5; 1 << 20];
    write(&*bed.create("secret"), 0, &secret);
    bed.fs.sync().unwrap();
    bed.fs.unlink(root, b"secret").unwrap();
    bed.fs.sync().unwrap();
    let start = device.point();
    let file = bed.create("a");
    for n in 0..30_u64 {
        write(&*file, n * 70_000, &vec![0x5a; 50_000]);
        match n % 3 {
            0 => file.fsync(true).unwrap(),
            1 => file.sync_range(range(0, 4 << 20), true).unwrap(),
            _ => write_with(&*file, n * 8192, &vec![0x5a; 8192], IoFlags::DIRECT),
        }
        if n == 15 {
            file.fallocate(Fallocate::PunchHole, range(4096, 300_000))
                .unwrap();
        }
    }
    bed.fs.sync().unwrap();
    replay(&device, start, |bed, _| {
        if bed.fs.lookup(bed.fs.root(), b"a").is_ok() {
            assert!(bed.content("a").iter().all(|b| [0, 0x5a].contains(b)));
        }
    });
}

#[test]
fn a_cut_and_regrown_file_shows_zeroes_behind_the_cut() {
    let (device, bed) = recorded();
    let file = bed.create("a");
    write(&*file, 0, &[7; 10_000]);
    file.fsync(false).unwrap();
    let start = device.point();
    for size in [5_000, 9_000, 100, 20_000] {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        bed.fs.setattr(file.ino(), &set).unwrap();
        device.mark(size);
        if size == 9_000 {
            write(&*file, 12_000, &[8; 100]);
        }
        bed.fs.sync().unwrap();
    }
    replay(&device, start, |bed, _| {
        let content = bed.content("a");
        if content.len() == 10_000 {
            // Before the first cut; what is about to be cut may be zero already.
            assert!(content.iter().all(|b| [0, 7].contains(b)));
            return;
        }
        // Behind the last cut that is durable there is nothing old.
        let kept = if [100, 20_000].contains(&content.len()) {
            100
        } else {
            5_000
        };
        let shown = content.get(kept..).unwrap_or_default();
        assert!(
            shown.iter().all(|b| [0, 8].contains(b)),
            "{}",
            content.len()
        );
    });
}

/// Rule C10.
#[test]
fn a_cut_leaves_zeroes_behind_it_on_the_device() {
    let (device, bed) = recorded();
    let file = bed.create("a");
    write(&*file, 0, &[7; 10_000]);
    file.fsync(false).unwrap();
    let extents = file.fiemap(range(4096, 4096), true).unwrap();
    let block = extents[0].physical.unwrap();
    let start = device.point();
    let set = SetAttr {
        size: Some(5_000),
        ..SetAttr::default()
    };
    bed.fs.setattr(file.ino(), &set).unwrap();
    bed.fs.sync().unwrap();
    replay(&device, start, |bed, _| {
        let mut bytes = [0; 4096];
        bed.device.read_at(block, &mut bytes).unwrap();
        let rest = &bytes[5_000 - 4_096..];
        let size = bed.fs.lookup(bed.fs.root(), b"a").unwrap().size;
        assert!(
            size == 10_000 || rest.iter().all(|b| *b == 0),
            "old bytes behind the cut"
        );
    });
}

#[test]
fn both_sides_of_a_clone_keep_what_was_synced() {
    let (device, bed) = recorded();
    let (a, b) = (bed.create("a"), bed.create("b"));
    let bytes = pattern(1, 100_000);
    write(&*a, 0, &bytes);
    a.clone_range(range(0, 100_000), &*b, at(0)).unwrap();
    bed.fs.sync().unwrap();
    let start = device.point();
    let mut expected = vec![bytes.clone()];
    for n in 0..10_u64 {
        let mut next = expected.last().unwrap().clone();
        let new = pattern(n, 6000);
        write(&*b, n * 9000, &new);
        next[n as usize * 9000..][..6000].copy_from_slice(&new);
        b.fsync(true).unwrap();
        device.mark(n);
        expected.push(next);
    }
    replay(&device, start, |bed, marks| {
        assert!(bed.content("a") == bytes);
        let content = bed.content("b");
        let known = [Some(&expected[marks]), expected.get(marks + 1)];
        for (n, byte) in content.iter().enumerate() {
            assert!(
                known.iter().flatten().any(|e| e[n] == *byte),
                "byte {n} after {marks}"
            );
        }
    });
}

#[test]
fn names_are_all_or_nothing() {
    let (device, bed) = recorded();
    let root = bed.fs.root();
    let start = device.point();
    for n in 0..40_u64 {
        let name = format!("f{n}");
        write(&*bed.create(&name), 0, &n.to_le_bytes());
        if n >= 10 {
            let old = format!("f{}", n - 10);
            bed.fs.unlink(root, old.as_bytes()).unwrap();
        }
        if n % 5 == 0 {
            bed.fs.sync().unwrap();
            device.mark(n);
        }
    }
    replay(&device, start, |bed, marks| {
        let Some(last) = marks.checked_sub(1).map(|m| m as u64 * 5) else {
            return;
        };
        for n in last.saturating_sub(9)..=last {
            if n + 5 <= last {
                // Removed before the next sync, whose commit may be durable already.
                continue;
            }
            assert_eq!(bed.content(&format!("f{n}")), n.to_le_bytes());
        }
    });
}

#[test]
fn what_was_written_in_the_background_is_found_after_a_crash_without_a_sync() {
    let bed = Bed::new(BYTES);
    bed.fs.unmount().unwrap();
    let options = testfs::fs::MountOptions {
        commit_interval: Some(std::time::Duration::from_millis(1)),
        ..Default::default()
    };
    let fs = TestFs::mount(Arc::clone(&bed.device), options).unwrap();
    let bed = Bed {
        pmem: None,
        device: Arc::clone(&bed.device),
        fs,
    };
    let file = bed.create("a");
    write(&*file, 0, &pattern(1, 100_000));
    write(&*bed.create("b"), 0, b"inline");
    file.sync_range(range(0, 100_000), true).unwrap();
    let inline = testfs::format::Ino::new(bed.ino("b").0);
    let in_tree = |ino| bed.fs.meta().read(|view| view.inode(ino)).unwrap().size > 0;
    let meta = bed.fs.meta();
    while !in_tree(inline) || meta.durable_generation() < meta.newest_generation() {
        std::thread::yield_now();
    }
    let after = mount(&bed.device);
    let bed = Bed {
        pmem: None,
        device: Arc::clone(&bed.device),
        fs: after,
    };
    assert!(bed.content("a") == pattern(1, 100_000));
    assert_eq!(bed.content("b"), b"inline");
}

/// Bytes of each of two runs of a file, and where the second begins.
const RUN: u64 = 65_536;
const SECOND: u64 = 4 * RUN;

#[test]
fn a_commit_while_a_truncate_waits_for_writeback_leaves_nothing_past_the_end() {
    let memory = MemoryDevice::new(BYTES);
    let held = DeferredDevice::manual(memory);
    let device = Arc::new(held.holding(|held| held.op == BioOp::WRITE && held.len == RUN));
    let bed = Bed::on(Arc::clone(&device) as Arc<dyn BlockDevice>, 4096);
    let (file, other) = (bed.create("a"), bed.create("b"));
    let ino = bed.ino("a");
    for pos in [0, SECOND] {
        write(&*file, pos, &pattern(pos, RUN as usize));
    }
    file.sync_range(range(0, 2 * SECOND), false).unwrap();
    device.wait_held(2);
    std::thread::scope(|scope| {
        let truncate = scope.spawn(|| bed.fs.setattr(ino, &size(4096)));
        while bed.fs.getattr(ino).unwrap().size != 4096 {
            std::thread::yield_now();
        }
        // One run is written; for the other the truncate waits.
        assert!(device.complete_next());
        let first = BlockRange::from(FileBlock::new(0));
        let converted = || {
            let extent = bed
                .fs
                .meta()
                .read(|view| view.extent_at(Ino::new(ino.0), first));
            matches!(extent.unwrap().state, ExtentState::Mapped { unwritten, .. } if !unwritten)
        };
        while !converted() {
            std::thread::yield_now();
        }
        other.fsync(false).unwrap();
        let image = device.inner().image();
        device.complete_all();
        truncate.join().unwrap().unwrap();
        drop(recovered(&image));
    });
    assert_eq!(bed.content("a"), pattern(0, 4096));
}
