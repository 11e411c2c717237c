//! Shared storage: both sides keep their own content.

use iomap_core::error::Errno;
use iomap_core::vfs::{Fallocate, IoFlags, Vfs};

use super::util::*;

const LEN: usize = 300_000;

#[test]
fn a_clone_has_the_content_and_no_storage_of_its_own() {
    for block_size in [1024, 4096, 16384] {
        let mut bed = Bed::with_blocks(32 << 20, block_size);
        let bytes = pattern(1, LEN);
        let (a, b) = (bed.create("a"), bed.create("b"));
        write(&*a, 0, &bytes);
        a.clone_range(range(0, LEN as u64), &*b, at(0)).unwrap();
        let free = bed.fs.statfs().unwrap().blocks_free;
        assert!(bed.content("b") == bytes);
        drop((a, b));
        bed.remount();
        assert!(bed.content("a") == bytes);
        assert!(bed.content("b") == bytes);
        let block = u64::from(block_size);
        assert!(bed.fs.statfs().unwrap().blocks_free + 40 + LEN as u64 / block / 8 > free);
    }
}

#[test]
fn overwriting_either_side_leaves_the_other() {
    for block_size in [1024, 4096, 16384] {
        for direct in [false, true] {
            for synced in [false, true] {
                let mut bed = Bed::with_blocks(32 << 20, block_size);
                let mut one = pattern(1, LEN);
                let (a, b) = (bed.create("a"), bed.create("b"));
                write(&*a, 0, &one);
                a.clone_range(range(0, LEN as u64), &*b, at(0)).unwrap();
                let mut two = one.clone();
                let flags = if direct {
                    IoFlags::DIRECT
                } else {
                    IoFlags::empty()
                };
                for (first, pos, len) in [
                    (true, 0, 512),
                    (false, 8192, 70_144),
                    (true, 16_384, 16_384),
                    (false, 299_520, 480),
                    (true, 20_480, 512),
                ] {
                    let (file, bytes) = if first {
                        (&a, &mut one)
                    } else {
                        (&b, &mut two)
                    };
                    let new = pattern(pos, len as usize);
                    write_with(&**file, pos, &new, flags);
                    bytes[pos as usize..][..len as usize].copy_from_slice(&new);
                    if synced {
                        file.fsync(true).unwrap();
                    }
                }
                assert!(bed.content("a") == one && bed.content("b") == two);
                drop((a, b));
                bed.remount();
                assert!(bed.content("a") == one && bed.content("b") == two);
            }
        }
    }
}

#[test]
fn truncating_and_punching_a_clone_leaves_the_original() {
    let mut bed = Bed::new(32 << 20);
    let bytes = pattern(1, LEN);
    let (a, b) = (bed.create("a"), bed.create("b"));
    write(&*a, 0, &bytes);
    a.clone_range(range(0, LEN as u64), &*b, at(0)).unwrap();
    b.fallocate(Fallocate::PunchHole, range(1000, 50_000))
        .unwrap();
    b.fallocate(Fallocate::ZeroRange, range(60_000, 50_000))
        .unwrap();
    b.fallocate(Fallocate::CollapseRange, range(4096 * 30, 4096))
        .unwrap();
    let set = iomap_core::vfs::SetAttr {
        size: Some(200_001),
        ..Default::default()
    };
    bed.fs.setattr(bed.ino("b"), &set).unwrap();
    let mut expected = bytes.clone();
    expected[1000..51_000].fill(0);
    expected[60_000..110_000].fill(0);
    expected.drain(4096 * 30..4096 * 31);
    expected.truncate(200_001);
    for _ in 0..2 {
        assert!(bed.content("a") == bytes && bed.content("b") == expected);
        bed.remount();
    }
    drop((a, b));
    bed.fs.unlink(bed.fs.root(), b"a").unwrap();
    bed.remount();
    assert!(bed.content("b") == expected);
}

