//! Being called by mount(8): `mount.iomapfs DEV DIR [-sfnv] [-o …]`, also as `mount.fuse.iomapfs`,
//! and as mount.fuse calls what is named in `fuse.iomapfs`: `iomapfs DEV DIR -o …`.
//!
//! Owns that syntax, which is older than `--help`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::options::Wanted;
use super::{Job, code};
use crate::failure::{Failure, Outcome};

const USAGE: &str = "usage: mount.iomapfs IMAGE DIR [-sfnvrw] [-o OPTIONS]";

/// Whether the program was called as a mount helper.
pub(crate) fn is_called(args: &[OsString]) -> bool {
    let name = args.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name.as_bytes().starts_with(b"mount.")) {
        return true;
    }
    // As mount.fuse does it: no verb has a slash in it.
    let path = args
        .get(1)
        .is_some_and(|arg| arg.as_bytes().contains(&b'/'));
    path && args.len() > 3 && args.iter().any(|arg| arg == "-o")
}

/// What mount(8) asks for.
#[derive(Debug)]
struct Asked {
    paths: Vec<OsString>,
    lists: Vec<String>,
    fs_type: Option<String>,
    sloppy: bool,
    /// `-f` of mount(8): everything but the mounting.
    fake: bool,
}

/// Mounts as mount(8) asks.
pub(crate) fn run(args: &[OsString]) -> Outcome {
    let asked = read(args)?;
    let [image, dir] = &asked.paths[..] else {
        return Err(usage("an image and a directory are needed"));
    };
    let mut wanted = Wanted::new();
    if rustix::process::geteuid().is_root() {
        wanted = wanted.of_root();
    }
    for list in &asked.lists {
        wanted
            .read(list, asked.sloppy)
            .map_err(|why| Failure::new(why).code(code::USAGE))?;
    }
    wanted
        .finish()
        .map_err(|why| Failure::new(why).code(code::USAGE))?;
    wanted.fs_type = wanted.fs_type.or(asked.fs_type);
    let lists = asked.lists.join(",");
    let job = Job::new(Path::new(image), Path::new(dir), wanted, lists)?;
    if asked.fake {
        return Ok(0);
    }
    job.in_background(asked.sloppy)
}

fn usage(why: &str) -> Failure {
    Failure::new(why.to_owned()).hint(USAGE).code(code::USAGE)
}

fn read(args: &[OsString]) -> Outcome<Asked> {
    let mut asked = Asked {
        paths: Vec::new(),
        lists: Vec::new(),
        fs_type: None,
        sloppy: false,
        fake: false,
    };
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        let text = arg.to_string_lossy();
        let Some(letters) = text.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            asked.paths.push(arg.clone());
            continue;
        };
        for (at, letter) in letters.char_indices() {
            // The value is the rest of the word, or the next one.
            let mut value = || -> Outcome<String> {
                let attached = &letters[at + letter.len_utf8()..];
                if !attached.is_empty() {
                    return Ok(attached.to_owned());
                }
                let next = rest.next();
                let next = next.ok_or_else(|| usage(&format!("-{letter} needs a value")))?;
                Ok(utf8(next)?.to_owned())
            };
            match letter {
                'o' => {
                    asked.lists.push(value()?);
                    break;
                }
                't' => {
                    asked.fs_type = type_of(&value()?);
                    break;
                }
                'N' => return Err(usage("-N: other namespaces are not supported")),
                's' => asked.sloppy = true,
                'f' => asked.fake = true,
                'r' => asked.lists.push("ro".to_owned()),
                'w' => asked.lists.push("rw".to_owned()),
                'n' | 'v' => {}
                _ => return Err(usage(&format!("unknown option {text}"))),
            }
        }
    }
    Ok(asked)
}

/// `iomapfs.testfs` names a type; `iomapfs` and `fuse.iomapfs` name the program.
fn type_of(text: &str) -> Option<String> {
    let name = text.strip_prefix("fuse.").unwrap_or(text);
    let name = name.strip_prefix("iomapfs").unwrap_or(name);
    let name = name.trim_start_matches('.');
    (!name.is_empty()).then(|| name.to_owned())
}

fn utf8(text: &OsStr) -> Outcome<&str> {
    text.to_str().ok_or_else(|| usage("options must be UTF-8"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_name_or_the_form_tells() {
        for line in [
            "/sbin/mount.iomapfs a b",
            "mount.fuse.iomapfs a b",
            "iomapfs /a.img /mnt -o rw,dev",
        ] {
            assert!(is_called(&args(line)), "{line}");
        }
        for line in [
            "iomapfs mount a b -o ro",
            "iomapfs",
            "iomapfs ls /a.img",
            "iomapfs cp -o x /y",
        ] {
            assert!(!is_called(&args(line)), "{line}");
        }
    }

    #[test]
    fn options_are_read_as_mount_passes_them() {
        let asked = read(&args(
            "mount.iomapfs img -sn -o ro,noexec -v -t iomapfs.testfs -onodev dir",
        ))
        .unwrap();
        assert_eq!(asked.paths, ["img", "dir"]);
        assert_eq!(asked.lists, ["ro,noexec", "nodev"]);
        assert_eq!(asked.fs_type.as_deref(), Some("testfs"));
        assert!(asked.sloppy && !asked.fake);
        assert_eq!(read(&args("m a b -t fuse.iomapfs")).unwrap().fs_type, None);
    }

    #[test]
    fn nonsense_has_the_exit_code_of_mount() {
        for line in ["m a b -x", "m a b -o", "m a b -N ns"] {
            assert_eq!(read(&args(line)).unwrap_err().code, code::USAGE, "{line}");
        }
    }
}
