//! Tests of the file device on real files: the root file system (direct) and `/dev/shm` (buffered).
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use proptest::prelude::*;

use super::super::{Backend, DeviceBuf, DirectMode};
use super::*;
use crate::error::Errno;
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const SIZE: u64 = 1 << 20;

/// Directories to test in: one on a disk, one in memory.
fn places() -> Vec<tempfile::TempDir> {
    let memory = tempfile::TempDir::new_in("/dev/shm");
    [Some(tempfile::tempdir().unwrap()), memory.ok()]
        .into_iter()
        .flatten()
        .collect()
}

fn create() -> OpenOptions {
    OpenOptions {
        create_size: Some(SIZE),
        ..OpenOptions::default()
    }
}

/// Every way to open a file that works on this machine.
fn devices(dir: &tempfile::TempDir) -> Vec<(String, FileDevice)> {
    let mut devices = Vec::new();
    for backend in [Backend::Syscalls, Backend::Uring] {
        for direct in [DirectMode::Never, DirectMode::Always] {
            let name = format!("{backend:?}-{direct:?}");
            let options = OpenOptions {
                backend,
                direct,
                ..create()
            };
            match FileDevice::open(dir.path().join(&name), &options) {
                Ok(device) => devices.push((name, device)),
                Err(OpenError::NoDirect(_) | OpenError::NoRing { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    devices
}

fn image(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

fn at(n: u64) -> DevAddr {
    DevAddr::new(n)
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed)
        .collect()
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        block: u64,
        blocks: u64,
        seed: u8,
        fua: bool,
        pieces: usize,
        shift: usize,
        wait: bool,
    },
    Read {
        block: u64,
        blocks: u64,
        shift: usize,
    },
    Zero {
        block: u64,
        blocks: u64,
    },
    Discard {
        block: u64,
        blocks: u64,
    },
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let range = || (0..2080u64, 1..80u64);
    let write = (
        range(),
        any::<u8>(),
        any::<bool>(),
        1..5usize,
        prop_oneof![4 => Just(0usize), 1 => Just(16), 1 => Just(3)],
        any::<bool>(),
    )
        .prop_map(
            |((block, blocks), seed, fua, pieces, shift, wait)| Op::Write {
                block,
                blocks,
                seed,
                fua,
                pieces,
                shift,
                wait,
            },
        );
    let op = prop_oneof![
        5 => write,
        3 => (range(), 0..8usize).prop_map(|((block, blocks), shift)| Op::Read { block, blocks, shift }),
        1 => range().prop_map(|(block, blocks)| Op::Zero { block, blocks }),
        1 => range().prop_map(|(block, blocks)| Op::Discard { block, blocks }),
        1 => Just(Op::Flush),
    ];
    prop::collection::vec(op, 1..25)
}

/// The part of `buf` from `shift` on as `pieces` segments of whole blocks (the last takes the rest).
fn pieces(buf: &mut DeviceBuf, shift: usize, pieces: usize) -> Vec<Segment> {
    let whole = Segment::of_mut(buf);
    let len = whole.len() - shift;
    let piece = (len / 512 / pieces).max(1) * 512;
    let mut cuts: Vec<_> = (0..pieces)
        .map(|n| n * piece)
        .filter(|&c| c < len)
        .collect();
    cuts.push(len);
    cuts.windows(2)
        .map(|cut| whole.part(shift + cut[0], cut[1] - cut[0]))
        .collect()
}

fn in_range(block: u64, blocks: u64) -> bool {
    (block + blocks) * 512 <= SIZE
}

fn apply(device: &FileDevice, model: &mut [u8], op: &Op) {
    let fill = |model: &mut [u8], block: u64, data: &[u8]| {
        let from = block as usize * 512;
        model[from..from + data.len()].copy_from_slice(data);
    };
    match *op {
        Op::Write {
            block,
            blocks,
            seed,
            fua,
            pieces: count,
            shift,
            wait,
        } => {
            let data = pattern(seed, blocks as usize * 512);
            let mut buf = DeviceBuf::zeroed(data.len() + shift, 4096);
            buf[shift..].copy_from_slice(&data);
            let segments = pieces(&mut buf, shift, count);
            let op = BioOp::Write { fua, atomic: false };
            let (addr, len) = (at(block * 512), blocks * 512);
            let result = if wait {
                device.transfer(op, addr, len, &segments)
            } else {
                let (done, ticket) = crate::device::completion::ticket();
                device.submit(Bio::new(op, addr, len, &segments, done));
                ticket.wait(device)
            };
            if in_range(block, blocks) {
                result.unwrap();
                fill(model, block, &data);
            } else {
                assert_eq!(result.unwrap_err().errno, Errno::NXIO);
            }
        }
        Op::Read {
            block,
            blocks,
            shift,
        } => {
            let mut buf = DeviceBuf::zeroed(blocks as usize * 512 + shift, 4096);
            let result = device.read_at(at(block * 512), &mut buf[shift..]);
            if in_range(block, blocks) {
                result.unwrap();
                let from = block as usize * 512;
                assert_eq!(&buf[shift..], &model[from..from + blocks as usize * 512]);
            } else {
                assert_eq!(result.unwrap_err().errno, Errno::NXIO);
            }
        }
        Op::Zero { block, blocks } | Op::Discard { block, blocks } => {
            let op = match op {
                Op::Zero { .. } => BioOp::WriteZeroes,
                _ => BioOp::Discard,
            };
            let (done, ticket) = crate::device::completion::ticket();
            device.submit(Bio::new(op, at(block * 512), blocks * 512, &[], done));
            let result = ticket.wait(device);
            if in_range(block, blocks) {
                result.unwrap();
                fill(model, block, &vec![0; blocks as usize * 512]);
            } else {
                assert_eq!(result.unwrap_err().errno, Errno::NXIO);
            }
        }
        Op::Flush => device.flush().unwrap(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_back_end_does_the_same_as_the_model(ops in ops()) {
        for dir in places() {
            for (name, device) in devices(&dir) {
                let mut model = vec![0; SIZE as usize];
                for op in &ops {
                    apply(&device, &mut model, op);
                }
                device.flush().unwrap();
                drop(device);
                prop_assert!(image(&dir.path().join(&name)) == model, "{name} differs");
            }
        }
    }
}

#[test]
fn the_root_file_system_is_used_directly_and_tmpfs_is_not() {
    let dir = tempfile::TempDir::new_in("/dev/shm").unwrap();
    let device = FileDevice::open(dir.path().join("image"), &create()).unwrap();
    assert!(!device.is_direct());
    let error = FileDevice::open(
        dir.path().join("direct"),
        &OpenOptions {
            direct: DirectMode::Always,
            ..create()
        },
    );
    assert!(matches!(error, Err(OpenError::NoDirect(_))));
}

#[test]
fn a_second_opener_is_refused_by_name() {
    for dir in places() {
        let path = dir.path().join("image");
        let reading = OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        };
        let writer = FileDevice::open(&path, &create()).unwrap();
        for options in [&create(), &reading] {
            let error = FileDevice::open(&path, options).unwrap_err();
            assert_eq!(error, OpenError::Locked(path.clone()));
            assert!(error.to_string().contains("image"));
        }
        drop(writer);
        let reader = FileDevice::open(&path, &reading).unwrap();
        let second = FileDevice::open(&path, &reading).unwrap();
        assert!(matches!(
            FileDevice::open(&path, &create()),
            Err(OpenError::Locked(_))
        ));
        drop((reader, second));
        drop(FileDevice::open(&path, &create()).unwrap());
    }
}

#[test]
fn what_cannot_be_a_device_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| FileDevice::open(path, &OpenOptions::default()).unwrap_err();
    let missing = dir.path().join("missing");
    assert_eq!(open(missing.clone()), OpenError::Missing(missing));
    let here = dir.path().to_owned();
    assert_eq!(open(here.clone()), OpenError::NotADevice(here));
    assert!(matches!(
        open(PathBuf::from("/dev/null")),
        OpenError::NotADevice(_)
    ));
    let odd = dir.path().join("odd");
    std::fs::write(&odd, vec![1; 1000]).unwrap();
    assert_eq!(
        open(odd.clone()),
        OpenError::BadSize {
            path: odd,
            size: 1000,
            block: 512
        }
    );
}

#[test]
fn creating_never_touches_a_file_that_has_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    let device = FileDevice::open(&path, &create()).unwrap();
    assert_eq!(device.size(), 4096);
    drop(device);
    assert_eq!(image(&path), vec![7; 4096]);
}

#[test]
fn read_only_refuses_every_change() {
    for dir in places() {
        let path = dir.path().join("image");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let options = OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        };
        let device = FileDevice::open(&path, &options).unwrap();
        let error = device.write_at(at(0), &[1; 512]).unwrap_err();
        assert_eq!(error.errno, Errno::ROFS);
        for op in [BioOp::Discard, BioOp::WriteZeroes] {
            let error = device.transfer(op, at(0), 512, &[]).unwrap_err();
            assert_eq!(error.errno, Errno::ROFS);
        }
        let mut buf = [0; 512];
        device.read_at(at(512), &mut buf).unwrap();
        device.flush().unwrap();
        assert_eq!(buf, [7; 512]);
        assert!(!device.limits().fua && !device.limits().discard);
    }
}

#[test]
fn a_file_cut_under_the_device_is_an_error() {
    for dir in places() {
        for (name, device) in devices(&dir) {
            let path = dir.path().join(&name);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(SIZE / 2 + 512).unwrap();
            let mut buf = DeviceBuf::zeroed(4096, 4096);
            for addr in [SIZE / 2, SIZE - 4096] {
                let error = device.read_at(at(addr), &mut buf).unwrap_err();
                assert_eq!(error.errno, Errno::IO, "{name}");
                let (done, ticket) = crate::device::completion::ticket();
                let segment = Segment::of_mut(&mut buf);
                device.submit(Bio::new(BioOp::Read, at(addr), 4096, &[segment], done));
                assert_eq!(ticket.wait(&device).unwrap_err().errno, Errno::IO, "{name}");
            }
            device.read_at(at(0), &mut buf).unwrap();
        }
    }
}

#[test]
fn requests_off_the_grid_are_refused() {
    for dir in places() {
        for (name, device) in devices(&dir) {
            let mut buf = DeviceBuf::zeroed(4096, 4096);
            for (addr, len, errno) in [
                (1, 512, Errno::INVAL),
                (0, 100, Errno::INVAL),
                (0, 0, Errno::INVAL),
                (SIZE, 512, Errno::NXIO),
                (SIZE - 512, 1024, Errno::NXIO),
                (u64::MAX - 511, 512, Errno::NXIO),
            ] {
                let error = device.read_at(at(addr), &mut buf[..len]).unwrap_err();
                assert_eq!(error.errno, errno, "{name} {addr}+{len}");
            }
        }
    }
}

#[test]
fn a_failed_flush_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let device = FileDevice::open(dir.path().join("image"), &create()).unwrap();
    device.handle.lose(Errno::IO);
    assert_eq!(device.flush().unwrap_err().errno, Errno::IO);
    let (done, ticket) = crate::device::completion::ticket();
    device.submit(Bio::new(BioOp::Flush, at(0), 0, &[], done));
    assert_eq!(ticket.wait(&device).unwrap_err().errno, Errno::IO);
    let op = BioOp::Write {
        fua: true,
        atomic: false,
    };
    let mut buf = DeviceBuf::zeroed(512, 4096);
    let segment = Segment::of_mut(&mut buf);
    let error = device.transfer(op, at(0), 512, &[segment]).unwrap_err();
    assert_eq!(error.errno, Errno::IO);
}

#[test]
fn a_request_can_own_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    for (name, device) in devices(&dir) {
        let (send, receive) = std::sync::mpsc::channel();
        let data = pattern(9, 4096);
        device.write_at(at(4096), &data).unwrap();
        let buf = DeviceBuf::zeroed(4096, device.limits().memory_align);
        device.submit(Bio::owned(
            BioOp::Read,
            at(4096),
            buf,
            move |result, buf| {
                send.send((result, buf)).unwrap();
            },
        ));
        let mut got = None;
        device.wait(&mut || {
            got = got.take().or_else(|| receive.try_recv().ok());
            got.is_some()
        });
        let (result, buf) = got.unwrap();
        result.unwrap();
        assert_eq!(&buf[..], &data[..], "{name}");
    }
}

