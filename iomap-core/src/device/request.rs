//! One request on its way through a ring: what to ask the kernel next, and what its answer means.
//!
//! Owns [`Request`], a state machine without any queue: it builds the next entry and takes the
//! answer. When entries reach the kernel and who reaps the answers is [`ring`](super::ring).

use io_uring::{opcode, squeue, types};
use std::os::fd::AsRawFd;

use super::bio::{self, Bio, BioOp, Segment};
use super::buffer::DeviceBuf;
use super::handle::{BOUNCE, Cursor, Handle};
use crate::error::Errno;
use crate::sync::atomic::Ordering;

/// How often a request that did not fail by itself (interrupted, no memory in the kernel, the
/// thread that submitted it has exited) is put to the kernel in a row.
const TRIES: u32 = 64;

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// A request in a ring.
#[derive(Debug)]
pub(super) struct Request {
    bio: Bio,
    step: Step,
    tries: u32,
    /// The aligned copy the kernel works on, if the request's own memory cannot be used. The
    /// cursor of the transfer points into it.
    bounce: Option<DeviceBuf>,
}

#[derive(Debug)]
enum Step {
    Transfer(Cursor),
    Sync,
    Allocate(i32),
}

/// What to do with a request after an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Put its next entry into the ring.
    Again,
    /// Tell its submitter.
    Done(Result<(), Errno>),
}

impl Request {
    /// Whether a request that was admitted is done by plain system calls instead: those the ring
    /// has no entry for, those that would need a large copy, and the flushes of buffered files,
    /// which must run one at a time (see [`Handle::flush`]).
    pub(super) fn is_inline(handle: &Handle, bio: &Bio) -> bool {
        match bio.op {
            BioOp::Read | BioOp::Write { fua: false, .. } => {
                bio.len > BOUNCE as u64 && handle.must_bounce(bio.op, &bio.segments)
            }
            BioOp::Write { fua: true, .. } | BioOp::Flush => {
                handle.direct.is_none()
                    || handle.read_only
                    || (bio.len > BOUNCE as u64 && handle.must_bounce(bio.op, &bio.segments))
            }
            BioOp::Discard | BioOp::WriteZeroes => handle.block_device,
        }
    }

    /// A request that was admitted and [`Request::is_inline`] does not claim.
    pub(super) fn new(handle: &Handle, bio: Bio) -> Self {
        let mut bounce = None;
        let addr = bio.addr.bytes();
        let step = match bio.op {
            BioOp::Read | BioOp::Write { .. } if handle.must_bounce(bio.op, &bio.segments) => {
                let mut buf = DeviceBuf::zeroed(bio.len as usize, handle.memory_align());
                if bio.op != BioOp::Read {
                    bio::fetch(&bio.segments, 0, &mut buf);
                }
                let segment = Segment::of_mut(bounce.insert(buf));
                Step::Transfer(Cursor::new(&[segment], addr, bio.len))
            }
            BioOp::Read | BioOp::Write { .. } => {
                Step::Transfer(Cursor::new(&bio.segments, addr, bio.len))
            }
            BioOp::Flush => Step::Sync,
            BioOp::WriteZeroes if handle.zero_range.load(Ordering::Relaxed) => Step::Allocate(ZERO),
            BioOp::WriteZeroes | BioOp::Discard => Step::Allocate(PUNCH),
        };
        Self {
            bio,
            step,
            tries: 0,
            bounce,
        }
    }

    /// The next entry. It points into the request, which must stay where it is until the entry has
    /// been answered.
    pub(super) fn entry(&self, handle: &Handle) -> squeue::Entry {
        let fd = types::Fd(handle.file.as_raw_fd());
        let entry = match &self.step {
            Step::Transfer(cursor) => self.transfer(fd, cursor, handle.write_flags(self.bio.op)),
            Step::Sync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Step::Allocate(mode) => opcode::Fallocate::new(fd, self.bio.len)
                .offset(self.bio.addr.bytes())
                .mode(*mode)
                .build(),
        };
        if self.tries == 0 {
            entry
        } else {
            // It did not work from the thread that submitted it: let a worker of the kernel wait.
            entry.flags(squeue::Flags::ASYNC)
        }
    }

