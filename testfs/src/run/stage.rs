//! What the phases of a run share: the mount, the model, the measuring.
//!
//! Owns [`Stage`] and [`Files`]. A phase opens files by name, changes them through the file system
//! and in the model alike, and lets itself be measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use iomap_core::dax::DaxDevice;
use iomap_core::device::BlockDevice;
use iomap_core::error::{Errno, FsError};
use iomap_core::stats::Snapshot;
use iomap_core::units::FilePos;
use iomap_core::vfs::{Attr, FileType, Ino, IoFlags, NewInode, OpenFile, OpenFlags, Special, Vfs};

use super::measure::{Calls, Report, Row, SCHEMA};
use super::{Options, RunError, phases};
use crate::device::{CountingDevice, Traffic};
use crate::fs::{MountOptions, TestFs};

/// The directory of the run.
const DIR: &[u8] = b"run";
/// Bytes read at once when everything is verified.
const CHUNK: usize = 1 << 20;

type Device = Arc<CountingDevice<Arc<dyn BlockDevice>>>;

/// The model: what every file of the run contains, by directory and name.
pub type Files = BTreeMap<(String, String), Vec<u8>>;

/// The mount and what belongs to it.
pub struct Stage {
    fs: Option<Arc<TestFs>>,
    device: Device,
    /// The same device, if every file is a DAX file.
    dax: Option<Arc<dyn DaxDevice>>,
    options: Options,
    /// The directory of the run.
    dir: Ino,
    /// What must be there.
    pub files: Files,
    /// Makes everything random.
    pub rng: fastrand::Rng,
    rows: Vec<Row>,
    skipped: Vec<String>,
    bar: ProgressBar,
    started: Instant,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// The measure of what happens while it lives.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    counters: Snapshot,
    traffic: Traffic,
}

