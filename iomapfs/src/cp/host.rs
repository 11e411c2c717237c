//! The host's side of a copy: directories by descriptor, never by path.
//!
//! Owns the system calls. Below the directory a copy was asked to go to no symbolic link is
//! followed, so nothing in an image can lead out of it. Modes are set exactly: the umask is zero
//! while a copy writes to the host.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use iomap_core::vfs::{FileType, OpenFile, Timestamp};
use rustix::fs::{
    AtFlags, FileType as HostType, Mode, OFlags, SeekFrom, StatxFlags, StatxTimestamp, Timespec,
    Timestamps, XattrFlags,
};
use rustix::io::Errno;

use super::host_xattr::collect_xattrs;
use super::side::{
    Attrs, Entry, Io, Item, Losses, Meta, SourceDir, SourceFile, TargetDir, TargetFile, There,
    Trouble, Xattrs,
};

/// Device and inode of each image that is open: no source, and nothing to overwrite.
pub(super) type Images = Arc<[(u64, u64)]>;

/// An open directory.
#[derive(Debug)]
pub(super) struct HostDir {
    fd: OwnedFd,
    images: Images,
}

/// An open file.
#[derive(Debug)]
pub(super) struct HostFile {
    fd: OwnedFd,
}

impl HostDir {
    /// Opens the directory at `path`, as a user means it: symbolic links are followed.
    pub(super) fn open_path(path: &Path, images: &Images) -> Io<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        Ok(Self {
            fd: rustix::fs::open(path, flags, Mode::empty())?,
            images: Arc::clone(images),
        })
    }

    fn below(&self, name: &[u8], more: OFlags) -> Io<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | more;
        Ok(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?)
    }

    /// A path to `name` here that no other process can turn aside, for calls that want one.
    fn proc_path(&self, name: &[u8]) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name);
        path
    }
}

impl HostDir {
    /// Sets the mode of a node that cannot be opened, without following a symbolic link that may
    /// have taken its place.
    fn chmod_node(&self, name: &[u8], kind: FileType, mode: u16) -> Io<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        if look_at(&node)?.kind != kind {
            return Err(Trouble::new(
                Errno::AGAIN,
                "was replaced while it was copied",
            ));
        }
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(mode.into()))
            .map_err(|errno| Trouble::from(errno).during("mode"))
    }
}

const fn kind(mode: u16) -> FileType {
    match HostType::from_raw_mode(mode as u32) {
        HostType::Directory => FileType::Directory,
        HostType::Symlink => FileType::Symlink,
        HostType::Fifo => FileType::Fifo,
        HostType::Socket => FileType::Socket,
        HostType::CharacterDevice => FileType::CharDevice,
        HostType::BlockDevice => FileType::BlockDevice,
        _ => FileType::Regular,
    }
}

/// Looks at `name` in `dir`; with an empty name and [`AtFlags::EMPTY_PATH`] at `dir` itself.
fn look(dir: &OwnedFd, name: &[u8], flags: AtFlags) -> rustix::io::Result<Meta> {
    let stat = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
    let time = |time: StatxTimestamp| Timestamp {
        secs: time.tv_sec,
        nanos: time.tv_nsec,
    };
    Ok(Meta {
        kind: kind(stat.stx_mode),
        mode: stat.stx_mode & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        sparse: stat.stx_blocks.saturating_mul(512) < stat.stx_size,
        nlink: stat.stx_nlink.into(),
        atime: time(stat.stx_atime),
        mtime: time(stat.stx_mtime),
        id: (
            rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            stat.stx_ino,
        ),
    })
}

fn look_at(fd: &OwnedFd) -> rustix::io::Result<Meta> {
    look(fd, b"", AtFlags::EMPTY_PATH)
}

impl SourceDir for HostDir {
    type File = HostFile;
    const ONE_NAME: bool = false;

