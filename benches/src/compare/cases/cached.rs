//! Bytes that are in the cache: random reads and overwrites.
//!
//! Leaves out the device, growth of the file, and writeback. The memcpy floor copies from or to
//! memory of the same size with pages of the same size. Buffers begin with a page, as one for direct
//! I/O does, but where a group says otherwise.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use iomap_core::device::MemoryDevice;
use iomap_core::units::FilePos;
use iomap_core::vfs::IoFlags;

use super::{Case, LoopFile, MIB, len, plot, read_all, size_name, text, timed, write_all};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Buffer, Memory, Mounted, PAGE, Positions, flat, noise};

const EXCLUDES: &str = "the device, growth of the file, writeback";
const SET: u64 = 256 * MIB;
const HOT: u64 = 64 * PAGE;
const LARGE: u32 = 9;

/// What a group does.
#[derive(Clone, Copy)]
struct Shape {
    way: Way,
    /// Bytes of the file.
    set: u64,
    /// Bytes of a call.
    size: u64,
    /// Of the folios.
    order: u32,
    /// Where in a page the caller's buffer begins.
    behind: usize,
    /// Added to every position.
    skew: u64,
}

impl Shape {
    fn buffer(self) -> Buffer {
        Buffer::noise(len(self.size), self.behind)
    }

    /// Where calls go.
    fn positions(self) -> impl FnMut() -> u64 {
        let mut positions = Positions::new(self.set - self.skew, self.size);
        move || positions.draw() + self.skew
    }
}

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
    let mut cases = Vec::new();
    let mut add = |id: String, shape| cases.push(Case::new(id, move |id| group(id, shape)));
    for way in [Way::Read, Way::Overwrite] {
        let name = way.name();
        let shape = Shape {
            way,
            set: SET,
            size: PAGE,
            order: LARGE,
            behind: 0,
            skew: 0,
        };
        let hot = Shape { set: HOT, ..shape };
        add(format!("{name}/4 KiB/hot"), hot);
        // A structure's buffer behind a word; one of malloc behind its two.
        for behind in [8, 16] {
            let id = format!("{name}/4 KiB/hot, buffer {behind} B behind a page");
            add(id, Shape { behind, ..hot });
        }
        for &size in effort.vary.sizes {
            let size_name = size_name(size);
            let shape = Shape { size, ..shape };
            add(format!("{name}/{size_name}/256 MiB"), shape);
            if size == PAGE || effort.wide {
                let id = format!("{name}/{size_name}/256 MiB, 4 KiB folios");
                add(id, Shape { order: 0, ..shape });
            }
            if effort.wide {
                let id = format!("{name}/{size_name}/256 MiB, 1 B behind a multiple");
                add(id, Shape { skew: 1, ..shape });
            }
        }
        if effort.wide {
            let records = Shape {
                size: 3000,
                ..shape
            };
            add(format!("{name}/3000 B/256 MiB"), records);
            add(
                format!("{name}/3000 B/hot"),
                Shape {
                    set: HOT,
                    ..records
                },
            );
        }
    }
    cases
}

fn group(id: String, shape: Shape) -> Group {
    let Shape {
        way,
        set,
        size,
        order,
        behind,
        ..
    } = shape;
    let picture = match way {
        Way::Read => "cached read, 256 MiB",
        Way::Overwrite => "cached overwrite, 256 MiB",
    };
    let drawn = set == SET && order == LARGE && behind == 0 && shape.skew == 0;
    let drawn = drawn && size.is_power_of_two();
    let mut sides = vec![
        Side::new("memcpy", Role::Floor, move || memcpy(shape)),
        Side::new("iomap-core", Role::Ours, move || core(shape)),
        Side::new("kernel", Role::Kernel, move || {
            let file = crate::host_file(set).map_err(text)?;
            kernel(shape, file, ())
        }),
    ];
    if order > 0 {
        let testfs = Side::new("testfs", Role::Ours, move || testfs(shape));
        sides.insert(2, testfs);
    }
    if size == PAGE && drawn {
        for (name, kind) in [("kernel ext4", "ext4"), ("kernel xfs", "xfs")] {
            sides.push(Side::new(name, Role::Kernel, move || {
                let LoopFile { file, mount } = LoopFile::new(kind, set)?;
                kernel(shape, file, mount)
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

fn memcpy(shape: Shape) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let Shape {
        way, set, order, ..
    } = shape;
    let mut memory = Memory::noise(len(set), order > 0).map_err(text)?;
    let mut buf = shape.buffer();
    let mut positions = shape.positions();
    Ok(move |count, clock: &mut Clock| {
        timed(count, clock, || {
            let at = len(positions());
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

fn core(shape: Shape) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let Shape {
        way, set, order, ..
    } = shape;
    let device = Arc::new(MemoryDevice::new(set));
    let file = flat(device, set * 2, order).map_err(text)?.open();
    let mut fill = noise(len(MIB));
    // Everything in the cache, in folios as large as a stream gets them, and dirty for overwrites.
    for at in (0..set).step_by(fill.len()) {
        let part = fill.len().min(len(set - at));
        let pos = FilePos::saturating(at);
        match way {
            Way::Read => file.read_at(pos, &mut fill[..part], IoFlags::empty()),
            Way::Overwrite => file.write_at(pos, &fill[..part], IoFlags::empty()),
        }
        .map_err(text)?;
    }
    let mut buf = shape.buffer();
    let mut positions = shape.positions();
    Ok(move |count, clock: &mut Clock| {
        timed(count, clock, || {
            let pos = FilePos::saturating(positions());
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

fn testfs(shape: Shape) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let Shape { way, set, .. } = shape;
    let mounted = Mounted::with_cache(set * 4);
    let file = mounted.file_of(set);
    let mut buf = shape.buffer();
    let mut positions = shape.positions();
    Ok(move |count, clock: &mut Clock| {
        let _mounted = &mounted;
        timed(count, clock, || {
            let at = positions();
            match way {
                Way::Read => read_all(&*file, at, &mut buf, IoFlags::empty()),
                Way::Overwrite => write_all(&*file, at, &buf, IoFlags::empty()),
            }
        })
    })
}

/// `pread` and `pwrite` of a file in a file system that `keep` keeps mounted.
fn kernel<K>(
    shape: Shape,
    file: std::fs::File,
    keep: K,
) -> Steps<impl FnMut(u64, &mut Clock) -> Result<(), String>> {
    let way = shape.way;
    let mut buf = shape.buffer();
    let mut positions = shape.positions();
    // In this order: the file is closed before what keeps its file system is dropped.
    let held = (file, keep);
    Ok(move |count, clock: &mut Clock| {
        let (file, _keep) = &held;
        timed(count, clock, || {
            let at = positions();
            match way {
                Way::Read => file.read_exact_at(&mut buf, at),
                Way::Overwrite => file.write_all_at(&buf, at),
            }
            .map_err(text)
        })
    })
}
