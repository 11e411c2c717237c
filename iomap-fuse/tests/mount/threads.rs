//! Many threads at once, locks between programs, and memory mappings.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, copy_file_range, fcntl_lock, flock};

use crate::Scenario;
use crate::bed::Bed;
use crate::raw::{Aligned, Map, interrupted, wait_for_record_lock, write_queued};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("many_threads_make_and_remove_files", many_threads),
    (
        "parallel_writers_of_one_file_keep_their_ranges",
        parallel_writers,
    ),
    (
        "a_queued_direct_write_leaves_no_old_pages_behind",
        queued_direct_write,
    ),
    ("flock_excludes_other_programs", flock_excludes),
    ("posix_locks_exclude_other_programs", posix_excludes),
    (
        "a_wait_for_a_lock_ends_with_a_signal",
        wait_for_lock_interrupted,
    ),
    ("a_long_copy_ends_with_a_signal", copy_interrupted),
    (
        "a_shared_mapping_and_writes_see_each_other",
        mapping_and_writes,
    ),
    ("a_mapping_outlives_name_and_descriptor", mapping_outlives),
    ("a_private_mapping_changes_nothing", private_mapping),
    ("mapped_bytes_are_durable_after_msync", msync_is_durable),
    (
        "rename_beside_lookup_never_loses_the_name",
        rename_beside_lookup,
    ),
    (
        "what_works_behind_requests_runs_on_any_processor",
        unbound_workers,
    ),
];

/// The processors that the thread with this folder may run on.
fn processors(task: &Path) -> Option<String> {
    let status = fs::read_to_string(task.join("status")).ok()?;
    let line = status
        .lines()
        .find(|line| line.starts_with("Cpus_allowed:"));
    Some(line?.to_owned())
}

/// The thread that serves a ring starts the first workers, and is held on a processor itself.
fn unbound_workers(bed: &Bed) {
    fs::write(bed.path("f"), vec![1; 1 << 20]).unwrap();
    rw(bed, "f").sync_all().unwrap();
    let all = processors("/proc/self".as_ref()).unwrap();
    let is_free = |task: fs::DirEntry| {
        let name = fs::read(task.path().join("comm")).unwrap_or_default();
        // It may have ended.
        !name.starts_with(b"iomap-") || processors(&task.path()).is_none_or(|may| may == all)
    };
    // One that has just begun frees itself.
    let tasks = || fs::read_dir("/proc/self/task").unwrap();
    bed.wait_until(|| tasks().flatten().all(is_free));
}

fn rw(bed: &Bed, name: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(bed.path(name))
        .unwrap()
}

fn queued_direct_write(bed: &Bed) {
    use std::os::unix::fs::OpenOptionsExt;
    const LEN: usize = 64 << 10;
    let file = rw(bed, "f");
    file.write_all_at(&[0; LEN], 0).unwrap();
    file.sync_all().unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_DIRECT);
    let direct = options.open(bed.path("f")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // They bring the pages back while the write is under way.
            scope.spawn(|| {
                let mut seen = vec![0; LEN];
                while !done.load(Ordering::Relaxed) {
                    file.read_exact_at(&mut seen, 0).unwrap();
                }
            });
        }
        let mut seen = vec![0; LEN];
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..60 {
                let bytes = Aligned::new(LEN, round as u8);
                assert_eq!(write_queued(&direct, bytes.bytes(), 0), LEN as i64);
                file.read_exact_at(&mut seen, 0).unwrap();
                assert!(seen == bytes.bytes(), "round {round}: old bytes");
            }
        }));
        done.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
}

fn many_threads(bed: &Bed) {
    std::thread::scope(|scope| {
        for t in 0..8 {
            scope.spawn(move || {
                let dir = bed.path(format!("t{t}"));
                fs::create_dir(&dir).unwrap();
                for i in 0..60 {
                    let path = dir.join(format!("{i}"));
                    fs::write(&path, format!("{t}/{i}").repeat(500)).unwrap();
                    assert_eq!(
                        fs::read_to_string(&path).unwrap(),
                        format!("{t}/{i}").repeat(500)
                    );
                    if i % 3 == 0 {
                        fs::remove_file(&path).unwrap();
                    } else {
                        fs::rename(&path, dir.join(format!("kept-{i}"))).unwrap();
                    }
                }
                assert_eq!(fs::read_dir(&dir).unwrap().count(), 40);
            });
        }
    });
}

fn parallel_writers(bed: &Bed) {
    const PIECE: u64 = 16 * 1024;
    rw(bed, "f").set_len(PIECE * 8 * 16).unwrap();
    std::thread::scope(|scope| {
        for t in 0..8_u8 {
            scope.spawn(move || {
                let file = rw(bed, "f");
                for i in 0..16 {
                    let at = (i * 8 + u64::from(t)) * PIECE;
                    file.write_all_at(&vec![t + 1; PIECE as usize], at).unwrap();
                }
            });
        }
    });
    let bytes = fs::read(bed.path("f")).unwrap();
    for (i, piece) in bytes.chunks(PIECE as usize).enumerate() {
        assert!(
            piece.iter().all(|b| usize::from(*b) == i % 8 + 1),
            "piece {i}"
        );
    }
}

