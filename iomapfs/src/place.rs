//! Paths on the command line: `IMAGE:/path`, or a path of the host.
//!
//! Owns the rule that tells them apart, and the messages for paths that are neither. Walking a path
//! inside of an image is [`walk`](crate::walk).
//!
//! # The rule
//!
//! `A:/B` is the path `/B` in the image `A`, split at the first `:/`. A host file whose name has a
//! `:/` in it is written with `./` in front only if nothing is named like the part before; a
//! path that exists as it is written is a host path.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::failure::{Failure, Outcome};
use crate::out::{printable, put_bytes};

/// A path inside of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InImage {
    /// The file the image is in.
    pub(crate) image: PathBuf,
    /// From the root of the image, beginning with `/`.
    pub(crate) path: Vec<u8>,
}

/// What an argument names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Something in an image.
    Image(InImage),
    /// Something on the host.
    Host(PathBuf),
}

impl fmt::Display for InImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.image.display(), printable(&self.path))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(inside) => inside.fmt(f),
            Self::Host(path) => path.display().fmt(f),
        }
    }
}

impl Place {
    /// Reads an argument.
    pub(crate) fn parse(arg: &OsStr) -> Self {
        match split(arg.as_bytes()) {
            Some((image, path)) if std::fs::symlink_metadata(arg).is_err() => {
                Self::Image(InImage {
                    image: OsString::from_vec(image.to_vec()).into(),
                    path: path.to_vec(),
                })
            }
            _ => Self::Host(arg.into()),
        }
    }
}

impl InImage {
    /// Reads an argument that must be a path inside of an image.
    pub(crate) fn parse(arg: &OsStr) -> Outcome<Self> {
        match Place::parse(arg) {
            Place::Image(inside) => Ok(inside),
            Place::Host(path) => Err(no_image_path(&path)),
        }
    }

    /// The same, for verbs where an image alone means its root.
    pub(crate) fn parse_or_root(arg: &OsStr) -> Outcome<Self> {
        match Place::parse(arg) {
            Place::Image(inside) => Ok(inside),
            Place::Host(path) => {
                let bytes = path.as_os_str().as_bytes();
                if bytes.contains(&b':') && std::fs::metadata(&path).is_err() {
                    return Err(no_image_path(&path));
                }
                Ok(Self {
                    image: path,
                    path: b"/".to_vec(),
                })
            }
        }
    }

    /// As the start of a JSON object: `image` and `path`.
    pub(crate) fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("image".to_owned(), self.image.display().to_string().into());
        put_bytes(&mut object, "path", &self.path);
        object
    }

    /// Several paths that must be in one image. At least one.
    pub(crate) fn parse_all(args: &[OsString]) -> Outcome<(PathBuf, Vec<Self>)> {
        let places: Vec<_> = args
            .iter()
            .map(|arg| Self::parse(arg))
            .collect::<Outcome<_>>()?;
        let Some(first) = places.first() else {
            return Err(Failure::usage("no path was given"));
        };
        let image = first.image.clone();
        if let Some(other) = places.iter().find(|place| place.image != image) {
            return Err(Failure::usage(format!(
                "{other} and {first} are in two images; one image at a time",
            )));
        }
        Ok((image, places))
    }
}

/// The image and the path, split at the first `:/`.
fn split(arg: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = arg.windows(2).position(|pair| pair == b":/")?;
    (at > 0).then(|| (&arg[..at], &arg[at + 1..]))
}

/// Why an argument is no path inside of an image, with a guess at what was meant.
fn no_image_path(path: &Path) -> Failure {
    let failure = Failure::usage(format!(
        "'{}' is no path inside of an image",
        path.display()
    ));
    match colon_hint(path) {
        Some(hint) => failure.hint(hint),
        None => failure.hint("such a path is IMAGE:/path, for example disk.img:/etc/passwd"),
    }
}

/// What was meant by a path of the host that looks as if it was to lead into an image.
pub(crate) fn colon_hint(path: &Path) -> Option<String> {
    let text = path.display().to_string();
    if let Some((image, rest)) = text.split_once(':') {
        let image = if image.is_empty() { "IMAGE" } else { image };
        let rest = rest.trim_start_matches('/');
        return Some(format!(
            "such a path is IMAGE:/path; did you mean {image}:/{rest} ?"
        ));
    }
    if std::fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Some(format!("for a path in the image {text} write {text}:/path"));
    }
    // disk.img/etc/passwd: something before a slash is a file.
    let parents = path.ancestors().skip(1);
    let file = parents
        .filter(|parent| !parent.as_os_str().is_empty())
        .find(|parent| std::fs::metadata(parent).is_ok_and(|meta| meta.is_file()))?;
    let rest = path.strip_prefix(file).ok()?;
    let (file, rest) = (file.display(), rest.display());
    Some(format!(
        "the colon is missing; did you mean {file}:/{rest} ?"
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(arg: &str) -> Place {
        Place::parse(OsStr::new(arg))
    }

    fn inside(image: &str, path: &str) -> Place {
        Place::Image(InImage {
            image: image.into(),
            path: path.into(),
        })
    }

    #[test]
    fn a_colon_and_a_slash_make_a_path_inside() {
        assert_eq!(parse("a.img:/"), inside("a.img", "/"));
        assert_eq!(parse("/tmp/a.img:/b:/c"), inside("/tmp/a.img", "/b:/c"));
        assert_eq!(parse("a.img"), Place::Host("a.img".into()));
        assert_eq!(parse("a:b"), Place::Host("a:b".into()));
        assert_eq!(parse(":/b"), Place::Host(":/b".into()));
    }

    #[test]
    fn a_file_that_exists_wins() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("odd:")).unwrap();
        let path = folder.path().join("odd:/file");
        std::fs::write(&path, "").unwrap();
        assert_eq!(Place::parse(path.as_os_str()), Place::Host(path));
    }

    #[test]
    fn what_was_meant_is_told() {
        let hint = |arg: &str| InImage::parse(OsStr::new(arg)).unwrap_err().hint.unwrap();
        assert!(hint("a.img:etc/passwd").contains("a.img:/etc/passwd"));
        assert!(hint("nothing").contains("IMAGE:/path"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let image = file.path().to_str().unwrap();
        assert!(hint(image).contains(&format!("{image}:/path")));
        assert!(hint(&format!("{image}/etc")).contains(&format!("{image}:/etc")));
    }

    #[test]
    fn two_images_at_once_are_refused() {
        let args = ["a:/x", "b:/y"].map(OsString::from);
        assert!(
            InImage::parse_all(&args)
                .unwrap_err()
                .message
                .contains("two images")
        );
    }
}
