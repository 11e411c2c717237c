//! The arguments of verbs that read, or that concern whole images.
//!
//! Owns their options and texts; what all verbs share is [`cli`](super).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{Json, LongHelp};
use crate::size::Size;

#[derive(Debug, Args)]
#[command(after_help = "\
A file system of the type given with -t is made in IMAGE. Without --size the file or block device \
must be there already and keeps its size.

Example: iomapfs mkfs -t testfs disk.img --size 1G")]
pub(crate) struct MkfsArgs {
    /// The file or block device; a file that is not there is made
    pub(crate) image: PathBuf,
    /// Size of a file that is made (K, M, G, T)
    #[arg(long, short = 's')]
    pub(crate) size: Option<Size>,
    /// Bytes of a block
    #[arg(long, short = 'b', value_name = "SIZE")]
    pub(crate) block_size: Option<Size>,
    /// Volume label
    #[arg(long, short = 'L', default_value = "")]
    pub(crate) label: String,
    /// Identity; random if not given
    #[arg(long, short = 'U', value_name = "UUID")]
    pub(crate) uuid: Option<crate::verbs::mkfs::Uuid>,
    /// Owner and group of the root directory; yours if not given
    #[arg(long, value_name = "UID:GID")]
    pub(crate) root_owner: Option<crate::owner::Pair>,
    /// Format it even if it holds something
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The image
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) help: LongHelp,
    /// IMAGE:/path; an image alone means its root
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// One line for each with type, mode, owner, size and time
    #[arg(short = 'l', long)]
    pub(crate) long: bool,
    /// Names that begin with a dot as well
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// A directory itself, not what is in it
    #[arg(short = 'd', long)]
    pub(crate) directory: bool,
    /// Directories below as well
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Sizes with units
    #[arg(short = 'h', long = "human-readable", alias = "human")]
    pub(crate) human: bool,
    /// Inode numbers
    #[arg(short = 'i', long)]
    pub(crate) inode: bool,
    /// One name on a line
    #[arg(short = '1')]
    pub(crate) one: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// IMAGE:/path; an image alone means its root
    #[arg(value_name = "IMAGE:/PATH")]
    pub(crate) path: OsString,
    /// Names that begin with a dot as well
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Levels to go down
    #[arg(short = 'L', long, value_name = "N")]
    pub(crate) level: Option<usize>,
    /// Directories only
    #[arg(short = 'd', long)]
    pub(crate) directories: bool,
    /// Sizes of files
    #[arg(short = 's', long)]
    pub(crate) size: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    /// IMAGE:/path; an image alone means its root
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// What a symbolic link points to, not itself
    #[arg(short = 'L', long)]
    pub(crate) dereference: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// Files
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DuArgs {
    #[command(flatten)]
    pub(crate) help: LongHelp,
    /// IMAGE:/path; an image alone means its root
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// The total of each path only
    #[arg(short = 's', long)]
    pub(crate) summarize: bool,
    /// Files as well, not only directories
    #[arg(short = 'a', long)]
    pub(crate) all: bool,
    /// Sizes with units
    #[arg(short = 'h', long = "human-readable", alias = "human")]
    pub(crate) human: bool,
    /// Sizes of the files instead of the space they use
    #[arg(long)]
    pub(crate) apparent_size: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct DfArgs {
    #[command(flatten)]
    pub(crate) help: LongHelp,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    pub(crate) images: Vec<PathBuf>,
    /// Sizes with units
    #[arg(short = 'h', long = "human-readable", alias = "human")]
    pub(crate) human: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

/// What a copy may leave out.
#[derive(Debug, Args)]
pub(crate) struct GetxattrArgs {
    /// Whose
    #[arg(value_name = "IMAGE:/PATH")]
    pub(crate) path: OsString,
    /// Its name, with the namespace: user.colour
    pub(crate) name: OsString,
    /// In hexadecimal
    #[arg(long)]
    pub(crate) hex: bool,
    /// A symbolic link itself, not what it points to
    #[arg(short = 'P', long)]
    pub(crate) no_dereference: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListxattrArgs {
    /// Whose
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// Values as well
    #[arg(short = 'd', long)]
    pub(crate) dump: bool,
    /// A symbolic link itself, not what it points to
    #[arg(short = 'P', long)]
    pub(crate) no_dereference: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// Files
    #[arg(required = true, value_name = "IMAGE:/PATH")]
    pub(crate) paths: Vec<OsString>,
    /// No picture
    #[arg(long)]
    pub(crate) no_picture: bool,
    /// Picture in ASCII
    #[arg(long)]
    pub(crate) ascii: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes, as fsck(8): 0 clean, 4 errors found (nothing is repaired), 8 the image could not be \
checked, 16 wrong usage.")]
pub(crate) struct CheckArgs {
    /// The image
    pub(crate) image: PathBuf,
    /// Accepted for fsck(8): nothing is ever repaired
    #[arg(short = 'n', long)]
    pub(crate) no_repair: bool,
    /// What is normal after a crash as well
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The page of this verb; of the program if not given
    pub(crate) verb: Option<String>,
    /// Write every page into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    pub(crate) all: Option<PathBuf>,
}
