//! Everything the threads of a torture run share: the mount, the reference, the files.
//!
//! Owns the pairing of files under test with their expected content, and the ways to reach them.
//! Does not own the operations: [`data`](super::data) and [`names`](super::names).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use iomap_core::error::{Errno, FsError};
use iomap_core::vfs::{Attr, FileType, Ino, NewInode, Special, Vfs};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::content::State;
use super::doubt::Doubt;
use super::file::{Handle, TestFile};
use super::op::Subject;
use super::place::{Shard, Spot};
use super::target::{Mounted, Target};
use crate::model::MemFs;

/// Files kept open after their last name went.
const ORPHANS: usize = 6;

/// How often something is asked again that may be between two answers.
const RETRIES: u32 = 20;

/// Asks until the answer is good, for some milliseconds.
pub(super) fn patiently<T>(ask: impl Fn() -> T, good: impl Fn(&T) -> bool) -> T {
    let mut answer = ask();
    for _ in 0..RETRIES {
        if good(&answer) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        answer = ask();
    }
    answer
}

/// The file system did something it must not.
#[derive(Clone, Debug)]
pub struct Fail {
    /// What, with expected and found.
    pub what: String,
    /// The last operations on the file concerned.
    pub history: Vec<String>,
}

impl Fail {
    /// A failure that concerns no single file.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            history: Vec::new(),
        }
    }
}

impl std::fmt::Display for Fail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        if !self.history.is_empty() {
            write!(
                f,
                "\n  the last operations on it:\n    {}",
                self.history.join("\n    ")
            )?;
        }
        Ok(())
    }
}

/// The mount of the moment.
pub struct Session {
    mounted: Option<Box<dyn Mounted>>,
    vfs: Arc<dyn Vfs>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// The file system under test.
    #[must_use]
    pub fn vfs(&self) -> &dyn Vfs {
        &*self.vfs
    }

    /// The mount beside its interface.
    #[must_use]
    pub fn mounted(&self) -> Option<&dyn Mounted> {
        self.mounted.as_deref()
    }
}

/// What the threads share.
pub struct World {
    /// Where the file system under test lives.
    pub target: Arc<dyn Target>,
    /// Whether its device may fail.
    pub faulty: bool,
    /// With which probability a request of the device fails.
    faults: f64,
    /// Bytes of a block.
    pub block: u64,
    /// The reference.
    pub model: Arc<MemFs>,
    /// The top directories.
    pub shards: Vec<Shard>,
    /// Set with the session held, before it is unmounted; what threads see of it they see with the
    /// session held, too.
    fenced: AtomicBool,
    /// Operations that failed as they may: no space, failing device.
    pub tolerated: AtomicU64,
    session: RwLock<Session>,
    files: Mutex<HashMap<Ino, Arc<TestFile>>>,
    orphans: Mutex<Vec<Arc<TestFile>>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("files", &self.files.lock().len())
            .finish_non_exhaustive()
    }
}

/// The attributes of everything torture makes.
pub(super) const NEW: NewInode = NewInode {
    mode: 0o644,
    uid: 1000,
    gid: 1000,
};

impl World {
    /// Formats and mounts the target and makes `shards` directories in it.
    ///
    /// # Errors
    ///
    /// Making or mounting failed.
    pub fn new(target: Arc<dyn Target>, shards: usize, faults: f64) -> Result<Self, Fail> {
        let fail =
            |what: &str, error: &dyn std::fmt::Display| Fail::new(format!("{what}: {error}"));
        target.format().map_err(|e| fail("mkfs", &e))?;
        let mounted = target.mount(false).map_err(|e| fail("mount", &e))?;
        let (vfs, model) = (mounted.vfs(), MemFs::new());
        let shards = (0..shards)
            .map(|n| {
                let name = format!("s{n}").into_bytes();
                let real = vfs.mkdir(vfs.root(), &name, &NEW);
                let real = real.map_err(|e| fail("mkdir", &e))?.ino;
                let model = model.mkdir(model.root(), &name, &NEW);
                let model = model.map_err(|e| fail("reference mkdir", &e))?.ino;
                let busy = Mutex::new(());
                Ok(Shard { busy, real, model })
            })
            .collect::<Result<_, Fail>>()?;
        Ok(Self {
            block: target.block_size(),
            target,
            faulty: faults > 0.0,
            faults,
            model,
            shards,
            fenced: AtomicBool::new(false),
            tolerated: AtomicU64::new(0),
            session: RwLock::new(Session {
                mounted: Some(mounted),
                vfs,
            }),
            files: Mutex::new(HashMap::new()),
            orphans: Mutex::new(Vec::new()),
        })
    }

