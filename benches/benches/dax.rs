//! DAX files: calls and faults, on a device of `/dev/shm` (the temporary folder without it).
//!
//! Unit: time for one call of 4 KiB or 1 MiB, or for one fault. Reads and writes are of blocks that
//! are there, random places; rows of a group: `memcpy` from or to plain memory of the same size (the
//! floor), `testfs` (an open DAX file), `kernel` (`pread`/`pwrite` of a file beside the device).
//! Faults are of the software page table, so they leave out what a signal or the processor costs:
//! `load` shows a page, `store` makes a page writable and dirty; each starts from a page nobody shows.
//! `store and flush` is a store, and what `sync_file_range` does for its page.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use benches::{DaxBed, PAGE, Positions, noise};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iomap_core::mmap::soft::SoftMapping;
use iomap_core::mmap::{Access, MapOptions, Mmu, Prot};
use iomap_core::units::{FilePos, FileRange, PageIndex};
use iomap_core::vfs::IoFlags;

const MIB: u64 = 1 << 20;
const FILE: u64 = 128 * MIB;

fn calls(c: &mut Criterion) {
    let bed = DaxBed::new(FILE as usize).expect("room for the image");
    let host = bed.host_file().expect("room");
    let mut memory = noise(FILE as usize);
    for (name, len) in [("4 KiB", PAGE), ("1 MiB", MIB)] {
        let mut buffer = noise(len as usize);
        let mut at = Positions::new(FILE, len);
        let mut group = c.benchmark_group(format!("dax/read {name}"));
        group.throughput(Throughput::Bytes(len));
        group.bench_function("memcpy", |b| {
            b.iter(|| {
                let at = at.draw() as usize;
                buffer.copy_from_slice(&memory[at..at + len as usize]);
                std::hint::black_box(&mut buffer);
            });
        });
        group.bench_function("testfs", |b| {
            b.iter(|| {
                let pos = FilePos::saturating(at.draw());
                let read = bed.file.read_at(pos, &mut buffer, IoFlags::empty());
                assert_eq!(read.expect("no errors"), len as usize);
            });
        });
        group.bench_function("kernel", |b| {
            b.iter(|| host.read_exact_at(&mut buffer, at.draw()).expect("cached"));
        });
        group.finish();
        let mut group = c.benchmark_group(format!("dax/write {name}"));
        group.throughput(Throughput::Bytes(len));
        group.bench_function("memcpy", |b| {
            b.iter(|| {
                let at = at.draw() as usize;
                memory[at..at + len as usize].copy_from_slice(&buffer);
                std::hint::black_box(&mut memory);
            });
        });
        group.bench_function("testfs", |b| {
            b.iter(|| {
                let pos = FilePos::saturating(at.draw());
                let written = bed.file.write_at(pos, &buffer, IoFlags::empty());
                assert_eq!(written.expect("no errors"), len as usize);
            });
        });
        group.bench_function("kernel", |b| {
            b.iter(|| host.write_all_at(&buffer, at.draw()).expect("cached"));
        });
        group.finish();
    }
}

fn faults(c: &mut Criterion) {
    let bed = DaxBed::new(FILE as usize).expect("room for the image");
    let handler = Arc::clone(&bed.file).fault_handler();
    // One page short of a large entry: every fault is of one page.
    let shown = PageIndex::new(1)..PageIndex::new(512);
    let mapping = SoftMapping::new(
        handler.expect("testfs has mappings"),
        shown,
        Prot::READ | Prot::WRITE,
        MapOptions::empty(),
    );
    let mut at = Positions::new(511 * PAGE, PAGE);
    let mut group = c.benchmark_group("dax/fault");
    for (name, access) in [("load", Access::Load), ("store", Access::Store)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let page = PageIndex::new(1 + at.draw() / PAGE);
                mapping.mmu().unmap(page..page.plus(1));
                mapping.fault(page, access).expect("no errors");
            });
        });
    }
    group.bench_function("store and flush", |b| {
        b.iter(|| {
            let page = PageIndex::new(1 + at.draw() / PAGE);
            mapping.store(page.pos(), &[1]).expect("no errors");
            let range = FileRange::at_most(page.pos(), PAGE);
            bed.file.sync_range(range, true).expect("no errors");
        });
    });
    group.finish();
}

criterion_group!(benches, calls, faults);
criterion_main!(benches);
