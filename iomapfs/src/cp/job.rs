//! One thing that is no directory, copied by a worker.
//!
//! Owns what happens to whatever is in the way, hard links, and the copying of bytes and holes. Who
//! finds the things to copy is [`walk`](super::walk).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use iomap_core::error::Errno;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::FileType;

use super::goal::{Claim, Goal, Links, Making};
use super::keep::Policy;
use super::report::Report;
use super::side::{Io, Item, Meta, SourceDir, SourceFile, TargetDir, TargetFile, Trouble, Xattrs};
use crate::out::{kind_name, printable};

/// Bytes read and written at once.
pub(super) const CHUNK: usize = 1 << 20;

/// What the user asked for, beside what is kept.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub(super) struct Wishes {
    pub(super) recursive: bool,
    pub(super) follow_all: bool,
    pub(super) no_clobber: bool,
    pub(super) force: bool,
    pub(super) one_file_system: bool,
    pub(super) devices: bool,
}

/// What all workers share.
pub(super) struct Context<T: TargetDir> {
    pub(super) wishes: Wishes,
    pub(super) policy: Policy,
    pub(super) report: Arc<Report>,
    pub(super) links: Links<T>,
}

/// Something to copy.
pub(super) struct Job<S: SourceDir, T: TargetDir> {
    pub(super) item: Item<S>,
    /// The path of the directory it is in, for messages.
    pub(super) above: Arc<str>,
    pub(super) goal: Arc<Goal<T>>,
    pub(super) name: Vec<u8>,
    /// The directory was made by us: nothing can be in the way.
    pub(super) fresh: bool,
}

impl<S: SourceDir, T: TargetDir> Job<S, T> {
    /// The path of the source, for messages.
    pub(super) fn shown(&self) -> String {
        if self.item.entry.name == b"." {
            return self.above.to_string();
        }
        let slash = if self.above.is_empty() || self.above.ends_with('/') {
            ""
        } else {
            "/"
        };
        format!("{}{slash}{}", self.above, printable(&self.item.entry.name))
    }
}

/// What is at the name of the copy.
enum Room {
    Free,
    File,
    Kept,
}

impl<T: TargetDir> Context<T> {
    /// Copies, and tells if that failed.
    pub(super) fn run<S: SourceDir>(&self, job: &Job<S, T>, buffer: &mut [u8]) {
        match self.copy(job, buffer) {
            Ok(true) => self.report.made(&job.shown(), &job.goal.path_of(&job.name)),
            Ok(false) => {
                self.report.counts.skipped.fetch_add(1, Relaxed);
            }
            // What is in the way of the copy is an image in use.
            Err(trouble)
                if trouble.errno == Errno::BUSY && job.item.meta.kind == FileType::Regular =>
            {
                self.report.error(&job.goal.path_of(&job.name), &trouble);
            }
            Err(trouble) => self.report.error(&job.shown(), &trouble),
        }
    }

    /// Whether a copy was made: not if it would have replaced what is to be kept.
    fn copy<S: SourceDir>(&self, job: &Job<S, T>, buffer: &mut [u8]) -> Io<bool> {
        let meta = &job.item.meta;
        self.admit(meta)?;
        let room = self.room(job)?;
        if matches!(room, Room::Kept) {
            return Ok(false);
        }
        let mut making = None;
        if self.policy.links && meta.nlink > 1 {
            match self.links.claim(meta.id, meta.nlink) {
                Claim::Make(duty) => making = Some(duty),
                Claim::Link((goal, name)) => {
                    if self.link(job, &room, &goal, &name)? {
                        count(&self.report.counts.hard_links);
                        self.report.advance(meta.size);
                        return Ok(true);
                    }
                }
            }
        }
        if meta.kind == FileType::Regular {
            self.file(job, &room, making, buffer)?;
        } else {
            self.node(job, making)?;
        }
        Ok(true)
    }

    /// Device nodes give whoever opens them the device: not out of an image without being asked.
    fn admit(&self, meta: &Meta) -> Io<()> {
        let device = matches!(meta.kind, FileType::CharDevice | FileType::BlockDevice);
        if device && !self.wishes.devices {
            let what = format!("refused: a {}; --devices copies it", kind_name(meta.kind));
            return Err(Trouble::new(Errno::PERM, what));
        }
        Ok(())
    }

    /// Looks what is in the way, and removes it where a copy cannot be written into it.
    fn room<S: SourceDir>(&self, job: &Job<S, T>) -> Io<Room> {
        if job.fresh {
            return Ok(Room::Free);
        }
        let Some(there) = job.goal.dir.stat(&job.name)? else {
            return Ok(Room::Free);
        };
        let what = |what: &str| {
            Trouble::new(
                Errno::EXIST,
                format!("{}: {what}", job.goal.path_of(&job.name)),
            )
        };
        if there.kind == FileType::Directory {
            return Err(what("a directory is in the way"));
        }
        if there.id == job.item.meta.id {
            return Err(what("is the same file"));
        }
        if self.wishes.no_clobber {
            return Ok(Room::Kept);
        }
        if there.kind == FileType::Regular && job.item.meta.kind == FileType::Regular {
            return Ok(Room::File);
        }
        // Never written through, whatever it is: a symbolic link, a fifo, a device.
        job.goal.dir.remove(&job.name)?;
        Ok(Room::Free)
    }