#[test]
fn one_file_shares_with_itself() {
    let mut bed = Bed::new(32 << 20);
    let mut bytes = pattern(1, 100_000);
    let a = bed.create("a");
    write(&*a, 0, &bytes);
    a.clone_range(range(0, 40_960), &*a, at(106_496)).unwrap();
    bytes.resize(106_496, 0);
    bytes.extend_from_within(0..40_960);
    assert!(bed.content("a") == bytes);
    write(&*a, 106_500, b"only here");
    bytes[106_500..106_509].copy_from_slice(b"only here");
    drop(a);
    bed.remount();
    assert!(bed.content("a") == bytes);
}

#[test]
fn unsharing_gives_storage_of_its_own() {
    let bed = Bed::new(32 << 20);
    let bytes = pattern(1, LEN);
    let (a, b) = (bed.create("a"), bed.create("b"));
    write(&*a, 0, &bytes);
    a.clone_range(range(0, LEN as u64), &*b, at(0)).unwrap();
    let shared = |file: &dyn iomap_core::vfs::OpenFile| {
        let extents = file.fiemap(range(0, LEN as u64), true).unwrap();
        extents
            .iter()
            .any(|e| e.flags.contains(iomap_core::fiemap::ExtentFlags::SHARED))
    };
    assert!(shared(&*a) && shared(&*b));
    b.fallocate(Fallocate::UnshareRange, range(0, LEN as u64))
        .unwrap();
    assert!(!shared(&*b));
    // After a crash it would be shared again, until that is durable.
    assert!(shared(&*a));
    bed.fs.sync().unwrap();
    assert!(!shared(&*a));
    assert!(bed.content("b") == bytes);
}

#[test]
fn a_copy_that_was_promised_is_made_though_the_other_owner_is_gone() {
    let bed = Bed::new(32 << 20);
    let bytes = pattern(1, LEN);
    let (a, b) = (bed.create("a"), bed.create("b"));
    write(&*a, 0, &bytes);
    a.clone_range(range(0, LEN as u64), &*b, at(0)).unwrap();
    bed.fs.sync().unwrap();
    write(&*a, 4096, &[9; 8192]);
    drop(b);
    bed.fs.unlink(bed.fs.root(), b"b").unwrap();
    bed.fs.fsync_inode(bed.fs.root(), false).unwrap();
    a.fsync(false).unwrap();
    bed.fs.check_balance().unwrap();
    let mut expected = bytes;
    expected[4096..12_288].fill(9);
    assert!(bed.content("a") == expected);
}

#[test]
fn the_rules_of_the_system_call_hold() {
    let bed = Bed::new(32 << 20);
    let (a, b) = (bed.create("a"), bed.create("b"));
    write(&*a, 0, &pattern(1, 10_000));
    write(&*b, 0, &pattern(2, 20_000));
    let clone = |pos, len, to| errno(a.clone_range(range(pos, len), &*b, at(to)));
    assert_eq!(clone(0, 10_001, 0), Errno::INVAL);
    assert_eq!(clone(100, 4096, 0), Errno::INVAL);
    assert_eq!(clone(0, 4096, 100), Errno::INVAL);
    // The last, partial block cannot go into the middle of another file.
    assert_eq!(clone(8192, 1808, 0), Errno::INVAL);
    assert_eq!(
        errno(a.clone_range(range(0, 8192), &*a, at(4096))),
        Errno::INVAL
    );
    let other = Bed::new(32 << 20);
    let c = other.create("c");
    assert_eq!(
        errno(a.clone_range(range(0, 4096), &*c, at(0))),
        Errno::XDEV
    );
    a.clone_range(range(8192, 1808), &*b, at(20_480)).unwrap();
    assert_eq!(bed.content("b").len(), 20_480 + 1808);
}

#[test]
fn an_inline_file_is_cloned_through_a_block() {
    let mut bed = Bed::new(32 << 20);
    let (a, b) = (bed.create("a"), bed.create("b"));
    write(&*a, 0, b"short");
    write(&*b, 0, b"x");
    a.clone_range(range(0, 5), &*b, at(0)).unwrap();
    drop((a, b));
    bed.remount();
    assert_eq!(
        (bed.content("a"), bed.content("b")),
        (b"short".to_vec(), b"short".to_vec())
    );
}
