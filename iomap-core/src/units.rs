//! Positions, lengths and addresses as distinct types.
//!
//! Owns every arithmetic step that could overflow: a file position is at most
//! [`FilePos::MAX`], a [`FileRange`] is checked when it is made, and everything computed *inside* a
//! range therefore cannot overflow. Owns no state and does no I/O. What a range maps to is
//! [`Iomap`](crate::iomap::Iomap).
//!
//! | Type | Unit | Range |
//! |---|---|---|
//! | [`FilePos`] | bytes from the start of a file | `0..=i64::MAX` |
//! | [`FileRange`] | half-open range of file bytes | ends at or before [`FilePos::MAX`] |
//! | [`DevAddr`] | bytes from the start of a device | any `u64` |
//! | [`PageIndex`] | 4096-byte pages of a file | `0..=i64::MAX / 4096` |
//! | [`BlockBits`] | log2 of a file system block, bytes | `9..=16` |

use std::fmt;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page: the unit in which the page cache is indexed, and the smallest folio.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// A position in a file, bytes. At most [`FilePos::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePos(u64);

impl FilePos {
    /// The first byte.
    pub const ZERO: Self = Self(0);
    /// The largest position: `i64::MAX`, as `loff_t` has it.
    pub const MAX: Self = Self(i64::MAX.unsigned_abs());

    /// The position `bytes`, or `None` past [`FilePos::MAX`].
    #[must_use]
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes <= Self::MAX.0 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// The position `bytes`, or [`FilePos::MAX`] if it lies past that.
    #[must_use]
    pub const fn saturating(bytes: u64) -> Self {
        if bytes <= Self::MAX.0 {
            Self(bytes)
        } else {
            Self::MAX
        }
    }

    /// Bytes from the start of the file.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The position `len` bytes further on, or `None` past [`FilePos::MAX`].
    #[must_use]
    pub const fn checked_add(self, len: u64) -> Option<Self> {
        match self.0.checked_add(len) {
            Some(end) => Self::new(end),
            None => None,
        }
    }

    /// The position `len` bytes further on, at most [`FilePos::MAX`].
    #[must_use]
    pub const fn saturating_add(self, len: u64) -> Self {
        Self::saturating(self.0.saturating_add(len))
    }

    /// Bytes from `earlier` to here; zero if `earlier` lies after `self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The page this byte lies in.
    #[must_use]
    pub const fn page(self) -> PageIndex {
        PageIndex(self.0 >> PAGE_SHIFT)
    }

    /// The number of pages that hold the bytes before this position: its page, rounded up.
    #[must_use]
    pub const fn page_up(self) -> PageIndex {
        // Cannot overflow: at most i64::MAX.
        PageIndex((self.0 + (PAGE_SIZE as u64 - 1)) >> PAGE_SHIFT)
    }

    /// The start of the `1 << bits` byte unit this byte lies in.
    #[must_use]
    pub const fn round_down(self, bits: BlockBits) -> Self {
        Self(self.0 & !(bits.size() - 1))
    }

    /// The first boundary of a `1 << bits` byte unit at or after this position, at most
    /// [`FilePos::MAX`].
    #[must_use]
    pub const fn round_up(self, bits: BlockBits) -> Self {
        Self::saturating((self.0 + (bits.size() - 1)) & !(bits.size() - 1))
    }

    /// Whether the position is a multiple of `1 << bits`.
    #[must_use]
    pub const fn is_aligned(self, bits: BlockBits) -> bool {
        self.0 & (bits.size() - 1) == 0
    }

    /// Bytes since the start of the `1 << bits` byte unit.
    #[must_use]
    pub const fn offset_in(self, bits: BlockBits) -> u64 {
        self.0 & (bits.size() - 1)
    }

    /// Bytes since the start of the page.
    #[must_use]
    pub const fn offset_in_page(self) -> usize {
        (self.0 & (PAGE_SIZE as u64 - 1)) as usize
    }
}

impl fmt::Display for FilePos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A half-open range of file bytes. `start <= end <= FilePos::MAX` always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileRange {
    start: FilePos,
    end: FilePos,
}

