//! Real memory mappings: loads and stores of this very program, resolved by the library.

#![cfg(all(target_os = "linux", not(any(iomap_shuttle, iomap_loom))))]
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(
    clippy::allow_attributes,
    reason = "shared with tests that use all of it"
)]

#[path = "common/alone.rs"]
mod alone;
#[path = "direct/device.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod device;
#[path = "mmap/file.rs"]
#[allow(dead_code, reason = "shared with tests that use all of it")]
mod file;

use alone::alone;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use iomap_core::error::{Errno, FaultError};
use iomap_core::fault::PageFaults;
use iomap_core::file::File;
use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::{Access, FaultHandler, MappedRange, Prot};
use iomap_core::ops::MapOps;
use iomap_core::page_cache::PageCache;
use iomap_core::units::PageIndex;
use iomap_core::vfs::{IoFlags, OpenFlags};

use file::{BOTH, Block, Config, TestFile, pos, range};

const READ_WRITE: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

fn open(file: &Arc<TestFile>) -> File<TestFile> {
    File::new(Arc::clone(file), READ_WRITE)
}

fn map(file: &Arc<TestFile>, pages: std::ops::Range<u64>) -> Mapping {
    let bytes = range(pages.start * 4096, pages.end * 4096);
    open(file).mmap(bytes, BOTH, true).unwrap()
}

fn load(mapping: &Mapping, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xCC; len];
    mapping.load(pos(at), &mut bytes).unwrap();
    bytes
}

fn faults(file: &TestFile) -> (u64, u64) {
    let counters = file.inode().counters().snapshot();
    (counters.read_faults, counters.write_faults)
}

#[test]
fn stores_of_the_program_reach_every_reader_and_the_device() {
    for bits in [12, 10] {
        let config = Config {
            bits,
            ..Config::default()
        };
        let file = TestFile::new(config, 20_000);
        file.write(0, &[1; 20_000]).unwrap();
        let (one, two) = (map(&file, 0..5), map(&file, 1..5));
        assert_eq!(load(&two, 4_096, 15_904), [1; 15_904]);
        one.store(pos(4_000), &[2; 200]).unwrap();
        assert_eq!(load(&two, 4_096, 104), [2; 104]);
        assert_eq!(file.read(4_000, 200), [2; 200]);
        let before = faults(&file);
        one.store(pos(4_000), &[3; 200]).unwrap();
        assert_eq!(faults(&file), before, "writable already");
        file.sync();
        assert_eq!(file.read_direct(0, 8_192)[4_000..4_200], [3; 200]);
        one.store(pos(4_000), &[4; 200]).unwrap();
        assert_eq!(
            faults(&file).1,
            before.1 + 2,
            "two clean pages became writable"
        );
        file.sync();
        file.drop_cache();
        assert_eq!(load(&two, 4_100, 100), [4; 100]);
        assert_eq!(file.read_direct(0, 8_192)[4_000..4_200], [4; 200]);
        file.check();
    }
}

#[test]
fn a_write_through_the_cache_and_a_direct_one_are_seen_by_the_mapping() {
    let file = TestFile::new(Config::default(), 16_384);
    let mapping = map(&file, 0..4);
    assert_eq!(load(&mapping, 0, 16_384), [0; 16_384]);
    file.write(100, b"buffered").unwrap();
    assert_eq!(load(&mapping, 100, 8), b"buffered");
    assert!(file.write_direct(8_192, &[9; 4_096]));
    assert_eq!(load(&mapping, 8_192, 4_096), [9; 4_096]);
    file.punch(range(4_096, 12_288)).unwrap();
    assert_eq!(load(&mapping, 4_096, 8_192), [0; 8_192]);
    mapping.store(pos(8_192), b"again").unwrap();
    file.truncate(4_096).unwrap();
    file.truncate(16_384).unwrap();
    assert_eq!(
        load(&mapping, 4_096, 12_288),
        [0; 12_288],
        "cut off and grown again"
    );
    file.check();
}

#[test]
fn a_page_at_the_end_is_faulted_again_when_the_file_grows_over_it() {
    let config = Config {
        bits: 10,
        ..Config::default()
    };
    let file = TestFile::new(config, 1_500);
    let mapping = map(&file, 0..4);
    mapping.store(pos(0), &[1; 4_096]).unwrap();
    assert_eq!((file.block(2), file.block(3)), (None, None));
    file.truncate(9_000).unwrap();
    assert_eq!(load(&mapping, 1_500, 2_000), [0; 2_000]);
    mapping.store(pos(3_500), b"kept").unwrap();
    mapping.store(pos(8_500), b"new").unwrap();
    assert_eq!(file.block(3), Some(Block::Delalloc));
    file.sync();
    file.drop_cache();
    assert_eq!(file.read(3_500, 4), b"kept");
    assert_eq!(file.read(8_500, 3), b"new");
}