/// A device on a disk with a ring, if this machine lets us have one.
fn with_ring(dir: &tempfile::TempDir) -> Option<FileDevice> {
    let options = OpenOptions {
        backend: Backend::Uring,
        ..create()
    };
    match FileDevice::open(dir.path().join("ring"), &options) {
        Ok(device) => Some(device),
        Err(OpenError::NoRing { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Submits a read of `len` bytes at `addr` that counts itself in `count` and checks for `byte`.
fn counted_read(device: &FileDevice, addr: u64, len: usize, byte: u8, count: &Arc<AtomicUsize>) {
    let count = Arc::clone(count);
    let buf = DeviceBuf::zeroed(len, 4096);
    device.submit(Bio::owned(
        BioOp::Read,
        at(addr),
        buf,
        move |result, buf| {
            result.unwrap();
            assert!(buf.iter().all(|&b| b == byte));
            count.fetch_add(1, Ordering::Release);
        },
    ));
}

#[test]
fn many_threads_share_the_ring_and_each_gets_its_answers() {
    let dir = tempfile::tempdir().unwrap();
    for (_, device) in devices(&dir) {
        let threads = 8u64;
        std::thread::scope(|scope| {
            for n in 0..threads {
                let device = &device;
                scope.spawn(move || {
                    let base = n * 16 * 1024;
                    for round in 0..40u8 {
                        let byte = round ^ n as u8;
                        let tickets: Vec<_> = (0..4)
                            .map(|i| {
                                let (done, ticket) = crate::device::completion::ticket();
                                let mut buf = DeviceBuf::from_slice(&[byte; 4096], 4096);
                                let segment = Segment::of_mut(&mut buf);
                                let addr = at(base + i * 4096);
                                device.submit(Bio::new(BioOp::WRITE, addr, 4096, &[segment], done));
                                (ticket, buf)
                            })
                            .collect();
                        for (ticket, _buf) in tickets {
                            ticket.wait(device).unwrap();
                        }
                        let count = Arc::new(AtomicUsize::new(0));
                        for i in 0..4 {
                            counted_read(device, base + i * 4096, 4096, byte, &count);
                        }
                        device.wait(&mut || count.load(Ordering::Acquire) == 4);
                    }
                });
            }
        });
        assert_eq!(device.in_flight(), 0);
    }
}

#[test]
fn a_waiter_that_is_done_hands_the_ring_over() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = with_ring(&dir) else {
        return;
    };
    // Two waiters for a flag that no request sets: one drives, one follows. Each is let go by a
    // wake; the second must take over and see the completion of a request submitted afterwards.
    let flags = [AtomicBool::new(false), AtomicBool::new(false)];
    let count = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| device.wait(&mut || flags[0].load(Ordering::Acquire)));
        let second = scope.spawn(|| {
            device.wait(&mut || flags[1].load(Ordering::Acquire));
            device.wait(&mut || count.load(Ordering::Acquire) == 1);
        });
        flags[0].store(true, Ordering::Release);
        device.wake();
        first.join().unwrap();
        counted_read(&device, 0, 4096, 0, &count);
        flags[1].store(true, Ordering::Release);
        device.wake();
        second.join().unwrap();
    });
}

