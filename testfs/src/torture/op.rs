//! The operations of the torture command, and how a seed makes them.
//!
//! Owns [`Op`] and its generation. An operation says what is asked for, not what comes of it: it can
//! be replayed on any state, which is what shrinking a failure needs.

use std::fmt;

use fastrand::Rng;
use iomap_core::seek::Whence;
use iomap_core::vfs::{Fallocate, IoFlags, RenameMode, XattrMode};

/// Files are kept about this small, bytes.
pub const FILE_SPAN: u64 = 1 << 20;
/// The most that is stored to pinned pages at once, bytes.
const PINNED: u32 = 1 << 14;
/// Names in a directory of the tree.
const NAMES: u8 = 14;

/// A name of the tree: `sK/nNN`, or `sK/nNN/xMM` below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The top directory, taken modulo how many there are.
    pub shard: u8,
    /// The name in it.
    pub name: u8,
    /// A name one level further down.
    pub sub: Option<u8>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}/n{:02}", self.shard, self.name)?;
        self.sub.map_or(Ok(()), |sub| write!(f, "/x{sub:02}"))
    }
}

/// A file to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The file of that name; made if there is none.
    Named(Place),
    /// One of the files kept open after their last name went.
    Orphan(u8),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(place) => place.fmt(f),
            Self::Orphan(n) => write!(f, "orphan#{n}"),
        }
    }
}

/// An operation on the content of a file. Positions and lengths in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the interface")]
pub enum DataOp {
    Write {
        pos: u64,
        len: u32,
        flags: IoFlags,
    },
    Append {
        len: u32,
        flags: IoFlags,
    },
    Read {
        pos: u64,
        len: u32,
        flags: IoFlags,
    },
    /// A read that waits for no writer: every byte must be an old or a new one.
    RacyRead {
        pos: u64,
        len: u32,
        flags: IoFlags,
    },
    /// Stores through a memory mapping, as far as the file goes.
    Store {
        pos: u64,
        len: u32,
    },
    /// Loads through a memory mapping, as far as the file goes.
    Load {
        pos: u64,
        len: u32,
    },
    /// Loads that wait for no writer.
    RacyLoad {
        pos: u64,
        len: u32,
    },
    /// Pins each page as a device does, and stores to it a little later.
    PinnedStore {
        pos: u64,
        len: u32,
    },
    /// Pins a page, and looks at it a little later; waits for no writer.
    PinnedLoad {
        pos: u64,
    },
    Fsync {
        data_only: bool,
    },
    SyncRange {
        pos: u64,
        len: u64,
        wait: bool,
    },
    Truncate {
        size: u64,
    },
    Fallocate {
        mode: Fallocate,
        pos: u64,
        len: u64,
    },
    Clone {
        pos: u64,
        len: u64,
        to: Subject,
        at: u64,
    },
    Seek {
        pos: u64,
        whence: Whence,
    },
    Fiemap {
        pos: u64,
        len: u64,
        sync: bool,
    },
    /// Closes what is open of the file, as far as nobody uses it.
    Close,
}

/// An operation on names and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the interface")]
pub enum NameOp {
    Unlink {
        at: Place,
        keep_open: bool,
    },
    Mkdir {
        at: Place,
    },
    Rmdir {
        at: Place,
    },
    Symlink {
        at: Place,
        len: u16,
    },
    Fifo {
        at: Place,
    },
    Link {
        from: Place,
        to: Place,
    },
    Rename {
        from: Place,
        to: Place,
        mode: RenameMode,
    },
    Readdir {
        at: Place,
        batch: u8,
    },
    Readlink {
        at: Place,
    },
    SetXattr {
        at: Place,
        name: u8,
        len: u16,
        mode: XattrMode,
    },
    GetXattr {
        at: Place,
        name: u8,
    },
    ListXattr {
        at: Place,
    },
    RemoveXattr {
        at: Place,
        name: u8,
    },
    SetAttr {
        at: Place,
        mode: Option<u16>,
        owner: Option<u32>,
        mtime: Option<i64>,
    },
    GetAttr {
        at: Place,
    },
    Fsync {
        at: Place,
    },
}

/// Anything a thread may do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Op {
    Data(Subject, DataOp),
    Name(NameOp),
    Sync,
    StatFs,
    /// Takes this many pages from the page cache.
    Shrink {
        pages: u32,
    },
    /// Unmounts and mounts, with every other thread waiting.
    Remount,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(subject, op) => write!(f, "{subject}: {op:?}"),
            Self::Name(op) => write!(f, "{op:?}"),
            op => write!(f, "{op:?}"),
        }
    }
}

