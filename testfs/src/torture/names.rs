//! Operations on names and attributes, done to the file system under test and to the reference, and
//! compared.

use iomap_core::error::{Errno, FsError, Result as FsResult};
use iomap_core::vfs::{Attr, FileType, Ino, RenameMode, SetAttr, Special, Timestamp, Vfs};

use super::op::{NameOp, Place};
use super::place::Spot;
use super::world::{Fail, NEW, World};
use super::xattrs::{self, value};

/// Does one operation; `salt` varies values.
///
/// # Errors
///
/// The two file systems disagree.
pub fn apply(world: &World, vfs: &dyn Vfs, op: &NameOp, salt: u64) -> Result<(), Fail> {
    match *op {
        NameOp::Link { from, to } => two(world, vfs, from, to, |a, b| link(world, vfs, a, b)),
        NameOp::Rename { from, to, mode } => {
            two(world, vfs, from, to, |a, b| rename(world, vfs, a, b, mode))
        }
        NameOp::Unlink { at, .. }
        | NameOp::Mkdir { at }
        | NameOp::Rmdir { at }
        | NameOp::Symlink { at, .. }
        | NameOp::Fifo { at } => one(world, vfs, at, |spot| change(world, vfs, op, spot, salt)),
        NameOp::Readdir { at, .. }
        | NameOp::Readlink { at }
        | NameOp::SetXattr { at, .. }
        | NameOp::GetXattr { at, .. }
        | NameOp::ListXattr { at }
        | NameOp::RemoveXattr { at, .. }
        | NameOp::SetAttr { at, .. }
        | NameOp::GetAttr { at }
        | NameOp::Fsync { at } => one(world, vfs, at, |spot| {
            let Some((real, model)) = world.look(vfs, spot)? else {
                return Ok(());
            };
            inode(world, vfs, op, (&real, &model), salt)?;
            world.look(vfs, spot).map(|_| ())
        }),
    }
}

fn one(
    world: &World,
    vfs: &dyn Vfs,
    at: Place,
    body: impl FnOnce(&Spot) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let _locks = world.lock_shards(at, at);
    world.spot(vfs, at)?.map_or(Ok(()), |spot| body(&spot))
}

fn two(
    world: &World,
    vfs: &dyn Vfs,
    a: Place,
    b: Place,
    body: impl FnOnce(&Spot, &Spot) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let _locks = world.lock_shards(a, b);
    match (world.spot(vfs, a)?, world.spot(vfs, b)?) {
        (Some(a), Some(b)) => body(&a, &b),
        _ => Ok(()),
    }
}

/// Does the operation to the reference if it was done, and compares.
///
/// An operation the device made fail is not done to the reference.
pub(super) fn both<T>(
    world: &World,
    what: &dyn std::fmt::Debug,
    real: FsResult<T>,
    model: impl FnOnce() -> FsResult<T>,
) -> Result<Option<(T, T)>, Fail> {
    let real = match real {
        Err(error) if world.tolerates(&error) => return Ok(None),
        real => real,
    };
    match (real, model()) {
        (Ok(real), Ok(model)) => Ok(Some((real, model))),
        (Err(real), Err(model)) if real.errno() == model.errno() => Ok(None),
        // Of several reasons to refuse, any may be told.
        (Err(_), Err(model)) if matches!(model.errno(), Errno::EXIST | Errno::NOTEMPTY) => Ok(None),
        (real, model) => {
            let say = |r: Result<T, FsError>| {
                r.map_or_else(|e| e.errno().to_string(), |_| "success".into())
            };
            Err(Fail::new(format!(
                "{what:?}: {}, expected {}",
                say(real),
                say(model)
            )))
        }
    }
}

fn link(world: &World, vfs: &dyn Vfs, from: &Spot, to: &Spot) -> Result<(), Fail> {
    let Some((real, model)) = world.look(vfs, from)? else {
        return Ok(());
    };
    let linked = vfs.link(real.ino, to.real, &to.name);
    let reference = || world.model.link(model.ino, to.model, &to.name);
    both(world, &("link", from, to), linked, reference)?;
    world.look(vfs, to).map(|_| ())
}

