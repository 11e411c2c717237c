//! What SOURCE and DEST mean: the first step of a copy.
//!
//! Owns the rules of cp(1): a copy goes into a directory or to a name, what `SOURCE/.` is, when a
//! symbolic link the user named is followed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use iomap_core::vfs::FileType;

use super::Dest;
use super::goal::Goal;
use super::host::{HostDir, Images};
use super::inside::ImageDir;
use super::job::Job;
use super::side::{Entry, Item, Meta, SourceDir, TargetDir};
use super::walk::Top;
use crate::cli::CpArgs;
use crate::failure::{Failure, Outcome, fs_words, words};
use crate::image::Image;
use crate::place::{InImage, Place};
use crate::walk::{Follow, Walker, last_name};

/// A source that is there.
pub(super) struct Found<S: SourceDir> {
    pub(super) item: Item<S>,
    /// The path of the directory it is in, for messages.
    above: String,
    /// What the copy is called in a directory; `None` for what has no name, as `.`.
    base: Option<Vec<u8>>,
}

impl<S: SourceDir> Found<S> {
    /// To be copied into `goal`, under `name` or its own.
    pub(super) fn into_top<T: TargetDir>(
        self,
        goal: Arc<Goal<T>>,
        name: Option<Vec<u8>>,
    ) -> Top<S, T> {
        // An empty name stands for the goal itself.
        let name = name.or(self.base).filter(|name| !name.is_empty());
        Top {
            merge: name.is_none(),
            job: Job {
                item: self.item,
                above: self.above.into(),
                goal,
                name: name.unwrap_or_default(),
                fresh: false,
            },
        }
    }
}

/// Whether a symbolic link given as SOURCE is followed.
const fn follows(args: &CpArgs) -> bool {
    let recursive = args.recursive || args.archive;
    args.dereference || args.command_line || (!recursive && !args.no_dereference)
}

/// Looks at a source on the host.
pub(super) fn host_source(
    place: &Place,
    args: &CpArgs,
    images: &Images,
) -> Outcome<Found<HostDir>> {
    let Place::Host(path) = place else {
        return Err(Failure::of(place, "is in an image"));
    };
    let bytes = path.as_os_str().as_bytes();
    let slash = bytes.ends_with(b"/");
    let trimmed = trim_slashes(bytes);
    let at = trimmed
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let last = &trimmed[at..];
    let nameless = matches!(last, b"" | b"." | b"..");
    let (parent, name) = if nameless {
        (path.as_path(), &b"."[..])
    } else {
        (Path::new(OsStr::from_bytes(&trimmed[..at])), last)
    };
    let failed = |trouble: super::side::Trouble| Failure::of(path.display(), trouble);
    let dir = HostDir::open_path(parent, images).map_err(failed)?;
    let entry = Entry {
        name: name.to_vec(),
        ino: 0,
    };
    let followed = follows(args) || slash;
    let meta = dir.look(&entry, followed).map_err(failed)?;
    // The name `.` of the path itself adds nothing to a message.
    let above = if nameless { path } else { parent };
    Ok(Found {
        item: Item {
            dir: Arc::new(dir),
            entry,
            meta,
            followed,
        },
        above: above.display().to_string(),
        base: (!nameless).then(|| last.to_vec()),
    })
}

fn trim_slashes(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|byte| *byte != b'/')
        .map_or(0, |at| at + 1);
    &bytes[..end]
}

/// Looks at a source in an image.
pub(super) fn image_source(
    image: &Image,
    number: u64,
    place: &Place,
    args: &CpArgs,
) -> Outcome<Found<ImageDir>> {
    let Place::Image(inside) = place else {
        return Err(Failure::of(place, "is not in an image"));
    };
    let walker = Walker::new(&**image.vfs());
    let follow = if follows(args) {
        Follow::Yes
    } else {
        Follow::No
    };
    let attr = walker.find(inside, follow)?;
    let spot = walker.spot(inside, follow)?;
    let base = last_name(&inside.path);
    let dots = inside.path.ends_with(b"/.") || base == b"..";
    let nameless = spot.name.is_empty();
    let name = if nameless { b".".to_vec() } else { spot.name };
    let bare = inside.path.strip_suffix(b"/.").unwrap_or(&inside.path);
    let here = if bare.is_empty() { &b"/"[..] } else { bare };
    let (above, _) = split_last(here);
    let dir_place = InImage {
        path: if nameless { here } else { above }.to_vec(),
        ..inside.clone()
    };
    let dir = ImageDir::new(image.vfs(), number, spot.dir, dir_place.clone());
    let entry = Entry {
        name,
        ino: attr.ino.0,
    };
    let meta: Meta = dir
        .look(&entry, false)
        .map_err(|trouble| Failure::of(place, trouble))?;
    Ok(Found {
        item: Item {
            dir: Arc::new(dir),
            entry,
            meta,
            followed: false,
        },
        above: dir_place.to_string(),
        base: (!dots && !base.is_empty()).then_some(base),
    })
}

