//! The plan against a model of single bytes, over all kinds, flags, block sizes and alignments.

use super::*;
use crate::direct::SyncKind;
use proptest::prelude::*;

const PAGE_LIMITS: Limits = Limits {
    volatile_cache: true,
    ..Limits::PLAIN
};

#[derive(Clone, Debug)]
struct Case {
    direction: Direction,
    bits: BlockBits,
    limits: Limits,
    /// Of the mapping, in blocks.
    mapping: (u64, u64),
    /// Of the request, in sectors, from the start of the mapping on.
    request: (u64, u64),
    /// From the start of the request on.
    size: u64,
    flags: DirectFlags,
    fs: FsFlags,
    kind: u8,
    addr: u64,
    cow: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (
        9u32..=16,
        0u64..8,
        1u64..8,
        0u64..600,
        1u64..600,
        0u64..2_000_000,
    );
    let device = (
        any::<(bool, bool)>(),
        prop_oneof![Just(512u64), Just(4096)],
        1u64..200_000,
    );
    let flags = (
        any::<u8>(),
        any::<u16>(),
        0u8..5,
        0u64..64,
        any::<(bool, bool)>(),
    );
    (shape, device, flags).prop_map(|(shape, device, flags)| Case {
        direction: if flags.4.0 {
            Direction::Read
        } else {
            Direction::Write
        },
        bits: BlockBits::new(shape.0).expect("9..=16"),
        limits: Limits {
            block_size: device.1,
            max_transfer: device.2,
            fua: device.0.0,
            volatile_cache: device.0.1,
            atomic_write: (512, 65536),
            ..Limits::PLAIN
        },
        mapping: (shape.1, shape.2),
        request: (shape.3, shape.4),
        size: shape.5,
        flags: DirectFlags::from_bits_truncate(flags.0),
        fs: FsFlags::from_bits_truncate(flags.1) & !FsFlags::ATOMIC,
        kind: flags.2,
        addr: flags.3 * 512,
        cow: flags.4.1,
    })
}

