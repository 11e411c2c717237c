//! Whatever a request says: it is answered, within its room, with an error the kernel takes or with as
//! many bytes as such an answer has. Requests of all kinds, with heads, names and data that are random,
//! extreme, cut short or not there, one after another to the model file system.

use iomap_core::vfs::{NewInode, OpenFlags, Special, Vfs};
use proptest::prelude::*;
use proptest::sample::select;
use testfs::model::MemFs;
use zerocopy::IntoBytes;

use super::*;
use crate::options::{CachePolicy, MountOptions};
use crate::wire::{Dirent, InHeader, OutHeader, split};

/// Numbers that are likely to go wrong. As an offset of stored bytes each is small or too large, so
/// that no test fills the memory.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    255,
    4095,
    4096,
    1 << 20,
    1 << 45,
    (1 << 33) - 1,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
    // In pairs of small ones.
    1 << 32 | 1,
    4096 << 32 | 4096,
    0x8008_6601 << 32,
    0x401c_5820 << 32,
];

const NAMES: &[&[u8]] = &[
    b"f",
    b"d",
    b"s",
    b"new",
    b"",
    b".",
    b"..",
    b"a/b",
    b"user.a",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
    &[b'n'; 255],
    &[b'n'; 256],
    &[b'n'; 4096],
    &[0xff; 3],
];

/// Lengths of the memory for an answer, also none that there is in truth.
const ROOMS: &[usize] = &[0, 8, 64, 128, 200, 8192, 66_048];

/// A request, and how long its answer may be.
#[derive(Clone, Debug)]
struct Asked {
    opcode: u32,
    node: u64,
    body: Vec<u8>,
    /// Whether it comes by a ring, where the structure it begins with has memory of its own.
    by_ring: bool,
    room: usize,
}

fn asked() -> impl Strategy<Value = Asked> {
    let opcode = prop_oneof![9 => 1_u32..=53, 1 => any::<u32>()];
    let node = prop_oneof![9 => 0_u64..8, 1 => select(NUMBERS)];
    let number = prop_oneof![4 => select(NUMBERS), 1 => any::<u64>().prop_map(|n| n % 1024)];
    let head = proptest::collection::vec(number, 0..12);
    let name = (select(NAMES), proptest::bool::weighted(0.9));
    let names = proptest::collection::vec(name, 0..3);
    let data = prop_oneof![Just(0_usize), Just(44), 0_usize..9000];
    let cut = prop_oneof![4 => Just(usize::MAX), 1 => 0_usize..120];
    let how = (any::<bool>(), select(ROOMS), any::<bool>());
    (opcode, node, head, names, data, cut, how).prop_map(
        |(opcode, node, mut head, names, data, cut, (by_ring, room, fitting))| {
            if fitting {
                // What follows stands where the request has it.
                let len = Opcode::from_number(opcode).map_or(0, Opcode::head_len);
                head.resize(len / 8, 1);
            }
            let mut body = head.as_bytes().to_vec();
            for (name, ends) in names {
                body.extend(name);
                body.extend(ends.then_some(0));
            }
            body.resize(body.len() + data, 2);
            body.truncate(cut);
            Asked {
                opcode,
                node,
                body,
                by_ring,
                room,
            }
        },
    )
}

/// Serves a file system with a file of some bytes, which is open, a directory and a symbolic link.
fn server(options: &MountOptions) -> Server {
    let fs = MemFs::new();
    let new = NewInode {
        mode: 0o6755,
        uid: 1,
        gid: 2,
    };
    let file = fs.mknod(fs.root(), b"f", Special::Regular, &new);
    let file = file.expect("there is room").ino;
    fs.mkdir(fs.root(), b"d", &new).expect("there is room");
    let linked = fs.symlink(fs.root(), b"s", b"f", &new);
    linked.expect("there is room");
    let shared = Shared::new(Arc::<MemFs>::clone(&fs), options);
    if options.acl {
        shared.keep_acl();
    }
    let flags = OpenFlags::READ | OpenFlags::WRITE;
    for _ in 0..3 {
        let open = fs.open(file, flags).expect("it is there");
        shared.handles.insert(open);
    }
    Server::new(Arc::new(shared))
}

