//! Real memory mappings of DAX files: loads and stores of this very program, on the device's memory.

#![cfg(all(
    target_os = "linux",
    target_arch = "x86_64",
    not(any(iomap_shuttle, iomap_loom))
))]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::allow_attributes,
    reason = "shared with tests that use all of it"
)]

#[path = "common/alone.rs"]
mod alone;
#[path = "dax/file.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod file;
#[path = "../../testfs/src/device/pmem.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "part of a crate elsewhere, that uses all of it"
)]
mod pmem;

use alone::alone;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iomap_core::dax::{DaxDevice, HUGE_PAGES};
use iomap_core::error::{Errno, FaultError, FsError};
use iomap_core::fault::PageFaults;
use iomap_core::mmap::real::{Mapping, is_ours};
use iomap_core::mmap::{Access, MapOptions, Prot};
use iomap_core::units::{FilePos, FileRange};

use file::{DaxFile, Disk, PAGE, SECRET, addr, page, pages, pos};

const BOTH: Prot = Prot::READ.union(Prot::WRITE);

fn map_as<const A: bool>(
    file: &Arc<DaxFile<A>>,
    first: u64,
    count: u64,
    prot: Prot,
    options: MapOptions,
) -> Mapping {
    let handler = Arc::new(PageFaults::new(Arc::clone(file)));
    let (volume, shown) = (file.disk.volume.clone(), page(first)..page(first + count));
    Mapping::of_device(handler, volume, shown, prot, options).unwrap()
}

fn map<const A: bool>(file: &Arc<DaxFile<A>>, count: u64) -> Mapping {
    map_as(file, 0, count, BOTH, MapOptions::empty())
}

fn load(mapping: &Mapping, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xCC; len];
    mapping.load(pos(at), &mut bytes).unwrap();
    bytes
}

fn faults<const A: bool>(file: &DaxFile<A>) -> u64 {
    file.core().counters().snapshot().dax_faults
}

#[test]
fn loads_and_stores_are_of_the_bytes_of_the_device() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(5, 1);
    let mapping = map(&file, 5);
    mapping.store(pos(4_000), &[2; 200]).unwrap();
    assert_eq!(
        file.read(3_999, 202)[..],
        [&[1][..], &[2; 200], &[1]].concat()
    );
    let before = faults(&file);
    mapping.store(pos(4_100), &[3; 50]).unwrap();
    assert_eq!(load(&mapping, 4_100, 50), [3; 50]);
    assert_eq!(faults(&file), before, "writable already");
    let at = (file.block(1).unwrap() * PAGE) as usize + 4_100 - 4_096;
    assert_eq!(disk.pmem.image()[at..at + 50], [3; 50]);
    file.write(4_120, b"by call");
    assert_eq!(load(&mapping, 4_120, 7), b"by call");
}

#[test]
fn a_sync_makes_stores_durable_and_the_next_store_is_noticed() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(3, 1);
    let (mapping, other) = (
        map(&file, 3),
        map_as(&file, 1, 2, BOTH, MapOptions::empty()),
    );
    mapping.store(pos(PAGE), b"one").unwrap();
    other.store(pos(PAGE + 3), b"two").unwrap();
    assert_eq!(file.after_crash()[PAGE as usize], 1);
    file.fsync();
    assert_eq!(&file.after_crash()[PAGE as usize..][..6], b"onetwo");
    let before = faults(&file);
    assert_eq!(load(&mapping, PAGE, 6), b"onetwo");
    assert_eq!(faults(&file), before, "loads go on");
    mapping.store(pos(PAGE), b"new").unwrap();
    assert_eq!(faults(&file), before + 1);
    other.store(pos(PAGE + 3), b"too").unwrap();
    assert_eq!(faults(&file), before + 2);
    file.fsync();
    assert_eq!(&file.after_crash()[PAGE as usize..][..6], b"newtoo");
}

#[test]
fn a_hole_is_zeroes_for_every_mapping_until_one_stores() {
    let disk = Disk::new(64);
    let file = disk.file::<false>();
    file.set_size(8 * PAGE);
    let (one, two) = (map(&file, 8), map(&file, 8));
    assert_eq!(load(&one, 0, 8 * PAGE as usize), vec![0; 8 * PAGE as usize]);
    assert_eq!(file.block(3), None, "a load takes no space");
    assert_eq!(load(&two, 3 * PAGE, 1), [0]);
    two.store(pos(3 * PAGE + 5), b"x").unwrap();
    assert_eq!(load(&one, 3 * PAGE, 7), b"\0\0\0\0\0x\0");
    assert!(file.block(3).is_some() && file.block(4).is_none());
}