    /// The mount; it stays mounted while this is held.
    pub fn session(&self) -> RwLockReadGuard<'_, Session> {
        self.session.read()
    }

    /// Waits for all operations to end, closes every file, unmounts.
    ///
    /// # Errors
    ///
    /// Bytes were lost, and nobody was told.
    pub fn unmount(&self) -> Result<(), Fail> {
        self.leave(&mut self.session.write())
    }

    /// Unmounts and mounts; nobody sees what is between. If the file system gave up with its device
    /// it stays as it is.
    ///
    /// # Errors
    ///
    /// What [`World::unmount`] gives; mounting failed; a size is wrong.
    pub fn remount(&self) -> Result<(), Fail> {
        let mut session = self.session.write();
        if self.is_fenced() {
            return Ok(());
        }
        self.leave(&mut session)?;
        self.enter(&mut session, false)?;
        if !self.is_fenced() {
            self.compare_sizes(session.vfs())?;
        }
        self.target.set_faults(self.faults);
        Ok(())
    }

    /// Whether the file system gave up with its device: what it holds from the next mount on is what
    /// was durable at some moment.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Relaxed)
    }

    /// From here on the device does not fail.
    fn leave(&self, session: &mut Session) -> Result<(), Fail> {
        let synced = session.vfs.sync();
        // The end of a device's failures is not what is tested here.
        self.target.set_faults(0.0);
        self.orphans.lock().clear();
        for file in self.files.lock().values() {
            file.close();
        }
        // The interface holds the file system as well.
        session.vfs = MemFs::new();
        let Some(mounted) = session.mounted.take() else {
            return Ok(());
        };
        let left = mounted.unmount();
        let mut told = false;
        for (what, result) in [("sync", synced), ("unmount", left.result)] {
            if let Err(error) = result {
                told = true;
                if !self.tolerates(&error) {
                    return Err(Fail::new(format!("{what}: {error}")));
                }
            }
        }
        if left.gave_up {
            self.fenced.store(true, Relaxed);
        }
        if self.is_fenced() {
            return Ok(());
        }
        self.settle(told)
    }

    /// Everything was written, or an error `told` of what was not.
    fn settle(&self, told: bool) -> Result<(), Fail> {
        for file in self.files.lock().values() {
            let mut state = file.content.state();
            let State { bytes, doubt, .. } = &mut *state;
            let Some(doubt) = doubt else { continue };
            if told {
                doubt.reported();
            }
            doubt.closed();
            let settled = doubt.synced(bytes);
            drop(state);
            settled.map_err(|what| file.fail(format!("unmount: {what}")))?;
        }
        Ok(())
    }

    /// Compares the size of every file after a mount, and takes over what was lost.
    ///
    /// # Errors
    ///
    /// A size that cannot be.
    pub fn compare_sizes(&self, vfs: &dyn Vfs) -> Result<(), Fail> {
        for file in self.files.lock().values() {
            let real = vfs.getattr(file.real);
            let real = real.map_err(|e| file.fail(format!("getattr after a mount: {e}")))?;
            let mut state = file.content.state();
            let State { bytes, doubt, .. } = &mut *state;
            let (size, real) = (bytes.size(), real.size);
            if !doubt
                .as_mut()
                .map_or(size == real, |d| d.allows_size(size, real))
            {
                drop(state);
                return Err(file.fail(format!("size after a mount is {real}, expected {size}")));
            }
            bytes.set_size(real);
        }
        Ok(())
    }

    /// Mounts after [`World::unmount`].
    ///
    /// # Errors
    ///
    /// Mounting failed.
    pub fn mount(&self, read_only: bool) -> Result<(), Fail> {
        self.enter(&mut self.session.write(), read_only)
    }

    fn enter(&self, session: &mut Session, read_only: bool) -> Result<(), Fail> {
        if session.mounted.is_none() {
            let mounted = self.target.mount(read_only);
            let mounted = mounted.map_err(|e| Fail::new(format!("mount: {e}")))?;
            session.vfs = mounted.vfs();
            session.mounted = Some(mounted);
        }
        Ok(())
    }

    /// Whether an operation may fail like this. Counts it.
    pub fn tolerates(&self, error: &FsError) -> bool {
        let errno = error.errno();
        let ok = errno == Errno::NOSPC
            || errno == Errno::OPNOTSUPP
            || (self.faulty && !matches!(errno, Errno::INVAL | Errno::BADF | Errno::NOTDIR));
        if ok && errno == Errno::ROFS {
            self.fenced.store(true, Relaxed);
        }
        if ok {
            self.tolerated.fetch_add(1, Relaxed);
        }
        ok
    }

    /// An error was reported for the file system as a whole: it may concern every file.
    pub fn all_reported(&self) {
        let orphans = self.orphans.lock().clone();
        for file in self.files.lock().values().chain(&orphans) {
            if let Some(doubt) = &mut file.content.state().doubt {
                Doubt::reported(doubt);
            }
        }
    }

    /// The file of a subject, made if there is none; `None` if it is no regular file.
    ///
    /// # Errors
    ///
    /// The two file systems disagree.
    pub fn file(&self, vfs: &dyn Vfs, subject: Subject) -> Result<Option<Arc<TestFile>>, Fail> {
        let place = match subject {
            Subject::Named(place) => place,
            Subject::Orphan(n) => {
                let orphans = self.orphans.lock();
                let n = usize::from(n) % orphans.len().max(1);
                return Ok(orphans.get(n).cloned());
            }
        };
        let _shard = self.shards[self.shard(place)].busy.lock();
        let Some(spot) = self.spot(vfs, place)? else {
            return Ok(None);
        };
        match self.look(vfs, &spot)? {
            Some((real, model)) if model.kind == FileType::Regular => {
                let file = self.known(&real, &model);
                // Opened while its name is there; should that fail, the operation finds out.
                let _opened = file.handle(vfs, Handle::Plain);
                Ok(Some(file))
            }
            Some(_) => Ok(None),
            None => self.create(vfs, &spot),
        }
    }

    fn create(&self, vfs: &dyn Vfs, spot: &Spot) -> Result<Option<Arc<TestFile>>, Fail> {
        let real = match vfs.mknod(spot.real, &spot.name, Special::Regular, &NEW) {
            Ok(attr) => attr,
            Err(error) if self.tolerates(&error) => return Ok(None),
            Err(error) => return Err(Fail::new(format!("create: {error}"))),
        };
        if real.size != 0 {
            return Err(Fail::new(format!("a new file has {} bytes", real.size)));
        }
        let model = self
            .model
            .mknod(spot.model, &spot.name, Special::Regular, &NEW);
        let model = model.map_err(|e| Fail::new(format!("reference create: {e}")))?;
        let file = self.known(&real, &model);
        let _opened = file.handle(vfs, Handle::Plain);
        Ok(Some(file))
    }

    fn known(&self, real: &Attr, model: &Attr) -> Arc<TestFile> {
        let mut files = self.files.lock();
        let file = files
            .entry(model.ino)
            .or_insert_with(|| Arc::new(TestFile::new(model.ino, real.ino, self.faulty)));
        Arc::clone(file)
    }

    /// The file of an inode of the reference, if an operation ever touched its content.
    #[must_use]
    pub fn known_file(&self, model: Ino) -> Option<Arc<TestFile>> {
        self.files.lock().get(&model).cloned()
    }

    /// A name of the file went away: forgets it if that was the last, or keeps it open.
    pub fn dropped(&self, model: Ino, keep_open: bool) {
        if self.model.getattr(model).is_ok_and(|attr| attr.nlink > 0) {
            return;
        }
        let Some(file) = self.files.lock().remove(&model) else {
            return;
        };
        if keep_open && file.is_open() {
            let mut orphans = self.orphans.lock();
            if orphans.len() == ORPHANS {
                let oldest = orphans.remove(0);
                drop(orphans);
                drop(oldest);
                orphans = self.orphans.lock();
            }
            orphans.push(file);
        }
    }
}
