//! `tree`: a drawing of names.
//!
//! Owns the drawing and the nested JSON. Goes down with a stack of its own, so that a deep image
//! cannot exhaust the program's.

use std::io::Write;

use iomap_core::vfs::{Attr, FileType, Ino, Vfs};
use serde_json::{Map, Value, json};

use crate::cli::TreeArgs;
use crate::failure::{Outcome, complain, fs_words};
use crate::image::{Access, Opening};
use crate::out::{self, human};
use crate::place::InImage;
use crate::walk::{Visited, Walker, join};

/// Levels that are drawn at most: paths end long before.
const DEPTH_MAX: usize = 4096;

/// One line.
struct Line {
    depth: usize,
    /// Whether another one of its directory follows.
    more: bool,
    name: Vec<u8>,
    attr: Attr,
    target: Option<Vec<u8>>,
}

/// Draws.
pub(crate) fn run(args: &TreeArgs, opening: &Opening) -> Outcome {
    let mut failed = false;
    let paths = [args.path.clone()];
    let code = super::for_each_path(&paths, true, Access::Read, opening, |vfs, place| {
        let root = Walker::new(vfs).directory(place)?;
        let lines = collect(vfs, place, root.ino, args, &mut failed);
        if args.json.json {
            return print_json(place, &lines);
        }
        draw(place, &lines, args)
    })?;
    Ok(code.max(u8::from(failed)))
}

/// A directory on the way down: its path and what is still to be told of it, backwards.
struct Open {
    path: Vec<u8>,
    rest: Vec<(Vec<u8>, Attr)>,
}

fn collect(
    vfs: &dyn Vfs,
    place: &InImage,
    root: Ino,
    args: &TreeArgs,
    failed: &mut bool,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let limit = args.level.unwrap_or(DEPTH_MAX).min(DEPTH_MAX);
    let mut visited = Visited::default();
    let mut open = |path: Vec<u8>, dir: Ino| {
        let at = InImage {
            path,
            ..place.clone()
        };
        let rest = match visited.enter(&at, dir) {
            Ok(()) => entries(vfs, &at, dir, args, failed),
            Err(failure) => {
                failure.print();
                *failed = true;
                Vec::new()
            }
        };
        Open {
            path: at.path,
            rest,
        }
    };
    let mut stack = vec![open(place.path.clone(), root)];
    while let Some(top) = stack.last_mut() {
        let Some((name, attr)) = top.rest.pop() else {
            stack.pop();
            continue;
        };
        let (more, path) = (!top.rest.is_empty(), join(&top.path, &name));
        let link = attr.kind == FileType::Symlink;
        lines.push(Line {
            depth: stack.len(),
            more,
            target: link.then(|| vfs.readlink(attr.ino).ok()).flatten(),
            name,
            attr,
        });
        if attr.kind == FileType::Directory && stack.len() < limit {
            stack.push(open(path, attr.ino));
        }
    }
    lines
}

/// The entries of the directory at `place`, last first.
fn entries(
    vfs: &dyn Vfs,
    place: &InImage,
    dir: Ino,
    args: &TreeArgs,
    failed: &mut bool,
) -> Vec<(Vec<u8>, Attr)> {
    let mut complain_at = |path: Vec<u8>, error: &iomap_core::error::FsError| {
        let at = InImage {
            path,
            ..place.clone()
        };
        complain(&format!("{at}: {}", fs_words(error)));
        *failed = true;
    };
    let listed = match Walker::new(vfs).list_sorted(dir) {
        Ok(listed) => listed,
        Err(error) => {
            complain_at(place.path.clone(), &error);
            return Vec::new();
        }
    };
    let mut entries = Vec::new();
    for entry in listed.into_iter().rev() {
        let hidden = entry.name.starts_with(b".") && !args.all;
        if hidden || (args.directories && entry.kind != FileType::Directory) {
            continue;
        }
        match vfs.getattr(entry.ino) {
            Ok(attr) => entries.push((entry.name, attr)),
            Err(error) => complain_at(join(&place.path, &entry.name), &error),
        }
    }
    entries
}

fn draw(place: &InImage, lines: &[Line], args: &TreeArgs) -> Outcome<()> {
    let mut output = out::stdout();
    writeln!(output, "{place}")?;
    // For each level, whether its line goes on below.
    let mut bars: Vec<bool> = Vec::new();
    for line in lines {
        bars.truncate(line.depth - 1);
        let mut text = String::new();
        for bar in &bars {
            text.push_str(if *bar { "│   " } else { "    " });
        }
        text.push_str(if line.more {
            "├── "
        } else {
            "└── "
        });
        bars.push(line.more);
        if args.size && line.attr.kind == FileType::Regular {
            text.push_str(&format!("[{:>5}] ", human(line.attr.size)));
        }
        text.push_str(&out::styled(out::style(&line.attr), &out::name(&line.name)));
        if let Some(target) = &line.target {
            text.push_str(" -> ");
            text.push_str(&out::name(target));
        }
        writeln!(output, "{text}")?;
    }
    let (directories, files) = counts(lines);
    writeln!(output, "\n{directories} directories, {files} files")?;
    output.flush()?;
    Ok(())
}

fn counts(lines: &[Line]) -> (usize, usize) {
    let is_dir = |line: &&Line| line.attr.kind == FileType::Directory;
    let directories = lines.iter().filter(is_dir).count();
    (directories, lines.len() - directories)
}

/// A flat list with depths: nesting as deep as an image can be would break parsers.
fn print_json(place: &InImage, lines: &[Line]) -> Outcome<()> {
    let entries: Vec<_> = lines
        .iter()
        .map(|line| {
            let mut entry = Map::new();
            entry.insert("depth".to_owned(), line.depth.into());
            out::put_bytes(&mut entry, "name", &line.name);
            entry.extend(out::attr_json(&line.attr));
            if let Some(target) = &line.target {
                out::put_bytes(&mut entry, "target", target);
            }
            Value::Object(entry)
        })
        .collect();
    let (directories, files) = counts(lines);
    let mut object = place.json();
    object.insert("directories".to_owned(), json!(directories));
    object.insert("files".to_owned(), json!(files));
    object.insert("entries".to_owned(), entries.into());
    out::json("tree", Value::Object(object))
}
