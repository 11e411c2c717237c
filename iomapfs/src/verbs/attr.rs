//! `chmod`, `chown`, `truncate`: attributes of inodes.

use iomap_core::vfs::{Attr, FileType, NewInode, SetAttr, Special, Vfs};

use crate::cli::{ChmodArgs, ChownArgs, TruncateArgs};
use crate::failure::{Failure, Outcome, fs_words};
use crate::image::{Access, Opening};
use crate::place::InImage;
use crate::walk::{Follow, Walker};

/// Changes permission bits.
pub(crate) fn chmod(args: &ChmodArgs, opening: &Opening) -> Outcome {
    let umask = super::umask();
    let change = |vfs: &dyn Vfs, place: &InImage, attr: &Attr| {
        let directory = attr.kind == FileType::Directory;
        let mode = args.mode.apply(attr.mode, directory, umask);
        set(
            vfs,
            place,
            attr,
            SetAttr {
                mode: Some(mode),
                ..SetAttr::default()
            },
        )
    };
    let mut below = 0;
    let code = super::for_each_path(&args.paths, false, Access::Write, opening, |vfs, place| {
        if !args.recursive {
            let attr = Walker::new(vfs).find(place, Follow::Yes)?;
            return change(vfs, place, &attr);
        }
        below |= super::for_each_below(vfs, place, &mut |place, attr| {
            if attr.kind == FileType::Symlink {
                return Ok(());
            }
            change(vfs, place, attr)
        })?;
        Ok(())
    })?;
    Ok(code | below)
}

/// Changes owners.
pub(crate) fn chown(args: &ChownArgs, opening: &Opening) -> Outcome {
    let owner = SetAttr {
        uid: args.owner.uid,
        gid: args.owner.gid,
        ..SetAttr::default()
    };
    let mut below = 0;
    let code = super::for_each_path(&args.paths, false, Access::Write, opening, |vfs, place| {
        if !args.recursive {
            let follow = if args.no_dereference {
                Follow::No
            } else {
                Follow::Yes
            };
            let attr = Walker::new(vfs).find(place, follow)?;
            return set(vfs, place, &attr, owner);
        }
        below |=
            super::for_each_below(vfs, place, &mut |place, attr| set(vfs, place, attr, owner))?;
        Ok(())
    })?;
    Ok(code | below)
}

/// Sets sizes.
pub(crate) fn truncate(args: &TruncateArgs, opening: &Opening) -> Outcome {
    super::for_each_path(&args.paths, false, Access::Write, opening, |vfs, place| {
        let spot = Walker::new(vfs).spot(place, Follow::Yes)?;
        let attr = match spot.attr {
            Some(attr) => attr,
            None if args.no_create => return Ok(()),
            None => {
                let (uid, gid) = super::me();
                let new = NewInode {
                    mode: 0o666 & !super::umask(),
                    uid,
                    gid,
                };
                vfs.mknod(spot.dir, &spot.name, Special::Regular, &new)
                    .map_err(|e| Failure::of(place, fs_words(&e)))?
            }
        };
        if attr.kind != FileType::Regular {
            return Err(Failure::of(
                place,
                format!(
                    "is a {}, which has no size to set",
                    crate::out::kind_name(attr.kind)
                ),
            ));
        }
        let size = args.size.apply(attr.size);
        let size = size.ok_or_else(|| Failure::of(place, "the file would be too large"))?;
        set(
            vfs,
            place,
            &attr,
            SetAttr {
                size: Some(size),
                ..SetAttr::default()
            },
        )
    })
}

fn set(vfs: &dyn Vfs, place: &InImage, attr: &Attr, set: SetAttr) -> Outcome<()> {
    match vfs.setattr(attr.ino, &set) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::of(place, fs_words(&error))),
    }
}
