//! Going through the trees to copy: one thread makes the directories, several copy what is in them.
//!
//! Owns the order. The walker goes down with a stack of its own, so that a deep tree cannot exhaust
//! the program's, and hands everything that is no directory to the workers, in the order it is
//! found. Workers take jobs in that order, so whoever waits for the first name of a file waits for
//! a job that is being done.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::vec::IntoIter;

use iomap_core::error::Errno;
use iomap_core::vfs::FileType;
use parking_lot::Mutex;

use super::goal::Goal;
use super::job::{CHUNK, Context, Job};
use super::side::{Entry, Io, Item, Meta, SourceDir, TargetDir, Trouble, Xattrs, check_name};

/// Jobs found before they are done.
const QUEUE: usize = 256;

/// Something the user named.
pub(super) struct Top<S: SourceDir, T: TargetDir> {
    pub(super) job: Job<S, T>,
    /// A directory that is not put into the goal, but is the goal.
    pub(super) merge: bool,
}

/// A directory that is being walked.
struct Frame<S: SourceDir, T: TargetDir> {
    dir: Arc<S>,
    rest: IntoIter<Entry>,
    goal: Arc<Goal<T>>,
    fresh: bool,
    shown: Arc<str>,
    id: (u64, u64),
}

/// Where the walk is: the directories it stands in, and those it has been in.
struct Trail<S: SourceDir, T: TargetDir> {
    stack: Vec<Frame<S, T>>,
    seen: HashSet<(u64, u64)>,
}

impl<S: SourceDir, T: TargetDir> Trail<S, T> {
    /// Refuses a directory that was gone into before, where it should not have another name.
    fn check(&mut self, id: (u64, u64), follow: bool) -> Io<()> {
        if self.stack.iter().any(|frame| frame.id == id) {
            return Err(Trouble::new(
                Errno::LOOP,
                "a loop of directories; it is copied once",
            ));
        }
        // Through symbolic links a directory has as many names as it likes.
        if S::ONE_NAME && !follow && !self.seen.insert(id) {
            return Err(Trouble::new(
                Errno::UCLEAN,
                "a second name of a directory; it is copied once",
            ));
        }
        Ok(())
    }
}

/// Copies all of `tops` with `workers` threads.
pub(super) fn copy_all<S: SourceDir, T: TargetDir>(
    context: &Context<T>,
    tops: Vec<Top<S, T>>,
    workers: usize,
) {
    let over = AtomicBool::new(false);
    let (sender, receiver) = sync_channel(QUEUE);
    let receiver = Mutex::new(receiver);
    // A single file needs no second thread.
    let alone = tops.len() == 1 && tops[0].job.item.meta.kind != FileType::Directory;
    let workers = if alone { 1 } else { workers };
    let scan: Vec<_> = match context.report.wants_total() {
        true => tops.iter().map(|top| duplicate(&top.job.item)).collect(),
        false => Vec::new(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            scan.into_iter()
                .for_each(|item| total(context, item, &over))
        });
        let workers: Vec<_> = (0..workers)
            .map(|_| scope.spawn(|| work(context, &receiver)))
            .collect();
        let walker = Walker { context, sender };
        for top in tops {
            walker.top(top);
        }
        // Ends the workers.
        drop(walker);
        for worker in workers {
            if worker.join().is_err() {
                let trouble = Trouble::new(
                    Errno::IO,
                    "a thread of the copy died; what it was doing is not complete",
                );
                context.report.error("internal error", &trouble);
            }
        }
        over.store(true, Relaxed);
    });
}

fn duplicate<S: SourceDir>(item: &Item<S>) -> Item<S> {
    Item {
        dir: Arc::clone(&item.dir),
        entry: item.entry.clone(),
        meta: item.meta,
        followed: item.followed,
    }
}

/// Takes jobs until there are no more.
fn work<S: SourceDir, T: TargetDir>(context: &Context<T>, jobs: &Mutex<Receiver<Job<S, T>>>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let next = jobs.lock().recv();
        let Ok(job) = next else { return };
        if !context.report.interrupted() {
            context.run(&job, &mut buffer);
        }
    }
}

struct Walker<'a, S: SourceDir, T: TargetDir> {
    context: &'a Context<T>,
    sender: SyncSender<Job<S, T>>,
}