    fn list(&self) -> Io<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(Entry {
                    name: name.to_vec(),
                    ino: entry.ino(),
                });
            }
        }
        // The order on the disk: inodes that are neighbours are read together.
        entries.sort_by_key(|entry| entry.ino);
        Ok(entries)
    }

    fn look(&self, entry: &Entry, follow: bool) -> Io<Meta> {
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        let found = look(&self.fd, &entry.name, flags)?;
        if found.kind == FileType::Regular && self.images.contains(&found.id) {
            return Err(Trouble::new(
                Errno::BUSY,
                "left out: it is the image itself",
            ));
        }
        Ok(found)
    }

    fn open_dir(item: &Item<Self>) -> Io<Self> {
        let follow = if item.followed {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        Ok(Self {
            fd: item
                .dir
                .below(&item.entry.name, OFlags::DIRECTORY | follow)?,
            images: Arc::clone(&item.dir.images),
        })
    }

    fn open(item: &Item<Self>) -> Io<(HostFile, Meta)> {
        let follow = if item.followed {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        // Without NONBLOCK a fifo that took the place of the file would hold us up for ever.
        let fd = item
            .dir
            .below(&item.entry.name, OFlags::NONBLOCK | follow)?;
        let found = look_at(&fd)?;
        if found.kind != FileType::Regular {
            return Err(Trouble::new(
                Errno::AGAIN,
                "was replaced while it was copied",
            ));
        }
        Ok((HostFile { fd }, found))
    }

    fn readlink(item: &Item<Self>) -> Io<Vec<u8>> {
        let target = rustix::fs::readlinkat(&item.dir.fd, &*item.entry.name, Vec::new())?;
        Ok(target.into_bytes())
    }

    fn own_xattrs(&self) -> Io<Xattrs> {
        fd_xattrs(&self.fd)
    }

    fn xattrs(item: &Item<Self>) -> Io<Xattrs> {
        let path = item.dir.proc_path(&item.entry.name);
        collect_xattrs(
            |to| rustix::fs::llistxattr(&*path, to),
            |name, to| rustix::fs::lgetxattr(&*path, name, to),
        )
    }
}

fn fd_xattrs(fd: &OwnedFd) -> Io<Xattrs> {
    collect_xattrs(
        |to| rustix::fs::flistxattr(fd, to),
        |name, to| rustix::fs::fgetxattr(fd, name, to),
    )
}

impl SourceFile for HostFile {
    fn read_at(&self, pos: u64, to: &mut [u8]) -> Io<usize> {
        loop {
            match rustix::io::preadv(&self.fd, &mut [IoSliceMut::new(to)], pos) {
                Err(Errno::INTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn next_data(&self, pos: u64, size: u64) -> Io<Option<(u64, u64)>> {
        let start = match rustix::fs::seek(&self.fd, SeekFrom::Data(pos)) {
            Ok(start) if start < size => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            // No holes on this file system.
            Err(Errno::INVAL | Errno::OPNOTSUPP) if pos < size => return Ok(Some((pos, size))),
            Err(errno) => return Err(errno.into()),
        };
        match rustix::fs::seek(&self.fd, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some((start, end.min(size)))),
            // Cut off since the data was found.
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn xattrs(&self) -> Io<Xattrs> {
        fd_xattrs(&self.fd)
    }

    fn inside(&self) -> Option<&dyn OpenFile> {
        None
    }
}

impl TargetDir for HostDir {
    type File = HostFile;

    fn stat(&self, name: &[u8]) -> Io<Option<There>> {
        match look(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(There {
                kind: found.kind,
                id: found.id,
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn mkdir(&self, name: &[u8], _attrs: &Attrs) -> Io<Self> {
        rustix::fs::mkdirat(&self.fd, name, Mode::RWXU)?;
        TargetDir::open_dir(self, name)
    }

    fn open_dir(&self, name: &[u8]) -> Io<Self> {
        Ok(Self {
            fd: self.below(name, OFlags::DIRECTORY | OFlags::NOFOLLOW)?,
            images: Arc::clone(&self.images),
        })
    }

    fn create(&self, name: &[u8], _attrs: &Attrs) -> Io<HostFile> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(HostFile { fd })
    }

    fn reopen(&self, name: &[u8]) -> Io<HostFile> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())?;
        let found = look_at(&fd)?;
        if self.images.contains(&found.id) {
            return Err(Trouble::new(
                Errno::BUSY,
                "refused: it is an image that is in use",
            ));
        }
        rustix::fs::ftruncate(&fd, 0)?;
        Ok(HostFile { fd })
    }

    fn symlink(&self, name: &[u8], to: &[u8], _attrs: &Attrs) -> Io<()> {
        Ok(rustix::fs::symlinkat(to, &self.fd, name)?)
    }

    fn special(&self, name: &[u8], meta: &Meta, attrs: &Attrs) -> Io<()> {
        let kind = match meta.kind {
            FileType::Fifo => HostType::Fifo,
            FileType::Socket => HostType::Socket,
            FileType::CharDevice => HostType::CharacterDevice,
            FileType::BlockDevice => HostType::BlockDevice,
            _ => return Err(Errno::INVAL.into()),
        };
        let mode = Mode::from_raw_mode(attrs.mode.into());
        Ok(rustix::fs::mknodat(&self.fd, name, kind, mode, meta.rdev)?)
    }

    fn link(&self, name: &[u8], from: &Self, from_name: &[u8]) -> Io<()> {
        let flags = AtFlags::empty();
        Ok(rustix::fs::linkat(
            &from.fd, from_name, &self.fd, name, flags,
        )?)
    }

    fn remove(&self, name: &[u8]) -> Io<()> {
        let found = self.stat(name)?;
        if found.is_some_and(|there| self.images.contains(&there.id)) {
            return Err(Trouble::new(
                Errno::BUSY,
                "refused: it is an image that is in use",
            ));
        }
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::empty())?)
    }

    fn finish_name(
        &self,
        name: &[u8],
        kind: FileType,
        attrs: &Attrs,
        xattrs: &Xattrs,
    ) -> Io<Losses> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = attrs.owner {
            let (uid, gid) = (Some(user(uid)), Some(group(gid)));
            let kept = owner_kept(rustix::fs::chownat(&self.fd, name, uid, gid, nofollow))?;
            if kept && kind != FileType::Symlink && attrs.mode & 0o6000 != 0 {
                // A new owner takes the set-id bits away.
                self.chmod_node(name, kind, attrs.mode)?;
            }
        }
        let path = self.proc_path(name);
        let losses = set_xattrs(xattrs, |name, value| {
            rustix::fs::lsetxattr(&*path, name, value, XattrFlags::empty())
        });
        if let Some((atime, mtime)) = attrs.times {
            rustix::fs::utimensat(&self.fd, name, &times(atime, mtime), nofollow)
                .map_err(|errno| Trouble::from(errno).during("times"))?;
        }
        Ok(losses)
    }

    /// Nothing on the host is copied to the host.
    fn is_at_or_below(&self, _id: (u64, u64)) -> Io<bool> {
        Ok(false)
    }

    fn finish(&self, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses> {
        finish_fd(&self.fd, attrs, xattrs)
    }
}

fn user(uid: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(uid)
}

fn group(gid: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(gid)
}

/// Whether the owner was set. Somebody without privileges cannot, and that is no error.
fn owner_kept(result: rustix::io::Result<()>) -> Io<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::INVAL) if !rustix::process::geteuid().is_root() => Ok(false),
        Err(errno) => Err(Trouble::from(errno).during("owner")),
    }
}

fn times(atime: Timestamp, mtime: Timestamp) -> Timestamps {
    let spec = |time: Timestamp| Timespec {
        tv_sec: time.secs,
        tv_nsec: time.nanos.into(),
    };
    Timestamps {
        last_access: spec(atime),
        last_modification: spec(mtime),
    }
}

/// Owner first: it clears capabilities and set-id bits. Mode after the attributes: they need to be
/// allowed to write.
fn finish_fd(fd: &OwnedFd, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses> {
    let mut mode = u32::from(attrs.mode);
    if let Some((uid, gid)) = attrs.owner {
        let kept = owner_kept(rustix::fs::fchown(fd, Some(user(uid)), Some(group(gid))))?;
        if !kept {
            // Set-id bits for somebody else than the owner asked for would be a gift to them.
            let found = look_at(fd)?;
            if found.uid != uid {
                mode &= !0o4000;
            }
            if found.gid != gid {
                mode &= !0o2000;
            }
        }
    }
    let losses = set_xattrs(xattrs, |name, value| {
        rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
    });
    if attrs.exact_mode {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
            .map_err(|errno| Trouble::from(errno).during("mode"))?;
    }
    if let Some((atime, mtime)) = attrs.times {
        rustix::fs::futimens(fd, &times(atime, mtime))
            .map_err(|errno| Trouble::from(errno).during("times"))?;
    }
    Ok(losses)
}

fn set_xattrs(xattrs: &Xattrs, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) -> Losses {
    let mut losses = Losses::default();
    for (name, value) in xattrs {
        if let Err(errno) = set(name, value) {
            losses.xattrs.push((name.clone(), errno.into()));
        }
    }
    losses
}

impl TargetFile for HostFile {
    fn write_at(&self, mut pos: u64, mut bytes: &[u8]) -> Io<()> {
        while !bytes.is_empty() {
            match rustix::io::pwritev(&self.fd, &[IoSlice::new(bytes)], pos) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(n) => {
                    bytes = &bytes[n..];
                    pos += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn set_len(&self, size: u64) -> Io<()> {
        Ok(rustix::fs::ftruncate(&self.fd, size)?)
    }

    fn finish(&self, attrs: &Attrs, xattrs: &Xattrs) -> Io<Losses> {
        finish_fd(&self.fd, attrs, xattrs)
    }

    fn inside(&self) -> Option<&dyn OpenFile> {
        None
    }
}
