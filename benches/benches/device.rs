//! Direct 4 KiB reads of a file on the host: what the device layer adds to the kernel's.
//!
//! Unit: time for one read of a random page of a 256 MiB file with `O_DIRECT`, one at a time or 32
//! in flight. Leaves out the page cache and any file system of ours. The row `pread` is the kernel
//! alone. The file lies in the folder of temporary files (`TMPDIR`), which must support `O_DIRECT`;
//! where it does not, nothing is measured.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use benches::{PAGE, Positions, noise};
use criterion::{Criterion, criterion_group, criterion_main};
use iomap_core::device::{
    Backend, Bio, BioOp, BlockDevice, DeviceBuf, DirectMode, FileDevice, OpenOptions, Plug,
};
use iomap_core::units::DevAddr;

const SIZE: u64 = 256 << 20;
const DEPTH: usize = 32;

fn make_file(path: &Path) -> std::io::Result<()> {
    let file = File::create(path)?;
    let chunk = noise(1 << 20);
    for n in 0..SIZE >> 20 {
        file.write_all_at(&chunk, n << 20)?;
    }
    file.sync_all()
}

fn open(path: &Path, backend: Backend) -> Option<FileDevice> {
    let options = OpenOptions {
        read_only: true,
        direct: DirectMode::Always,
        backend,
        ..OpenOptions::default()
    };
    FileDevice::open(path, &options).ok()
}

/// One read at a time.
fn depth_one(c: &mut Criterion, path: &Path, device: &FileDevice) {
    let mut group = c.benchmark_group("device/read 4 KiB, 1 in flight");
    let mut buf = DeviceBuf::zeroed(PAGE as usize, PAGE as usize);
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let raw = File::options().read(true).custom_flags(flags).open(path);
    let raw = raw.expect("the device opened it with O_DIRECT too");
    let mut positions = Positions::new(SIZE, PAGE);
    group.bench_function("pread", |b| {
        b.iter(|| raw.read_exact_at(&mut buf, positions.draw()));
    });
    let mut positions = Positions::new(SIZE, PAGE);
    group.bench_function("transfer", |b| {
        b.iter(|| device.read_at(DevAddr::new(positions.draw()), &mut buf));
    });
    let mut positions = Positions::new(SIZE, PAGE);
    group.bench_function("submit and wait", |b| {
        b.iter(|| read_many(device, &mut positions, 1, 1));
    });
}

/// Reads `count` pages, up to `depth` at a time.
fn read_many(device: &FileDevice, positions: &mut Positions, count: usize, depth: usize) {
    let done = Arc::new(AtomicUsize::new(0));
    let mut sent = 0;
    while sent < count {
        let low = (sent + 1).saturating_sub(depth);
        device.wait(&mut || done.load(Ordering::Acquire) >= low);
        let room = depth - (sent - done.load(Ordering::Acquire));
        let _plug = Plug::new(device);
        for _ in 0..room.min(count - sent) {
            let done = Arc::clone(&done);
            let buf = DeviceBuf::zeroed(PAGE as usize, PAGE as usize);
            let addr = DevAddr::new(positions.draw());
            device.submit(Bio::owned(BioOp::Read, addr, buf, move |result, _| {
                result.expect("the disk reads");
                done.fetch_add(1, Ordering::Release);
            }));
            sent += 1;
        }
    }
    device.wait(&mut || done.load(Ordering::Acquire) == count);
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("TMPDIR is writable");
    let path = dir.path().join("image");
    make_file(&path).expect("TMPDIR has room for 256 MiB");
    let (Some(ring), Some(calls)) = (open(&path, Backend::Auto), open(&path, Backend::Syscalls))
    else {
        return;
    };
    depth_one(c, &path, &ring);
    let mut group = c.benchmark_group("device/read 4 KiB, 32 in flight");
    for (name, device) in [("ring", &ring), ("system calls", &calls)] {
        let mut positions = Positions::new(SIZE, PAGE);
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let start = std::time::Instant::now();
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                read_many(device, &mut positions, count, DEPTH);
                start.elapsed()
            });
        });
    }
}

fn config() -> Criterion {
    Criterion::default().measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = config(); targets = reads);
criterion_main!(benches);
