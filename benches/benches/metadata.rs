//! Directories and extent trees: cost against their number of entries.
//!
//! Unit: time for one operation on a directory or a file that holds 10^2 to 10^6 entries. On a
//! device of memory; leaves out the device, commits, and making the entries. A group may grow with
//! the height of the tree, and not otherwise.

use std::hint::black_box;
use std::sync::Arc;

use benches::{NEW, PAGE, in_memory, new_file};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::{Fallocate, Ino, OpenFile, Special, Vfs};
use testfs::fs::TestFs;

const COUNTS: [u64; 5] = [100, 1000, 10_000, 100_000, 1_000_000];

/// All of them, or those that are quickly made where every bench runs once only (`--test`).
fn counts() -> &'static [u64] {
    let once = std::env::args().any(|arg| arg == "--test");
    if once { &COUNTS[..3] } else { &COUNTS }
}

fn name(n: u64) -> [u8; 12] {
    let mut name = *b"file-0000000";
    for (digit, at) in (5..12).rev().enumerate() {
        let value = n / 10u64.pow(u32::try_from(digit).expect("seven digits")) % 10;
        name[at] = b'0' + u8::try_from(value).expect("a digit");
    }
    name
}

/// A directory of `count` names, all of them links to few inodes, so that it is the directory that
/// is large and not the table of inodes.
fn directory(count: u64) -> (Arc<TestFs>, Ino) {
    const LINKS: u64 = 10_000;
    let fs = in_memory(4 << 30, 64 << 20).expect("memory");
    let dir = fs.mkdir(fs.root(), b"dir", &NEW).expect("room").ino;
    let mut target = None;
    for n in 0..count {
        match target {
            Some(ino) if n % LINKS != 0 => fs.link(ino, dir, &name(n)).map(drop),
            _ => fs
                .mknod(dir, &name(n), Special::Regular, &NEW)
                .map(|attr| target = Some(attr.ino)),
        }
        .expect("room");
    }
    (fs, dir)
}

fn directories(c: &mut Criterion) {
    for &count in counts() {
        let (fs, dir) = directory(count);
        let mut random = fastrand::Rng::with_seed(1);
        let mut group = c.benchmark_group("directory/lookup");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| black_box(fs.lookup(dir, &name(random.u64(..count)))).expect("there"));
        });
        group.finish();
        let mut group = c.benchmark_group("directory/create and remove");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                fs.mknod(dir, b"another", Special::Regular, &NEW)
                    .expect("room");
                fs.unlink(dir, b"another").expect("there");
            });
        });
        group.finish();
        let mut group = c.benchmark_group("directory/list 100 entries");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let mut left = 100;
                fs.readdir(dir, 0, &mut |entry| {
                    left -= 1;
                    left > 0 && !entry.name.is_empty()
                })
                .expect("a directory");
            });
        });
    }
}

/// A file of `count` extents: every other page has storage.
fn fragmented(count: u64) -> (Arc<TestFs>, Arc<dyn OpenFile>) {
    let fs = in_memory(count * PAGE * 2 + (1 << 30), 64 << 20).expect("memory");
    let file = new_file(&fs, b"file").expect("room");
    for n in 0..count {
        file.fallocate(Fallocate::Allocate, extent(n))
            .expect("room");
    }
    (fs, file)
}

fn extent(n: u64) -> FileRange {
    FileRange::at_most(FilePos::saturating(n * 2 * PAGE), PAGE)
}

fn extents(c: &mut Criterion) {
    for &count in counts() {
        let (_fs, file) = fragmented(count);
        let mut random = fastrand::Rng::with_seed(1);
        let mut group = c.benchmark_group("extents/map one");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let found = file.fiemap(extent(random.u64(..count)), false);
                assert_eq!(found.expect("mapped").len(), 1);
            });
        });
        group.finish();
        let mut group = c.benchmark_group("extents/punch and allocate one");
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let range = extent(random.u64(..count));
                file.fallocate(Fallocate::PunchHole, range).expect("there");
                file.fallocate(Fallocate::AllocateKeepSize, range)
                    .expect("room");
            });
        });
    }
}

fn config() -> Criterion {
    Criterion::default().sample_size(20)
}

criterion_group!(name = benches; config = config(); targets = directories, extents);
criterion_main!(benches);
