//! `hot PATH COUNT`: does one operation that many times and nothing else.
//!
//! Run under callgrind with two counts; the difference, divided, is the instructions of one
//! operation, without what making it ready costs. `cargo xtask instructions` does that. Everything is
//! in memory and no thread runs beside, so that the count is the same every time.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use benches::{NEW, PAGE, Positions, flat, in_memory, new_file, noise};
use iomap_core::device::{DeviceBuf, MemoryDevice};
use iomap_core::direct::{DirectFlags, DirectOutcome, submit_read};
use iomap_core::error::Result;
use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile, Special, Vfs};
use testfs::fs::TestFs;

const SET: u64 = 64 * PAGE;
/// Bytes of a cached operation: few, because callgrind counts a copy byte by byte, and what is
/// looked for is the cost around it.
const PIECE: u64 = 64;

type Outcome<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;
type Path = fn(u64) -> Outcome;

/// The paths that have a line in the table.
const PATHS: &[(&str, Path)] = &[
    ("core-cached-read", |n| core(n, IoFlags::empty(), false)),
    ("core-cached-overwrite", |n| core(n, IoFlags::empty(), true)),
    ("core-direct-read", |n| core(n, IoFlags::DIRECT, false)),
    ("core-direct-write", |n| core(n, IoFlags::DIRECT, true)),
    ("core-ticket-read", ticket_read),
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

/// Random places of a small file of the core alone.
fn core(count: u64, flags: IoFlags, write: bool) -> Outcome {
    let file = flat(Arc::new(MemoryDevice::new(SET)), 16 * SET, 4)?.open();
    let calls = Calls {
        read: |at, to: &mut [u8], flags| file.read_at(at, to, flags),
        write: |at, from: &[u8], flags| file.write_at(at, from, flags),
    };
    calls.fill(|| file.fsync(true))?;
    calls.run(count, flags, write)
}

/// Direct reads that nobody waits in: what one through a runtime costs beside the runtime.
fn ticket_read(count: u64) -> Outcome {
    let file = flat(Arc::new(MemoryDevice::new(SET)), 16 * SET, 4)?;
    let mut memory = DeviceBuf::zeroed(usize::try_from(PAGE)?, usize::try_from(PAGE)?);
    let mut positions = Positions::new(SET, PAGE);
    for _ in 0..count {
        let pos = FilePos::saturating(positions.draw());
        let ticket = submit_read(Arc::clone(&file), pos, memory, DirectFlags::NOWAIT);
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(result) = pin!(ticket).poll(&mut context) else {
            return Err("memory answers at once".into());
        };
        if result.outcome? != DirectOutcome::Done(PAGE) {
            return Err("a short read".into());
        }
        memory = result.buffer;
    }
    Ok(())
}

/// As [`core()`], through the namespace contract of testfs.
fn testfs(count: u64, flags: IoFlags, write: bool) -> Outcome {
    let (_fs, file) = small_file()?;
    let calls = Calls {
        read: |at, to: &mut [u8], flags| file.read_at(at, to, flags),
        write: |at, from: &[u8], flags| file.write_at(at, from, flags),
    };
    calls.fill(|| file.fsync(true))?;
    calls.run(count, flags, write)
}

/// A file, as the two kinds have it in common.
struct Calls<R, W> {
    read: R,
    write: W,
}

impl<R, W> Calls<R, W>
where
    R: Fn(FilePos, &mut [u8], IoFlags) -> Result<usize>,
    W: Fn(FilePos, &[u8], IoFlags) -> Result<usize>,
{
    /// Fills the file, durable and cached.
    fn fill(&self, sync: impl FnOnce() -> Result<()>) -> Outcome {
        let mut all = noise(usize::try_from(SET)?);
        (self.write)(FilePos::ZERO, &all, IoFlags::empty())?;
        sync()?;
        (self.read)(FilePos::ZERO, &mut all, IoFlags::empty())?;
        Ok(())
    }

    /// Reads or writes at random places: [`PIECE`] cached, a page direct.
    fn run(&self, count: u64, flags: IoFlags, write: bool) -> Outcome {
        let direct = flags.contains(IoFlags::DIRECT);
        let len = if direct { PAGE } else { PIECE };
        let size = usize::try_from(len)?;
        let mut bytes = DeviceBuf::from_slice(&noise(size), size);
        let mut positions = Positions::new(SET, len);
        for _ in 0..count {
            let at = FilePos::saturating(positions.draw());
            let done = if write {
                (self.write)(at, &bytes, flags)?
            } else {
                (self.read)(at, &mut bytes, flags)?
            };
            if done != size {
                return Err(format!("{done} bytes moved").into());
            }
        }
        Ok(())
    }
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
