//! Large transfers that reach the device: a stream written and synced, a stream read cold.
//!
//! One operation is the whole stream, 64 MiB. All sides but the loop mounts move the very same blocks
//! of one image: where bytes lie on the disk is half of what a stream takes.

use std::cell::RefCell;
use std::fs::File as HostFile;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use iomap_core::device::DeviceBuf;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{IoFlags, OpenFile};

use super::{
    Case, KIB, LoopFile, MIB, forget, len, plot, read_all, size_name, text, timed, write_all,
};
use crate::compare::host::open_direct;
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, RawRing, noise};

const STREAM: u64 = 64 * MIB;
/// Requests of 1 MiB that the raw side keeps in flight.
const DEPTH: u32 = 4;

type Steps = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;
type Made = Result<Steps, String>;

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = vec![
        Case::new("stream/write 1 MiB + fsync", write_and_sync),
        Case::new("stream/cold read 1 MiB", |id| cold_read(id, MIB, true)),
    ];
    let least = if effort.wide { 4 * KIB } else { 64 * KIB };
    for &size in effort.vary.sizes.iter().filter(|size| **size >= least) {
        let id = format!("crossover/read 64 MiB by {}", size_name(size));
        cases.push(Case::new(id, move |id| cold_read(id, size, false)));
    }
    cases
}

fn write_and_sync(id: String) -> Group {
    let bed = Bed::default();
    let [raw_bed, ours, plain] = [0; 3].map(|_| bed.clone());
    Group {
        id,
        operation: "write 64 MiB in calls of 1 MiB over an existing file, then fdatasync".into(),
        excludes: "allocation, growth",
        bytes: STREAM,
        ops: Ops::Fixed(1),
        plot: None,
        sides: vec![
            Side::new("raw io_uring", Role::Floor, move || raw(raw_bed, true)),
            Side::new("testfs", Role::Ours, move || write_testfs(ours)),
            Side::new("kernel", Role::Kernel, move || {
                let blocks = plain.blocks()?;
                write_kernel(open(&plain.image()?)?, blocks, plain)
            }),
            Side::new("kernel ext4", Role::Kernel, || {
                let LoopFile { file, mount } = LoopFile::new("ext4", STREAM)?;
                write_kernel(file, (0..STREAM).step_by(len(MIB)).collect(), mount)
            }),
        ],
    }
}

/// Reads the stream with nothing cached, in calls of `size`.
fn cold_read(id: String, size: u64, budget: bool) -> Group {
    let bed = Bed::default();
    let ours = |name, flags| {
        let bed = bed.clone();
        Side::new(name, Role::Ours, move || read_testfs(bed, size, flags))
    };
    let kernel = |name, direct| {
        let bed = bed.clone();
        Side::new(name, Role::Kernel, move || read_kernel(bed, size, direct))
    };
    let mut sides = vec![
        ours("testfs buffered", IoFlags::empty()),
        ours("testfs direct", IoFlags::DIRECT),
        kernel("kernel buffered", false),
        kernel("kernel direct", true),
    ];
    if budget {
        let bed = bed.clone();
        let floor = Side::new("raw io_uring", Role::Floor, move || raw(bed, false));
        sides.insert(0, floor);
    }
    Group {
        id,
        operation: format!(
            "read 64 MiB in calls of {}, nothing cached",
            size_name(size)
        ),
        excludes: "mounting, opening",
        bytes: STREAM,
        ops: Ops::Fixed(1),
        plot: (!budget).then(|| plot("direct against buffered, cold", size)),
        sides,
    }
}

/// A mounted testfs with the stream as its file, made by the first side that is set up.
#[derive(Clone, Default)]
struct Bed(Rc<RefCell<Option<Mounted>>>);

impl Bed {
    fn with<T>(&self, f: impl FnOnce(&Mounted) -> Result<T, String>) -> Result<T, String> {
        let mut slot = self.0.borrow_mut();
        let mounted = slot.get_or_insert_with(|| {
            let made = Mounted::with_cache(4 * STREAM);
            drop(made.file_of(STREAM));
            made
        });
        f(mounted)
    }

