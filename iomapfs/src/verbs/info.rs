//! `info` and `df`: what is said about a whole image.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::backend::by_magic;
use crate::cli::{DfArgs, InfoArgs};
use crate::failure::{Failure, Outcome, fs_words};
use crate::image::{Access, Image, Opening, open_device, read_head};
use crate::out::{self, human};

/// Tells what the superblock says.
pub(crate) fn info(args: &InfoArgs, opening: &Opening) -> Outcome {
    let path = &args.image;
    let (driver, device) = open_device(path, Access::Read, opening)?;
    let found = by_magic(&read_head(path)?).map_or("unknown", |t| t.name);
    let name = opening.forced.as_deref().unwrap_or(found);
    let size = device.size();
    let facts = driver
        .info(device)
        .map_err(|why| Failure::of(path.display(), why))?;
    if args.json.json {
        let mut object = Map::new();
        object.insert("image".to_owned(), path.display().to_string().into());
        object.insert("type".to_owned(), name.into());
        object.insert("image_bytes".to_owned(), size.into());
        let facts = facts
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value));
        object.extend(facts);
        out::json("info", Value::Object(object))?;
        return Ok(0);
    }
    let mut output = out::stdout();
    let mut line = |key: &str, value: &str| writeln!(output, "{:<20}{value}", format!("{key}:"));
    line("image", &path.display().to_string())?;
    line("type", name)?;
    line("image size", &format!("{size} ({})", human(size)))?;
    for (key, value) in &facts {
        let text = match value {
            Value::String(text) if text.is_empty() => "none".to_owned(),
            Value::String(text) => out::printable(text.as_bytes()),
            other => other.to_string(),
        };
        let (key, text) = match (*key, value.as_i64()) {
            ("created_secs", Some(secs)) => {
                let time = iomap_core::vfs::Timestamp { secs, nanos: 0 };
                ("created", out::time_short(time))
            }
            (key, _) => (key, text),
        };
        line(&key.replace('_', " "), &text)?;
    }
    output.flush()?;
    Ok(0)
}

/// Tells the space of each image.
pub(crate) fn df(args: &DfArgs, opening: &Opening) -> Outcome {
    let mut rows = Vec::new();
    let mut code = 0;
    for path in &args.images {
        let found = Image::with(path, Access::Read, opening, |image| {
            image
                .vfs()
                .statfs()
                .map_err(|e| Failure::of(path.display(), fs_words(&e)))
        });
        match found {
            Ok(found) => rows.push((path, found)),
            Err(failure) => super::note(&failure, &mut code)?,
        }
    }
    if args.json.json {
        let images: Vec<_> = rows
            .iter()
            .map(|(path, found)| {
                json!({
                    "image": path.display().to_string(),
                    "block_size": found.block_size,
                    "blocks": found.blocks,
                    "blocks_free": found.blocks_free,
                    "blocks_available": found.blocks_available,
                    "inodes": found.files,
                    "inodes_free": found.files_free,
                })
            })
            .collect();
        out::json("df", json!({ "images": images }))?;
        return Ok(code);
    }
    let mut output = out::stdout();
    let unit = if args.human { "Size" } else { "1K-blocks" };
    writeln!(
        output,
        "{unit:>12} {:>12} {:>12} {:>5} {:>10} Image",
        "Used", "Avail", "Use%", "Inodes"
    )?;
    for (path, found) in &rows {
        let block = u64::from(found.block_size);
        let bytes = |blocks: u64| blocks.saturating_mul(block);
        let used = found.blocks.saturating_sub(found.blocks_free);
        let show = |bytes: u64| {
            if args.human {
                human(bytes)
            } else {
                (bytes / 1024).to_string()
            }
        };
        let reachable = used.saturating_add(found.blocks_available).max(1);
        let percent = (u128::from(used) * 100).div_ceil(u128::from(reachable));
        writeln!(
            output,
            "{:>12} {:>12} {:>12} {percent:>4}% {:>10} {}",
            show(bytes(found.blocks)),
            show(bytes(used)),
            show(bytes(found.blocks_available)),
            found.files.saturating_sub(found.files_free),
            path.display(),
        )?;
    }
    output.flush()?;
    Ok(code)
}