fn rename(world: &World, vfs: &dyn Vfs, a: &Spot, b: &Spot, mode: RenameMode) -> Result<(), Fail> {
    let target = world.model.lookup(b.model, &b.name).ok();
    let real = vfs.rename(a.real, &a.name, b.real, &b.name, mode);
    let reference = || world.model.rename(a.model, &a.name, b.model, &b.name, mode);
    if both(world, &("rename", a, b, mode), real, reference)?.is_none() {
        return Ok(());
    }
    if let Some(target) = target {
        world.dropped(target.ino, false);
    }
    world.look(vfs, a)?;
    world.look(vfs, b)?;
    Ok(())
}

/// Operations that make or remove one name.
fn change(world: &World, vfs: &dyn Vfs, op: &NameOp, at: &Spot, salt: u64) -> Result<(), Fail> {
    let (model, name) = (&world.model, &at.name[..]);
    match *op {
        NameOp::Unlink { keep_open, .. } => {
            let target = model.lookup(at.model, name).ok();
            let real = vfs.unlink(at.real, name);
            let done = both(world, &("unlink", at), real, || {
                model.unlink(at.model, name)
            })?;
            if let (Some(_), Some(target)) = (done, target) {
                world.dropped(target.ino, keep_open);
            }
        }
        NameOp::Mkdir { .. } => {
            let real = vfs.mkdir(at.real, name, &NEW);
            both(world, &("mkdir", at), real, || {
                model.mkdir(at.model, name, &NEW)
            })?;
        }
        NameOp::Rmdir { .. } => {
            let real = vfs.rmdir(at.real, name);
            both(world, &("rmdir", at), real, || model.rmdir(at.model, name))?;
        }
        NameOp::Symlink { len, .. } => {
            let target = value(len, salt);
            let real = vfs.symlink(at.real, name, &target, &NEW);
            both(world, &("symlink", at), real, || {
                model.symlink(at.model, name, &target, &NEW)
            })?;
        }
        _ => {
            let real = vfs.mknod(at.real, name, Special::Fifo, &NEW);
            both(world, &("mkfifo", at), real, || {
                model.mknod(at.model, name, Special::Fifo, &NEW)
            })?;
        }
    }
    world.look(vfs, at).map(|_| ())
}

/// Operations on the inode a name leads to.
fn inode(
    world: &World,
    vfs: &dyn Vfs,
    op: &NameOp,
    (real, model): (&Attr, &Attr),
    salt: u64,
) -> Result<(), Fail> {
    let reference = &world.model;
    let (r, m) = (real.ino, model.ino);
    match *op {
        NameOp::Readdir { batch, .. } => readdir(world, vfs, (r, m), usize::from(batch)),
        NameOp::Readlink { .. } => {
            let got = both(world, op, vfs.readlink(r), || reference.readlink(m))?;
            equal(op, got.is_none_or(|(a, b)| a == b), "target")
        }
        NameOp::SetXattr { .. }
        | NameOp::GetXattr { .. }
        | NameOp::ListXattr { .. }
        | NameOp::RemoveXattr { .. } => xattrs::apply(world, vfs, op, (r, m), salt),
        NameOp::SetAttr { .. } => set_attr(world, vfs, op, (r, m)),
        NameOp::Fsync { .. } => fsync(world, vfs, (r, m), salt.is_multiple_of(2)),
        _ => both(world, op, vfs.getattr(r), || reference.getattr(m)).map(|_| ()),
    }
}

/// A failure unless `ok`.
pub(super) fn equal(op: &NameOp, ok: bool, what: &str) -> Result<(), Fail> {
    if ok {
        Ok(())
    } else {
        Err(Fail::new(format!("{op:?}: {what} differs")))
    }
}

