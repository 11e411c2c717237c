//! The loop of a direct I/O over mappings: what is planned is submitted.
//!
//! Owns the body for one mapping. Decides nothing ([`plan()`](super::plan())) and waits for nothing:
//! the device requests are counted by the [flight](super::buffer::Flight) of the cursor.

use super::buffer::{self, Cursor, Part, Waits};
use super::plan::{Direction, Plan, Request, Transfer, plan};
use crate::device::{BioOp, BlockDevice, Plug};
use crate::error::{FsError, ProtocolError, Result};
use crate::iomap::{InlineBuffer, Iomap, MapKind};
use crate::iter::{Flow, Step, for_each_mapping};
use crate::mutation::{self, Rule};
use crate::ops::{DirectKinds, DirectOps, Intent, MapError};
use crate::units::{FilePos, FileRange};

/// What became of a request at submission.
#[derive(Debug)]
pub(super) struct Submission {
    /// Bytes submitted, or done already, from the start of the range on.
    pub(super) submitted: u64,
    /// What the backend has to do in the end.
    pub(super) kinds: DirectKinds,
    /// Every part is durable when the device has completed it.
    pub(super) write_through: bool,
    /// What follows must go through the page cache.
    pub(super) use_buffered: bool,
    /// Why it stopped, if that was an error.
    pub(super) stopped: Option<FsError>,
}

/// Submits the device requests of `request`, whose memory is what `cursor` has left. A request
/// that is the only one is done at the end, with nothing of the backend held.
pub(super) fn submit<B: DirectOps + ?Sized>(
    backend: &B,
    request: &Request<'_>,
    mut cursor: Cursor<'_>,
    waits: Waits,
) -> Submission {
    let device = &**backend.inode().device();
    let mut submission = Submission {
        submitted: 0,
        kinds: DirectKinds::empty(),
        write_through: true,
        use_buffered: false,
        stopped: None,
    };
    let intent = match request.direction {
        Direction::Read => Intent::Read,
        Direction::Write => Intent::Write,
    };
    let flags = request.flags.for_mapping();
    // Several requests enter the device together.
    let plug = (request.range.len() > request.block_bits.size()).then(|| Plug::new(device));
    let outcome = for_each_mapping(backend, request.range, intent, flags, |step| {
        mapping(request, device, &mut cursor, &mut submission, step)
    });
    submission.submitted = outcome.done;
    match outcome.result {
        Ok(()) => {}
        Err(MapError::UseBuffered) => submission.use_buffered = true,
        Err(MapError::Fs(error)) => submission.stopped = Some(error),
    }
    drop(plug);
    cursor.end(device, waits);
    tracing::trace!(
        target: "iomap::direct", ino = backend.inode().ino(), range = %request.range,
        submitted = submission.submitted, kinds = ?submission.kinds, "queued",
    );
    submission
}

/// The body for one mapping.
fn mapping(
    request: &Request<'_>,
    device: &dyn BlockDevice,
    cursor: &mut Cursor<'_>,
    submission: &mut Submission,
    step: &mut Step<'_>,
) -> Result<Flow> {
    let part = step.rest();
    let iomap = step.iomap();
    let from_elsewhere = !std::ptr::eq(iomap, step.source());
    // At most the length of the caller's memory.
    let len = part.len() as usize;
    let done = match plan(request, iomap, from_elsewhere, part)? {
        Plan::UseBuffered => {
            submission.use_buffered = true;
            return Ok(Flow::Stop);
        }
        Plan::Zeroes => {
            cursor.take(len).fill(|bytes| bytes.fill(0));
            part.len()
        }
        Plan::Inline => {
            submission.write_through = false;
            inline(request.direction, iomap, part, cursor)?;
            part.len()
        }
        Plan::Transfer(transfer) => {
            check_margins(iomap, part, &transfer)?;
            submission.kinds |= transfer.kinds;
            submission.write_through &= transfer.write_through;
            transfer_part(request, device, cursor, &transfer, part)
        }
    };
    step.advance(done)?;
    // An error of a request that has ended already stops the rest (rule B55).
    let stop = done < part.len() || must_stop(cursor.flight());
    Ok(if stop { Flow::Stop } else { Flow::Continue })
}

/// Whether a request that has ended already failed (rule B55).
fn must_stop(flight: &buffer::Flight) -> bool {
    !mutation::off(Rule::B55) && flight.has_failed()
}

/// Bytes in the inode: no device.
fn inline(
    direction: Direction,
    iomap: &Iomap,
    part: FileRange,
    cursor: &mut Cursor<'_>,
) -> Result<()> {
    let MapKind::Inline { data } = &iomap.kind else {
        return Ok(());
    };
    let data: &dyn InlineBuffer = &**data;
    let end = usize::try_from(part.end().bytes()).unwrap_or(usize::MAX);
    let (offset, len) = (end - part.len() as usize, part.len() as usize);
    match direction {
        Direction::Read => cursor.take(len).fill(|bytes| data.read_at(offset, bytes)),
        Direction::Write if end > data.capacity() => {
            let what = "inline data longer than its buffer";
            return Err(ProtocolError::BadKind {
                what,
                pos: part.start(),
            }
            .into());
        }
        Direction::Write => cursor.take(len).read(|bytes| data.write_at(offset, bytes)),
    }
    Ok(())
}

