//! The arguments of verbs that change what is in an image.
//!
//! Owns their options and texts; what all verbs share is [`cli`](super).

use std::ffi::OsString;

use clap::Args;

use super::{Json, LongHelp};
use crate::size::NewSize;

#[derive(Debug, Args)]
#[command(override_usage = "iomapfs cp [OPTIONS] SOURCE… DEST")]
#[command(after_help = "\
Keeps permissions, times to the nanosecond, owners, extended attributes, hard links, symbolic links \
and holes, without being asked; --no-preserve leaves some of it out. An owner on the host is kept \
where the kernel allows it (as root); an owner in an image always.

Where a copy goes is decided as cp(1) does: into DEST if that is a directory, else to the name DEST. \
SOURCE/. means what is in SOURCE.

An image is not trusted: names that leave the destination, symbolic links in the way and device \
nodes (without --devices) are refused, told, and the rest is copied. Exit code 1 tells that \
something was not copied; each is told on the standard error.

Examples:
  iomapfs cp -r ./rootfs/. disk.img:/         what is in rootfs into the root of the image
  iomapfs cp disk.img:/etc/passwd .           one file out
  iomapfs cp -r a.img:/home b.img:/home       from image to image
  iomapfs cp -r --owner 0:0 ./app disk.img:/opt")]
pub(crate) struct CpArgs {
    /// What to copy, and last where to: each IMAGE:/path or a path of the host
    #[arg(required = true, value_name = "SOURCE… DEST")]
    pub(crate) paths: Vec<OsString>,
    /// Copy directories with everything in them
    #[arg(short = 'r', long, visible_short_alias = 'R')]
    pub(crate) recursive: bool,
    /// The same as -r; everything is kept anyway
    #[arg(short = 'a', long)]
    pub(crate) archive: bool,
    /// Accepted for cp(1): everything is kept anyway
    #[arg(short = 'p', hide = true)]
    pub(crate) preserve: bool,
    /// Leave these out: mode, times, owner, xattr, links, holes, or all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) no_preserve: Vec<Keep>,
    /// Follow symbolic links in SOURCE
    #[arg(short = 'L', long, conflicts_with_all = ["no_dereference", "command_line"])]
    pub(crate) dereference: bool,
    /// Follow symbolic links given as SOURCE, not those below
    #[arg(short = 'H', conflicts_with = "no_dereference")]
    pub(crate) command_line: bool,
    /// Copy symbolic links as such, also those given as SOURCE [default with -r]
    #[arg(short = 'P', long)]
    pub(crate) no_dereference: bool,
    /// Copy into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "no_target_directory")]
    pub(crate) target_directory: Option<OsString>,
    /// DEST is the name of the copy, even if it is a directory
    #[arg(short = 'T', long)]
    pub(crate) no_target_directory: bool,
    /// Leave what is there already
    #[arg(short = 'n', long)]
    pub(crate) no_clobber: bool,
    /// Remove a file that cannot be opened for writing, and try again
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Stay on the file system of each SOURCE (on the host)
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    /// Give every copy this owner
    #[arg(long, value_name = "UID[:GID]")]
    pub(crate) owner: Option<crate::owner::Owner>,
    /// Give copies of what FROM owns to TO; may be given several times
    #[arg(long, value_name = "FROM=TO", conflicts_with = "owner")]
    pub(crate) map_owner: Vec<crate::owner::Mapping>,
    /// The same for groups
    #[arg(long, value_name = "FROM=TO", conflicts_with = "owner")]
    pub(crate) map_group: Vec<crate::owner::Mapping>,
    /// Copy device nodes out of an image as well
    #[arg(long)]
    pub(crate) devices: bool,
    /// Files copied at once
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) jobs: Option<std::num::NonZeroUsize>,
    /// Tell each file
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    /// No progress bar
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Keep {
    /// Permission bits: as a new file has them
    Mode,
    /// Times: now
    Times,
    /// Owner and group: yours
    Owner,
    /// Extended attributes
    Xattr,
    /// Hard links: each name becomes a file of its own
    Links,
    /// Holes: written as zeroes
    Holes,
    /// All of these
    All,
}

#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    /// Directories to make
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Those above as well, and no error if it is there
    #[arg(short = 'p', long)]
    pub(crate) parents: bool,
    /// Permission bits
    #[arg(short = 'm', long, value_name = "MODE")]
    pub(crate) mode: Option<crate::mode::Change>,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// What to remove
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Directories with everything in them
    #[arg(short = 'r', long, visible_short_alias = 'R')]
    pub(crate) recursive: bool,
    /// Empty directories
    #[arg(short = 'd', long)]
    pub(crate) dir: bool,
    /// No error for what is not there
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// Tell each
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MvArgs {
    /// What to rename, and last where to
    #[arg(required = true, num_args = 2.., value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Leave what is there already
    #[arg(short = 'n', long)]
    pub(crate) no_clobber: bool,
    /// The last is the new name, even if it is a directory
    #[arg(short = 'T', long)]
    pub(crate) no_target_directory: bool,
    /// Swap the two
    #[arg(long, conflicts_with = "no_clobber")]
    pub(crate) exchange: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LnArgs {
    /// What to link to: IMAGE:/path, or with -s any text
    #[arg(value_name = "TARGET")]
    pub(crate) target: OsString,
    /// The new name; in a directory if it is one
    #[arg(value_name = "IMAGE:/PATH")]
    pub(crate) link: OsString,
    /// A symbolic link
    #[arg(short = 's', long)]
    pub(crate) symbolic: bool,
    /// Replace what is there
    #[arg(short = 'f', long)]
    pub(crate) force: bool,
    /// The last is the new name, even if it is a directory
    #[arg(short = 'T', long)]
    pub(crate) no_target_directory: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ChmodArgs {
    /// As of chmod(1): 0755, u+x, go-w, a=rX
    #[arg(allow_hyphen_values = true)]
    pub(crate) mode: crate::mode::Change,
    /// What to change
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Everything below as well
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct ChownArgs {
    #[command(flatten)]
    pub(crate) help: LongHelp,
    /// UID, UID:GID or :GID, as numbers: the names are the image's own
    pub(crate) owner: crate::owner::Owner,
    /// What to change
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Everything below as well
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// A symbolic link itself, not what it points to
    #[arg(short = 'h', long)]
    pub(crate) no_dereference: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TruncateArgs {
    /// New size: 0, 10M, +1K, -512
    #[arg(short = 's', long, allow_hyphen_values = true)]
    pub(crate) size: NewSize,
    /// Files; made if they are not there
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Make no files
    #[arg(short = 'c', long)]
    pub(crate) no_create: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SetxattrArgs {
    /// Whose
    #[arg(value_name = "IMAGE:/PATH")]
    pub(crate) path: OsString,
    /// Its name, with the namespace: user.colour
    pub(crate) name: OsString,
    /// Its value
    pub(crate) value: OsString,
    /// The value is in hexadecimal
    #[arg(long)]
    pub(crate) hex: bool,
    /// It must not be there yet
    #[arg(long, conflicts_with = "replace")]
    pub(crate) create: bool,
    /// It must be there already
    #[arg(long)]
    pub(crate) replace: bool,
    /// A symbolic link itself, not what it points to
    #[arg(short = 'P', long)]
    pub(crate) no_dereference: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RemovexattrArgs {
    /// Whose
    #[arg(value_name = "IMAGE:/PATH")]
    pub(crate) path: OsString,
    /// Its name, with the namespace: user.colour
    pub(crate) name: OsString,
    /// A symbolic link itself, not what it points to
    #[arg(short = 'P', long)]
    pub(crate) no_dereference: bool,
}
