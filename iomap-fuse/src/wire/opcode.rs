//! The requests there are.

use super::abi::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, FallocateIn, ForgetIn, FsyncIn, GetxattrIn,
    InterruptIn, IoctlIn, LinkIn, LseekIn, MkdirIn, MknodIn, OpenIn, ReadIn, ReleaseIn, Rename2In,
    RenameIn, SetattrIn, SetxattrIn, WriteIn,
};

/// Defines [`Opcode`]: the number of each request, and the structure it begins with.
macro_rules! opcodes {
    ($($name:ident = $number:literal $(: $head:ty)?),* $(,)?) => {
        /// A request that is served here. What else there is answers `ENOSYS`, which the kernel takes
        /// as "does not ask again" where it can do without.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(crate) enum Opcode { $($name = $number),* }

        impl Opcode {
            pub(crate) const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Bytes of the structure the request begins with; names and data follow it.
            pub(crate) const fn head_len(self) -> usize {
                match self {
                    $(Self::$name => 0 $(+ size_of::<$head>())?,)*
                }
            }
        }
    };
}

opcodes! {
    Lookup = 1,
    Forget = 2: ForgetIn,
    // A handle follows that is not looked at.
    Getattr = 3,
    Setattr = 4: SetattrIn,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8: MknodIn,
    Mkdir = 9: MkdirIn,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12: RenameIn,
    Link = 13: LinkIn,
    Open = 14: OpenIn,
    Read = 15: ReadIn,
    Write = 16: WriteIn,
    Statfs = 17,
    Release = 18: ReleaseIn,
    Fsync = 20: FsyncIn,
    Setxattr = 21: SetxattrIn,
    Getxattr = 22: GetxattrIn,
    Listxattr = 23: GetxattrIn,
    Removexattr = 24,
    Opendir = 27: OpenIn,
    Readdir = 28: ReadIn,
    Releasedir = 29: ReleaseIn,
    Fsyncdir = 30: FsyncIn,
    Create = 35: CreateIn,
    Interrupt = 36: InterruptIn,
    Destroy = 38,
    Ioctl = 39: IoctlIn,
    BatchForget = 42: BatchForgetIn,
    Fallocate = 43: FallocateIn,
    Readdirplus = 44: ReadIn,
    Rename2 = 45: Rename2In,
    Lseek = 46: LseekIn,
    CopyFileRange = 47: CopyFileRangeIn,
    // Which file and what is asked for follow, and are not looked at: all is told.
    Statx = 52,
    CopyFileRange64 = 53: CopyFileRangeIn,
}

impl Opcode {
    /// Whether the kernel waits for an answer.
    pub(crate) const fn is_answered(self) -> bool {
        !matches!(self, Self::Forget | Self::BatchForget | Self::Interrupt)
    }
}

/// The number of the first request on a connection, which is answered before all others.
pub(crate) const INIT: u32 = 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_its_number_both_ways() {
        assert_eq!((Opcode::Write as u32, Opcode::Open as u32), (16, 14));
        let known = (0..100).filter_map(|number| Some((number, Opcode::from_number(number)?)));
        for (number, opcode) in known {
            assert_eq!(opcode as u32, number);
        }
    }
}
