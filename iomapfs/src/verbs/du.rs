//! `du`: space used, directory by directory.
//!
//! Owns the counting: an inode with several names counts once in a run, at the first name.

use std::collections::HashSet;
use std::io::Write;

use iomap_core::vfs::{Attr, FileType, Ino, Vfs};
use serde_json::{Value, json};

use crate::cli::DuArgs;
use crate::failure::{Outcome, complain, fs_words};
use crate::image::{Access, Opening};
use crate::out::{self, human};
use crate::place::InImage;
use crate::walk::{Follow, Visited, Walker, join};

struct Row {
    place: InImage,
    bytes: u64,
}

struct Counter<'a> {
    args: &'a DuArgs,
    rows: Vec<Row>,
    seen: HashSet<Ino>,
    failed: bool,
}

/// A directory that is being counted.
struct Open {
    place: InImage,
    bytes: u64,
    rest: Vec<(Vec<u8>, Attr)>,
}

/// Counts each path.
pub(crate) fn run(args: &DuArgs, opening: &Opening) -> Outcome {
    let mut counter = Counter {
        args,
        rows: Vec::new(),
        seen: HashSet::new(),
        failed: false,
    };
    let mut image = std::path::PathBuf::new();
    let code = super::for_each_path(&args.paths, true, Access::Read, opening, |vfs, place| {
        if image != place.image {
            // Inode numbers mean something in one image.
            counter.seen.clear();
            image.clone_from(&place.image);
        }
        let attr = Walker::new(vfs).find(place, Follow::No)?;
        counter.count(vfs, place, &attr);
        Ok(())
    })?;
    let code = code.max(u8::from(counter.failed));
    if args.json.json {
        let rows: Vec<_> = counter.rows.iter().map(row_json).collect();
        out::json("du", json!({ "paths": rows }))?;
        return Ok(code);
    }
    let mut output = out::stdout();
    for row in &counter.rows {
        let size = if args.human {
            human(row.bytes)
        } else {
            row.bytes.div_ceil(1024).to_string()
        };
        writeln!(output, "{size}\t{}", row.place)?;
    }
    output.flush()?;
    Ok(code)
}

fn row_json(row: &Row) -> Value {
    let mut object = row.place.json();
    object.insert("bytes".to_owned(), row.bytes.into());
    Value::Object(object)
}

impl Counter<'_> {
    fn count(&mut self, vfs: &dyn Vfs, place: &InImage, attr: &Attr) {
        let own = self.own(attr);
        if attr.kind != FileType::Directory {
            self.rows.push(Row {
                place: place.clone(),
                bytes: own,
            });
            return;
        }
        let mut visited = Visited::default();
        let mut stack = vec![self.open(vfs, &mut visited, place.clone(), (attr.ino, own))];
        while let Some(top) = stack.last_mut() {
            if let Some((name, attr)) = top.rest.pop() {
                let place = InImage {
                    path: join(&top.place.path, &name),
                    ..top.place.clone()
                };
                let own = self.own(&attr);
                if attr.kind == FileType::Directory {
                    let open = self.open(vfs, &mut visited, place, (attr.ino, own));
                    stack.push(open);
                    continue;
                }
                top.bytes = top.bytes.saturating_add(own);
                if self.args.all && !self.args.summarize {
                    self.rows.push(Row { place, bytes: own });
                }
                continue;
            }
            let Some(done) = stack.pop() else { return };
            if let Some(above) = stack.last_mut() {
                above.bytes = above.bytes.saturating_add(done.bytes);
            }
            if stack.is_empty() || !self.args.summarize {
                self.rows.push(Row {
                    place: done.place,
                    bytes: done.bytes,
                });
            }
        }
    }

    /// What an inode adds: nothing if it was counted before.
    fn own(&mut self, attr: &Attr) -> u64 {
        let several = attr.nlink > 1 && attr.kind != FileType::Directory;
        if several && !self.seen.insert(attr.ino) {
            return 0;
        }
        match self.args.apparent_size {
            true => attr.size,
            false => attr.blocks.saturating_mul(512),
        }
    }

    /// A directory whose own space is `bytes`.
    fn open(
        &mut self,
        vfs: &dyn Vfs,
        visited: &mut Visited,
        place: InImage,
        (dir, bytes): (Ino, u64),
    ) -> Open {
        let mut rest = Vec::new();
        if let Err(failure) = visited.enter(&place, dir) {
            failure.print();
            self.failed = true;
            return Open { place, bytes, rest };
        }
        match Walker::new(vfs).list_sorted(dir) {
            Ok(entries) => {
                for entry in entries.into_iter().rev() {
                    match vfs.getattr(entry.ino) {
                        Ok(attr) => rest.push((entry.name, attr)),
                        Err(error) => self.complain(&place, &error),
                    }
                }
            }
            Err(error) => self.complain(&place, &error),
        }
        Open { place, bytes, rest }
    }

    fn complain(&mut self, place: &InImage, error: &iomap_core::error::FsError) {
        complain(&format!("{place}: {}", fs_words(error)));
        self.failed = true;
    }
}
