//! Running a workload on a device that remembers, and recovering what a crash left.
//!
//! Owns the small file systems that workloads start from ([`Bed`]), the run of one beside the
//! reference ([`Bed::record`]), and the way from an image to what is found on it ([`recover`]).

use std::sync::Arc;

use iomap_core::device::BlockDevice;
use iomap_core::error::{Errno, Result};
use iomap_core::folio::PoolHandle;
use iomap_core::vfs::{Ino, IoFlags, Vfs};

use super::history::{History, Promise, Snapshot, Step, promise, snapshot, subject};
use super::op::{Op, Path, Side, poison};
use crate::check::check;
use crate::device::{DeferredDevice, Image, ImageDevice, Recording, RecordingDevice, SECTOR};
use crate::fs::{MkfsOptions, MountOptions, TestFs};
use crate::model::MemFs;

/// What the reference numbers operations of the setup with: no workload has as many.
const SETUP: usize = 1 << 20;

/// What is there before a workload starts: files with extents and without, a directory to remove,
/// and free blocks that held another file.
const FIRST: [Op; 18] = [
    Op::Mkdir("A"),
    Op::Mkdir("B"),
    Op::Mkdir("E"),
    Op::Create("gone"),
    Op::Append("gone", 150_000, IoFlags::empty()),
    Op::Sync,
    Op::Unlink("gone"),
    Op::Sync,
    Op::Create("foo"),
    Op::Append("foo", 20_000, IoFlags::empty()),
    Op::Create("A/bar"),
    Op::Append("A/bar", 100, IoFlags::empty()),
    Op::Create("B/baz"),
    Op::Append("B/baz", 9_000, IoFlags::empty()),
    Op::SetXattr("B/baz", "user.x", 200),
    Op::Symlink("B/sym", 30),
    Op::Create("B/empty"),
    Op::Sync,
];

/// A small file system that workloads start from.
#[derive(Debug)]
pub struct Bed {
    image: Image,
    /// Bytes of a block.
    pub block_size: u32,
}

/// A workload that has run.
#[derive(Debug)]
pub struct Recorded {
    /// What happened to the device.
    pub recording: Recording,
    /// What it held before.
    pub base: Image,
    /// What was done, and promised.
    pub history: History,
}

impl Bed {
    /// Makes the file system, of so many bytes in blocks of this size.
    ///
    /// # Errors
    ///
    /// In words: it cannot be made.
    pub fn new(
        size: usize,
        block_size: u32,
        pool: &PoolHandle,
    ) -> std::result::Result<Self, String> {
        let bytes: Vec<u8> = (0..size).map(|at| poison(at / SECTOR)).collect();
        let device = Arc::new(ImageDevice::new(Image::new(&bytes)));
        let options = MkfsOptions {
            block_size,
            uuid: [7; 16],
            hash_seed: [7; 16],
            ..MkfsOptions::default()
        };
        let made = || -> Result<()> {
            TestFs::mkfs(Arc::clone(&device) as Arc<dyn BlockDevice>, &options)?;
            let fs = mount(Arc::clone(&device) as Arc<dyn BlockDevice>, pool)?;
            first(&mut Side::new(Arc::clone(&fs) as Arc<dyn Vfs>))?;
            fs.unmount()
        };
        made().map_err(|error| format!("the first file system cannot be made: {error}"))?;
        Ok(Self {
            image: device.image(),
            block_size,
        })
    }

    /// What the device holds.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// Runs `ops` and records them. With a seed, requests are in flight together and complete in an
    /// order drawn from it; else each completes at once.
    ///
    /// # Errors
    ///
    /// In words: the file system and the reference do not agree, with no crash at all.
    pub fn record(
        &self,
        ops: &[Op],
        seed: Option<u64>,
        pool: &PoolHandle,
    ) -> std::result::Result<Recorded, String> {
        let inner = DeferredDevice::auto(ImageDevice::new(self.image.clone()), seed.unwrap_or(0))
            .holding(move |held| seed.is_some() && held.op != iomap_core::device::BioOp::Read);
        let device = Arc::new(RecordingDevice::with_base(inner, Vec::new()));
        let fs = mount(Arc::clone(&device) as Arc<dyn BlockDevice>, pool)
            .map_err(|error| format!("mount: {error}"))?;
        let mut pair = Pair::new(fs)?;
        let mut history = History::new(pair.snapshot()?);
        for (n, op) in (1..).zip(ops) {
            let (ino, size) = subject(&pair.test, *op);
            device.mark(History::mark(n, false));
            let went = pair.run(n, *op)?;
            device.mark(History::mark(n, true));
            let promise = match went {
                true => promise(*op, ino, size),
                false => Promise::None,
            };
            history.steps.push(Step {
                op: Some(*op),
                promise,
                after: pair.snapshot()?,
            });
        }
        let recording = device.recording();
        // The file system goes with nothing in flight.
        device.wait(&mut || device.in_flight() == 0);
        Ok(Recorded {
            recording,
            base: self.image.clone(),
            history,
        })
    }
}

