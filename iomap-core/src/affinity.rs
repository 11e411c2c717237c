//! On which processors the threads of this crate run.
//!
//! Owns that a thread which works for everybody is not held where the one was that needed it first.

use rustix::process::getpid;
use rustix::thread::{sched_getaffinity, sched_setaffinity};

/// Lets this thread run wherever the first thread of the process may. A thread begins where the one may
/// run that started it, which may be held on one processor, as those are that serve a ring of requests.
/// Where it cannot be told or set it stays so.
pub(crate) fn unbind() {
    if let Ok(everywhere) = sched_getaffinity(Some(getpid())) {
        let _ = sched_setaffinity(None, &everywhere);
    }
}