fn place(rng: &mut Rng) -> Place {
    Place {
        shard: rng.u8(..),
        name: rng.u8(..NAMES),
        sub: (rng.u8(..8) == 0).then(|| rng.u8(..3)),
    }
}

fn subject(rng: &mut Rng) -> Subject {
    if rng.u8(..24) == 0 {
        Subject::Orphan(rng.u8(..))
    } else {
        Subject::Named(place(rng))
    }
}

/// A position: anywhere, or at the alignments where mistakes live.
fn pos(rng: &mut Rng) -> u64 {
    let at = rng.u64(..FILE_SPAN) >> rng.u32(..6);
    match rng.u8(..8) {
        0 | 1 => at,
        2 => at & !511,
        3 => (at & !4095) + rng.u64(..3).wrapping_sub(1) % 4096,
        _ => at & !4095,
    }
}

/// A length from one byte to a megabyte, short ones more often.
fn len(rng: &mut Rng) -> u32 {
    let most = 1u32 << rng.u32(4..=20);
    let len = match rng.u8(..64) {
        0 => most,
        _ => rng.u32(1..=most.min(1 << 17)),
    };
    match rng.u8(..4) {
        0 => len.next_multiple_of(4096),
        1 => len.next_multiple_of(512),
        _ => len,
    }
}

fn io_flags(rng: &mut Rng) -> IoFlags {
    match rng.u8(..32) {
        0..10 => IoFlags::DIRECT,
        10 | 11 => IoFlags::NOWAIT,
        12 => IoFlags::NOWAIT | IoFlags::DIRECT,
        13 | 14 => IoFlags::DONTCACHE,
        15 => IoFlags::DSYNC,
        16 => IoFlags::DSYNC | IoFlags::DIRECT,
        17 => IoFlags::SYNC,
        _ => IoFlags::empty(),
    }
}

/// A transfer: direct ones mostly aligned as they must be.
fn transfer(rng: &mut Rng) -> (u64, u32, IoFlags) {
    let (pos, len, flags) = (pos(rng), len(rng), io_flags(rng));
    if flags.contains(IoFlags::DIRECT) && rng.u8(..16) != 0 {
        (pos & !511, len.next_multiple_of(512), flags)
    } else {
        (pos, len, flags)
    }
}

fn fallocate(rng: &mut Rng) -> DataOp {
    const MODES: [Fallocate; 8] = [
        Fallocate::Allocate,
        Fallocate::AllocateKeepSize,
        Fallocate::PunchHole,
        Fallocate::ZeroRange,
        Fallocate::ZeroRangeKeepSize,
        Fallocate::CollapseRange,
        Fallocate::InsertRange,
        Fallocate::UnshareRange,
    ];
    let mode = MODES[rng.usize(..MODES.len())];
    let (mut pos, mut len) = (pos(rng), u64::from(len(rng)));
    if matches!(mode, Fallocate::CollapseRange | Fallocate::InsertRange) && rng.u8(..16) != 0 {
        (pos, len) = (pos & !4095, len.next_multiple_of(4096).min(1 << 18));
    }
    DataOp::Fallocate { mode, pos, len }
}

fn data(rng: &mut Rng) -> DataOp {
    match rng.u8(..100) {
        0..30 | 72..76 => {
            let (pos, len, flags) = transfer(rng);
            DataOp::Write { pos, len, flags }
        }
        30..34 => DataOp::Append {
            len: len(rng),
            flags: io_flags(rng),
        },
        34..52 => {
            let (pos, len, flags) = transfer(rng);
            DataOp::Read { pos, len, flags }
        }
        52..64 => {
            let (pos, len, flags) = transfer(rng);
            DataOp::RacyRead { pos, len, flags }
        }
        64..67 => DataOp::Fsync {
            data_only: rng.bool(),
        },
        67..69 => DataOp::SyncRange {
            pos: pos(rng),
            len: u64::from(len(rng)),
            wait: rng.bool(),
        },
        69..72 => DataOp::Truncate {
            size: if rng.u8(..16) == 0 {
                rng.u64(..1 << 34)
            } else {
                pos(rng)
            },
        },
        76..88 => fallocate(rng),
        88..93 => DataOp::Clone {
            pos: pos(rng) & !4095,
            len: u64::from(len(rng)).next_multiple_of(4096),
            to: subject(rng),
            at: pos(rng) & !4095,
        },
        93..96 => DataOp::Seek {
            pos: pos(rng),
            whence: if rng.bool() {
                Whence::Data
            } else {
                Whence::Hole
            },
        },
        96..98 => DataOp::Close,
        _ => DataOp::Fiemap {
            pos: pos(rng),
            len: rng.u64(1..FILE_SPAN),
            sync: rng.bool(),
        },
    }
}

