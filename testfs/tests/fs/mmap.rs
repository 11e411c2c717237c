//! Files that are mapped: stores of this very program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::{MapOptions, Prot};
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile, SetAttr, Vfs};

use super::util::*;

const BLOCK_SIZES: [u32; 3] = [1024, 4096, 16_384];

fn map(file: &dyn OpenFile, len: u64) -> Mapping {
    let both = Prot::READ | Prot::WRITE;
    file.mmap(range(0, len), both, true).unwrap()
}

fn load(mapping: &Mapping, pos: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xCC; len];
    mapping.load(at(pos), &mut bytes).unwrap();
    bytes
}

#[test]
fn stores_are_there_after_a_remount_also_in_inline_files_and_holes() {
    for block_size in BLOCK_SIZES {
        let mut bed = Bed::with_blocks(32 << 20, block_size);
        let mut model = pattern(1, 100_000);
        let (big, small) = (bed.create("big"), bed.create("small"));
        write(&*big, 0, &model);
        write(&*small, 0, b"a few bytes");
        big.fallocate(Fallocate::PunchHole, range(20_000, 40_000))
            .unwrap();
        model[20_000..60_000].fill(0);
        {
            let (big, small) = (map(&*big, 100_000), map(&*small, 4096));
            for (pos, len) in [(0, 10), (19_990, 30), (40_000, 5_000), (99_990, 10)] {
                let bytes = pattern(pos as u64, len);
                big.store(at(pos as u64), &bytes).unwrap();
                model[pos..pos + len].copy_from_slice(&bytes);
            }
            assert!(load(&big, 0, 100_000) == model);
            small.store(at(2), b"more").unwrap();
        }
        drop((big, small));
        bed.remount();
        assert!(bed.content("big") == model, "blocks of {block_size}");
        assert_eq!(bed.content("small"), b"a morebytes");
    }
}

/// Blocks smaller than a page: those past the end are in the page, and have no storage.
#[test]
fn what_was_stored_past_the_end_is_not_in_the_file_when_it_grows() {
    for block_size in BLOCK_SIZES {
        for grow in ["truncate", "write", "allocate"] {
            let mut bed = Bed::with_blocks(32 << 20, block_size);
            let file = bed.create("f");
            write(&*file, 0, &[1; 5000]);
            let mapping = super::util::map(&file, MapOptions::empty());
            mapping.store(at(4990), &[2; 10]).unwrap();
            mapping.store(at(5000), &[3; 3000]).unwrap();
            match grow {
                "truncate" => {
                    let size = SetAttr {
                        size: Some(8000),
                        ..SetAttr::default()
                    };
                    bed.fs.setattr(file.ino(), &size).unwrap();
                }
                "write" => write(&*file, 7999, &[0]),
                _ => file.fallocate(Fallocate::Allocate, range(0, 8000)).unwrap(),
            }
            let wanted = [vec![1; 4990], vec![2; 10], vec![0; 3000]].concat();
            assert!(bed.content("f") == wanted, "{block_size}, {grow}");
            let mut shown = [9; 3000];
            mapping.load(at(5000), &mut shown).unwrap();
            assert!(shown == [0; 3000], "{block_size}, {grow}");
            drop((mapping, file));
            bed.remount();
            assert!(bed.content("f") == wanted, "{block_size}, {grow}");
        }
    }
}

#[test]
fn a_store_breaks_the_sharing_of_a_clone() {
    for block_size in BLOCK_SIZES {
        let mut bed = Bed::with_blocks(32 << 20, block_size);
        let bytes = pattern(1, 65_536);
        let (a, b) = (bed.create("a"), bed.create("b"));
        write(&*a, 0, &bytes);
        let mapping = map(&*a, 65_536);
        mapping.store(at(5_000), b"before").unwrap();
        a.clone_range(range(0, 65_536), &*b, at(0)).unwrap();
        mapping.store(at(5_000), b"behind").unwrap();
        let other = map(&*b, 65_536);
        other.store(at(40_000), b"other").unwrap();
        drop((mapping, other, a, b));
        bed.remount();
        let (mut one, mut two) = (bytes.clone(), bytes);
        one[5_000..5_006].copy_from_slice(b"behind");
        two[5_000..5_006].copy_from_slice(b"before");
        two[40_000..40_005].copy_from_slice(b"other");
        assert!(bed.content("a") == one && bed.content("b") == two);
    }
}

