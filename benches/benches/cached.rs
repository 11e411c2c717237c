//! Reads and writes of bytes that are in the cache: 4 KiB at a time, random pages.
//!
//! Unit: time for one call of 4 KiB; throughput is bytes of the file. Leaves out the device, the
//! growth of the file, and writeback. "hot" is 64 pages, which fit in the processor's caches;
//! "256 MiB" does not. Rows of a group: `memcpy` from plain memory of the same size (the floor),
//! `testfs` (an open file of the framework), `kernel` (`pread`/`pwrite` of a cached file of the
//! temporary folder's file system).

use std::os::unix::fs::FileExt;

use benches::{Buffer, Memory, Mounted, PAGE, Positions, host_file};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use iomap_core::units::FilePos;
use iomap_core::vfs::IoFlags;

const SETS: [(&str, u64); 2] = [("hot", 64 * PAGE), ("256 MiB", 256 << 20)];

fn pages<'a>(c: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Bytes(PAGE));
    group
}

fn read(c: &mut Criterion) {
    for (set, len) in SETS {
        let mut group = pages(c, &format!("cached/read 4 KiB {set}"));
        let mut page = Buffer::noise(PAGE as usize, 0);

        let memory = Memory::noise(len as usize, true).expect("memory");
        let mut positions = Positions::new(len, PAGE);
        group.bench_function("memcpy", |b| {
            b.iter(|| {
                let at = positions.draw() as usize;
                page.copy_from_slice(&memory.bytes()[at..at + PAGE as usize]);
                std::hint::black_box(&mut page);
            });
        });
        drop(memory);

        let mounted = Mounted::with_cache(len * 2);
        let file = mounted.file_of(len);
        let mut positions = Positions::new(len, PAGE);
        group.bench_function("testfs", |b| {
            b.iter(|| {
                let at = FilePos::saturating(positions.draw());
                let read = file.read_at(at, &mut page, IoFlags::empty());
                assert_eq!(read.expect("cached"), PAGE as usize);
            });
        });
        drop((file, mounted));

        let file = host_file(len).expect("room for the file");
        let mut positions = Positions::new(len, PAGE);
        group.bench_function("kernel", |b| {
            b.iter(|| {
                file.read_exact_at(&mut page, positions.draw())
                    .expect("cached")
            });
        });
    }
}

fn overwrite(c: &mut Criterion) {
    for (set, len) in SETS {
        let mut group = pages(c, &format!("cached/overwrite 4 KiB {set}"));
        let page = Buffer::noise(PAGE as usize, 0);

        let mut memory = Memory::noise(len as usize, true).expect("memory");
        let mut positions = Positions::new(len, PAGE);
        group.bench_function("memcpy", |b| {
            b.iter(|| {
                let at = positions.draw() as usize;
                memory.bytes_mut()[at..at + PAGE as usize].copy_from_slice(&page);
                std::hint::black_box(&mut memory);
            });
        });
        drop(memory);

        let mounted = Mounted::with_cache(len * 4);
        let file = mounted.file_of(len);
        let mut positions = Positions::new(len, PAGE);
        group.bench_function("testfs", |b| {
            b.iter(|| {
                let at = FilePos::saturating(positions.draw());
                let written = file.write_at(at, &page, IoFlags::empty());
                assert_eq!(written.expect("cached"), PAGE as usize);
            });
        });
        drop((file, mounted));

        let file = host_file(len).expect("room for the file");
        let mut positions = Positions::new(len, PAGE);
        group.bench_function("kernel", |b| {
            b.iter(|| file.write_all_at(&page, positions.draw()).expect("cached"));
        });
    }
}

criterion_group!(benches, read, overwrite);
criterion_main!(benches);
