//! `cat`: the bytes of files.

use std::io::Write;

use iomap_core::units::FilePos;
use iomap_core::vfs::{FileType, IoFlags, OpenFlags, Vfs};

use crate::cli::CatArgs;
use crate::failure::{Failure, Outcome, fs_words};
use crate::image::{Access, Opening};
use crate::place::InImage;
use crate::walk::{Follow, Walker};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Prints each file.
pub(crate) fn run(args: &CatArgs, opening: &Opening) -> Outcome {
    let mut buffer = vec![0; CHUNK];
    super::for_each_path(&args.paths, false, Access::Read, opening, |vfs, place| {
        print(vfs, place, &mut buffer)
    })
}

fn print(vfs: &dyn Vfs, place: &InImage, buffer: &mut [u8]) -> Outcome<()> {
    let attr = Walker::new(vfs).find(place, Follow::Yes)?;
    if attr.kind != FileType::Regular {
        let what = format!(
            "is a {}, which has no bytes to print",
            crate::out::kind_name(attr.kind)
        );
        return Err(Failure::of(place, what));
    }
    let failed = |error: &iomap_core::error::FsError| Failure::of(place, fs_words(error));
    let file = vfs
        .open(attr.ino, OpenFlags::READ)
        .map_err(|e| failed(&e))?;
    let mut pos = FilePos::ZERO;
    let mut output = std::io::stdout().lock();
    loop {
        let n = file
            .read_at(pos, buffer, IoFlags::empty())
            .map_err(|e| failed(&e))?;
        if n == 0 {
            return Ok(output.flush()?);
        }
        output.write_all(&buffer[..n])?;
        pos = pos.saturating_add(n as u64);
    }
}
