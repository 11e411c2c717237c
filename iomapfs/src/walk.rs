//! Walking a path inside of an image.
//!
//! Owns symbolic links (followed inside of the image only, never to the host), `..`, and the
//! messages when a path leads nowhere. Does not own what is done there.

use std::collections::{HashSet, VecDeque};

use iomap_core::error::Errno;
use iomap_core::vfs::{Attr, DirEntry, FileType, Ino, Vfs};

use crate::failure::{Failure, Outcome, fs_words};
use crate::image::closest;
use crate::out::printable;
use crate::place::InImage;

/// Symbolic links in one path, as the kernel has it.
const LINKS_MAX: u32 = 40;

/// What a symbolic link at the end of a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// What it points to.
    Yes,
    /// Itself.
    No,
}

/// Something that may be there, with the directory it is or would be in.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    /// The directory.
    pub(crate) dir: Ino,
    /// The name in it; empty for the root of the image.
    pub(crate) name: Vec<u8>,
    /// What is there.
    pub(crate) attr: Option<Attr>,
    /// The path ended in a slash: it must be a directory.
    pub(crate) slash: bool,
}

/// Walks the paths of one image.
#[derive(Clone, Copy)]
pub(crate) struct Walker<'a> {
    pub(crate) vfs: &'a dyn Vfs,
}

/// How far a walk came.
struct Progress {
    /// The directories from the root to here.
    dirs: Vec<Ino>,
    rest: VecDeque<Vec<u8>>,
    links: u32,
}

impl<'a> Walker<'a> {
    pub(crate) const fn new(vfs: &'a dyn Vfs) -> Self {
        Self { vfs }
    }

    /// What is at `place`; an error if there is nothing.
    pub(crate) fn find(&self, place: &InImage, follow: Follow) -> Outcome<Attr> {
        let spot = self.spot(place, follow)?;
        spot.attr
            .ok_or_else(|| self.nothing_there(place, spot.dir, &spot.name))
    }

    /// A directory at `place`.
    pub(crate) fn directory(&self, place: &InImage) -> Outcome<Attr> {
        let attr = self.find(place, Follow::Yes)?;
        if attr.kind == FileType::Directory {
            return Ok(attr);
        }
        Err(Failure::of(place, "not a directory"))
    }

    /// What is or would be at `place`: everything but the last name must be there.
    pub(crate) fn spot(&self, place: &InImage, follow: Follow) -> Outcome<Spot> {
        let slash = place.path.ends_with(b"/") || place.path.ends_with(b"/.");
        let mut walk = Progress {
            dirs: vec![self.vfs.root()],
            rest: components(&place.path).collect(),
            links: 0,
        };
        while let Some(name) = walk.rest.pop_front() {
            let dir = *walk.dirs.last().unwrap_or(&self.vfs.root());
            if name == b".." {
                if walk.dirs.len() > 1 {
                    walk.dirs.pop();
                }
                continue;
            }
            let last = walk.rest.is_empty();
            let attr = match self.vfs.lookup(dir, &name) {
                Ok(attr) => attr,
                Err(error) if error.errno() == Errno::NOENT && last => {
                    return Ok(Spot {
                        dir,
                        name,
                        attr: None,
                        slash,
                    });
                }
                Err(error) if error.errno() == Errno::NOENT => {
                    return Err(self.nothing_there(place, dir, &name));
                }
                Err(error) => return Err(Failure::of(place, fs_words(&error))),
            };
            let followed = !last || follow == Follow::Yes || slash;
            match attr.kind {
                FileType::Symlink if followed => self.link(place, &mut walk, attr.ino)?,
                FileType::Directory if !last => walk.dirs.push(attr.ino),
                _ if last => {
                    return self.last(
                        place,
                        Spot {
                            dir,
                            name,
                            attr: Some(attr),
                            slash,
                        },
                    );
                }
                _ => {
                    let what = format!("'{}' is not a directory", printable(&name));
                    return Err(Failure::of(place, what));
                }
            }
        }
        // The path ended in the root, or in "..".
        let here = *walk.dirs.last().unwrap_or(&self.vfs.root());
        let attr = self
            .vfs
            .getattr(here)
            .map_err(|e| Failure::of(place, fs_words(&e)))?;
        Ok(Spot {
            dir: here,
            name: Vec::new(),
            attr: Some(attr),
            slash,
        })
    }

    /// A path with a slash at its end must lead to a directory.
    fn last(&self, place: &InImage, spot: Spot) -> Outcome<Spot> {
        let directory = spot
            .attr
            .is_some_and(|attr| attr.kind == FileType::Directory);
        if spot.slash && !directory {
            return Err(Failure::of(place, "not a directory"));
        }
        Ok(spot)
    }

    /// Goes on with what a symbolic link says.
    fn link(&self, place: &InImage, walk: &mut Progress, link: Ino) -> Outcome<()> {
        walk.links += 1;
        if walk.links > LINKS_MAX {
            return Err(Failure::of(place, "too many levels of symbolic links"));
        }
        let target = self
            .vfs
            .readlink(link)
            .map_err(|e| Failure::of(place, fs_words(&e)))?;
        if target.is_empty() {
            return Err(Failure::of(place, "an empty symbolic link"));
        }
        if target.starts_with(b"/") {
            walk.dirs.truncate(1);
        }
        let parts: Vec<_> = components(&target).collect();
        for part in parts.into_iter().rev() {
            walk.rest.push_front(part);
        }
        Ok(())
    }

