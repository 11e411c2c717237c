//! Everything the threads of a torture run share: the mount, the reference, the files.
//!
//! Owns the pairing of files under test with their expected content, and the ways to reach them.
//! Does not own the operations: [`data`](super::data) and [`names`](super::names).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use iomap_core::error::{Errno, FsError};
use iomap_core::vfs::{Attr, FileType, Ino, NewInode, OpenFile, OpenFlags, Special, Vfs};
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

use super::content::Content;
use super::op::{Place, Subject};
use super::target::{Mounted, Target};
use crate::model::MemFs;

/// Files kept open after their last name went.
const ORPHANS: usize = 6;

/// How often attributes are looked at again before they count as different.
const RETRIES: u32 = 20;

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

/// A file under test and what it should contain.
pub struct TestFile {
    /// Its number in the reference: never used again.
    pub model: Ino,
    /// Its number in the file system under test.
    pub real: Ino,
    /// What it should contain.
    pub content: Content,
    handles: Mutex<[Option<Arc<dyn OpenFile>>; 2]>,
}

impl std::fmt::Debug for TestFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "file {} (inode {})", self.model.0, self.real.0)
    }
}

impl TestFile {
    /// An open file, opened with `O_DIRECT` if asked for; made when first needed.
    ///
    /// # Errors
    ///
    /// What opening gives.
    pub fn handle(&self, vfs: &dyn Vfs, direct: bool) -> Result<Arc<dyn OpenFile>, FsError> {
        let mut handles = self.handles.lock();
        let [plain, around] = &mut *handles;
        let (slot, extra) = match direct && (around.is_some() || plain.is_none()) {
            true => (around, OpenFlags::DIRECT),
            false => (plain, OpenFlags::empty()),
        };
        if let Some(handle) = slot {
            return Ok(Arc::clone(handle));
        }
        let handle = vfs.open(self.real, OpenFlags::READ | OpenFlags::WRITE | extra)?;
        *slot = Some(Arc::clone(&handle));
        Ok(handle)
    }

    fn close(&self) {
        *self.handles.lock() = [None, None];
    }

    /// A failure of this file.
    pub fn fail(&self, what: impl Into<String>) -> Fail {
        Fail {
            what: format!("{self:?}: {}", what.into()),
            history: self.content.state().history.iter().cloned().collect(),
        }
    }
}

/// A directory whose names one thread at a time works on, in both file systems.
#[derive(Debug)]
pub struct Shard {
    busy: Mutex<()>,
    /// In the file system under test.
    pub real: Ino,
    /// In the reference.
    pub model: Ino,
}

/// A directory in both file systems, and a name in it.
#[derive(Debug)]
pub struct Spot {
    /// The directory in the file system under test.
    pub real: Ino,
    /// The directory in the reference.
    pub model: Ino,
    /// The name.
    pub name: Vec<u8>,
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
    /// The reference.
    pub model: Arc<MemFs>,
    /// The top directories.
    pub shards: Vec<Shard>,
    /// The file system refuses changes since its device failed: it has to be mounted again. Orders
    /// nothing.
    pub fenced: AtomicBool,
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
    /// What unmounting reports.
    pub fn unmount(&self) -> Result<(), FsError> {
        self.leave(&mut self.session.write())
    }

    /// Unmounts and mounts; nobody sees what is between. Answers what unmounting reports.
    ///
    /// # Errors
    ///
    /// Mounting failed.
    pub fn remount(&self) -> Result<Result<(), FsError>, Fail> {
        let mut session = self.session.write();
        let left = self.leave(&mut session);
        // The end of a device's failures is not what is tested here.
        self.target.set_faults(0.0);
        let entered = self.enter(&mut session, false);
        self.target.set_faults(self.faults);
        entered.map(|()| left)
    }

    fn leave(&self, session: &mut Session) -> Result<(), FsError> {
        self.orphans.lock().clear();
        for file in self.files.lock().values() {
            file.close();
        }
        // The interface holds the file system as well.
        session.vfs = MemFs::new();
        session.mounted.take().map_or(Ok(()), Mounted::unmount)
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
    pub fn all_failed(&self) {
        for file in self.files.lock().values() {
            if let Some(doubt) = &mut file.content.state().doubt {
                doubt.failed(false);
            }
        }
        for file in &*self.orphans.lock() {
            if let Some(doubt) = &mut file.content.state().doubt {
                doubt.failed(false);
            }
        }
    }

    /// The top directory of a place.
    #[must_use]
    pub fn shard(&self, place: Place) -> usize {
        usize::from(place.shard) % self.shards.len()
    }

    /// Takes the directories two places lie in, in order.
    pub fn lock_shards(
        &self,
        a: Place,
        b: Place,
    ) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (self.shard(a), self.shard(b));
        let first = self.shards[a.min(b)].busy.lock();
        let second = (a != b).then(|| self.shards[a.max(b)].busy.lock());
        (first, second)
    }