/// What is zeroed around a part must lie in its mapping.
fn check_margins(iomap: &Iomap, part: FileRange, transfer: &Transfer) -> Result<()> {
    let before = part.start().since(iomap.range.start());
    let behind = iomap.range.end().since(part.end());
    if transfer.zero_head > before || transfer.zero_tail > behind {
        let what = "a mapping that ends inside a block";
        return Err(ProtocolError::BadKind {
            what,
            pos: part.start(),
        }
        .into());
    }
    Ok(())
}

/// Zeroes the head, moves the bytes, zeroes the tail. Returns the bytes submitted: fewer if an
/// error stopped it.
fn transfer_part(
    request: &Request<'_>,
    device: &dyn BlockDevice,
    cursor: &mut Cursor<'_>,
    transfer: &Transfer,
    part: FileRange,
) -> u64 {
    let (flight, max) = (std::sync::Arc::clone(cursor.flight()), transfer.max_bio);
    let zero = |addr, len, lost_from: FilePos| {
        buffer::submit_zeroes(&flight, device, addr, len, max, lost_from);
    };
    zero(transfer.head_addr(), transfer.zero_head, part.start());
    let memory = cursor.take(part.len() as usize);
    if is_only(request, transfer, part) {
        cursor.keep_only(memory, op(request, transfer), transfer.addr, part.start());
        return part.len();
    }
    let done = if must_stop(&flight) {
        0
    } else {
        bytes(request, device, transfer, part, memory)
    };
    // Also after an error: what was submitted may reach new blocks (rule B56).
    let end = part.take(done).end();
    let lost = mutation::off(Rule::B56) && flight.has_failed();
    let tail = if done > 0 && !lost {
        transfer.zero_tail_after(end)
    } else {
        0
    };
    let lost_from = end.round_down(request.block_bits).max(part.start());
    zero(transfer.addr.plus(done), tail, lost_from);
    done
}

/// Whether one device request does all of it.
fn is_only(request: &Request<'_>, transfer: &Transfer, part: FileRange) -> bool {
    part == request.range
        && part.len() <= transfer.max_bio
        && (transfer.zero_head, transfer.zero_tail) == (0, 0)
}

fn op(request: &Request<'_>, transfer: &Transfer) -> BioOp {
    match request.direction {
        Direction::Read => BioOp::Read,
        Direction::Write => BioOp::Write {
            fua: transfer.fua,
            atomic: transfer.atomic,
        },
    }
}

/// Submits the bytes of a part in requests the device accepts (rule B64).
fn bytes(
    request: &Request<'_>,
    device: &dyn BlockDevice,
    transfer: &Transfer,
    part: FileRange,
    mut memory: Part<'_>,
) -> u64 {
    let op = op(request, transfer);
    let mut rest = part;
    while !rest.is_empty() {
        let now = rest.take(transfer.max_bio);
        let (bio, left) = memory.split(now.len() as usize);
        memory = left;
        let done = part.len() - rest.len();
        let lost_from = transfer.lost_from(now.start()).max(part.start());
        let failed = bio.submit(device, op, transfer.addr.plus(done), lost_from);
        rest = rest.skip(now.len());
        if failed && !mutation::off(Rule::B55) {
            break;
        }
    }
    part.len() - rest.len()
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
mod tests {
    use super::*;
    use crate::device::Limits;
    use crate::direct::DirectFlags;
    use crate::iomap::MapKind;
    use crate::units::{BlockBits, DevAddr};

    /// What is zeroed around the bytes of a new block lies in the mapping, or the backend is wrong.
    #[test]
    fn the_rest_of_a_new_block_lies_in_its_mapping() {
        let range =
            |start, end| FileRange::between(FilePos::saturating(start), FilePos::saturating(end));
        let limits = Limits::PLAIN;
        let part = range(4608, 5120);
        let request = Request {
            direction: Direction::Write,
            range: part,
            size: FilePos::ZERO,
            flags: DirectFlags::empty(),
            block_bits: BlockBits::PAGE,
            limits: &limits,
        };
        for (mapped, fits) in [
            (range(4096, 8192), true),
            (range(4608, 8192), false),
            (range(4096, 5120), false),
        ] {
            let addr = DevAddr::new(1 << 20);
            let iomap = Iomap::new(mapped, MapKind::Unwritten { addr });
            let Ok(Plan::Transfer(transfer)) = plan(&request, &iomap, false, part) else {
                panic!("a transfer");
            };
            assert_eq!(
                check_margins(&iomap, part, &transfer).is_ok(),
                fits,
                "{mapped}"
            );
        }
    }
}