/// The same through a memory mapping, for transfers; now and then.
fn maybe_mapped(op: DataOp, rng: &mut Rng) -> DataOp {
    match op {
        DataOp::Write { pos, len, .. } => match rng.u8(..16) {
            0 => DataOp::PinnedStore {
                pos,
                len: len.min(PINNED),
            },
            1..8 => DataOp::Store { pos, len },
            _ => op,
        },
        DataOp::Read { pos, len, .. } if rng.bool() => DataOp::Load { pos, len },
        DataOp::RacyRead { pos, len, .. } => match rng.u8(..16) {
            0..3 => DataOp::PinnedLoad { pos },
            3..10 => DataOp::RacyLoad { pos, len },
            _ => op,
        },
        op => op,
    }
}

fn rename(rng: &mut Rng) -> NameOp {
    let mode = match rng.u8(..4) {
        0 => RenameMode::NoReplace,
        1 => RenameMode::Exchange,
        _ => RenameMode::Replace,
    };
    NameOp::Rename {
        from: place(rng),
        to: place(rng),
        mode,
    }
}

/// A length below a power of two whose exponent is drawn from `bits`: small ones are likelier.
fn up_to_pow2(rng: &mut Rng, bits: std::ops::Range<u32>) -> u16 {
    let bits = rng.u32(bits);
    rng.u16(..1 << bits)
}

fn xattr(rng: &mut Rng) -> NameOp {
    let (at, name) = (place(rng), rng.u8(..5));
    match rng.u8(..6) {
        0..3 => NameOp::SetXattr {
            at,
            name,
            len: up_to_pow2(rng, 1..11),
            mode: match rng.u8(..4) {
                0 => XattrMode::Create,
                1 => XattrMode::Replace,
                _ => XattrMode::Any,
            },
        },
        3 => NameOp::GetXattr { at, name },
        4 => NameOp::ListXattr { at },
        _ => NameOp::RemoveXattr { at, name },
    }
}

fn name(rng: &mut Rng) -> NameOp {
    let at = place(rng);
    match rng.u8(..40) {
        0..6 => NameOp::Unlink {
            at,
            keep_open: rng.bool(),
        },
        6..9 => NameOp::Mkdir { at },
        9..11 => NameOp::Rmdir { at },
        11..13 => NameOp::Symlink {
            at,
            len: up_to_pow2(rng, 1..10).max(1),
        },
        13 => NameOp::Fifo { at },
        14..17 => NameOp::Link {
            from: at,
            to: place(rng),
        },
        17..24 => rename(rng),
        24..26 => NameOp::Readdir {
            at,
            batch: rng.u8(1..),
        },
        26 => NameOp::Readlink { at },
        27..34 => xattr(rng),
        34..37 => NameOp::SetAttr {
            at,
            mode: rng.bool().then(|| rng.u16(..) & 0o1777),
            owner: rng.bool().then(|| rng.u32(..1 << 20)),
            mtime: rng.bool().then(|| rng.i64(-1000..1 << 33)),
        },
        37 => NameOp::Fsync { at },
        _ => NameOp::GetAttr { at },
    }
}

impl Op {
    /// The next operation of a sequence; `maps`: through memory mappings, too.
    #[must_use]
    pub fn generate(rng: &mut Rng, maps: bool) -> Self {
        match rng.u32(..10_000) {
            0..3 => Self::Sync,
            3 => Self::Remount,
            4..10 => Self::StatFs,
            10..60 => Self::Shrink {
                pages: rng.u32(1..4096),
            },
            60..2060 => Self::Name(name(rng)),
            _ => {
                let (subject, op) = (subject(rng), data(rng));
                let op = if maps { maybe_mapped(op, rng) } else { op };
                Self::Data(subject, op)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_operations() {
        let make = |seed, maps| {
            let mut rng = Rng::with_seed(seed);
            let ops = (0..500).map(|_| Op::generate(&mut rng, maps));
            ops.collect::<Vec<_>>()
        };
        assert_eq!(make(7, false), make(7, false));
        assert_ne!(make(7, false), make(8, false));
        let mapped = |op: &Op| matches!(op, Op::Data(_, DataOp::Store { .. }));
        assert!(make(7, true).iter().any(mapped));
        assert!(!make(7, false).iter().any(mapped));
    }

    #[test]
    fn every_position_stays_in_a_small_file() {
        let mut rng = Rng::with_seed(3);
        for _ in 0..10_000 {
            assert!(pos(&mut rng) <= FILE_SPAN + 4096);
            assert!((1..=1 << 20).contains(&len(&mut rng)));
        }
    }
}
