//! `hot PATH COUNT`: does one operation that many times and nothing else.
//!
//! Run under callgrind with two counts; the difference, divided, is the instructions of one
//! operation, without what making it ready costs. `cargo xtask instructions` does that. Everything is
//! in memory and no thread runs beside, so that the count is the same every time.

use std::process::ExitCode;
use std::sync::Arc;

use benches::{NEW, PAGE, Positions, flat, in_memory, new_file, noise};
use iomap_core::device::{DeviceBuf, MemoryDevice};
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile, Special, Vfs};
use testfs::fs::TestFs;

const SET: u64 = 64 * PAGE;
/// Bytes of a cached operation: few, because callgrind counts a copy byte by byte, and what is
/// looked for is the cost around it.
const PIECE: u64 = 64;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;
type Path = fn(u64) -> Outcome;

/// The paths that have a line in the table.
const PATHS: &[(&str, Path)] = &[
    ("core-cached-read", |n| core(n, IoFlags::empty(), false)),
    ("core-cached-overwrite", |n| core(n, IoFlags::empty(), true)),
    ("core-direct-read", |n| core(n, IoFlags::DIRECT, false)),
    ("core-direct-write", |n| core(n, IoFlags::DIRECT, true)),
    ("testfs-cached-read", |n| testfs(n, IoFlags::empty(), false)),
    ("testfs-cached-overwrite", |n| {
        testfs(n, IoFlags::empty(), true)
    }),
    ("testfs-direct-read", |n| testfs(n, IoFlags::DIRECT, false)),
    ("testfs-lookup", lookup),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, count] = args.as_slice() else {
        PATHS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let work = PATHS.iter().find(|(name, _)| name == path);
    let (Some((_, work)), Ok(count)) = (work, count.parse()) else {
        eprintln!("usage: hot PATH COUNT; without arguments it prints the paths");
        return ExitCode::FAILURE;
    };
    match work(count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("hot: {path}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Random places of a small file of the core alone: [`PIECE`] cached, a page direct.
fn core(count: u64, flags: IoFlags, write: bool) -> Outcome {
    let file = flat(Arc::new(MemoryDevice::new(SET)), 16 * SET, 4)?.open();
    let mut all = noise(usize::try_from(SET)?);
    file.write_at(FilePos::ZERO, &all, IoFlags::empty())?;
    if flags.contains(IoFlags::DIRECT) {
        file.fsync(true)?;
    }
    file.read_at(FilePos::ZERO, &mut all, IoFlags::empty())?;
    let mut page = buffer(flags)?;
    let len = page.len() as u64;
    places(count, len, |at| {
        let done = if write {
            file.write_at(at, &page, flags)?
        } else {
            file.read_at(at, &mut page, flags)?
        };
        Ok(done)
    })
}

/// The same through the namespace contract of testfs.
fn testfs(count: u64, flags: IoFlags, write: bool) -> Outcome {
    let (_fs, file) = small_file()?;
    let mut all = noise(usize::try_from(SET)?);
    file.write_at(FilePos::ZERO, &all, IoFlags::empty())?;
    file.fsync(true)?;
    file.read_at(FilePos::ZERO, &mut all, IoFlags::empty())?;
    let mut page = buffer(flags)?;
    let len = page.len() as u64;
    places(count, len, |at| {
        let done = if write {
            file.write_at(at, &page, flags)?
        } else {
            file.read_at(at, &mut page, flags)?
        };
        Ok(done)
    })
}

/// One name of a hundred.
fn lookup(count: u64) -> Outcome {
    let (fs, _file) = small_file()?;
    let names: Vec<String> = (0..100).map(|n| format!("name-{n}")).collect();
    for name in &names {
        fs.mknod(fs.root(), name.as_bytes(), Special::Regular, &NEW)?;
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..count {
        let name = &names[random.usize(..names.len())];
        fs.lookup(fs.root(), name.as_bytes())?;
    }
    Ok(())
}

fn small_file() -> Outcome<(Arc<TestFs>, Arc<dyn OpenFile>)> {
    let fs = in_memory(16 << 20, 64 << 20)?;
    let file = new_file(&fs, b"file")?;
    Ok((fs, file))
}

fn buffer(flags: IoFlags) -> Result<DeviceBuf, std::num::TryFromIntError> {
    let direct = flags.contains(IoFlags::DIRECT);
    let len = usize::try_from(if direct { PAGE } else { PIECE })?;
    Ok(DeviceBuf::from_slice(&noise(len), len))
}

fn places(
    count: u64,
    len: u64,
    mut step: impl FnMut(FilePos) -> iomap_core::error::Result<usize>,
) -> Outcome {
    let mut positions = Positions::new(SET, len);
    for _ in 0..count {
        let done = step(FilePos::saturating(positions.draw()))?;
        if done as u64 != len {
            return Err(format!("{done} bytes moved").into());
        }
    }
    Ok(())
}
