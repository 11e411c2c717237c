//! The same system calls on mounts: served by `iomapfs` with either cache policy and through rings, by
//! `fuse2fs`, and by the kernel's ext4 on a loop device.
//!
//! The time is the caller's wall time, and what it waits for. Leaves out mounting, making the files,
//! and removing them. `fuse2fs` answers direct reads and writes from the host's page cache, and the
//! other sides from the device: those two rows are not the same work.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Case, GIB, MIB, forget, len, text, timed};
use crate::compare::fuse::{Mount, Server};
use crate::compare::host::open_direct;
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Buffer, PAGE, Positions};

const IMAGE: u64 = GIB;
const FILE: u64 = 64 * MIB;

/// The sides of every group.
const SIDES: [(&str, Role, Server); 5] = [
    ("iomapfs", Role::Ours, Server::CacheUser),
    ("iomapfs, cache=kernel", Role::Ours, Server::CacheKernel),
    ("iomapfs, rings", Role::Ours, Server::Rings),
    ("fuse2fs", Role::Rival, Server::Fuse2fs),
    ("kernel ext4", Role::Kernel, Server::KernelExt4),
];

/// What is done with the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let names = if effort.wide { 10_000 } else { 1000 };
    let page = |way, direct| move |id| pages(id, way, direct);
    vec![
        Case::new("mount/write 1 MiB in order + fsync", |id| {
            stream(id, Way::Write)
        }),
        Case::new("mount/read 1 MiB in order", |id| stream(id, Way::Read)),
        Case::new("mount/write 4 KiB", page(Way::Write, false)),
        Case::new("mount/read 4 KiB", page(Way::Read, false)),
        Case::new("mount/write 4 KiB, direct", page(Way::Write, true)),
        Case::new("mount/read 4 KiB, direct", page(Way::Read, true)),
        Case::new("mount/create files", move |id| create(id, names)),
        Case::new("mount/list files", move |id| list(id, names)),
    ]
}

type Work = Box<dyn FnMut(u64, &mut Clock) -> Result<(), String>>;

fn group(
    id: String,
    operation: String,
    (bytes, ops): (u64, Ops),
    make: impl Fn(Server) -> Result<Work, String> + Clone + 'static,
) -> Group {
    let side = |(name, role, server)| {
        let make = make.clone();
        Side::new(name, role, move || make(server))
    };
    Group {
        id,
        operation,
        excludes: "mounting, making and removing the files; processor time of a server",
        bytes,
        ops,
        plot: None,
        sides: SIDES.into_iter().map(side).collect(),
    }
}

/// A mount with one file of noise that is durable. Fields in the order they are dropped.
struct Filled {
    file: File,
    path: PathBuf,
    _mount: Mount,
}

impl Filled {
    fn new(server: Server) -> Result<Self, String> {
        let mount = Mount::new(server, IMAGE)?;
        let path = mount.path().join("file");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(text)?;
        crate::fill(&file, FILE).map_err(text)?;
        file.sync_all().map_err(text)?;
        Ok(Self {
            file,
            path,
            _mount: mount,
        })
    }
}

fn stream(id: String, way: Way) -> Group {
    let operation = match way {
        Way::Write => "write 64 MiB in calls of 1 MiB over an existing file, then fdatasync",
        Way::Read => {
            "read 64 MiB in calls of 1 MiB, nothing of it in the kernel's cache of the mount"
        }
    };
    group(id, operation.into(), (FILE, Ops::Fixed(1)), move |server| {
        let filled = Filled::new(server)?;
        let mut buf = Buffer::noise(len(MIB), 0);
        Ok(Box::new(move |count, clock: &mut Clock| {
            // All of it, so that it is dropped in its order.
            let filled = &filled;
            for _ in 0..count {
                if way == Way::Read {
                    forget(&filled.path)?;
                }
                timed(1, clock, || {
                    for at in (0..FILE).step_by(buf.len()) {
                        match way {
                            Way::Read => filled.file.read_exact_at(&mut buf, at),
                            Way::Write => filled.file.write_all_at(&buf, at),
                        }
                        .map_err(text)?;
                    }
                    match way {
                        Way::Read => Ok(()),
                        Way::Write => filled.file.sync_data().map_err(text),
                    }
                })?;
            }
            Ok(())
        }))
    })
}

fn pages(id: String, way: Way, direct: bool) -> Group {
    let verb = match way {
        Way::Read => "read",
        Way::Write => "overwrite",
    };
    let past = if direct { ", O_DIRECT" } else { "" };
    let operation = format!("{verb} one random page of 64 MiB{past}");
    group(id, operation, (PAGE, Ops::Fit), move |server| {
        let filled = Filled::new(server)?;
        // Dropped in this order.
        let held = (
            direct.then(|| open_direct(&filled.path)).transpose()?,
            filled,
        );
        let mut buf = Buffer::noise(len(PAGE), 0);
        let mut positions = Positions::new(FILE, PAGE);
        Ok(Box::new(move |count, clock: &mut Clock| {
            let (other, filled) = &held;
            let file = other.as_ref().unwrap_or(&filled.file);
            timed(count, clock, || {
                let at = positions.draw();
                match way {
                    Way::Read => file.read_exact_at(&mut buf, at),
                    Way::Write => file.write_all_at(&buf, at),
                }
                .map_err(text)
            })
        }))
    })
}

/// A folder that no round of this run had.
fn fresh(mount: &Mount) -> Result<PathBuf, String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("folder-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let path = mount.path().join(name);
    std::fs::create_dir(&path).map_err(text)?;
    Ok(path)
}

fn make_files(folder: &std::path::Path, count: u64) -> Result<(), String> {
    (0..count).try_for_each(|n| {
        let made = File::create_new(folder.join(format!("file-{n:06}")));
        made.map(drop).map_err(text)
    })
}

fn create(id: String, count: u64) -> Group {
    let operation = format!("create one of {count} empty files of a folder, and close it");
    group(id, operation, (0, Ops::Fixed(count)), move |server| {
        let mount = Mount::new(server, IMAGE)?;
        Ok(Box::new(move |count, clock: &mut Clock| {
            let folder = fresh(&mount)?;
            timed(1, clock, || make_files(&folder, count))?;
            std::fs::remove_dir_all(&folder).map_err(text)
        }))
    })
}

fn list(id: String, count: u64) -> Group {
    let operation = format!("list one of {count} names, with its attributes");
    group(id, operation, (0, Ops::Fixed(count)), move |server| {
        let mount = Mount::new(server, IMAGE)?;
        let folder = fresh(&mount)?;
        make_files(&folder, count)?;
        Ok(Box::new(move |count, clock: &mut Clock| {
            let _mount = &mount;
            timed(1, clock, || {
                let mut seen = 0;
                for entry in std::fs::read_dir(&folder).map_err(text)? {
                    entry.and_then(|e| e.metadata()).map_err(text)?;
                    seen += 1;
                }
                if seen == count {
                    Ok(())
                } else {
                    Err(format!("{seen} of {count} names listed"))
                }
            })
        }))
    })
}
