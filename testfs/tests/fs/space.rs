//! A full file system: errors at the write, never later.

use iomap_core::error::Errno;
use iomap_core::vfs::{Fallocate, IoFlags, Special, Vfs};

use super::util::*;

/// Writes whole chunks until there is no space. Returns how many bytes went in.
fn fill(file: &dyn iomap_core::vfs::OpenFile, seed: u64, chunk: usize) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let bytes = pattern(seed + all.len() as u64, chunk);
        match file.write_at(at(all.len() as u64), &bytes, IoFlags::empty()) {
            Ok(n) => all.extend_from_slice(&bytes[..n]),
            Err(error) => {
                assert_eq!(error.errno(), Errno::NOSPC);
                return all;
            }
        }
    }
}

#[test]
fn buffered_writes_that_were_accepted_reach_the_disk_when_it_is_full() {
    for (block_size, chunk) in [(1024, 5000), (4096, 70_000), (16384, 1 << 20)] {
        let mut bed = Bed::with_blocks(12 << 20, block_size);
        let a = bed.create("a");
        let b = bed.create("b");
        write(&*b, 0, &pattern(9, 10_000));
        let all = fill(&*a, 1, chunk);
        assert!(all.len() > 8 << 20, "{} of 12 MiB", all.len());
        a.fsync(false).unwrap();
        b.fsync(false).unwrap();
        drop((a, b));
        bed.remount();
        assert!(bed.content("a") == all);
        assert!(bed.content("b") == pattern(9, 10_000));
    }
}

#[test]
fn scattered_writes_that_were_accepted_reach_the_disk_when_it_is_full() {
    let mut bed = Bed::with_blocks(12 << 20, 1024);
    let a = bed.create("a");
    // Every other block: as many extents as there are blocks.
    let mut blocks = Vec::new();
    for n in 0..20_000_u64 {
        match a.write_at(at(n * 2048), &pattern(n, 1024), IoFlags::empty()) {
            Ok(1024) => blocks.push(n),
            Ok(_) => break,
            Err(error) => {
                assert_eq!(error.errno(), Errno::NOSPC);
                break;
            }
        }
    }
    assert!(blocks.len() > 6000, "{}", blocks.len());
    a.fsync(false).unwrap();
    drop(a);
    bed.remount();
    let a = bed.open("a");
    for n in blocks {
        assert!(read(&*a, n * 2048, 1024) == pattern(n, 1024), "block {n}");
    }
}

#[test]
fn deleting_makes_room_on_a_full_disk() {
    let mut bed = Bed::new(12 << 20);
    for round in 0..4 {
        let a = bed.create("a");
        let all = fill(&*a, round, 100_000);
        assert!(all.len() > 8 << 20, "round {round}: {}", all.len());
        if round % 2 == 0 {
            a.fsync(false).unwrap();
        }
        drop(a);
        bed.fs.unlink(bed.fs.root(), b"a").unwrap();
    }
    bed.remount();
}

#[test]
fn small_files_until_the_disk_is_full_are_all_there() {
    let mut bed = Bed::new(4 << 20);
    let root = bed.fs.root();
    let mut made = 0_u64;
    loop {
        let name = format!("f{made}");
        let Ok(attr) = bed.fs.mknod(root, name.as_bytes(), Special::Regular, &NEW) else {
            break;
        };
        let file = bed.fs.open(attr.ino, RW).unwrap();
        if file
            .write_at(at(0), &pattern(made, 900), IoFlags::empty())
            .is_err()
        {
            bed.fs.unlink(root, name.as_bytes()).unwrap();
            break;
        }
        made += 1;
    }
    assert!(made > 500, "{made}");
    bed.remount();
    for n in 0..made {
        assert!(bed.content(&format!("f{n}")) == pattern(n, 900), "file {n}");
    }
}

#[test]
fn copying_on_write_asks_for_space_at_the_write() {
    let mut bed = Bed::new(12 << 20);
    let (a, b) = (bed.create("a"), bed.create("b"));
    let bytes = pattern(1, 6 << 20);
    write(&*a, 0, &bytes);
    a.clone_range(range(0, 6 << 20), &*b, at(0)).unwrap();
    let mut expected = bytes.clone();
    let mut failed = false;
    for n in 0..96_usize {
        let (pos, new) = (n << 16, pattern(n as u64, 1 << 16));
        match b.write_at(at(pos as u64), &new, IoFlags::empty()) {
            Ok(done) => expected[pos..pos + done].copy_from_slice(&new[..done]),
            Err(error) => {
                assert_eq!(error.errno(), Errno::NOSPC);
                failed = true;
            }
        }
    }
    assert!(failed);
    b.fsync(false).unwrap();
    drop((a, b));
    bed.remount();
    assert!(bed.content("a") == bytes);
    assert!(bed.content("b") == expected);
}

#[test]
fn preallocation_is_all_or_nothing_and_writing_into_it_needs_no_space() {
    let mut bed = Bed::new(12 << 20);
    let (a, b) = (bed.create("a"), bed.create("b"));
    let refused = a.fallocate(Fallocate::Allocate, range(0, 20 << 20));
    assert_eq!(errno(refused), Errno::NOSPC);
    a.fallocate(Fallocate::Allocate, range(0, 4 << 20)).unwrap();
    fill(&*b, 1, 100_000);
    let bytes = pattern(2, 4 << 20);
    write(&*a, 0, &bytes);
    a.fsync(false).unwrap();
    drop((a, b));
    bed.remount();
    assert!(bed.content("a") == bytes);
}

#[test]
fn a_failed_write_keeps_no_promise() {
    let bed = Bed::new(12 << 20);
    bed.fs.sync().unwrap();
    let before = bed.fs.statfs().unwrap().blocks_free;
    let a = bed.create("a");
    fill(&*a, 1, 1 << 20);
    drop(a);
    bed.fs.unlink(bed.fs.root(), b"a").unwrap();
    bed.fs.sync().unwrap();
    let after = bed.fs.statfs().unwrap().blocks_free;
    assert!(after + 4 > before, "{before} before, {after} after");
}