fn first(side: &mut Side) -> Result<()> {
    for (n, op) in (SETUP..).zip(FIRST) {
        side.run(n, op)?;
    }
    Ok(())
}

/// Mounts without threads that act on their own.
pub(crate) fn mount(device: Arc<dyn BlockDevice>, pool: &PoolHandle) -> Result<Arc<TestFs>> {
    let options = MountOptions {
        pool: Some(pool.clone()),
        commit_interval: None,
        cached_nodes: 1024,
        ..MountOptions::default()
    };
    TestFs::mount(device, options).map_err(|error| error.errno().into())
}

/// The file system under test and the reference, which do the same.
pub(crate) struct Pair {
    pub(crate) test: Side,
    pub(crate) model: Side,
}

impl Pair {
    /// `fs` is the start of every workload; so is the reference.
    pub(crate) fn new(fs: Arc<dyn Vfs>) -> std::result::Result<Self, String> {
        let mut pair = Self {
            test: Side::new(fs),
            model: Side::new(MemFs::new()),
        };
        first(&mut pair.model).map_err(|error| format!("reference: {error}"))?;
        Ok(pair)
    }

    /// Does an operation to the file system, and if that does it to the reference as well. Returns
    /// whether it went well. What one file system refuses another may do: that is for `torture`.
    fn run(&mut self, n: usize, op: Op) -> std::result::Result<bool, String> {
        match self.test.run(n, op).map_err(|error| error.errno()) {
            Ok(()) => {}
            Err(errno @ (Errno::IO | Errno::UCLEAN | Errno::ROFS)) => {
                return Err(format!(
                    "operation {n} ({op}): {errno}, though nothing failed"
                ));
            }
            Err(_) => return Ok(false),
        }
        match self.model.run(n, op) {
            Ok(()) => Ok(true),
            Err(error) => Err(format!("operation {n} ({op}): success, and not: {error}")),
        }
    }

    /// What the reference has, by the inode numbers of the file system under test.
    ///
    /// A name that only the reference has, after an operation that failed halfway, has none.
    pub(crate) fn snapshot(&self) -> std::result::Result<Snapshot, String> {
        let test = &*self.test.fs;
        let mut number = |path: &[u8], _| {
            let names = path.split(|b| *b == b'/');
            let ino = names.into_iter().try_fold(test.root(), |dir, name| {
                test.lookup(dir, name).map(|attr| attr.ino)
            });
            match ino {
                Ok(ino) => Ok(ino.0),
                Err(error) if error.errno() == Errno::NOENT => Ok(u64::MAX),
                Err(error) => Err(error),
            }
        };
        let mut taken = || -> Result<Snapshot> {
            let mut found = snapshot(&*self.model.fs, &mut number)?;
            if let (Some(ino), Some(content)) = (self.test.held(), self.model.held_content()?) {
                found.files.insert(ino.0, Arc::new(content));
            }
            Ok(found)
        };
        taken().map_err(|error| format!("a name is missing without a crash: {error}"))
    }
}

/// Checks and mounts what a crash left, and reads all of it. `use_it`: and goes on working with it.
///
/// # Errors
///
/// In words: it is damaged.
pub fn recover(
    image: &Image,
    pool: &PoolHandle,
    use_it: bool,
) -> std::result::Result<Snapshot, String> {
    let device: Arc<dyn BlockDevice> = Arc::new(ImageDevice::new(image.clone()));
    clean(&device, "after the crash")?;
    let fs = mount(Arc::clone(&device), pool).map_err(|error| format!("mount: {error}"))?;
    let found = snapshot(&*fs, &mut |_, ino: Ino| Ok(ino.0))
        .map_err(|error| format!("reading what is there: {error}"))?;
    if use_it {
        go_on(&fs).map_err(|error| format!("working with it after the crash: {error}"))?;
        clean(&device, "after going on")?;
    }
    Ok(found)
}

fn clean(device: &Arc<dyn BlockDevice>, when: &str) -> std::result::Result<(), String> {
    let report = check(Arc::clone(device)).map_err(|error| format!("check {when}: {error}"))?;
    let wrong: Vec<_> = report.errors().map(ToString::to_string).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("check {when}: {}", wrong.join("; ")))
}

/// Creates, writes, removes, and unmounts.
fn go_on(fs: &Arc<TestFs>) -> Result<()> {
    const NAME: Path = "after the crash";
    let mut side = Side::new(Arc::clone(fs) as Arc<dyn Vfs>);
    for op in [
        Op::Create(NAME),
        Op::Append(NAME, 10_000, IoFlags::empty()),
        Op::Fsync(NAME),
        Op::Unlink(NAME),
    ] {
        side.run(SETUP, op)?;
    }
    fs.unmount()
}
