//! Whether what is found after a crash keeps every promise.
//!
//! Owns the judgement of one [`Snapshot`] of a recovered image against a [`History`] of which
//! `done` operations had returned and `begun` had begun:
//!
//! - **Names**, types, link counts, targets and extended attributes are those after one operation:
//!   not before the last that promised them, not after the last that had begun.
//! - A **file** whose content was promised is there, unless it was removed since.
//! - Its **size** is one it had since the promise, or the end of a write that was on its way; then
//!   bytes of that write are there.
//! - Each **byte** is what the file had there at some moment since the promise, where a place past
//!   the end has zero. Never another file's byte, and never what the device held before.
//! - A size that came after a cut brings the **zeroes** behind the cut with it.

use super::history::{History, Promise, Snapshot, Step};
use super::op::Op;

/// Bytes judged together: what is written as a whole.
const SECTOR: usize = 512;

/// What is wrong, in words.
pub type Verdict = Result<(), String>;

/// Judges what was found.
///
/// # Errors
///
/// The promise that was broken.
pub fn judge(
    found: &Snapshot,
    history: &History,
    done: usize,
    begun: usize,
    block: u64,
) -> Verdict {
    let begun = begun.min(history.steps.len() - 1);
    judge_names(found, history, done, begun)?;
    judge_presence(found, history, done, begun)?;
    for (&ino, content) in &found.files {
        let file = File::new(history, ino, done, begun, block);
        file.judge(content).map_err(|what| {
            let names = names_of(found, ino);
            format!("file {names} (inode {ino}): {what}")
        })?;
    }
    Ok(())
}

fn names_of(found: &Snapshot, ino: u64) -> String {
    let names = found.nodes.iter().filter(|(_, node)| node.ino == ino);
    let names: Vec<_> = names
        .map(|(path, _)| String::from_utf8_lossy(path).into_owned())
        .collect();
    names.join(", ")
}

fn judge_names(found: &Snapshot, history: &History, done: usize, begun: usize) -> Verdict {
    let promises = |step: &Step| {
        matches!(
            step.promise,
            Promise::All | Promise::Names | Promise::NamesAndFile(_)
        )
    };
    let first = (0..=done).rev().find(|n| promises(&history.steps[*n]));
    let first = first.unwrap_or(0);
    let mut possible = history.steps[first..=begun].iter();
    if possible.any(|step| step.after.nodes == found.nodes) {
        return Ok(());
    }
    let wanted = &history.steps[done].after.nodes;
    let mut differ: Vec<_> = wanted.keys().chain(found.nodes.keys()).collect();
    differ.sort_unstable();
    differ.dedup();
    differ.retain(|path| wanted.get(*path) != found.nodes.get(*path));
    let differ: Vec<_> = differ
        .into_iter()
        .map(|path| {
            let name = String::from_utf8_lossy(path);
            format!("{name}: found {:?}", found.nodes.get(path))
        })
        .collect();
    Err(format!(
        "names and attributes are those of no moment from operation {first} to {begun}; other than \
         after {done}: {}",
        differ.join("; ")
    ))
}

/// Files whose content was promised, and that were not removed since, are there.
fn judge_presence(found: &Snapshot, history: &History, done: usize, begun: usize) -> Verdict {
    for n in 0..=done {
        let (Promise::File(ino) | Promise::NamesAndFile(ino) | Promise::Bytes(ino, ..)) =
            history.steps[n].promise
        else {
            continue;
        };
        let mut since = history.steps[n..=begun].iter();
        let stays = since.all(|step| step.after.names(ino));
        if stays && !found.files.contains_key(&ino) {
            return Err(format!(
                "inode {ino}, whose content operation {n} promised, is gone"
            ));
        }
    }
    Ok(())
}

/// One file in the history.
struct File<'a> {
    history: &'a History,
    ino: u64,
    done: usize,
    begun: usize,
    block: u64,
    /// The operation that promised all of it last, or made it.
    floor: usize,
}

impl<'a> File<'a> {
    fn new(history: &'a History, ino: u64, done: usize, begun: usize, block: u64) -> Self {
        let steps = &history.steps;
        let promises = |step: &Step| match step.promise {
            Promise::All => true,
            Promise::File(of) | Promise::NamesAndFile(of) => of == ino,
            _ => false,
        };
        let made = steps.iter().position(|s| s.after.files.contains_key(&ino));
        let floor = (0..=done).rev().find(|n| promises(&steps[*n])).unwrap_or(0);
        let floor = floor.max(made.unwrap_or(0));
        // If it was deleted since, as it was last.
        let there = |n: &usize| steps[*n].after.files.contains_key(&ino);
        let last = (0..=begun).rev().find(there);
        Self {
            history,
            ino,
            done,
            begun,
            block,
            floor: floor.min(last.unwrap_or(floor)),
        }
    }

