//! Faults, flushes and moves of blocks of one DAX file, in scheduled interleavings: the lock of an
//! entry is handed on to whoever waits for it, no store that was flushed is lost, and nobody sees
//! what a block held before.

#![cfg(iomap_shuttle)]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::allow_attributes,
    reason = "shared with tests that use all of it"
)]

#[path = "dax/file.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod file;
#[expect(unreachable_pub, reason = "part of a crate elsewhere")]
#[allow(dead_code, reason = "shared with tests that use all of it")]
#[path = "../../testfs/src/device/pmem.rs"]
mod pmem;
#[path = "common/schedules.rs"]
mod schedules;

use std::sync::Arc;

use iomap_core::mmap::MapOptions;
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::sync::thread;
use iomap_core::units::FilePos;

use file::{DaxFile, Disk, PAGE, SECRET};
use schedules::schedules;

type TestFile = DaxFile<false>;

fn search(n: usize, test: fn()) {
    shuttle::check_random(test, schedules(n));
    shuttle::check_pct(test, schedules(n), 3);
}

fn go(
    file: &Arc<TestFile>,
    f: impl FnOnce(&Arc<TestFile>) + Send + 'static,
) -> thread::JoinHandle<()> {
    let file = Arc::clone(file);
    thread::spawn(move || f(&file))
}

fn at(page: u64) -> FilePos {
    FilePos::saturating(page * PAGE)
}

fn byte(mapping: &SoftMapping, page: u64) -> u8 {
    let mut byte = [0xCC];
    mapping.load(at(page), &mut byte).unwrap();
    byte[0]
}

/// Three threads want the entry of one page while a flush walks over it, and a fourth takes it out
/// of the table: all get on, and no store is lost.
#[test]
fn who_waits_for_an_entry_gets_it_or_finds_it_gone() {
    search(300, || {
        let file = Disk::new(16).written::<false>(2, 1);
        let storers: Vec<_> = (0..2_u8)
            .map(|n| {
                go(&file, move |file| {
                    let mapping = file.map(MapOptions::empty());
                    let pos = FilePos::saturating(u64::from(n) * 8);
                    for value in 2..4 {
                        mapping.store(pos, &[value]).unwrap();
                        let mut found = [0];
                        mapping.load(pos, &mut found).unwrap();
                        assert_eq!(found, [value]);
                    }
                })
            })
            .collect();
        let flusher = go(&file, |file| file.fsync());
        let mover = go(&file, |file| file.move_page(0).unwrap());
        for thread in storers.into_iter().chain([flusher, mover]) {
            thread.join().unwrap();
        }
        file.fsync();
        assert_eq!((file.read(0, 1), file.read(8, 1)), (vec![3], vec![3]));
    });
}

/// A store beside a punch of the page is before it or after it, and shows nothing old.
#[test]
fn a_store_beside_a_punch_is_before_it_or_after_it() {
    search(300, || {
        let file = Disk::new(16).written::<false>(2, 1);
        let storer = go(&file, |file| {
            let mapping = file.map(MapOptions::empty());
            mapping.store(at(0), &[7]).unwrap();
            let found = byte(&mapping, 0);
            assert!(found == 7 || found == 0, "{found:#x}");
        });
        let puncher = go(&file, |file| file.punch(0, 1).unwrap());
        let looker = go(&file, |file| {
            let found = file.read(0, 2);
            assert!(!found.contains(&SECRET), "somebody else's bytes");
        });
        for thread in [storer, puncher, looker] {
            thread.join().unwrap();
        }
        let found = file.read(0, PAGE as usize);
        assert!(matches!(found[0], 0 | 7) && found[1..].iter().all(|b| *b == 0));
    });
}
