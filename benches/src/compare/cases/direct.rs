//! Direct 4 KiB requests at random positions: one at a time, and 32 in flight.
//!
//! All sides work on files of the temporary folder's disk. Leaves out allocation: every position
//! was written before. Where that file system has no `O_DIRECT`, the rows say so.

use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use iomap_core::aio::{AsyncFile, TokioFile};
use iomap_core::device::{
    BlockDevice, DeviceBuf, DirectMode, FileDevice, OpenOptions, Plug, tokio::AsyncDevice,
};
use iomap_core::direct::{DirectFlags, DirectOutcome, DirectResult, DirectTicket, submit_read};
use iomap_core::units::{DevAddr, FilePos};
use iomap_core::vfs::IoFlags;

use super::{Case, MIB, host_path, len, read_all, text, timed, write_all};
use crate::compare::host::{fio_random_read, open_direct};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, PAGE, Positions, RawRing, flat, noise};

const SET: u64 = 256 * MIB;
const DEPTH: usize = 32;
const EXCLUDES: &str = "allocation, growth of the file";

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = vec![
        Case::new("direct/read 4 KiB, 1 in flight", read_one),
        Case::new("direct/write 4 KiB, 1 in flight", write_one),
        Case::new("direct/read 4 KiB, 32 in flight", |id| read_many(id, DEPTH)),
    ];
    if effort.wide {
        for depth in [4, 128] {
            let id = format!("direct/read 4 KiB, {depth} in flight");
            cases.push(Case::new(id, move |id| read_many(id, depth)));
        }
    }
    cases
}

fn group(id: String, operation: &str, sides: Vec<Side>) -> Group {
    Group {
        id,
        operation: operation.into(),
        excludes: EXCLUDES,
        bytes: PAGE,
        ops: Ops::Fit,
        plot: None,
        sides,
    }
}

fn read_one(id: String) -> Group {
    group(
        id,
        "read one random page past the caches",
        vec![
            Side::new("pread O_DIRECT", Role::Floor, || kernel(false)),
            Side::new("device", Role::Ours, device),
            Side::new("iomap-core", Role::Ours, || core(false)),
            Side::new("testfs", Role::Ours, || testfs(false)),
            Side::new("raw ring + epoll", Role::Floor, || {
                raw(|file| RawRing::polled(file, 1, len(PAGE)))
            }),
            Side::new("tokio", Role::Ours, || tokio_reads(1)),
            Side::new("fio psync", Role::Tool, || fio(1)),
        ],
    )
}

fn write_one(id: String) -> Group {
    group(
        id,
        "write one random page past the caches",
        vec![
            Side::new("pwrite O_DIRECT", Role::Floor, || kernel(true)),
            Side::new("iomap-core", Role::Ours, || core(true)),
            Side::new("testfs", Role::Ours, || testfs(true)),
        ],
    )
}

fn read_many(id: String, depth: usize) -> Group {
    group(
        id,
        "read one random page past the caches, that many in flight",
        vec![
            Side::new("raw io_uring", Role::Floor, move || {
                let depth = u32::try_from(depth).map_err(text)?;
                raw(move |file| RawRing::new(file, depth, len(PAGE)))
            }),
            Side::new("iomap-core", Role::Ours, move || tickets(depth)),
            Side::new("tokio", Role::Ours, move || tokio_reads(depth)),
            Side::new("fio io_uring", Role::Tool, move || fio(depth)),
        ],
    )
}

/// One page at a random position, with `step`.
fn one_at_a_time(
    mut step: impl FnMut(u64) -> Result<(), String>,
) -> impl FnMut(u64, &mut Clock) -> Result<(), String> {
    let mut positions = Positions::new(SET, PAGE);
    move |count, clock| timed(count, clock, || step(positions.draw()))
}

fn kernel(write: bool) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(SET)?;
    let file = open_direct(named.path())?;
    let mut page = page();
    Ok(one_at_a_time(move |at| {
        let _named = &named;
        if write {
            file.write_all_at(&page, at).map_err(text)
        } else {
            file.read_exact_at(&mut page, at).map_err(text)
        }
    }))
}

/// The file, opened as a device that must use direct I/O.
fn file_device(path: &std::path::Path) -> Result<FileDevice, String> {
    let options = OpenOptions {
        direct: DirectMode::Always,
        ..OpenOptions::default()
    };
    FileDevice::open(path, &options).map_err(text)
}

fn device() -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(SET)?;
    let device = file_device(named.path())?;
    let mut page = page();
    Ok(one_at_a_time(move |at| {
        let _named = &named;
        device.read_at(DevAddr::new(at), &mut page).map_err(text)
    }))
}

fn core(write: bool) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(SET)?;
    let device = Arc::new(file_device(named.path())?);
    let file = flat(device, 16 * MIB, 9).map_err(text)?.open();
    let mut page = page();
    Ok(one_at_a_time(move |at| {
        let _named = &named;
        let pos = FilePos::saturating(at);
        let done = if write {
            file.write_at(pos, &page, IoFlags::DIRECT)
        } else {
            file.read_at(pos, &mut page, IoFlags::DIRECT)
        };
        match done {
            Ok(done) if done == page.len() => Ok(()),
            Ok(done) => Err(format!("{done} bytes moved")),
            Err(error) => Err(text(error)),
        }
    }))
}

