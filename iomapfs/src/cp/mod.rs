//! `cp`: files and trees into an image, out of it, and between images.
//!
//! | Module | Owns |
//! |---|---|
//! | this | images, what goes where, the end |
//! | [`place`] | the first and the last step of a path: what SOURCE and DEST mean |
//! | [`walk`] | going through trees |
//! | [`job`] | copying one thing |
//! | [`goal`] | directories being filled, files with several names |
//! | [`keep`] | which attributes a copy gets |
//! | [`side`], [`host`], [`inside`] | the two sides |
//! | [`report`] | errors, progress, summary |
//!
//! Nothing in an image can lead a copy out of its destination: names are checked, directories on
//! the host are held by descriptor, and symbolic links there are never followed.

mod goal;
mod host;
mod host_xattr;
mod inside;
mod job;
mod keep;
mod place;
mod report;
mod side;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use iomap_core::vfs::FileType;
use rustix::process::{Resource, Rlimit};

use self::goal::{Goal, Links};
use self::host::{HostDir, Images};
use self::inside::ImageDir;
use self::job::{Context, Wishes};
use self::keep::Policy;
use self::report::Report;
use self::side::{SourceDir, TargetDir};
use self::walk::{Top, copy_all};
use crate::cli::CpArgs;
use crate::failure::{Failure, Outcome};
use crate::image::{Access, Image, Opening};
use crate::place::Place;

/// Files copied at once, unless told otherwise: more than processors, because some of them wait.
const JOBS_MIN: usize = 4;
const JOBS_MAX: usize = 16;

/// Copies.
pub(crate) fn run(mut args: CpArgs, opening: &Opening) -> Outcome {
    let (sources, dest) = places(&mut args)?;
    let interrupted = watch_signals()?;
    raise_open_files();
    let umask = crate::verbs::umask();
    let report = Arc::new(Report::new(&args, interrupted));
    let mut open = OpenImages::default();
    let result = open
        .open_all(&sources, &dest, opening)
        .and_then(|()| copy(&args, &sources, &dest, &open, umask, &report));
    let result = open.close(result);
    let code = report.finish()?;
    result.map(|()| code)
}

/// What is copied and where to. One of the two is in an image.
fn places(args: &mut CpArgs) -> Outcome<(Vec<Place>, Place)> {
    let dest = match (&args.target_directory, args.paths.len()) {
        (Some(dir), _) => Place::parse(dir),
        (None, 1) => {
            let only = Place::parse(&args.paths[0]);
            return Err(Failure::usage(format!(
                "where is '{only}' to be copied to? The destination is missing"
            ))
            .hint("iomapfs cp SOURCE… DEST"));
        }
        (None, _) => match args.paths.pop() {
            Some(last) => Place::parse(&last),
            None => return Err(Failure::usage("what is to be copied?")),
        },
    };
    let sources: Vec<_> = args.paths.iter().map(|arg| Place::parse(arg)).collect();
    if let Place::Host(path) = &dest
        && let Some(host) = sources.iter().find(|place| matches!(place, Place::Host(_)))
    {
        let all = sources.iter().chain([&dest]);
        let hint = all.filter_map(colon_hint).next();
        let message = format!("neither '{host}' nor '{}' is in an image", path.display());
        return Err(Failure::usage(message).hint(hint.unwrap_or_else(|| {
            "a path inside of an image is IMAGE:/path; cp(1) copies on the host".to_owned()
        })));
    }
    Ok((sources, dest))
}

fn colon_hint(place: &Place) -> Option<String> {
    match place {
        // Most files of the host are no images, and nobody meant them to be.
        Place::Host(path) if path.is_file() => {
            let head = crate::image::read_head(path).unwrap_or_default();
            crate::backend::by_magic(&head).and_then(|_| crate::place::colon_hint(path))
        }
        Place::Host(path) => crate::place::colon_hint(path),
        Place::Image(_) => None,
    }
}

