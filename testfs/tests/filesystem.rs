//! The mounted file system, through its interface: what is written is there, also after a remount.

#![expect(clippy::unwrap_used, reason = "tests")]

mod fs {
    mod basic;
    mod concurrent;
    mod crash;
    mod dax;
    mod direct;
    mod faults;
    #[cfg(target_os = "linux")]
    mod mmap;
    mod model;
    mod names;
    mod nowait;
    mod reflink;
    mod resize;
    mod rules;
    mod space;
    mod util;
}
