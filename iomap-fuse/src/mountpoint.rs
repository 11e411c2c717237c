//! The mount point: how this process gets a connection there, and how the mount is taken away.
//!
//! Owns mount(2), and `fusermount3` in its place where the user may not. Does not own what goes
//! over the connection ([`mount`](crate::mount())).
//!
//! A mount point is never unmounted on a guess: by the time a server has ended, another mount may
//! stand there. What is unmounted unasked is only a mount without a server ([`remove_dead`]).

use std::ffi::CString;
use std::io::{self, Error};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::mount::MountError;
use crate::options::{AccessTimes, MountOptions};

/// The device every connection begins at.
const DEVICE: &str = "/dev/fuse";

/// How long the kernel may take to part with a server that is dead.
const PARTING: Duration = Duration::from_secs(10);

/// The program that mounts and unmounts for ordinary users.
const FUSERMOUNT: &str = "fusermount3";

/// A connection to the kernel, of which nothing was read yet.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The descriptor requests are read from.
    pub(crate) device: OwnedFd,
    /// With `auto_unmount`: who cleans up if this process dies.
    pub(crate) keeper: Option<Keeper>,
}

/// A `fusermount3` that stays until this is dropped, or this process dies.
#[derive(Debug)]
pub(crate) struct Keeper {
    socket: Option<UnixStream>,
    process: Child,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.socket.take());
        // It takes a dead mount away and ends. Nothing depends on how.
        let _ = self.process.wait();
    }
}

/// Mounts on `dir`, an absolute path of a directory.
///
/// # Errors
///
/// [`MountError::NoFuse`] if the device cannot be opened, [`MountError::Refused`] with the kernel's
/// error or the words of `fusermount3`, or `NotFound` if that is needed and missing.
pub(crate) fn attach(dir: &Path, options: &MountOptions) -> Result<Connection, MountError> {
    let device: OwnedFd = std::fs::File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(MountError::NoFuse)?
        .into();
    let refused = |error| MountError::Refused {
        dir: dir.to_path_buf(),
        error,
    };
    // Only `fusermount3` can stay behind.
    if !options.auto_unmount {
        match attach_directly(&device, dir, options) {
            Ok(()) => {
                return Ok(Connection {
                    device,
                    keeper: None,
                });
            }
            Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    drop(device);
    attach_by_fusermount(dir, options).map_err(refused)
}

/// By mount(2).
fn attach_directly(device: &OwnedFd, dir: &Path, options: &MountOptions) -> io::Result<()> {
    let mode = std::fs::metadata(dir)?.mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    for name in kernel_options(options) {
        data.push(',');
        data.push_str(name);
    }
    let kind = options
        .subtype
        .as_ref()
        .map_or_else(|| "fuse".to_owned(), |subtype| format!("fuse.{subtype}"));
    let data = CString::new(data)?;
    rustix::mount::mount(source(options), dir, kind, flags(options), data.as_c_str())?;
    Ok(())
}

/// The flags of mount(2).
fn flags(options: &MountOptions) -> MountFlags {
    [
        (options.read_only, MountFlags::RDONLY),
        (!options.dev, MountFlags::NODEV),
        (!options.suid, MountFlags::NOSUID),
        (!options.exec, MountFlags::NOEXEC),
        (options.dirsync, MountFlags::DIRSYNC),
        (options.sync, MountFlags::SYNCHRONOUS),
        (
            options.access_times == AccessTimes::Never,
            MountFlags::NOATIME,
        ),
        (
            options.access_times == AccessTimes::Strict,
            MountFlags::STRICTATIME,
        ),
        (!options.dir_access_times, MountFlags::NODIRATIME),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

/// The options FUSE itself has in the kernel.
fn kernel_options(options: &MountOptions) -> impl Iterator<Item = &'static str> {
    [
        (options.default_permissions, "default_permissions"),
        (options.allow_other, "allow_other"),
    ]
    .into_iter()
    .filter_map(|(wanted, name)| wanted.then_some(name))
}

/// What the table of mounts shows as the source.
fn source(options: &MountOptions) -> &str {
    let name = options.fs_name.as_deref();
    name.or(options.subtype.as_deref()).unwrap_or("fuse")
}

/// The list `fusermount3` takes after `-o`.
fn fusermount_options(options: &MountOptions) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace(',', "\\,");
    let mut list = vec![format!("fsname={}", escaped(source(options)))];
    list.extend(options.subtype.as_deref().map(|s| format!("subtype={s}")));
    let words = [
        (options.read_only, "ro"),
        (options.dev, "dev"),
        (options.suid, "suid"),
        (!options.exec, "noexec"),
        (options.dirsync, "dirsync"),
        (options.sync, "sync"),
        (options.access_times == AccessTimes::Never, "noatime"),
        (options.auto_unmount, "auto_unmount"),
    ];
    let words = words.into_iter().filter(|w| w.0).map(|w| w.1);
    list.extend(words.chain(kernel_options(options)).map(str::to_owned));
    list.join(",")
}

/// By `fusermount3`, which sends the descriptor back over a socket: its standard input.
fn attach_by_fusermount(dir: &Path, options: &MountOptions) -> io::Result<Connection> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut process = Command::new(FUSERMOUNT)
        .arg("-o")
        .arg(fusermount_options(options))
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let Some(device) = receive_descriptor(&ours)? else {
        drop(ours);
        let said = process.wait_with_output()?.stderr;
        return Err(Error::other(
            String::from_utf8_lossy(&said).trim().to_owned(),
        ));
    };
    if options.auto_unmount {
        let keeper = Keeper {
            socket: Some(ours),
            process,
        };
        return Ok(Connection {
            device,
            keeper: Some(keeper),
        });
    }
    let _ = process.wait();
    Ok(Connection {
        device,
        keeper: None,
    })
}

/// `None`: the other side closed without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0_u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [io::IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(rights.next())
}

