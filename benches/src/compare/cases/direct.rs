//! Direct requests at random positions: one at a time, and many in flight.
//!
//! All sides of a group but testfs work on one file of the temporary folder's disk. Leaves out
//! allocation: every position
//! was written before. Where that file system has no `O_DIRECT`, the rows say so.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::tokio::runtime::Runtime;
use iomap_core::aio::{AsyncFile, TokioFile};
use iomap_core::device::{
    BlockDevice, DeviceBuf, DirectMode, FileDevice, OpenOptions, Plug, tokio::AsyncDevice,
};
use iomap_core::direct::{
    DirectFlags, DirectOutcome, DirectResult, DirectTicket, submit_read, submit_write,
};
use iomap_core::units::{DevAddr, FilePos};
use iomap_core::vfs::IoFlags;

use super::{Case, MIB, host_path, len, read_all, size_name, text, timed, write_all};
use crate::compare::host::{fio_random_read, open_direct};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Flat, Mounted, PAGE, Positions, RawRing, flat, noise};

const SET: u64 = 256 * MIB;
const EXCLUDES: &str = "allocation, growth of the file";

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |way: Way, size: u64, depth: usize| {
        let id = format!(
            "direct/{} {}, {depth} in flight",
            way.name(),
            size_name(size)
        );
        let shape = Shape { way, size, depth };
        cases.push(Case::new(id, move |id| group(id, shape)));
    };
    for way in [Way::Read, Way::Write] {
        for &size in effort.vary.sizes.iter().filter(|s| s.is_multiple_of(512)) {
            if size == PAGE || effort.wide {
                add(way, size, 1);
            }
            for &depth in effort.vary.depths {
                if effort.wide || (size == PAGE && way == Way::Read) {
                    add(way, size, depth);
                }
            }
        }
    }
    cases
}