#[test]
fn a_waiter_sees_the_answers_of_a_thread_that_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    for (_, device) in devices(&dir) {
        for _ in 0..50 {
            let count = Arc::new(AtomicUsize::new(0));
            std::thread::scope(|scope| {
                // The submitter exits at once: what it started must end all the same.
                scope.spawn(|| counted_read(&device, 0, 65536, 0, &count));
                let flush = || device.wait(&mut || count.load(Ordering::Acquire) == 1);
                scope.spawn(flush);
                scope.spawn(flush);
            });
        }
    }
}

#[test]
fn a_flush_survives_the_thread_that_submitted_it() {
    let dir = tempfile::tempdir().unwrap();
    for (name, device) in devices(&dir) {
        for _ in 0..20 {
            device.write_at(at(0), &[1; 4096]).unwrap();
            let (done, ticket) = crate::device::completion::ticket();
            std::thread::scope(|scope| {
                scope.spawn(|| device.submit(Bio::new(BioOp::Flush, at(0), 0, &[], done)));
            });
            assert_eq!(ticket.wait(&device), Ok(()), "{name}");
        }
    }
}

#[test]
fn polling_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    for (_, device) in devices(&dir) {
        let count = Arc::new(AtomicUsize::new(0));
        for n in 0..32 {
            counted_read(&device, n * 4096, 4096, 0, &count);
        }
        while device.in_flight() > 0 {
            device.poll();
            std::thread::yield_now();
        }
        assert_eq!(count.load(Ordering::Acquire), 32);
    }
}

