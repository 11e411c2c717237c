//! The list behind `-o`: names as the kernel and mount(8) have them.
//!
//! Owns what each name means here. A pure function from texts to [`Wanted`]; unknown names are
//! refused, so that a typo is told and nothing is promised that does not hold.

use std::path::PathBuf;
use std::str::FromStr;

use iomap_fuse::{AccessTimes, CachePolicy, MountOptions};

use crate::backend::Dax;
use crate::size::Size;

/// What the options ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// How the mount is served.
    pub(crate) serving: MountOptions,
    /// The type of the file system, if it is said.
    pub(crate) fs_type: Option<String>,
    /// Bytes of the page cache, if they are said.
    pub(crate) cache_bytes: Option<u64>,
    /// Which files are DAX files.
    pub(crate) dax: Dax,
    /// Where the log goes when there is no terminal.
    pub(crate) log: Option<PathBuf>,
    /// Whether `auto_unmount` was asked for by name, and must work.
    auto_unmount: bool,
    /// Whether `io_uring` was asked for by name: then it is told if the kernel has none.
    pub(crate) io_uring: bool,
}

/// Names that mean something to mount(8), to systemd or to other file systems, and nothing here:
/// either it is so anyway, or it concerns who mounts when.
const ACCEPTED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "nouser",
    "rw",
    "loud",
    "silent",
    "loop",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "async",
    "user_xattr",
    "nonempty",
];

/// Prefixes of names that are for others.
const ACCEPTED_PREFIXES: &[&str] = &["x-", "X-", "comment=", "uhelper=", "helper=", "user="];

/// Names that are known and cannot be had, with the reason.
const REFUSED: &[(&str, &str)] = &[
    ("remount", "unmount it, and mount it again"),
    (
        "bind",
        "the file system is in an image; bind its mount point afterwards",
    ),
    ("move", "mount(8) does that by itself"),
    (
        "allow_root",
        "use allow_other: default_permissions keeps others out",
    ),
    ("nosymfollow", "the kernel does not offer it for FUSE"),
    ("nouser_xattr", "extended attributes cannot be turned off"),
];

impl Wanted {
    /// What a mount without options is.
    pub(crate) fn new() -> Self {
        Self {
            serving: MountOptions::default(),
            fs_type: None,
            cache_bytes: None,
            dax: Dax::Never,
            log: None,
            auto_unmount: false,
            io_uring: false,
        }
    }

    /// As mount(8) mounts for root: devices and set-id bits work unless they are turned off.
    pub(crate) fn of_root(mut self) -> Self {
        (self.serving.dev, self.serving.suid) = (true, true);
        self
    }