#[test]
fn parts_are_unmapped_and_protected() {
    let file = TestFile::new(Config::default(), 8 * 4096);
    let mapping = map(&file, 0..8);
    mapping.store(pos(0), &[5; 8 * 4096]).unwrap();
    mapping.unmap(range(8_192, 12_288));
    let gone = mapping.load(pos(8_000), &mut [0; 400]);
    assert!(matches!(gone, Err(FaultError::NotMapped { .. })));
    assert_eq!(load(&mapping, 12_288, 100), [5; 100]);
    mapping.protect(range(16_384, 20_480), Prot::READ).unwrap();
    let denied = mapping.prefault(range(16_384, 16_385), Access::Store);
    assert!(matches!(denied, Err(FaultError::Denied { .. })));
    assert_eq!(load(&mapping, 16_384, 100), [5; 100]);
    mapping.protect(range(16_384, 20_480), BOTH).unwrap();
    mapping.store(pos(16_384), b"again").unwrap();
    drop(mapping);
    assert!(file.inode().cache().mappings().is_empty());
    assert_eq!(file.read(16_384, 5), b"again");
}

#[test]
fn what_may_not_be_mapped_is_refused() {
    let file = TestFile::new(Config::default(), 8_192);
    let read_only = File::new(Arc::clone(&file), OpenFlags::READ);
    let error = read_only.mmap(range(0, 4_096), BOTH, true).unwrap_err();
    assert_eq!(error.errno(), Errno::ACCESS);
    let whole = open(&file);
    let misplaced = whole.mmap(range(100, 4_096), BOTH, true).unwrap_err();
    assert_eq!(misplaced.errno(), Errno::INVAL);
    let empty = whole.mmap(range(0, 0), BOTH, true).unwrap_err();
    assert_eq!(empty.errno(), Errno::INVAL);
    let private = whole.mmap(range(0, 4_096), BOTH, false).unwrap_err();
    assert_eq!(private.errno(), Errno::OPNOTSUPP);
}

/// The buffer of a read or write is a mapping of the same file: no lock is held when it is touched.
#[test]
fn a_buffer_in_a_mapping_of_the_same_file_is_read_and_written() {
    let file = TestFile::new(Config::default(), 16_384);
    file.write(0, &[1; 4_096]).unwrap();
    file.write(4_096, &[2; 4_096]).unwrap();
    let mapping = map(&file, 0..4);
    for flags in [IoFlags::empty(), IoFlags::DIRECT] {
        // SAFETY: the mapping is as long, and no other thread uses the file.
        let buffer = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), 16_384) };
        let opened = open(&file);
        let (low, high) = buffer.split_at_mut(8_192);
        assert_eq!(
            opened.read_at(pos(4_096), &mut high[..4_096], flags),
            Ok(4_096)
        );
        assert_eq!(high[..4_096], [2; 4_096]);
        assert_eq!(
            opened.write_at(pos(0), &low[..4_096], flags),
            Ok(4_096),
            "onto itself"
        );
        assert_eq!(
            opened.write_at(pos(12_288), &low[4_096..], flags),
            Ok(4_096)
        );
        assert_eq!(low[..4_096], [1; 4_096]);
        assert_eq!(high[4_096..], [2; 4_096]);
    }
    file.check();
}

#[test]
fn a_system_call_finds_memory_that_was_faulted_in() {
    use std::io::{Read as _, Seek as _, Write as _};
    let file = TestFile::new(Config::default(), 8_192);
    file.write(0, &[7; 8_192]).unwrap();
    let mapping = map(&file, 0..2);
    mapping.prefault(range(0, 8_192), Access::Store).unwrap();
    // SAFETY: the mapping is as long, and no other thread uses the file.
    let buffer = unsafe { std::slice::from_raw_parts_mut(mapping.as_ptr(), 8_192) };
    let mut temp = tempfile::tempfile().unwrap();
    temp.write_all(buffer).unwrap();
    temp.rewind().unwrap();
    temp.write_all(&[8; 100]).unwrap();
    temp.rewind().unwrap();
    temp.read_exact(buffer).unwrap();
    assert_eq!(file.read(0, 101), [&[8; 100][..], &[7]].concat());
}

/// Runs the test again in a process that is to die, and returns the signal it died of.
fn signal_of(test: &str, dies: impl FnOnce()) -> Option<i32> {
    alone(test, dies).and_then(|status| status.signal())
}

const SIGBUS: i32 = 7;

#[test]
fn an_access_past_the_end_of_the_file_raises_sigbus() {
    let signal = signal_of("an_access_past_the_end_of_the_file_raises_sigbus", || {
        let file = TestFile::new(Config::default(), 5_000);
        let mapping = map(&file, 0..4);
        mapping.store(pos(8_191), b"x").unwrap();
        mapping.store(pos(8_192), b"x").unwrap();
    });
    if std::env::var_os("IOMAP_TEST_DIES").is_none() {
        assert_eq!(signal, Some(SIGBUS));
    }
}

