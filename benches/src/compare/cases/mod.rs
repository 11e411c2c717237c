//! What is compared: the groups, by theme.
//!
//! Owns the list and the helpers that every theme needs. A group is made only when it is about to
//! run, because most of them hold hundreds of megabytes.

mod cached;
mod dax;
mod dax_mapping;
mod direct;
mod growth;
mod mapping;
mod mounted;
mod names;
mod pressure;
mod small;
mod stream;
mod threads;

use std::path::Path;

use iomap_core::units::FilePos;
use iomap_core::vfs::{IoFlags, OpenFile};

use super::host::LoopMount;
use super::sample::Clock;
use super::{Effort, Group, Plot};

/// Makes a group when its turn comes.
pub struct Case {
    /// The group's name.
    pub id: String,
    make: Box<dyn FnOnce() -> Group>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Case").field(&self.id).finish()
    }
}

impl Case {
    fn new(id: impl Into<String>, make: impl FnOnce(String) -> Group + 'static) -> Self {
        let id = id.into();
        let name = id.clone();
        Self {
            id,
            make: Box::new(|| make(name)),
        }
    }

    /// The group, with nothing of it set up yet.
    #[must_use]
    pub fn group(self) -> Group {
        (self.make)()
    }
}

/// Every group, in the order of the report.
#[must_use]
pub fn all(effort: Effort) -> Vec<Case> {
    let themes = [
        cached::cases,
        threads::cases,
        stream::cases,
        direct::cases,
        growth::cases,
        mapping::cases,
        dax::cases,
        dax_mapping::cases,
        pressure::cases,
        small::cases,
        names::cases,
        mounted::cases,
    ];
    themes.into_iter().flat_map(|theme| theme(effort)).collect()
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// `4 KiB`, `1 MiB`.
fn size_name(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 40 => format!("{} TiB", b >> 40),
        b if b >= GIB => format!("{} GiB", b / GIB),
        b if b >= MIB => format!("{} MiB", b / MIB),
        b if b >= KIB => format!("{} KiB", b / KIB),
        b => format!("{b} B"),
    }
}

const fn plot(picture: &'static str, bytes: u64) -> Plot {
    Plot {
        picture,
        x: bytes as f64,
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A number of bytes as a length in memory.
fn len(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Times `count` calls of `step` as one stretch.
fn timed(
    count: u64,
    clock: &mut Clock,
    mut step: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    clock.start();
    let outcome = (0..count).try_for_each(|_| step());
    clock.stop();
    outcome
}

/// A whole read: short is an error, because every position lies inside the file.
fn read_all(file: &dyn OpenFile, at: u64, to: &mut [u8], flags: IoFlags) -> Result<(), String> {
    match file.read_at(FilePos::saturating(at), to, flags) {
        Ok(done) if done == to.len() => Ok(()),
        Ok(done) => Err(format!("{done} of {} bytes read", to.len())),
        Err(error) => Err(text(error)),
    }
}

/// A whole write.
fn write_all(file: &dyn OpenFile, at: u64, from: &[u8], flags: IoFlags) -> Result<(), String> {
    match file.write_at(FilePos::saturating(at), from, flags) {
        Ok(done) if done == from.len() => Ok(()),
        Ok(done) => Err(format!("{done} of {} bytes written", from.len())),
        Err(error) => Err(text(error)),
    }
}

/// A file in a kernel file system; closed before that is unmounted.
struct LoopFile {
    file: std::fs::File,
    mount: LoopMount,
}

impl LoopFile {
    fn new(kind: &str, len: u64) -> Result<Self, String> {
        let mount = LoopMount::new(kind, len + len / 2 + 512 * MIB)?;
        let path = mount.path().join("file");
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(text)?;
        crate::fill(&file, len).map_err(text)?;
        file.sync_all().map_err(text)?;
        Ok(Self { file, mount })
    }
}

/// A file of noise on the host's own file system.
fn host_path(len: u64) -> Result<tempfile::NamedTempFile, String> {
    let named = tempfile::NamedTempFile::new().map_err(text)?;
    crate::fill(named.as_file(), len).map_err(text)?;
    named.as_file().sync_all().map_err(text)?;
    Ok(named)
}

/// Takes the kernel's cached pages of a clean file away, as far as the kernel does.
fn forget(path: &Path) -> Result<(), String> {
    let file = std::fs::File::open(path).map_err(text)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_the_quick_run_is_a_part_of_the_full_one() {
        let ids = |effort| -> Vec<String> { all(effort).into_iter().map(|c| c.id).collect() };
        let (full, quick) = (ids(Effort::FULL), ids(Effort::QUICK));
        let unique: std::collections::BTreeSet<_> = full.iter().collect();
        assert_eq!(unique.len(), full.len());
        assert!(quick.iter().all(|id| full.contains(id)));
        assert!(quick.len() < full.len());
    }

    #[test]
    fn sizes_read_as_people_say_them() {
        let names = [4096, 1 << 20, 1 << 30, 1 << 40].map(size_name);
        assert_eq!(names, ["4 KiB", "1 MiB", "1 GiB", "1 TiB"]);
    }
}
