//! Bits that the kernel and a server tell each other.
//!
//! Only those that are asked for or looked at here; others keep their places.

use bitflags::bitflags;

bitflags! {
    /// What the two sides can do, told once at the beginning.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct InitFlags: u64 {
        /// Reads of one file side by side.
        const ASYNC_READ = 1 << 0;
        /// `O_TRUNC` comes with the open.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// `LOOKUP` of `.` works for any inode: file handles.
        const EXPORT_SUPPORT = 1 << 4;
        const BIG_WRITES = 1 << 5;
        /// The server applies the umask.
        const DONT_MASK = 1 << 6;
        const HAS_IOCTL_DIR = 1 << 11;
        const DO_READDIRPLUS = 1 << 13;
        const READDIRPLUS_AUTO = 1 << 14;
        const ASYNC_DIO = 1 << 15;
        const WRITEBACK_CACHE = 1 << 16;
        const PARALLEL_DIROPS = 1 << 18;
        const POSIX_ACL = 1 << 20;
        /// Reading after an abort gives `ECONNABORTED`.
        const ABORT_ERROR = 1 << 21;
        /// [`InitOut::max_pages`](super::InitOut::max_pages) counts.
        const MAX_PAGES = 1 << 22;
        const CACHE_SYMLINKS = 1 << 23;
        const EXPLICIT_INVAL_DATA = 1 << 25;
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// There are more than 32 flags.
        const INIT_EXT = 1 << 30;
        const DIRECT_IO_ALLOW_MMAP = 1 << 36;
        /// Requests may come through rings of `io_uring`.
        const OVER_IO_URING = 1 << 41;
    }

    /// What the kernel may do with an open file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct FopenFlags: u32 {
        const DIRECT_IO = 1 << 0;
        const KEEP_CACHE = 1 << 1;
        const NOFLUSH = 1 << 5;
        const PARALLEL_DIRECT_WRITES = 1 << 6;
    }

    /// What a `SETATTR` sets.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct SetAttrFlags: u32 {
        const MODE = 1 << 0;
        const UID = 1 << 1;
        const GID = 1 << 2;
        const SIZE = 1 << 3;
        const ATIME = 1 << 4;
        const MTIME = 1 << 5;
        const ATIME_NOW = 1 << 7;
        const MTIME_NOW = 1 << 8;
        const CTIME = 1 << 10;
    }

    /// How a `WRITE` came about.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct WriteFlags: u32 {
        /// The kernel writes back what it has cached.
        const CACHE = 1 << 0;
        /// Set-id bits are to be dropped.
        const KILL_SUIDGID = 1 << 2;
    }
}

impl InitFlags {
    /// From the two words of a request; the second counts if the first says so.
    pub(crate) const fn from_words(low: u32, high: u32) -> Self {
        let low = Self::from_bits_retain(low as u64);
        if low.contains(Self::INIT_EXT) {
            return Self::from_bits_retain(low.bits() | (high as u64) << 32);
        }
        low
    }

    /// The two words of an answer.
    pub(crate) const fn words(self) -> (u32, u32) {
        (self.bits() as u32, (self.bits() >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_word_counts_if_the_first_says_so() {
        let both = InitFlags::INIT_EXT | InitFlags::OVER_IO_URING;
        let (low, high) = both.words();
        assert_eq!(InitFlags::from_words(low, high), both);
        let without = InitFlags::from_words(InitFlags::ASYNC_READ.words().0, high);
        assert_eq!(without, InitFlags::ASYNC_READ);
    }
}