#[test]
fn a_store_without_space_raises_sigbus_and_loads_go_on() {
    let signal = signal_of(
        "a_store_without_space_raises_sigbus_and_loads_go_on",
        || {
            let file = TestFile::new(Config::default(), 8_192);
            let mapping = map(&file, 0..2);
            file.set_free(0);
            assert_eq!(load(&mapping, 0, 1), [0]);
            let refused = mapping.prefault(range(0, 1), Access::Store);
            assert!(matches!(refused, Err(FaultError::Fs(_))));
            assert_eq!(load(&mapping, 0, 1), [0]);
            mapping.store(pos(0), b"x").unwrap();
        },
    );
    if std::env::var_os("IOMAP_TEST_DIES").is_none() {
        assert_eq!(signal, Some(SIGBUS));
    }
}

/// A fault that was past the end when it looked; the file grows before it is refused.
struct GrowsMeanwhile {
    faults: PageFaults<TestFile>,
    file: Arc<TestFile>,
}

impl FaultHandler for GrowsMeanwhile {
    fn cache(&self) -> &PageCache {
        self.faults.cache()
    }

    fn fault(
        &self,
        range: &Arc<MappedRange>,
        page: PageIndex,
        access: Access,
    ) -> Result<(), FaultError> {
        let outcome = self.faults.fault(range, page, access);
        if matches!(outcome, Err(FaultError::BeyondEnd { .. })) {
            let size = self.file.inode().size().bytes();
            self.file.truncate(size + 4096).unwrap();
        }
        outcome
    }

    fn reaches(&self, page: PageIndex) -> bool {
        let reaches = self.faults.reaches(page);
        // Whoever was told something before this answer acts on it now.
        (0..1000).for_each(|_| std::thread::yield_now());
        reaches
    }
}

#[test]
fn a_file_that_grows_while_a_fault_is_refused_raises_no_signal() {
    let signal = signal_of(
        "a_file_that_grows_while_a_fault_is_refused_raises_no_signal",
        || {
            let file = TestFile::new(Config::default(), 4096);
            let memory = Arc::clone(file.inode().cache().file_memory().unwrap());
            let handler = GrowsMeanwhile {
                faults: PageFaults::new(Arc::clone(&file)),
                file: Arc::clone(&file),
            };
            let pages = PageIndex::new(0)..PageIndex::new(64);
            let mapping = Mapping::new(Arc::new(handler), memory, pages, BOTH).unwrap();
            for page in 0..64 {
                mapping.store(pos(page * 4096), b"x").unwrap();
            }
        },
    );
    assert_eq!(signal, None);
}

/// Who may not have the kernel's faults reported has mappings all the same; a system call finds only
/// what is there.
#[test]
fn an_ordinary_user_has_mappings_and_system_calls_find_what_was_faulted_in() {
    const NOBODY: u32 = 65_534;
    let status = alone(
        "an_ordinary_user_has_mappings_and_system_calls_find_what_was_faulted_in",
        || {
            // SAFETY: takes numbers. Who is nobody already, or may not become it, stays.
            let _same = unsafe { libc::setresuid(NOBODY, NOBODY, NOBODY) };
            let file = TestFile::new(Config::default(), 8 * 4096);
            let mapping = map(&file, 0..8);
            mapping.store(pos(100), b"mine").unwrap();
            assert_eq!(file.read(100, 4), b"mine");
            file.sync();
            mapping.store(pos(104), b" too").unwrap();
            assert_eq!(load(&mapping, 100, 8), b"mine too");
            let mut temp = tempfile::tempfile().unwrap();
            let write = |temp: &mut std::fs::File| {
                // SAFETY: a page inside the mapping; only a system call copies from it.
                let bytes =
                    unsafe { std::slice::from_raw_parts(mapping.as_ptr().add(5 * 4096), 4096) };
                std::io::Write::write(temp, bytes)
            };
            if mapping.needs_prefault() {
                let refused = write(&mut temp).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
            }
            mapping
                .prefault(range(5 * 4096, 6 * 4096), Access::Load)
                .unwrap();
            assert_eq!(write(&mut temp).unwrap(), 4096);
        },
    );
    assert!(status.is_none_or(|status| status.success()));
}

const SIGSEGV: i32 = 11;

