//! `mkdir`, `rm`, `mv`, `ln`: names in an image.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use iomap_core::error::{Errno, FsError};
use iomap_core::vfs::{Attr, FileType, Ino, NewInode, RenameMode, Vfs};

use crate::cli::{LnArgs, MkdirArgs, MvArgs, RmArgs};
use crate::failure::{Failure, Outcome, fs_words};
use crate::image::{Access, Image, Opening};
use crate::place::{InImage, Place};
use crate::walk::{Follow, Spot, Visited, Walker, join, last_name};

/// Makes directories.
pub(crate) fn mkdir(args: &MkdirArgs, opening: &Opening) -> Outcome {
    let umask = super::umask();
    let mode = args
        .mode
        .as_ref()
        .map_or(0o777 & !umask, |mode| mode.fresh(umask));
    super::for_each_path(&args.paths, false, Access::Write, opening, |vfs, place| {
        if args.parents {
            // Those above can be walked and written by their owner, whatever the umask says.
            let above = (0o777 & !umask) | 0o300;
            make_parents(vfs, place, above)?;
        }
        let walker = Walker::new(vfs);
        let spot = walker.spot(place, Follow::No);
        let spot =
            spot.map_err(|failure| failure.or_hint("-p makes the directories above as well"))?;
        match spot.attr {
            Some(attr) if args.parents && attr.kind == FileType::Directory => Ok(()),
            Some(attr) => Err(exists(place, &attr)),
            None => make_dir(vfs, place, &spot, mode),
        }
    })
}

fn exists(place: &InImage, attr: &Attr) -> Failure {
    Failure::of(
        place,
        format!("is there already, a {}", crate::out::kind_name(attr.kind)),
    )
}

fn make_dir(vfs: &dyn Vfs, place: &InImage, spot: &Spot, mode: u16) -> Outcome<()> {
    let (uid, gid) = super::me();
    match vfs.mkdir(spot.dir, &spot.name, &NewInode { mode, uid, gid }) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::of(place, fs_words(&error))),
    }
}

/// Makes what is missing above `place`.
fn make_parents(vfs: &dyn Vfs, place: &InImage, mode: u16) -> Outcome<()> {
    let names: Vec<_> = place
        .path
        .split(|b| *b == b'/')
        .filter(|n| !n.is_empty())
        .collect();
    let mut above = InImage {
        path: b"/".to_vec(),
        ..place.clone()
    };
    for name in names.iter().take(names.len().saturating_sub(1)) {
        above.path = join(&above.path, name);
        let spot = Walker::new(vfs).spot(&above, Follow::Yes)?;
        if spot.attr.is_none() {
            make_dir(vfs, &above, &spot, mode)?;
        }
    }
    Ok(())
}

/// Removes.
pub(crate) fn rm(args: &RmArgs, opening: &Opening) -> Outcome {
    let mut below = 0;
    let code =
        super::for_each_path(&args.paths, false, Access::Write, opening, |vfs, place| {
            let spot = match Walker::new(vfs).spot(place, Follow::No) {
                Ok(spot) => spot,
                Err(_) if args.force => return Ok(()),
                Err(failure) => return Err(failure),
            };
            let Some(attr) = spot.attr else {
                if args.force {
                    return Ok(());
                }
                // Once more for the message.
                return Walker::new(vfs).find(place, Follow::No).map(|_| ());
            };
            if spot.name.is_empty() && spot.dir != vfs.root() {
                return Err(
                    Failure::of(place, "a path that ends in '..' is not removed")
                        .hint("name the directory itself"),
                );
            }
            if spot.name.is_empty() {
                return Err(
                Failure::of(place, "the root of an image cannot be removed").hint(format!(
                    "what is in it can, by name; or make it anew: iomapfs mkfs --force -t TYPE {}",
                    place.image.display()
                )),
            );
            }
            match attr.kind {
                FileType::Directory if args.recursive => {
                    below |= remove_tree(vfs, place, &spot, attr.ino, args.verbose)?;
                    Ok(())
                }
                FileType::Directory if args.dir => {
                    told(args.verbose, place, vfs.rmdir(spot.dir, &spot.name))
                }
                FileType::Directory => Err(Failure::of(place, "is a directory")
                    .hint("-r removes it with everything in it")),
                _ => told(args.verbose, place, vfs.unlink(spot.dir, &spot.name)),
            }
        })?;
    Ok(code | below)
}

fn told(verbose: bool, place: &InImage, result: iomap_core::error::Result<()>) -> Outcome<()> {
    result.map_err(|error| Failure::of(place, fs_words(&error)))?;
    if verbose {
        use std::io::Write;
        writeln!(std::io::stdout(), "removed {place}")?;
    }
    Ok(())
}