fn bar(options: &Options) -> ProgressBar {
    if !options.progress {
        return ProgressBar::hidden();
    }
    // Phases, and remount, verify, check.
    let bar = ProgressBar::new(phases::ALL.len() as u64 + 3);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

impl Stage {
    pub(super) fn mount(
        device: Arc<CountingDevice<Arc<dyn BlockDevice>>>,
        dax: Option<Arc<dyn DaxDevice>>,
        options: &Options,
    ) -> Result<Self, RunError> {
        let fs = mount(&device, dax.as_ref(), options)?;
        let dir = fresh_dir(&*fs).map_err(RunError::in_phase("prepare"))?;
        Ok(Self {
            fs: Some(fs),
            device,
            dax,
            skipped: Vec::new(),
            options: *options,
            dir,
            files: Files::new(),
            rng: fastrand::Rng::with_seed(options.seed),
            rows: Vec::new(),
            bar: bar(options),
            started: Instant::now(),
        })
    }

    pub(super) fn begin(&self, phase: &'static str) {
        self.bar.inc(1);
        self.bar.set_message(phase);
    }

    /// The mounted file system.
    ///
    /// # Panics
    ///
    /// After [`Stage::unmount`].
    #[must_use]
    pub fn fs(&self) -> &Arc<TestFs> {
        self.fs.as_ref().expect("mounted until the end")
    }

    /// Bytes of the volume.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        self.device.size()
    }

    /// Whether every file is a DAX file.
    #[must_use]
    pub const fn is_dax(&self) -> bool {
        self.dax.is_some()
    }

    /// The directory of the run.
    #[must_use]
    pub const fn dir(&self) -> Ino {
        self.dir
    }

    /// Opens a file of the run, made if it is not there.
    ///
    /// # Errors
    ///
    /// Making or opening failed.
    pub fn open(&self, name: &str, flags: OpenFlags) -> Result<Arc<dyn OpenFile>, FsError> {
        let fs = self.fs();
        let attr = match fs.lookup(self.dir, name.as_bytes()) {
            Err(error) if error.errno() == Errno::NOENT => {
                fs.mknod(self.dir, name.as_bytes(), Special::Regular, &NEW)?
            }
            result => result?,
        };
        fs.open(attr.ino, flags)
    }

    /// The model of a file of the run.
    pub fn model(&mut self, name: &str) -> &mut Vec<u8> {
        self.files
            .entry((String::new(), name.to_owned()))
            .or_default()
    }

    /// Random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes);
        bytes
    }

    /// Starts measuring.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter {
            counters: self.fs().counters(),
            traffic: self.device.traffic(),
            started: Instant::now(),
        }
    }

    /// Ends measuring.
    pub fn done(&mut self, path: &'static str, meter: &Meter, calls: Calls) {
        let wall = meter.started.elapsed();
        let counts = self.fs().counters().since(&meter.counters);
        let looked = counts.cache_hits + counts.cache_misses;
        let hits = (looked > 0).then(|| counts.cache_hits as f64 * 100.0 / looked as f64);
        let traffic = self.device.traffic().since(meter.traffic);
        self.rows.push(calls.row(path, wall, hits, traffic));
    }

    /// Leaves a path out, and says so in the report.
    pub fn skip(&mut self, path: &str, why: &dyn std::fmt::Display) {
        self.skipped.push(format!("{path}: {why}"));
    }

    /// Takes every clean page out of the page cache.
    pub fn drop_cache(&self) {
        self.fs().pool().shrink(u64::MAX);
    }

    pub(super) fn remount(&mut self) -> Result<(), RunError> {
        let meter = self.meter();
        let started = Instant::now();
        self.close()?;
        self.fs = Some(mount(&self.device, self.dax.as_ref(), &self.options)?);
        let mut calls = Calls::default();
        calls.add(started.elapsed(), 0);
        let traffic = self.device.traffic().since(meter.traffic);
        self.rows
            .push(calls.row("unmount and mount", started.elapsed(), None, traffic));
        Ok(())
    }

    fn close(&mut self) -> Result<(), RunError> {
        match self.fs.take() {
            Some(fs) => fs.unmount().map_err(RunError::in_phase("unmount")),
            None => Ok(()),
        }
    }

    /// Unmounts for good.
    pub(super) fn unmount(&mut self) -> Result<Device, RunError> {
        self.close()?;
        Ok(Arc::clone(&self.device))
    }

    /// Compares every name and every byte with the model. Returns the bytes.
    pub(super) fn verify_everything(&mut self) -> Result<u64, RunError> {
        let meter = self.meter();
        let mut calls = Calls::default();
        let mut verified = 0;
        let mut dirs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (dir, name) in self.files.keys() {
            dirs.entry(dir).or_default().push(name);
        }
        for (dir, names) in dirs {
            let ino = self.dir_ino(dir)?;
            self.verify_names(dir, ino, &names)?;
            for name in names {
                let bytes = &self.files[&(dir.to_owned(), name.to_owned())];
                verified += self.verify_file(ino, dir, name, bytes, &mut calls)?;
            }
        }
        self.done("verify, cold", &meter, calls);
        Ok(verified)
    }

    fn dir_ino(&self, dir: &str) -> Result<Ino, RunError> {
        if dir.is_empty() {
            return Ok(self.dir);
        }
        let found = self.fs().lookup(self.dir, dir.as_bytes());
        Ok(found.map_err(RunError::in_phase("verify: lookup"))?.ino)
    }

    /// Every name of the model is in the directory, and no other regular file is.
    fn verify_names(&self, dir: &str, ino: Ino, names: &[&str]) -> Result<(), RunError> {
        let mut found = Vec::new();
        self.fs()
            .readdir(ino, 0, &mut |entry| {
                if entry.kind == FileType::Regular {
                    found.push(String::from_utf8_lossy(&entry.name).into_owned());
                }
                true
            })
            .map_err(RunError::in_phase("verify: readdir"))?;
        found.sort_unstable();
        let wanted: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        if found != wanted {
            return Err(RunError::Mismatch(format!(
                "directory {dir:?}: {} files listed, {} expected",
                found.len(),
                wanted.len()
            )));
        }
        Ok(())
    }

    fn verify_file(
        &self,
        dir: Ino,
        path: &str,
        name: &str,
        bytes: &[u8],
        calls: &mut Calls,
    ) -> Result<u64, RunError> {
        let phase = "verify";
        let fs = self.fs();
        let attr: Attr = fs
            .lookup(dir, name.as_bytes())
            .map_err(RunError::in_phase("verify: lookup"))?;
        if attr.size != bytes.len() as u64 {
            let (found, wanted) = (attr.size, bytes.len());
            let what = format!("{path}/{name}: {found} bytes long, {wanted} expected");
            return Err(RunError::Mismatch(what));
        }
        let file = fs
            .open(attr.ino, OpenFlags::READ)
            .map_err(RunError::in_phase(phase))?;
        let mut buffer = vec![0; CHUNK.min(bytes.len().max(1))];
        for (n, wanted) in bytes.chunks(CHUNK).enumerate() {
            let pos = (n * CHUNK) as u64;
            let started = Instant::now();
            let got = &mut buffer[..wanted.len()];
            let read = file.read_at(FilePos::saturating(pos), got, IoFlags::empty());
            calls.add(started.elapsed(), wanted.len() as u64);
            let read = read.map_err(RunError::in_phase(phase))?;
            compare(&format!("{path}/{name}"), pos, wanted, &got[..read])?;
        }
        Ok(bytes.len() as u64)
    }

    pub(super) fn report(&mut self, verified_bytes: u64, device: &Device) -> Report {
        self.bar.finish_and_clear();
        Report {
            schema: SCHEMA,
            verified: true,
            seed: self.options.seed,
            volume_bytes: device.size(),
            cache_bytes: self.options.cache_bytes,
            dax: self.dax.is_some(),
            rows: std::mem::take(&mut self.rows),
            skipped: std::mem::take(&mut self.skipped),
            verified_bytes,
            verified_files: self.files.len() as u64,
            seconds: self.started.elapsed().as_secs_f64(),
        }
    }
}