#[test]
fn blocks_that_are_freed_moved_or_copied_are_not_reached_any_more() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(4, 1);
    let mapping = map(&file, 4);
    mapping.store(pos(0), &[2; 4 * PAGE as usize]).unwrap();
    let freed = file.block(1).unwrap();
    file.punch(1, 1).unwrap();
    let other = disk.written::<false>(1, 7);
    assert_eq!(other.block(0), Some(freed), "somebody else's now");
    mapping.store(pos(PAGE), b"mine").unwrap();
    assert_eq!(
        (other.read(0, 4), file.read(PAGE, 5)),
        (vec![7; 4], b"mine\0".to_vec())
    );
    let old = file.block(2).unwrap();
    file.move_page(2).unwrap();
    assert_ne!(file.block(2), Some(old));
    mapping.store(pos(2 * PAGE), b"moved").unwrap();
    assert_eq!(file.read(2 * PAGE, 6), b"moved\x02");
    let clone = disk.file::<false>();
    file.clone_to(&clone).unwrap();
    let theirs = map(&clone, 4);
    assert_eq!(load(&theirs, 0, 2), [2, 2]);
    mapping.store(pos(0), b"A").unwrap();
    theirs.store(pos(3 * PAGE), b"B").unwrap();
    assert_eq!(
        (load(&mapping, 0, 2), load(&theirs, 0, 2)),
        (vec![b'A', 2], vec![2, 2])
    );
    assert_eq!(
        (file.read(3 * PAGE, 1), clone.read(3 * PAGE, 1)),
        (vec![2], vec![b'B'])
    );
}

#[test]
fn a_large_extent_is_mapped_by_one_fault_and_can_be_cut() {
    let disk = Disk::new(3 * HUGE_PAGES);
    let file = disk.written::<false>(2 * HUGE_PAGES, 1);
    let mapping = map(&file, 2 * HUGE_PAGES);
    mapping.store(pos(5 * PAGE), b"x").unwrap();
    let before = faults(&file);
    let all = load(&mapping, 0, (HUGE_PAGES * PAGE) as usize);
    mapping.store(pos(500 * PAGE), b"y").unwrap();
    assert_eq!(faults(&file), before);
    assert_eq!(all.iter().filter(|byte| **byte != 1).count(), 1);
    file.fsync();
    mapping.store(pos(7 * PAGE), b"z").unwrap();
    assert_eq!(
        faults(&file),
        before + 1,
        "protected as a whole, and writable as a whole"
    );
    mapping.store(pos(300 * PAGE), b"z").unwrap();
    assert_eq!(faults(&file), before + 1);
    file.punch(9, 1).unwrap();
    assert_eq!(
        load(&mapping, 8 * PAGE + 4095, 4098),
        [&[1][..], &[0; 4096], &[1]].concat()
    );
    assert_eq!(load(&mapping, 500 * PAGE, 2), b"y\x01");
}

#[test]
fn parts_are_unmapped_and_protected() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(8, 1);
    let mapping = map(&file, 8);
    mapping.store(pos(0), &[2; 8 * PAGE as usize]).unwrap();
    mapping.unmap(pages(2, 2));
    let gone = mapping.load(pos(2 * PAGE), &mut [0]);
    assert!(matches!(gone, Err(FaultError::NotMapped { .. })));
    assert_eq!(load(&mapping, PAGE, PAGE as usize), [2; PAGE as usize]);
    mapping.store(pos(4 * PAGE), b"after").unwrap();
    assert_eq!(file.read(4 * PAGE, 6), b"after\x02");
    mapping.protect(pages(5, 1), Prot::READ).unwrap();
    assert_eq!(load(&mapping, 5 * PAGE, 1), [2]);
    let denied = mapping.prefault(pages(5, 1), Access::Store);
    assert!(matches!(denied, Err(FaultError::Denied { .. })));
    mapping.protect(pages(5, 1), BOTH).unwrap();
    mapping.store(pos(5 * PAGE), b"again").unwrap();
    assert_eq!(file.read(5 * PAGE, 5), b"again");
}