#[test]
fn a_child_after_fork_does_not_have_the_mapping_and_the_parent_keeps_it() {
    let status = alone(
        "a_child_after_fork_does_not_have_the_mapping_and_the_parent_keeps_it",
        || {
            let file = TestFile::new(Config::default(), 8_192);
            let mapping = map(&file, 0..2);
            mapping.store(pos(0), b"before").unwrap();
            // SAFETY: the child makes one access, which is to end it, and returns to nothing.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: not mapped here: the signal is what is asked for. `_exit` otherwise.
                unsafe {
                    mapping.as_ptr().read_volatile();
                    libc::_exit(0);
                }
            }
            let mut status = 0;
            // SAFETY: a child of ours, and a place for its status.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == SIGSEGV);
            mapping.store(pos(4096), b"after").unwrap();
            assert_eq!(load(&mapping, 0, 6), b"before");
            assert_eq!(file.read(4096, 5), b"after");
        },
    );
    assert!(status.is_none_or(|status| status.success()));
}

/// A program: threads store to a mapping of a file larger than memory, each to its own words; others
/// sync, reclaim, read around the cache, and grow and cut the end; pages that are punched belong to
/// nobody. Every store is found again, in the mapping and on the device.
#[test]
fn storers_beside_everything_else_lose_no_store() {
    const PAGES: u64 = 48;
    const STORERS: u64 = 3;
    let seconds = std::env::var("IOMAP_MMAP_SECONDS").ok();
    let seconds = seconds.and_then(|s| s.parse().ok()).unwrap_or(2);
    for delalloc in [true, false] {
        let config = Config {
            bits: 10,
            delalloc,
            stable: !delalloc,
            budget: 24,
            blocks: 4_096,
        };
        let file = TestFile::new(config, PAGES * 4096);
        let until = Instant::now() + Duration::from_secs(seconds);
        let stop = AtomicBool::new(false);
        let rounds = AtomicU32::new(0);
        let tables: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let (file, stop, rounds) = (&file, &stop, &rounds);
            let storers: Vec<_> = (0..STORERS)
                .map(|n| scope.spawn(move || store_until(file, n, until, rounds)))
                .collect();
            let others = [
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        file.sync();
                        file.inode().cache().pool_handle().shrink(8);
                    }
                }),
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        // The pages of nobody lie behind those of the storers.
                        let end = (PAGES - 8) * 4096;
                        file.punch(range(end + 512, end + 9_000)).unwrap();
                        file.truncate(end + 5_000).unwrap();
                        file.truncate(PAGES * 4096).unwrap();
                        assert_eq!(file.read(end + 5_000, 100), [0; 100]);
                    }
                }),
                scope.spawn(move || {
                    let mut n = 0;
                    while !stop.load(Ordering::Relaxed) {
                        n = (n + 7) % (PAGES - 8);
                        let bytes = file.read_direct(n * 4096, 4096);
                        assert!(!bytes.contains(&device::SECRET), "somebody else's bytes");
                        std::thread::yield_now();
                    }
                }),
            ];
            let tables = storers.into_iter().map(|t| t.join().unwrap()).collect();
            stop.store(true, Ordering::Relaxed);
            others.into_iter().for_each(|t| t.join().unwrap());
            tables
        });
        file.sync();
        let disk = file.read_direct(0, (PAGES - 8) as usize * 4096);
        for (n, table) in tables.iter().enumerate() {
            for (slot, value) in table.iter().enumerate() {
                let at = place(n as u64, slot as u64) as usize;
                let found = u32::from_le_bytes(disk[at..at + 4].try_into().unwrap());
                assert_eq!(found, *value, "storer {n}, word {slot}");
            }
        }
        file.check();
        let (reads, writes) = faults(&file);
        println!(
            "delalloc {delalloc}: {} stores, {reads} read faults, {writes} write faults",
            rounds.load(Ordering::Relaxed)
        );
    }
}

/// Words a storer has in each page.
const WORDS: u64 = 16;

/// Where word `slot` of storer `n` lies: the words of a page are interleaved.
fn place(n: u64, slot: u64) -> u64 {
    let (page, word) = (slot / WORDS, slot % WORDS);
    page * 4096 + word * 256 + n * 8
}

/// Stores numbers whose bytes are never [`device::SECRET`], and checks those that were there.
fn store_until(file: &Arc<TestFile>, n: u64, until: Instant, rounds: &AtomicU32) -> Vec<u32> {
    let mut table = vec![0_u32; (40 * WORDS) as usize];
    let mut rng = fastrand::Rng::with_seed(n);
    let mut mapping = map(file, 0..40);
    while Instant::now() < until {
        for _ in 0..200 {
            let slot = rng.usize(..table.len());
            let at = pos(place(n, slot as u64));
            let mut bytes = [0; 4];
            mapping.load(at, &mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), table[slot], "a store was lost");
            let value = rng.u32(..) & 0x7f7f_7f7f;
            mapping.store(at, &value.to_le_bytes()).unwrap();
            table[slot] = value;
        }
        rounds.fetch_add(200, Ordering::Relaxed);
        if rng.u8(..) == 0 {
            mapping = map(file, 0..40);
        }
    }
    table
}
