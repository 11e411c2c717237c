//! Small things: many small files, appends of a record with a sync now and then, holes, single bytes
//! in large folios, zeroing.
//!
//! On the disk of the temporary folder, where the kernel's rows are. Leaves out mounting, and
//! removing the files.

use std::fs::File as HostFile;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Fallocate, Ino, IoFlags, OpenFile, OpenFlags, Special, Vfs};

use super::{Case, GIB, MIB, len, read_all, size_name, text, timed, write_all};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, NEW, PAGE, Positions, noise};

type Steps = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;
type Made = Result<Steps, String>;

const RECORD: usize = 100;

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    if !effort.wide {
        return cases;
    }
    for &count in effort.vary.files {
        for (name, way) in [("write", Way::Write), ("read", Way::Read)] {
            let id = format!("small files/{name} 4 KiB in each of {count}");
            cases.push(Case::new(id, move |id| files(id, way, count)));
        }
    }
    for every in [1, 16, 1000] {
        let id = format!("append/100 B, fsync every {every}");
        cases.push(Case::new(id, move |id| append(id, every)));
    }
    for size in effort.vary.sizes.iter().copied() {
        let id = format!("sparse/read {} of a hole", size_name(size));
        cases.push(Case::new(id, move |id| hole(id, size)));
    }
    cases.push(Case::new(
        "small writes/1 B in each of 512 pages + fsync",
        bytes,
    ));
    cases.push(Case::new(
        "zero/1 GiB unwritten, 64 pages of it dirty",
        zero,
    ));
    cases
}

fn group(
    id: String,
    operation: String,
    (bytes, ops): (u64, Ops),
    ours: impl FnOnce() -> Made + 'static,
    kernel: impl FnOnce() -> Made + 'static,
) -> Group {
    Group {
        id,
        operation,
        excludes: "mounting, removing the files",
        bytes,
        ops,
        plot: None,
        sides: vec![
            Side::new("kernel", Role::Kernel, kernel),
            Side::new("testfs", Role::Ours, ours),
        ],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Write,
    Read,
}

// ---- small files

fn files(id: String, way: Way, count: u64) -> Group {
    let operation = match way {
        Way::Write => "create a file, write 4 KiB to it, close it; everything synced at the end",
        Way::Read => "find a file by its name, open it, read its 4 KiB, cached",
    };
    group(
        id,
        operation.into(),
        (PAGE, Ops::Fixed(count)),
        move || files_testfs(way, count),
        move || files_kernel(way, count),
    )
}

fn name(n: u64) -> String {
    format!("file-{n:06}")
}

fn write_testfs(mounted: &Mounted, dir: Ino, count: u64, page: &[u8]) -> Result<(), String> {
    let fs = mounted.fs();
    for n in 0..count {
        let made = fs
            .mknod(dir, name(n).as_bytes(), Special::Regular, &NEW)
            .map_err(text)?;
        let file = fs.open(made.ino, OpenFlags::WRITE).map_err(text)?;
        write_all(&*file, 0, page, IoFlags::empty())?;
    }
    fs.sync().map_err(text)
}

fn files_testfs(way: Way, count: u64) -> Made {
    let mounted = Mounted::with_cache(4 * count * PAGE);
    let mut page = noise(len(PAGE));
    let mut serial = 0;
    let mut folder = move |mounted: &Mounted| {
        serial += 1;
        let fs = mounted.fs();
        let made = fs.mkdir(fs.root(), format!("folder-{serial}").as_bytes(), &NEW);
        made.map(|made| made.ino).map_err(text)
    };
    if way == Way::Write {
        return Ok(Box::new(move |_, clock| {
            let dir = folder(&mounted)?;
            timed(1, clock, || write_testfs(&mounted, dir, count, &page))?;
            (0..count).try_for_each(|n| mounted.fs().unlink(dir, name(n).as_bytes()).map_err(text))
        }));
    }
    let dir = folder(&mounted)?;
    write_testfs(&mounted, dir, count, &page)?;
    Ok(Box::new(move |_, clock| {
        timed(1, clock, || {
            for n in 0..count {
                let fs = mounted.fs();
                let found = fs.lookup(dir, name(n).as_bytes()).map_err(text)?;
                let file = fs.open(found.ino, OpenFlags::READ).map_err(text)?;
                read_all(&*file, 0, &mut page, IoFlags::empty())?;
            }
            Ok(())
        })
    }))
}

fn write_kernel(folder: &Path, count: u64, page: &[u8]) -> Result<(), String> {
    for n in 0..count {
        let file = HostFile::create(folder.join(name(n))).map_err(text)?;
        file.write_all_at(page, 0).map_err(text)?;
    }
    let top = HostFile::open(folder).map_err(text)?;
    rustix::fs::syncfs(&top).map_err(text)
}

fn files_kernel(way: Way, count: u64) -> Made {
    let mut page = noise(len(PAGE));
    if way == Way::Write {
        return Ok(Box::new(move |_, clock| {
            let folder = tempfile::tempdir().map_err(text)?;
            timed(1, clock, || write_kernel(folder.path(), count, &page))
        }));
    }
    let folder = tempfile::tempdir().map_err(text)?;
    write_kernel(folder.path(), count, &page)?;
    Ok(Box::new(move |_, clock| {
        timed(1, clock, || {
            for n in 0..count {
                let file = HostFile::open(folder.path().join(name(n))).map_err(text)?;
                file.read_exact_at(&mut page, 0).map_err(text)?;
            }
            Ok(())
        })
    }))
}

// ---- appends

fn append(id: String, every: u64) -> Group {
    let operation = format!("append 100 B; fdatasync after every {every}");
    let ops = Ops::Fixed((16 * every).clamp(64, 4000));
    group(
        id,
        operation,
        (RECORD as u64, ops),
        move || {
            let mounted = Mounted::with_cache(64 * MIB);
            let file = mounted.file_of(0);
            let record = noise(RECORD);
            let mut done = 0;
            Ok(Box::new(move |count, clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    write_all(&*file, done * RECORD as u64, &record, IoFlags::empty())?;
                    done += 1;
                    if done % every == 0 {
                        file.fsync(true).map_err(text)?;
                    }
                    Ok(())
                })
            }))
        },
        move || {
            let file = tempfile::tempfile().map_err(text)?;
            let record = noise(RECORD);
            let mut done = 0;
            Ok(Box::new(move |count, clock| {
                timed(count, clock, || {
                    file.write_all_at(&record, done * RECORD as u64)
                        .map_err(text)?;
                    done += 1;
                    if done % every == 0 {
                        file.sync_data().map_err(text)?;
                    }
                    Ok(())
                })
            }))
        },
    )
}

