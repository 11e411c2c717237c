//! What a copy needs of the two sides: to read a tree, and to write one.
//!
//! Owns the traits and their values. The host is in [`host`](super::host), images are in
//! [`inside`](super::inside); what is done with them is in [`walk`](super::walk) and
//! [`job`](super::job). A directory is held open, by descriptor or inode, and everything in it is
//! reached by one name: no path is walked twice, so nobody can exchange its parts meanwhile.

use std::fmt;
use std::sync::Arc;

use iomap_core::error::{Errno, FsError};
use iomap_core::vfs::{FileType, OpenFile, Timestamp};

use crate::failure::{fs_words, words};

/// Why something was not copied.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    /// For decisions.
    pub(super) errno: Errno,
    text: String,
}

/// The answer of one step.
pub(super) type Io<T> = Result<T, Trouble>;

impl Trouble {
    /// In our own words.
    pub(super) fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self {
            errno,
            text: text.into(),
        }
    }

    /// With what was tried in front.
    pub(super) fn during(mut self, what: &str) -> Self {
        self.text = format!("{what}: {}", self.text);
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<FsError> for Trouble {
    fn from(error: FsError) -> Self {
        Self::new(error.errno(), fs_words(&error))
    }
}

impl From<rustix::io::Errno> for Trouble {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::new(errno, words(&errno.into()))
    }
}

/// What is known about something to copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) kind: FileType,
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: u64,
    pub(super) size: u64,
    /// Whether storage may be missing somewhere below the size.
    pub(super) sparse: bool,
    pub(super) nlink: u64,
    pub(super) atime: Timestamp,
    pub(super) mtime: Timestamp,
    /// Device and inode: the same for two names of one file.
    pub(super) id: (u64, u64),
}

/// The attributes of a copy. `None`: leave as they are when it is made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attrs {
    /// Permission and set-id bits.
    pub(super) mode: u16,
    /// Whether the mode is the source's, so that it also replaces that of something overwritten.
    pub(super) exact_mode: bool,
    pub(super) owner: Option<(u32, u32)>,
    pub(super) times: Option<(Timestamp, Timestamp)>,
}

/// Extended attributes: names with their values.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a target could not keep though nothing is wrong.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Extended attributes, with the reason.
    pub(super) xattrs: Vec<(Vec<u8>, Trouble)>,
}

/// What is where a copy goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct There {
    pub(super) kind: FileType,
    pub(super) id: (u64, u64),
}

/// An entry of a directory that is read.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// The inode, where the listing tells it reliably.
    pub(super) ino: u64,
}

/// Something in a directory that is read.
#[derive(Debug)]
pub(super) struct Item<D> {
    pub(super) dir: Arc<D>,
    pub(super) entry: Entry,
    pub(super) meta: Meta,
    /// A symbolic link was followed to it.
    pub(super) followed: bool,
}

/// An open directory of a tree that is read.
pub(super) trait SourceDir: Sized + Send + Sync + 'static {
    type File: SourceFile;

    /// Whether a directory can have one name only, so that a second one means damage. Of the host
    /// it can have several, by mounts.
    const ONE_NAME: bool;

    /// The entries, without `.` and `..`.
    fn list(&self) -> Io<Vec<Entry>>;

    /// Looks at an entry.
    fn look(&self, entry: &Entry, follow: bool) -> Io<Meta>;

    /// Opens a directory below.
    fn open_dir(item: &Item<Self>) -> Io<Self>;

    /// Opens a regular file, and looks at it once more.
    fn open(item: &Item<Self>) -> Io<(Self::File, Meta)>;

    /// What a symbolic link says.
    fn readlink(item: &Item<Self>) -> Io<Vec<u8>>;

    /// The extended attributes of the directory itself.
    fn own_xattrs(&self) -> Io<Xattrs>;

    /// The extended attributes of something that is neither a directory nor a regular file.
    fn xattrs(item: &Item<Self>) -> Io<Xattrs>;
}

/// An open regular file that is read.
pub(super) trait SourceFile: Send {
    /// Reads; zero at the end.
    fn read_at(&self, pos: u64, to: &mut [u8]) -> Io<usize>;

    /// The next run of data at or after `pos`: start and end. `None` if only a hole follows.
    fn next_data(&self, pos: u64, size: u64) -> Io<Option<(u64, u64)>>;

    /// The extended attributes.
    fn xattrs(&self) -> Io<Xattrs>;

    /// The file, if it is in an image.
    fn inside(&self) -> Option<&dyn OpenFile>;
}

/// An open directory of a tree that is written.
pub(super) trait TargetDir: Sized + Send + Sync + 'static {
    type File: TargetFile;

    /// What has this name. Symbolic links are not followed.
    fn stat(&self, name: &[u8]) -> Io<Option<There>>;

    /// Makes a directory that only we can use, and opens it.
    fn mkdir(&self, name: &[u8], attrs: &Attrs) -> Io<Self>;

    /// Opens a directory, `.` for itself; never through a symbolic link.
    fn open_dir(&self, name: &[u8]) -> Io<Self>;

    /// Makes a file; an error if there is something.
    fn create(&self, name: &[u8], attrs: &Attrs) -> Io<Self::File>;

    /// Opens a file and empties it; never through a symbolic link.
    fn reopen(&self, name: &[u8]) -> Io<Self::File>;

    /// Makes a symbolic link.
    fn symlink(&self, name: &[u8], to: &[u8], attrs: &Attrs) -> Io<()>;

    /// Makes a fifo, socket or device node.
    fn special(&self, name: &[u8], meta: &Meta, attrs: &Attrs) -> Io<()>;

    /// Gives `from_name` of `from` another name here.
    fn link(&self, name: &[u8], from: &Self, from_name: &[u8]) -> Io<()>;

    /// Removes something that is no directory.
    fn remove(&self, name: &[u8]) -> Io<()>;

    /// Sets the attributes of something that is neither a directory nor a regular file.
    fn finish_name(
        &self,
        name: &[u8],
        kind: FileType,
        attrs: &Attrs,
        xattrs: &Xattrs,
    ) -> Io<Losses>;

    /// Whether this directory is the one with this identity, or below it.
    fn is_at_or_below(&self, id: (u64, u64)) -> Io<bool>;

    /// Sets the attributes of the directory itself: when everything in it is done.
    fn finish(&self, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses>;
}

/// An open regular file that is written.
pub(super) trait TargetFile: Send {
    /// Writes all of it.
    fn write_at(&self, pos: u64, bytes: &[u8]) -> Io<()>;

    /// Gives the file its size: what was not written becomes a hole.
    fn set_len(&self, size: u64) -> Io<()>;

    /// Sets the attributes: when the data is there.
    fn finish(&self, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses>;

    /// The file, if it is in an image.
    fn inside(&self) -> Option<&dyn OpenFile>;
}

/// Whether a name can be one: what an image says is not trusted.
pub(super) fn check_name(name: &[u8]) -> Io<()> {
    let bad = match name {
        b"" => "an empty name",
        b"." | b".." => "a name that leads elsewhere",
        name if name.contains(&b'/') || name.contains(&0) => "a name with a slash or NUL in it",
        name if name.len() > 255 => "a name longer than 255 bytes",
        _ => return Ok(()),
    };
    Err(Trouble::new(Errno::INVAL, format!("refused: {bad}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"/etc/passwd",
            b"../x",
            b"a\0b",
            &[b'x'; 256],
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in [&b"a"[..], b"...", b"a b\n", b"\xff", &[b'x'; 255]] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }
}
