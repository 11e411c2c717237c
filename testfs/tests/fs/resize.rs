//! Truncate and fallocate.

use iomap_core::error::Errno;
use iomap_core::vfs::{Fallocate, SetAttr, Vfs};

use super::util::*;

fn truncate(bed: &Bed, name: &str, size: u64) {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    assert_eq!(bed.fs.setattr(bed.ino(name), &set).unwrap().size, size);
}

/// Applies the same to a file and to bytes in memory, and compares, also after a remount.
fn against_model(
    block_size: u32,
    len: usize,
    change: impl Fn(&Bed) -> bool,
    model: impl Fn(&mut Vec<u8>),
) {
    for synced in [false, true] {
        let mut bed = Bed::with_blocks(64 << 20, block_size);
        let mut bytes = pattern(3, len);
        let file = bed.create("a");
        write(&*file, 0, &bytes);
        if synced {
            file.fsync(false).unwrap();
        }
        assert!(change(&bed));
        model(&mut bytes);
        assert!(bed.content("a") == bytes, "cached, synced before: {synced}");
        drop(file);
        bed.remount();
        assert!(
            bed.content("a") == bytes,
            "remounted, synced before: {synced}"
        );
    }
}

#[test]
fn truncate_down_and_up_shows_zeroes_in_between() {
    for block_size in [1024, 4096, 16384] {
        for cut in [0, 1, 1024, 5000, 65_536, 70_001] {
            against_model(
                block_size,
                200_000,
                |bed| {
                    truncate(bed, "a", cut);
                    truncate(bed, "a", 150_000);
                    true
                },
                |bytes| {
                    bytes.truncate(cut as usize);
                    bytes.resize(150_000, 0);
                },
            );
        }
    }
}

#[test]
fn an_inline_file_shrinks_and_grows_and_leaves_its_inode() {
    let mut bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, b"0123456789");
    truncate(&bed, "a", 4);
    truncate(&bed, "a", 8);
    assert_eq!(bed.content("a"), b"0123\0\0\0\0");
    write(&*file, 6, b"xy");
    truncate(&bed, "a", 100_000);
    let mut expected = b"0123\0\0xy".to_vec();
    expected.resize(100_000, 0);
    assert_eq!(bed.content("a"), expected);
    drop(file);
    bed.remount();
    assert_eq!(bed.content("a"), expected);
}

#[test]
fn an_inline_file_grows_byte_by_byte_into_blocks() {
    for block_size in [1024, 4096] {
        let mut bed = Bed::with_blocks(16 << 20, block_size);
        let bytes = pattern(4, 5000);
        let file = bed.create("a");
        for (n, byte) in bytes.iter().enumerate() {
            write(&*file, n as u64, &[*byte]);
            if n % 333 == 0 {
                file.fsync(n % 2 == 0).unwrap();
            }
        }
        assert_eq!(bed.content("a"), bytes);
        drop(file);
        bed.remount();
        assert_eq!(bed.content("a"), bytes);
    }
}

#[test]
fn a_synced_inline_file_survives_a_crash() {
    let mut bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, b"first");
    file.fsync(true).unwrap();
    write(&*file, 5, b" second");
    file.fsync(true).unwrap();
    bed.crash();
    assert_eq!(bed.content("a"), b"first second");
}

#[test]
fn a_punched_hole_reads_as_zeroes_and_frees_space() {
    for block_size in [1024, 4096, 16384] {
        for (pos, len) in [
            (0, 100),
            (5000, 3000),
            (4096, 65_536),
            (1, 150_000),
            (190_000, 20_000),
        ] {
            against_model(
                block_size,
                200_000,
                |bed| {
                    let before = bed.fs.getattr(bed.ino("a")).unwrap().blocks;
                    bed.open("a")
                        .fallocate(Fallocate::PunchHole, range(pos, len))
                        .unwrap();
                    let after = bed.fs.getattr(bed.ino("a")).unwrap().blocks;
                    after < before || len < 40_000
                },
                |bytes| {
                    let end = bytes.len().min((pos + len) as usize);
                    bytes[pos as usize..end].fill(0);
                },
            );
        }
    }
}