    fn transfer(&self, fd: types::Fd, cursor: &Cursor, flags: i32) -> squeue::Entry {
        let (segments, at) = (cursor.segments(), cursor.addr());
        let count = segments.len() as u32; // at most MAX_SEGMENTS
        let one = match segments {
            [segment] => u32::try_from(segment.len()).ok().map(|len| (segment, len)),
            _ => None,
        };
        match (self.bio.op == BioOp::Read, one) {
            (true, Some((segment, len))) => opcode::Read::new(fd, segment.as_ptr(), len)
                .offset(at)
                .build(),
            (true, None) => opcode::Readv::new(fd, segments.as_ptr().cast(), count)
                .offset(at)
                .build(),
            (false, Some((segment, len))) => opcode::Write::new(fd, segment.as_ptr(), len)
                .offset(at)
                .rw_flags(flags)
                .build(),
            (false, None) => opcode::Writev::new(fd, segments.as_ptr().cast(), count)
                .offset(at)
                .rw_flags(flags)
                .build(),
        }
    }

    /// Takes the kernel's answer to the last entry: what a system call would have returned, or a
    /// negative errno.
    pub(super) fn answered(&mut self, handle: &Handle, answer: i32) -> Next {
        match usize::try_from(answer) {
            Ok(moved) => self.advanced(handle, moved),
            Err(_) => self.failed(handle, Errno::from_raw_os_error(answer.saturating_neg())),
        }
    }

    fn advanced(&mut self, handle: &Handle, moved: usize) -> Next {
        self.tries = 0;
        let durable = matches!(self.bio.op, BioOp::Flush | BioOp::Write { fua: true, .. });
        if let Step::Transfer(cursor) = &mut self.step {
            match cursor.advance(self.bio.op, moved) {
                Ok(true) => return Next::Again,
                Ok(false) => {}
                Err(errno) => return Next::Done(Err(errno)),
            }
        }
        Next::Done(if durable { handle.not_lost() } else { Ok(()) })
    }

    fn failed(&mut self, handle: &Handle, errno: Errno) -> Next {
        if matches!(errno, Errno::INTR | Errno::AGAIN | Errno::CANCELED) {
            self.tries += 1;
            return match self.tries < TRIES {
                true => Next::Again,
                false => Next::Done(Err(Errno::IO)),
            };
        }
        match self.step {
            Step::Sync => handle.lose(errno),
            Step::Allocate(ZERO) if errno == Errno::OPNOTSUPP => {
                handle.zero_range.store(false, Ordering::Relaxed);
                self.step = Step::Allocate(PUNCH);
                return Next::Again;
            }
            _ => {}
        }
        Next::Done(Err(errno))
    }

