//! The arguments of verbs that concern mounts.
//!
//! Owns their options and texts; what is behind `-o` is [`mount`](crate::mount).

use std::path::PathBuf;

use clap::Args;

use super::Json;

#[derive(Debug, Args)]
#[command(after_help = "\
Returns when the mount is live. `umount DIR` or `fusermount3 -u DIR` ends it; so do SIGINT and \
SIGTERM to the server, which write everything first. The image is locked as long as it is served: \
when it can be locked again, it is clean.

Options (-o): ro, dev, suid, noexec, sync, dirsync, noatime, strictatime, nodiratime, acl, \
allow_other, default_permissions (always on), auto_unmount, io_uring, noio_uring, fsname=NAME, \
subtype=NAME, type=TYPE, cache=user|kernel, cache_mb=N, dax[=always|inode|never], threads=N, \
max_request=SIZE, log=FILE. \
The other options of mount(8), user_xattr and x-* are accepted. Unknown ones are refused.

As /sbin/mount.iomapfs (a link to this program) it is what mount(8) calls; in /etc/fstab:
  /srv/disk.img  /mnt  iomapfs       noauto,user        0 0
  /srv/disk.img  /mnt  fuse.iomapfs  ro,allow_other     0 0

Exit codes, as mount(8): 0 mounted, 1 wrong usage, 2 the system failed, 32 not mounted.

Examples:
  iomapfs mount disk.img ~/mnt
  iomapfs mount disk.img /mnt -o ro,allow_other -f")]
pub(crate) struct MountArgs {
    /// The image
    pub(crate) image: PathBuf,
    /// An empty directory
    pub(crate) dir: PathBuf,
    /// A list of options, separated by commas
    #[arg(short = 'o', long = "options", value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    /// Stay in the foreground, and log to the standard error
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,
    /// Pass over unknown options
    #[arg(short = 's', long)]
    pub(crate) sloppy: bool,
    /// Be the server that was started in the background
    #[arg(long, hide = true)]
    pub(crate) daemon: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// The mount point
    pub(crate) dir: PathBuf,
    /// Tell what happens in each second, until interrupted
    #[arg(short = 'w', long)]
    pub(crate) watch: bool,
    /// Seconds between two lines of -w
    #[arg(short = 'i', long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: std::num::NonZeroU32,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The mount point
    pub(crate) dir: PathBuf,
}

fn seconds(text: &str) -> Result<std::num::NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is no number of seconds; write 1 or more"))
}
