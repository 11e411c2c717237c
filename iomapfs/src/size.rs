//! Sizes on the command line: `512`, `64K`, `16M`, `1G`, and changes of one: `+4K`, `-1M`.

use std::str::FromStr;

pub(crate) use testfs::cli::Size;

/// A new size of a file: absolute, or relative to what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewSize {
    /// This many bytes.
    To(u64),
    /// This many more.
    Grow(u64),
    /// This many less, at least nothing.
    Shrink(u64),
}

impl NewSize {
    /// The size of a file that has `old` bytes.
    pub(crate) const fn apply(self, old: u64) -> Option<u64> {
        match self {
            Self::To(size) => Some(size),
            Self::Grow(by) => old.checked_add(by),
            Self::Shrink(by) => Some(old.saturating_sub(by)),
        }
    }
}

impl FromStr for NewSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.as_bytes().first() {
            Some(b'+') => Self::Grow(text[1..].parse::<Size>()?.bytes()),
            Some(b'-') => Self::Shrink(text[1..].parse::<Size>()?.bytes()),
            _ => Self::To(text.parse::<Size>()?.bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_sizes_may_be_relative() {
        let apply = |text: &str, old| text.parse::<NewSize>().map(|size| size.apply(old));
        assert_eq!(apply("4K", 7), Ok(Some(4096)));
        assert_eq!(apply("+1K", 7), Ok(Some(1031)));
        assert_eq!(apply("-1K", 7), Ok(Some(0)));
        assert_eq!(apply("+1", u64::MAX), Ok(None));
    }
}