impl Case {
    fn request(&self) -> Request<'_> {
        // In the mapping, on a sector or on a device block.
        let unit = if self.request.0.is_multiple_of(2) {
            512
        } else {
            self.limits.block_size
        };
        let inside = self.request.0 * 512 % (self.mapping.1 * self.bits.size());
        let start = (self.mapping.0 * self.bits.size() + inside) / unit * unit;
        let start = start.max(self.mapping.0 * self.bits.size());
        let len = (self.request.1 * 512).next_multiple_of(unit);
        Request {
            direction: self.direction,
            range: FileRange::at_most(FilePos::saturating(start), len),
            size: FilePos::saturating(start + self.size),
            flags: self.flags,
            block_bits: self.bits,
            limits: &self.limits,
        }
    }

    fn iomap(&self) -> Iomap {
        let size = self.bits.size();
        let start = FilePos::saturating(self.mapping.0 * size);
        let addr = DevAddr::new(self.addr);
        let kind = match self.kind {
            0 => MapKind::Hole,
            1 => MapKind::Delalloc,
            2 => MapKind::Unwritten { addr },
            _ => MapKind::Mapped { addr },
        };
        Iomap::new(FileRange::at_most(start, self.mapping.1 * size), kind).with_flags(self.fs)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is asked: the plan stays inside the mapping, leaves no byte of a new block
    /// untouched, and calls nothing durable that needs the backend.
    #[test]
    fn every_plan_is_sound(case in case()) {
        let (request, iomap) = (case.request(), case.iomap());
        let part = request.range.intersect(iomap.range);
        prop_assert!(!part.is_empty());
        let reads = case.direction == Direction::Read;
        let planned = plan(&request, &iomap, case.cow, part);
        let Ok(planned) = planned else {
            let bad_kind = !reads && case.kind < 2;
            prop_assert!(bad_kind || case.flags.contains(DirectFlags::ATOMIC));
            return Ok(());
        };
        prop_assert!(case.kind != 1 || planned == Plan::UseBuffered);
        let Plan::Transfer(transfer) = planned else {
            if planned == Plan::Zeroes {
                prop_assert!(reads && (case.kind != 3 || case.fs.contains(FsFlags::NEW)));
            }
            return Ok(());
        };
        let block = case.limits.block_size;
        prop_assert!(transfer.addr.is_aligned(block) && part.len() % block == 0);
        prop_assert_eq!(transfer.addr.bytes() - case.addr, part.start().since(iomap.range.start()));
        prop_assert!(transfer.max_bio >= block && transfer.max_bio % block == 0);
        prop_assert!(transfer.max_bio <= case.limits.max_transfer.max(block));
        if reads {
            prop_assert_eq!((transfer.zero_head, transfer.zero_tail), (0, 0));
            prop_assert!(!transfer.fua && transfer.kinds.is_empty());
            prop_assert!(case.kind > 2 && !case.fs.contains(FsFlags::NEW));
            return Ok(());
        }
        let fresh = case.kind == 2 || case.fs.contains(FsFlags::NEW);
        let (head, tail) = (part.start().bytes() - transfer.zero_head, part.end().bytes() + transfer.zero_tail);
        prop_assert!(head >= iomap.range.start().bytes() && tail <= iomap.range.end().bytes());
        if fresh {
            prop_assert_eq!(head % case.bits.size(), 0);
            prop_assert_eq!(tail % case.bits.size(), 0);
        } else {
            prop_assert_eq!(transfer.zero_head, 0);
        }
        if part.end() >= request.size {
            prop_assert_eq!(tail % case.bits.size(), 0);
        }
        prop_assert_eq!(transfer.head_addr().bytes() + transfer.zero_head, transfer.addr.bytes());
        let shared = case.cow || case.fs.contains(FsFlags::SHARED);
        prop_assert_eq!(transfer.kinds.contains(DirectKinds::UNWRITTEN), case.kind == 2);
        prop_assert_eq!(transfer.kinds.contains(DirectKinds::COW), shared);
        // A block that is not the file's own until it is whole is lost whole.
        let inside = part.start().saturating_add(512);
        let lost = if fresh || shared { inside.round_down(case.bits) } else { inside };
        prop_assert_eq!(transfer.lost_from(inside), lost);
        let clean = !fresh && !shared && !case.fs.contains(FsFlags::DIRTY) && !request.grows();
        if transfer.write_through {
            prop_assert!(clean && request.flags.sync() == Some(SyncKind::Data));
            prop_assert!(transfer.fua || !case.limits.volatile_cache);
        }
        prop_assert!(!transfer.fua || (transfer.write_through && case.limits.fua));
        if case.flags.contains(DirectFlags::ATOMIC) {
            prop_assert!(part == request.range && part.len() <= transfer.max_bio);
        }
    }

    /// Wherever a transfer stops, the zeroes behind it reach exactly the end of the block, and what
    /// is lost of a new block is all of it.
    #[test]
    fn a_transfer_that_stops_early_ends_at_a_block(sectors in 1u64..256, bits in 9u32..=16) {
        let bits = BlockBits::new(bits).expect("9..=16");
        let len = (256 * 512u64).next_multiple_of(bits.size());
        let range = FileRange::at_most(FilePos::ZERO, len);
        let request = Request {
            direction: Direction::Write,
            range,
            size: FilePos::ZERO,
            flags: DirectFlags::empty(),
            block_bits: bits,
            limits: &PAGE_LIMITS,
        };
        let iomap = Iomap::new(range, MapKind::Unwritten { addr: DevAddr::new(0) });
        let Ok(Plan::Transfer(transfer)) = plan(&request, &iomap, false, range) else {
            return Err(TestCaseError::fail("a transfer"));
        };
        let end = FilePos::saturating(sectors * 512);
        prop_assert_eq!((end.bytes() + transfer.zero_tail_after(end)) % bits.size(), 0);
        prop_assert!(transfer.zero_tail_after(end) < bits.size());
        prop_assert!(transfer.lost_from(end).is_aligned(bits));
    }
}