// ---- holes

fn hole(id: String, size: u64) -> Group {
    let operation = format!("read {} of a hole of 1 GiB, cached or not", size_name(size));
    group(
        id,
        operation,
        (size, Ops::Fit),
        move || {
            let mounted = Mounted::with_cache(64 * MIB);
            let file = mounted.file_of(0);
            write_all(&*file, GIB, &[1], IoFlags::empty())?;
            let mut buf = noise(len(size));
            let mut positions = Positions::new(GIB, size);
            Ok(Box::new(move |count, clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    read_all(&*file, positions.draw(), &mut buf, IoFlags::empty())
                })
            }))
        },
        move || {
            let file = tempfile::tempfile().map_err(text)?;
            file.set_len(GIB + 1).map_err(text)?;
            let mut buf = noise(len(size));
            let mut positions = Positions::new(GIB, size);
            Ok(Box::new(move |count, clock| {
                timed(count, clock, || {
                    file.read_exact_at(&mut buf, positions.draw()).map_err(text)
                })
            }))
        },
    )
}

// ---- single bytes, zeroing

/// One byte in each of 512 pages of large folios, then their writeback: what per-block state saves.
fn bytes(id: String) -> Group {
    const LEN: u64 = 32 * MIB;
    group(
        id,
        "write 1 byte at each of 512 random pages of 32 MiB that is cached, then fdatasync".into(),
        (512, Ops::Fixed(1)),
        || {
            let mounted = Mounted::with_cache(4 * LEN);
            let file = mounted.file_of(LEN);
            let mut positions = Positions::new(LEN, PAGE);
            Ok(Box::new(move |count, clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    (0..512).try_for_each(|_| {
                        write_all(&*file, positions.draw(), &[1], IoFlags::empty())
                    })?;
                    file.fsync(true).map_err(text)
                })
            }))
        },
        || {
            let file = crate::host_file(LEN).map_err(text)?;
            let mut positions = Positions::new(LEN, PAGE);
            Ok(Box::new(move |count, clock| {
                timed(count, clock, || {
                    (0..512)
                        .try_for_each(|_| file.write_all_at(&[1], positions.draw()))
                        .map_err(text)?;
                    file.sync_data().map_err(text)
                })
            }))
        },
    )
}

/// Zeroing 1 GiB that is unwritten but for 64 dirty pages spread over it.
fn zero(id: String) -> Group {
    use rustix::fs::{FallocateFlags, fallocate};
    let page = noise(len(PAGE));
    let other = page.clone();
    let spread = |n| n * (GIB / 64);
    group(
        id,
        "zero 1 GiB that is unwritten but for 64 dirty pages".into(),
        (0, Ops::Fixed(2)),
        move || {
            let mounted = Mounted::with_cache(64 * MIB);
            let file: Arc<dyn OpenFile> = mounted.file_of(0);
            let all = FileRange::at_most(FilePos::ZERO, GIB);
            Ok(Box::new(move |count, clock| {
                let _mounted = &mounted;
                for _ in 0..count {
                    for how in [
                        Fallocate::Allocate,
                        Fallocate::PunchHole,
                        Fallocate::Allocate,
                    ] {
                        file.fallocate(how, all).map_err(text)?;
                    }
                    (0..64)
                        .try_for_each(|n| write_all(&*file, spread(n), &page, IoFlags::empty()))?;
                    timed(1, clock, || {
                        file.fallocate(Fallocate::ZeroRange, all).map_err(text)
                    })?;
                }
                Ok(())
            }))
        },
        move || {
            let file = tempfile::tempfile().map_err(text)?;
            let call = move |file: &HostFile, flags| fallocate(file, flags, 0, GIB).map_err(text);
            Ok(Box::new(move |count, clock| {
                for _ in 0..count {
                    file.set_len(0).map_err(text)?;
                    call(&file, FallocateFlags::empty())?;
                    (0..64)
                        .try_for_each(|n| file.write_all_at(&other, spread(n)))
                        .map_err(text)?;
                    timed(1, clock, || call(&file, FallocateFlags::ZERO_RANGE))?;
                }
                Ok(())
            }))
        },
    )
}
