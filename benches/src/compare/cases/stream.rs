//! Large transfers that reach the device: a stream written and synced, a stream read cold.
//!
//! One operation is the whole stream, 64 MiB. What the sides share is the disk under the temporary
//! folder.

use std::os::unix::fs::FileExt;

use iomap_core::vfs::IoFlags;

use super::{
    Case, KIB, LoopFile, MIB, forget, host_path, len, plot, read_all, size_name, text, timed,
    write_all,
};
use crate::compare::host::open_direct;
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, RawRing, noise};

const STREAM: u64 = 64 * MIB;
/// Requests of 1 MiB that the raw side keeps in flight.
const DEPTH: u32 = 4;

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
    Group {
        id,
        operation: "write 64 MiB in calls of 1 MiB over an existing file, then fdatasync".into(),
        excludes: "allocation, growth",
        bytes: STREAM,
        ops: Ops::Fixed(1),
        plot: None,
        sides: vec![
            Side::new("raw io_uring", Role::Floor, || raw(true)),
            Side::new("testfs", Role::Ours, write_testfs),
            Side::new("kernel", Role::Kernel, || {
                let file = crate::host_file(STREAM).map_err(text)?;
                write_kernel(file, ())
            }),
            Side::new("kernel ext4", Role::Kernel, || {
                let LoopFile { file, mount } = LoopFile::new("ext4", STREAM)?;
                write_kernel(file, mount)
            }),
        ],
    }
}

/// Reads the stream with nothing cached, in calls of `size`.
fn cold_read(id: String, size: u64, budget: bool) -> Group {
    let mut sides = vec![
        Side::new("testfs buffered", Role::Ours, move || {
            read_testfs(size, IoFlags::empty())
        }),
        Side::new("testfs direct", Role::Ours, move || {
            read_testfs(size, IoFlags::DIRECT)
        }),
        Side::new("kernel buffered", Role::Kernel, move || {
            read_kernel(size, false)
        }),
        Side::new("kernel direct", Role::Kernel, move || {
            read_kernel(size, true)
        }),
    ];
    if budget {
        sides.insert(0, Side::new("raw io_uring", Role::Floor, || raw(false)));
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

fn raw(write: bool) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(STREAM)?;
    let file = open_direct(named.path())?;
    let mut ring = RawRing::new(file, DEPTH, len(MIB)).map_err(text)?;
    Ok(move |count, clock: &mut Clock| {
        let _named = &named;
        timed(count, clock, || {
            let mut next = 0;
            ring.run(STREAM / MIB, write, || {
                next += MIB;
                next - MIB
            })
            .map_err(text)?;
            if write {
                ring.file().sync_data().map_err(text)?;
            }
            Ok(())
        })
    })
}

fn write_testfs() -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let mounted = Mounted::with_cache(4 * STREAM);
    let file = mounted.file_of(STREAM);
    let data = noise(len(MIB));
    Ok(move |count, clock: &mut Clock| {
        let _mounted = &mounted;
        timed(count, clock, || {
            for at in (0..STREAM).step_by(data.len()) {
                write_all(&*file, at, &data, IoFlags::empty())?;
            }
            file.fsync(true).map_err(text)
        })
    })
}

fn write_kernel<K>(
    file: std::fs::File,
    keep: K,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let data = noise(len(MIB));
    let held = (file, keep);
    Ok(move |count, clock: &mut Clock| {
        let (file, _keep) = &held;
        timed(count, clock, || {
            for at in (0..STREAM).step_by(data.len()) {
                file.write_all_at(&data, at).map_err(text)?;
            }
            file.sync_data().map_err(text)
        })
    })
}

fn read_testfs(
    size: u64,
    flags: IoFlags,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let made = Mounted::with_cache(4 * STREAM);
    drop(made.file_of(STREAM));
    let mut mounted = Some(made);
    let mut buf = iomap_core::device::DeviceBuf::zeroed(len(size), 4096);
    Ok(move |count, clock: &mut Clock| {
        for _ in 0..count {
            let again = mounted.take().ok_or("an earlier pass failed")?.remounted();
            let file = again.open();
            mounted = Some(again);
            timed(1, clock, || {
                (0..STREAM)
                    .step_by(len(size))
                    .try_for_each(|at| read_all(&*file, at, &mut buf, flags))
            })?;
        }
        Ok(())
    })
}

fn read_kernel(
    size: u64,
    direct: bool,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(STREAM)?;
    let file = if direct {
        open_direct(named.path())?
    } else {
        std::fs::File::open(named.path()).map_err(text)?
    };
    let mut buf = iomap_core::device::DeviceBuf::zeroed(len(size), 4096);
    Ok(move |count, clock: &mut Clock| {
        for _ in 0..count {
            forget(named.path())?;
            timed(1, clock, || {
                (0..STREAM)
                    .step_by(len(size))
                    .try_for_each(|at| file.read_exact_at(&mut buf, at).map_err(text))
            })?;
        }
        Ok(())
    })
}