#[test]
fn more_requests_than_the_ring_holds() {
    let dir = tempfile::tempdir().unwrap();
    for (_, device) in devices(&dir) {
        let count = Arc::new(AtomicUsize::new(0));
        for n in 0..2000 {
            counted_read(&device, n % 64 * 4096, 4096, 0, &count);
        }
        device.wait(&mut || count.load(Ordering::Acquire) == 2000);
        assert_eq!(device.in_flight(), 0);
    }
}

#[test]
fn a_plug_keeps_requests_back_until_it_goes_or_somebody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = with_ring(&dir) else {
        return;
    };
    let count = Arc::new(AtomicUsize::new(0));
    let plug = crate::device::Plug::new(&device);
    counted_read(&device, 0, 4096, 0, &count);
    assert_eq!(device.in_flight(), 1);
    device.wait(&mut || count.load(Ordering::Acquire) == 1);
    counted_read(&device, 0, 4096, 0, &count);
    drop(plug);
    device.wait(&mut || count.load(Ordering::Acquire) == 2);
}

#[test]
fn a_plug_does_not_keep_back_what_other_threads_submit() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = with_ring(&dir) else {
        return;
    };
    let count = Arc::new(AtomicUsize::new(0));
    let plug = crate::device::Plug::new(&device);
    std::thread::scope(|scope| {
        scope.spawn(|| counted_read(&device, 0, 4096, 0, &count));
    });
    // Nobody waits for the device: only if the request is in the kernel can it be answered.
    let fd = device.completion_fd().unwrap();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let most = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    assert_eq!(poll(&mut fds, Some(&most)), Ok(1), "kept back");
    device.poll();
    assert_eq!(count.load(Ordering::Acquire), 1);
    drop(plug);
}

