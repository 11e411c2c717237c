//! The phases of a run, one function each.
//!
//! Owns what is done; every phase changes the model as it changes the file, and compares what it
//! reads at once. Sizes are shares of the volume, so that a small one is driven as fully as a large
//! one.

mod layout;
mod mapped;
mod names;
mod shared;

use std::sync::Arc;
use std::time::Instant;

use iomap_core::seek::Whence;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{IoFlags, OpenFile, OpenFlags};

use super::RunError;
use super::measure::Calls;
use super::stage::{Stage, compare};
use crate::aligned::Aligned;

/// A phase.
pub type Phase = fn(&mut Stage) -> Result<(), RunError>;

/// The phases in their order.
pub const ALL: &[(&str, Phase)] = &[
    ("buffered write, sequential", buffered_sequential),
    ("buffered, random", buffered_random),
    ("buffered, cached", buffered_cached),
    ("direct, sequential", direct_sequential),
    ("direct, random", direct_random),
    ("mixed direct and buffered", shared::mixed),
    ("memory mapping", mapped::mapped),
    ("punch, zero, collapse, insert", layout::layout),
    ("truncate", layout::truncate),
    ("reflink and overwrite", shared::reflink),
    ("reclaim", reclaim),
    ("small files", names::small_files),
];

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

/// An open file, its name for messages, and the calls made on it.
pub(super) struct Subject<'a> {
    pub(super) name: &'a str,
    pub(super) file: Arc<dyn OpenFile>,
    pub(super) calls: Calls,
}

impl<'a> Subject<'a> {
    pub(super) fn new(name: &'a str, file: Arc<dyn OpenFile>) -> Self {
        Self {
            name,
            file,
            calls: Calls::default(),
        }
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&mut self, pos: u64, bytes: &[u8], flags: IoFlags) -> Result<(), RunError> {
        let started = Instant::now();
        let done = self.file.write_at(FilePos::saturating(pos), bytes, flags);
        self.calls.add(started.elapsed(), bytes.len() as u64);
        match done {
            Ok(n) if n == bytes.len() => Ok(()),
            Ok(n) => Err(RunError::Mismatch(format!(
                "{}: {n} of {} bytes written at {pos}",
                self.name,
                bytes.len()
            ))),
            Err(error) => Err(RunError::Failed {
                phase: "write",
                error,
            }),
        }
    }

    /// Reads into `buffer` and compares.
    pub(super) fn read(
        &mut self,
        pos: u64,
        wanted: &[u8],
        buffer: &mut [u8],
        flags: IoFlags,
    ) -> Result<(), RunError> {
        let buffer = &mut buffer[..wanted.len()];
        let started = Instant::now();
        let read = self.file.read_at(FilePos::saturating(pos), buffer, flags);
        self.calls.add(started.elapsed(), wanted.len() as u64);
        let read = read.map_err(RunError::in_phase("read"))?;
        compare(self.name, pos, wanted, &buffer[..read])
    }

    pub(super) fn fsync(&mut self) -> Result<(), RunError> {
        let started = Instant::now();
        let synced = self.file.fsync(false);
        self.calls.add(started.elapsed(), 0);
        synced.map_err(RunError::in_phase("fsync"))
    }

    /// The calls so far, to be measured.
    pub(super) fn take(&mut self) -> Calls {
        std::mem::take(&mut self.calls)
    }
}

/// Puts bytes into the model of a file, which grows as the file does.
pub(super) fn put(model: &mut Vec<u8>, pos: u64, bytes: &[u8]) {
    let (start, end) = (pos as usize, pos as usize + bytes.len());
    if model.len() < end {
        model.resize(end, 0);
    }
    model[start..end].copy_from_slice(bytes);
}

fn open<'a>(stage: &Stage, name: &'a str) -> Result<Subject<'a>, RunError> {
    Ok(Subject::new(
        name,
        stage.open(name, RW).map_err(RunError::in_phase("open"))?,
    ))
}

