//! The cache where it does not hold everything: reads of which some miss, files larger than it,
//! direct beside buffered.
//!
//! Files lie on the disk of the temporary folder, where the kernel's are. The kernel's cache has no
//! budget: its rows are what it does with memory to spare, but for the pages taken away from it.
//! Leaves out making the files.

use std::fs::File as HostFile;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use iomap_core::device::{DeviceBuf, FileDevice, OpenOptions};
use iomap_core::ops::MapOps;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{IoFlags, OpenFile};
use rustix::fs::{Advice, fadvise};

use super::{Case, GIB, MIB, forget, host_path, len, read_all, size_name, text, timed, write_all};
use crate::compare::host::open_direct;
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, PAGE, Positions, RawRing, flat, noise};

/// What is cached all the time, and what never is.
const HOT: u64 = 32 * MIB;
const COLD: u64 = GIB;
/// The budget of a cache that is too small, and a file four times as large.
const CACHE: u64 = 64 * MIB;
const LARGE: u64 = 4 * CACHE;

type Steps = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;
type Made = Result<Steps, String>;

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    if !effort.wide {
        return cases;
    }
    for &hits in effort.vary.hits {
        let id = format!("hits/read 4 KiB, {hits} % cached");
        cases.push(Case::new(id, move |id| mixture(id, hits)));
    }
    let sizes: Vec<u64> = effort
        .vary
        .sizes
        .iter()
        .copied()
        .filter(|s| *s <= MIB)
        .collect();
    for size in sizes {
        let id = format!("pressure/random read {}, cache a quarter", size_name(size));
        cases.push(Case::new(id, move |id| random_read(id, size)));
    }
    cases.push(Case::new(
        "pressure/random overwrite 4 KiB, cache a quarter",
        overwrite,
    ));
    cases.push(Case::new(
        "pressure/stream read, cache a quarter",
        stream_read,
    ));
    cases.push(Case::new(
        "pressure/stream write + fsync, cache a quarter",
        stream_write,
    ));
    cases.push(Case::new("mixed/direct write, buffered read 4 KiB", mixed));
    cases
}

fn group(id: String, operation: String, (bytes, ops): (u64, Ops), sides: Vec<Side>) -> Group {
    Group {
        id,
        operation,
        excludes: "making the file, mounting",
        bytes,
        ops,
        plot: None,
        sides,
    }
}

// ---- reads of which a part misses

fn mixture(id: String, hits: u8) -> Group {
    let operation = format!(
        "read 4 KiB: {hits} of 100 from 32 MiB that are cached, the others from 1 GiB that is not"
    );
    let sides = vec![
        Side::new("kernel", Role::Kernel, move || {
            mixture_kernel(hits, Advice::Normal)
        }),
        Side::new("kernel, told random", Role::Kernel, move || {
            mixture_kernel(hits, Advice::Random)
        }),
        Side::new("iomap-core", Role::Ours, move || mixture_core(hits)),
    ];
    group(id, operation, (PAGE, Ops::Fit), sides)
}

/// Positions of the mixture.
fn mixed_positions(hits: u8) -> impl FnMut() -> u64 {
    let mut random = fastrand::Rng::with_seed(u64::from(hits));
    let (mut hot, mut cold) = (Positions::new(HOT, PAGE), Positions::new(COLD, PAGE));
    move || match random.u8(..100) < hits {
        true => hot.draw(),
        false => HOT + cold.draw(),
    }
}

fn mixture_kernel(hits: u8, advice: Advice) -> Made {
    let named = host_path(HOT + COLD)?;
    let file = HostFile::open(named.path()).map_err(text)?;
    fadvise(&file, 0, None, advice).map_err(text)?;
    let mut page = noise(len(PAGE));
    let mut draw = mixed_positions(hits);
    Ok(Box::new(move |count, clock| {
        forget(named.path())?;
        (0..HOT)
            .step_by(page.len())
            .try_for_each(|at| file.read_exact_at(&mut page, at))
            .map_err(text)?;
        fadvise(&file, HOT, None, Advice::DontNeed).map_err(text)?;
        timed(count, clock, || {
            file.read_exact_at(&mut page, draw()).map_err(text)
        })
    }))
}

