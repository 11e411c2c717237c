//! Sizes on the command line: `512`, `64K`, `16M`, `1G`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no size; write it like 512, 64K, 16M, 1G or 2T");
        let trimmed = text.trim_end_matches(['B', 'b']).trim_end_matches('i');
        let (digits, shift) = match trimmed.char_indices().last() {
            Some((at, 'k' | 'K')) => (&trimmed[..at], 10),
            Some((at, 'm' | 'M')) => (&trimmed[..at], 20),
            Some((at, 'g' | 'G')) => (&trimmed[..at], 30),
            Some((at, 't' | 'T')) => (&trimmed[..at], 40),
            _ => (trimmed, 0),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let bytes = number.checked_mul(1 << shift);
        bytes
            .map(Self)
            .ok_or_else(|| format!("{text} is too large"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, shift) = match self.0 {
            n if n > 0 && n.trailing_zeros() >= 30 => ("G", 30),
            n if n > 0 && n.trailing_zeros() >= 20 => ("M", 20),
            n if n > 0 && n.trailing_zeros() >= 10 => ("K", 10),
            _ => ("", 0),
        };
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

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
            Some(b'+') => Self::Grow(text[1..].parse::<Size>()?.0),
            Some(b'-') => Self::Shrink(text[1..].parse::<Size>()?.0),
            _ => Self::To(text.parse::<Size>()?.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes) in [
            ("512", 512),
            ("64K", 65_536),
            ("1G", 1 << 30),
            ("16MiB", 16 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        assert_eq!(Size(3 << 20).to_string(), "3M");
        assert_eq!(Size(1000).to_string(), "1000");
    }

    #[test]
    fn nonsense_is_refused_in_its_own_words() {
        for text in ["", "G", "1.5G", "-1", "12X", "99999999T"] {
            let error = text.parse::<Size>().expect_err("nonsense");
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn new_sizes_may_be_relative() {
        let apply = |text: &str, old| text.parse::<NewSize>().map(|size| size.apply(old));
        assert_eq!(apply("4K", 7), Ok(Some(4096)));
        assert_eq!(apply("+1K", 7), Ok(Some(1031)));
        assert_eq!(apply("-1K", 7), Ok(Some(0)));
        assert_eq!(apply("+1", u64::MAX), Ok(None));
    }
}
