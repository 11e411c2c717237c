//! `stat`: everything about inodes.

use std::io::Write;

use iomap_core::vfs::{Attr, FileType, Vfs};
use serde_json::{Value, json};

use crate::cli::StatArgs;
use crate::failure::{Outcome, fs_words};
use crate::image::{Access, Opening};
use crate::out;
use crate::place::InImage;
use crate::walk::{Follow, Walker};

/// What is told of one path.
struct Told {
    place: InImage,
    attr: Attr,
    target: Option<Vec<u8>>,
    xattrs: Vec<Vec<u8>>,
}

/// Tells everything about each path.
pub(crate) fn run(args: &StatArgs, opening: &Opening) -> Outcome {
    let follow = if args.dereference {
        Follow::Yes
    } else {
        Follow::No
    };
    let mut told = Vec::new();
    let code = super::for_each_path(&args.paths, true, Access::Read, opening, |vfs, place| {
        told.push(look(vfs, place, follow)?);
        Ok(())
    })?;
    if args.json.json {
        let paths: Vec<_> = told.iter().map(told_json).collect();
        out::json("stat", json!({ "paths": paths }))?;
        return Ok(code);
    }
    let mut output = out::stdout();
    for one in &told {
        print(&mut output, one)?;
    }
    output.flush()?;
    Ok(code)
}

fn look(vfs: &dyn Vfs, place: &InImage, follow: Follow) -> Outcome<Told> {
    let attr = Walker::new(vfs).find(place, follow)?;
    let failed =
        |error: &iomap_core::error::FsError| crate::failure::Failure::of(place, fs_words(error));
    let target = match attr.kind {
        FileType::Symlink => Some(vfs.readlink(attr.ino).map_err(|e| failed(&e))?),
        _ => None,
    };
    let mut xattrs = vfs.listxattr(attr.ino).map_err(|e| failed(&e))?;
    xattrs.sort();
    Ok(Told {
        place: place.clone(),
        attr,
        target,
        xattrs,
    })
}

fn told_json(told: &Told) -> Value {
    let mut object = told.place.json();
    object.extend(out::attr_json(&told.attr));
    object.insert("generation".to_owned(), told.attr.generation.into());
    object.insert("block_size".to_owned(), told.attr.block_size.into());
    if let Some(target) = &told.target {
        out::put_bytes(&mut object, "target", target);
    }
    let names: Vec<_> = told
        .xattrs
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    object.insert("xattrs".to_owned(), json!(names));
    Value::Object(object)
}

fn print(output: &mut impl Write, told: &Told) -> Outcome<()> {
    let attr = &told.attr;
    let target = told
        .target
        .as_ref()
        .map(|target| format!(" -> {}", out::name(target)));
    writeln!(
        output,
        "  File: {}{}",
        told.place,
        target.unwrap_or_default()
    )?;
    writeln!(
        output,
        "  Size: {:<14} Blocks: {:<10} IO Block: {:<6} {}",
        attr.size,
        attr.blocks,
        attr.block_size,
        out::kind_name(attr.kind)
    )?;
    let device = match attr.kind {
        FileType::CharDevice | FileType::BlockDevice => format!(
            "  Device type: {},{}",
            rustix::fs::major(attr.rdev),
            rustix::fs::minor(attr.rdev)
        ),
        _ => String::new(),
    };
    writeln!(
        output,
        " Inode: {:<14} Links: {}{device}",
        attr.ino.0, attr.nlink
    )?;
    writeln!(
        output,
        "Access: ({:04o}/{})  Uid: {}  Gid: {}",
        attr.mode,
        out::mode(attr),
        attr.uid,
        attr.gid
    )?;
    for (name, time) in [
        ("Access", attr.atime),
        ("Modify", attr.mtime),
        ("Change", attr.ctime),
        (" Birth", attr.btime),
    ] {
        writeln!(output, "{name}: {}", out::time_long(time))?;
    }
    if !told.xattrs.is_empty() {
        let names: Vec<_> = told
            .xattrs
            .iter()
            .map(|name| out::printable(name))
            .collect();
        writeln!(output, "Xattrs: {}", names.join(" "))?;
    }
    Ok(())
}
