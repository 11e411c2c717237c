//! Create, write, read, sync, remount.

use iomap_core::vfs::Vfs;

use super::util::*;

#[test]
fn a_small_file_is_there_after_a_remount() {
    let mut bed = Bed::new(16 << 20);
    write(&*bed.create("a"), 0, b"hello");
    assert_eq!(bed.content("a"), b"hello");
    bed.remount();
    assert_eq!(bed.content("a"), b"hello");
}

#[test]
fn a_large_file_is_there_after_a_remount_with_every_block_size() {
    for block_size in [1024, 4096, 16384] {
        let mut bed = Bed::with_blocks(32 << 20, block_size);
        let bytes = pattern(1, 3_000_001);
        write(&*bed.create("a"), 0, &bytes);
        assert!(bed.content("a") == bytes, "cached, {block_size}");
        bed.remount();
        assert!(bed.content("a") == bytes, "remounted, {block_size}");
    }
}

#[test]
fn what_was_synced_survives_a_crash_and_what_was_not_may_be_lost() {
    for data_only in [false, true] {
        let mut bed = Bed::new(16 << 20);
        let bytes = pattern(2, 100_000);
        let file = bed.create("a");
        write(&*file, 0, &bytes);
        file.fsync(data_only).unwrap();
        write(&*bed.create("b"), 0, &bytes);
        bed.crash();
        assert_eq!(bed.content("a"), bytes);
        assert!(bed.fs.lookup(bed.fs.root(), b"b").is_err());
    }
}

#[test]
fn a_sparse_file_reads_as_zeroes_where_nothing_was_written() {
    let mut bed = Bed::new(16 << 20);
    let file = bed.create("a");
    write(&*file, 1_000_000, b"end");
    let mut expected = vec![0; 1_000_000];
    expected.extend_from_slice(b"end");
    assert_eq!(bed.content("a"), expected);
    drop(file);
    bed.remount();
    assert_eq!(bed.content("a"), expected);
    assert!(bed.fs.getattr(bed.ino("a")).unwrap().blocks <= 8);
}