/// A flag that the first signal to end sets; the second one ends at once.
fn watch_signals() -> Outcome<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let code = i32::from(crate::failure::code::INTERRUPTED);
        // In this order: the shutdown looks at the flag before the other one sets it.
        signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .map_err(|error| Failure::of("signals", crate::failure::words(&error)))?;
    }
    Ok(flag)
}

/// Directories are held open while they are filled: as many as the system allows.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Without it very deep trees fail with a message.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
}

/// The images of one run: each is opened once, whatever it is called.
#[derive(Default)]
struct OpenImages {
    images: Vec<(PathBuf, (u64, u64), Image)>,
    /// Other names of images that are open.
    aliases: Vec<(PathBuf, usize)>,
}

impl OpenImages {
    fn open_all(&mut self, sources: &[Place], dest: &Place, opening: &Opening) -> Outcome<()> {
        // The destination first: if it is a source as well, it is open for writing.
        self.open(dest, Access::Write, opening)?;
        for source in sources {
            self.open(source, Access::Read, opening)?;
        }
        Ok(())
    }

    fn open(&mut self, place: &Place, access: Access, opening: &Opening) -> Outcome<()> {
        let Place::Image(inside) = place else {
            return Ok(());
        };
        if self.number(&inside.image).is_some() {
            return Ok(());
        }
        let id = file_id(&inside.image);
        let known = id.and_then(|id| self.images.iter().position(|image| image.1 == id));
        if let Some(known) = known {
            self.aliases.push((inside.image.clone(), known));
            return Ok(());
        }
        let image = Image::open(&inside.image, access, opening)?;
        let id = file_id(&inside.image).unwrap_or_default();
        self.images.push((inside.image.clone(), id, image));
        Ok(())
    }

    fn number(&self, path: &Path) -> Option<usize> {
        let image = self.images.iter().position(|image| image.0 == path);
        image.or_else(|| {
            self.aliases
                .iter()
                .find(|alias| alias.0 == path)
                .map(|alias| alias.1)
        })
    }

    /// The image at `path`, and its number in identities: none that a device of the host has.
    fn get(&self, path: &Path) -> Outcome<(&Image, u64)> {
        let number = self.number(path);
        let number = number.ok_or_else(|| Failure::of(path.display(), "is not open"))?;
        Ok((&self.images[number].2, u64::MAX - number as u64))
    }

    fn ids(&self) -> Images {
        self.images.iter().map(|image| image.1).collect()
    }

    fn close<T>(self, result: Outcome<T>) -> Outcome<T> {
        self.images
            .into_iter()
            .fold(result, |result, image| image.2.close(result))
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Everything between opening and closing.
fn copy(
    args: &CpArgs,
    sources: &[Place],
    dest: &Place,
    open: &OpenImages,
    umask: u16,
    report: &Arc<Report>,
) -> Outcome<()> {
    let run = Run {
        args,
        open,
        umask,
        report,
        ids: open.ids(),
    };
    match dest {
        Place::Image(inside) => {
            let (image, number) = open.get(&inside.image)?;
            let into = |follow: bool, single: bool| {
                place::image_dest(image, number, inside, (follow, single), args)
            };
            run.all(sources, &into)
        }
        Place::Host(path) => {
            // Modes are set as they are wanted; what is made before is for us only.
            rustix::process::umask(rustix::fs::Mode::empty());
            let ids = Arc::clone(&run.ids);
            let into =
                |follow: bool, single: bool| place::host_dest(path, (follow, single), args, &ids);
            run.all(sources, &into)
        }
    }
}

/// One run of `cp`.
struct Run<'a> {
    args: &'a CpArgs,
    open: &'a OpenImages,
    umask: u16,
    report: &'a Arc<Report>,
    ids: Images,
}

/// Where copies go: into a directory, or to one name in it.
struct Dest<T: TargetDir> {
    dir: T,
    shown: String,
    /// The name of the copy; that of the source if `None`.
    name: Option<Vec<u8>>,
    /// Only a directory can be there: the name ended in a slash.
    directory: bool,
}

impl Run<'_> {
    /// Copies all sources to what `dest` answers; it is asked whether a symbolic link at the end of
    /// the path is followed, and whether there is one source only.
    fn all<T: TargetDir>(
        &self,
        sources: &[Place],
        dest: &dyn Fn(bool, bool) -> Outcome<Dest<T>>,
    ) -> Outcome<()> {
        let context = Context {
            wishes: self.wishes(sources, dest),
            policy: Policy::new(self.args, self.umask),
            report: Arc::clone(self.report),
            links: Links::new(),
        };
        let workers = self
            .args
            .jobs
            .map_or_else(default_jobs, std::num::NonZeroUsize::get);
        let single = sources.len() == 1;
        let kind = |place: &Place| match place {
            Place::Host(_) => None,
            Place::Image(inside) => self.open.number(&inside.image),
        };
        let result = sources
            .chunk_by(|a, b| kind(a) == kind(b))
            .try_for_each(|group| match &group[0] {
                Place::Host(_) => {
                    let look = |place: &Place| place::host_source(place, self.args, &self.ids);
                    self.group::<HostDir, T>(&context, group, workers, &look, dest, single)
                }
                Place::Image(inside) => {
                    let (image, number) = self.open.get(&inside.image)?;
                    let look = |place: &Place| place::image_source(image, number, place, self.args);
                    self.group::<ImageDir, T>(&context, group, workers, &look, dest, single)
                }
            });
        context.links.clear();
        result
    }