/// Whether another program gets a lock on the file, without waiting.
fn others_get(bed: &Bed, kind: &str) -> bool {
    Command::new(std::env::current_exe().unwrap())
        .env(crate::bed::CHILD, kind)
        .arg(bed.path("f"))
        .status()
        .unwrap()
        .success()
}

/// The other program.
pub(crate) fn try_lock(kind: &str, path: &str) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    match kind {
        "flock" => flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        "posix" => fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok(),
        _ => panic!("no such lock: {kind}"),
    }
}

fn flock_excludes(bed: &Bed) {
    let file = rw(bed, "f");
    flock(&file, FlockOperation::LockShared).unwrap();
    assert!(!others_get(bed, "flock"));
    flock(&file, FlockOperation::Unlock).unwrap();
    assert!(others_get(bed, "flock"));
    flock(&file, FlockOperation::LockExclusive).unwrap();
    drop(file);
    // A program that another thread starts has the file open for a moment, too.
    let free = (0..200).any(|_| {
        let got = others_get(bed, "flock");
        if !got {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        got
    });
    assert!(free, "closing gives the lock back");
}

fn posix_excludes(bed: &Bed) {
    let file = rw(bed, "f");
    fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
    assert!(!others_get(bed, "posix"));
    fcntl_lock(&file, FlockOperation::Unlock).unwrap();
    assert!(others_get(bed, "posix"));
}

fn wait_for_lock_interrupted(bed: &Bed) {
    let file = rw(bed, "f");
    let other = rw(bed, "f");
    flock(&file, FlockOperation::LockExclusive).unwrap();
    let waited = interrupted(|| flock(&other, FlockOperation::LockExclusive));
    assert_eq!(waited, Err(rustix::io::Errno::INTR));
    flock(&file, FlockOperation::Unlock).unwrap();
    wait_for_record_lock(&file).unwrap();
    let waited = interrupted(|| wait_for_record_lock(&other));
    assert_eq!(waited, Err(rustix::io::Errno::INTR));
    drop(file);
    wait_for_record_lock(&other).unwrap();
}

fn copy_interrupted(bed: &Bed) {
    const LEN: usize = 48 << 20;
    let bytes: Vec<u8> = (0..LEN as u32).map(|i| (i % 251) as u8).collect();
    let (from, to) = (rw(bed, "from"), rw(bed, "to"));
    from.write_all_at(&bytes, 0).unwrap();
    from.sync_all().unwrap();
    for _ in 0..50 {
        // One byte further on: nothing can be shared.
        let (mut at, mut to_at) = (0, 1);
        let copied =
            interrupted(|| copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), LEN));
        match copied {
            Ok(copied) if copied < LEN => {
                let mut seen = vec![0; copied];
                to.read_exact_at(&mut seen, 1).unwrap();
                assert!(copied > 0 && seen == bytes[..copied]);
                assert_eq!(at, copied as u64);
                return;
            }
            // The signal came too late, or before there was anything to copy.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("no copy ended early");
}

fn mapping_and_writes(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[1; 3 * 4096], 0).unwrap();
    let map = Map::shared(&file, 3 * 4096);
    assert_eq!(map.get(5000), 1);
    map.set(5000, 2);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    assert_eq!(byte, [2], "a store is read");
    file.write_all_at(&[3], 5000).unwrap();
    assert_eq!(map.get(5000), 3, "a write is loaded");
    map.set(9000, 4);
    map.sync();
    assert_eq!(fs::read(bed.path("f")).unwrap()[9000], 4);
    file.set_len(4096).unwrap();
    file.set_len(3 * 4096).unwrap();
    assert_eq!(map.get(9000), 0, "what was cut off is gone");
}

fn mapping_outlives(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[1; 8192], 0).unwrap();
    let map = Map::shared(&file, 8192);
    drop(file);
    let again = File::open(bed.path("f")).unwrap();
    fs::remove_file(bed.path("f")).unwrap();
    map.set(1, 9);
    map.sync();
    let mut bytes = [0; 2];
    again.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [1, 9]);
}

fn private_mapping(bed: &Bed) {
    fs::write(bed.path("f"), [1; 4096]).unwrap();
    let map = Map::private(&File::open(bed.path("f")).unwrap(), 4096);
    map.set(0, 2);
    assert_eq!((map.get(0), map.get(1)), (2, 1));
    assert_eq!(fs::read(bed.path("f")).unwrap(), [1; 4096]);
}

fn msync_is_durable(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[1; 8192], 0).unwrap();
    file.sync_all().unwrap();
    File::open(bed.path("")).unwrap().sync_all().unwrap();
    let map = Map::shared(&file, 8192);
    map.set(4100, 2);
    map.sync();
    assert_eq!(bed.after_crash("f").unwrap()[4100], 2);
}

fn rename_beside_lookup(bed: &Bed) {
    fs::write(bed.path("name"), b"old").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(!fs::read(bed.path("name")).unwrap().is_empty());
                }
            });
        }
        for i in 0..300 {
            fs::write(bed.path("next"), format!("version {i}")).unwrap();
            fs::rename(bed.path("next"), bed.path("name")).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
