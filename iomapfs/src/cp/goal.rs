//! Directories that are being filled, and the files with several names.
//!
//! Owns two promises. A directory gets its attributes when the last thing in it is done, whoever
//! does it: [`Goal`] is counted, and its last owner sets them. And a file with several names is
//! copied once, by whoever meets it first; the others wait until it has a name and link to that.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::report::Report;
use super::side::{Attrs, TargetDir, Xattrs};
use crate::out::printable;

/// A directory that is being filled.
pub(super) struct Goal<T: TargetDir> {
    pub(super) dir: T,
    /// The directory above: its times must not be set before ours, and not before we are made.
    _above: Option<Arc<Self>>,
    finish: Option<(Attrs, Xattrs)>,
    report: Arc<Report>,
    /// Its path, for messages.
    shown: String,
}

impl<T: TargetDir> Goal<T> {
    /// A directory that stays as it is.
    pub(super) fn existing(dir: T, shown: String, report: &Arc<Report>) -> Arc<Self> {
        Arc::new(Self {
            dir,
            _above: None,
            finish: None,
            report: Arc::clone(report),
            shown,
        })
    }

    /// A directory that gets attributes in the end.
    pub(super) fn copied(
        dir: T,
        above: &Arc<Self>,
        name: Option<&[u8]>,
        finish: (Attrs, Xattrs),
    ) -> Arc<Self> {
        Arc::new(Self {
            dir,
            shown: name.map_or_else(|| above.shown.clone(), |name| above.path_of(name)),
            finish: Some(finish),
            report: Arc::clone(&above.report),
            _above: Some(Arc::clone(above)),
        })
    }

    /// The path of something in it, for messages.
    pub(super) fn path_of(&self, name: &[u8]) -> String {
        let bare = self.shown.is_empty() || self.shown.ends_with('/');
        let slash = if bare { "" } else { "/" };
        format!("{}{slash}{}", self.shown, printable(name))
    }
}

impl<T: TargetDir> Drop for Goal<T> {
    fn drop(&mut self) {
        let Some((attrs, xattrs)) = &self.finish else {
            return;
        };
        match self.dir.finish(attrs, xattrs) {
            Ok(losses) => self.report.losses(&self.shown, losses),
            Err(trouble) => self.report.error(&self.shown, &trouble),
        }
    }
}

/// The files with several names, by device and inode of the source.
pub(super) struct Links<T: TargetDir> {
    known: Mutex<HashMap<(u64, u64), Known<T>>>,
    changed: Condvar,
}

struct Known<T: TargetDir> {
    /// A name of the copy; `None` while somebody makes it.
    name: Option<Named<T>>,
    /// Names met so far.
    seen: u64,
}

/// A name in a directory.
pub(super) type Named<T> = (Arc<Goal<T>>, Vec<u8>);

/// What to do about a file with several names.
pub(super) enum Claim<'a, T: TargetDir> {
    /// Make it, and say when it has a name.
    Make(Making<'a, T>),
    /// Link to this.
    Link(Named<T>),
}

/// The duty to make the first name. Dropped without one, it passes to the next who asks.
pub(super) struct Making<'a, T: TargetDir> {
    links: &'a Links<T>,
    id: (u64, u64),
    made: bool,
}

impl<T: TargetDir> Links<T> {
    pub(super) fn new() -> Self {
        Self {
            known: Mutex::new(HashMap::new()),
            changed: Condvar::new(),
        }
    }

    /// Asks what to do with a file that has `nlink` names. Waits while somebody makes it.
    pub(super) fn claim(&self, id: (u64, u64), nlink: u64) -> Claim<'_, T> {
        let mut known = self.known.lock();
        loop {
            match known.get_mut(&id) {
                None => {
                    known.insert(
                        id,
                        Known {
                            name: None,
                            seen: 1,
                        },
                    );
                    return Claim::Make(Making {
                        links: self,
                        id,
                        made: false,
                    });
                }
                Some(Known {
                    name: Some(name),
                    seen,
                }) => {
                    *seen += 1;
                    let (name, last) = ((Arc::clone(&name.0), name.1.clone()), *seen >= nlink);
                    // All names were met: the directory need not be kept open for it.
                    let old = if last { known.remove(&id) } else { None };
                    drop(known);
                    drop(old);
                    return Claim::Link(name);
                }
                Some(Known { name: None, .. }) => self.changed.wait(&mut known),
            }
        }
    }

    /// Forgets everything: nothing more is linked.
    pub(super) fn clear(&self) {
        let old = std::mem::take(&mut *self.known.lock());
        drop(old);
    }
}

impl<T: TargetDir> Making<'_, T> {
    /// The file is there, under this name.
    pub(super) fn made(&mut self, goal: &Arc<Goal<T>>, name: &[u8]) {
        self.made = true;
        if let Some(known) = self.links.known.lock().get_mut(&self.id) {
            known.name = Some((Arc::clone(goal), name.to_vec()));
        }
        self.links.changed.notify_all();
    }
}

impl<T: TargetDir> Drop for Making<'_, T> {
    fn drop(&mut self) {
        if !self.made {
            self.links.known.lock().remove(&self.id);
            self.links.changed.notify_all();
        }
    }
}