#[test]
fn what_the_program_stored_and_flushed_through_a_synchronous_mapping_survives() {
    let disk = Disk::new(64);
    let file = disk.file::<true>();
    file.set_size(8 * PAGE);
    file.fsync();
    let mapping = map_as(&file, 0, 8, BOTH, MapOptions::SYNC);
    for n in [3_u64, 0, 7] {
        mapping.store(pos(n * PAGE + 8), b"flushed").unwrap();
        // What a program does with the lines it has stored to.
        let at = addr(file.block(n).unwrap()).plus(8);
        disk.pmem.persist(at, 7).unwrap();
        let left = file.after_crash();
        assert_eq!(
            left.get((n * PAGE) as usize + 8..).map(|b| &b[..7]),
            Some(&b"flushed"[..])
        );
    }
    let plain = map(&file, 8);
    plain.store(pos(5 * PAGE), b"not synced").unwrap();
    assert_eq!(file.after_crash()[5 * PAGE as usize], 0);
}

#[test]
fn a_pinned_block_waits_and_a_pin_never_finds_somebody_elses() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 1);
    let mapping = Arc::new(map(&file, 2));
    let pin = mapping.pin(pos(PAGE + 10), Access::Store).unwrap();
    let punched = Arc::new(AtomicBool::new(false));
    let puncher = {
        let (file, punched) = (Arc::clone(&file), Arc::clone(&punched));
        std::thread::spawn(move || {
            file.punch(0, 2).unwrap();
            punched.store(true, Ordering::SeqCst);
        })
    };
    while disk.pins().waiting() == 0 {
        std::thread::yield_now();
    }
    // The holder may fault meanwhile.
    assert_eq!(load(&mapping, PAGE, 1), [1]);
    assert!(!punched.load(Ordering::SeqCst));
    drop(pin);
    puncher.join().unwrap();
    assert_eq!(load(&mapping, 0, 2 * PAGE as usize), [0; 2 * PAGE as usize]);
    let past = mapping.pin(pos(2 * PAGE), Access::Load);
    assert!(matches!(past, Err(FaultError::NotMapped { .. })));
}

#[test]
fn the_mapping_is_known_as_ours_as_long_as_it_lives() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 1);
    let mapping = map(&file, 2);
    // SAFETY: never looked into: only its addresses are asked about.
    let bytes = unsafe { std::slice::from_raw_parts(mapping.as_ptr(), 100) };
    assert!(is_ours(bytes) && !is_ours(&[0; 16]));
    assert!(mapping.needs_prefault());
}

#[test]
fn a_system_call_finds_what_was_faulted_in_and_fails_otherwise() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 9);
    let mapping = map(&file, 2);
    let mut temp = tempfile::tempfile().unwrap();
    // SAFETY: a page inside the mapping; only a system call copies from it.
    let bytes = unsafe { std::slice::from_raw_parts(mapping.as_ptr().add(4096), 4096) };
    let refused = std::io::Write::write(&mut temp, bytes).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
    mapping.prefault(pages(1, 1), Access::Load).unwrap();
    assert_eq!(std::io::Write::write(&mut temp, bytes).unwrap(), 4096);
}

// ---- signals, each in a process of its own

const SIGBUS: i32 = 7;
const SIGSEGV: i32 = 11;

fn dies_of(signal: i32, test: &str, work: impl FnOnce()) {
    let status = alone(test, work);
    assert!(
        status.is_some_and(|status| status.signal() == Some(signal)),
        "{status:?}"
    );
}

fn passes(test: &str, work: impl FnOnce()) {
    let status = alone(test, work);
    assert!(status.is_none_or(|status| status.success()), "{status:?}");
}

#[test]
fn an_access_past_the_end_of_the_file_raises_sigbus() {
    dies_of(
        SIGBUS,
        "an_access_past_the_end_of_the_file_raises_sigbus",
        || {
            let disk = Disk::new(64);
            let file = disk.written::<false>(2, 1);
            let mapping = map(&file, 4);
            mapping.store(pos(8_191), b"x").unwrap();
            mapping.store(pos(8_192), b"x").unwrap();
        },
    );
}

#[test]
fn a_store_to_a_full_device_raises_sigbus_and_loads_go_on() {
    dies_of(
        SIGBUS,
        "a_store_to_a_full_device_raises_sigbus_and_loads_go_on",
        || {
            let disk = Disk::new(2);
            let file = disk.written::<false>(1, 1);
            file.set_size(2 * PAGE);
            let mapping = map(&file, 2);
            assert_eq!(load(&mapping, 0, 1)[0] + load(&mapping, PAGE, 1)[0], 1);
            mapping.store(pos(0), b"x").unwrap();
            let refused = mapping.prefault(pages(1, 1), Access::Store).unwrap_err();
            assert_eq!(refused, FaultError::Fs(FsError::NoSpace));
            mapping.store(pos(PAGE), b"x").unwrap();
        },
    );
}

