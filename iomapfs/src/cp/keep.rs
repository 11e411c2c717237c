//! What of the attributes a copy keeps.
//!
//! Owns the options that decide it, and the pure function from what the source has to what the copy
//! gets.

use super::side::{Attrs, Meta};
use crate::cli::{CpArgs, Keep};
use crate::owner::{Mapping, Owner};
use iomap_core::vfs::FileType;

/// What a copy keeps.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    mode: bool,
    times: bool,
    owner: bool,
    pub(super) xattr: bool,
    pub(super) links: bool,
    pub(super) holes: bool,
    forced: Option<Owner>,
    users: Vec<Mapping>,
    groups: Vec<Mapping>,
    umask: u16,
}

impl Policy {
    /// What the arguments say.
    pub(super) fn new(args: &CpArgs, umask: u16) -> Self {
        let keeps = |what: Keep| {
            !args.no_preserve.contains(&what) && !args.no_preserve.contains(&Keep::All)
        };
        Self {
            mode: keeps(Keep::Mode),
            times: keeps(Keep::Times),
            owner: keeps(Keep::Owner),
            xattr: keeps(Keep::Xattr),
            links: keeps(Keep::Links),
            holes: keeps(Keep::Holes),
            forced: args.owner,
            users: args.map_owner.clone(),
            groups: args.map_group.clone(),
            umask,
        }
    }

    /// The attributes of a copy.
    pub(super) fn attrs(&self, meta: &Meta) -> Attrs {
        let symlink = meta.kind == FileType::Symlink;
        let mode = match (self.mode, symlink) {
            (_, true) => 0o777,
            (true, false) => meta.mode,
            (false, false) => meta.mode & 0o777 & !self.umask,
        };
        Attrs {
            mode,
            exact_mode: !symlink,
            owner: self.owner_of(meta),
            times: self.times.then_some((meta.atime, meta.mtime)),
        }
    }

    fn owner_of(&self, meta: &Meta) -> Option<(u32, u32)> {
        let kept = || {
            let uid = Mapping::apply(&self.users, meta.uid);
            (uid, Mapping::apply(&self.groups, meta.gid))
        };
        match self.forced {
            None => self.owner.then(kept),
            Some(owner) => {
                let (uid, gid) = if self.owner {
                    kept()
                } else {
                    crate::verbs::me()
                };
                Some((owner.uid.unwrap_or(uid), owner.gid.unwrap_or(gid)))
            }
        }
    }
}