fn request(limits: &Limits, start: u64, len: u64) -> Request<'_> {
    Request {
        direction: Direction::Write,
        range: FileRange::at_most(FilePos::saturating(start), len),
        size: FilePos::saturating(1 << 20),
        flags: DirectFlags::ATOMIC,
        block_bits: BlockBits::PAGE,
        limits,
    }
}

#[test]
fn the_device_decides_what_is_aligned() {
    let limits = Limits {
        block_size: 4096,
        memory_align: 512,
        ..Limits::PLAIN
    };
    assert!(request(&limits, 4096, 8192).is_aligned(512));
    for (start, len, memory) in [(512, 8192, 512), (4096, 512, 512), (4096, 8192, 256)] {
        assert!(!request(&limits, start, len).is_aligned(memory));
    }
    assert!(
        request(
            &Limits {
                memory_align: 0,
                ..limits
            },
            0,
            4096
        )
        .is_aligned(1)
    );
}

#[test]
fn an_untorn_write_has_a_shape() {
    let limits = Limits {
        atomic_write: (1024, 8192),
        ..Limits::PLAIN
    };
    for (start, len, fits) in [
        (0, 1024, true),
        (8192, 8192, true),
        (0, 512, false),
        (0, 16384, false),
        (0, 3072, false),
        (1024, 2048, false),
    ] {
        assert_eq!(
            request(&limits, start, len).check_atomic().is_ok(),
            fits,
            "{start}+{len}"
        );
    }
    let short = Limits {
        max_transfer: 4096,
        ..limits
    };
    assert!(request(&short, 0, 8192).check_atomic().is_err());
    let none = request(&Limits::PLAIN, 0, 1024).check_atomic();
    assert!(matches!(none, Err(FsError::Unsupported(_))));
}

#[test]
fn a_backend_can_ask_for_untorn_writes() {
    let range = FileRange::at_most(FilePos::ZERO, 8192);
    let iomap = Iomap::new(
        range,
        MapKind::Mapped {
            addr: DevAddr::new(8192),
        },
    )
    .with_flags(FsFlags::ATOMIC);
    let mut request = request(&PAGE_LIMITS, 0, 8192);
    request.flags = DirectFlags::empty();
    let planned = plan(&request, &iomap, false, range);
    assert!(matches!(
        planned,
        Ok(Plan::Transfer(Transfer { atomic: true, .. }))
    ));
    let planned = plan(&request, &iomap, false, range.take(4096));
    assert!(matches!(planned, Err(FsError::Invalid(_))));
}

/// Shared blocks go to another place, whole, and only the backend makes them the file's.
#[test]
fn shared_blocks_are_written_whole_and_are_not_durable_by_themselves() {
    let limits = Limits {
        fua: true,
        ..PAGE_LIMITS
    };
    let addr = DevAddr::new(8192);
    let iomap = Iomap::new(
        FileRange::at_most(FilePos::ZERO, 1 << 20),
        MapKind::Mapped { addr },
    );
    let shared = iomap.clone().with_flags(FsFlags::SHARED);
    for (start, len, whole) in [
        (4096, 8192, true),
        (4608, 3584, false),
        (4096, 512, false),
        (4096, 4608, false),
    ] {
        let mut request = request(&limits, start, len);
        request.flags = DirectFlags::DSYNC;
        let range = request.range;
        for (iomap, elsewhere) in [(&shared, false), (&iomap, true)] {
            match plan(&request, iomap, elsewhere, range).expect("a plan") {
                Plan::Transfer(transfer) => {
                    assert!(whole, "{range}");
                    assert!(!transfer.write_through && !transfer.fua, "{range}");
                }
                other => assert!(!whole && other == Plan::UseBuffered, "{range} {other:?}"),
            }
        }
        let own = plan(&request, &iomap, false, range).expect("a plan");
        assert!(matches!(own, Plan::Transfer(Transfer { fua: true, .. })));
    }
}
