//! The end of a torture run: every byte and every name against what should be there.

use std::collections::HashSet;

use iomap_core::units::FilePos;
use iomap_core::vfs::{Attr, FileType, Ino, IoFlags, Vfs};

use super::data::{Call, buffer};
use super::names;
use super::op::FILE_SPAN;
use super::world::{Fail, World};

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// Compares the whole tree. Nobody else works on it.
///
/// # Errors
///
/// The first difference.
pub fn everything(world: &World) -> Result<u64, Fail> {
    let session = world.session();
    let vfs = session.vfs();
    let mut seen: HashSet<Ino> = HashSet::new();
    let mut bytes = 0;
    let mut visit = |real: &Attr, model: &Attr| {
        if model.kind == FileType::Regular && seen.insert(model.ino) {
            bytes += file(world, vfs, real, model)?;
        }
        Ok(())
    };
    for shard in &world.shards {
        names::compare_tree(world, vfs, (shard.real, shard.model), &mut visit)?;
    }
    Ok(bytes)
}

/// Compares one file.
fn file(world: &World, vfs: &dyn Vfs, real: &Attr, model: &Attr) -> Result<u64, Fail> {
    let Some(file) = world.known_file(model.ino) else {
        return Ok(0);
    };
    let call = Call {
        world,
        vfs,
        file: &file,
        tag: 1,
    };
    let size = file.content.state().bytes.size();
    if real.size != size {
        return Err(file.fail(format!("size is {}, expected {size}", real.size)));
    }
    let handle = match vfs.open(file.real, iomap_core::vfs::OpenFlags::READ) {
        Ok(handle) => handle,
        Err(error) => return call.excuse(&error, "open").map(|()| 0),
    };
    // What lies further out was only ever reached by growing: looked at in one place.
    let mut pos = 0;
    let end = size.min(8 * FILE_SPAN);
    let starts = std::iter::from_fn(|| {
        let start = pos;
        pos += CHUNK;
        (start < end).then_some(start)
    });
    let tail = (size > end).then(|| size.saturating_sub(CHUNK));
    for start in starts.chain(tail) {
        let len = (size - start).min(CHUNK);
        let mut buffer = buffer(usize::try_from(len).unwrap_or(0));
        let read = handle.read_at(FilePos::saturating(start), buffer.bytes(), IoFlags::empty());
        match read {
            Ok(n) => call.check_bytes(start, len, &buffer.bytes()[..n], false)?,
            Err(error) => return Err(file.fail(format!("read of {len} at {start}: {error}"))),
        }
    }
    Ok(end)
}

/// After the file system gave up with its device, and what was not durable is gone: everything that
/// is there can be listed and read, and holds nothing that was never written.
///
/// # Errors
///
/// The first thing that cannot be read or was never written.
pub fn readable(world: &World) -> Result<u64, Fail> {
    let session = world.session();
    let vfs = session.vfs();
    let mut bytes = 0;
    let mut dirs = vec![vfs.root()];
    while let Some(dir) = dirs.pop() {
        let mut entries = Vec::new();
        let listed = vfs.readdir(dir, 0, &mut |entry| {
            entries.push(entry.clone());
            true
        });
        listed.map_err(|e| Fail::new(format!("readdir of inode {}: {e}", dir.0)))?;
        for entry in entries {
            match entry.kind {
                FileType::Directory if !matches!(&entry.name[..], b"." | b"..") => {
                    dirs.push(entry.ino);
                }
                FileType::Regular => bytes += legible(vfs, entry.ino)?,
                _ => {}
            }
        }
    }
    Ok(bytes)
}

/// Reads a file; the narrow patterns have six bits.
fn legible(vfs: &dyn Vfs, ino: Ino) -> Result<u64, Fail> {
    let fail = |what: String| Fail::new(format!("inode {}: {what}", ino.0));
    let handle = vfs
        .open(ino, iomap_core::vfs::OpenFlags::READ)
        .map_err(|e| fail(format!("open: {e}")))?;
    let mut pos = 0;
    let mut buffer = buffer(CHUNK as usize);
    while pos < 8 * FILE_SPAN {
        let read = handle.read_at(FilePos::saturating(pos), buffer.bytes(), IoFlags::empty());
        let n = read.map_err(|e| fail(format!("read at {pos}: {e}")))?;
        if let Some(at) = buffer.bytes()[..n].iter().position(|b| *b > 63) {
            return Err(fail(format!("byte {} was never written", pos + at as u64)));
        }
        pos += n as u64;
        if n == 0 {
            break;
        }
    }
    Ok(pos)
}
