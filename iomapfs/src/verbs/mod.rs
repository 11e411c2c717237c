//! The verbs, each from its arguments to its exit code.
//!
//! Owns the dispatch. Copying is large enough for a module of its own, [`cp`](crate::cp).

mod attr;
mod cat;
mod check;
mod du;
mod generate;
mod info;
mod list;
mod map;
pub(crate) mod mkfs;
mod names;
mod stat;
mod stats;
mod tree;
mod xattr;

use std::ffi::OsString;

use iomap_core::vfs::Vfs;

use crate::cli::{Cli, Verb};
use crate::failure::{Failure, Outcome, complain};
use crate::image::{Access, Image, Opening};
use crate::place::InImage;
use crate::walk::{Visited, Walker};

/// Runs what the command line asks for.
pub(crate) fn run(cli: Cli) -> Outcome {
    let opening = Opening {
        forced: cli.global.fs_type,
        cache_bytes: cli.global.cache.bytes(),
        dax: crate::backend::Dax::Never,
    };
    match cli.verb {
        Verb::Mkfs(args) => mkfs::run(&args, &opening),
        Verb::Info(args) => info::info(&args, &opening),
        Verb::Ls(args) => list::run(&args, &opening),
        Verb::Tree(args) => tree::run(&args, &opening),
        Verb::Stat(args) => stat::run(&args, &opening),
        Verb::Cat(args) => cat::run(&args, &opening),
        Verb::Du(args) => du::run(&args, &opening),
        Verb::Df(args) => info::df(&args, &opening),
        Verb::Cp(args) => crate::cp::run(args, &opening),
        Verb::Mkdir(args) => names::mkdir(&args, &opening),
        Verb::Rm(args) => names::rm(&args, &opening),
        Verb::Mv(args) => names::mv(&args, &opening),
        Verb::Ln(args) => names::ln(&args, &opening),
        Verb::Chmod(args) => attr::chmod(&args, &opening),
        Verb::Chown(args) => attr::chown(&args, &opening),
        Verb::Truncate(args) => attr::truncate(&args, &opening),
        Verb::Getxattr(args) => xattr::get(&args, &opening),
        Verb::Setxattr(args) => xattr::set(&args, &opening),
        Verb::Removexattr(args) => xattr::remove(&args, &opening),
        Verb::Listxattr(args) => xattr::list(&args, &opening),
        Verb::Map(args) => map::run(&args, &opening),
        Verb::Check(args) => check::run(&args, &opening),
        Verb::Mount(args) => crate::mount::run(&args, &opening),
        Verb::Stats(args) => stats::run(&args),
        Verb::WatchMount(args) => crate::mount::watch::run(&args.dir),
        Verb::Completions(args) => generate::completions(&args),
        Verb::Man(args) => generate::man(&args),
    }
}

/// Runs `f` for each path in order, whatever happens to the others. Paths that follow one another
/// in one image share its opening; an image alone means its root if `root` says so.
fn for_each_path(
    args: &[OsString],
    root: bool,
    access: Access,
    opening: &Opening,
    mut f: impl FnMut(&dyn Vfs, &InImage) -> Outcome<()>,
) -> Outcome {
    let parse = if root {
        InImage::parse_or_root
    } else {
        InImage::parse
    };
    let places: Vec<_> = args.iter().map(|arg| parse(arg)).collect::<Outcome<_>>()?;
    let mut code = 0;
    for group in places.chunk_by(|a, b| a.image == b.image) {
        let done = Image::with(&group[0].image, access, opening, |image| {
            for place in group {
                if let Err(failure) = f(&**image.vfs(), place) {
                    note(&failure, &mut code)?;
                }
            }
            Ok(())
        });
        if let Err(failure) = done {
            note(&failure, &mut code)?;
        }
    }
    Ok(code)
}

/// Tells a failure and goes on, unless nobody reads our output any more.
fn note(failure: &Failure, code: &mut u8) -> Outcome<()> {
    if failure.message.is_empty() {
        return Err(Failure::quiet());
    }
    failure.print();
    *code = (*code).max(failure.code);
    Ok(())
}

/// The umask of the process, without changing it.
pub(crate) fn umask() -> u16 {
    // The kernel tells it here; there is no call that only asks.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|text| u16::from_str_radix(text.trim(), 8).ok())
        .unwrap_or(0o022)
}

/// The user and group that make something new in an image.
pub(crate) fn me() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

/// Everything at and below `place`, `place` first, symbolic links not followed: runs `f` for each.
/// Failures are told, and the rest goes on. Returns the exit code.
fn for_each_below(
    vfs: &dyn Vfs,
    place: &InImage,
    f: &mut dyn FnMut(&InImage, &iomap_core::vfs::Attr) -> Outcome<()>,
) -> Outcome {
    let walker = Walker::new(vfs);
    let root = walker.find(place, crate::walk::Follow::No)?;
    let (mut code, mut visited) = (0, Visited::default());
    let mut stack = vec![(place.clone(), root)];
    while let Some((place, attr)) = stack.pop() {
        if let Err(failure) = f(&place, &attr) {
            note(&failure, &mut code)?;
        }
        if attr.kind != iomap_core::vfs::FileType::Directory {
            continue;
        }
        if let Err(failure) = visited.enter(&place, attr.ino) {
            note(&failure, &mut code)?;
            continue;
        }
        let entries = match walker.list_sorted(attr.ino) {
            Ok(entries) => entries,
            Err(error) => {
                complain(&format!("{place}: {}", crate::failure::fs_words(&error)));
                code = 1;
                continue;
            }
        };
        for entry in entries.into_iter().rev() {
            let below = InImage {
                path: crate::walk::join(&place.path, &entry.name),
                ..place.clone()
            };
            match vfs.getattr(entry.ino) {
                Ok(attr) => stack.push((below, attr)),
                Err(error) => {
                    complain(&format!("{below}: {}", crate::failure::fs_words(&error)));
                    code = 1;
                }
            }
        }
    }
    Ok(code)
}