impl FileRange {
    /// The whole file, whatever its size.
    pub const ALL: Self = Self {
        start: FilePos::ZERO,
        end: FilePos::MAX,
    };

    /// The `len` bytes from `start` on, or `None` if they would end past [`FilePos::MAX`].
    #[must_use]
    pub const fn at(start: FilePos, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// The `len` bytes from `start` on, cut at [`FilePos::MAX`].
    #[must_use]
    pub const fn at_most(start: FilePos, len: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len),
        }
    }

    /// From `start` up to `end`, empty at `start` if `end` lies before it.
    #[must_use]
    pub const fn between(start: FilePos, end: FilePos) -> Self {
        Self {
            start,
            end: if end.0 < start.0 { start } else { end },
        }
    }

    /// From `start` to [`FilePos::MAX`].
    #[must_use]
    pub const fn from(start: FilePos) -> Self {
        Self {
            start,
            end: FilePos::MAX,
        }
    }

    /// The first byte.
    #[must_use]
    pub const fn start(self) -> FilePos {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> FilePos {
        self.end
    }

    /// Bytes in the range.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether the range holds no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start.0 == self.end.0
    }

    /// Whether `pos` lies inside.
    #[must_use]
    pub const fn contains(self, pos: FilePos) -> bool {
        self.start.0 <= pos.0 && pos.0 < self.end.0
    }

    /// Whether every byte of `other` lies inside. An empty `other` is contained if it lies between
    /// the ends.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Whether a byte lies in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }

    /// The bytes in both; empty, at the later start, if there are none.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        let start = if self.start.0 > other.start.0 {
            self.start
        } else {
            other.start
        };
        let end = if self.end.0 < other.end.0 {
            self.end
        } else {
            other.end
        };
        Self::between(start, end)
    }

    /// Without the first `n` bytes; empty at the end if there are fewer.
    #[must_use]
    pub const fn skip(self, n: u64) -> Self {
        let left = if n > self.len() { self.len() } else { n };
        Self {
            start: FilePos(self.start.0 + left),
            end: self.end,
        }
    }

    /// The first `n` bytes, or all if there are fewer.
    #[must_use]
    pub const fn take(self, n: u64) -> Self {
        let len = if n < self.len() { n } else { self.len() };
        Self {
            start: self.start,
            end: FilePos(self.start.0 + len),
        }
    }

    /// Grown to whole `1 << bits` byte units on both sides.
    #[must_use]
    pub const fn round_out(self, bits: BlockBits) -> Self {
        Self {
            start: self.start.round_down(bits),
            end: self.end.round_up(bits),
        }
    }

    /// Shrunk to the whole `1 << bits` byte units inside; empty if there is none.
    #[must_use]
    pub const fn round_in(self, bits: BlockBits) -> Self {
        Self::between(self.start.round_up(bits), self.end.round_down(bits))
    }

    /// The pages the bytes touch: first, and one past the last.
    #[must_use]
    pub const fn pages(self) -> (PageIndex, PageIndex) {
        if self.is_empty() {
            (self.start.page(), self.start.page())
        } else {
            (self.start.page(), self.end.page_up())
        }
    }
}

impl fmt::Display for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// An address on a device, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevAddr(u64);

impl DevAddr {
    /// The address `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the start of the device.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The address `len` bytes further on, or `None` past `u64::MAX`.
    #[must_use]
    pub const fn checked_add(self, len: u64) -> Option<Self> {
        match self.0.checked_add(len) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }

    /// The address `len` bytes further on, inside an extent whose end is known to be in range.
    ///
    /// # Panics
    ///
    /// If the address space of a device is left: the mapping that led here was not checked.
    #[must_use]
    pub const fn plus(self, len: u64) -> Self {
        match self.0.checked_add(len) {
            Some(addr) => Self(addr),
            None => panic!("device address past u64::MAX: an unchecked mapping was used"),
        }
    }

    /// Whether the address is a multiple of `align`, a power of two.
    #[must_use]
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & (align - 1) == 0
    }
}

impl fmt::Display for DevAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The number of a page of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(u64);

