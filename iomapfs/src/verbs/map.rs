//! `map`: where the bytes of a file are.
//!
//! Owns the table and the pictures: one of the file, one of the device. Where the bytes are is asked
//! of the file system ([`fiemap`](iomap_core::fiemap)).

use std::io::Write;

use iomap_core::fiemap::{Extent, ExtentFlags};
use iomap_core::units::FileRange;
use iomap_core::vfs::{FileType, OpenFlags, Vfs};
use serde_json::{Value, json};

use crate::cli::MapArgs;
use crate::failure::{Failure, Outcome, fs_words};
use crate::image::{Access, Opening};
use crate::out::{self, human};
use crate::place::InImage;
use crate::walk::{Follow, Walker};

/// Cells of a picture at most.
const WIDTH_MAX: usize = 100;

/// A file and where it is.
struct Mapped {
    place: InImage,
    size: u64,
    device: u64,
    extents: Vec<Extent>,
}

/// Maps each file.
pub(crate) fn run(args: &MapArgs, opening: &Opening) -> Outcome {
    let mut files = Vec::new();
    let code = super::for_each_path(&args.paths, false, Access::Read, opening, |vfs, place| {
        files.push(look(vfs, place)?);
        Ok(())
    })?;
    if args.json.json {
        let files: Vec<_> = files.iter().map(file_json).collect();
        out::json("map", json!({ "files": files }))?;
        return Ok(code);
    }
    let mut output = out::stdout();
    for (index, file) in files.iter().enumerate() {
        if index > 0 {
            writeln!(output)?;
        }
        print(&mut output, args, file)?;
    }
    output.flush()?;
    Ok(code)
}

fn look(vfs: &dyn Vfs, place: &InImage) -> Outcome<Mapped> {
    let attr = Walker::new(vfs).find(place, Follow::Yes)?;
    if attr.kind != FileType::Regular {
        let what = format!("is a {}, which has no extents", out::kind_name(attr.kind));
        return Err(Failure::of(place, what));
    }
    let failed = |error| Failure::of(place, fs_words(&error));
    let file = vfs.open(attr.ino, OpenFlags::READ).map_err(failed)?;
    let extents = file.fiemap(FileRange::ALL, false).map_err(failed)?;
    let found = vfs.statfs().map_err(failed)?;
    Ok(Mapped {
        place: place.clone(),
        size: attr.size,
        device: found.blocks.saturating_mul(found.block_size.into()),
        extents,
    })
}

/// The names of the flags that are set.
fn flag_names(flags: ExtentFlags) -> Vec<String> {
    flags
        .iter_names()
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect()
}

fn file_json(file: &Mapped) -> Value {
    let mut object = file.place.json();
    object.insert("size".to_owned(), file.size.into());
    let extents: Vec<_> = file
        .extents
        .iter()
        .map(|extent| {
            json!({
                "offset": extent.range.start().bytes(),
                "length": extent.range.len(),
                "physical": extent.physical.map(|addr| addr.bytes()),
                "flags": flag_names(extent.flags),
            })
        })
        .collect();
    object.insert("extents".to_owned(), extents.into());
    Value::Object(object)
}

fn print(output: &mut impl Write, args: &MapArgs, file: &Mapped) -> Outcome<()> {
    let count = file.extents.len();
    let plural = if count == 1 { "" } else { "s" };
    writeln!(
        output,
        "{}: {} bytes, {count} extent{plural}",
        file.place, file.size
    )?;
    table(output, file)?;
    if !args.no_picture && file.size > 0 {
        pictures(output, args, file)?;
    }
    Ok(())
}

/// One line for each extent, and for each hole.
fn table(output: &mut impl Write, file: &Mapped) -> Outcome<()> {
    let mut row = |number: &str, start: &str, physical: &str, length: &str, flags: &str| {
        let line = format!("{number:>5}  {start:>16}  {physical:>16}  {length:>14}  {flags}");
        writeln!(output, "{}", line.trim_end())
    };
    type Row<'a> = dyn FnMut(&str, &str, &str, &str, &str) -> std::io::Result<()> + 'a;
    let hole = |row: &mut Row<'_>, from: u64, to: u64| match to > from {
        true => row("", &from.to_string(), "-", &(to - from).to_string(), "hole"),
        false => Ok(()),
    };
    row("#", "offset", "on the device", "length", "flags")?;
    let mut end = 0;
    for (index, extent) in file.extents.iter().enumerate() {
        let start = extent.range.start().bytes();
        hole(&mut row, end, start)?;
        end = extent.range.end().bytes();
        let physical = extent.physical.map(|addr| addr.bytes().to_string());
        row(
            &index.to_string(),
            &start.to_string(),
            physical.as_deref().unwrap_or("-"),
            &extent.range.len().to_string(),
            &flag_names(extent.flags).join(" "),
        )?;
    }
    hole(&mut row, end, file.size)?;
    Ok(())
}

