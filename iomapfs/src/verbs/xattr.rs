//! `getxattr`, `setxattr`, `removexattr`, `listxattr`: extended attributes.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use iomap_core::error::{Errno, FsError};
use iomap_core::vfs::{Vfs, XattrMode};
use serde_json::{Map, Value, json};

use crate::cli::{GetxattrArgs, ListxattrArgs, RemovexattrArgs, SetxattrArgs};
use crate::failure::{Failure, Outcome, fs_words};
use crate::image::{Access, Image, Opening};
use crate::out::{self, printable};
use crate::place::InImage;
use crate::walk::{Follow, Walker};

/// Prints one.
pub(crate) fn get(args: &GetxattrArgs, opening: &Opening) -> Outcome {
    let place = InImage::parse(&args.path)?;
    let value = Image::with(&place.image, Access::Read, opening, |image| {
        let attr = Walker::new(&**image.vfs()).find(&place, follow(args.no_dereference))?;
        let value = image.vfs().getxattr(attr.ino, args.name.as_bytes());
        value.map_err(|error| wrong(&place, &args.name, &error))
    })?;
    let mut output = std::io::stdout();
    let harmless = out::on_terminal() && printable(&value).as_bytes() != value;
    match args.hex || harmless {
        true => writeln!(output, "0x{}", out::hex(&value))?,
        false => {
            output.write_all(&value)?;
            if out::on_terminal() {
                writeln!(output)?;
            }
        }
    }
    output.flush()?;
    Ok(0)
}

/// Sets one.
pub(crate) fn set(args: &SetxattrArgs, opening: &Opening) -> Outcome {
    let mode = match (args.create, args.replace) {
        (true, _) => XattrMode::Create,
        (_, true) => XattrMode::Replace,
        _ => XattrMode::Any,
    };
    let value = match args.hex {
        true => unhex(&args.value)?,
        false => args.value.as_bytes().to_vec(),
    };
    change(
        &args.path,
        args.no_dereference,
        &args.name,
        opening,
        |vfs, ino| vfs.setxattr(ino, args.name.as_bytes(), &value, mode),
    )
}

/// Removes one.
pub(crate) fn remove(args: &RemovexattrArgs, opening: &Opening) -> Outcome {
    change(
        &args.path,
        args.no_dereference,
        &args.name,
        opening,
        |vfs, ino| vfs.removexattr(ino, args.name.as_bytes()),
    )
}

/// Lists them.
pub(crate) fn list(args: &ListxattrArgs, opening: &Opening) -> Outcome {
    let mut told = Vec::new();
    let code = super::for_each_path(&args.paths, true, Access::Read, opening, |vfs, place| {
        let attr = Walker::new(vfs).find(place, follow(args.no_dereference))?;
        let failed = |error: &FsError| Failure::of(place, fs_words(error));
        let mut names = vfs.listxattr(attr.ino).map_err(|e| failed(&e))?;
        names.sort();
        let mut rows = Vec::new();
        for name in names {
            let value = match args.dump || args.json.json {
                true => Some(vfs.getxattr(attr.ino, &name).map_err(|e| failed(&e))?),
                false => None,
            };
            rows.push((name, value));
        }
        told.push((place.clone(), rows));
        Ok(())
    })?;
    if args.json.json {
        let paths: Vec<_> = told
            .iter()
            .map(|(place, rows)| list_json(place, rows))
            .collect();
        out::json("listxattr", json!({ "paths": paths }))?;
        return Ok(code);
    }
    let mut output = out::stdout();
    for (place, rows) in &told {
        if told.len() > 1 {
            writeln!(output, "# {place}")?;
        }
        for (name, value) in rows {
            match value {
                Some(value) => writeln!(output, "{}=\"{}\"", printable(name), printable(value))?,
                None => writeln!(output, "{}", printable(name))?,
            }
        }
    }
    output.flush()?;
    Ok(code)
}

type Rows = [(Vec<u8>, Option<Vec<u8>>)];

fn list_json(place: &InImage, rows: &Rows) -> Value {
    let mut object = place.json();
    let xattrs: Vec<_> = rows
        .iter()
        .map(|(name, value)| {
            let mut one = Map::new();
            out::put_bytes(&mut one, "name", name);
            out::put_bytes(&mut one, "value", value.as_deref().unwrap_or_default());
            Value::Object(one)
        })
        .collect();
    object.insert("xattrs".to_owned(), xattrs.into());
    Value::Object(object)
}

const fn follow(no_dereference: bool) -> Follow {
    if no_dereference {
        Follow::No
    } else {
        Follow::Yes
    }
}

fn change(
    path: &OsStr,
    no_dereference: bool,
    name: &OsStr,
    opening: &Opening,
    f: impl FnOnce(&dyn Vfs, iomap_core::vfs::Ino) -> iomap_core::error::Result<()>,
) -> Outcome {
    let place = InImage::parse(path)?;
    Image::with(&place.image, Access::Write, opening, |image| {
        let vfs = &**image.vfs();
        let attr = Walker::new(vfs).find(&place, follow(no_dereference))?;
        f(vfs, attr.ino).map_err(|error| wrong(&place, name, &error))
    })?;
    Ok(0)
}

/// What is wrong with one attribute.
fn wrong(place: &InImage, name: &OsStr, error: &FsError) -> Failure {
    let shown = printable(name.as_bytes());
    if error.errno() == Errno::NODATA {
        return Failure::of(place, format!("has no attribute '{shown}'"));
    }
    let failure = Failure::of(place, format!("attribute '{shown}': {}", fs_words(error)));
    match error.errno() {
        Errno::OPNOTSUPP => {
            failure.hint("a name begins with its namespace: user., trusted. or security.")
        }
        _ => failure,
    }
}

fn unhex(text: &OsStr) -> Outcome<Vec<u8>> {
    let digits = text.as_bytes();
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    let pair = |pair: &[u8]| {
        let text = str::from_utf8(pair).ok()?;
        (text.len() == 2)
            .then(|| u8::from_str_radix(text, 16).ok())
            .flatten()
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(pair).collect();
    bytes.ok_or_else(|| Failure::usage(format!("'{}' is no hexadecimal value", text.display())))
}