#[test]
fn a_store_that_is_not_permitted_raises_sigsegv() {
    dies_of(
        SIGSEGV,
        "a_store_that_is_not_permitted_raises_sigsegv",
        || {
            let disk = Disk::new(64);
            let file = disk.written::<false>(2, 1);
            let mapping = map_as(&file, 0, 2, Prot::READ, MapOptions::empty());
            assert_eq!(load(&mapping, 0, 1), [1]);
            mapping.store(pos(0), b"x").unwrap();
        },
    );
}

#[test]
fn an_access_to_a_mapping_that_is_gone_raises_sigsegv() {
    dies_of(
        SIGSEGV,
        "an_access_to_a_mapping_that_is_gone_raises_sigsegv",
        || {
            let disk = Disk::new(64);
            let file = disk.written::<false>(2, 1);
            // Large: other threads get addresses from the end of what becomes free.
            let mapping = map(&file, 1 << 18);
            assert_eq!(load(&mapping, 0, 1), [1]);
            let at = mapping.as_ptr();
            drop(mapping);
            // SAFETY: not mapped any more: the signal is what is asked for.
            unsafe { at.read_volatile() };
        },
    );
}

/// Makes the refused page, then grows the file over it: no signal any more.
#[test]
fn a_page_that_was_refused_is_there_when_the_file_grows_over_it() {
    passes(
        "a_page_that_was_refused_is_there_when_the_file_grows_over_it",
        || {
            let disk = Disk::new(64);
            let file = disk.written::<false>(1, 1);
            let mapping = map(&file, 2);
            extern "C" fn bus(_signal: i32) {
                // The page is refused as long as nothing is done about it.
                FILE.get().unwrap()();
                BUS.store(true, Ordering::SeqCst);
            }
            static BUS: AtomicBool = AtomicBool::new(false);
            static FILE: std::sync::OnceLock<Box<dyn Fn() + Send + Sync>> =
                std::sync::OnceLock::new();
            let growing = Arc::clone(&file);
            let grow = move || growing.set_size(2 * PAGE);
            assert!(FILE.set(Box::new(grow)).is_ok());
            // SAFETY: the handler runs in a thread that holds no lock: it is raised by the load below.
            unsafe { libc::signal(libc::SIGBUS, bus as extern "C" fn(i32) as usize) };
            assert_eq!(load(&mapping, PAGE, 1), [0]);
            assert!(BUS.load(Ordering::SeqCst));
        },
    );
}

#[test]
fn a_signal_about_something_else_is_for_the_handler_before_ours() {
    const OWN: i32 = 17;
    extern "C" fn before(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
        // SAFETY: what the kernel passes; and the process ends here.
        unsafe {
            libc::_exit(if (*info).si_addr().addr() == 64 {
                OWN
            } else {
                1
            })
        };
    }
    let test = "a_signal_about_something_else_is_for_the_handler_before_ours";
    let status = alone(test, || {
        let handler = before as extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: zeroes are a valid value, and the handler has the signature of the flag.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
        }
        let disk = Disk::new(64);
        let file = disk.written::<false>(2, 1);
        assert_eq!(load(&map(&file, 2), 0, 1), [1]);
        // SAFETY: nothing is there: the signal is what is asked for.
        unsafe { std::ptr::without_provenance::<u8>(64).read_volatile() };
    });
    assert_eq!(status.unwrap().code(), Some(OWN));
}

/// The child has neither the pages that were shown nor those that were not, and its faults are
/// nobody's; the parent goes on.
#[test]
fn a_child_after_fork_does_not_have_the_mapping_and_the_parent_keeps_it() {
    passes(
        "a_child_after_fork_does_not_have_the_mapping_and_the_parent_keeps_it",
        || {
            let disk = Disk::new(64);
            let file = disk.written::<false>(2, 1);
            let mapping = map(&file, 2);
            mapping.store(pos(0), b"before").unwrap();
            for shown in [0, 4096] {
                // SAFETY: the child makes one access, which is to end it, and returns to nothing.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: not there: the signal is what is asked for. `_exit` otherwise.
                    unsafe {
                        mapping.as_ptr().add(shown).write_volatile(0);
                        libc::_exit(0);
                    }
                }
                let mut status = 0;
                // SAFETY: a child of ours, and a place for its status.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == SIGSEGV);
            }
            mapping.store(pos(PAGE), b"after").unwrap();
            assert_eq!(load(&mapping, 0, 6), b"before");
            assert_eq!(file.read(PAGE, 5), b"after");
        },
    );
}