/// Sets attributes.
fn set_attr(
    world: &World,
    vfs: &dyn Vfs,
    op: &NameOp,
    (real, model): (Ino, Ino),
) -> Result<(), Fail> {
    let NameOp::SetAttr {
        mode, owner, mtime, ..
    } = *op
    else {
        return Ok(());
    };
    let set = SetAttr {
        mode,
        uid: owner,
        gid: owner.map(|o| o / 2),
        mtime: mtime.map(|secs| Timestamp { secs, nanos: 7 }),
        ..SetAttr::default()
    };
    let reference = || world.model.setattr(model, &set);
    match both(world, op, vfs.setattr(real, &set), reference)? {
        Some((real, _)) => {
            // A write to a file may have come between.
            let free = real.kind == FileType::Regular;
            equal(
                op,
                free || set.mtime.is_none_or(|t| t == real.mtime),
                "mtime",
            )
        }
        None => Ok(()),
    }
}

/// Makes an inode durable. Of a file that counts like opening it, syncing and closing.
fn fsync(
    world: &World,
    vfs: &dyn Vfs,
    (real, model): (Ino, Ino),
    data_only: bool,
) -> Result<(), Fail> {
    let file = world.known_file(model).filter(|_| world.faulty);
    // It is neither opened nor closed meanwhile.
    let _layout = file.as_ref().map(|file| file.content.exclusive());
    match vfs.fsync_inode(real, data_only) {
        Err(error) if !world.tolerates(&error) => Err(Fail::new(format!("fsync: {error}"))),
        Err(_) => {
            if let Some(file) = &file
                && let Some(doubt) = &mut file.content.state().doubt
            {
                doubt.told_elsewhere();
                if !file.is_open() {
                    doubt.closed();
                }
            }
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Lists a directory in batches and compares names and types.
fn readdir(
    world: &World,
    vfs: &dyn Vfs,
    (real, model): (Ino, Ino),
    batch: usize,
) -> Result<(), Fail> {
    let list = |fs: &dyn Vfs, dir: Ino| -> FsResult<Vec<_>> {
        let (mut all, mut cookie) = (Vec::new(), 0);
        loop {
            let before = all.len();
            fs.readdir(dir, cookie, &mut |entry| {
                if all.len() - before == batch.max(1) {
                    return false;
                }
                cookie = entry.cookie;
                all.push((entry.name.clone(), entry.kind));
                true
            })?;
            if all.len() == before {
                all.sort_by(|a, b| a.0.cmp(&b.0));
                return Ok(all);
            }
            if all.len() > 100_000 {
                return Err(FsError::Invalid("a directory listing does not end"));
            }
        }
    };
    let listed = list(vfs, real);
    let reference = || list(&*world.model, model);
    match both(world, &("readdir", real), listed, reference)? {
        Some((a, b)) if a != b => {
            let names = |l: &[(Vec<u8>, _)]| -> Vec<String> {
                l.iter()
                    .map(|e| String::from_utf8_lossy(&e.0).into_owned())
                    .collect()
            };
            Err(Fail::new(format!(
                "readdir of inode {}: {:?}, expected {:?}",
                real.0,
                names(&a),
                names(&b)
            )))
        }
        _ => Ok(()),
    }
}

/// Compares everything under a directory of both file systems; `visit` is called for every inode
/// that is no directory.
///
/// # Errors
///
/// The two disagree, or what `visit` says.
pub fn compare_tree(
    world: &World,
    vfs: &dyn Vfs,
    (real, model): (Ino, Ino),
    visit: &mut dyn FnMut(&Attr, &Attr) -> Result<(), Fail>,
) -> Result<(), Fail> {
    readdir(world, vfs, (real, model), 64)?;
    let mut names = Vec::new();
    let listed = world.model.readdir(model, 2, &mut |entry| {
        names.push(entry.name.clone());
        true
    });
    listed.map_err(|e| Fail::new(format!("reference readdir: {e}")))?;
    for name in names {
        let spot = Spot { real, model, name };
        let Some((r, m)) = world.look(vfs, &spot)? else {
            continue;
        };
        xattrs::compare(world, vfs, (r.ino, m.ino))?;
        if m.kind == iomap_core::vfs::FileType::Directory {
            compare_tree(world, vfs, (r.ino, m.ino), visit)?;
        } else {
            visit(&r, &m)?;
        }
    }
    Ok(())
}
