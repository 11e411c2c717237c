//! Names in both file systems: finding what is there, and comparing it.
//!
//! Owns the directories torture works in and the locks that keep one thread at a time in each.

use iomap_core::vfs::{Attr, FileType, Ino, Vfs};
use parking_lot::{Mutex, MutexGuard};

use super::op::Place;
use super::world::{Fail, World, patiently};

/// A directory whose names one thread at a time works on, in both file systems.
#[derive(Debug)]
pub struct Shard {
    pub(super) busy: Mutex<()>,
    /// In the file system under test.
    pub real: Ino,
    /// In the reference.
    pub model: Ino,
}

/// A directory in both file systems, and a name in it.
#[derive(Debug)]
pub struct Spot {
    /// The directory in the file system under test.
    pub real: Ino,
    /// The directory in the reference.
    pub model: Ino,
    /// The name.
    pub name: Vec<u8>,
}

impl World {
    /// The top directory of a place.
    #[must_use]
    pub fn shard(&self, place: Place) -> usize {
        usize::from(place.shard) % self.shards.len()
    }

    /// Takes the directories two places lie in, in order.
    pub fn lock_shards(
        &self,
        a: Place,
        b: Place,
    ) -> (MutexGuard<'_, ()>, Option<MutexGuard<'_, ()>>) {
        let (a, b) = (self.shard(a), self.shard(b));
        let first = self.shards[a.min(b)].busy.lock();
        let second = (a != b).then(|| self.shards[a.max(b)].busy.lock());
        (first, second)
    }

    /// The directory and name of a place; `None` if the directory in between is none. The caller
    /// holds the shard.
    ///
    /// # Errors
    ///
    /// The two file systems disagree.
    pub fn spot(&self, vfs: &dyn Vfs, place: Place) -> Result<Option<Spot>, Fail> {
        let shard = &self.shards[self.shard(place)];
        let name = format!("n{:02}", place.name).into_bytes();
        let Some(sub) = place.sub else {
            return Ok(Some(Spot {
                real: shard.real,
                model: shard.model,
                name,
            }));
        };
        let spot = Spot {
            real: shard.real,
            model: shard.model,
            name,
        };
        Ok(match self.look(vfs, &spot)? {
            Some((real, model)) if model.kind == FileType::Directory => Some(Spot {
                real: real.ino,
                model: model.ino,
                name: format!("x{sub:02}").into_bytes(),
            }),
            _ => None,
        })
    }

    /// What is there, in both file systems.
    ///
    /// # Errors
    ///
    /// The two disagree.
    pub fn look(&self, vfs: &dyn Vfs, spot: &Spot) -> Result<Option<(Attr, Attr)>, Fail> {
        // Another name of the inode may be worked on in another directory: its attributes are
        // compared when both file systems have been told.
        patiently(|| self.look_once(vfs, spot), Result::is_ok)
    }

    fn look_once(&self, vfs: &dyn Vfs, spot: &Spot) -> Result<Option<(Attr, Attr)>, Fail> {
        let name = String::from_utf8_lossy(&spot.name);
        let model = self.model.lookup(spot.model, &spot.name);
        match (vfs.lookup(spot.real, &spot.name), model) {
            (Ok(real), Ok(model)) => {
                same_attr(&real, &model).map_err(|what| Fail::new(format!("{name}: {what}")))?;
                Ok(Some((real, model)))
            }
            (Err(real), Err(model)) if real.errno() == model.errno() => Ok(None),
            (Err(real), _) if self.faulty && self.tolerates(&real) => Ok(None),
            (real, model) => Err(Fail::new(format!(
                "lookup of {name} in inode {}: found {:?}, expected {:?}",
                spot.real.0,
                real.map(|a| a.kind),
                model.map(|a| a.kind)
            ))),
        }
    }
}

/// Compares what the two file systems say about an inode.
///
/// # Errors
///
/// What differs.
pub fn same_attr(real: &Attr, model: &Attr) -> Result<(), String> {
    // Writes and chown clear the set-id bits, at a moment of their own.
    let bits = |a: &Attr| {
        if a.kind == FileType::Directory {
            0o7777
        } else {
            0o1777
        }
    };
    let key = |a: &Attr| (a.kind, a.mode & bits(a), a.nlink, a.uid, a.gid, a.rdev);
    if key(real) != key(model) {
        return Err(format!(
            "attributes (type, mode, links, uid, gid, device) are {:?}, expected {:?}",
            key(real),
            key(model)
        ));
    }
    if model.kind == FileType::Symlink && real.size != model.size {
        return Err(format!("link size {}, expected {}", real.size, model.size));
    }
    Ok(())
}
