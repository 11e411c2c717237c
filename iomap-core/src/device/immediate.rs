//! Devices that have done a request when `submit` returns: memory, plain copies.
//!
//! Owns [`ImmediateDevice`], from which every such device is a [`BlockDevice`], and [`Front`], what
//! all of them have. Does not own the bytes. A device that does some requests later waits in its own
//! way: [`Parking`] is where.

use super::bio::{self, Bio, BioOp, Segment};
use super::parking::Parking;
use super::{BlockDevice, Limits, assert_may_complete};
use crate::error::{DeviceError, Errno};
use crate::units::DevAddr;

/// A device that is a function of the request: all of [`BlockDevice`] follows.
pub trait ImmediateDevice: Send + Sync + std::fmt::Debug {
    /// What it is to those who use it; always the same.
    fn front(&self) -> &Front;

    /// Does a request that [`bio::admit`] has let in. Called from several threads at once, with no
    /// lock of the device held.
    ///
    /// # Errors
    ///
    /// The request failed; how much of it was done is not known.
    fn run(&self, op: BioOp, addr: DevAddr, len: u64, segments: &[Segment]) -> Result<(), Errno>;
}

/// Size, limits and waiters of an [`ImmediateDevice`].
#[derive(Debug)]
pub struct Front {
    size: u64,
    limits: Limits,
    parking: Parking,
}

impl Front {
    /// Of a device of `size` bytes.
    #[must_use]
    pub fn new(size: u64, limits: Limits) -> Self {
        Self {
            size,
            limits,
            parking: Parking::new(),
        }
    }

    /// Bytes on the device.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }
}

fn admit_and_run(
    device: &(impl ImmediateDevice + ?Sized),
    op: BioOp,
    addr: DevAddr,
    len: u64,
    segments: &[Segment],
) -> Result<(), Errno> {
    let front = device.front();
    bio::admit(&front.limits, front.size, op, addr, len, segments)?;
    device.run(op, addr, len, segments)
}

impl<D: ImmediateDevice> BlockDevice for D {
    fn size(&self) -> u64 {
        self.front().size
    }

    fn limits(&self) -> &Limits {
        &self.front().limits
    }

    fn submit(&self, bio: Bio) {
        assert_may_complete("submitting to a device");
        let result = admit_and_run(self, bio.op, bio.addr, bio.len, &bio.segments);
        bio.complete(result);
        self.front().parking.notify();
    }

    fn poll(&self) {}

    fn wait(&self, done: &mut dyn FnMut() -> bool) {
        assert_may_complete("waiting for a device");
        self.front().parking.wait(done);
    }

    fn wake(&self) {
        self.front().parking.notify();
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn transfer(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), DeviceError> {
        admit_and_run(self, op, addr, len, segments)
            .map_err(|errno| DeviceError::new(op.device_op(), addr, len, errno))
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::{DeviceBuf, completion};
    use crate::sync::{Mutex, Rank};

    /// Knows only how to flush.
    #[derive(Debug)]
    struct Flushes(Front);

    impl ImmediateDevice for Flushes {
        fn front(&self) -> &Front {
            &self.0
        }

        fn run(&self, op: BioOp, _: DevAddr, _: u64, _: &[Segment]) -> Result<(), Errno> {
            match op {
                BioOp::Flush => Ok(()),
                _ => Err(Errno::IO),
            }
        }
    }

    fn device() -> Flushes {
        Flushes(Front::new(4096, Limits::PLAIN))
    }

    #[test]
    fn a_request_has_its_answer_when_submit_returns() {
        let device = device();
        let (send, receive) = std::sync::mpsc::channel();
        for (addr, op) in [(0, BioOp::Flush), (0, BioOp::WRITE), (4096, BioOp::WRITE)] {
            let (send, buf) = (send.clone(), DeviceBuf::zeroed(512, 1));
            let bio = Bio::owned(op, DevAddr::new(addr), buf, move |result, _| {
                send.send(result.map_err(|error| error.errno)).unwrap();
            });
            device.submit(bio);
        }
        let answers: Vec<_> = receive.try_iter().collect();
        assert_eq!(answers, [Ok(()), Err(Errno::IO), Err(Errno::NXIO)]);
        assert_eq!(device.in_flight(), 0);
    }

    #[test]
    fn a_transfer_is_refused_in_the_words_of_a_request() {
        let device = device();
        let error = device.write_at(DevAddr::new(1), &[0; 512]).unwrap_err();
        assert_eq!((error.errno, error.addr), (Errno::INVAL, DevAddr::new(1)));
        let error = device.write_at(DevAddr::new(512), &[0; 512]).unwrap_err();
        assert_eq!(error.errno, Errno::IO);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "submitting to a device")]
    fn nobody_submits_with_a_lock_that_completions_take() {
        let queue = Mutex::new(Rank::IoendQueue, ());
        let _held = queue.lock();
        let (done, _ticket) = completion::ticket();
        device().submit(Bio::new(BioOp::Flush, DevAddr::new(0), 0, &[], done));
    }
}
