//! Which blocks of a folio are up to date and which are dirty.
//!
//! Pure bitmaps and their arithmetic. A folio has them only while the answer differs between its
//! blocks; otherwise its flags answer for all ([`locked`](super::locked) decides). Who may look at
//! a folio's state is [`state_ptr`](super::state_ptr).

use std::any::Any;
use std::fmt;
use std::ops::Range;

use smallvec::{SmallVec, smallvec};

/// What a folio has beyond its flags.
#[derive(Default)]
pub(super) struct State {
    /// The blocks, if they are not all alike.
    pub(super) blocks: Option<Blocks>,
    /// What a backend keeps with the folio.
    pub(super) private: Option<Box<dyn Any + Send>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("blocks", &self.blocks)
            .field("private", &self.private.is_some())
            .finish()
    }
}

/// Two bits for each block.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) uptodate: Bits,
    pub(super) dirty: Bits,
}

impl Blocks {
    /// `len` blocks, all alike.
    pub(super) fn new(len: usize, uptodate: bool, dirty: bool) -> Self {
        Self {
            uptodate: Bits::new(len, uptodate),
            dirty: Bits::new(len, dirty),
        }
    }

    /// The second half, which is cut off.
    pub(super) fn split_off(&mut self) -> Self {
        Self {
            uptodate: self.uptodate.split_off(),
            dirty: self.dirty.split_off(),
        }
    }

    /// Blocks.
    pub(super) fn len(&self) -> usize {
        self.dirty.len
    }

    /// Whether flags can say the same.
    pub(super) fn is_uniform(&self) -> bool {
        let alike = |bits: &Bits| bits.all(0..bits.len) || !bits.any(0..bits.len);
        alike(&self.uptodate) && alike(&self.dirty)
    }
}

/// A fixed number of bits. All ranges are half-open (rule B20) and may be empty (rule B22).
#[derive(Debug)]
pub(super) struct Bits {
    words: SmallVec<[u64; 2]>,
    len: usize,
}

impl Bits {
    /// `len` bits of `value`.
    pub(super) fn new(len: usize, value: bool) -> Self {
        let mut bits = Self {
            words: smallvec![0; len.div_ceil(64)],
            len,
        };
        if value {
            bits.set(0..len, true);
        }
        bits
    }

    /// The second half of an even number of bits, which is cut off.
    fn split_off(&mut self) -> Self {
        let len = self.len / 2;
        let mut upper = Self::new(len, false);
        let mut at = len;
        while let Some(run) = self.run(at..self.len, true) {
            at = run.end;
            upper.set(run.start - len..run.end - len, true);
        }
        self.set(len..self.len, false);
        self.words.truncate(len.div_ceil(64));
        self.len = len;
        upper
    }

    /// Each word the range touches, with the mask of its bits inside the range.
    fn masks(range: Range<usize>) -> impl Iterator<Item = (usize, u64)> {
        let words = if range.is_empty() {
            0..0
        } else {
            range.start / 64..(range.end - 1) / 64 + 1
        };
        words.map(move |word| {
            let from = range.start.saturating_sub(word * 64).min(63);
            let to = (range.end - word * 64).min(64);
            (word, (!0 << from) & (!0 >> (64 - to)))
        })
    }

    /// Makes the bits of `range` `value`.
    pub(super) fn set(&mut self, range: Range<usize>, value: bool) {
        assert!(range.end <= self.len, "bit {} of {}", range.end, self.len);
        for (word, mask) in Self::masks(range) {
            if value {
                self.words[word] |= mask;
            } else {
                self.words[word] &= !mask;
            }
        }
    }

    /// Whether every bit of `range` is set.
    pub(super) fn all(&self, range: Range<usize>) -> bool {
        Self::masks(range).all(|(word, mask)| self.words[word] & mask == mask)
    }

    /// Whether some bit of `range` is set.
    pub(super) fn any(&self, range: Range<usize>) -> bool {
        Self::masks(range).any(|(word, mask)| self.words[word] & mask != 0)
    }

    /// The first run of bits that are `value` inside `range`.
    pub(super) fn run(&self, range: Range<usize>, value: bool) -> Option<Range<usize>> {
        let start = self.find(range.clone(), value)?;
        let end = self.find(start..range.end, !value).unwrap_or(range.end);
        Some(start..end)
    }

    /// The first bit that is `value` inside `range`.
    fn find(&self, range: Range<usize>, value: bool) -> Option<usize> {
        let flip = if value { 0 } else { !0 };
        Self::masks(range).find_map(|(word, mask)| {
            let bits = (self.words[word] ^ flip) & mask;
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(len: usize) -> impl Strategy<Value = Range<usize>> {
        (0..=len, 0..=len).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    proptest! {
        #[test]
        fn bits_do_what_a_vector_does(
            (len, steps) in (1usize..300).prop_flat_map(|len| {
                (Just(len), prop::collection::vec((range(len), any::<bool>()), 1..40))
            })
        ) {
            let mut bits = Bits::new(len, false);
            let mut model = vec![false; len];
            for (range, value) in steps {
                bits.set(range.clone(), value);
                model[range.clone()].fill(value);
                let part = &model[range.clone()];
                prop_assert_eq!(bits.all(range.clone()), part.iter().all(|b| *b));
                prop_assert_eq!(bits.any(range.clone()), part.iter().any(|b| *b));
                for value in [true, false] {
                    for probe in [range.clone(), 0..len, range.end..len] {
                        let start = probe.clone().find(|i| model[*i] == value);
                        let expected = start.map(|start| {
                            let end = (start..probe.end).find(|i| model[*i] != value);
                            start..end.unwrap_or(probe.end)
                        });
                        prop_assert_eq!(bits.run(probe, value), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn an_empty_range_changes_nothing() {
        for at in [0, 1, 63, 64, 65, 128] {
            let mut bits = Bits::new(128, false);
            bits.set(at..at, true);
            assert!(!bits.any(0..128));
            assert!(bits.all(at..at) && !bits.any(at..at));
            assert_eq!(bits.run(at..at, false), None);
        }
    }

    #[test]
    fn mixed_blocks_are_not_uniform() {
        let mut blocks = Blocks::new(16, true, false);
        assert!(blocks.is_uniform());
        blocks.dirty.set(3..4, true);
        assert!(!blocks.is_uniform());
        blocks.dirty.set(0..16, true);
        assert!(blocks.is_uniform());
    }
}
