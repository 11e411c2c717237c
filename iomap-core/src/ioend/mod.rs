//! Runs of writeback: how dirty bytes become device requests, and what happens when those end.
//!
//! Owns the rule what may be appended to a run ([`build`]), the way from the last bio of a run to
//! task context ([`in_flight`]), and the work there ([`finish`]). Which bytes are written, and
//! where to, is [`writeback`](crate::writeback). The record of a run and the queue it waits in are
//! part of the inode ([`inode`](crate::inode)).
//!
//! # From the device to the file
//!
//! ```text
//! last bio of the run completes          like an interrupt: leaf locks only
//!   no error, no work for the backend     -> writeback ends here
//!   otherwise                             -> queue of the inode
//! queue, in task context, no locks held   a waiting syncer, or the flusher's worker
//!   sort, merge                           fewer, larger conversions
//!   ioend_done | ioend_failed             conversion, then size on disk (rules O5, B45)
//!   error recorded                        before anybody sees the writeback end
//!   writeback of the folios ends
//! ```
//!
//! Kernel counterpart: `fs/iomap/ioend.c`.

pub(crate) mod build;
pub(crate) mod finish;
pub(crate) mod in_flight;

/// The most folios of one run, also after merging (rule B43).
pub const FOLIOS_MAX: usize = 4096;