    /// Tells the submitter.
    pub(super) fn finish(self, result: Result<(), Errno>) {
        if let (Some(buf), BioOp::Read, Ok(())) = (&self.bounce, self.bio.op, &result) {
            bio::store(&self.bio.segments, 0, buf);
        }
        self.bio.complete(result);
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::handle::DirectAlign;
    use crate::device::{Limits, completion};
    use crate::units::DevAddr;
    use std::path::PathBuf;

    fn handle() -> Handle {
        let file = tempfile::tempfile().unwrap();
        let mut handle = Handle::new(file, PathBuf::from("test"), 1 << 20, Limits::PLAIN);
        handle.direct = Some(DirectAlign {
            memory: 512,
            offset: 512,
        });
        handle
    }

    /// A request for `len` bytes of `buf`, and a way to see how it ended.
    fn request(handle: &Handle, op: BioOp, buf: &mut DeviceBuf) -> (Request, completion::Ticket) {
        let (done, ticket) = completion::ticket();
        let (len, segment) = (buf.len() as u64, Segment::of_mut(buf));
        let segments: &[Segment] = match op {
            BioOp::Read | BioOp::Write { .. } => &[segment],
            _ => &[],
        };
        let bio = Bio::new(op, DevAddr::new(0), len, segments, done);
        assert!(!Request::is_inline(handle, &bio));
        (Request::new(handle, bio), ticket)
    }

    fn minus(errno: Errno) -> i32 {
        -errno.raw_os_error()
    }

    #[test]
    fn a_short_answer_asks_for_the_rest() {
        let handle = handle();
        let mut buf = DeviceBuf::zeroed(4096, 512);
        let (mut request, ticket) = request(&handle, BioOp::Read, &mut buf);
        assert_eq!(request.answered(&handle, 512), Next::Again);
        assert!(matches!(&request.step, Step::Transfer(c) if c.addr() == 512));
        assert_eq!(request.answered(&handle, 3584), Next::Done(Ok(())));
        request.finish(Ok(()));
        assert_eq!(ticket.try_result(), Some(Ok(())));
    }

    #[test]
    fn a_request_the_kernel_gave_back_is_tried_again_but_not_for_ever() {
        let handle = handle();
        for errno in [Errno::AGAIN, Errno::INTR, Errno::CANCELED] {
            let mut buf = DeviceBuf::zeroed(512, 512);
            let (mut request, _ticket) = request(&handle, BioOp::WRITE, &mut buf);
            for _ in 1..TRIES {
                assert_eq!(request.answered(&handle, minus(errno)), Next::Again);
            }
            let last = request.answered(&handle, minus(errno));
            assert_eq!(last, Next::Done(Err(Errno::IO)));
            request.finish(Err(Errno::IO));
        }
    }

    #[test]
    fn zeroing_falls_back_to_punching_and_remembers() {
        let handle = handle();
        let mut buf = DeviceBuf::zeroed(4096, 512);
        let (mut first, _ticket) = request(&handle, BioOp::WriteZeroes, &mut buf);
        assert!(matches!(first.step, Step::Allocate(ZERO)));
        let answer = first.answered(&handle, minus(Errno::OPNOTSUPP));
        assert_eq!(answer, Next::Again);
        assert!(matches!(first.step, Step::Allocate(PUNCH)));
        assert_eq!(first.answered(&handle, 0), Next::Done(Ok(())));
        first.finish(Ok(()));
        let (second, _ticket) = request(&handle, BioOp::WriteZeroes, &mut buf);
        assert!(matches!(second.step, Step::Allocate(PUNCH)));
        second.finish(Ok(()));
    }

    #[test]
    fn a_failed_flush_fails_the_later_ones() {
        let handle = handle();
        let mut buf = DeviceBuf::zeroed(512, 512);
        let (mut first, _ticket) = request(&handle, BioOp::Flush, &mut buf);
        let answer = first.answered(&handle, minus(Errno::IO));
        assert_eq!(answer, Next::Done(Err(Errno::IO)));
        first.finish(Err(Errno::IO));
        let fua = BioOp::Write {
            fua: true,
            atomic: false,
        };
        for (op, answer) in [(BioOp::Flush, 0), (fua, 512)] {
            let (mut later, _ticket) = request(&handle, op, &mut buf);
            let answer = later.answered(&handle, answer);
            assert_eq!(answer, Next::Done(Err(Errno::IO)));
            later.finish(Err(Errno::IO));
        }
    }

    #[test]
    fn misaligned_memory_is_read_through_a_copy() {
        let handle = handle();
        let mut buf = DeviceBuf::zeroed(513, 512);
        let shifted = Segment::of_mut(&mut buf).part(1, 512);
        let (done, ticket) = completion::ticket();
        let bio = Bio::new(BioOp::Read, DevAddr::new(0), 512, &[shifted], done);
        let mut request = Request::new(&handle, bio);
        request.bounce.as_mut().unwrap().fill(8);
        assert_eq!(request.answered(&handle, 512), Next::Done(Ok(())));
        request.finish(Ok(()));
        assert_eq!(ticket.try_result(), Some(Ok(())));
        assert_eq!(buf[1..], [8; 512]);
    }
}
