//! `ls`: names in directories.
//!
//! Owns the formats of a listing: short, long and JSON. Sorted by name, byte by byte.

use std::io::Write;

use iomap_core::vfs::{Attr, FileType, Ino, Vfs};
use serde_json::{Map, Value, json};

use crate::cli::LsArgs;
use crate::failure::{Failure, Outcome, complain, fs_words};
use crate::image::{Access, Opening};
use crate::out::{self, human};
use crate::place::InImage;
use crate::walk::{Follow, Visited, Walker, join};

/// A line of a listing.
struct Row {
    name: Vec<u8>,
    attr: Attr,
    target: Option<Vec<u8>>,
}

/// What was listed under one heading.
struct Section {
    title: InImage,
    rows: Vec<Row>,
}

/// Lists.
pub(crate) fn run(args: &LsArgs, opening: &Opening) -> Outcome {
    let mut lister = Lister {
        args,
        sections: Vec::new(),
        failed: false,
    };
    let code = super::for_each_path(&args.paths, true, Access::Read, opening, |vfs, place| {
        lister.path(vfs, place)
    })?;
    let Lister {
        sections, failed, ..
    } = lister;
    if args.json.json {
        let listed: Vec<_> = sections.iter().map(section_json).collect();
        out::json("ls", json!({ "paths": listed }))?;
    } else {
        print(args, &sections)?;
    }
    Ok(code.max(u8::from(failed)))
}

struct Lister<'a> {
    args: &'a LsArgs,
    sections: Vec<Section>,
    /// Something in a directory could not be read.
    failed: bool,
}

impl Lister<'_> {
    fn path(&mut self, vfs: &dyn Vfs, place: &InImage) -> Outcome<()> {
        let follow = if self.args.long || self.args.directory {
            Follow::No
        } else {
            Follow::Yes
        };
        let attr = Walker::new(vfs).find(place, follow)?;
        if attr.kind == FileType::Directory && !self.args.directory {
            return self.tree(vfs, place, attr.ino);
        }
        let row = self.row(vfs, place.path.clone(), attr);
        self.sections.push(Section {
            title: place.clone(),
            rows: vec![row],
        });
        Ok(())
    }

    /// A directory, and with `-R` everything below, with a stack of its own: a deep image cannot
    /// exhaust the program's. Fails if the directory itself cannot be read.
    fn tree(&mut self, vfs: &dyn Vfs, place: &InImage, dir: Ino) -> Outcome<()> {
        let mut visited = Visited::default();
        visited.enter(place, dir)?;
        let mut stack = self.directory(vfs, place, dir)?;
        while let Some((place, dir)) = stack.pop() {
            let listed = visited
                .enter(&place, dir)
                .and_then(|()| self.directory(vfs, &place, dir));
            match listed {
                Ok(below) => stack.extend(below),
                Err(failure) => {
                    failure.print();
                    self.failed = true;
                }
            }
        }
        Ok(())
    }

    /// Lists one directory. Returns those to go on with, the last one first.
    fn directory(
        &mut self,
        vfs: &dyn Vfs,
        place: &InImage,
        dir: Ino,
    ) -> Outcome<Vec<(InImage, Ino)>> {
        let walker = Walker::new(vfs);
        let entries = walker
            .list_sorted(dir)
            .map_err(|error| Failure::of(place, fs_words(&error)))?;
        let mut rows = Vec::new();
        for entry in entries {
            if entry.name.starts_with(b".") && !self.args.all {
                continue;
            }
            match vfs.getattr(entry.ino) {
                Ok(attr) => rows.push(self.row(vfs, entry.name, attr)),
                Err(error) => {
                    let at = joined(place, &entry.name);
                    complain(&format!("{at}: {}", fs_words(&error)));
                    self.failed = true;
                }
            }
        }
        let below = rows
            .iter()
            .rev()
            .filter(|row| self.args.recursive && row.attr.kind == FileType::Directory)
            .map(|row| (joined(place, &row.name), row.attr.ino))
            .collect();
        self.sections.push(Section {
            title: place.clone(),
            rows,
        });
        Ok(below)
    }

    fn row(&self, vfs: &dyn Vfs, name: Vec<u8>, attr: Attr) -> Row {
        let wanted = attr.kind == FileType::Symlink && (self.args.long || self.args.json.json);
        Row {
            target: wanted.then(|| vfs.readlink(attr.ino).ok()).flatten(),
            name,
            attr,
        }
    }
}