/// 1 MiB writes to the end of the share, fsync, cold 1 MiB reads.
fn buffered_sequential(stage: &mut Stage) -> Result<(), RunError> {
    let size = stage.volume_bytes() / 4 / MIB * MIB;
    sequential(
        stage,
        "big",
        size,
        IoFlags::empty(),
        ["buffered write 1M", "buffered read 1M cold"],
    )
}

/// The same around the page cache.
fn direct_sequential(stage: &mut Stage) -> Result<(), RunError> {
    let size = stage.volume_bytes() / 8 / MIB * MIB;
    sequential(
        stage,
        "direct",
        size,
        IoFlags::DIRECT,
        ["direct write 1M", "direct read 1M"],
    )
}

fn sequential(
    stage: &mut Stage,
    name: &str,
    size: u64,
    flags: IoFlags,
    [write, read]: [&'static str; 2],
) -> Result<(), RunError> {
    let mut subject = open(stage, name)?;
    let bytes = stage.bytes(size as usize);
    let mut chunk = Aligned::new(MIB as usize, 0);
    let meter = stage.meter();
    for (n, part) in bytes.chunks(MIB as usize).enumerate() {
        chunk.bytes()[..part.len()].copy_from_slice(part);
        subject.write(n as u64 * MIB, &chunk.bytes()[..part.len()], flags)?;
    }
    let calls = subject.take();
    subject.fsync()?;
    stage.done(write, &meter, calls);
    stage.drop_cache();
    let meter = stage.meter();
    for (n, part) in bytes.chunks(MIB as usize).enumerate() {
        subject.read(n as u64 * MIB, part, chunk.bytes(), flags)?;
    }
    let calls = subject.take();
    stage.done(read, &meter, calls);
    *stage.model(name) = bytes;
    Ok(())
}

/// 4 KiB at random places, unaligned ones among the writes.
fn buffered_random(stage: &mut Stage) -> Result<(), RunError> {
    let count = calls_for(stage, 20_000);
    let names = ["buffered read 4K random", "buffered write 4K random"];
    random(stage, "big", count, IoFlags::empty(), names)
}

fn direct_random(stage: &mut Stage) -> Result<(), RunError> {
    let count = calls_for(stage, 4_000);
    random(
        stage,
        "direct",
        count,
        IoFlags::DIRECT,
        ["direct read 4K random", "direct write 4K random"],
    )
}

/// Fewer calls on a small volume.
fn calls_for(stage: &Stage, most: u64) -> u64 {
    most.min(stage.volume_bytes() / (32 * 1024))
}

fn random(
    stage: &mut Stage,
    name: &str,
    count: u64,
    flags: IoFlags,
    [read, write]: [&'static str; 2],
) -> Result<(), RunError> {
    let mut subject = open(stage, name)?;
    let mut model = std::mem::take(stage.model(name));
    let pages = model.len() as u64 / PAGE;
    let mut page = Aligned::new(PAGE as usize, 0);
    let meter = stage.meter();
    for _ in 0..count {
        let pos = stage.rng.u64(..pages) * PAGE;
        let wanted = &model[pos as usize..][..PAGE as usize];
        subject.read(pos, wanted, page.bytes(), flags)?;
    }
    let calls = subject.take();
    stage.done(read, &meter, calls);
    let meter = stage.meter();
    for _ in 0..count {
        let aligned = flags.contains(IoFlags::DIRECT) || stage.rng.u8(..4) != 0;
        let shift = if aligned { 0 } else { stage.rng.u64(..PAGE) };
        let pos = (stage.rng.u64(..pages - 1) * PAGE) + shift;
        stage.rng.fill(page.bytes());
        subject.write(pos, page.bytes(), flags)?;
        put(&mut model, pos, page.bytes());
    }
    let calls = subject.take();
    subject.fsync()?;
    stage.done(write, &meter, calls);
    *stage.model(name) = model;
    Ok(())
}

/// What fits in the cache, read and overwritten again and again.
fn buffered_cached(stage: &mut Stage) -> Result<(), RunError> {
    let mut subject = open(stage, "hot")?;
    let bytes = stage.bytes(2 * MIB as usize);
    subject.write(0, &bytes, IoFlags::empty())?;
    subject.take();
    let mut model = bytes;
    let pages = model.len() as u64 / PAGE;
    let count = calls_for(stage, 20_000) * 2;
    let mut page = vec![0; PAGE as usize];
    let meter = stage.meter();
    for n in 0..count {
        let pos = n % pages * PAGE;
        let wanted = &model[pos as usize..][..PAGE as usize];
        subject.read(pos, wanted, &mut page, IoFlags::empty())?;
    }
    let calls = subject.take();
    stage.done("cached read 4K", &meter, calls);
    let meter = stage.meter();
    for n in 0..count {
        let pos = n % pages * PAGE;
        page.fill(n as u8);
        subject.write(pos, &page, IoFlags::empty())?;
        put(&mut model, pos, &page);
    }
    let calls = subject.take();
    stage.done("cached overwrite 4K", &meter, calls);
    let meter = stage.meter();
    let mut syncs = Calls::default();
    for n in 0..calls_for(stage, 200) {
        let pos = stage.rng.u64(..pages) * PAGE;
        page.fill(n as u8 ^ 0x80);
        subject.write(pos, &page, IoFlags::empty())?;
        put(&mut model, pos, &page);
        subject.take();
        subject.fsync()?;
        syncs.merge(subject.take());
    }
    stage.done("fsync after 4K", &meter, syncs);
    *stage.model("hot") = model;
    Ok(())
}

/// Scattered dirty pages, more than the cache holds: writeback and reclaim run while they are
/// written; then everything is read back.
fn reclaim(stage: &mut Stage) -> Result<(), RunError> {
    let mut subject = open(stage, "sparse")?;
    let count = (stage.fs().pool().stats().budget_pages * 2).min(stage.volume_bytes() / 16 / PAGE);
    // A page in every third place: holes in between.
    let mut order: Vec<u64> = (0..count).collect();
    stage.rng.shuffle(&mut order);
    let mut model = std::mem::take(stage.model("sparse"));
    let mut page = vec![0; PAGE as usize];
    let meter = stage.meter();
    for n in order {
        page.fill(n as u8 | 1);
        subject.write(n * 3 * PAGE, &page, IoFlags::empty())?;
        put(&mut model, n * 3 * PAGE, &page);
    }
    let calls = subject.take();
    stage.done("sparse write 4K, reclaim", &meter, calls);
    subject.fsync()?;
    check_holes(&subject, count)?;
    subject.take();
    let mut buffer = vec![0; MIB as usize];
    let meter = stage.meter();
    for (n, wanted) in model.chunks(MIB as usize).enumerate() {
        subject.read(n as u64 * MIB, wanted, &mut buffer, IoFlags::empty())?;
    }
    let calls = subject.take();
    stage.done("sparse read 1M", &meter, calls);
    *stage.model("sparse") = model;
    Ok(())
}

/// Data and holes are told apart, block by block.
fn check_holes(subject: &Subject<'_>, count: u64) -> Result<(), RunError> {
    let seek = |pos: u64, whence| {
        let found = subject.file.seek(FilePos::saturating(pos), whence);
        found
            .map(FilePos::bytes)
            .map_err(|error| RunError::seek("seek", error))
    };
    for n in 0..count.min(100) {
        let (data, hole) = (n * 3 * PAGE, (n * 3 + 1) * PAGE);
        let found = (seek(data, Whence::Data)?, seek(data, Whence::Hole)?);
        if found != (data, hole) {
            return Err(RunError::Mismatch(format!(
                "sparse: data and hole from {data} on at {found:?}, expected {:?}",
                (data, hole)
            )));
        }
    }
    let extents = subject.file.fiemap(FileRange::ALL, true);
    let extents = extents.map_err(RunError::in_phase("fiemap"))?;
    if extents.len() as u64 != count {
        let what = format!("sparse: {} extents, {count} expected", extents.len());
        return Err(RunError::Mismatch(what));
    }
    Ok(())
}