#[test]
fn a_request_of_very_many_segments_is_done_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    for (name, device) in devices(&dir) {
        // The same small piece of memory over and over: more segments than one call takes.
        let (segment, count) = (512, 2000);
        let mut buf = DeviceBuf::from_slice(&pattern(3, segment), 4096);
        let parts = vec![Segment::of_mut(&mut buf); count];
        let data = pattern(3, segment).repeat(count);
        let (done, ticket) = crate::device::completion::ticket();
        let len = (segment * count) as u64;
        device.submit(Bio::new(BioOp::WRITE, at(0), len, &parts, done));
        ticket.wait(&device).unwrap();
        let mut back = vec![0; data.len()];
        device.read_at(at(0), &mut back).unwrap();
        assert!(back == data, "{name}");
    }
}

#[test]
fn dropping_the_device_waits_for_its_requests() {
    let dir = tempfile::tempdir().unwrap();
    for (_, device) in devices(&dir) {
        let count = Arc::new(AtomicUsize::new(0));
        for n in 0..16 {
            counted_read(&device, n * 4096, 4096, 0, &count);
        }
        drop(device);
        assert_eq!(count.load(Ordering::Acquire), 16);
    }
}

#[test]
fn a_dropped_ticket_does_not_stop_the_request() {
    let dir = tempfile::tempdir().unwrap();
    for (_, device) in devices(&dir) {
        let (done, ticket) = crate::device::completion::ticket();
        let mut buf = DeviceBuf::from_slice(&[4; 4096], 4096);
        let segment = Segment::of_mut(&mut buf);
        device.submit(Bio::new(BioOp::WRITE, at(0), 4096, &[segment], done));
        drop(ticket);
        device.wait(&mut || device.in_flight() == 0);
        let mut back = [0; 4096];
        device.read_at(at(0), &mut back).unwrap();
        assert_eq!(back, [4; 4096]);
    }
}

/// A loop device over a file, if this machine lets us have one. Detached when dropped.
struct Loop(String);

impl Loop {
    fn new(file: &Path) -> Option<Self> {
        let mut command = std::process::Command::new("losetup");
        let output = command.args(["--find", "--show"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        output
            .status
            .success()
            .then(|| Self(name.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let mut command = std::process::Command::new("losetup");
        let _ = command.args(["--detach", &self.0]).output();
    }
}

#[test]
fn a_block_device_is_used_like_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, pattern(1, SIZE as usize)).unwrap();
    let Some(disk) = Loop::new(&path) else {
        return;
    };
    for backend in [Backend::Syscalls, Backend::Uring] {
        let options = OpenOptions {
            backend,
            ..OpenOptions::default()
        };
        let device = match FileDevice::open(&disk.0, &options) {
            Ok(device) => device,
            Err(OpenError::NoRing { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(device.size(), SIZE);
        assert!(matches!(
            FileDevice::open(&disk.0, &options),
            Err(OpenError::Locked(_))
        ));
        let mut model = vec![0; SIZE as usize];
        let mut rng = fastrand::Rng::with_seed(4);
        apply(
            &device,
            &mut model,
            &Op::Zero {
                block: 0,
                blocks: SIZE / 512,
            },
        );
        for _ in 0..40 {
            let (block, blocks) = (rng.u64(..2000), rng.u64(1..40));
            let write = Op::Write {
                block,
                blocks,
                seed: rng.u8(..),
                fua: rng.bool(),
                pieces: 2,
                shift: 0,
                wait: rng.bool(),
            };
            apply(&device, &mut model, &write);
            apply(
                &device,
                &mut model,
                &Op::Read {
                    block: 0,
                    blocks: 64,
                    shift: 0,
                },
            );
        }
        apply(
            &device,
            &mut model,
            &Op::Discard {
                block: 8,
                blocks: 80,
            },
        );
        apply(&device, &mut model, &Op::Flush);
        let mut back = vec![0; SIZE as usize];
        device.read_at(at(0), &mut back).unwrap();
        assert!(back == model);
    }
}