/// More threads than there are slots for questions fault at once, over and over.
#[test]
fn more_threads_than_slots_fault_at_once() {
    const THREADS: u64 = 80;
    let disk = Disk::new(THREADS + 8);
    let file = disk.written::<false>(THREADS, 1);
    let mapping = map(&file, THREADS);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let mapping = &mapping;
                scope.spawn(move || {
                    for round in 1..40_u64 {
                        let at = pos(n * PAGE + 8 * round);
                        mapping.store(at, &round.to_le_bytes()).unwrap();
                        assert_eq!(load(mapping, at.bytes(), 8), round.to_le_bytes());
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                file.core()
                    .cache()
                    .mappings()
                    .unmap(&(page(0)..page(THREADS)));
                file.fsync();
            }
        });
        for thread in threads {
            thread.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// Threads store to their own words; others sync, move, punch pages of nobody and use the freed
/// blocks for another file, and fork. No store is lost, and none reaches somebody else's block.
#[test]
fn storers_beside_everything_else_lose_no_store() {
    const PAGES: u64 = 40;
    let disk = Disk::new(PAGES + 24);
    let file = disk.written::<false>(PAGES, 0);
    let until = Instant::now() + Duration::from_millis(1500);
    let stop = AtomicBool::new(false);
    let tables: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let (file, disk, stop) = (&file, &disk, &stop);
        let storers: Vec<_> = (0..3)
            .map(|n| scope.spawn(move || store_until(file, n, until)))
            .collect();
        let others = [
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    file.fsync();
                    std::thread::yield_now();
                }
            }),
            scope.spawn(move || {
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    file.move_page(n % 32).unwrap();
                }
            }),
            scope.spawn(move || {
                let nobody = map(file, PAGES);
                for n in (0..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let at = 32 + n % 8;
                    nobody.store(pos(at * PAGE), b"stored").unwrap();
                    file.punch(at, 1).unwrap();
                    let other = disk.written::<false>(1, 7);
                    let bytes = load(&nobody, at * PAGE, PAGE as usize);
                    assert!(bytes.iter().all(|byte| *byte != SECRET && *byte != 7));
                    assert_eq!(other.read(0, PAGE as usize), [7; PAGE as usize]);
                    other.punch(0, 1).unwrap();
                }
            }),
        ];
        let tables = storers.into_iter().map(|t| t.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        others.into_iter().for_each(|t| t.join().unwrap());
        tables
    });
    file.fsync();
    let left = file.after_crash();
    for (n, table) in tables.iter().enumerate() {
        for (slot, value) in table.iter().enumerate() {
            let at = place(n as u64, slot as u64) as usize;
            let found = u32::from_le_bytes(left[at..at + 4].try_into().unwrap());
            assert_eq!(found, *value, "storer {n}, word {slot}");
        }
    }
}

/// Words a storer has in each page.
const WORDS: u64 = 16;

/// Where word `slot` of storer `n` lies: the words of a page are interleaved.
const fn place(n: u64, slot: u64) -> u64 {
    let (page, word) = (slot / WORDS, slot % WORDS);
    page * PAGE + word * 256 + n * 8
}

fn store_until(file: &Arc<DaxFile<false>>, n: u64, until: Instant) -> Vec<u32> {
    let mut table = vec![0_u32; (32 * WORDS) as usize];
    let mut rng = fastrand::Rng::with_seed(n);
    let mut mapping = map(file, 32);
    while Instant::now() < until {
        for _ in 0..200 {
            let slot = rng.usize(..table.len());
            let at = pos(place(n, slot as u64));
            let mut bytes = [0; 4];
            mapping.load(at, &mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), table[slot], "a store was lost");
            let value = rng.u32(..);
            mapping.store(at, &value.to_le_bytes()).unwrap();
            table[slot] = value;
        }
        if rng.u8(..) == 0 {
            mapping = map(file, 32);
        }
    }
    table
}

#[test]
fn a_range_that_is_no_range_is_refused() {
    let disk = Disk::new(64);
    let file = disk.written::<false>(2, 1);
    let mapping = map(&file, 2);
    let outside = mapping.load(FilePos::saturating(2 * PAGE - 1), &mut [0; 2]);
    assert!(matches!(outside, Err(FaultError::NotMapped { .. })));
    mapping.forgive(FileRange::ALL);
    mapping.unmap(FileRange::ALL);
    assert!(mapping.load(pos(0), &mut [0]).is_err());
}
