//! A device whose completions are run by a tokio runtime.
//!
//! Owns [`AsyncDevice`]: two small tasks. One sleeps on the device's own descriptor and runs the
//! completions; no thread is handed anything. The other starts what has been submitted: it runs
//! after the tasks that are ready, so that all they submit enters the kernel at once; a request that
//! comes alone does not wait for it. Knows nothing of files.
//!
//! Futures here may be dropped at any time: a request goes on, and what it works on is owned by
//! the request.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::sync::{Notify, oneshot};
use ::tokio::task::JoinHandle;

use super::BlockDevice;
use super::bio::{Bio, BioOp, Segment};
use super::buffer::DeviceBuf;
use crate::error::{DeviceError, Errno};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::units::DevAddr;

/// A device driven by a tokio runtime.
///
/// It is a [`BlockDevice`] itself: what is submitted through it is batched, whoever submits.
/// Devices that complete when submitted to need no tasks and get none.
///
/// When it is dropped, or its runtime shut down, requests in flight complete only when somebody
/// waits for the device or polls it.
pub struct AsyncDevice {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    device: Arc<dyn BlockDevice>,
    flush: Notify,
    /// Whether we hold a plug of the device. Swapped with `AcqRel` by submitters (to true, then
    /// they plug) and by whoever unplugs (to false, first): every plug is undone once.
    plugged: AtomicBool,
    /// Whether requests come one at a time: the last completions were of one request, and no other
    /// was in flight. A hint, relaxed: stored where completions are run, loaded by submitters.
    alone: AtomicBool,
    batched: bool,
}

impl AsyncDevice {
    /// Lets the current runtime drive `device`.
    ///
    /// # Errors
    ///
    /// If the device's descriptor cannot be registered with the runtime.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, or in one without I/O.
    pub fn attach(device: Arc<dyn BlockDevice>) -> io::Result<Self> {
        let fd = match device.completion_fd() {
            Some(fd) => Some(register(fd.try_clone_to_owned()?)?),
            None => None,
        };
        let batched = fd.is_some();
        let shared = Arc::new(Shared {
            device,
            flush: Notify::new(),
            plugged: AtomicBool::new(false),
            alone: AtomicBool::new(true),
            batched,
        });
        let mut tasks = Vec::new();
        if let Some(fd) = fd {
            tasks.push(::tokio::spawn(reap(Arc::clone(&shared), fd)));
            tasks.push(::tokio::spawn(flush(Arc::clone(&shared))));
        }
        Ok(Self { shared, tasks })
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.shared.device
    }

    /// Does a request that owns its memory. Dropping the future does not stop it; the memory is
    /// freed when it has completed.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub async fn request(
        &self,
        op: BioOp,
        addr: DevAddr,
        buf: DeviceBuf,
    ) -> Result<DeviceBuf, DeviceError> {
        let (tell, told) = oneshot::channel();
        let len = buf.len() as u64;
        self.submit(Bio::owned(op, addr, buf, move |result, buf| {
            // Nobody listens if the future has been dropped.
            let _ = tell.send(result.map(|()| buf));
        }));
        told.await.unwrap_or_else(|_| {
            let op = op.device_op();
            Err(DeviceError::new(op, addr, len, Errno::CANCELED))
        })
    }

    /// Reads `len` bytes at `addr`.
    ///
    /// # Errors
    ///
    /// What the device answers.
    pub async fn read(&self, addr: DevAddr, len: usize) -> Result<DeviceBuf, DeviceError> {
        let buf = DeviceBuf::zeroed(len, self.limits().memory_align);
        self.request(BioOp::Read, addr, buf).await
    }

    /// Makes every completed write durable.
    ///
    /// # Errors
    ///
    /// What the device answers: then nothing may be taken for durable.
    pub async fn sync(&self) -> Result<(), DeviceError> {
        let nothing = DeviceBuf::zeroed(0, 1);
        let answer = self.request(BioOp::Flush, DevAddr::default(), nothing);
        answer.await.map(drop)
    }
}

impl Shared {
    /// Whether a request is not expected to have company: then it is started at once, and the task
    /// that starts what has gathered need not run.
    fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed) && self.device.in_flight() == 0
    }

    fn plug(&self) {
        if self.batched && !self.plugged.swap(true, Ordering::AcqRel) {
            self.device.plug();
            self.flush.notify_one();
        }
    }

    fn unplug(&self) {
        if self.plugged.swap(false, Ordering::AcqRel) {
            self.device.unplug();
        }
    }
}

fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same descriptor, as long as it lives; the `AsyncFd`
    // owns it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}

/// Runs completions when the device has some.
async fn reap(shared: Arc<Shared>, fd: AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = fd.readable().await {
        // First, so that what comes while completions run makes it ready again.
        ready.clear_ready();
        let alone = shared.device.in_flight() <= 1;
        shared.alone.store(alone, Ordering::Relaxed);
        shared.device.poll();
    }
}

