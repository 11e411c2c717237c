//! Faults of a program's own memory mappings.
//!
//! Unit: time for one fault of a page that is in the cache. `load` shows a page that is not mapped,
//! `store` makes a mapped, clean page writable and dirty. Leaves out the device, and what makes the
//! next access fault again: unmapping, or writeback. Rows of a group: `userfaultfd` (a thread that
//! reads a message and makes a request: the floor), `iomap-core` (a file without a file system).
//! `prefault` is the same work in the thread that asks, without any switch of threads.
//! `write-protect` takes the permission of 4096 pages away, by one request of the floor and as a
//! commit of journalled data does. Where the scheduler puts the thread that answers is most of the
//! time of a fault; `cargo xtask bench --only mapping` puts both on one processor, beside the kernel.

use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::{BareUffd, Flat, PAGE, flat, noise};
use criterion::{Criterion, criterion_group, criterion_main};
use iomap_core::commit::{Committing, protect_journalled};
use iomap_core::device::MemoryDevice;
use iomap_core::file::File;
use iomap_core::mmap::real::Mapping;
use iomap_core::mmap::{Access, Prot};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::IoFlags;

const PAGES: u64 = 4096;
/// Pages from one fault to the next.
const STEP: u64 = 16;

/// A file of cached pages, mapped.
fn mapped() -> Option<(File<Flat>, Mapping)> {
    let device = Arc::new(MemoryDevice::new(PAGES * PAGE));
    let file = flat(device, PAGES * PAGE * 4, 4).expect("memory").open();
    let bytes = noise((PAGES * PAGE) as usize);
    let written = file.write_at(FilePos::ZERO, &bytes, IoFlags::empty());
    assert_eq!(written.expect("room"), bytes.len());
    file.fsync(true).expect("a memory device");
    match file.mmap(all(), Prot::READ | Prot::WRITE, true) {
        Ok(mapping) => Some((file, mapping)),
        Err(error) => {
            eprintln!("faults: not measured: {error}");
            None
        }
    }
}

fn all() -> FileRange {
    FileRange::at_most(FilePos::ZERO, PAGES * PAGE)
}

/// Time of `count` faults, made ready in stretches.
fn time(count: u64, mut arm: impl FnMut(), mut fault: impl FnMut(u64)) -> Duration {
    let (mut took, mut left) = (Duration::ZERO, count);
    while left > 0 {
        arm();
        let now = left.min(PAGES / STEP);
        let started = Instant::now();
        (0..now).for_each(|n| fault(n * STEP));
        took += started.elapsed();
        left -= now;
    }
    took
}

fn faults(c: &mut Criterion) {
    let Some((file, mapping)) = mapped() else {
        return;
    };
    let bare = BareUffd::new(PAGES).expect("as the mapping before");
    let mut byte = [1];
    let at = |page: u64| FilePos::saturating(page * PAGE);
    let mut group = c.benchmark_group("fault/load");
    group.bench_function("userfaultfd", |b| {
        b.iter_custom(|n| {
            time(
                n,
                || bare.forget().expect("our own"),
                |page| bare.load(page),
            )
        });
    });
    group.bench_function("iomap-core", |b| {
        let arm = || mapping.forgive(all());
        b.iter_custom(|n| {
            time(n, arm, |page| {
                mapping.load(at(page), &mut byte).expect("mapped");
            })
        });
    });
    group.bench_function("prefault", |b| {
        let arm = || mapping.forgive(all());
        let fault = |page| {
            let range = FileRange::at_most(at(page), PAGE);
            mapping.prefault(range, Access::Load).expect("cached");
        };
        b.iter_custom(|n| time(n, arm, fault));
    });
    group.finish();
    let mut group = c.benchmark_group("fault/store");
    group.bench_function("userfaultfd", |b| {
        let arm = || {
            (0..PAGES / STEP).for_each(|n| bare.load(n * STEP));
            bare.protect().expect("our own");
        };
        b.iter_custom(|n| time(n, arm, |page| bare.store(page)));
    });
    let arm = || {
        file.fsync(true).expect("a memory device");
        mapping.prefault(all(), Access::Load).expect("cached");
    };
    group.bench_function("iomap-core", |b| {
        b.iter_custom(|n| {
            time(n, arm, |page| {
                mapping.store(at(page), &[1]).expect("mapped")
            })
        });
    });
    group.bench_function("prefault", |b| {
        let fault = |page| {
            let range = FileRange::at_most(at(page), PAGE);
            mapping.prefault(range, Access::Store).expect("cached");
        };
        b.iter_custom(|n| time(n, arm, fault));
    });
    group.finish();
}

fn write_protect(c: &mut Criterion) {
    let Some((file, mapping)) = mapped() else {
        return;
    };
    let bare = BareUffd::new(PAGES).expect("as the mapping before");
    (0..PAGES).for_each(|page| bare.store(page));
    let mut group = c.benchmark_group("write-protect/4096 pages");
    group.bench_function("userfaultfd", |b| {
        b.iter_custom(|n| {
            let pass = |_| {
                bare.unprotect().expect("our own");
                let started = Instant::now();
                bare.protect().expect("our own");
                started.elapsed()
            };
            (0..n).map(pass).sum()
        });
    });
    group.bench_function("commit", |b| {
        b.iter_custom(|n| {
            let pass = |_| {
                mapping.prefault(all(), Access::Store).expect("cached");
                let started = Instant::now();
                protect_journalled(&**file.backend(), all(), |_| Committing::KeepDirty);
                started.elapsed()
            };
            (0..n).map(pass).sum()
        });
    });
    group.finish();
}

criterion_group!(benches, faults, write_protect);
criterion_main!(benches);
