//! The flags of open files and of single reads and writes. What they do is told at the traits of
//! [`vfs`](super).

bitflags::bitflags! {
    /// How a file is opened.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OpenFlags: u16 {
        /// For reading.
        const READ = 1 << 0;
        /// For writing.
        const WRITE = 1 << 1;
        /// Every write goes to the end (`O_APPEND`).
        const APPEND = 1 << 2;
        /// Around the page cache where possible (`O_DIRECT`).
        const DIRECT = 1 << 3;
        /// Every write is durable with all metadata (`O_SYNC`).
        const SYNC = 1 << 4;
        /// Every write is durable with the metadata needed to find it (`O_DSYNC`).
        const DSYNC = 1 << 5;
        /// Cut the file to nothing first (`O_TRUNC`).
        const TRUNCATE = 1 << 6;
    }
}

bitflags::bitflags! {
    /// What is true of an inode beside its attributes: the `FS_*_FL` of `FS_IOC_GETFLAGS`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct InodeFlags: u32 {
        /// Every write is durable (`S`).
        const SYNC = 0x8;
        /// Cannot be changed (`i`).
        const IMMUTABLE = 0x10;
        /// Can only grow at its end (`a`).
        const APPEND = 0x20;
        /// Backups leave it out (`d`).
        const NODUMP = 0x40;
        /// Reading leaves the access time alone (`A`).
        const NOATIME = 0x80;
        /// Every change of the directory is durable (`D`).
        const DIRSYNC = 0x1_0000;
        /// Its pages are the device's bytes (`x`).
        const DAX = 0x200_0000;
        // Others are kept and shown.
        const _ = !0;
    }
}

bitflags::bitflags! {
    /// How one read or write is done, beside how the file was opened.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct IoFlags: u16 {
        /// Fail with `EAGAIN` instead of waiting (`RWF_NOWAIT`).
        const NOWAIT = 1 << 0;
        /// Around the page cache (`O_DIRECT` of this call).
        const DIRECT = 1 << 1;
        /// Durable with the metadata needed to find it (`RWF_DSYNC`).
        const DSYNC = 1 << 2;
        /// Durable with all metadata (`RWF_SYNC`).
        const SYNC = 1 << 3;
        /// At the end of the file (`RWF_APPEND`).
        const APPEND = 1 << 4;
        /// Keep nothing new in the page cache (`RWF_DONTCACHE`).
        const DONTCACHE = 1 << 5;
        /// All or nothing, also across a power cut (`RWF_ATOMIC`).
        const ATOMIC = 1 << 6;
    }
}
