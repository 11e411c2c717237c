//! Opening an image: what it is, who may use it, and that it is closed properly.
//!
//! Owns the order (look at the bytes, lock, mount) and the messages when one of them fails. Reading
//! verbs hold a shared lock and change nothing; writing verbs hold an exclusive one until the image
//! is clean and durable. The lock itself is the device's.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iomap_core::dax::FileDaxDevice;
use iomap_core::device::{BlockDevice, FileDevice, OpenError, OpenOptions};
use iomap_core::vfs::Vfs;

use crate::backend::{self, Dax, Driver, HEAD_BYTES, MountRequest, Mounted, Type};
use crate::failure::{Failure, Outcome, fs_words, words};

/// What a verb does to an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Look.
    Read,
    /// Change.
    Write,
}

/// How images are opened, from the options every verb has.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// `-t`.
    pub(crate) forced: Option<String>,
    /// Bytes of the page cache.
    pub(crate) cache_bytes: u64,
    /// Which files are DAX files.
    pub(crate) dax: Dax,
}

/// A mounted image.
pub(crate) struct Image {
    path: PathBuf,
    mounted: Mounted,
    access: Access,
}

impl Image {
    /// Opens and mounts an image.
    pub(crate) fn open(path: &Path, access: Access, opening: &Opening) -> Outcome<Self> {
        let request = MountRequest {
            read_only: access == Access::Read,
            cache_bytes: opening.cache_bytes,
        };
        let mounted = mount(path, access, opening, &request)?.map_err(|why| {
            // What was asked for is at fault, not the image.
            let ours = why.starts_with("invalid argument");
            let failure = Failure::of(path.display(), why);
            if ours {
                return failure;
            }
            failure.hint(format!(
                "`iomapfs check {}` tells what is wrong with it",
                path.display()
            ))
        })?;
        Ok(Self {
            path: path.to_owned(),
            mounted,
            access,
        })
    }

    /// Runs `f` on an image, and closes the image whatever `f` answers.
    pub(crate) fn with<T>(
        path: &Path,
        access: Access,
        opening: &Opening,
        f: impl FnOnce(&Self) -> Outcome<T>,
    ) -> Outcome<T> {
        let image = Self::open(path, access, opening)?;
        let result = f(&image);
        image.close(result)
    }

    /// Makes everything durable and gives the image back. The first failure is the answer.
    pub(crate) fn close<T>(self, result: Outcome<T>) -> Outcome<T> {
        if self.access == Access::Read {
            return result;
        }
        match (result, (self.mounted.unmount)()) {
            (Ok(value), Ok(())) => Ok(value),
            (Err(failure), Ok(())) => Err(failure),
            (Ok(_), Err(error)) => Err(Failure::of(
                self.path.display(),
                format!("not everything was written: {}", fs_words(&error)),
            )),
            (Err(failure), Err(error)) => {
                crate::failure::complain(&format!(
                    "{}: not everything was written: {}",
                    self.path.display(),
                    fs_words(&error)
                ));
                Err(failure)
            }
        }
    }

    /// Takes out what tells the state of its memory; afterwards it tells nothing.
    pub(crate) fn take_gauges(&mut self) -> crate::backend::Gauges {
        std::mem::replace(&mut self.mounted.gauges, Box::new(Vec::new))
    }

    /// The file system.
    pub(crate) fn vfs(&self) -> &Arc<dyn Vfs> {
        &self.mounted.vfs
    }
}

/// Opens the device as it is to be used, and mounts it. The inner error is the driver's.
fn mount(
    path: &Path,
    access: Access,
    opening: &Opening,
    request: &MountRequest,
) -> Outcome<Result<Mounted, String>> {
    if opening.dax == Dax::Never {
        let (driver, device) = open_device(path, access, opening)?;
        return Ok(driver.mount(device, request));
    }
    let driver = choose(path, &read_head(path)?, opening)?;
    let options = OpenOptions {
        read_only: access == Access::Read,
        ..OpenOptions::default()
    };
    let device = FileDaxDevice::open(path, &options).map_err(|error| refused(&error, access))?;
    let all = opening.dax == Dax::Always;
    Ok(driver.mount_dax(Arc::new(device), request, all))
}

/// Finds the type of an image, checks that something serves it, and opens the device.
pub(crate) fn open_device(
    path: &Path,
    access: Access,
    opening: &Opening,
) -> Outcome<(&'static dyn Driver, Arc<dyn BlockDevice>)> {
    let head = read_head(path)?;
    let driver = choose(path, &head, opening)?;
    let options = OpenOptions {
        read_only: access == Access::Read,
        ..OpenOptions::default()
    };
    let device = FileDevice::open(path, &options).map_err(|error| refused(&error, access))?;
    Ok((driver, Arc::new(device)))
}