fn joined(place: &InImage, name: &[u8]) -> InImage {
    InImage {
        path: join(&place.path, name),
        ..place.clone()
    }
}

fn section_json(section: &Section) -> Value {
    let mut object = section.title.json();
    let entries: Vec<_> = section
        .rows
        .iter()
        .map(|row| {
            let mut entry = Map::new();
            out::put_bytes(&mut entry, "name", &row.name);
            entry.extend(out::attr_json(&row.attr));
            if let Some(target) = &row.target {
                out::put_bytes(&mut entry, "target", target);
            }
            Value::Object(entry)
        })
        .collect();
    object.insert("entries".to_owned(), entries.into());
    Value::Object(object)
}

fn print(args: &LsArgs, sections: &[Section]) -> Outcome<()> {
    let mut output = out::stdout();
    let directories = |section: &Section| {
        !(section.rows.len() == 1 && section.rows[0].name == section.title.path)
    };
    for (index, section) in sections.iter().enumerate() {
        if sections.len() > 1 && directories(section) {
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(output, "{gap}{}:", section.title)?;
        }
        if args.long {
            print_long(args, &mut output, &section.rows)?;
        } else if args.one || !out::on_terminal() {
            for row in &section.rows {
                writeln!(output, "{}{}", inode(args, row), shown(row))?;
            }
        } else {
            print_columns(args, &mut output, &section.rows)?;
        }
    }
    output.flush()?;
    Ok(())
}

fn inode(args: &LsArgs, row: &Row) -> String {
    if args.inode {
        format!("{:>7} ", row.attr.ino.0)
    } else {
        String::new()
    }
}

fn shown(row: &Row) -> String {
    out::styled(out::style(&row.attr), &out::name(&row.name))
}

fn print_long(args: &LsArgs, output: &mut impl Write, rows: &[Row]) -> Outcome<()> {
    let sizes: Vec<_> = rows.iter().map(|row| size(args, &row.attr)).collect();
    let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let size_width = width(&mut sizes.iter().map(String::len));
    let uid_width = width(&mut rows.iter().map(|row| row.attr.uid.to_string().len()));
    let gid_width = width(&mut rows.iter().map(|row| row.attr.gid.to_string().len()));
    let link_width = width(&mut rows.iter().map(|row| row.attr.nlink.to_string().len()));
    for (row, size) in rows.iter().zip(&sizes) {
        let attr = &row.attr;
        let target = row
            .target
            .as_ref()
            .map(|target| format!(" -> {}", out::name(target)));
        writeln!(
            output,
            "{}{} {:>link_width$} {:>uid_width$} {:>gid_width$} {size:>size_width$} {} {}{}",
            inode(args, row),
            out::mode(attr),
            attr.nlink,
            attr.uid,
            attr.gid,
            out::time_short(attr.mtime),
            shown(row),
            target.unwrap_or_default(),
        )?;
    }
    Ok(())
}

fn size(args: &LsArgs, attr: &Attr) -> String {
    match attr.kind {
        FileType::CharDevice | FileType::BlockDevice => format!(
            "{}, {}",
            rustix::fs::major(attr.rdev),
            rustix::fs::minor(attr.rdev)
        ),
        _ if args.human => human(attr.size),
        _ => attr.size.to_string(),
    }
}

/// As many columns as fit, filled downwards.
fn print_columns(args: &LsArgs, output: &mut impl Write, rows: &[Row]) -> Outcome<()> {
    let plain: Vec<_> = rows
        .iter()
        .map(|row| inode(args, row).len() + out::printable(&row.name).chars().count())
        .collect();
    let cell = plain.iter().max().unwrap_or(&0) + 2;
    let columns = (terminal_width() / cell).max(1);
    let lines = rows.len().div_ceil(columns);
    for line in 0..lines {
        let mut text = String::new();
        for at in (line..rows.len()).step_by(lines) {
            text.push_str(&inode(args, &rows[at]));
            text.push_str(&shown(&rows[at]));
            let last = at + lines >= rows.len();
            let gap = if last { 0 } else { cell - plain[at] };
            text.extend(std::iter::repeat_n(' ', gap));
        }
        writeln!(output, "{text}")?;
    }
    Ok(())
}

/// Columns of the terminal; 80 if there is none.
pub(crate) fn terminal_width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    match size.map(|size| usize::from(size.ws_col)) {
        Ok(columns) if columns > 0 => columns,
        _ => 80,
    }
}