    /// What it held after operation `n`; nothing once it is deleted.
    fn after(&self, n: usize) -> Option<&'a [u8]> {
        let files = &self.history.steps[n].after.files;
        files.get(&self.ino).map(|bytes| bytes.as_slice())
    }

    fn size(&self, n: usize) -> usize {
        self.after(n).map_or(0, <[u8]>::len)
    }

    /// The operations since `from` after which it was there.
    fn since(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        (from..=self.begun).filter(|n| self.after(*n).is_some())
    }

    fn judge(&self, content: &[u8]) -> Verdict {
        let sized = self.judge_size(content)?;
        self.judge_promised_end(content)?;
        // Where the floor changes: promised ranges, cuts that the size tells of.
        let mut floors = vec![(0, usize::MAX, self.floor)];
        for n in self.floor + 1..=self.done {
            if let Promise::Bytes(ino, pos, len) = self.history.steps[n].promise
                && ino == self.ino
            {
                floors.push((pos as usize, (pos + len) as usize, n));
            }
        }
        for n in self.floor + 1..=sized {
            if self.size(n) < self.size(n - 1) {
                floors.push((self.size(n), usize::MAX, n));
            }
        }
        for start in (0..content.len()).step_by(SECTOR) {
            let end = (start + SECTOR).min(content.len());
            self.judge_sector(content, start, end, &floors)?;
        }
        Ok(())
    }

    /// The size, and the first operation after which it can have been so.
    fn judge_size(&self, content: &[u8]) -> Result<usize, String> {
        let size = content.len();
        if let Some(n) = self.since(self.floor).find(|n| self.size(*n) == size) {
            return Ok(n);
        }
        let grows = |n: &usize| {
            let writes = matches!(
                self.history.steps[*n].op,
                Some(Op::Write(..) | Op::Append(..))
            );
            writes && self.size(n - 1) < size && size < self.size(*n)
        };
        let Some(n) = self.since(self.floor + 1).find(grows) else {
            let sizes: Vec<_> = self.since(self.floor).map(|n| self.size(n)).collect();
            return Err(format!(
                "size {size}, though since operation {} it was one of {sizes:?}",
                self.floor
            ));
        };
        // The end of a write: its bytes are there.
        let block = self.block as usize;
        let start = (size - 1) / block * block;
        let there = |n: usize| {
            let after = self.after(n).unwrap_or_default();
            (start..size).any(|at| content[at] != 0 && after.get(at).is_some_and(|b| *b != 0))
        };
        if self.since(n).any(there) {
            return Ok(n);
        }
        Err(format!(
            "size {size} of operation {n} covers bytes that were not written"
        ))
    }

    /// Bytes promised by themselves lie inside the file.
    fn judge_promised_end(&self, content: &[u8]) -> Verdict {
        for n in self.floor..=self.done {
            let Promise::Bytes(ino, pos, len) = self.history.steps[n].promise else {
                continue;
            };
            if ino != self.ino {
                continue;
            }
            let end = (pos + len) as usize;
            let least = self.since(n).map(|n| self.size(n).min(end)).min();
            if content.len() < least.unwrap_or(0) {
                return Err(format!(
                    "size {}, though operation {n} promised the bytes up to {end}",
                    content.len()
                ));
            }
        }
        Ok(())
    }

    fn judge_sector(
        &self,
        content: &[u8],
        start: usize,
        end: usize,
        floors: &[(usize, usize, usize)],
    ) -> Verdict {
        let floor_at = |at: usize| {
            let covering = floors
                .iter()
                .filter(|(from, to, _)| *from <= at && at < *to);
            covering.map(|(_, _, floor)| *floor).max().unwrap_or(0)
        };
        let highest = floors
            .iter()
            .filter(|(from, to, _)| *from < end && start < *to);
        let highest = highest.map(|(_, _, floor)| *floor).max().unwrap_or(0);
        let same = |n: usize| {
            let after = self.after(n).unwrap_or_default();
            after.get(start..end) == Some(&content[start..end])
        };
        if self.since(highest).any(same) {
            return Ok(());
        }
        for at in start..end {
            let floor = floor_at(at);
            let value = |n: usize| self.after(n).and_then(|b| b.get(at)).copied();
            let mut possible = self.since(floor).map(|n| value(n).unwrap_or(0));
            if possible.any(|byte| byte == content[at]) {
                continue;
            }
            return Err(self.wrong_byte(content, at, floor));
        }
        Ok(())
    }

    fn wrong_byte(&self, content: &[u8], at: usize, floor: usize) -> String {
        let found = content[at];
        let had: Vec<_> = self
            .since(floor)
            .map(|n| self.after(n).and_then(|b| b.get(at)).copied().unwrap_or(0))
            .collect();
        let what = match found {
            0 => "zero".to_owned(),
            1..=0x7f => self.writer(at, found),
            0x80.. => "what the device held before the file system was made".to_owned(),
        };
        format!("byte {at} is {found:#04x} ({what}); since operation {floor} it was {had:02x?}")
    }

    /// Who wrote a byte that has no business here.
    fn writer(&self, at: usize, found: u8) -> String {
        let steps = self.history.steps.iter().enumerate();
        let old = steps.rev().find(|(n, _)| {
            let had = self.after(*n).and_then(|b| b.get(at));
            had == Some(&found)
        });
        match old {
            Some((n, _)) => format!("as after operation {n}"),
            None => "a byte of another place".to_owned(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use iomap_core::vfs::{FileType, IoFlags};

    use super::super::history::Node;
    use super::*;

    const INO: u64 = 7;

    fn with(content: &[u8]) -> Snapshot {
        let mut found = Snapshot::default();
        let node = Node {
            ino: INO,
            kind: FileType::Regular,
            nlink: 1,
            target: Vec::new(),
            xattrs: Default::default(),
        };
        found.nodes.insert(b"a".to_vec(), node);
        found.files.insert(INO, Arc::new(content.to_vec()));
        found
    }

    /// A file that held `first` durably, and then each of `others`.
    fn history(first: &[u8], others: &[(Op, Promise, &[u8])]) -> History {
        let mut history = History::new(with(first));
        for (op, promise, content) in others {
            history.steps.push(Step {
                op: Some(*op),
                promise: *promise,
                after: with(content),
            });
        }
        history
    }

    const WRITE: Op = Op::Write("a", 0, 1, IoFlags::empty());
    const FSYNC: Op = Op::Fsync("a");

    fn verdict(found: &[u8], history: &History, done: usize) -> Verdict {
        judge(&with(found), history, done, done, 4)
    }

    #[test]
    fn bytes_are_old_or_new_until_they_are_promised() {
        let written = history(
            &[1; 8],
            &[
                (WRITE, Promise::None, &[2; 8]),
                (FSYNC, Promise::NamesAndFile(INO), &[2; 8]),
            ],
        );
        verdict(&[1, 2, 1, 2, 1, 1, 1, 1], &written, 1).unwrap();
        verdict(&[3; 8], &written, 1).unwrap_err();
        verdict(&[0; 8], &written, 1).unwrap_err();
        verdict(&[2; 8], &written, 2).unwrap();
        verdict(&[2, 2, 2, 2, 2, 2, 2, 1], &written, 2).unwrap_err();
    }

    #[test]
    fn a_size_on_its_way_needs_bytes_of_the_write() {
        let grown = history(&[1; 4], &[(WRITE, Promise::None, &[1; 12])]);
        verdict(&[1; 4], &grown, 1).unwrap();
        verdict(&[1; 8], &grown, 1).unwrap();
        verdict(&[1; 13], &grown, 1).unwrap_err();
        let hollow = [1, 1, 1, 1, 0, 0, 0, 0];
        let what = verdict(&hollow, &grown, 1).unwrap_err();
        assert!(what.contains("not written"), "{what}");
        let set = Op::Truncate("a", 8);
        let longer = history(&[1; 4], &[(set, Promise::None, &hollow)]);
        verdict(&hollow, &longer, 1).unwrap();
    }

    #[test]
    fn promised_bytes_bring_their_part_of_the_size() {
        let appended = history(&[1; 4], &[(WRITE, Promise::Bytes(INO, 4, 4), &[1; 8])]);
        verdict(&[1; 8], &appended, 1).unwrap();
        let what = verdict(&[1; 4], &appended, 1).unwrap_err();
        assert!(what.contains("promised"), "{what}");
    }

    #[test]
    fn what_was_cut_does_not_come_back_with_a_later_size() {
        let cut = Op::Truncate("a", 2);
        let regrown = history(
            &[1; 8],
            &[
                (cut, Promise::None, &[1; 2]),
                (WRITE, Promise::None, &[1, 1, 0, 0, 0, 0, 0, 0, 5]),
            ],
        );
        verdict(&[1; 8], &regrown, 2).unwrap();
        verdict(&[1, 1, 0, 0, 0, 0, 0, 0, 5], &regrown, 2).unwrap();
        verdict(&[1, 1, 1, 0, 0, 0, 0, 0, 5], &regrown, 2).unwrap_err();
    }

    #[test]
    fn names_are_those_of_one_moment_since_they_were_promised() {
        let mut both = with(&[1]);
        let node = both.nodes[&b"a"[..]].clone();
        both.nodes.insert(b"b".to_vec(), node);
        let mut linked = history(&[1], &[]);
        linked.steps.push(Step {
            op: Some(Op::Link("a", "b")),
            promise: Promise::None,
            after: both.clone(),
        });
        judge(&both, &linked, 0, 1, 4).unwrap();
        judge(&with(&[1]), &linked, 1, 1, 4).unwrap();
        judge(&both, &linked, 0, 0, 4).unwrap_err();
        linked.steps[1].promise = Promise::Names;
        judge(&with(&[1]), &linked, 1, 1, 4).unwrap_err();
        let mut gone = with(&[1]);
        gone.files.clear();
        let promised = history(&[1], &[(FSYNC, Promise::File(INO), &[1])]);
        judge(&gone, &promised, 1, 1, 4).unwrap_err();
    }
}