/// A directory that is being emptied.
struct Emptying {
    place: InImage,
    dir: Ino,
    parent: Ino,
    name: Vec<u8>,
    rest: Vec<iomap_core::vfs::DirEntry>,
    /// Something below could not be removed, and that was told.
    failed: bool,
}

/// Removes a directory and everything below, with a stack of its own. Returns the exit code.
fn remove_tree(vfs: &dyn Vfs, place: &InImage, spot: &Spot, dir: Ino, verbose: bool) -> Outcome {
    let (mut code, mut visited) = (0, Visited::default());
    let mut open = |place: InImage, dir: Ino, parent: Ino, name: Vec<u8>| {
        visited.enter(&place, dir)?;
        let rest = Walker::new(vfs).list(dir);
        let rest = rest.map_err(|error| Failure::of(&place, fs_words(&error)))?;
        Ok::<_, Failure>(Emptying {
            place,
            dir,
            parent,
            name,
            rest,
            failed: false,
        })
    };
    let mut stack = vec![open(place.clone(), dir, spot.dir, spot.name.clone())?];
    while let Some(top) = stack.last_mut() {
        let (failed, result) = if let Some(entry) = top.rest.pop() {
            let below = InImage {
                path: join(&top.place.path, &entry.name),
                ..top.place.clone()
            };
            if entry.kind == FileType::Directory {
                match open(below, entry.ino, top.dir, entry.name) {
                    Ok(opened) => {
                        stack.push(opened);
                        continue;
                    }
                    Err(failure) => (&mut top.failed, Err(failure)),
                }
            } else {
                let removed = vfs.unlink(top.dir, &entry.name);
                (&mut top.failed, told(verbose, &below, removed))
            }
        } else {
            let Some(done) = stack.pop() else { break };
            let result = match done.failed {
                // Told already; it cannot be empty.
                true => Ok(()),
                false => told(verbose, &done.place, vfs.rmdir(done.parent, &done.name)),
            };
            let Some(above) = stack.last_mut() else {
                if let Err(failure) = result {
                    super::note(&failure, &mut code)?;
                }
                break;
            };
            above.failed |= done.failed;
            (&mut above.failed, result)
        };
        if let Err(failure) = result {
            *failed = true;
            super::note(&failure, &mut code)?;
        }
    }
    Ok(code)
}

/// Renames.
pub(crate) fn mv(args: &MvArgs, opening: &Opening) -> Outcome {
    let places = mv_places(&args.paths)?;
    let (target, sources) = places
        .split_last()
        .ok_or_else(|| Failure::usage("no path was given"))?;
    let mut code = 0;
    Image::with(&target.image, Access::Write, opening, |image| {
        let vfs = &**image.vfs();
        let into = directory_at(vfs, target, args.no_target_directory)?;
        if sources.len() > 1 && into.is_none() {
            return Err(Failure::of(
                target,
                "is no directory to put several things in",
            ));
        }
        for source in sources {
            if let Err(failure) = move_one(vfs, source, target, into, args) {
                super::note(&failure, &mut code)?;
            }
        }
        Ok(())
    })?;
    Ok(code)
}

fn mv_places(args: &[OsString]) -> Outcome<Vec<InImage>> {
    let host = args
        .iter()
        .find(|arg| matches!(Place::parse(arg), Place::Host(_)));
    let inside = args
        .iter()
        .any(|arg| matches!(Place::parse(arg), Place::Image(_)));
    if let (Some(host), true) = (host, inside)
        && (!Path::new(host).exists() || Path::new(host).is_dir())
    {
        return Err(Failure::usage(format!(
            "mv renames within an image, and '{}' is outside",
            host.display()
        ))
        .hint("use cp, then rm"));
    }
    let (_, places) = InImage::parse_all(args).map_err(|failure| {
        if failure.message.contains("two images") {
            return failure.hint("mv renames within an image; use cp, then rm");
        }
        failure
    })?;
    Ok(places)
}

/// The directory at `place`, unless it is to be taken as a name.
fn directory_at(vfs: &dyn Vfs, place: &InImage, as_name: bool) -> Outcome<Option<Ino>> {
    if as_name {
        return Ok(None);
    }
    let spot = Walker::new(vfs).spot(place, Follow::Yes)?;
    let directory = spot.attr.filter(|attr| attr.kind == FileType::Directory);
    Ok(directory.map(|attr| attr.ino))
}