/// Takes the mount on `dir` away, `lazily` also while somebody uses it. That there is none any more
/// is no error.
pub(crate) fn detach(dir: &Path, lazily: bool) -> Result<(), MountError> {
    let flags = if lazily {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match rustix::mount::unmount(dir, flags) {
        // Somebody else was first.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy {
            dir: dir.to_path_buf(),
        }),
        Err(Errno::PERM) => detach_by_fusermount(dir, lazily),
        Err(error) => Err(not_unmounted(dir, error.into())),
    }
}

/// An ordinary user unmounts by the program that mounted for him.
fn detach_by_fusermount(dir: &Path, lazily: bool) -> Result<(), MountError> {
    let output = Command::new(FUSERMOUNT)
        .arg("-u")
        .args(lazily.then_some("-z"))
        .arg("--")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_unmounted(dir, error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.to_ascii_lowercase().contains("busy") {
        return Err(MountError::Busy {
            dir: dir.to_path_buf(),
        });
    }
    Err(not_unmounted(dir, Error::other(said.trim().to_owned())))
}

fn not_unmounted(dir: &Path, error: Error) -> MountError {
    MountError::Unmount {
        dir: dir.to_path_buf(),
        error,
    }
}

/// Takes the mount on `dir` away if its server is gone, also while somebody uses it: they get errors
/// anyway. Does nothing where a server lives, or nothing is mounted.
///
/// # Errors
///
/// [`MountError::Unmount`].
pub fn remove_dead(dir: &Path) -> Result<(), MountError> {
    let start = Instant::now();
    loop {
        match rustix::fs::statfs(dir) {
            Err(Errno::NOTCONN | Errno::CONNABORTED) => return detach(dir, true),
            // A thread that served a ring is dead, and the connection soon will be, unless it was the
            // only one.
            Err(Errno::CANCELED) if start.elapsed() < PARTING => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return Ok(()),
        }
    }
}