impl PageIndex {
    /// The first page.
    pub const ZERO: Self = Self(0);
    /// One past the page of the last possible byte.
    pub const END: Self = Self((FilePos::MAX.0 >> PAGE_SHIFT) + 1);

    /// The page `n`, at most [`PageIndex::END`].
    #[must_use]
    pub const fn new(n: u64) -> Self {
        if n > Self::END.0 { Self::END } else { Self(n) }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The first byte of the page, [`FilePos::MAX`] for [`PageIndex::END`].
    #[must_use]
    pub const fn pos(self) -> FilePos {
        FilePos::saturating(self.0 << PAGE_SHIFT)
    }

    /// The page `n` further on, at most [`PageIndex::END`].
    #[must_use]
    pub const fn plus(self, n: u64) -> Self {
        Self::new(self.0.saturating_add(n))
    }

    /// Pages from `earlier` to here; zero if `earlier` lies after `self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The first page of the naturally aligned run of `1 << order` pages this page lies in.
    #[must_use]
    pub const fn align_down(self, order: u32) -> Self {
        Self(self.0 >> order << order)
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// log2 of a block size in bytes, `9..=16` (512 bytes to 64 KiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockBits(u8);

impl BlockBits {
    /// 512-byte blocks: a sector, the smallest block.
    pub const SECTOR: Self = Self(9);
    /// Blocks as large as a page.
    pub const PAGE: Self = Self(12);

    /// `1 << bits` byte blocks, or `None` outside `9..=16`.
    #[must_use]
    pub const fn new(bits: u32) -> Option<Self> {
        if bits >= 9 && bits <= 16 {
            Some(Self(bits as u8))
        } else {
            None
        }
    }

    /// The bits of a block size, or `None` if it is no power of two from 512 to 65536.
    #[must_use]
    pub const fn of_size(size: u64) -> Option<Self> {
        if size.is_power_of_two() {
            Self::new(size.trailing_zeros())
        } else {
            None
        }
    }

    /// log2 of the block size.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// The block size, bytes.
    #[must_use]
    pub const fn size(self) -> u64 {
        1 << self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pos() -> impl Strategy<Value = FilePos> {
        prop_oneof![
            0..=FilePos::MAX.0,
            FilePos::MAX.0 - 70_000..=FilePos::MAX.0,
            0..70_000u64
        ]
        .prop_map(FilePos::saturating)
    }

    proptest! {
        #[test]
        fn rounding_stays_in_range(p in pos(), bits in 9u32..=16) {
            let bits = BlockBits::new(bits).expect("9..=16");
            prop_assert!(p.round_down(bits) <= p);
            prop_assert!(p.round_up(bits) >= p);
            prop_assert!(p.round_up(bits).is_aligned(bits) || p.round_up(bits) == FilePos::MAX);
            prop_assert_eq!(p.round_down(bits).bytes() + p.offset_in(bits), p.bytes());
        }

        #[test]
        fn intersection_is_in_both(a in pos(), b in pos(), c in pos(), d in pos()) {
            let (x, y) = (FileRange::between(a, b), FileRange::between(c, d));
            let both = x.intersect(y);
            prop_assert_eq!(!both.is_empty(), x.overlaps(y) && !x.is_empty() && !y.is_empty());
            if !both.is_empty() {
                prop_assert!(x.covers(both) && y.covers(both));
            }
        }

        #[test]
        fn skip_and_take_split(a in pos(), len in 0u64..1 << 20, n in 0u64..1 << 21) {
            let range = FileRange::at_most(a, len);
            let (head, tail) = (range.take(n), range.skip(n));
            prop_assert_eq!(head.len() + tail.len(), range.len());
            prop_assert_eq!(head.end(), tail.start());
        }
    }

    #[test]
    fn the_last_page_does_not_overflow() {
        let last = FilePos::MAX.page();
        assert_eq!(last.plus(1), PageIndex::END);
        assert_eq!(PageIndex::END.pos(), FilePos::MAX);
        assert_eq!(FilePos::MAX.page_up(), PageIndex::END);
        assert!(FileRange::at(FilePos::MAX, 1).is_none());
        assert_eq!(FileRange::ALL.pages(), (PageIndex::ZERO, PageIndex::END));
    }
}