#[test]
fn a_zeroed_range_keeps_storage() {
    for mode in [Fallocate::ZeroRange, Fallocate::ZeroRangeKeepSize] {
        for (pos, len) in [(0, 100), (4096, 65_536), (1, 150_000), (190_000, 50_000)] {
            against_model(
                4096,
                200_000,
                |bed| {
                    bed.open("a").fallocate(mode, range(pos, len)).unwrap();
                    bed.fs.getattr(bed.ino("a")).unwrap().blocks >= 200_000 / 4096 * 8
                },
                |bytes| {
                    let end = (pos + len) as usize;
                    if mode == Fallocate::ZeroRange && end > bytes.len() {
                        bytes.resize(end, 0);
                    }
                    let end = end.min(bytes.len());
                    bytes[pos as usize..end].fill(0);
                },
            );
        }
    }
}

#[test]
fn preallocated_space_reads_as_zeroes_and_is_written_in_place() {
    let mut bed = Bed::new(16 << 20);
    let file = bed.create("a");
    file.fallocate(Fallocate::Allocate, range(0, 1 << 20))
        .unwrap();
    assert_eq!(bed.fs.getattr(bed.ino("a")).unwrap().blocks, 2048);
    write(&*file, 10_000, b"middle");
    let mut expected = vec![0; 1 << 20];
    expected[10_000..10_006].copy_from_slice(b"middle");
    assert!(bed.content("a") == expected);
    drop(file);
    bed.remount();
    assert!(bed.content("a") == expected);
    assert_eq!(bed.fs.getattr(bed.ino("a")).unwrap().blocks, 2048);
}

#[test]
fn preallocation_past_the_end_keeps_the_size_and_is_cut_by_truncate() {
    let bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, &pattern(5, 8192));
    file.fallocate(Fallocate::AllocateKeepSize, range(0, 1 << 20))
        .unwrap();
    file.fsync(false).unwrap();
    let attr = bed.fs.getattr(bed.ino("a")).unwrap();
    assert_eq!((attr.size, attr.blocks), (8192, 2048));
    // Also to the size it has.
    truncate(&bed, "a", 8192);
    assert_eq!(bed.fs.getattr(bed.ino("a")).unwrap().blocks, 16);
}

#[test]
fn collapse_takes_a_range_out() {
    for block_size in [1024, 4096, 16384] {
        let block = u64::from(block_size);
        for (pos, len) in [(0, 1), (1, 1), (3, 4)] {
            against_model(
                block_size,
                200_000,
                |bed| {
                    bed.open("a")
                        .fallocate(Fallocate::CollapseRange, range(pos * block, len * block))
                        .unwrap();
                    true
                },
                |bytes| {
                    bytes.drain((pos * block) as usize..((pos + len) * block) as usize);
                },
            );
        }
    }
}

#[test]
fn insert_puts_a_hole_in() {
    for block_size in [1024, 4096, 16384] {
        let block = u64::from(block_size);
        for (pos, len) in [(0, 1), (1, 1), (3, 4)] {
            against_model(
                block_size,
                200_000,
                |bed| {
                    bed.open("a")
                        .fallocate(Fallocate::InsertRange, range(pos * block, len * block))
                        .unwrap();
                    true
                },
                |bytes| {
                    let at = (pos * block) as usize;
                    bytes.splice(at..at, vec![0; (len * block) as usize]);
                },
            );
        }
    }
}

#[test]
fn ranges_that_cannot_be_shifted_are_refused() {
    let bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 0, &pattern(6, 20_000));
    let refused = |mode, pos, len| errno(file.fallocate(mode, range(pos, len)));
    assert_eq!(refused(Fallocate::CollapseRange, 100, 4096), Errno::INVAL);
    assert_eq!(
        refused(Fallocate::CollapseRange, 16_384, 4096),
        Errno::INVAL
    );
    assert_eq!(refused(Fallocate::InsertRange, 0, 100), Errno::INVAL);
    assert_eq!(refused(Fallocate::InsertRange, 20_480, 4096), Errno::INVAL);
    assert_eq!(refused(Fallocate::PunchHole, 0, 0), Errno::INVAL);
    let huge = u64::MAX >> 2 & !4095;
    assert_eq!(refused(Fallocate::InsertRange, 0, huge * 2), Errno::FBIG);
    assert_eq!(refused(Fallocate::Allocate, 0, 1 << 40), Errno::NOSPC);
    assert_eq!(bed.content("a"), pattern(6, 20_000));
}