    /// The message when `name` is not in `dir`, with a guess at what was meant.
    fn nothing_there(&self, place: &InImage, dir: Ino, name: &[u8]) -> Failure {
        let wanted = printable(name);
        let failure = Failure::of(
            place,
            format!("no such path in the image: there is no '{wanted}'"),
        );
        let names: Vec<String> = match self.list(dir) {
            Ok(entries) => entries
                .iter()
                .take(10_000)
                .map(|e| printable(&e.name))
                .collect(),
            Err(_) => return failure,
        };
        match closest(&wanted, names.iter().map(String::as_str)) {
            Some(similar) => failure.hint(format!("did you mean '{similar}' ?")),
            None => failure,
        }
    }

    /// The entries of a directory, without `.` and `..`, as the file system has them.
    pub(crate) fn list(&self, dir: Ino) -> iomap_core::error::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        self.vfs.readdir(dir, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                entries.push(entry.clone());
            }
            true
        })?;
        Ok(entries)
    }

    /// The entries in the order of their names.
    pub(crate) fn list_sorted(&self, dir: Ino) -> iomap_core::error::Result<Vec<DirEntry>> {
        let mut entries = self.list(dir)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

/// The directories that a walk over a whole tree has been in.
///
/// A directory has one name. An image that was tampered with may have a directory below itself, or
/// in several places: a walk that goes into it each time may never end.
#[derive(Debug, Default)]
pub(crate) struct Visited(HashSet<Ino>);

impl Visited {
    /// The directory `dir`, which is at `place`, is about to be gone into; a failure if it was before.
    pub(crate) fn enter(&mut self, place: &InImage, dir: Ino) -> Outcome<()> {
        if self.0.insert(dir) {
            return Ok(());
        }
        let failure = Failure::of(
            place,
            "a second name of a directory; it is not gone into again",
        );
        Err(failure.hint(format!(
            "`iomapfs check {}` tells what is wrong with the image",
            place.image.display()
        )))
    }
}

/// The names of a path, without empty ones and `.`.
fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
}

/// A path with one more name.
pub(crate) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.ends_with(b"/") {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}

/// The last name of a path; empty for the root.
pub(crate) fn last_name(path: &[u8]) -> Vec<u8> {
    components(path).last().unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use iomap_core::device::MemoryDevice;
    use iomap_core::vfs::NewInode;
    use std::sync::Arc;
    use testfs::fs::{MkfsOptions, MountOptions, TestFs};

    fn sample() -> Arc<TestFs> {
        let device = Arc::new(MemoryDevice::new(8 << 20));
        TestFs::mkfs(device.clone(), &MkfsOptions::default()).unwrap();
        let fs = TestFs::mount(device, MountOptions::default()).unwrap();
        let new = NewInode::default();
        let a = fs.mkdir(fs.root(), b"a", &new).unwrap().ino;
        let b = fs.mkdir(a, b"b", &new).unwrap().ino;
        fs.mknod(b, b"file", iomap_core::vfs::Special::Regular, &new)
            .unwrap();
        fs.symlink(fs.root(), b"up", b"../../a/b/../b", &new)
            .unwrap();
        fs.symlink(b, b"abs", b"/a", &new).unwrap();
        fs.symlink(a, b"loop", b"loop", &new).unwrap();
        fs
    }

    fn find(fs: &TestFs, path: &str, follow: Follow) -> Result<FileType, String> {
        let place = InImage {
            image: "x.img".into(),
            path: path.into(),
        };
        let found = Walker::new(fs).find(&place, follow);
        found
            .map(|attr| attr.kind)
            .map_err(|failure| failure.message)
    }

    #[test]
    fn links_and_dots_stay_inside_of_the_image() {
        let fs = sample();
        for path in [
            "/a/b/file",
            "//a/./b//file",
            "/up/file",
            "/up/abs/b/file",
            "/../../a/b/file",
        ] {
            assert_eq!(
                find(&fs, path, Follow::Yes),
                Ok(FileType::Regular),
                "{path}"
            );
        }
        for path in ["/", "/a/b/..", "/up", "/up/", "/a/b/abs/.", "/.."] {
            assert_eq!(
                find(&fs, path, Follow::Yes),
                Ok(FileType::Directory),
                "{path}"
            );
        }
        assert_eq!(find(&fs, "/up", Follow::No), Ok(FileType::Symlink));
        assert_eq!(find(&fs, "/up/", Follow::No), Ok(FileType::Directory));
    }

    #[test]
    fn what_is_wrong_with_a_path_is_told() {
        let fs = sample();
        let wrong = |path: &str| find(&fs, path, Follow::Yes).unwrap_err();
        assert!(wrong("/a/x/y").contains("no 'x'"));
        assert!(wrong("/a/b/file/x").contains("'file' is not a directory"));
        assert!(wrong("/a/b/file/").contains("not a directory"));
        assert!(wrong("/a/loop").contains("too many levels"));
    }

    #[test]
    fn something_that_is_not_there_has_a_spot() {
        let fs = sample();
        let place = InImage {
            image: "x.img".into(),
            path: b"/up/new/".to_vec(),
        };
        let spot = Walker::new(&*fs).spot(&place, Follow::Yes).unwrap();
        assert!(spot.attr.is_none() && spot.slash);
        assert_eq!(spot.name, b"new");
    }
}
