//! Write-behind: a stream of writes is written back while it goes on.
//!
//! Owns what a stream is ([`WriteStream`], one for each inode) and when a part of it is handed to
//! the flusher. Without it the device would idle until the stream ends with an `fsync`, or until the
//! background limit: then a copy and a transfer follow each other that could go side by side.
//!
//! What a stream leaves behind it is written once: random writes, rewrites of the same few pages and
//! short files make no stream, and stay in memory until they expire.

use crate::folio::MAX_ORDER;
use crate::inode::Inode;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::units::{FilePos, FileRange};

/// Bytes that make a stream, and that it hands over at a time.
const PART: u64 = 8 << 20;

/// Where an inode's stream of writes is. Hints: relaxed, and a wrong answer only costs a transfer.
#[derive(Debug, Default)]
pub(crate) struct WriteStream {
    /// Where the part begins that was not handed over yet, bytes.
    start: AtomicU64,
    /// The end of the last write, bytes.
    next: AtomicU64,
}

impl WriteStream {
    /// Notes a write. What the stream leaves behind, once that is a part; it ends where a folio of
    /// the largest order does, so that no folio is written that is still being filled.
    #[inline]
    fn advance(&self, range: FileRange) -> Option<FileRange> {
        if self.next.load(Ordering::Relaxed) != range.start().bytes() {
            self.start.store(range.start().bytes(), Ordering::Relaxed);
        }
        self.next.store(range.end().bytes(), Ordering::Relaxed);
        let start = FilePos::saturating(self.start.load(Ordering::Relaxed));
        if range.end().since(start) < PART {
            return None;
        }
        let end = range.end().page().align_down(MAX_ORDER).pos();
        self.start.store(end.bytes(), Ordering::Relaxed);
        Some(FileRange::between(start, end))
    }
}

/// Called by a writer of `inode` after it has put `range` into the cache: what a stream leaves
/// behind is handed to the flusher, which starts to write it. Waits for nothing; without a flusher
/// it does nothing. The inode lock is held, no folio lock and no transaction.
#[inline]
pub(crate) fn write_behind(inode: &Inode, range: FileRange) {
    if let Some(attached) = inode.attached()
        && attached.flusher().config().write_behind
        && let Some(part) = inode.write_stream().advance(range)
    {
        attached.flusher().push_part(attached.owner(), part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn mib(start: u64, end: u64) -> FileRange {
        FileRange::between(
            FilePos::saturating(start * MIB),
            FilePos::saturating(end * MIB),
        )
    }

    #[test]
    fn a_stream_hands_over_what_lies_behind_it_in_whole_folios() {
        let stream = WriteStream::default();
        let parts: Vec<_> = (0..20)
            .filter_map(|n| stream.advance(mib(n, n + 1)))
            .collect();
        assert_eq!(parts, [mib(0, 8), mib(8, 16)]);
        // In the middle of a folio of the largest order.
        assert_eq!(stream.advance(mib(20, 25)), Some(mib(16, 24)));
    }

    #[test]
    fn a_jump_begins_anew_and_one_large_write_is_a_stream() {
        let stream = WriteStream::default();
        for n in 0..7 {
            assert_eq!(stream.advance(mib(n, n + 1)), None);
        }
        assert_eq!(stream.advance(mib(100, 101)), None);
        assert_eq!(stream.advance(mib(7, 8)), None);
        assert_eq!(stream.advance(mib(201, 211)), Some(mib(201, 210)));
    }
}
