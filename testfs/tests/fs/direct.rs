//! Direct I/O beside the cache.

use iomap_core::vfs::{Fallocate, IoFlags, Vfs};

use super::util::*;

#[test]
fn direct_and_buffered_writes_are_seen_by_both() {
    for block_size in [1024, 4096, 16384] {
        let mut bed = Bed::with_blocks(32 << 20, block_size);
        let file = bed.create("a");
        let mut bytes = vec![0; 0];
        let mut rng = fastrand::Rng::with_seed(7);
        for round in 0..200 {
            let sector = rng.u64(..400);
            let len = rng.usize(1..40) * 512;
            let pos = sector * 512;
            let new = pattern(round, len);
            let flags = if rng.bool() {
                IoFlags::DIRECT
            } else {
                IoFlags::empty()
            };
            write_with(&*file, pos, &new, flags);
            let end = pos as usize + len;
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[pos as usize..end].copy_from_slice(&new);
            let read_flags = if rng.bool() {
                IoFlags::DIRECT
            } else {
                IoFlags::empty()
            };
            let from = rng.usize(..bytes.len() / 512) * 512;
            let found = read_with(&*file, from as u64, 16_384, read_flags);
            let expected = &bytes[from..bytes.len().min(from + 16_384)];
            assert!(found == expected, "round {round}, {from}, {read_flags:?}");
        }
        drop(file);
        bed.remount();
        assert!(bed.content("a") == bytes);
    }
}

#[test]
fn a_direct_write_into_preallocated_space_is_there_after_a_crash_once_synced() {
    let mut bed = Bed::new(32 << 20);
    let file = bed.create("a");
    file.fallocate(Fallocate::Allocate, range(0, 1 << 20))
        .unwrap();
    let bytes = pattern(1, 8192);
    write_with(&*file, 65_536, &bytes, IoFlags::DIRECT);
    file.fsync(true).unwrap();
    bed.crash();
    let content = bed.content("a");
    assert!(content[65_536..73_728] == bytes[..]);
    assert!(content[..65_536].iter().all(|b| *b == 0));
    assert_eq!(content.len(), 1 << 20);
}

#[test]
fn a_synchronous_direct_write_survives_a_crash() {
    let mut bed = Bed::new(32 << 20);
    let file = bed.create("a");
    let bytes = pattern(1, 16_384);
    for pos in [0, 16_384, 4096] {
        write_with(&*file, pos, &bytes, IoFlags::DIRECT | IoFlags::DSYNC);
    }
    bed.crash();
    let content = bed.content("a");
    assert_eq!(content.len(), 32_768);
    assert!(content[..4096] == bytes[..4096]);
    assert!(content[4096..20_480] == bytes[..]);
}

#[test]
fn a_direct_overwrite_allocates_nothing() {
    let bed = Bed::new(32 << 20);
    let file = bed.create("a");
    write(&*file, 0, &pattern(1, 1 << 20));
    file.fsync(false).unwrap();
    let before = bed.fs.statfs().unwrap().blocks_free;
    write_with(&*file, 4096, &pattern(2, 65_536), IoFlags::DIRECT);
    assert_eq!(bed.fs.statfs().unwrap().blocks_free, before);
    assert_eq!(read(&*file, 4096, 65_536), pattern(2, 65_536));
    assert!(bed.fs.counters().direct_write_bytes == 65_536);
}

#[test]
fn a_direct_write_to_an_inline_file_goes_through_the_cache() {
    let mut bed = Bed::new(32 << 20);
    let file = bed.create("a");
    write(&*file, 0, b"inline");
    write_with(&*file, 0, &pattern(3, 512), IoFlags::DIRECT);
    write_with(&*file, 512, &pattern(4, 8192), IoFlags::DIRECT);
    let mut expected = pattern(3, 512);
    expected.extend(pattern(4, 8192));
    drop(file);
    bed.remount();
    assert!(bed.content("a") == expected);
}
