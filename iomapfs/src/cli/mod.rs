//! The arguments: verbs, options, and the texts of `--help`, of which man pages and completions are
//! made.
//!
//! Owns what can be said on the command line. What a verb does is in [`verbs`](crate::verbs).

use clap::{Args, Parser, Subcommand};

mod change;
mod mount;
mod whole;

pub(crate) use change::*;
pub(crate) use mount::*;
pub(crate) use whole::*;

use crate::out::ColorWhen;
use crate::size::Size;

const EXAMPLES: &str = "\
Examples:
  iomapfs mkfs -t testfs disk.img --size 1G
  iomapfs cp -r ./rootfs/. disk.img:/         copy a tree in
  iomapfs ls -l disk.img:/etc                 look at it
  iomapfs cp -r disk.img:/etc ./etc           copy a part out
  iomapfs map disk.img:/big.bin               where its bytes are
  iomapfs check disk.img

A path inside of an image is IMAGE:/path. Nothing but `mount` needs a privilege or a kernel feature.

Exit codes: 0 done, 1 something could not be done, 2 wrong usage.
check: as fsck(8). mount: as mount(8). Both are listed in their --help.";

/// Makes, reads, writes, checks and mounts file system images, without privileges
#[derive(Debug, Parser)]
#[command(name = "iomapfs", version, about, after_help = EXAMPLES)]
#[command(
    propagate_version = true,
    max_term_width = 100,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb understands.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// File system type, instead of what the image says
    #[arg(short = 't', long = "type", value_name = "TYPE", global = true)]
    pub(crate) fs_type: Option<String>,
    /// Memory of the page cache
    #[arg(long, value_name = "SIZE", default_value = "256M", global = true)]
    pub(crate) cache: Size,
    /// Colours: NO_COLOR in the environment turns them off as well
    #[arg(long, value_name = "WHEN", default_value = "auto", global = true)]
    pub(crate) color: ColorWhen,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an empty file system in an image
    Mkfs(MkfsArgs),
    /// Superblock, features, label, uuid and space of an image
    Info(InfoArgs),
    /// List directories
    Ls(LsArgs),
    /// Draw a tree of names
    Tree(TreeArgs),
    /// Everything about inodes
    Stat(StatArgs),
    /// Print files
    Cat(CatArgs),
    /// Space used by files and directories
    Du(DuArgs),
    /// Space of whole images
    Df(DfArgs),
    /// Copy files and trees into an image, out of it, or between images
    Cp(CpArgs),
    /// Make directories
    Mkdir(MkdirArgs),
    /// Remove files and trees
    Rm(RmArgs),
    /// Rename within an image
    Mv(MvArgs),
    /// Make hard or symbolic links
    Ln(LnArgs),
    /// Change permission bits
    Chmod(ChmodArgs),
    /// Change owners
    Chown(ChownArgs),
    /// Set the size of files
    Truncate(TruncateArgs),
    /// Print an extended attribute
    Getxattr(GetxattrArgs),
    /// Set an extended attribute
    Setxattr(SetxattrArgs),
    /// Remove an extended attribute
    Removexattr(RemovexattrArgs),
    /// List extended attributes
    Listxattr(ListxattrArgs),
    /// Where the bytes of a file are: its extents, as a table and as a picture
    Map(MapArgs),
    /// Look for every inconsistency of an image; changes nothing
    Check(CheckArgs),
    /// Mount an image on a directory, through FUSE
    Mount(MountArgs),
    /// Live counters of a mount
    Stats(StatsArgs),
    /// Clean up after a server that died
    #[command(name = crate::mount::watch::VERB, hide = true)]
    WatchMount(WatchArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
    /// Print the man page of the program or of a verb
    Man(ManArgs),
}

/// `--help` for verbs where -h means something else, as with ls(1).
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LongHelp {
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Machine-readable output.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Json {
    /// Print one JSON object: {"schema": 1, "verb": …}
    #[arg(long)]
    pub(crate) json: bool,
}