/// What a group does.
#[derive(Clone, Copy)]
struct Shape {
    way: Way,
    /// Bytes of a request.
    size: u64,
    /// Requests in flight.
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Shape {
    fn positions(self, seed: u64) -> Positions {
        Positions::seeded(SET, self.size, seed)
    }

    fn buffer(self) -> DeviceBuf {
        DeviceBuf::from_slice(&noise(len(self.size)), 4096)
    }

    const fn writes(self) -> bool {
        matches!(self.way, Way::Write)
    }
}

fn group(id: String, shape: Shape) -> Group {
    let Shape { way, size, depth } = shape;
    // All sides work on the same blocks: the disk is not as fast everywhere.
    let bed = Bed::default();
    let mut sides = Vec::new();
    let mut add = |name, role, setup: fn(&Bed, Shape) -> Made| {
        let bed = bed.clone();
        sides.push(Side::new(name, role, move || setup(&bed, shape)));
    };
    if depth == 1 {
        let kernel_name = match way {
            Way::Read => "pread O_DIRECT",
            Way::Write => "pwrite O_DIRECT",
        };
        add(kernel_name, Role::Floor, kernel);
        if way == Way::Read {
            add("device", Role::Ours, device);
        }
        add("iomap-core", Role::Ours, core);
        add("testfs", Role::Ours, testfs);
        if way == Way::Read {
            add("raw ring + epoll", Role::Floor, |bed, shape| {
                raw(bed, shape, |file| RawRing::polled(file, 1, len(shape.size)))
            });
            add("raw ring + tokio", Role::Floor, tokio_raw);
            add("tokio", Role::Ours, tokio_reads);
        }
    } else {
        add("raw io_uring", Role::Floor, |bed, shape| {
            let depth = u32::try_from(shape.depth).map_err(text)?;
            raw(bed, shape, |file| {
                RawRing::new(file, depth, len(shape.size))
            })
        });
        add("raw, any thread", Role::Floor, |bed, shape| {
            let depth = u32::try_from(shape.depth).map_err(text)?;
            raw(bed, shape, |file| {
                RawRing::plain(file, depth, len(shape.size))
            })
        });
        add("iomap-core", Role::Ours, tickets);
        if way == Way::Read {
            add("tokio", Role::Ours, tokio_reads);
        }
    }
    if way == Way::Read && size == PAGE {
        let name = if depth == 1 {
            "fio psync"
        } else {
            "fio io_uring"
        };
        add(name, Role::Tool, fio);
    }
    Group {
        id,
        operation: format!(
            "{} {} at a random multiple of it past the caches, {depth} in flight",
            way.name(),
            size_name(size)
        ),
        excludes: EXCLUDES,
        bytes: size,
        ops: Ops::Fit,
        plot: None,
        sides,
    }
}

type Made = Result<Steps, String>;
type Steps = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;

/// The file of a group, made by the first side that is set up and gone with the last.
#[derive(Clone, Default)]
struct Bed(Rc<OnceCell<tempfile::NamedTempFile>>);

impl Bed {
    fn path(&self) -> Result<&Path, String> {
        if self.0.get().is_none() {
            // Nobody else can have made one meanwhile: a bed stays in its thread.
            let _first = self.0.set(host_path(SET)?);
        }
        Ok(self.0.get().ok_or("no file")?.path())
    }
}

/// One request at a random position, with `step`; the bed stays as long.
fn one_at_a_time(
    bed: &Bed,
    shape: Shape,
    mut step: impl FnMut(u64) -> Result<(), String> + 'static,
) -> Steps {
    let (bed, mut positions) = (bed.clone(), shape.positions(0x5eed));
    Box::new(move |count, clock| {
        let _bed = &bed;
        timed(count, clock, || step(positions.draw()))
    })
}

fn kernel(bed: &Bed, shape: Shape) -> Made {
    let file = open_direct(bed.path()?)?;
    let mut buf = shape.buffer();
    Ok(one_at_a_time(bed, shape, move |at| {
        if shape.writes() {
            file.write_all_at(&buf, at).map_err(text)
        } else {
            file.read_exact_at(&mut buf, at).map_err(text)
        }
    }))
}

/// The file, opened as a device that must use direct I/O. Readers share a file.
fn file_device(bed: &Bed, shape: Shape) -> Result<FileDevice, String> {
    let options = OpenOptions {
        read_only: !shape.writes(),
        direct: DirectMode::Always,
        ..OpenOptions::default()
    };
    FileDevice::open(bed.path()?, &options).map_err(text)
}

fn device(bed: &Bed, shape: Shape) -> Made {
    let device = file_device(bed, shape)?;
    let mut buf = shape.buffer();
    Ok(one_at_a_time(bed, shape, move |at| {
        device.read_at(DevAddr::new(at), &mut buf).map_err(text)
    }))
}

fn core(bed: &Bed, shape: Shape) -> Made {
    let device = Arc::new(file_device(bed, shape)?);
    let file = flat(device, 16 * MIB, 9).map_err(text)?.open();
    let mut buf = shape.buffer();
    Ok(one_at_a_time(bed, shape, move |at| {
        let pos = FilePos::saturating(at);
        let done = if shape.writes() {
            file.write_at(pos, &buf, IoFlags::DIRECT)
        } else {
            file.read_at(pos, &mut buf, IoFlags::DIRECT)
        };
        match done {
            Ok(done) if done == buf.len() => Ok(()),
            Ok(done) => Err(format!("{done} bytes moved")),
            Err(error) => Err(text(error)),
        }
    }))
}

/// On an image of its own, elsewhere on the disk: to be seen beside the others, not against them.
fn testfs(bed: &Bed, shape: Shape) -> Made {
    let mounted = Mounted::with_cache(64 * MIB);
    let file = mounted.file_of(SET);
    let mut buf = shape.buffer();
    Ok(one_at_a_time(bed, shape, move |at| {
        let _mounted = &mounted;
        if shape.writes() {
            write_all(&*file, at, &buf, IoFlags::DIRECT)
        } else {
            read_all(&*file, at, &mut buf, IoFlags::DIRECT)
        }
    }))
}

fn raw(
    bed: &Bed,
    shape: Shape,
    make: impl FnOnce(std::fs::File) -> std::io::Result<RawRing>,
) -> Made {
    let mut ring = make(open_direct(bed.path()?)?).map_err(text)?;
    let (bed, mut positions) = (bed.clone(), shape.positions(0x5eed));
    Ok(Box::new(move |count, clock: &mut Clock| {
        let _bed = &bed;
        clock.start();
        let outcome = ring.run(count, shape.writes(), || positions.draw());
        clock.stop();
        outcome.map_err(text)
    }))
}

/// Asynchronous direct requests of one thread, by tickets.
fn tickets(bed: &Bed, shape: Shape) -> Made {
    let device = Arc::new(file_device(bed, shape)?);
    let flat = flat(device.clone(), 16 * MIB, 9).map_err(text)?;
    let (bed, mut positions) = (bed.clone(), shape.positions(0x5eed));
    let mut free: Vec<DeviceBuf> = (0..shape.depth).map(|_| shape.buffer()).collect();
    let mut flying: VecDeque<DirectTicket> = VecDeque::with_capacity(shape.depth);
    let submit = match shape.way {
        Way::Read => submit_read,
        Way::Write => submit_write,
    };
    Ok(Box::new(move |count: u64, clock: &mut Clock| {
        let _bed = &bed;
        let mut left = count;
        clock.start();
        let mut outcome = Ok(());
        while left > 0 || !flying.is_empty() {
            let plug = Plug::new(&*device);
            while let Some(buf) = free.pop_if(|_| left > 0) {
                let pos = FilePos::saturating(positions.draw());
                flying.push_back(submit(Arc::clone(&flat), pos, buf, DirectFlags::empty()));
                left -= 1;
            }
            drop(plug);
            // The oldest, and with it whatever has ended by then.
            let mut ended = flying.pop_front().map(DirectTicket::wait);
            while let Some(result) = ended {
                outcome = outcome.and(whole(&result));
                free.push(result.buffer);
                ended = flying.front_mut().and_then(ended_already);
                if ended.is_some() {
                    flying.pop_front();
                }
            }
        }
        clock.stop();
        outcome
    }))
}

/// The result of a ticket, if it has one now.
fn ended_already(ticket: &mut DirectTicket) -> Option<DirectResult> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(ticket).poll(&mut context) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn whole(result: &DirectResult) -> Result<(), String> {
    match &result.outcome {
        Ok(DirectOutcome::Done(done)) if *done == result.buffer.len() as u64 => Ok(()),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(text(error)),
    }
}

fn runtime() -> Result<Runtime, String> {
    let mut builder = ::tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(text)
}

/// A bare ring awaited in a tokio runtime of one thread.
fn tokio_raw(bed: &Bed, shape: Shape) -> Made {
    let runtime = runtime()?;
    let ring = RawRing::plain(open_direct(bed.path()?)?, 1, len(shape.size));
    let mut ring = ring.map_err(text)?;
    let (bed, mut positions) = (bed.clone(), shape.positions(0x5eed));
    Ok(Box::new(move |count, clock: &mut Clock| {
        let _bed = &bed;
        clock.start();
        let outcome = runtime.block_on(ring.run_in_task(count, || positions.draw()));
        clock.stop();
        outcome.map_err(text)
    }))
}

/// The same reads awaited in a tokio runtime of one thread, by as many tasks as are in flight.
fn tokio_reads(bed: &Bed, shape: Shape) -> Made {
    let runtime = runtime()?;
    let device = Arc::new(file_device(bed, shape)?);
    let device = {
        let _inside = runtime.enter();
        AsyncDevice::attach(device).map_err(text)?
    };
    let device = Arc::new(device);
    let flat = flat(device, 16 * MIB, 9).map_err(text)?;
    let file = Arc::new(TokioFile::new(Arc::new(flat.open())));
    let (bed, mut seed) = (bed.clone(), 0);
    Ok(Box::new(move |count: u64, clock: &mut Clock| {
        let _bed = &bed;
        let each = count.div_ceil(shape.depth as u64);
        clock.start();
        let outcome = runtime.block_on(async {
            let tasks: Vec<_> = (0..shape.depth)
                .map(|_| {
                    seed += 1;
                    let reads = some_reads(Arc::clone(&file), shape, seed, each);
                    ::tokio::spawn(reads)
                })
                .collect();
            for task in tasks {
                task.await.map_err(text)??;
            }
            Ok(())
        });
        clock.stop();
        outcome
    }))
}

async fn some_reads(
    file: Arc<TokioFile<Flat>>,
    shape: Shape,
    seed: u64,
    count: u64,
) -> Result<(), String> {
    let mut positions = shape.positions(seed);
    for _ in 0..count {
        let pos = FilePos::saturating(positions.draw());
        let bytes = file.read_at(pos, len(shape.size), IoFlags::DIRECT).await;
        let bytes = bytes.map_err(text)?;
        if bytes.len() != len(shape.size) {
            return Err(format!("{} bytes read", bytes.len()));
        }
    }
    Ok(())
}

/// fio on the same file; the operations asked for are as many as it did.
fn fio(bed: &Bed, shape: Shape) -> Made {
    const RUN: Duration = Duration::from_millis(200);
    bed.path()?;
    let depth = u32::try_from(shape.depth).map_err(text)?;
    let bed = bed.clone();
    Ok(Box::new(move |count: u64, clock: &mut Clock| {
        let fio = fio_random_read(bed.path()?, depth, RUN)?;
        if fio.operations == 0 {
            return Err("fio did nothing".to_owned());
        }
        let share = count as f64 / fio.operations as f64;
        clock.record(fio.wall.mul_f64(share), fio.cpu.mul_f64(share));
        Ok(())
    }))
}
