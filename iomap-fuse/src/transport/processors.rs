//! The processors there are, each of which has a queue of requests, and how many threads each gets.

use std::io;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Threads of each queue: so many requests from one processor may wait for the device before the next
/// waits for them.
const DEPTH: usize = 4;

/// How many threads each queue has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Queues {
    /// By the number of the queue.
    depths: Vec<usize>,
}

impl Queues {
    /// As this machine and the limits of this process have it.
    ///
    /// # Errors
    ///
    /// `EMFILE` if there may not be enough descriptors for all; what reading the lists of processors
    /// gives.
    pub(super) fn of_this_machine() -> io::Result<Self> {
        let list = |name: &str| std::fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| {
            usize::try_from(limit).unwrap_or(usize::MAX)
        });
        Self::of(&list("possible")?, &list("online")?, limit)
    }

    /// Of the lists of `possible` and `online` processors, for a process that may have `limit`
    /// descriptors. A queue is there for each possible processor and needs a thread; more have only
    /// those that can have requests now. Half of the descriptors are left to others.
    fn of(possible: &str, online: &str, limit: usize) -> io::Result<Self> {
        let broken = || io::Error::from(io::ErrorKind::InvalidData);
        let possible = ranges(possible).ok_or_else(broken)?;
        let online = ranges(online).ok_or_else(broken)?;
        let mut count = 0_usize;
        for (first, last) in possible {
            count = count.saturating_add(last - first).saturating_add(1);
        }
        // The kernel has their numbers in 16 bits.
        let count = u16::try_from(count).map_err(io::Error::other)?;
        let most = limit / 2 / usize::from(count);
        if most == 0 {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let is_online = |queue| {
            online
                .iter()
                .any(|range| range.0 <= queue && queue <= range.1)
        };
        let depth = |queue| if is_online(queue) { DEPTH.min(most) } else { 1 };
        Ok(Self {
            depths: (0..count.into()).map(depth).collect(),
        })
    }

    /// The queue of each thread there is to be.
    pub(super) fn threads(&self) -> impl Iterator<Item = u16> {
        let queues = (0..u16::MAX).zip(&self.depths);
        queues.flat_map(|(queue, depth)| std::iter::repeat_n(queue, *depth))
    }
}

/// The ranges of a list such as `0-3,8`, their ends included; `None` if it has none or is no list.
fn ranges(list: &str) -> Option<Vec<(usize, usize)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((first, last))
    };
    list.trim().split(',').map(range).collect()
}

/// Holds this thread on a processor. Where that is not allowed it serves from elsewhere.
pub(super) fn stay_on(processor: u16) {
    let mut one = CpuSet::new();
    if usize::from(processor) < CpuSet::MAX_CPU {
        one.set(processor.into());
        if let Err(error) = sched_setaffinity(None, &one) {
            tracing::debug!(target: "iomap_fuse", processor, %error, "a ring is served from elsewhere");
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn threads(possible: &str, online: &str, limit: usize) -> Vec<u16> {
        let queues = Queues::of(possible, online, limit).unwrap();
        queues.threads().collect()
    }

    #[test]
    fn processors_are_told_by_lists_of_all_kinds() {
        assert_eq!(ranges("0\n"), Some(vec![(0, 0)]));
        assert_eq!(ranges("0-1,8-11,16"), Some(vec![(0, 1), (8, 11), (16, 16)]));
        for wrong in ["", "a", "3-1", "0-", "0,", "0-18446744073709551616"] {
            assert_eq!(ranges(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_processor_that_is_not_there_has_one_thread() {
        assert_eq!(threads("0-2", "0,2", 1024), [0, 0, 0, 0, 1, 2, 2, 2, 2]);
        // As many as there are, whatever their numbers.
        assert_eq!(threads("0,8", "0,8", 1024), [0, 0, 0, 0, 1]);
    }

    #[test]
    fn half_of_the_descriptors_are_left_to_others() {
        assert_eq!(threads("0-1", "0-1", 13), [0, 0, 0, 1, 1, 1]);
        assert_eq!(threads("0-99", "0-99", 200).len(), 100);
        let none = Queues::of("0-99", "0-99", 199).unwrap_err();
        assert_eq!(none.raw_os_error(), Some(libc::EMFILE));
    }

    #[test]
    fn more_processors_than_queues_can_be_are_refused() {
        let list = "0-70000";
        assert!(Queues::of(list, list, usize::MAX).is_err());
        let list = "0-18446744073709551615";
        assert!(Queues::of(list, list, usize::MAX).is_err());
    }
}