/// Starts what has been submitted.
async fn flush(shared: Arc<Shared>) {
    loop {
        shared.flush.notified().await;
        shared.unplug();
    }
}

impl BlockDevice for AsyncDevice {
    super::pass_to_device!(self => self.shared.device);

    fn submit(&self, bio: Bio) {
        if !self.shared.is_alone() {
            self.shared.plug();
        }
        self.shared.device.submit(bio);
    }

    fn transfer(
        &self,
        op: BioOp,
        addr: DevAddr,
        len: u64,
        segments: &[Segment],
    ) -> Result<(), DeviceError> {
        self.shared.device.transfer(op, addr, len, segments)
    }
}

impl Drop for AsyncDevice {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.shared.unplug();
    }
}

impl fmt::Debug for AsyncDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncDevice")
            .field("device", &self.shared.device)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(any(iomap_shuttle, iomap_loom))))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::device::{Backend, FileDevice, MemoryDevice, OpenOptions, completion};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn runtime() -> ::tokio::runtime::Runtime {
        ::tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap()
    }

    fn devices(dir: &tempfile::TempDir) -> Vec<Arc<dyn BlockDevice>> {
        let mut devices: Vec<Arc<dyn BlockDevice>> = vec![Arc::new(MemoryDevice::new(1 << 20))];
        for backend in [Backend::Syscalls, Backend::Uring] {
            let options = OpenOptions {
                create_size: Some(1 << 20),
                backend,
                ..OpenOptions::default()
            };
            if let Ok(device) = FileDevice::open(dir.path().join(format!("{backend:?}")), &options)
            {
                devices.push(Arc::new(device));
            }
        }
        devices
    }

    fn at(n: u64) -> DevAddr {
        DevAddr::new(n)
    }

    #[test]
    fn tasks_read_what_tasks_wrote() {
        let dir = tempfile::tempdir().unwrap();
        for device in devices(&dir) {
            runtime().block_on(async {
                let device = Arc::new(AsyncDevice::attach(device).unwrap());
                let tasks: Vec<_> = (0..32u64)
                    .map(|n| {
                        let device = Arc::clone(&device);
                        ::tokio::spawn(async move {
                            let align = device.limits().memory_align;
                            let data = DeviceBuf::from_slice(&[n as u8; 4096], align);
                            device
                                .request(BioOp::WRITE, at(n * 4096), data)
                                .await
                                .unwrap();
                            device.sync().await.unwrap();
                            let back = device.read(at(n * 4096), 4096).await.unwrap();
                            assert_eq!(&back[..], &[n as u8; 4096]);
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap();
                }
                assert_eq!(device.in_flight(), 0);
            });
        }
    }

    #[test]
    fn a_ticket_is_a_future() {
        let dir = tempfile::tempdir().unwrap();
        for device in devices(&dir) {
            runtime().block_on(async {
                let device = AsyncDevice::attach(device).unwrap();
                let (done, ticket) = completion::ticket();
                device.submit(Bio::new(BioOp::Flush, at(0), 0, &[], done));
                ticket.await.unwrap();
                let error = device.read(at(1 << 20), 512).await.unwrap_err();
                assert_eq!(error.errno, Errno::NXIO);
            });
        }
    }

    #[test]
    fn a_dropped_future_leaves_the_request_running() {
        let dir = tempfile::tempdir().unwrap();
        for device in devices(&dir) {
            let plain = Arc::clone(&device);
            runtime().block_on(async {
                let device = AsyncDevice::attach(device).unwrap();
                let data = DeviceBuf::from_slice(&[6; 4096], device.limits().memory_align);
                {
                    let mut future = pin!(device.request(BioOp::WRITE, at(0), data));
                    let mut context = Context::from_waker(Waker::noop());
                    let first = future.as_mut().poll(&mut context);
                    assert!(matches!(first, Poll::Pending | Poll::Ready(Ok(_))));
                }
                // The tasks of the device are never run again: dropping it starts what waits.
            });
            plain.wait(&mut || plain.in_flight() == 0);
            let mut back = [0; 4096];
            plain.read_at(at(0), &mut back).unwrap();
            assert_eq!(back, [6; 4096]);
        }
    }

    #[test]
    fn a_blocking_waiter_and_the_runtime_share_a_device() {
        let dir = tempfile::tempdir().unwrap();
        for device in devices(&dir) {
            let runtime = runtime();
            let attached = runtime.block_on(async { AsyncDevice::attach(device).unwrap() });
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let (done, ticket) = completion::ticket();
                        let plain = attached.device();
                        plain.submit(Bio::new(BioOp::Flush, at(0), 0, &[], done));
                        ticket.wait(plain).unwrap();
                    }
                });
                runtime.block_on(async {
                    for n in 0..200 {
                        attached.read(at(n * 4096), 4096).await.unwrap();
                    }
                });
            });
        }
    }
}
