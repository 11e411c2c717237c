//! Bytes that are in the cache: random reads and overwrites.
//!
//! Leaves out the device, growth of the file, and writeback. The memcpy floor copies from or to
//! memory of the same size with pages of the same size.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use iomap_core::device::MemoryDevice;
use iomap_core::units::FilePos;
use iomap_core::vfs::IoFlags;

use super::{Case, KIB, LoopFile, MIB, len, plot, read_all, size_name, text, timed, write_all};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Memory, Mounted, PAGE, Positions, flat, noise};

const EXCLUDES: &str = "the device, growth of the file, writeback";
const SET: u64 = 256 * MIB;
const HOT: u64 = 64 * PAGE;
const LARGE: u32 = 9;

/// What of the cached paths is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Overwrite,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "cached-read",
            Self::Overwrite => "cached-overwrite",
        }
    }
}

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let sizes: &[u64] = if effort.wide {
        &[4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB]
    } else {
        &[4 * KIB, 64 * KIB, MIB]
    };
    let mut cases = Vec::new();
    for way in [Way::Read, Way::Overwrite] {
        let name = way.name();
        cases.push(Case::new(format!("{name}/4 KiB/hot"), move |id| {
            group(id, way, HOT, PAGE, LARGE)
        }));
        for &size in sizes {
            let id = format!("{name}/{}/256 MiB", size_name(size));
            cases.push(Case::new(id, move |id| group(id, way, SET, size, LARGE)));
        }
        cases.push(Case::new(
            format!("{name}/4 KiB/256 MiB, 4 KiB folios"),
            move |id| group(id, way, SET, PAGE, 0),
        ));
    }
    cases
}

fn group(id: String, way: Way, set: u64, size: u64, order: u32) -> Group {
    let picture = match way {
        Way::Read => "cached read, 256 MiB",
        Way::Overwrite => "cached overwrite, 256 MiB",
    };
    let drawn = set == SET && order == LARGE;
    let mut sides = vec![
        Side::new("memcpy", Role::Floor, move || {
            memcpy(way, set, size, order > 0)
        }),
        Side::new("iomap-core", Role::Ours, move || {
            core(way, set, size, order)
        }),
        Side::new("kernel", Role::Kernel, move || {
            let file = crate::host_file(set).map_err(text)?;
            kernel(way, set, size, file, ())
        }),
    ];
    if order > 0 {
        let testfs = Side::new("testfs", Role::Ours, move || testfs(way, set, size));
        sides.insert(2, testfs);
    }
    if size == PAGE && drawn {
        for (name, kind) in [("kernel ext4", "ext4"), ("kernel xfs", "xfs")] {
            sides.push(Side::new(name, Role::Kernel, move || {
                let LoopFile { file, mount } = LoopFile::new(kind, set)?;
                kernel(way, set, size, file, mount)
            }));
        }
    }
    Group {
        id,
        operation: match way {
            Way::Read => format!("read {} at a random multiple of it", size_name(size)),
            Way::Overwrite => format!("overwrite {} at a random multiple of it", size_name(size)),
        },
        excludes: EXCLUDES,
        bytes: size,
        ops: Ops::Fit,
        plot: drawn.then(|| plot(picture, size)),
        sides,
    }
}

type Steps<W> = Result<W, String>;

fn memcpy(
    way: Way,
    set: u64,
    size: u64,
    huge: bool,
) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let mut memory = Memory::noise(len(set), huge).map_err(text)?;
    let mut buf = noise(len(size));
    let mut positions = Positions::new(set, size);
    Ok(move |count, clock: &mut Clock| {
        timed(count, clock, || {
            let at = len(positions.draw());
            let memory = &mut memory.bytes_mut()[at..at + buf.len()];
            match way {
                Way::Read => buf.copy_from_slice(memory),
                Way::Overwrite => memory.copy_from_slice(&buf),
            }
            std::hint::black_box(&mut buf);
            std::hint::black_box(memory);
            Ok(())
        })
    })
}

fn core(
    way: Way,
    set: u64,
    size: u64,
    order: u32,
) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let device = Arc::new(MemoryDevice::new(set));
    let file = flat(device, set * 2, order).map_err(text)?.open();
    let mut buf = noise(len(MIB.max(size)));
    // Everything in the cache, in folios as large as a stream gets them, and dirty for overwrites.
    for at in (0..set).step_by(buf.len()) {
        let part = buf.len().min(len(set - at));
        let pos = FilePos::saturating(at);
        match way {
            Way::Read => file.read_at(pos, &mut buf[..part], IoFlags::empty()),
            Way::Overwrite => file.write_at(pos, &buf[..part], IoFlags::empty()),
        }
        .map_err(text)?;
    }
    buf.truncate(len(size));
    let mut positions = Positions::new(set, size);
    Ok(move |count, clock: &mut Clock| {
        timed(count, clock, || {
            let pos = FilePos::saturating(positions.draw());
            let done = match way {
                Way::Read => file.read_at(pos, &mut buf, IoFlags::empty()),
                Way::Overwrite => file.write_at(pos, &buf, IoFlags::empty()),
            };
            match done {
                Ok(done) if done == buf.len() => Ok(()),
                Ok(done) => Err(format!("{done} bytes moved")),
                Err(error) => Err(text(error)),
            }
        })
    })
}

fn testfs(
    way: Way,
    set: u64,
    size: u64,
) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let mounted = Mounted::with_cache(set * 4);
    let file = mounted.file_of(set);
    let mut buf = noise(len(size));
    let mut positions = Positions::new(set, size);
    Ok(move |count, clock: &mut Clock| {
        let _mounted = &mounted;
        timed(count, clock, || {
            let at = positions.draw();
            match way {
                Way::Read => read_all(&*file, at, &mut buf, IoFlags::empty()),
                Way::Overwrite => write_all(&*file, at, &buf, IoFlags::empty()),
            }
        })
    })
}

/// `pread` and `pwrite` of a file in a file system that `keep` keeps mounted.
fn kernel<K>(
    way: Way,
    set: u64,
    size: u64,
    file: std::fs::File,
    keep: K,
) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let mut buf = noise(len(size));
    let mut positions = Positions::new(set, size);
    // In this order: the file is closed before what keeps its file system is dropped.
    let held = (file, keep);
    Ok(move |count, clock: &mut Clock| {
        let (file, _keep) = &held;
        timed(count, clock, || {
            let at = positions.draw();
            match way {
                Way::Read => file.read_exact_at(&mut buf, at),
                Way::Overwrite => file.write_all_at(&buf, at),
            }
            .map_err(text)
        })
    })
}