    /// Whether the name could be linked: else it becomes a copy of its own.
    fn link<S: SourceDir>(
        &self,
        job: &Job<S, T>,
        room: &Room,
        goal: &Goal<T>,
        name: &[u8],
    ) -> Io<bool> {
        if matches!(room, Room::File) {
            job.goal.dir.remove(&job.name)?;
        }
        match job.goal.dir.link(&job.name, &goal.dir, name) {
            Ok(()) => Ok(true),
            Err(trouble) => match trouble.errno {
                Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::OPNOTSUPP => Ok(false),
                _ => Err(trouble.during("hard link")),
            },
        }
    }

    fn file<S: SourceDir>(
        &self,
        job: &Job<S, T>,
        room: &Room,
        making: Option<Making<'_, T>>,
        buffer: &mut [u8],
    ) -> Io<()> {
        let (from, meta) = S::open(&job.item)?;
        let attrs = self.policy.attrs(&meta);
        let dir = &job.goal.dir;
        let to = match room {
            Room::File => match dir.reopen(&job.name) {
                Err(trouble) if self.wishes.force && trouble.errno != Errno::BUSY => {
                    dir.remove(&job.name)?;
                    dir.create(&job.name, &attrs)?
                }
                opened => opened?,
            },
            _ => match dir.create(&job.name, &attrs) {
                // Removed by `link`, which could not link after all.
                Err(trouble) if trouble.errno == Errno::EXIST && !job.fresh => {
                    dir.remove(&job.name)?;
                    dir.create(&job.name, &attrs)?
                }
                created => created?,
            },
        };
        if let Some(mut making) = making {
            making.made(&job.goal, &job.name);
        }
        let copied = self.bytes(&from, &to, &meta, buffer);
        // Whatever the data came to: the file shall not look like something else.
        let xattrs = if self.policy.xattr {
            from.xattrs()
        } else {
            Ok(Xattrs::new())
        };
        let known = xattrs
            .as_ref()
            .map_or(const { &Xattrs::new() }, |xattrs| xattrs);
        let finished = to.finish(&attrs, known);
        copied?;
        xattrs?;
        self.report.losses(&job.goal.path_of(&job.name), finished?);
        count(&self.report.counts.files);
        Ok(())
    }

    /// Symbolic links, fifos, sockets and device nodes.
    fn node<S: SourceDir>(&self, job: &Job<S, T>, making: Option<Making<'_, T>>) -> Io<()> {
        let (item, dir) = (&job.item, &job.goal.dir);
        let attrs = self.policy.attrs(&item.meta);
        let counted = if item.meta.kind == FileType::Symlink {
            dir.symlink(&job.name, &S::readlink(item)?, &attrs)?;
            &self.report.counts.symlinks
        } else {
            dir.special(&job.name, &item.meta, &attrs)?;
            &self.report.counts.special
        };
        if let Some(mut making) = making {
            making.made(&job.goal, &job.name);
        }
        let xattrs = if self.policy.xattr {
            S::xattrs(item)?
        } else {
            Xattrs::new()
        };
        let losses = dir.finish_name(&job.name, item.meta.kind, &attrs, &xattrs)?;
        self.report.losses(&job.goal.path_of(&job.name), losses);
        count(counted);
        Ok(())
    }

    /// Copies the bytes, and leaves out the holes.
    fn bytes(
        &self,
        from: &impl SourceFile,
        to: &impl TargetFile,
        meta: &Meta,
        buffer: &mut [u8],
    ) -> Io<()> {
        let size = meta.size;
        if self.shared(from, to, size) {
            self.report.advance(size);
            return Ok(());
        }
        if !(meta.sparse && self.policy.holes) {
            return self.range(from, to, (0, size), buffer).map(|_| ());
        }
        let mut pos = 0;
        while let Some((start, end)) = from.next_data(pos, size)? {
            self.report.advance(start - pos);
            pos = self.range(from, to, (start, end), buffer)?;
            if pos < end {
                // The file became shorter meanwhile.
                return Ok(());
            }
        }
        self.report.advance(size - pos.min(size));
        if pos < size { to.set_len(size) } else { Ok(()) }
    }

    /// Within one image the copy shares the storage of the original, where it can.
    fn shared(&self, from: &impl SourceFile, to: &impl TargetFile, size: u64) -> bool {
        let (Some(from), Some(to)) = (from.inside(), to.inside()) else {
            return false;
        };
        let range = FileRange::at_most(FilePos::ZERO, size);
        size > 0 && self.policy.holes && from.clone_range(range, to, FilePos::ZERO).is_ok()
    }

    /// Copies a range. Returns where it ended: earlier than asked for at the end of the file.
    fn range(
        &self,
        from: &impl SourceFile,
        to: &impl TargetFile,
        (mut pos, end): (u64, u64),
        buffer: &mut [u8],
    ) -> Io<u64> {
        while pos < end {
            if self.report.interrupted() {
                return Err(Trouble::new(
                    Errno::INTR,
                    "interrupted: the copy is not complete",
                ));
            }
            let len = (end - pos).min(buffer.len() as u64) as usize;
            let n = from.read_at(pos, &mut buffer[..len])?;
            if n == 0 {
                break;
            }
            to.write_at(pos, &buffer[..n])?;
            pos += n as u64;
            self.report.counts.bytes.fetch_add(n as u64, Relaxed);
            self.report.advance(n as u64);
        }
        Ok(pos)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
