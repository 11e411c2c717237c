//! Changes of size and layout, and what each makes of a file.
//!
//! Owns [`Edit`]: its effect on the expected bytes, on what a failing device leaves open, and the
//! sizes a file may have when it failed half way. Does not own the calls: [`reshape`](super::reshape).

use super::doubt::Doubt;
use crate::model::FileBytes;

/// A change of size or layout. Positions and lengths in bytes.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Sets the size.
    Resize {
        /// The new size.
        size: u64,
    },
    /// Grows the file to this size, if it is shorter.
    Grow {
        /// The least size.
        size: u64,
    },
    /// Makes a range zero.
    Zero {
        /// Where.
        pos: u64,
        /// How much.
        len: u64,
        /// Whether the file grows to the end of it.
        grows: bool,
    },
    /// Takes a range out.
    Collapse {
        /// Where.
        pos: u64,
        /// How much.
        len: u64,
    },
    /// Puts zeroes in.
    Insert {
        /// Where.
        pos: u64,
        /// How much.
        len: u64,
    },
    /// Bytes of another file, or place, show here.
    Copy {
        /// Where.
        at: u64,
        /// The bytes.
        bytes: Vec<u8>,
        /// The values each may have; with a failing device only.
        values: Vec<u64>,
    },
}

impl Edit {
    /// What it makes of the bytes when it succeeds.
    pub fn apply(&self, bytes: &mut FileBytes) {
        match *self {
            Self::Resize { size } => bytes.set_size(size),
            Self::Grow { size } => bytes.set_size(bytes.size().max(size)),
            Self::Zero { pos, len, grows } => {
                bytes.zero(pos, len);
                if grows {
                    bytes.set_size(bytes.size().max(pos + len));
                }
            }
            Self::Collapse { pos, len } if pos + len < bytes.size() => bytes.collapse(pos, len),
            Self::Insert { pos, len } if pos < bytes.size() => bytes.insert(pos, len),
            Self::Collapse { .. } | Self::Insert { .. } => {}
            Self::Copy {
                at,
                bytes: ref from,
                ..
            } => bytes.write(at, from),
        }
    }

    /// What it leaves open when it succeeds; `before` and `after` are the sizes.
    pub fn doubt(&self, doubt: &mut Doubt, (before, after): (u64, u64), block: u64) {
        match *self {
            Self::Resize { size } => doubt.resized(size),
            Self::Grow { .. } if after > before => doubt.durable_size(after),
            Self::Grow { .. } => {}
            Self::Zero { pos, len, grows } => {
                doubt.zeroed(pos, (pos + len).min(after), block);
                if grows && after > before {
                    doubt.durable_size(after);
                }
            }
            Self::Collapse { pos, len } => doubt.collapsed(pos, len, after),
            Self::Insert { pos, len } => doubt.inserted(pos, len, after),
            Self::Copy { at, ref values, .. } => doubt.copied(at, values),
        }
    }

    /// What it leaves open when it failed and the size is `real` now: every byte it touches may be
    /// what it was, or zero.
    pub fn doubt_failed(&self, doubt: &mut Doubt, real: u64, block: u64) {
        match *self {
            Self::Resize { size } => {
                doubt.resize_failed(real);
                // The rest of the last block is made zero first.
                doubt.half_zeroed(size, size.next_multiple_of(block));
            }
            Self::Grow { .. } | Self::Insert { .. } => {}
            Self::Zero { pos, len, .. } | Self::Collapse { pos, len } => {
                doubt.half_zeroed(pos, pos + len);
            }
            Self::Copy { at, ref bytes, .. } => doubt.half_zeroed(at, at + bytes.len() as u64),
        }
    }

    /// The sizes a file of `before` bytes may have when it failed.
    #[must_use]
    pub fn sizes(&self, before: u64) -> Vec<u64> {
        let after = match *self {
            Self::Resize { size } => size,
            Self::Grow { size } => size.max(before),
            Self::Zero {
                pos,
                len,
                grows: true,
            } => before.max(pos + len),
            // In two steps: to where the copy begins, then to its end.
            Self::Copy { at, .. } => at.max(before),
            Self::Zero { .. } | Self::Collapse { .. } | Self::Insert { .. } => before,
        };
        vec![before, after]
    }

    /// Whether it was done although it failed: one transaction moves the bytes and the size, and it
    /// was its commit that failed.
    #[must_use]
    pub const fn was_done(&self, before: u64, real: u64) -> bool {
        matches!(self, Self::Collapse { .. } | Self::Insert { .. }) && before != real
    }
}
