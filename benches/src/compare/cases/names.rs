//! Names: creating files, looking them up, listing them.
//!
//! One operation is one name; a round works on a whole directory of them. Leaves out mounting, and
//! removing the files. The kernel's sides run on the temporary folder's file system.

use std::sync::atomic::{AtomicU64, Ordering};

use iomap_core::vfs::{Special, Vfs};

use super::{Case, MIB, text, timed};
use crate::compare::sample::Clock;
use crate::compare::{Effort, Group, Ops, Role, Side};
use crate::{Mounted, NEW};

pub(super) fn cases(effort: Effort) -> Vec<Case> {
    let mut cases = Vec::new();
    for &count in effort.vary.files {
        cases.push(Case::new(
            format!("names/create {count} files + sync"),
            move |id| {
                group(
                    id,
                    "create one of the files",
                    count,
                    move || create_testfs(count),
                    move || create_kernel(count),
                )
            },
        ));
        cases.push(Case::new(format!("names/list {count} files"), move |id| {
            group(
                id,
                "list one of the names, cached",
                count,
                move || list_testfs(count),
                move || list_kernel(count),
            )
        }));
    }
    cases
}

fn group<A, B>(
    id: String,
    operation: &str,
    count: u64,
    ours: impl FnOnce() -> Result<A, String> + 'static,
    kernel: impl FnOnce() -> Result<B, String> + 'static,
) -> Group
where
    A: FnMut(u64, &mut Clock) -> Result<(), String> + 'static,
    B: FnMut(u64, &mut Clock) -> Result<(), String> + 'static,
{
    Group {
        id,
        operation: operation.into(),
        excludes: "mounting, removing the files",
        bytes: 0,
        ops: Ops::Fixed(count),
        plot: None,
        sides: vec![
            Side::new("testfs", Role::Ours, ours),
            Side::new("kernel", Role::Kernel, kernel),
        ],
    }
}

fn name(n: u64) -> String {
    format!("file-{n:06}")
}

/// A number that no directory of this run had.
fn fresh() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn create_testfs(count: u64) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let mounted = Mounted::with_cache(64 * MIB);
    Ok(move |_: u64, clock: &mut Clock| {
        let fs = mounted.fs();
        let folder = format!("folder-{}", fresh());
        let folder = fs.mkdir(fs.root(), folder.as_bytes(), &NEW).map_err(text)?;
        timed(1, clock, || {
            for n in 0..count {
                fs.mknod(folder.ino, name(n).as_bytes(), Special::Regular, &NEW)
                    .map_err(text)?;
            }
            fs.sync().map_err(text)
        })?;
        for n in 0..count {
            fs.unlink(folder.ino, name(n).as_bytes()).map_err(text)?;
        }
        Ok(())
    })
}

fn create_kernel(count: u64) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    Ok(move |_: u64, clock: &mut Clock| {
        let folder = tempfile::tempdir().map_err(text)?;
        timed(1, clock, || {
            for n in 0..count {
                std::fs::File::create(folder.path().join(name(n))).map_err(text)?;
            }
            let top = std::fs::File::open(folder.path()).map_err(text)?;
            rustix::fs::syncfs(&top).map_err(text)
        })
    })
}

fn list_testfs(count: u64) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let mounted = Mounted::with_cache(64 * MIB);
    let fs = mounted.fs();
    let folder = fs.mkdir(fs.root(), b"folder", &NEW).map_err(text)?;
    for n in 0..count {
        fs.mknod(folder.ino, name(n).as_bytes(), Special::Regular, &NEW)
            .map_err(text)?;
    }
    Ok(move |_: u64, clock: &mut Clock| {
        timed(1, clock, || {
            let mut seen = 0;
            mounted.list(folder.ino, |_| seen += 1).map_err(text)?;
            if seen == count {
                Ok(())
            } else {
                Err(format!("{seen} of {count} names listed"))
            }
        })
    })
}

fn list_kernel(count: u64) -> Result<impl FnMut(u64, &mut Clock) -> Result<(), String>, String> {
    let folder = tempfile::tempdir().map_err(text)?;
    for n in 0..count {
        std::fs::File::create(folder.path().join(name(n))).map_err(text)?;
    }
    Ok(move |_: u64, clock: &mut Clock| {
        timed(1, clock, || {
            let seen = std::fs::read_dir(folder.path()).map_err(text)?.count();
            if seen as u64 == count {
                Ok(())
            } else {
                Err(format!("{seen} of {count} names listed"))
            }
        })
    })
}
