//! Access times: when reading sets them.
//!
//! Owns the rule, which is that of the kernel's own file systems. The kernel leaves access times of a
//! FUSE mount to its server, and asks for them again after a read. Nobody who reads waits for a
//! device or is told of an error because of them.

use iomap_core::vfs::{Attr, Ino, InodeFlags, Timestamp};

use super::Shared;
use crate::options::{AccessTimes, CachePolicy};

/// Seconds after which an access time is set again though nothing changed.
const DAY: i64 = 24 * 60 * 60;

/// Whether a read through a file opened with `flags` may set the access time. What a file opened for
/// writing only is read for is the kernel's cache, not its user.
pub(super) const fn sets_access_time(flags: i32) -> bool {
    flags & libc::O_NOATIME == 0 && flags & libc::O_ACCMODE != libc::O_WRONLY
}

/// Whether a program opened a file with `flags`. The kernel itself opens files to ask for their flags,
/// without `O_LARGEFILE`, which it adds to what programs of 64 bits say.
const fn is_of_a_program(flags: i32) -> bool {
    flags != libc::O_RDONLY
}

/// Whether the access time is to be set by a read at `now`.
fn is_due(rule: AccessTimes, attr: &Attr, now: Timestamp) -> bool {
    let at = |time: Timestamp| (time.secs, time.nanos);
    match rule {
        AccessTimes::Never => false,
        AccessTimes::Strict => at(attr.atime) != at(now),
        AccessTimes::Relative => {
            at(attr.mtime) >= at(attr.atime)
                || at(attr.ctime) >= at(attr.atime)
                || now.secs.saturating_sub(attr.atime.secs) >= DAY
        }
    }
}

impl Shared {
    /// `dir` was read.
    pub(super) fn dir_accessed(&self, dir: Ino) {
        if self.dir_access_times {
            self.accessed(dir);
        }
    }

    /// `ino` was opened. Where the kernel caches files nobody hears of most reads, so opening one for
    /// reading counts as a read there.
    pub(super) fn opened(&self, ino: Ino, flags: i32) {
        let counts = self.cache == CachePolicy::Kernel && is_of_a_program(flags);
        if counts && sets_access_time(flags) && self.accessed(ino) {
            // It does not ask again after an open.
            self.attributes_changed(ino);
        }
    }

    /// `ino` was read. Returns whether its access time changed.
    pub(super) fn accessed(&self, ino: Ino) -> bool {
        if self.access_times == AccessTimes::Never {
            return false;
        }
        let now = Timestamp::now();
        let due = self
            .fs()
            .getattr(ino)
            .is_ok_and(|attr| is_due(self.access_times, &attr, now));
        if !due || self.keeps_access_time(ino) {
            return false;
        }
        let noted = self.fs().note_access(ino, now);
        if let Err(error) = &noted {
            tracing::debug!(target: "iomap_fuse", ino = ino.0, %error, "the access time stays");
        }
        noted.is_ok()
    }

    /// Whether the inode has the flag that says so.
    fn keeps_access_time(&self, ino: Ino) -> bool {
        let flags = self.fs().flags(ino);
        flags.is_ok_and(|flags| flags.contains(InodeFlags::NOATIME))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use iomap_core::vfs::{NewInode, Vfs};
    use testfs::model::MemFs;

    use super::*;

    fn time(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 5 }
    }

    fn attr(atime: i64, mtime: i64, ctime: i64) -> Attr {
        let fs = MemFs::new();
        let new = NewInode {
            mode: 0o755,
            uid: 0,
            gid: 0,
        };
        let made = fs.mkdir(fs.root(), b"d", &new).unwrap();
        Attr {
            atime: time(atime),
            mtime: time(mtime),
            ctime: time(ctime),
            ..made
        }
    }

    #[test]
    fn a_relative_access_time_is_due_after_a_change_and_after_a_day() {
        let due = |attr: Attr, now| is_due(AccessTimes::Relative, &attr, time(now));
        assert!(due(attr(10, 10, 9), 11), "changed at the same moment");
        assert!(due(attr(10, 9, 11), 12), "attributes changed later");
        assert!(!due(attr(10, 9, 9), 10 + DAY - 1));
        assert!(due(attr(10, 9, 9), 10 + DAY));
    }

    #[test]
    fn a_strict_one_always_is_and_otherwise_never() {
        let read = attr(10, 9, 9);
        assert!(is_due(AccessTimes::Strict, &read, time(11)));
        assert!(!is_due(AccessTimes::Strict, &read, time(10)));
        assert!(!is_due(AccessTimes::Never, &attr(1, 2, 2), time(10 * DAY)));
    }

    #[test]
    fn writers_and_those_who_ask_for_it_leave_it_alone() {
        assert!(sets_access_time(libc::O_RDONLY) && sets_access_time(libc::O_RDWR));
        assert!(!sets_access_time(libc::O_WRONLY));
        assert!(!sets_access_time(libc::O_RDONLY | libc::O_NOATIME));
    }
}
