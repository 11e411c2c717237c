//! `mkfs`: an empty file system in a file or on a block device.
//!
//! Owns the rule that nothing of value is overwritten without `--force`, and that a file made in
//! vain does not stay.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use iomap_core::device::{BlockDevice, FileDevice, OpenError, OpenOptions};

use crate::backend::{self, MkfsRequest};
use crate::cli::MkfsArgs;
use crate::failure::{Failure, Outcome};
use crate::image::{Access, Opening, read_head, refused, type_named, usable};
use crate::size::Size;

/// An identity, as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Uuid([u8; 16]);

impl FromStr for Uuid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("'{text}' is no UUID; it looks like 01234567-89ab-cdef-0123-456789abcdef");
        let lengths: Vec<_> = text.split('-').map(str::len).collect();
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
        if !(lengths == [8, 4, 4, 4, 12] || lengths == [32]) {
            return Err(wrong());
        }
        let digit = |at: usize| {
            let digit = char::from(digits[at]).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let mut bytes = [0; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            let pair = digit(at * 2).zip(digit(at * 2 + 1));
            let (high, low) = pair.ok_or_else(wrong)?;
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

/// Makes a file system.
pub(crate) fn run(args: &MkfsArgs, opening: &Opening) -> Outcome {
    let Some(name) = &opening.forced else {
        return Err(
            Failure::usage("which type of file system? Say it with -t").hint(format!(
                "the types are: {}; for example -t testfs",
                backend::usable_names()
            )),
        );
    };
    let driver = usable(type_named(name)?)?;
    let block_size = match args.block_size.map(|size| u32::try_from(size.bytes())) {
        Some(Err(_)) => return Err(Failure::usage("--block-size is too large")),
        Some(Ok(size)) => Some(size),
        None => None,
    };
    let made = existing(&args.image, args)?;
    let device = open(&args.image, args, made)?;
    let me = crate::verbs::me();
    let request = MkfsRequest {
        block_size,
        label: args.label.clone(),
        uuid: args.uuid.map(|uuid| uuid.0),
        root_owner: args.root_owner.map_or(me, |pair| (pair.0, pair.1)),
    };
    let size = device.size();
    driver.mkfs(device, &request).map_err(|why| {
        discard(&args.image, made);
        Failure::of(args.image.display(), format!("cannot be formatted: {why}"))
    })?;
    println_quietly(&format!(
        "{}: an empty {name} of {}",
        args.image.display(),
        crate::out::human(size)
    ));
    Ok(0)
}

/// What was made in vain is of no use to anybody; the message says what happened.
fn discard(image: &Path, made: bool) {
    if made {
        let _ = std::fs::remove_file(image);
    }
}

/// A line that nobody needs: if it cannot be written, so be it.
fn println_quietly(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Looks at what is there. Returns whether the file will be made.
fn existing(path: &Path, args: &MkfsArgs) -> Outcome<bool> {
    let Ok(meta) = std::fs::metadata(path) else {
        let above = path.parent().filter(|above| !above.as_os_str().is_empty());
        if let Some(above) = above.filter(|above| !above.is_dir()) {
            return Err(Failure::of(
                path.display(),
                format!("there is no directory {}", above.display()),
            ));
        }
        return match args.size {
            Some(_) => Ok(true),
            None => Err(Failure::of(path.display(), "there is no such file")
                .hint("--size makes it, for example --size 1G")),
        };
    };
    let head = read_head(path)?;
    if head.is_empty() {
        return match args.size {
            Some(_) => Ok(false),
            None => Err(Failure::of(path.display(), "is empty")
                .hint("--size gives it a size, for example --size 1G")),
        };
    }
    if meta.is_file() && args.size.is_some_and(|size| size.bytes() != meta.len()) {
        return Err(Failure::of(
            path.display(),
            format!("is there already, with {} bytes", meta.len()),
        )
        .hint("without --size it keeps its size; else remove it first"));
    }
    if args.force {
        return Ok(false);
    }
    let what = match (backend::by_magic(&head), backend::foreign(&head)) {
        (Some(found), _) => format!("holds {} already", found.name),
        (None, Some(what)) => format!("looks like {what}"),
        (None, None) if head.iter().all(|byte| *byte == 0) => return Ok(false),
        (None, None) => "holds something already".to_owned(),
    };
    Err(Failure::of(path.display(), what).hint("--force formats it, and everything on it is lost"))
}

fn open(path: &Path, args: &MkfsArgs, made: bool) -> Outcome<Arc<dyn BlockDevice>> {
    let options = OpenOptions {
        create_size: args.size.map(Size::bytes),
        ..OpenOptions::default()
    };
    match FileDevice::open(path, &options) {
        Ok(device) => Ok(Arc::new(device)),
        Err(error) => {
            // Somebody else may have made it meanwhile, and uses it.
            discard(path, made && !matches!(error, OpenError::Locked(_)));
            Err(refused(&error, Access::Write))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_read_with_and_without_dashes() {
        let bytes = std::array::from_fn(|n| n as u8 * 0x11);
        for text in [
            "00112233-4455-6677-8899-aabbccddeeff",
            "00112233445566778899AABBCCDDEEFF",
        ] {
            assert_eq!(text.parse(), Ok(Uuid(bytes)));
        }
        for text in ["", "0011", "00112233-4455-6677-8899-aabbccddeefg", "0-0"] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }
}