impl<S: SourceDir, T: TargetDir> Walker<'_, S, T> {
    fn top(&self, top: Top<S, T>) {
        if top.job.item.meta.kind != FileType::Directory {
            self.send(top.job);
            return;
        }
        let shown = top.job.shown();
        let device = top.job.item.meta.id.0;
        let mut trail = Trail {
            stack: Vec::new(),
            seen: HashSet::new(),
        };
        self.enter(&mut trail, top.job, top.merge, &shown);
        while let Some(frame) = trail.stack.last_mut() {
            if self.context.report.interrupted() {
                return;
            }
            match frame.rest.next() {
                None => {
                    trail.stack.pop();
                }
                Some(entry) => self.entry(&mut trail, entry, device),
            }
        }
    }

    /// One entry of the directory on top of the stack.
    fn entry(&self, trail: &mut Trail<S, T>, entry: Entry, device: u64) {
        let Some(frame) = trail.stack.last() else {
            return;
        };
        let report = &self.context.report;
        let mut job = Job {
            item: Item {
                dir: Arc::clone(&frame.dir),
                meta: UNKNOWN,
                followed: self.context.wishes.follow_all,
                entry,
            },
            above: Arc::clone(&frame.shown),
            goal: Arc::clone(&frame.goal),
            name: Vec::new(),
            fresh: frame.fresh,
        };
        job.name.clone_from(&job.item.entry.name);
        let looked =
            check_name(&job.name).and_then(|()| frame.dir.look(&job.item.entry, job.item.followed));
        match looked {
            Ok(meta) => job.item.meta = meta,
            Err(trouble) if trouble.errno == Errno::BUSY => {
                return report.note(&job.shown(), &trouble);
            }
            Err(trouble) => return report.error(&job.shown(), &trouble),
        }
        if job.item.meta.kind != FileType::Directory {
            return self.send(job);
        }
        if self.context.wishes.one_file_system && job.item.meta.id.0 != device {
            let trouble = Trouble::new(Errno::XDEV, "left out: another file system");
            return report.note(&job.shown(), &trouble);
        }
        let shown = job.shown();
        self.enter(trail, job, false, &shown);
    }

    /// What was read; what could not be is told, and the directory is copied without it.
    fn or_tell<L: Default>(&self, shown: &str, read: Io<L>) -> L {
        read.unwrap_or_else(|trouble| {
            self.context.report.error(shown, &trouble);
            L::default()
        })
    }

    fn send(&self, job: Job<S, T>) {
        // The workers wait for jobs until the sender is gone; if all of them died, that is told
        // when they are joined.
        let _ = self.sender.send(job);
    }

    /// Makes a directory, or goes into it, and goes on in it.
    fn enter(&self, trail: &mut Trail<S, T>, job: Job<S, T>, merge: bool, shown: &str) {
        match self.open(trail, job, merge, shown) {
            Ok(frame) => trail.stack.push(frame),
            Err(trouble) => self.context.report.error(shown, &trouble),
        }
    }

    fn open(
        &self,
        trail: &mut Trail<S, T>,
        job: Job<S, T>,
        merge: bool,
        shown: &str,
    ) -> Io<Frame<S, T>> {
        let Job {
            item,
            goal,
            name,
            fresh,
            ..
        } = job;
        let id = item.meta.id;
        if !self.context.wishes.recursive {
            return Err(Trouble::new(Errno::ISDIR, "is a directory; -r copies it"));
        }
        trail.check(id, self.context.wishes.follow_all)?;
        if goal.dir.is_at_or_below(id)? && !merge {
            return Err(Trouble::new(
                Errno::INVAL,
                "a directory cannot be copied into itself",
            ));
        }
        let dir = S::open_dir(&item)?;
        let attrs = self.context.policy.attrs(&item.meta);
        let there = if fresh || merge {
            None
        } else {
            goal.dir.stat(&name)?
        };
        let (made, fresh) = match there {
            _ if merge => (goal.dir.open_dir(b".")?, false),
            None => (goal.dir.mkdir(&name, &attrs)?, true),
            Some(there) if there.kind == FileType::Directory => (goal.dir.open_dir(&name)?, false),
            Some(_) => {
                let at = goal.path_of(&name);
                return Err(Trouble::new(
                    Errno::NOTDIR,
                    format!("{at} is in the way, and is no directory"),
                ));
            }
        };
        self.context.report.counts.directories.fetch_add(1, Relaxed);
        let xattrs = match self.context.policy.xattr {
            true => self.or_tell(shown, dir.own_xattrs()),
            false => Xattrs::new(),
        };
        let name = (!merge).then_some(&*name);
        let goal = Goal::copied(made, &goal, name, (attrs, xattrs));
        let rest = self.or_tell(shown, dir.list());
        Ok(Frame {
            dir: Arc::new(dir),
            rest: rest.into_iter(),
            goal,
            fresh,
            shown: shown.into(),
            id,
        })
    }
}

/// Before an entry has been looked at.
const UNKNOWN: Meta = Meta {
    kind: FileType::Regular,
    mode: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    size: 0,
    sparse: false,
    nlink: 1,
    atime: iomap_core::vfs::Timestamp { secs: 0, nanos: 0 },
    mtime: iomap_core::vfs::Timestamp { secs: 0, nanos: 0 },
    id: (0, 0),
};

/// Adds up the sizes below `item` for the progress bar. What cannot be read is told by the copy.
fn total<S: SourceDir, T: TargetDir>(context: &Context<T>, item: Item<S>, over: &AtomicBool) {
    let (mut todo, mut seen) = (vec![item], HashSet::new());
    while let Some(item) = todo.pop() {
        if over.load(Relaxed) {
            return;
        }
        match item.meta.kind {
            FileType::Regular => context.report.expect(item.meta.size),
            FileType::Directory if seen.insert(item.meta.id) => {
                let Ok(dir) = S::open_dir(&item).map(Arc::new) else {
                    continue;
                };
                for entry in dir.list().unwrap_or_default() {
                    if let Ok(meta) = dir.look(&entry, false) {
                        let (dir, followed) = (Arc::clone(&dir), false);
                        let item = Item {
                            dir,
                            entry,
                            meta,
                            followed,
                        };
                        if meta.kind == FileType::Regular {
                            context.report.expect(meta.size);
                        } else if meta.kind == FileType::Directory {
                            todo.push(item);
                        }
                    }
                }
            }
            _ => {}
        }
    }
}