    /// Reads a list. With `sloppy` unknown names are passed over.
    pub(crate) fn read(&mut self, list: &str, sloppy: bool) -> Result<(), String> {
        for option in list.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            let known = self.one(option)?;
            if !known && !sloppy {
                return Err(unknown(option));
            }
        }
        Ok(())
    }

    /// What does not go together, when everything was read.
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        if self.auto_unmount && !self.serving.allow_other {
            return Err("auto_unmount needs allow_other; without it the mount point is cleaned up as well, by iomapfs itself".to_owned());
        }
        Ok(())
    }

    /// Reads one option. `false`: it is not known.
    fn one(&mut self, option: &str) -> Result<bool, String> {
        if let Some((_, why)) = REFUSED.iter().find(|(name, _)| *name == option) {
            return Err(format!("option {option} is not supported: {why}"));
        }
        if ACCEPTED_PREFIXES
            .iter()
            .any(|prefix| option.starts_with(prefix))
        {
            return Ok(true);
        }
        match option.split_once('=') {
            Some((name, value)) => self.valued(name, value),
            None => Ok(self.flag(option)),
        }
    }

    fn flag(&mut self, name: &str) -> bool {
        let serving = &mut self.serving;
        match name {
            "ro" => serving.read_only = true,
            "rw" => serving.read_only = false,
            "dev" => serving.dev = true,
            "nodev" => serving.dev = false,
            "suid" => serving.suid = true,
            "nosuid" => serving.suid = false,
            "exec" => serving.exec = true,
            "noexec" => serving.exec = false,
            "noatime" => serving.access_times = AccessTimes::Never,
            "strictatime" => serving.access_times = AccessTimes::Strict,
            // What the kernel does without any of them.
            "atime" | "relatime" | "norelatime" | "nostrictatime" => {
                serving.access_times = AccessTimes::Relative;
            }
            "diratime" => serving.dir_access_times = true,
            "nodiratime" => serving.dir_access_times = false,
            "acl" => serving.acl = true,
            "noacl" => serving.acl = false,
            "sync" => serving.sync = true,
            "async" => serving.sync = false,
            "dirsync" => serving.dirsync = true,
            "user" | "users" => {
                (serving.dev, serving.suid, serving.exec) = (false, false, false);
            }
            "owner" | "group" => (serving.dev, serving.suid) = (false, false),
            "dax" => self.dax = Dax::Always,
            "allow_other" => serving.allow_other = true,
            "default_permissions" => serving.default_permissions = true,
            "auto_unmount" => {
                (serving.auto_unmount, self.auto_unmount) = (true, true);
            }
            "io_uring" => (serving.io_uring, self.io_uring) = (true, true),
            "noio_uring" => (serving.io_uring, self.io_uring) = (false, false),
            other => return ACCEPTED.contains(&other),
        }
        true
    }

    fn valued(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            "fsname" => self.serving.fs_name = Some(value.to_owned()),
            "subtype" => self.serving.subtype = Some(value.to_owned()),
            "type" => self.fs_type = Some(value.to_owned()),
            "log" => self.log = Some(value.into()),
            "cache" => {
                self.serving.cache = match value {
                    "user" => CachePolicy::User,
                    "kernel" => CachePolicy::Kernel,
                    _ => return Err(format!("cache={value}: it is cache=user or cache=kernel")),
                }
            }
            "dax" => {
                self.dax = match value {
                    "always" => Dax::Always,
                    "inode" => Dax::Inode,
                    "never" => Dax::Never,
                    _ => {
                        return Err(format!(
                            "dax={value}: it is dax=always, dax=inode or dax=never"
                        ));
                    }
                }
            }
            "cache_mb" => {
                let mib: u64 = number(name, value)?;
                let bytes = mib.checked_mul(1 << 20).filter(|bytes| *bytes > 0);
                self.cache_bytes =
                    Some(bytes.ok_or_else(|| format!("cache_mb={value}: too much or nothing"))?);
            }
            "threads" => {
                self.serving.threads = number(name, value)?;
                if !(1..=1024).contains(&self.serving.threads) {
                    return Err(format!("threads={value}: 1 to 1024"));
                }
            }
            "max_request" => {
                let size: Size = value.parse().map_err(|why| format!("max_request: {why}"))?;
                let size = u32::try_from(size.bytes())
                    .ok()
                    .filter(|n| (4096..=16 << 20).contains(n));
                self.serving.max_request =
                    size.ok_or_else(|| format!("max_request={value}: 4K to 16M"))?;
            }
            // What libfuse has: the kernel's own limits are right.
            "max_read" | "blksize" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn number<N: FromStr>(name: &str, value: &str) -> Result<N, String> {
    value
        .parse()
        .map_err(|_| format!("{name}={value}: a number belongs there"))
}

/// Everything that has a meaning of its own here, for guesses and for the help.
pub(super) const NAMES: &[&str] = &[
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "acl",
    "noacl",
    "allow_other",
    "default_permissions",
    "auto_unmount",
    "io_uring",
    "noio_uring",
    "fsname",
    "subtype",
    "type",
    "log",
    "cache",
    "cache_mb",
    "dax",
    "threads",
    "max_request",
];

fn unknown(option: &str) -> String {
    let name = option.split('=').next().unwrap_or(option);
    let all = NAMES.iter().chain(ACCEPTED).copied();
    match crate::image::closest(name, all) {
        Some(similar) => format!("unknown option '{option}'; did you mean {similar} ?"),
        None => format!("unknown option '{option}'; `iomapfs mount --help` lists them"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(list: &str) -> Result<Wanted, String> {
        let mut wanted = Wanted::new();
        wanted.read(list, false)?;
        wanted.finish()?;
        Ok(wanted)
    }

    #[test]
    fn names_of_the_kernel_mean_what_they_mean_there() {
        let wanted =
            read("ro,dev,suid,noexec,allow_other,fsname=/a.img,cache=kernel,cache_mb=32").unwrap();
        let serving = &wanted.serving;
        assert!(serving.read_only && serving.dev && serving.suid && !serving.exec);
        assert!(serving.allow_other && serving.default_permissions);
        assert_eq!(serving.fs_name.as_deref(), Some("/a.img"));
        assert_eq!(
            (serving.cache, wanted.cache_bytes),
            (CachePolicy::Kernel, Some(32 << 20))
        );
    }

    #[test]
    fn dax_is_named_as_the_kernel_names_it() {
        for (list, dax) in [
            ("ro", Dax::Never),
            ("dax", Dax::Always),
            ("dax=always", Dax::Always),
            ("dax=inode", Dax::Inode),
            ("dax,dax=never", Dax::Never),
        ] {
            assert_eq!(read(list).unwrap().dax, dax, "{list}");
        }
    }

    #[test]
    fn the_last_one_of_a_pair_counts_and_user_implies() {
        assert!(!read("ro,rw").unwrap().serving.read_only);
        let user = read("dev,suid,user").unwrap().serving;
        assert!(!user.dev && !user.suid && !user.exec);
        assert!(read("user,exec").unwrap().serving.exec);
    }

    #[test]
    fn access_times_and_lists_are_as_the_last_word_says() {
        let times = |list| read(list).unwrap().serving.access_times;
        assert_eq!(times(""), AccessTimes::Relative);
        assert_eq!(times("noatime"), AccessTimes::Never);
        assert_eq!(times("noatime,strictatime"), AccessTimes::Strict);
        assert_eq!(times("strictatime,relatime"), AccessTimes::Relative);
        assert!(!read("nodiratime").unwrap().serving.dir_access_times);
        assert!(read("acl").unwrap().serving.acl);
        assert!(!read("acl,noacl").unwrap().serving.acl);
    }

    #[test]
    fn rings_are_used_where_they_are_and_missed_where_they_are_asked_for() {
        let rings = |list| {
            let wanted = read(list).unwrap();
            (wanted.serving.io_uring, wanted.io_uring)
        };
        assert_eq!(rings(""), (true, false));
        assert_eq!(rings("noio_uring,io_uring"), (true, true));
        assert_eq!(rings("io_uring,noio_uring"), (false, false));
    }

    #[test]
    fn what_others_write_into_fstab_is_accepted() {
        let list = "defaults,noauto,nofail,_netdev,x-systemd.automount,relatime,lazytime,user_xattr,user=me,,comment=x";
        assert_eq!(read(list).unwrap(), Wanted::new());
    }

    #[test]
    fn unknown_and_impossible_ones_are_refused_with_words() {
        for (list, words) in [
            ("allow_othr", "allow_other"),
            ("data=journal", "unknown option 'data=journal'"),
            ("remount,ro", "mount it again"),
            ("cache=both", "cache=user or cache=kernel"),
            ("cache_mb=lots", "a number"),
            ("cache_mb=0", "nothing"),
            ("threads=0", "1 to 1024"),
            ("dax=yes", "dax=always, dax=inode or dax=never"),
            ("max_request=1G", "4K to 16M"),
            ("auto_unmount", "allow_other"),
            ("ro=1", "unknown option"),
        ] {
            let said = read(list).unwrap_err();
            assert!(said.contains(words), "{list}: {said}");
        }
        let mut wanted = Wanted::new();
        assert_eq!(wanted.read("data=journal,ro", true), Ok(()), "sloppy");
        assert!(wanted.serving.read_only);
    }
}