    /// The directory and name of a place; `None` if the directory in between is none. The caller
    /// holds the shard.
    ///
    /// # Errors
    ///
    /// The two file systems disagree.
    pub fn spot(&self, vfs: &dyn Vfs, place: Place) -> Result<Option<Spot>, Fail> {
        let shard = &self.shards[self.shard(place)];
        let name = format!("n{:02}", place.name).into_bytes();
        let Some(sub) = place.sub else {
            return Ok(Some(Spot {
                real: shard.real,
                model: shard.model,
                name,
            }));
        };
        let spot = Spot {
            real: shard.real,
            model: shard.model,
            name,
        };
        Ok(match self.look(vfs, &spot)? {
            Some((real, model)) if model.kind == FileType::Directory => Some(Spot {
                real: real.ino,
                model: model.ino,
                name: format!("x{sub:02}").into_bytes(),
            }),
            _ => None,
        })
    }

    /// What is there, in both file systems.
    ///
    /// # Errors
    ///
    /// The two disagree.
    pub fn look(&self, vfs: &dyn Vfs, spot: &Spot) -> Result<Option<(Attr, Attr)>, Fail> {
        let mut answer = self.look_once(vfs, spot);
        // Another name of the inode may be worked on in another directory: its attributes are
        // compared when both file systems have been told.
        for _ in 0..RETRIES {
            if answer.is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            answer = self.look_once(vfs, spot);
        }
        answer
    }

    fn look_once(&self, vfs: &dyn Vfs, spot: &Spot) -> Result<Option<(Attr, Attr)>, Fail> {
        let name = String::from_utf8_lossy(&spot.name);
        let model = self.model.lookup(spot.model, &spot.name);
        match (vfs.lookup(spot.real, &spot.name), model) {
            (Ok(real), Ok(model)) => {
                same_attr(&real, &model).map_err(|what| Fail::new(format!("{name}: {what}")))?;
                Ok(Some((real, model)))
            }
            (Err(real), Err(model)) if real.errno() == model.errno() => Ok(None),
            (Err(real), _) if self.faulty && self.tolerates(&real) => Ok(None),
            (real, model) => Err(Fail::new(format!(
                "lookup of {name} in inode {}: found {:?}, expected {:?}",
                spot.real.0,
                real.map(|a| a.kind),
                model.map(|a| a.kind)
            ))),
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
                let _opened = file.handle(vfs, false);
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
        let _opened = file.handle(vfs, false);
        Ok(Some(file))
    }

    fn known(&self, real: &Attr, model: &Attr) -> Arc<TestFile> {
        let mut files = self.files.lock();
        let file = files.entry(model.ino).or_insert_with(|| {
            Arc::new(TestFile {
                model: model.ino,
                real: real.ino,
                content: Content::new(self.faulty),
                handles: Mutex::new([None, None]),
            })
        });
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
        let open = file.handles.lock().iter().any(Option::is_some);
        if keep_open && open {
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

/// Compares what the two file systems say about an inode.
///
/// # Errors
///
/// What differs.
pub fn same_attr(real: &Attr, model: &Attr) -> Result<(), String> {
    // Writes and chown clear the set-id bits, at a moment of their own.
    let bits = |a: &Attr| {
        if a.kind == FileType::Directory {
            0o7777
        } else {
            0o1777
        }
    };
    let key = |a: &Attr| (a.kind, a.mode & bits(a), a.nlink, a.uid, a.gid, a.rdev);
    if key(real) != key(model) {
        return Err(format!(
            "attributes (type, mode, links, uid, gid, device) are {:?}, expected {:?}",
            key(real),
            key(model)
        ));
    }
    if model.kind == FileType::Symlink && real.size != model.size {
        return Err(format!("link size {}, expected {}", real.size, model.size));
    }
    Ok(())
}
