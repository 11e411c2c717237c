//! Scaling: the same cached work by one thread and by two, on one file and on a file each.
//!
//! An operation is one 4 KiB read by one of the threads, each on a processor of its own; the time is
//! from the first who begins to the last who ends. Leaves out starting the threads.

use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use iomap_core::device::MemoryDevice;
use iomap_core::units::FilePos;
use iomap_core::vfs::IoFlags;

use super::{Case, MIB, len, text};
use crate::compare::sample::{Clock, pin, thread_time};
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Buffer, Memory, PAGE, Positions, flat, noise};

const SET: u64 = 128 * MIB;

/// A round of threads does this many times what it is asked for: they do not begin at one moment.
const FACTOR: u32 = 4;
const LONGER: u64 = FACTOR as u64;

/// Reads one page at a position; called by several threads at once.
type ReadOne = dyn Fn(u64, &mut [u8]) -> Result<(), String> + Send + Sync;
type Read = Arc<ReadOne>;

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    for &threads in effort.vary.threads {
        for one in [true, false] {
            let files = if one { "one file" } else { "a file each" };
            let id = format!("scaling/cached read 4 KiB/{threads} threads, {files}");
            cases.push(Case::new(id, move |id| group(id, threads, one)));
        }
    }
    cases
}

fn group(id: String, threads: usize, one: bool) -> Group {
    let pair =
        |alone: &'static str, many: &'static str, role, make: fn() -> Result<Read, String>| {
            [
                Side::new(alone, role, move || work(1, one, make)),
                Side::new(many, role, move || work(threads, one, make)),
            ]
        };
    let sides = pair("memcpy, 1", "memcpy, all", Role::Floor, memcpy)
        .into_iter()
        .chain(pair("iomap-core, 1", "iomap-core, all", Role::Ours, core))
        .chain(pair("kernel, 1", "kernel, all", Role::Kernel, kernel));
    Group {
        id,
        operation: "read 4 KiB at a random page, by any of the threads".into(),
        excludes: "the device, starting the threads",
        bytes: PAGE,
        ops: Ops::Fit,
        plot: None,
        sides: sides.collect(),
    }
}

fn work(
    threads: usize,
    one: bool,
    make: fn() -> Result<Read, String>,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let files = if one { 1 } else { threads };
    let files: Vec<Read> = (0..files).map(|_| make()).collect::<Result<_, _>>()?;
    Ok(move |count: u64, clock: &mut Clock| {
        // Everyone has a part of the work, also of a round that is too small for that.
        let each = LONGER * count.div_ceil(threads as u64);
        let begin = Barrier::new(threads);
        let times: Vec<(Instant, Instant, Duration)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|n| {
                    let (read, begin) = (&files[n % files.len()], &begin);
                    scope.spawn(move || one_thread(n, each, &**read, begin))
                })
                .collect();
            let ended = workers.into_iter().map(|w| {
                w.join()
                    .unwrap_or_else(|_| Err("a reader panicked".to_owned()))
            });
            ended.collect::<Result<_, _>>()
        })?;
        // From the first who began to the last who ended: the thread that waits for them may have
        // been asleep at either moment.
        let first = times.iter().map(|t| t.0).min();
        let last = times.iter().map(|t| t.1).max();
        if let Some((first, last)) = first.zip(last) {
            let cpu: Duration = times.iter().map(|t| t.2).sum();
            clock.record((last - first) / FACTOR, cpu / FACTOR);
        }
        Ok(())
    })
}

/// What thread `n` does, on a processor of its own as long as there are enough: when it began, when
/// it ended, and its processor time.
fn one_thread(
    n: usize,
    each: u64,
    read: &ReadOne,
    begin: &Barrier,
) -> Result<(Instant, Instant, Duration), String> {
    pin(n);
    let mut page = Buffer::noise(len(PAGE), 0);
    let mut positions = Positions::seeded(SET, PAGE, n as u64);
    // Awake, and its stack and buffer in reach.
    let warm = (0..each / 16).try_for_each(|_| read(positions.draw(), &mut page));
    begin.wait();
    let (started, cpu) = (Instant::now(), thread_time());
    let outcome = (0..each).try_for_each(|_| read(positions.draw(), &mut page));
    let (ended, cpu) = (Instant::now(), thread_time().saturating_sub(cpu));
    warm.and(outcome).map(|()| (started, ended, cpu))
}

fn memcpy() -> Result<Read, String> {
    let memory = Memory::noise(len(SET), true).map_err(text)?;
    Ok(Arc::new(move |at, page| {
        let at = len(at);
        page.copy_from_slice(&memory.bytes()[at..at + page.len()]);
        std::hint::black_box(page);
        Ok(())
    }))
}

fn core() -> Result<Read, String> {
    let file = flat(Arc::new(MemoryDevice::new(SET)), SET * 2, 9)
        .map_err(text)?
        .open();
    let mut chunk = noise(len(MIB));
    for at in (0..SET).step_by(chunk.len()) {
        file.read_at(FilePos::saturating(at), &mut chunk, IoFlags::empty())
            .map_err(text)?;
    }
    Ok(Arc::new(move |at, page| {
        match file.read_at(FilePos::saturating(at), page, IoFlags::empty()) {
            Ok(done) if done == page.len() => Ok(()),
            Ok(done) => Err(format!("{done} bytes read")),
            Err(error) => Err(text(error)),
        }
    }))
}

fn kernel() -> Result<Read, String> {
    let file = crate::host_file(SET).map_err(text)?;
    Ok(Arc::new(move |at, page| {
        file.read_exact_at(page, at).map_err(text)
    }))
}