/// A path without its last name, and that name.
fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    let trimmed = trim_slashes(path);
    let at = trimmed
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    (&trimmed[..at], &trimmed[at..])
}

/// Finds out where copies go on the host. `follow`: a symbolic link there is written through.
pub(super) fn host_dest(
    path: &Path,
    (follow, single): (bool, bool),
    args: &CpArgs,
    images: &Images,
) -> Outcome<Dest<HostDir>> {
    let open = |dir: &Path| {
        HostDir::open_path(dir, images).map_err(|trouble| Failure::of(dir.display(), trouble))
    };
    let found = std::fs::metadata(path);
    let is_dir = found.as_ref().is_ok_and(std::fs::Metadata::is_dir);
    if is_dir && !args.no_target_directory {
        return Ok(Dest {
            dir: open(path)?,
            shown: path.display().to_string(),
            name: None,
            directory: false,
        });
    }
    must_be_name(path.display(), single, args, found.is_ok())?;
    let mut real = path.to_owned();
    let link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
    if (link && follow) || path.file_name().is_none() {
        real = std::fs::canonicalize(path).map_err(|error| {
            Failure::of(
                path.display(),
                format!("a symbolic link that leads nowhere: {}", words(&error)),
            )
        })?;
    }
    let parent = match real.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let shown = parent.display().to_string();
    Ok(Dest {
        dir: open(parent)?,
        shown: if shown == "." { String::new() } else { shown },
        name: real.file_name().map(|name| name.as_bytes().to_vec()),
        directory: path.as_os_str().as_bytes().ends_with(b"/") && !is_dir,
    })
}

/// Refuses a destination that is no directory where one is needed.
fn must_be_name(
    shown: impl std::fmt::Display,
    single: bool,
    args: &CpArgs,
    there: bool,
) -> Outcome<()> {
    let what = if there {
        "is no directory"
    } else {
        "there is no such directory"
    };
    if args.target_directory.is_some() {
        return Err(Failure::of(shown, what));
    }
    if single {
        return Ok(());
    }
    if args.no_target_directory {
        return Err(Failure::usage(format!(
            "{shown}: with -T there is one source only"
        )));
    }
    Err(Failure::of(shown, what).hint("several sources go into a directory"))
}

/// Finds out where copies go in an image.
pub(super) fn image_dest(
    image: &Image,
    number: u64,
    inside: &InImage,
    (follow, single): (bool, bool),
    args: &CpArgs,
) -> Outcome<Dest<ImageDir>> {
    let walker = Walker::new(&**image.vfs());
    let slashless = InImage {
        path: match trim_slashes(&inside.path) {
            b"" => b"/".to_vec(),
            path => path.to_vec(),
        },
        ..inside.clone()
    };
    let directory = |attr: &iomap_core::vfs::Attr| attr.kind == FileType::Directory;
    let meant = walker.spot(&slashless, Follow::Yes)?;
    let is_dir = meant.attr.as_ref().is_some_and(directory);
    let spot = match follow {
        true => meant.clone(),
        false => walker.spot(&slashless, Follow::No)?,
    };
    // The root has no name, so no copy can take its place.
    let merge = args.no_target_directory && spot.name.is_empty();
    if let Some(attr) = meant
        .attr
        .filter(|_| is_dir && (!args.no_target_directory || merge))
    {
        return Ok(Dest {
            dir: ImageDir::new(image.vfs(), number, attr.ino, slashless.clone()),
            shown: slashless.to_string(),
            name: merge.then(Vec::new),
            directory: false,
        });
    }
    must_be_name(inside, single, args, meant.attr.is_some())?;
    let (above, _) = split_last(&slashless.path);
    let above = InImage {
        path: if above.is_empty() {
            b"/".to_vec()
        } else {
            above.to_vec()
        },
        ..inside.clone()
    };
    let parent = image
        .vfs()
        .getattr(spot.dir)
        .map_err(|e| Failure::of(inside, fs_words(&e)))?;
    Ok(Dest {
        dir: ImageDir::new(image.vfs(), number, parent.ino, above.clone()),
        shown: above.to_string(),
        name: Some(spot.name),
        directory: inside.path.ends_with(b"/") && !is_dir,
    })
}
