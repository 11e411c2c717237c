//! The asynchronous edge over a real file and its ring.
#![cfg(all(feature = "tokio", not(any(iomap_shuttle, iomap_loom))))]

use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use iomap_core::aio::{AsyncFile, TokioFile};
use iomap_core::device::tokio::AsyncDevice;
use iomap_core::device::{BlockDevice, FileDevice, OpenOptions};
use iomap_core::folio::{Pool, PoolConfig};
use iomap_core::ops::MapOps;
use iomap_core::units::{FilePos, FileRange};
use iomap_core::vfs::IoFlags;

#[expect(dead_code, reason = "the example's own main is not run here")]
#[path = "../examples/flat_file.rs"]
pub mod flat_file;

use flat_file::Flat;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime")
}

/// A file over a fresh volume, driven by the current runtime.
fn open(dir: &tempfile::TempDir) -> TokioFile<Flat> {
    let options = OpenOptions {
        create_size: Some(8 << 20),
        ..OpenOptions::default()
    };
    let device = FileDevice::open(dir.path().join("volume"), &options).expect("a new file");
    let device = AsyncDevice::attach(Arc::new(device)).expect("a descriptor to watch");
    let device: Arc<dyn BlockDevice> = Arc::new(device);
    let pool = Pool::new(PoolConfig::with_budget(16 << 20)).expect("memory");
    TokioFile::new(Arc::new(Flat::new(device, 4096, pool).open()))
}

fn at(pos: u64) -> FilePos {
    FilePos::saturating(pos)
}

#[test]
fn what_is_written_is_read_back_cached_cold_and_direct() {
    let dir = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let file = open(&dir);
        let bytes = Bytes::from((0..300_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>());
        let none = IoFlags::empty();
        assert_eq!(
            file.write_at(at(12_345), bytes.clone(), none).await,
            Ok(bytes.len())
        );
        assert_eq!(
            file.read_at(at(12_345), bytes.len(), none).await,
            Ok(bytes.clone())
        );
        file.fsync(false).await.expect("a disk that works");
        file.file()
            .backend()
            .inode()
            .cache()
            .drop_clean(FileRange::ALL);
        assert_eq!(file.file().backend().inode().cache().nr_pages(), 0);
        assert_eq!(
            file.read_at(at(12_345), bytes.len(), none).await,
            Ok(bytes.clone())
        );
        let direct = file.read_at(at(16_384), 65_536, IoFlags::DIRECT).await;
        assert_eq!(
            direct,
            Ok(bytes.slice(16_384 - 12_345..16_384 - 12_345 + 65_536))
        );
    });
}

#[test]
fn many_readers_of_missing_bytes_share_one_thread() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .max_blocking_threads(1)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let file = Arc::new(open(&dir));
        let local = tokio::task::LocalSet::new();
        for n in 0..64_u64 {
            let file = Arc::clone(&file);
            local.spawn_local(async move {
                let bytes = file.read_at(at(n * 100_000), 4096, IoFlags::empty()).await;
                assert_eq!(bytes, Ok(Bytes::from_static(&[0; 4096])));
            });
        }
        local.await;
        assert!(
            file.file()
                .backend()
                .inode()
                .counters()
                .snapshot()
                .cache_misses
                >= 60
        );
    });
}

#[test]
fn a_dropped_read_leaves_a_file_that_works() {
    let dir = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let file = open(&dir);
        for flags in [IoFlags::empty(), IoFlags::DIRECT] {
            for n in 0..20 {
                let mut read = file.read_at(at(n * 131_072), 131_072, flags);
                let _ = read.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                drop(read);
            }
        }
        // Everything that was started ends; nothing stays locked or counted.
        let all = file
            .read_at(at(0), 4 << 20, IoFlags::empty())
            .await
            .expect("a disk that works");
        assert!(all.len() == 4 << 20 && all.iter().all(|b| *b == 0));
        let written = file
            .write_at(at(0), Bytes::from_static(b"after"), IoFlags::empty())
            .await;
        assert_eq!(written, Ok(5));
        file.fsync(true).await.expect("a disk that works");
        let inode = file.file().backend().inode();
        inode.wait_for_direct(&inode.lock_exclusive());
    });
}

#[test]
fn a_read_takes_no_more_memory_than_the_file_has() {
    let dir = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let file = open(&dir);
        let size = file.file().backend().inode().size().bytes();
        for flags in [IoFlags::empty(), IoFlags::DIRECT] {
            for pos in [0, size - 4096, size - 1, size, u64::MAX >> 1] {
                let read = file.read_at(at(pos), usize::MAX, flags).await;
                let len = read.expect("a disk that works").len() as u64;
                assert_eq!(len, size.saturating_sub(pos), "{flags:?} at {pos}");
            }
        }
    });
}

#[test]
fn bytes_of_a_direct_read_are_the_callers_for_ever() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (one, many) = runtime.block_on(async {
        let file = open(&dir);
        let old = Bytes::from_static(&[1; 65_536]);
        let done = file.write_at(at(0), old, IoFlags::DIRECT).await;
        assert_eq!(done, Ok(65_536));
        let one = file.read_at(at(4096), 4096, IoFlags::DIRECT).await;
        let many = file.read_at(at(0), 65_536, IoFlags::DIRECT).await;
        let new = Bytes::from_static(&[2; 65_536]);
        let done = file.write_at(at(0), new.clone(), IoFlags::DIRECT).await;
        assert_eq!(done, Ok(65_536));
        let again = file.read_at(at(0), 65_536, IoFlags::DIRECT).await;
        assert_eq!(again, Ok(new));
        (one.expect("read"), many.expect("read"))
    });
    // The file, its device and the runtime are gone.
    drop(runtime);
    assert_eq!(one, [1; 4096][..]);
    assert_eq!(many, [1; 65_536][..]);
    assert_eq!(
        many.slice(1..).try_into_mut().map_err(|b| b.len()),
        Err(65_535)
    );
}