fn testfs(write: bool) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let mounted = Mounted::with_cache(64 * MIB);
    let file = mounted.file_of(SET);
    let mut page = page();
    Ok(one_at_a_time(move |at| {
        let _mounted = &mounted;
        if write {
            write_all(&*file, at, &page, IoFlags::DIRECT)
        } else {
            read_all(&*file, at, &mut page, IoFlags::DIRECT)
        }
    }))
}

fn page() -> DeviceBuf {
    DeviceBuf::from_slice(&noise(len(PAGE)), len(PAGE))
}

fn raw(
    make: impl FnOnce(std::fs::File) -> std::io::Result<RawRing>,
) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(SET)?;
    let mut ring = make(open_direct(named.path())?).map_err(text)?;
    let mut positions = Positions::new(SET, PAGE);
    Ok(move |count, clock: &mut Clock| {
        let _named = &named;
        clock.start();
        let outcome = ring.run(count, false, || positions.draw()).map_err(text);
        clock.stop();
        outcome
    })
}

/// Asynchronous direct reads of one thread, by tickets.
fn tickets(depth: usize) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(SET)?;
    let device = Arc::new(file_device(named.path())?);
    let flat = flat(device.clone(), 16 * MIB, 9).map_err(text)?;
    let mut positions = Positions::new(SET, PAGE);
    let mut free: Vec<DeviceBuf> = (0..depth).map(|_| page()).collect();
    let mut flying: VecDeque<DirectTicket> = VecDeque::with_capacity(depth);
    Ok(move |count: u64, clock: &mut Clock| {
        let _named = &named;
        let mut left = count;
        clock.start();
        let mut outcome = Ok(());
        while left > 0 || !flying.is_empty() {
            let plug = Plug::new(&*device);
            while let Some(buf) = free.pop_if(|_| left > 0) {
                let pos = FilePos::saturating(positions.draw());
                let ticket = submit_read(Arc::clone(&flat), pos, buf, DirectFlags::empty());
                flying.push_back(ticket);
                left -= 1;
            }
            drop(plug);
            // The oldest, and with it whatever has ended by then.
            let mut ended = flying.pop_front().map(DirectTicket::wait);
            while let Some(result) = ended {
                outcome = outcome.and(whole(&result.outcome));
                free.push(result.buffer);
                ended = flying.front_mut().and_then(ended_already);
                if ended.is_some() {
                    flying.pop_front();
                }
            }
        }
        clock.stop();
        outcome
    })
}

/// The result of a ticket, if it has one now.
fn ended_already(ticket: &mut DirectTicket) -> Option<DirectResult> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(ticket).poll(&mut context) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn whole(outcome: &Result<DirectOutcome, iomap_core::error::FsError>) -> Result<(), String> {
    match outcome {
        Ok(DirectOutcome::Done(done)) if *done == PAGE => Ok(()),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(text(error)),
    }
}

/// The same reads awaited in a tokio runtime of one thread, by `depth` tasks.
fn tokio_reads(depth: usize) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let named = host_path(SET)?;
    let runtime = ::tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(text)?;
    let device = Arc::new(file_device(named.path())?);
    let device = {
        let _inside = runtime.enter();
        AsyncDevice::attach(device).map_err(text)?
    };
    let device = Arc::new(device);
    let flat = flat(device.clone(), 16 * MIB, 9).map_err(text)?;
    let file = Arc::new(TokioFile::new(Arc::new(flat.open())));
    let mut seed = 0;
    Ok(move |count: u64, clock: &mut Clock| {
        let _named = &named;
        let each = count.div_ceil(depth as u64);
        clock.start();
        let outcome = runtime.block_on(async {
            let tasks: Vec<_> = (0..depth)
                .map(|_| {
                    seed += 1;
                    let (file, mut positions) =
                        (Arc::clone(&file), Positions::seeded(SET, PAGE, seed));
                    ::tokio::spawn(async move {
                        for _ in 0..each {
                            let pos = FilePos::saturating(positions.draw());
                            let bytes = file.read_at(pos, len(PAGE), IoFlags::DIRECT).await;
                            let bytes = bytes.map_err(text)?;
                            if bytes.len() != len(PAGE) {
                                return Err(format!("{} bytes read", bytes.len()));
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            for task in tasks {
                task.await.map_err(text)??;
            }
            Ok(())
        });
        clock.stop();
        outcome
    })
}

/// fio on a file of the same disk; the operations asked for are as many as it did.
fn fio(depth: usize) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    const RUN: Duration = Duration::from_millis(200);
    let named = host_path(SET)?;
    let depth = u32::try_from(depth).map_err(text)?;
    Ok(move |count: u64, clock: &mut Clock| {
        let fio = fio_random_read(named.path(), depth, RUN)?;
        if fio.operations == 0 {
            return Err("fio did nothing".to_owned());
        }
        let share = count as f64 / fio.operations as f64;
        clock.record(fio.wall.mul_f64(share), fio.cpu.mul_f64(share));
        Ok(())
    })
}
