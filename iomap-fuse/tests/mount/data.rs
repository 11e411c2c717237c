//! Bytes: how files are opened, holes, `fallocate`, sharing, direct I/O, durability.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use iomap_fuse::CachePolicy;
use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
use rustix::io::Errno;

use crate::Scenario;
use crate::bed::Bed;
use crate::raw::Aligned;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("o_trunc_empties_and_o_append_appends", trunc_and_append),
    ("appends_of_two_open_files_do_not_overwrite", two_appenders),
    (
        "a_write_only_file_takes_small_writes_into_old_blocks",
        write_only,
    ),
    ("reads_stop_at_the_end", reads_stop_at_the_end),
    ("holes_are_found_and_read_as_zeroes", holes),
    ("fallocate_modes", fallocate_modes),
    ("fallocate_modes_that_are_not_there", fallocate_unsupported),
    ("copy_file_range_shares_whole_blocks", copy_shares),
    ("copy_file_range_copies_odd_ranges", copy_odd),
    ("direct_and_buffered_io_see_each_other", direct_and_buffered),
    ("direct_io_can_be_switched_on_an_open_file", direct_switched),
    (
        "unaligned_direct_io_is_served_or_refused_cleanly",
        direct_unaligned,
    ),
    ("large_requests", large_requests),
    ("synced_bytes_are_on_the_device", synced_bytes),
    ("o_sync_writes_are_on_the_device", o_sync),
    ("a_full_device_says_so_and_loses_nothing", full_device),
    ("truncate_up_and_down_leaves_zeroes", truncate_zeroes),
];

fn rw(bed: &Bed, name: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(bed.path(name))
        .unwrap()
}

fn direct(bed: &Bed, name: &str) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(bed.path(name))
        .unwrap()
}

fn trunc_and_append(bed: &Bed) {
    fs::write(bed.path("f"), b"0123456789").unwrap();
    let mut append = OpenOptions::new().append(true).open(bed.path("f")).unwrap();
    append.write_all(b"ab").unwrap();
    append.write_all(b"cd").unwrap();
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"0123456789abcd");
    let empty = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(bed.path("f"))
        .unwrap();
    assert_eq!(empty.metadata().unwrap().len(), 0);
    append.write_all(b"new").unwrap();
    assert_eq!(fs::read(bed.path("f")).unwrap(), b"new");
}

fn two_appenders(bed: &Bed) {
    let write = |byte: u8| {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(bed.path("log"))
            .unwrap();
        for _ in 0..200 {
            file.write_all(&[byte; 100]).unwrap();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(b'a'));
        scope.spawn(|| write(b'b'));
    });
    let bytes = fs::read(bed.path("log")).unwrap();
    assert_eq!(bytes.len(), 40_000);
    for record in bytes.chunks(100) {
        assert!(record.iter().all(|b| *b == record[0]), "a torn record");
    }
    assert_eq!(bytes.iter().filter(|b| **b == b'a').count(), 20_000);
}

/// With a kernel that writes back, it reads the rest of a block on a handle that is write-only.
fn write_only(bed: &Bed) {
    fs::write(bed.path("f"), vec![b'o'; 20_000]).unwrap();
    File::open(bed.path("f")).unwrap().sync_all().unwrap();
    bed.forget();
    let file = OpenOptions::new().write(true).open(bed.path("f")).unwrap();
    file.write_all_at(b"NEW", 5000).unwrap();
    file.sync_all().unwrap();
    drop(file);
    bed.forget();
    let bytes = fs::read(bed.path("f")).unwrap();
    assert_eq!(bytes.len(), 20_000);
    assert_eq!(&bytes[4999..5004], b"oNEWo");
}

fn reads_stop_at_the_end(bed: &Bed) {
    fs::write(bed.path("f"), b"12345").unwrap();
    let mut file = rw(bed, "f");
    let mut bytes = [9; 10];
    assert_eq!(file.read_at(&mut bytes, 3).unwrap(), 2);
    assert_eq!(file.read_at(&mut bytes, 5).unwrap(), 0);
    assert_eq!(file.read_at(&mut bytes, 1 << 40).unwrap(), 0);
    file.seek(SeekFrom::End(-1)).unwrap();
    assert_eq!(file.read(&mut bytes).unwrap(), 1);
}