fn move_one(
    vfs: &dyn Vfs,
    source: &InImage,
    target: &InImage,
    into: Option<Ino>,
    args: &MvArgs,
) -> Outcome<()> {
    let walker = Walker::new(vfs);
    let from = walker.spot(source, Follow::No)?;
    if from.attr.is_none() {
        walker.find(source, Follow::No)?;
    }
    if from.name.is_empty() {
        return Err(Failure::of(source, "cannot be renamed"));
    }
    let (to_dir, to_name, shown) = match into {
        Some(dir) if !args.exchange => {
            let path = join(&target.path, &from.name);
            (
                dir,
                from.name.clone(),
                InImage {
                    path,
                    ..target.clone()
                },
            )
        }
        _ => {
            let spot = walker.spot(target, Follow::No)?;
            if spot.name.is_empty() {
                return Err(Failure::of(target, "cannot be replaced"));
            }
            (spot.dir, spot.name, target.clone())
        }
    };
    let mode = match (args.exchange, args.no_clobber) {
        (true, _) => RenameMode::Exchange,
        (_, true) => RenameMode::NoReplace,
        _ => RenameMode::Replace,
    };
    match vfs.rename(from.dir, &from.name, to_dir, &to_name, mode) {
        Err(error) if args.no_clobber && error.errno() == Errno::EXIST => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "{source} cannot become {shown}: {}",
            rename_words(&error)
        ))),
        Ok(()) => Ok(()),
    }
}

fn rename_words(error: &FsError) -> String {
    match error.errno() {
        Errno::INVAL => "a directory cannot go into itself".to_owned(),
        _ => fs_words(error),
    }
}

/// Makes a link.
pub(crate) fn ln(args: &LnArgs, opening: &Opening) -> Outcome {
    let link = InImage::parse(&args.link)?;
    let target = match args.symbolic {
        true => Place::Host((&args.target).into()),
        false => Place::Image(InImage::parse(&args.target)?),
    };
    if let Place::Image(target) = &target
        && target.image != link.image
    {
        return Err(
            Failure::usage(format!("{target} and {link} are in two images"))
                .hint("a hard link stays within its image; use cp"),
        );
    }
    Image::with(&link.image, Access::Write, opening, |image| {
        let vfs = &**image.vfs();
        let last = match &target {
            Place::Image(target) => last_name(&target.path),
            Place::Host(text) => text
                .file_name()
                .map(OsStr::as_bytes)
                .unwrap_or_default()
                .to_vec(),
        };
        let (dir, name, shown) = link_spot(vfs, &link, &last, args)?;
        let make = || match &target {
            Place::Image(target) => {
                let attr = Walker::new(vfs).find(target, Follow::No)?;
                if attr.kind == FileType::Directory {
                    return Err(
                        Failure::of(target, "is a directory, which has one name only")
                            .hint("-s makes a symbolic link"),
                    );
                }
                Ok(vfs.link(attr.ino, dir, &name))
            }
            Place::Host(text) => {
                let (uid, gid) = super::me();
                let new = NewInode {
                    mode: 0o777,
                    uid,
                    gid,
                };
                Ok(vfs.symlink(dir, &name, text.as_os_str().as_bytes(), &new))
            }
        };
        let failed = |error: &FsError| Failure::of(&shown, fs_words(error));
        match make()? {
            Ok(_) => Ok(()),
            Err(error) if args.force && error.errno() == Errno::EXIST => {
                if is_same(vfs, &target, dir, &name)? {
                    return Err(Failure::of(&shown, "is that file already"));
                }
                vfs.unlink(dir, &name).map_err(|e| failed(&e))?;
                make()?.map(|_| ()).map_err(|e| failed(&e))
            }
            Err(error) => Err(failed(&error)),
        }
    })?;
    Ok(0)
}

/// Whether `name` in `dir` is a name of the target of a hard link: removing it could be the end of
/// the file.
fn is_same(vfs: &dyn Vfs, target: &Place, dir: Ino, name: &[u8]) -> Outcome<bool> {
    let Place::Image(target) = target else {
        return Ok(false);
    };
    let attr = Walker::new(vfs).find(target, Follow::No)?;
    let there = vfs.lookup(dir, name);
    let there = there.map_err(|error| Failure::of(target, fs_words(&error)))?;
    Ok(there.ino == attr.ino)
}

/// Where the link goes: into a directory, or at the name itself.
fn link_spot(
    vfs: &dyn Vfs,
    link: &InImage,
    last: &[u8],
    args: &LnArgs,
) -> Outcome<(Ino, Vec<u8>, InImage)> {
    if let Some(dir) = directory_at(vfs, link, args.no_target_directory)? {
        if last.is_empty() {
            return Err(Failure::of(
                link,
                "is a directory, and the target has no name to use in it",
            ));
        }
        let path = join(&link.path, last);
        return Ok((
            dir,
            last.to_vec(),
            InImage {
                path,
                ..link.clone()
            },
        ));
    }
    let spot = Walker::new(vfs).spot(link, Follow::No)?;
    Ok((spot.dir, spot.name, link.clone()))
}