    fn wishes<T>(&self, sources: &[Place], _dest: &dyn Fn(bool, bool) -> T) -> Wishes {
        let out = sources.iter().any(|place| matches!(place, Place::Image(_)));
        Wishes {
            recursive: self.args.recursive || self.args.archive,
            follow_all: self.args.dereference,
            no_clobber: self.args.no_clobber,
            force: self.args.force,
            one_file_system: self.args.one_file_system,
            // Into an image they are only bytes.
            devices: self.args.devices || !out,
        }
    }

    /// Copies sources that are all of one side.
    fn group<S: SourceDir, T: TargetDir>(
        &self,
        context: &Context<T>,
        sources: &[Place],
        workers: usize,
        look: &dyn Fn(&Place) -> Outcome<place::Found<S>>,
        dest: &dyn Fn(bool, bool) -> Outcome<Dest<T>>,
        single: bool,
    ) -> Outcome<()> {
        let mut tops = Vec::new();
        let mut goal: Option<Arc<Goal<T>>> = None;
        for source in sources {
            let found = match look(source) {
                Ok(found) => found,
                Err(failure) => {
                    self.report.failure(&failure);
                    continue;
                }
            };
            // A symbolic link, fifo or device replaces a symbolic link; others go where it leads.
            let kind = found.item.meta.kind;
            if single {
                let follow = matches!(kind, FileType::Regular | FileType::Directory);
                let dest = dest(follow, true)?;
                tops.extend(self.top(found, dest));
                continue;
            }
            let goal = match &goal {
                Some(goal) => goal,
                None => {
                    let dest = dest(true, false)?;
                    goal.insert(Goal::existing(dest.dir, dest.shown, self.report))
                }
            };
            tops.push(found.into_top(Arc::clone(goal), None));
        }
        copy_all(context, tops, workers);
        Ok(())
    }

    fn top<S: SourceDir, T: TargetDir>(
        &self,
        found: place::Found<S>,
        dest: Dest<T>,
    ) -> Option<Top<S, T>> {
        let directory = found.item.meta.kind == FileType::Directory;
        if dest.directory && !directory {
            let failure = Failure::new(format!("{}: there is no such directory", dest.shown));
            self.report.failure(&failure);
            return None;
        }
        let goal = Goal::existing(dest.dir, dest.shown, self.report);
        Some(found.into_top(goal, dest.name))
    }
}

fn default_jobs() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    (processors * 2).clamp(JOBS_MIN, JOBS_MAX)
}