#[test]
fn a_mapping_shows_what_is_at_its_place_after_ranges_were_moved() {
    let mut bed = Bed::new(32 << 20);
    let file = bed.create("f");
    let mut model = pattern(1, 81_920);
    write(&*file, 0, &model);
    let mapping = map(&*file, 81_920);
    mapping.store(at(30_000), b"moves").unwrap();
    model[30_000..30_005].copy_from_slice(b"moves");
    file.fallocate(Fallocate::CollapseRange, range(8_192, 8_192))
        .unwrap();
    model.drain(8_192..16_384);
    assert!(load(&mapping, 0, model.len()) == model);
    mapping.store(at(50_000), b"more").unwrap();
    model[50_000..50_004].copy_from_slice(b"more");
    file.fallocate(Fallocate::InsertRange, range(4_096, 4_096))
        .unwrap();
    model.splice(4_096..4_096, [0; 4_096]);
    assert!(load(&mapping, 0, model.len()) == model);
    drop((mapping, file));
    bed.remount();
    assert!(bed.content("f") == model);
}

#[test]
fn a_mapped_file_without_a_name_goes_with_its_mapping() {
    let bed = Bed::new(32 << 20);
    let before = bed.fs.statfs().unwrap().blocks_free;
    let file = bed.create("f");
    write(&*file, 0, &pattern(1, 400_000));
    let mapping = map(&*file, 400_000);
    drop(file);
    bed.fs.unlink(bed.fs.root(), b"f").unwrap();
    mapping.store(at(7), b"still here").unwrap();
    assert_eq!(load(&mapping, 7, 10), b"still here");
    assert_eq!(
        load(&mapping, 300_000, 10),
        pattern(1, 400_000)[300_000..300_010]
    );
    drop(mapping);
    bed.fs.sync().unwrap();
    assert!(bed.fs.statfs().unwrap().blocks_free + 8 >= before);
}

/// Storers own the first pages; behind them the file is cut, grown, punched, shifted and cloned.
#[test]
fn storers_beside_changes_of_the_layout_lose_nothing() {
    const PAGES: u64 = 16;
    for block_size in BLOCK_SIZES {
        let mut bed = Bed::with_blocks(32 << 20, block_size);
        let (file, clone) = (bed.create("f"), bed.create("clone"));
        write(&*file, 0, &pattern(1, 200_000));
        let stop = AtomicBool::new(false);
        let (end, step) = (PAGES * 4096, u64::from(block_size));
        let stored = std::thread::scope(|scope| {
            let storers: Vec<_> = (0..2)
                .map(|n| {
                    let (file, stop) = (Arc::clone(&file), &stop);
                    scope.spawn(move || store(&*file, n, stop))
                })
                .collect();
            for round in 0..60 {
                let flags = [IoFlags::empty(), IoFlags::DIRECT][round % 2];
                let bytes = pattern(round as u64, 16_384);
                assert_eq!(file.write_at(at(end + 16_384), &bytes, flags), Ok(16_384));
                let inside = range(end + step, step);
                let mode = [
                    Fallocate::PunchHole,
                    Fallocate::InsertRange,
                    Fallocate::CollapseRange,
                ][round % 3];
                file.fallocate(mode, inside).unwrap();
                file.clone_range(range(0, end), &*clone, at(0)).unwrap();
                file.sync_range(range(0, u64::MAX), true).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            storers
                .into_iter()
                .map(|t| t.join().unwrap())
                .collect::<Vec<_>>()
        });
        drop((file, clone));
        bed.remount();
        let content = bed.content("f");
        for (n, table) in stored.iter().enumerate() {
            for (page, value) in table.iter().enumerate() {
                let place = page * 4096 + n * 100;
                let found = u32::from_le_bytes(content[place..place + 4].try_into().unwrap());
                assert_eq!(
                    found, *value,
                    "page {page} of storer {n}, blocks of {block_size}"
                );
            }
        }
    }
}

/// Stores to its own place of every page until told to stop; returns what it stored last.
fn store(file: &dyn OpenFile, n: u64, stop: &AtomicBool) -> Vec<u32> {
    let mapping = map(file, 16 * 4096);
    let place = |page: usize| at(page as u64 * 4096 + n * 100);
    let mut table: Vec<u32> = (0..16)
        .map(|page| {
            let mut bytes = [0; 4];
            mapping.load(place(page), &mut bytes).unwrap();
            u32::from_le_bytes(bytes)
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(n);
    while !stop.load(Ordering::Relaxed) {
        let page = rng.usize(..16);
        let mut bytes = [0; 4];
        mapping.load(place(page), &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), table[page], "a store was lost");
        table[page] = rng.u32(..);
        mapping
            .store(place(page), &table[page].to_le_bytes())
            .unwrap();
    }
    table
}