fn mixture_core(hits: u8) -> Made {
    let named = host_path(HOT + COLD)?;
    let device = Arc::new(FileDevice::open(named.path(), &OpenOptions::default()).map_err(text)?);
    let flat = flat(device, 2 * (HOT + COLD), 4).map_err(text)?;
    let file = flat.open();
    let mut page = noise(len(PAGE));
    let mut draw = mixed_positions(hits);
    Ok(Box::new(move |count, clock| {
        let _named = &named;
        let cold = FileRange::at_most(FilePos::saturating(HOT), COLD);
        flat.inode().cache().drop_clean(cold);
        let mut read = |at| match file.read_at(FilePos::saturating(at), &mut page, IoFlags::empty())
        {
            Ok(done) if done == len(PAGE) => Ok(()),
            Ok(done) => Err(format!("{done} bytes read")),
            Err(error) => Err(text(error)),
        };
        (0..HOT).step_by(len(PAGE)).try_for_each(&mut read)?;
        timed(count, clock, || read(draw()))
    }))
}

// ---- files larger than the cache

/// A file of testfs four times as large as the cache.
fn large() -> (Mounted, Arc<dyn OpenFile>) {
    let mounted = Mounted::with_cache(CACHE);
    let file = mounted.file_of(LARGE);
    (mounted, file)
}

fn random_read(id: String, size: u64) -> Group {
    let ours = move |flags| {
        move || {
            let (mounted, file) = large();
            let mut buf = DeviceBuf::zeroed(len(size), 4096);
            let mut positions = Positions::new(LARGE, size);
            Ok(move |count, clock: &mut Clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    read_all(&*file, positions.draw(), &mut buf, flags)
                })
            })
        }
    };
    let sides = vec![
        Side::new("pread O_DIRECT", Role::Floor, move || {
            let named = host_path(LARGE)?;
            let file = open_direct(named.path())?;
            let mut buf = DeviceBuf::zeroed(len(size), 4096);
            let mut positions = Positions::new(LARGE, size);
            Ok(move |count, clock: &mut Clock| {
                let _named = &named;
                timed(count, clock, || {
                    file.read_exact_at(&mut buf, positions.draw()).map_err(text)
                })
            })
        }),
        Side::new("testfs buffered", Role::Ours, ours(IoFlags::empty())),
        Side::new("testfs uncached", Role::Ours, ours(IoFlags::DONTCACHE)),
        Side::new("testfs direct", Role::Ours, ours(IoFlags::DIRECT)),
    ];
    let operation = format!("read {} at a random multiple of it", size_name(size));
    group(id, operation, (size, Ops::Fit), sides)
}

fn overwrite(id: String) -> Group {
    let ours = |flags| {
        move || {
            let (mounted, file) = large();
            let page = DeviceBuf::from_slice(&noise(len(PAGE)), 4096);
            let mut positions = Positions::new(LARGE, PAGE);
            Ok(move |count, clock: &mut Clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    write_all(&*file, positions.draw(), &page, flags)
                })
            })
        }
    };
    let sides = vec![
        Side::new("pwrite O_DIRECT", Role::Floor, || {
            let named = host_path(LARGE)?;
            let file = open_direct(named.path())?;
            let page = DeviceBuf::from_slice(&noise(len(PAGE)), 4096);
            let mut positions = Positions::new(LARGE, PAGE);
            Ok(move |count, clock: &mut Clock| {
                let _named = &named;
                timed(count, clock, || {
                    file.write_all_at(&page, positions.draw()).map_err(text)
                })
            })
        }),
        Side::new("testfs buffered", Role::Ours, ours(IoFlags::empty())),
        Side::new("testfs direct", Role::Ours, ours(IoFlags::DIRECT)),
    ];
    let operation = "overwrite 4 KiB at a random multiple of it".into();
    group(id, operation, (PAGE, Ops::Fixed(8000)), sides)
}