/// What `asked` is answered with: the bytes, or the number of an error. `None` if it is refused before
/// it comes to the server.
fn ask(server: &Server, asked: &Asked) -> Option<std::result::Result<Vec<u8>, i32>> {
    let header = InHeader {
        len: asked.body.len() as u32,
        nodeid: asked.node,
        ..InHeader::of(asked.opcode, 1)
    };
    let mut room = vec![0xee; asked.room];
    let mut reply = Reply::new(&mut room);
    let mut space = [0; 128];
    let (head, payload) = if asked.by_ring {
        let len = Opcode::from_number(asked.opcode).map_or(0, Opcode::head_len);
        let (head, payload) = asked.body.split_at(len.min(asked.body.len()));
        space[..head.len()].copy_from_slice(head);
        (&space[..], payload)
    } else {
        split(asked.opcode, &asked.body)?
    };
    let answered = server.answer(&Request::new(header, head, payload), &mut reply);
    let len = reply.len();
    Some(match answered {
        Ok(()) => Ok(room[..len].to_vec()),
        Err(error) => Err(error.errno().raw_os_error()),
    })
}

/// The size that a request for as many bytes names, which all have at the same place.
fn size_named(asked: &Asked, at: usize) -> usize {
    // What is cut off is zeroes where the structure has memory of its own.
    let mut bytes = [0; 4];
    let named = asked.body.iter().skip(at).take(4);
    bytes
        .iter_mut()
        .zip(named)
        .for_each(|(to, byte)| *to = *byte);
    u32::from_ne_bytes(bytes) as usize
}

/// Whether `answer` is as long as that to `asked` must be, and directories are whole.
fn is_well_formed(asked: &Asked, answer: &[u8]) -> bool {
    let opcode = Opcode::from_number(asked.opcode).expect("others answer ENOSYS");
    let len = answer.len();
    match opcode {
        Opcode::Lookup | Opcode::Symlink | Opcode::Mknod | Opcode::Mkdir | Opcode::Link => {
            len == size_of::<EntryOut>()
        }
        Opcode::Getattr | Opcode::Setattr => len == size_of::<AttrOut>(),
        Opcode::Statx => len == size_of::<StatxOut>(),
        Opcode::Open | Opcode::Opendir => len == size_of::<OpenOut>(),
        Opcode::Create => len == size_of::<EntryOut>() + size_of::<OpenOut>(),
        Opcode::Statfs => len == size_of::<StatfsOut>(),
        Opcode::Write | Opcode::CopyFileRange | Opcode::CopyFileRange64 | Opcode::Lseek => {
            len == size_of::<WriteOut>()
        }
        Opcode::Readlink => len < 4096,
        Opcode::Read => len <= size_named(asked, 16),
        Opcode::Readdir => len <= size_named(asked, 16) && is_directory(answer, 0),
        Opcode::Readdirplus => {
            len <= size_named(asked, 16) && is_directory(answer, size_of::<EntryOut>())
        }
        Opcode::Getxattr | Opcode::Listxattr => {
            let size = size_named(asked, 0);
            if size == 0 { len == 8 } else { len <= size }
        }
        Opcode::Ioctl => len >= size_of::<IoctlOut>(),
        _ => len == 0,
    }
}

/// Whether all of `bytes` is entries, each `before` bytes after the one before it.
fn is_directory(mut bytes: &[u8], before: usize) -> bool {
    while !bytes.is_empty() {
        let Some(entry) = bytes.get(before..) else {
            return false;
        };
        let Ok((dirent, _)) = Dirent::read_from_prefix(entry) else {
            return false;
        };
        let len = before + (size_of::<Dirent>() + dirent.namelen as usize).next_multiple_of(8);
        let Some(rest) = bytes.get(len..) else {
            return false;
        };
        if dirent.namelen == 0 {
            return false;
        }
        bytes = rest;
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_within_its_room(
        asked in proptest::collection::vec(asked(), 1..40),
        kernel in any::<bool>(),
        acl in any::<bool>(),
    ) {
        let cache = if kernel { CachePolicy::Kernel } else { CachePolicy::User };
        let server = server(&MountOptions { cache, acl, ..MountOptions::default() });
        for asked in &asked {
            match ask(&server, asked) {
                None => {}
                Some(Err(errno)) => prop_assert!((1..512).contains(&errno), "{errno}: {asked:?}"),
                Some(Ok(answer)) => {
                    prop_assert!(answer.len() <= asked.room);
                    let good = is_well_formed(asked, &answer);
                    prop_assert!(good, "{} bytes: {asked:?}", answer.len());
                }
            }
        }
        // Nothing that was said has broken it.
        let root = Asked {
            opcode: Opcode::Getattr as u32,
            node: 1,
            body: Vec::new(),
            by_ring: false,
            room: size_of::<AttrOut>() + size_of::<OutHeader>(),
        };
        let found = ask(&server, &root);
        prop_assert_eq!(found.map(|found| found.map(|bytes| bytes.len())), Some(Ok(104)));
    }
}