/// The file, and where on the device it is.
fn pictures(output: &mut impl Write, args: &MapArgs, file: &Mapped) -> Outcome<()> {
    let width = super::list::terminal_width().saturating_sub(12);
    let width = width.clamp(16, WIDTH_MAX);
    let symbols = if args.ascii { &ASCII } else { &BLOCKS };
    let extents = || file.extents.iter();
    let ends = extents().map(|extent| extent.range.end().bytes());
    let end = ends.fold(file.size, u64::max);
    let logical = extents().map(|extent| {
        let range = extent.range;
        (range.start().bytes(), range.len(), kind_of(extent.flags))
    });
    let physical = extents().filter_map(|extent| {
        let addr = extent.physical?.bytes();
        Some((addr, extent.range.len(), kind_of(extent.flags)))
    });
    for (name, total, cells) in [
        ("file", end, picture(end, width, logical)),
        ("device", file.device, picture(file.device, width, physical)),
    ] {
        writeln!(
            output,
            "  {name:<6}  {}  {}",
            symbols.draw(&cells),
            human(total)
        )?;
    }
    let [hole, data, unwritten, shared, mixed] = symbols.0;
    writeln!(
        output,
        "          {hole} hole or others  {data} data  {unwritten} unwritten  {shared} shared  {mixed} several kinds"
    )?;
    Ok(())
}

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Nothing,
    Data,
    Unwritten,
    Shared,
    Mixed,
}

/// The characters for the cells, in the order of [`Cell`].
struct Symbols([char; 5]);

const BLOCKS: Symbols = Symbols(['·', '█', '░', '▓', '▒']);
const ASCII: Symbols = Symbols(['.', '#', 'u', 's', '+']);

impl Symbols {
    fn draw(&self, cells: &[Cell]) -> String {
        cells.iter().map(|cell| self.0[*cell as usize]).collect()
    }
}

const fn kind_of(flags: ExtentFlags) -> Cell {
    if flags.contains(ExtentFlags::UNWRITTEN) {
        Cell::Unwritten
    } else if flags.contains(ExtentFlags::SHARED) {
        Cell::Shared
    } else {
        Cell::Data
    }
}

/// `total` bytes in `width` cells: a cell shows the kind that has a byte in it.
fn picture(total: u64, width: usize, parts: impl Iterator<Item = (u64, u64, Cell)>) -> Vec<Cell> {
    let mut cells = vec![Cell::Nothing; width];
    let (total, cells_all) = (u128::from(total.max(1)), width as u128);
    // At most `width`, which is a usize.
    let bound = |cell: u128| cell.min(cells_all) as usize;
    for (start, len, kind) in parts.filter(|part| part.1 > 0) {
        let end = u128::from(start) + u128::from(len);
        let first = bound(u128::from(start) * cells_all / total).min(width - 1);
        let past = bound((end * cells_all).div_ceil(total)).max(first + 1);
        for cell in &mut cells[first..past] {
            *cell = match *cell {
                Cell::Nothing => kind,
                same if same == kind => same,
                _ => Cell::Mixed,
            };
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(total: u64, width: usize, parts: &[(u64, u64, Cell)]) -> String {
        ASCII.draw(&picture(total, width, parts.iter().copied()))
    }

    #[test]
    fn a_cell_shows_what_has_a_byte_in_it() {
        let parts = [
            (0, 10, Cell::Data),
            (10, 1, Cell::Unwritten),
            (90, 10, Cell::Shared),
        ];
        assert_eq!(drawn(100, 10, &parts), "#u.......s");
        assert_eq!(drawn(100, 5, &parts), "+...s");
    }

    #[test]
    fn pictures_of_nothing_and_of_too_much_do_not_panic() {
        assert_eq!(drawn(0, 3, &[(0, 1, Cell::Data)]), "###");
        assert_eq!(drawn(10, 3, &[(u64::MAX, u64::MAX, Cell::Data)]), "..#");
        assert_eq!(drawn(u64::MAX, 3, &[(0, u64::MAX, Cell::Data)]), "###");
    }
}