/// The driver of an image that begins with `head`.
fn choose(path: &Path, head: &[u8], opening: &Opening) -> Outcome<&'static dyn Driver> {
    let found = match &opening.forced {
        Some(name) => Some(type_named(name)?),
        None => backend::by_magic(head),
    };
    let Some(found) = found else {
        return Err(unknown(path, head));
    };
    usable(found).map_err(|failure| Failure::of(path.display(), failure.message))
}

/// The type with this name, or a message that lists the names.
pub(crate) fn type_named(name: &str) -> Outcome<&'static Type> {
    backend::by_name(name).ok_or_else(|| {
        Failure::usage(format!("there is no file system type '{name}'"))
            .hint(format!("the types are: {}", backend::usable_names()))
    })
}

/// The driver of a type, if there is one yet.
pub(crate) fn usable(found: &Type) -> Outcome<&'static dyn Driver> {
    found
        .driver
        .ok_or_else(|| Failure::new(format!("{} images are not supported yet", found.name)))
}

/// Why the bytes are no image.
fn unknown(path: &Path, head: &[u8]) -> Failure {
    if head.is_empty() {
        let hint = format!(
            "`iomapfs mkfs -t testfs {} --size 1G` makes a file system in it",
            path.display()
        );
        return Failure::of(path.display(), "is empty, not an image").hint(hint);
    }
    let what = match backend::foreign(head) {
        Some(what) => format!("not an image of a known file system: it looks like {what}"),
        None if head.iter().all(|b| *b == 0) => {
            "not an image: it holds nothing but zeroes".to_owned()
        }
        None => "not an image of a known file system".to_owned(),
    };
    Failure::of(path.display(), what).hint(format!(
        "known types: {}; -t forces one",
        backend::usable_names()
    ))
}

/// The first bytes of the file.
pub(crate) fn read_head(path: &Path) -> Outcome<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(|error| missing(path, &error))?;
    if meta.is_dir() {
        return Err(Failure::of(path.display(), "is a directory, not an image")
            .hint("an image is a file; a path inside of one is IMAGE:/path"));
    }
    if !is_file_or_disk(&meta) {
        return Err(Failure::of(
            path.display(),
            "neither a file nor a block device, so not an image",
        ));
    }
    let file = File::open(path).map_err(|error| missing(path, &error))?;
    let mut head = vec![0; HEAD_BYTES];
    let mut have = 0;
    while have < head.len() {
        match file.read_at(&mut head[have..], have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::host(path, error)),
        }
    }
    head.truncate(have);
    Ok(head)
}

fn is_file_or_disk(meta: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    meta.is_file() || meta.file_type().is_block_device()
}

/// The image could not be opened: with a guess at what was meant.
fn missing(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::of(path.display(), words(error));
    if error.kind() == std::io::ErrorKind::NotADirectory
        && let Some(hint) = crate::place::colon_hint(path)
    {
        return failure.hint(hint);
    }
    if error.kind() != std::io::ErrorKind::NotFound {
        return failure;
    }
    match similar_file(path) {
        Some(similar) => failure.hint(format!("there is {}", similar.display())),
        None => failure.hint(format!(
            "`iomapfs mkfs -t testfs {} --size 1G` makes an image",
            path.display()
        )),
    }
}

/// A file beside `path` with nearly its name.
fn similar_file(path: &Path) -> Option<PathBuf> {
    let wanted = path.file_name()?.to_str()?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let entries = std::fs::read_dir(folder).ok()?.take(10_000).flatten();
    let names: Vec<_> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    let best = closest(wanted, names.iter().map(String::as_str))?;
    Some(match folder {
        here if here == Path::new(".") => PathBuf::from(best),
        folder => folder.join(best),
    })
}

/// The candidate that looks most like `wanted`, if one does.
pub(crate) fn closest<'a>(
    wanted: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(score, name)| *score > 0.85 && *name != wanted)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// The device was refused.
pub(crate) fn refused(error: &OpenError, access: Access) -> Failure {
    let failure = match error {
        OpenError::Os { path, what, errno } => {
            let why = words(&std::io::Error::from_raw_os_error(errno.raw_os_error()));
            Failure::new(format!("{}: cannot {what}: {why}", path.display()))
        }
        other => Failure::new(other.to_string()),
    };
    match (error, access) {
        (OpenError::Locked(_), Access::Write) => {
            failure.hint("it is mounted, or another program reads or writes it; unmount it, or wait until that is done")
        }
        (OpenError::Locked(_), Access::Read) => {
            failure.hint("it is mounted for writing, or another program writes it; use the mount, or wait until that is done")
        }
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_what_was_meant() {
        assert_eq!(
            closest("disc.img", ["disk.img", "other"].into_iter()),
            Some("disk.img")
        );
        assert_eq!(closest("disk.img", ["notes.txt"].into_iter()), None);
    }
}