fn stream_read(id: String) -> Group {
    let ours = |flags| {
        move || {
            let (mounted, file) = large();
            let mut buf = DeviceBuf::zeroed(len(MIB), 4096);
            Ok(move |count, clock: &mut Clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    (0..LARGE)
                        .step_by(buf.len())
                        .try_for_each(|at| read_all(&*file, at, &mut buf, flags))
                })
            })
        }
    };
    let sides = vec![
        Side::new("raw io_uring", Role::Floor, || raw_stream(false)),
        Side::new("testfs buffered", Role::Ours, ours(IoFlags::empty())),
        Side::new("testfs uncached", Role::Ours, ours(IoFlags::DONTCACHE)),
    ];
    let operation = "read 256 MiB in calls of 1 MiB, with a cache of 64 MiB".into();
    group(id, operation, (LARGE, Ops::Fixed(1)), sides)
}

fn raw_stream(write: bool) -> Made {
    let named = host_path(LARGE)?;
    let mut ring = RawRing::new(open_direct(named.path())?, 4, len(MIB)).map_err(text)?;
    Ok(Box::new(move |count, clock| {
        let _named = &named;
        timed(count, clock, || {
            let mut positions = (0..LARGE).step_by(len(MIB));
            ring.run(LARGE / MIB, write, || positions.next().unwrap_or(0))
                .map_err(text)?;
            if write {
                ring.file().sync_data().map_err(text)?;
            }
            Ok(())
        })
    }))
}

fn stream_write(id: String) -> Group {
    let ours = |flags| {
        move || {
            let (mounted, file) = large();
            let data = noise(len(MIB));
            Ok(move |count, clock: &mut Clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    (0..LARGE)
                        .step_by(data.len())
                        .try_for_each(|at| write_all(&*file, at, &data, flags))?;
                    file.fsync(true).map_err(text)
                })
            })
        }
    };
    let sides = vec![
        Side::new("raw io_uring", Role::Floor, || raw_stream(true)),
        Side::new("testfs buffered", Role::Ours, ours(IoFlags::empty())),
        Side::new("testfs uncached", Role::Ours, ours(IoFlags::DONTCACHE)),
    ];
    let operation = "write 256 MiB in calls of 1 MiB over a file, then fdatasync; 64 MiB of cache";
    group(id, operation.into(), (LARGE, Ops::Fixed(1)), sides)
}

// ---- direct beside buffered

/// A page written around the cache and read through it, at one place after the other.
fn mixed(id: String) -> Group {
    let sides = vec![
        Side::new("kernel", Role::Kernel, || {
            let named = host_path(CACHE)?;
            let direct = open_direct(named.path())?;
            let buffered = HostFile::open(named.path()).map_err(text)?;
            fadvise(&buffered, 0, None, Advice::Random).map_err(text)?;
            let mut page = DeviceBuf::from_slice(&noise(len(PAGE)), 4096);
            let mut positions = Positions::new(CACHE, PAGE);
            Ok(move |count, clock: &mut Clock| {
                let _named = &named;
                timed(count, clock, || {
                    let at = positions.draw();
                    direct.write_all_at(&page, at).map_err(text)?;
                    buffered.read_exact_at(&mut page, at).map_err(text)
                })
            })
        }),
        Side::new("testfs", Role::Ours, || {
            let mounted = Mounted::with_cache(2 * CACHE);
            let file = mounted.file_of(CACHE);
            let mut page = DeviceBuf::from_slice(&noise(len(PAGE)), 4096);
            let mut positions = Positions::new(CACHE, PAGE);
            Ok(move |count, clock: &mut Clock| {
                let _mounted = &mounted;
                timed(count, clock, || {
                    let at = positions.draw();
                    write_all(&*file, at, &page, IoFlags::DIRECT)?;
                    read_all(&*file, at, &mut page, IoFlags::empty())
                })
            })
        }),
    ];
    let operation = "write 4 KiB direct at a random page of 64 MiB, then read it buffered".into();
    group(id, operation, (2 * PAGE, Ops::Fit), sides)
}
