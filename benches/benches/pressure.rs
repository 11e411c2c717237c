//! The cache under load: reclaim, small writes into large folios, zeroing, direct beside buffered.
//!
//! Unit: time for one call, or for the pass that is named. On a device of memory, so that the cost
//! of the machinery is seen and not the disk's. Leaves out making the file.

use std::sync::Arc;

use benches::{PAGE, Positions, in_memory, new_file, noise};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use iomap_core::device::DeviceBuf;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Fallocate, IoFlags, OpenFile};
use testfs::fs::TestFs;

const MIB: u64 = 1 << 20;

/// A durable file of `len` bytes of noise, in a file system with `cache` bytes of page cache.
fn file_of(len: u64, cache: u64) -> (Arc<TestFs>, Arc<dyn OpenFile>) {
    let fs = in_memory(2 * len + 64 * MIB, cache).expect("memory");
    let file = new_file(&fs, b"file").expect("room");
    let chunk = noise(MIB as usize);
    for at in (0..len).step_by(chunk.len()) {
        let pos = FilePos::saturating(at);
        file.write_at(pos, &chunk, IoFlags::empty()).expect("room");
        // No thread writes in the background here.
        if at % (8 * MIB) == 0 {
            file.sync_range(FileRange::ALL, true).expect("memory");
        }
    }
    file.fsync(false).expect("memory");
    (fs, file)
}

fn read(file: &dyn OpenFile, at: u64, to: &mut [u8], flags: IoFlags) {
    let done = file.read_at(FilePos::saturating(at), to, flags);
    assert_eq!(done.expect("memory"), to.len());
}

/// Random pages of a file four times the cache: most reads fill a folio and reclaim another.
fn reclaim(c: &mut Criterion) {
    const LEN: u64 = 64 * MIB;
    let mut group = c.benchmark_group("pressure/read 4 KiB, cache a quarter of the file");
    group.throughput(Throughput::Bytes(PAGE));
    let (_fs, file) = file_of(LEN, LEN / 4);
    let mut page = vec![0; PAGE as usize];
    let mut positions = Positions::new(LEN, PAGE);
    group.bench_function("buffered", |b| {
        b.iter(|| read(&*file, positions.draw(), &mut page, IoFlags::empty()));
    });
    let mut page = DeviceBuf::zeroed(PAGE as usize, PAGE as usize);
    group.bench_function("direct", |b| {
        b.iter(|| read(&*file, positions.draw(), &mut page, IoFlags::DIRECT));
    });
    // Every other read by the other path: what coherence costs.
    let mut turn = 0u64;
    group.bench_function("direct and buffered in turns", |b| {
        b.iter(|| {
            turn += 1;
            let flags = if turn.is_multiple_of(2) {
                IoFlags::DIRECT
            } else {
                IoFlags::empty()
            };
            read(&*file, positions.draw(), &mut page, flags);
        });
    });
}

/// One byte in each of 512 pages of large folios, then their writeback: what per-block state saves.
fn small_writes(c: &mut Criterion) {
    const LEN: u64 = 32 * MIB;
    let mut group = c.benchmark_group("pressure/512 writes of 1 byte, then writeback");
    let (_fs, file) = file_of(LEN, 4 * LEN);
    let mut all = vec![0; MIB as usize];
    for at in (0..LEN).step_by(all.len()) {
        read(&*file, at, &mut all, IoFlags::empty());
    }
    let mut positions = Positions::new(LEN, PAGE);
    group.bench_function("large folios", |b| {
        b.iter(|| {
            for _ in 0..512 {
                let at = FilePos::saturating(positions.draw());
                file.write_at(at, &[1], IoFlags::empty()).expect("room");
            }
            file.sync_range(FileRange::ALL, true).expect("memory");
        });
    });
}

/// Zeroing 1 GiB that is unwritten but for 64 dirty pages over it.
fn zero_range(c: &mut Criterion) {
    const LEN: u64 = 1 << 30;
    let mut group = c.benchmark_group("pressure/zero 1 GiB unwritten");
    let fs = in_memory(2 * LEN, 64 * MIB).expect("memory");
    let file = new_file(&fs, b"file").expect("room");
    let all = FileRange::at_most(FilePos::ZERO, LEN);
    let page = noise(PAGE as usize);
    group.bench_function("64 dirty pages", |b| {
        b.iter_batched(
            || {
                file.fallocate(Fallocate::PunchHole, all).expect("room");
                file.fallocate(Fallocate::Allocate, all).expect("room");
                for n in 0..64 {
                    let at = FilePos::saturating(n * (LEN / 64));
                    file.write_at(at, &page, IoFlags::empty()).expect("room");
                }
            },
            |()| file.fallocate(Fallocate::ZeroRange, all).expect("room"),
            BatchSize::PerIteration,
        );
    });
}

fn config() -> Criterion {
    Criterion::default().sample_size(20)
}

criterion_group!(name = benches; config = config(); targets = reclaim, small_writes, zero_range);
criterion_main!(benches);
