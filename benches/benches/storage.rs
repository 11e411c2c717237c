//! Reads and writes that reach the device: a file of the temporary folder's file system.
//!
//! Unit: time for the whole transfer named; throughput is bytes of the file. Leaves out making the
//! image and the file, and mounting. The `kernel` rows do the same to a plain file beside the
//! image; what both share is the disk, so only the ratio of rows of one run says something.

use std::fs::File;
use std::os::unix::fs::FileExt;

use benches::{Mounted, PAGE, Positions, direct_file, host_file, noise};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iomap_core::device::DeviceBuf;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::IoFlags;

const MIB: u64 = 1 << 20;
const STREAM: u64 = 32 * MIB;

/// 32 MiB in writes of 1 MiB over an existing file, then a sync.
fn write_and_sync(c: &mut Criterion) {
    let mut group = c.benchmark_group("storage/write 32 MiB + fsync");
    group.throughput(Throughput::Bytes(STREAM)).sample_size(10);
    let data = noise(MIB as usize);

    let mounted = Mounted::with_cache(4 * STREAM);
    let file = mounted.file_of(STREAM);
    group.bench_function("testfs", |b| {
        b.iter(|| {
            for at in (0..STREAM).step_by(MIB as usize) {
                file.write_at(FilePos::saturating(at), &data, IoFlags::empty())
                    .expect("room in the file system");
            }
            file.fsync(true).expect("the device works");
        });
    });
    drop((file, mounted));

    let file = host_file(STREAM).expect("room for the file");
    group.bench_function("kernel", |b| {
        b.iter(|| {
            for at in (0..STREAM).step_by(MIB as usize) {
                file.write_all_at(&data, at).expect("room on the disk");
            }
            file.sync_data().expect("the disk works");
        });
    });
}

/// 32 MiB in reads of 1 MiB with nothing cached. The `kernel` row reads with `O_DIRECT`: asked for
/// 1 MiB at a time, that is what the disk gives.
fn cold_read(c: &mut Criterion) {
    let mut group = c.benchmark_group("storage/cold read 32 MiB");
    group.throughput(Throughput::Bytes(STREAM)).sample_size(10);
    let mut data = DeviceBuf::zeroed(MIB as usize, PAGE as usize);

    let made = Mounted::with_cache(4 * STREAM);
    drop(made.file_of(STREAM));
    let mut mounted = Some(made);
    group.bench_function("testfs", |b| {
        b.iter_batched(
            || {
                let again = mounted.take().expect("put back").remounted();
                let file = again.open();
                mounted = Some(again);
                file
            },
            |file| {
                for at in (0..STREAM).step_by(MIB as usize) {
                    file.read_at(FilePos::saturating(at), &mut data, IoFlags::empty())
                        .expect("the device works");
                }
            },
            BatchSize::PerIteration,
        );
    });
    drop(mounted);

    if let Some(file) = direct(STREAM) {
        group.bench_function("kernel O_DIRECT", |b| {
            b.iter(|| {
                for at in (0..STREAM).step_by(MIB as usize) {
                    file.read_exact_at(&mut data, at).expect("the disk works");
                }
            });
        });
    }
}

/// One direct read of 4 KiB at a time.
fn direct_read(c: &mut Criterion) {
    let mut group = c.benchmark_group("storage/direct read 4 KiB");
    group.throughput(Throughput::Bytes(PAGE));
    let mut page = DeviceBuf::zeroed(PAGE as usize, PAGE as usize);

    let mounted = Mounted::with_cache(4 * STREAM);
    let file = mounted.file_of(STREAM);
    file.fsync(false).expect("the device works");
    let mut positions = Positions::new(STREAM, PAGE);
    group.bench_function("testfs", |b| {
        b.iter(|| {
            let at = FilePos::saturating(positions.draw());
            let read = file.read_at(at, &mut page, IoFlags::DIRECT);
            assert_eq!(read.expect("the device works"), PAGE as usize);
        });
    });
    drop((file, mounted));

    if let Some(file) = direct(STREAM) {
        let mut positions = Positions::new(STREAM, PAGE);
        group.bench_function("kernel O_DIRECT", |b| {
            b.iter(|| {
                file.read_exact_at(&mut page, positions.draw())
                    .expect("the disk works");
            });
        });
    }
}

/// Writeback of 64 dirty pages, spread evenly over a file: the cost must not depend on its size.
fn writeback_of_few(c: &mut Criterion) {
    const DIRTY: u64 = 64;
    let mut group = c.benchmark_group("storage/writeback 64 pages");
    group.sample_size(20);
    let page = noise(PAGE as usize);
    for (name, size) in [("4 MiB", 4 * MIB), ("1 GiB", 1 << 30), ("1 TiB", 1 << 40)] {
        let mounted = Mounted::with_cache(64 * MIB);
        let file = mounted.file_of(0);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter_batched(
                || {
                    for n in 0..DIRTY {
                        file.write_at(
                            FilePos::saturating(n * (size / DIRTY)),
                            &page,
                            IoFlags::empty(),
                        )
                        .expect("room in the file system");
                    }
                },
                |()| {
                    file.sync_range(FileRange::ALL, true)
                        .expect("the device works")
                },
                BatchSize::PerIteration,
            );
        });
    }
}

/// A host file for `O_DIRECT`; says so where the file system has none.
fn direct(len: u64) -> Option<File> {
    let file = direct_file(len);
    if let Err(error) = &file {
        println!("no kernel row: O_DIRECT in the temporary folder: {error}");
    }
    file.ok()
}

criterion_group!(
    benches,
    write_and_sync,
    cold_read,
    direct_read,
    writeback_of_few
);
criterion_main!(benches);