fn holes(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    let seek = |pos| rustix::fs::seek(&file, pos);
    use rustix::fs::SeekFrom::{Data, Hole};
    if bed.setup.policy == CachePolicy::User {
        assert_eq!(seek(Data(0)), Ok(1 << 20));
        assert_eq!(seek(Hole(0)), Ok(0));
        assert_eq!(seek(Hole(1 << 20)), Ok((1 << 20) + 4096));
        assert_eq!(seek(Data((1 << 20) + 4096)), Err(Errno::NXIO));
    } else {
        // What the kernel has not written back is data too, so nothing is called a hole.
        assert_eq!(seek(Data(0)), Ok(0));
        assert_eq!(seek(Hole(0)), Ok(4 << 20));
        file.write_all_at(&[1], 5 << 20).unwrap();
        assert_eq!(seek(Data(5 << 20)), Ok(5 << 20));
        file.set_len(4 << 20).unwrap();
    }
    assert_eq!(seek(Hole(4 << 20)), Err(Errno::NXIO));
    let mut bytes = vec![1; 1 << 20];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|b| *b == 0));
    assert!(file.metadata().unwrap().blocks() <= 16);
}

fn fallocate_modes(bed: &Bed) {
    let file = rw(bed, "f");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    let m = file.metadata().unwrap();
    assert_eq!((m.len(), m.blocks()), (0, 2048));
    fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    file.write_all_at(&[7; 65536], 0).unwrap();
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        4096,
        8192,
    )
    .unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 20_000, 1000).unwrap();
    let mut bytes = vec![1; 65536];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for (i, b) in bytes.iter().enumerate() {
        let zero = (4096..12_288).contains(&i) || (20_000..21_000).contains(&i);
        assert_eq!(*b, if zero { 0 } else { 7 }, "byte {i}");
    }
    fallocate(
        &file,
        FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        1 << 20,
        4096,
    )
    .unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 1 << 20, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 4096);
}

/// The kernel's FUSE passes only some modes on; the others must say that, not that they are wrong.
fn fallocate_unsupported(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[1; 16384], 0).unwrap();
    for mode in [
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ] {
        assert_eq!(
            fallocate(&file, mode, 4096, 4096),
            Err(Errno::OPNOTSUPP),
            "{mode:?}"
        );
    }
    let read_only = File::open(bed.path("f")).unwrap();
    let refused = fallocate(&read_only, FallocateFlags::empty(), 0, 1);
    assert_eq!(refused, Err(Errno::BADF));
}

fn copy_shares(bed: &Bed) {
    let bytes: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 241) as u8).collect();
    fs::write(bed.path("from"), &bytes).unwrap();
    File::open(bed.path("from")).unwrap().sync_all().unwrap();
    let free = bed.free_blocks();
    let (from, to) = (File::open(bed.path("from")).unwrap(), rw(bed, "to"));
    let mut copied = 0;
    while copied < bytes.len() {
        let rest = bytes.len() - copied;
        let (mut at, mut to_at) = (copied as u64, copied as u64);
        let done = copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), rest).unwrap();
        assert!(done > 0);
        copied += done;
    }
    assert_eq!(fs::read(bed.path("to")).unwrap(), bytes);
    to.sync_all().unwrap();
    let used = free - bed.free_blocks();
    assert!(used < 60, "a copy of 245 blocks took {used} more");
    // A copy is not the original.
    to.write_all_at(b"changed", 100).unwrap();
    assert_eq!(fs::read(bed.path("from")).unwrap(), bytes);
}

fn copy_odd(bed: &Bed) {
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 239) as u8).collect();
    fs::write(bed.path("from"), &bytes).unwrap();
    let (from, to) = (File::open(bed.path("from")).unwrap(), rw(bed, "to"));
    to.write_all_at(&[1; 1000], 0).unwrap();
    let (mut at, mut to_at) = (33, 777);
    let done = copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), 150_001).unwrap();
    let now = fs::read(bed.path("to")).unwrap();
    assert_eq!(&now[777..777 + done], &bytes[33..33 + done]);
    assert!(now[..777].iter().all(|b| *b == 1));
    let (mut at, mut to_at) = (300_000, 0);
    assert_eq!(
        copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), 10),
        Ok(0)
    );
}

fn direct_and_buffered(bed: &Bed) {
    let (buffered, direct) = (rw(bed, "f"), direct(bed, "f"));
    for round in 0..50_u8 {
        let at = u64::from(round) * 4096;
        let block = Aligned::new(8192, round);
        if round % 2 == 0 {
            direct.write_all_at(block.bytes(), at).unwrap();
        } else {
            buffered.write_all_at(block.bytes(), at).unwrap();
        }
        let mut seen = Aligned::new(8192, 255);
        if round % 2 == 0 {
            buffered.read_exact_at(seen.bytes_mut(), at).unwrap();
        } else {
            direct.read_exact_at(seen.bytes_mut(), at).unwrap();
        }
        assert!(seen.bytes().iter().all(|b| *b == round), "round {round}");
    }
}

