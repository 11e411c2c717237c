//! What can be chosen about a mount.
//!
//! Owns the options and what they become in the words of FUSE. Does not own their names on a
//! command line.

use crate::wire::{FopenFlags, InitFlags};

/// Whose cache holds the data of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CachePolicy {
    /// The file system's page cache is the only one: every read and write comes here, `O_DIRECT`
    /// goes around all caches, writes of several threads to one file run side by side. The kernel
    /// keeps pages only of what is memory mapped.
    #[default]
    User,
    /// The kernel caches in front of the file system's page cache and writes back when it likes.
    /// Small reads and writes cost no request; the bytes are in memory twice.
    Kernel,
}

impl CachePolicy {
    /// What a file is opened with.
    pub(crate) fn open_flags(self) -> FopenFlags {
        match self {
            Self::User => {
                FopenFlags::DIRECT_IO | FopenFlags::PARALLEL_DIRECT_WRITES | FopenFlags::NOFLUSH
            }
            Self::Kernel => FopenFlags::KEEP_CACHE,
        }
    }

    /// What is asked of the kernel, beside what every mount asks.
    fn capabilities(self) -> InitFlags {
        match self {
            Self::User => InitFlags::DIRECT_IO_ALLOW_MMAP | InitFlags::ASYNC_DIO,
            // Without `ASYNC_DIO`: a direct write that its caller does not wait for ends
            // without dropping the pages that somebody read while it was under way.
            Self::Kernel => {
                InitFlags::WRITEBACK_CACHE
                    | InitFlags::EXPLICIT_INVAL_DATA
                    | InitFlags::HANDLE_KILLPRIV_V2
            }
        }
    }
}

/// When reading sets the access time of what is read. A file or directory with the flag `A`
/// (`chattr +A`), or opened with `O_NOATIME`, keeps it in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AccessTimes {
    /// If the last change came after the last access, or that is a day old (`relatime`).
    #[default]
    Relative,
    /// With every read (`strictatime`).
    Strict,
    /// Never (`noatime`).
    Never,
}

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Whose cache holds the data of files.
    pub cache: CachePolicy,
    /// The source shown in the table of mounts, usually the path of the image.
    pub fs_name: Option<String>,
    /// The type shown there is `fuse.` and this; with no `subtype`, `fuse`.
    pub subtype: Option<String>,
    /// Nothing can be changed through the mount (`ro`).
    pub read_only: bool,
    /// Other users see the mount too (`allow_other`). An ordinary user needs `user_allow_other` in
    /// `/etc/fuse.conf` for it.
    pub allow_other: bool,
    /// The kernel checks permission bits and owners (`default_permissions`). Without it whoever
    /// sees the mount may do everything.
    pub default_permissions: bool,
    /// Device nodes work (`dev`).
    pub dev: bool,
    /// Set-id bits work (`suid`).
    pub suid: bool,
    /// Programs can be run (`exec`).
    pub exec: bool,
    /// Every change of a directory is durable when the call returns (`dirsync`).
    pub dirsync: bool,
    /// Every write is durable when the call returns (`sync`).
    pub sync: bool,
    /// When reading sets access times. With [`CachePolicy::Kernel`] opening a file for reading is a
    /// read.
    pub access_times: AccessTimes,
    /// Reading directories sets theirs too (`diratime`).
    pub dir_access_times: bool,
    /// POSIX access control lists are kept and enforced (`acl`), if the file system keeps the
    /// attributes they are. The kernel checks permissions then, as with
    /// [`default_permissions`](Self::default_permissions).
    pub acl: bool,
    /// `fusermount3` stays behind and unmounts if this process dies (`auto_unmount`). Needs
    /// `allow_other`.
    pub auto_unmount: bool,
    /// Requests come through rings of `io_uring`, if the kernel offers them (`io_uring`): since Linux
    /// 6.14, where root has set `/sys/module/fuse/parameters/enable_uring`; and if
    /// [`max_request`](Self::max_request) is more than 64 KiB, and half of the descriptors this process
    /// may have are enough. Otherwise they come by `/dev/fuse`.
    pub io_uring: bool,
    /// Threads that serve `/dev/fuse`, each with a descriptor of its own; at least one. There are fewer
    /// where no more can be had.
    pub threads: usize,
    /// Bytes of the largest read or write request, 4 KiB to 16 MiB; the kernel's own limit
    /// (`fs.fuse.max_pages_limit`, 1 MiB by default) applies too.
    pub max_request: u32,
}

impl Default for MountOptions {
    /// `cache=user`, read-write, permissions checked, for the mounting user only, no devices, no
    /// set-id bits.
    fn default() -> Self {
        Self {
            cache: CachePolicy::default(),
            fs_name: None,
            subtype: Some("iomapfs".to_owned()),
            read_only: false,
            allow_other: false,
            default_permissions: true,
            dev: false,
            suid: false,
            exec: true,
            dirsync: false,
            sync: false,
            access_times: AccessTimes::default(),
            dir_access_times: true,
            acl: false,
            auto_unmount: false,
            io_uring: true,
            threads: default_threads(),
            max_request: 1 << 20,
        }
    }
}

/// Enough that a few requests that wait for the device do not hold up the others.
fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get().clamp(4, 16))
}

impl MountOptions {
    /// What is asked of the kernel; what it does not know is left out.
    pub(crate) fn capabilities(&self) -> InitFlags {
        InitFlags::ASYNC_READ
            | InitFlags::ATOMIC_O_TRUNC
            | InitFlags::EXPORT_SUPPORT
            | InitFlags::BIG_WRITES
            | InitFlags::HAS_IOCTL_DIR
            | InitFlags::DO_READDIRPLUS
            | InitFlags::READDIRPLUS_AUTO
            | InitFlags::PARALLEL_DIROPS
            | InitFlags::CACHE_SYMLINKS
            | InitFlags::MAX_PAGES
            | InitFlags::INIT_EXT
            // An abort can be told from an unmount.
            | InitFlags::ABORT_ERROR
            | self.cache.capabilities()
    }
}
