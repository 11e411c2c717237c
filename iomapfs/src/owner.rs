//! Owners on the command line: `UID`, `UID:GID`, `:GID`, and `FROM=TO`.
//!
//! Owns the syntax. Numbers only: the names in an image's `/etc/passwd` are its own.

use std::str::FromStr;

/// An owner, a group, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The user.
    pub(crate) uid: Option<u32>,
    /// The group.
    pub(crate) gid: Option<u32>,
}

/// An owner and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair(pub(crate) u32, pub(crate) u32);

/// One number for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// What it is in the source.
    pub(crate) from: u32,
    /// What it becomes.
    pub(crate) to: u32,
}

impl Mapping {
    /// What `id` becomes: the first mapping that names it decides.
    pub(crate) fn apply(mappings: &[Self], id: u32) -> u32 {
        mappings.iter().find(|m| m.from == id).map_or(id, |m| m.to)
    }
}

fn number(text: &str) -> Result<u32, String> {
    let number = text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    number.ok_or_else(|| {
        format!("'{text}' is no user or group number; names of the host mean nothing in an image")
    })
}

impl FromStr for Owner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let id = |text: &str| (!text.is_empty()).then(|| number(text)).transpose();
        let owner = Self {
            uid: id(user)?,
            gid: id(group)?,
        };
        if owner.uid.is_none() && owner.gid.is_none() {
            return Err("write UID, UID:GID or :GID".to_owned());
        }
        Ok(owner)
    }
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').ok_or("write UID:GID")?;
        Ok(Self(number(user)?, number(group)?))
    }
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once('=').ok_or("write FROM=TO")?;
        Ok(Self {
            from: number(from)?,
            to: number(to)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read() {
        let owner = |uid, gid| Ok(Owner { uid, gid });
        assert_eq!("5".parse(), owner(Some(5), None));
        assert_eq!("5:6".parse(), owner(Some(5), Some(6)));
        assert_eq!(":6".parse(), owner(None, Some(6)));
        assert_eq!("5:".parse(), owner(Some(5), None));
        for text in ["", ":", "root", "5:x", "4294967295", "-1"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_mapping_that_fits_decides() {
        let mappings = ["0=1000", "0=5", "7=0"].map(|text| text.parse().expect("a mapping"));
        assert_eq!(Mapping::apply(&mappings, 0), 1000);
        assert_eq!(Mapping::apply(&mappings, 7), 0);
        assert_eq!(Mapping::apply(&mappings, 8), 8);
    }
}