fn direct_switched(bed: &Bed) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let file = rw(bed, "f");
    file.write_all_at(&[1; 8192], 0).unwrap();
    let flags = fcntl_getfl(&file).unwrap();
    fcntl_setfl(&file, flags | OFlags::DIRECT).unwrap();
    file.write_all_at(Aligned::new(4096, 2).bytes(), 4096)
        .unwrap();
    fcntl_setfl(&file, flags).unwrap();
    let bytes = fs::read(bed.path("f")).unwrap();
    assert!(bytes[..4096].iter().all(|b| *b == 1) && bytes[4096..].iter().all(|b| *b == 2));
}

fn direct_unaligned(bed: &Bed) {
    let file = direct(bed, "f");
    file.write_all_at(Aligned::new(16384, 3).bytes(), 0)
        .unwrap();
    match file.write_at(b"odd", 5) {
        Ok(3) => assert_eq!(&fs::read(bed.path("f")).unwrap()[4..9], b"\x03odd\x03"),
        Ok(n) => panic!("wrote {n} of 3 bytes"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
    }
    let mut tail = [0; 100];
    match file.read_at(&mut tail, 16_384 - 50) {
        Ok(n) => assert_eq!((n, tail[0]), (50, 3)),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL)),
    }
}

fn large_requests(bed: &Bed) {
    let bytes: Vec<u8> = (0..24_000_001_u32).map(|i| (i / 13 % 256) as u8).collect();
    let mut file = rw(bed, "f");
    assert_eq!(file.write(&bytes).unwrap(), bytes.len());
    let mut back = vec![0; bytes.len() + 5];
    file.rewind().unwrap();
    assert_eq!(file.read(&mut back).unwrap(), bytes.len());
    assert_eq!(&back[..bytes.len()], bytes);
}

fn synced_bytes(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[5; 100_000], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[6; 1000], 100_000).unwrap();
    file.sync_all().unwrap();
    File::open(bed.path("")).unwrap().sync_all().unwrap();
    let crashed = bed.after_crash("f").unwrap();
    assert_eq!(crashed.len(), 101_000);
    assert!(
        crashed[..100_000].iter().all(|b| *b == 5) && crashed[100_000..].iter().all(|b| *b == 6)
    );
}

fn o_sync(bed: &Bed) {
    for flag in [libc::O_SYNC, libc::O_DSYNC, libc::O_SYNC | libc::O_DIRECT] {
        let name = format!("f{flag}");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(flag)
            .open(bed.path(&name))
            .unwrap();
        File::open(bed.path("")).unwrap().sync_all().unwrap();
        file.write_all_at(Aligned::new(8192, 9).bytes(), 0).unwrap();
        assert_eq!(bed.after_crash(&name).unwrap(), [9; 8192], "{flag:o}");
    }
}

fn full_device(bed: &Bed) {
    fs::write(bed.path("keep"), vec![1; 1 << 20]).unwrap();
    let file = rw(bed, "filler");
    let chunk = vec![2; 1 << 20];
    let mut written = 0_u64;
    let error = loop {
        match file.write_at(&chunk, written) {
            Ok(n) => written += n as u64,
            Err(error) => break Some(error),
        }
        if written > 400 << 20 {
            break None;
        }
    };
    // A kernel that writes back may say it only now.
    let synced = file.sync_all().err();
    let code = error.or(synced).unwrap().raw_os_error();
    assert_eq!(code, Some(libc::ENOSPC));
    assert_eq!(fs::read(bed.path("keep")).unwrap(), vec![1; 1 << 20]);
    drop(file);
    fs::remove_file(bed.path("filler")).unwrap();
    // The kernel lets go of what was removed in its own time.
    bed.wait_until(|| {
        let written = fs::write(bed.path("again"), vec![3; 8 << 20]);
        written.is_ok() && File::open(bed.path("again")).unwrap().sync_all().is_ok()
    });
    assert_eq!(fs::read(bed.path("again")).unwrap(), vec![3; 8 << 20]);
    assert_eq!(fs::read(bed.path("keep")).unwrap(), vec![1; 1 << 20]);
}

fn truncate_zeroes(bed: &Bed) {
    let file = rw(bed, "f");
    file.write_all_at(&[8; 10_000], 0).unwrap();
    file.set_len(4097).unwrap();
    file.set_len(10_000).unwrap();
    let bytes = fs::read(bed.path("f")).unwrap();
    assert!(bytes[..4097].iter().all(|b| *b == 8));
    assert!(bytes[4097..].iter().all(|b| *b == 0));
}