/// Compares what was read at `pos` with what should be there.
///
/// # Errors
///
/// The first byte that differs, and what was there.
pub fn compare(name: &str, pos: u64, wanted: &[u8], got: &[u8]) -> Result<(), RunError> {
    if got == wanted {
        return Ok(());
    }
    let same = wanted.iter().zip(got).take_while(|(a, b)| a == b).count();
    let at = pos + same as u64;
    let what = match (wanted.get(same), got.get(same)) {
        (Some(wanted), Some(got)) => format!("{got:#04x} instead of {wanted:#04x}"),
        _ => format!("{} bytes instead of {}", got.len(), wanted.len()),
    };
    Err(RunError::Mismatch(format!("{name} at byte {at}: {what}")))
}

/// The attributes of everything a run makes.
pub(super) const NEW: NewInode = NewInode {
    mode: 0o644,
    uid: 0,
    gid: 0,
};

fn mount(
    device: &Device,
    dax: Option<&Arc<dyn DaxDevice>>,
    options: &Options,
) -> Result<Arc<TestFs>, RunError> {
    let mount = MountOptions {
        cache_bytes: options.cache_bytes,
        dax: dax.is_some(),
        ..MountOptions::default()
    };
    if let Some(dax) = dax {
        return Ok(TestFs::mount_dax(Arc::clone(dax), mount)?);
    }
    Ok(TestFs::mount(
        Arc::clone(device) as Arc<dyn BlockDevice>,
        mount,
    )?)
}

/// The directory of the run, empty.
fn fresh_dir(fs: &dyn Vfs) -> Result<Ino, FsError> {
    match fs.lookup(fs.root(), DIR) {
        Ok(old) => {
            empty(fs, old.ino)?;
            fs.sync()?;
            Ok(old.ino)
        }
        Err(error) if error.errno() == Errno::NOENT => Ok(fs
            .mkdir(fs.root(), DIR, &NewInode { mode: 0o755, ..NEW })?
            .ino),
        Err(error) => Err(error),
    }
}

/// Removes everything below a directory.
fn empty(fs: &dyn Vfs, dir: Ino) -> Result<(), FsError> {
    let mut entries = Vec::new();
    fs.readdir(dir, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            entries.push(entry.clone());
        }
        true
    })?;
    for entry in entries {
        if entry.kind == FileType::Directory {
            empty(fs, entry.ino)?;
            fs.rmdir(dir, &entry.name)?;
        } else {
            fs.unlink(dir, &entry.name)?;
        }
    }
    Ok(())
}