    /// The file, with nothing of it cached.
    fn cold(&self) -> Result<Arc<dyn OpenFile>, String> {
        self.with(|_| Ok(()))?;
        let again = self.0.borrow_mut().take().map(Mounted::remounted);
        *self.0.borrow_mut() = again;
        self.with(|mounted| Ok(mounted.open()))
    }

    fn image(&self) -> Result<PathBuf, String> {
        self.with(|mounted| Ok(mounted.image().to_owned()))
    }

    /// Where each MiB of the file lies in the image.
    fn blocks(&self) -> Result<Vec<u64>, String> {
        let all = FileRange::at_most(FilePos::ZERO, STREAM);
        let extents = self.with(|mounted| mounted.open().fiemap(all, true).map_err(text))?;
        let block = |at: u64| {
            extents.iter().find_map(|extent| {
                let part = FileRange::at_most(FilePos::saturating(at), MIB);
                let inside = extent.range.covers(part);
                let skip = part.start().since(extent.range.start());
                inside.then_some(extent.physical?.bytes() + skip)
            })
        };
        (0..STREAM)
            .step_by(len(MIB))
            .map(|at| block(at).ok_or_else(|| "the file is in small pieces".to_owned()))
            .collect()
    }
}

fn open(path: &Path) -> Result<HostFile, String> {
    HostFile::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(text)
}

fn raw(bed: Bed, write: bool) -> Made {
    let blocks = bed.blocks()?;
    let mut ring = RawRing::new(open_direct(&bed.image()?)?, DEPTH, len(MIB)).map_err(text)?;
    Ok(Box::new(move |count, clock| {
        let _bed = &bed;
        timed(count, clock, || {
            let mut next = blocks.iter();
            let next = || next.next().copied().unwrap_or(0);
            ring.run(blocks.len() as u64, write, next).map_err(text)?;
            if write {
                ring.file().sync_data().map_err(text)?;
            }
            Ok(())
        })
    }))
}

fn write_testfs(bed: Bed) -> Made {
    let file = bed.with(|mounted| Ok(mounted.open()))?;
    let data = noise(len(MIB));
    Ok(Box::new(move |count, clock| {
        let _bed = &bed;
        timed(count, clock, || {
            for at in (0..STREAM).step_by(data.len()) {
                write_all(&*file, at, &data, IoFlags::empty())?;
            }
            file.fsync(true).map_err(text)
        })
    }))
}

fn write_kernel<K: 'static>(file: HostFile, blocks: Vec<u64>, keep: K) -> Made {
    let data = noise(len(MIB));
    let held = (file, keep);
    Ok(Box::new(move |count, clock| {
        let (file, _keep) = &held;
        timed(count, clock, || {
            for &at in &blocks {
                file.write_all_at(&data, at).map_err(text)?;
            }
            file.sync_data().map_err(text)
        })
    }))
}

fn read_testfs(bed: Bed, size: u64, flags: IoFlags) -> Made {
    bed.blocks()?;
    let mut buf = DeviceBuf::zeroed(len(size), 4096);
    Ok(Box::new(move |count, clock| {
        for _ in 0..count {
            let file = bed.cold()?;
            timed(1, clock, || {
                (0..STREAM)
                    .step_by(len(size))
                    .try_for_each(|at| read_all(&*file, at, &mut buf, flags))
            })?;
        }
        Ok(())
    }))
}

fn read_kernel(bed: Bed, size: u64, direct: bool) -> Made {
    let (blocks, path) = (bed.blocks()?, bed.image()?);
    let file = if direct {
        open_direct(&path)?
    } else {
        open(&path)?
    };
    let mut buf = DeviceBuf::zeroed(len(size), 4096);
    // Calls larger than a piece go from piece to piece in memory, and need it in order.
    let in_order = blocks.windows(2).all(|pair| pair[0] + MIB == pair[1]);
    if size > MIB && !in_order {
        return Err("the file is in small pieces".to_owned());
    }
    Ok(Box::new(move |count, clock| {
        for _ in 0..count {
            forget(&path)?;
            timed(1, clock, || {
                (0..STREAM).step_by(len(size)).try_for_each(|at| {
                    let at = blocks[len(at / MIB)] + at % MIB;
                    file.read_exact_at(&mut buf, at).map_err(text)
                })
            })?;
        }
        Ok(())
    }))
}
