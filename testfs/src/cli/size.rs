//! Sizes on the command line: `512`, `64K`, `16M`, `1G`. For every program of the workspace.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, as people write it: digits, and `K`, `M`, `G` or `T` for powers of 1024 (small
/// letters, and `B` or `iB` behind, are the same). Shown in the largest unit that divides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    /// The number.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

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
        number
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or_else(|| format!("'{text}' is too large"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes) in [
            ("512", 512),
            ("64K", 65_536),
            ("1G", 1 << 30),
            ("3m", 3 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        assert_eq!("16MiB".parse(), Ok(Size(16 << 20)));
        assert_eq!(Size(3 << 20).to_string(), "3M");
        assert_eq!(Size(1000).to_string(), "1000");
    }

    #[test]
    fn nonsense_is_refused_with_its_own_words() {
        for text in ["", "G", "1.5G", "-1", "12X", "99999999T"] {
            let error = text.parse::<Size>().expect_err("nonsense");
            assert!(error.starts_with(&format!("'{text}' is ")), "{error}");
        }
    }
}
