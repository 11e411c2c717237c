//! The iterator: the only caller of a backend's `begin` and `end`.
//!
//! Owns the loop *map, work, settle, advance*; the checks of a backend's answers; and the rule that
//! a stale mapping is asked for again, a bounded number of times (rule V4). Every operation is this
//! loop with another body. Owns no folio and does no I/O.
//!
//! Kernel counterpart: `fs/iomap/iter.c`.

use crate::error::{FsError, ProtocolError, Result};
use crate::iomap::{CoreFlags, Iomap, MapKind};
use crate::ops::{Finished, Intent, MapError, MapFlags, MapOps, MapRequest, Mapped};
use crate::stats::Event;
use crate::units::FileRange;

/// How often in a row a mapping may be found stale without any progress.
///
/// Each time somebody else has changed an extent, so the system as a whole moves; the bound turns
/// a backend whose generation never rests into an error instead of a hang.
pub const STALE_RETRIES_MAX: u32 = 4096;

/// One mapping, and how far the body got in it.
#[derive(Debug)]
pub struct Step<'a> {
    iomap: &'a Iomap,
    source: &'a Iomap,
    range: FileRange,
    done: u64,
    core: CoreFlags,
}

impl Step<'_> {
    /// Where bytes go, or come from.
    #[must_use]
    #[inline]
    pub const fn iomap(&self) -> &Iomap {
        self.iomap
    }

    /// Where the current content of partly written blocks is: the copy-on-write source, or
    /// [`Step::iomap`].
    #[must_use]
    #[inline]
    pub const fn source(&self) -> &Iomap {
        self.source
    }

    /// What is left of the request inside this mapping.
    #[must_use]
    #[inline]
    pub const fn rest(&self) -> FileRange {
        self.range.skip(self.done)
    }

    /// Counts `n` bytes as done.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Overrun`] if the mapping has fewer left; nothing is counted.
    #[inline]
    pub fn advance(&mut self, n: u64) -> Result<()> {
        let left = self.rest().len();
        if n > left {
            return Err(ProtocolError::Overrun {
                pos: self.range.end(),
                by: n - left,
            }
            .into());
        }
        self.done += n;
        Ok(())
    }

    /// Says that the file grew in this step.
    #[inline]
    pub fn set_size_changed(&mut self) {
        self.core |= CoreFlags::SIZE_CHANGED;
    }

    /// Says that the mapping is not valid any more: what is left is mapped again.
    #[inline]
    pub fn set_stale(&mut self) {
        self.core |= CoreFlags::STALE;
    }
}

/// What a body wants after a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on with what is left, if any progress was made or the mapping went stale.
    Continue,
    /// Stop here, without an error.
    Stop,
}

/// How an operation ended: how far it got, and why it stopped.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes advanced over all mappings.
    pub done: u64,
    /// The error that stopped it, if one did.
    pub result: Result<(), MapError>,
}

impl Outcome {
    /// Bytes if there are any, otherwise the error: the rule of read and write.
    ///
    /// # Errors
    ///
    /// The error that stopped the operation before the first byte.
    #[inline]
    pub fn bytes_or_error(self) -> Result<u64> {
        if self.done > 0 {
            return Ok(self.done);
        }
        self.all_or_error()?;
        Ok(0)
    }

    /// The error, whatever was done before.
    ///
    /// # Errors
    ///
    /// The error that stopped the operation.
    #[inline]
    pub fn all_or_error(self) -> Result<()> {
        self.result.map_err(plain)
    }
}

/// An error outside of direct I/O: there a fall-back is a broken contract.
fn plain(error: MapError) -> FsError {
    match error {
        MapError::Fs(error) => error,
        MapError::UseBuffered => FsError::Protocol(ProtocolError::BadKind {
            what: "a fall-back to buffered I/O to an operation that is not direct",
            pos: crate::units::FilePos::ZERO,
        }),
    }
}

/// Maps `range` piece by piece and runs `body` on each piece.
///
/// - `end` is called once for every `begin` that succeeded, whatever the body did.
/// - An error of the body stops the loop. An error of `end` stops it if the mapping brought no
///   progress, or was for a change in place ([`MapFlags::DAX`]), which then has not happened.
/// - The loop ends when the range is exhausted, when a mapping brought no progress and was not
///   stale, or when the body says stop.
#[inline]
pub fn for_each_mapping<B: MapOps + ?Sized>(
    backend: &B,
    range: FileRange,
    intent: Intent,
    flags: MapFlags,
    mut body: impl FnMut(&mut Step<'_>) -> Result<Flow>,
) -> Outcome {
    let mut rest = range;
    let mut retries = 0;
    let done = |rest: FileRange| range.len() - rest.len();
    while !rest.is_empty() {
        let req = MapRequest {
            range: rest,
            intent,
            flags,
        };
        let (finished, result) = match one_mapping(backend, &req, &mut body) {
            Ok(step) => step,
            Err(error) => {
                return Outcome {
                    done: done(rest),
                    result: Err(error),
                };
            }
        };
        rest = rest.skip(finished.done);
        match result {
            Err(error) => {
                return Outcome {
                    done: done(rest),
                    result: Err(error.into()),
                };
            }
            Ok(Flow::Stop) => break,
            Ok(Flow::Continue) if finished.done > 0 => retries = 0,
            Ok(Flow::Continue) if finished.stale && retries < STALE_RETRIES_MAX => {
                retries += 1;
                backend.inode().counters().count(Event::stale_remaps);
                crate::sync::thread::yield_now();
            }
            Ok(Flow::Continue) if finished.stale => {
                let error = ProtocolError::NoProgress {
                    pos: rest.start(),
                    retries,
                };
                return Outcome {
                    done: done(rest),
                    result: Err(MapError::Fs(error.into())),
                };
            }
            Ok(Flow::Continue) => break,
        }
    }
    Outcome {
        done: done(rest),
        result: Ok(()),
    }
}

struct StepEnd {
    done: u64,
    stale: bool,
}

/// `begin`, the body, `end`: the body of the loop. An error of `begin` is the outer one.
#[inline]
fn one_mapping<B: MapOps + ?Sized>(
    backend: &B,
    req: &MapRequest,
    body: &mut impl FnMut(&mut Step<'_>) -> Result<Flow>,
) -> Result<(StepEnd, Result<Flow>), MapError> {
    backend.inode().counters().count(Event::mappings);
    let mapped = backend.begin(req)?;
    tracing::trace!(
        target: "iomap::iter", ino = backend.inode().ino(), asked = %req.range, intent = ?req.intent,
        mapped = %mapped.iomap.range, kind = ?mapped.iomap.kind,
    );
    let checked = check_answer(req, &mapped);
    let range = checked
        .as_ref()
        .map_or(FileRange::at_most(req.range.start(), 0), |range| *range);
    let source = mapped.source.as_ref().unwrap_or(&mapped.iomap);
    let mut step = Step {
        iomap: &mapped.iomap,
        source,
        range,
        done: 0,
        core: CoreFlags::empty(),
    };
    let result = match checked {
        Ok(_) => body(&mut step),
        Err(error) => Err(error.into()),
    };
    let (done, core) = (step.done, step.core);
    let finished = Finished {
        iomap: &mapped.iomap,
        range,
        done,
        intent: req.intent,
        flags: req.flags,
        core,
    };
    let ended = backend.end(mapped.lease, &finished);
    let stale = core.contains(CoreFlags::STALE);
    // Only `end` makes the blocks the file's that were stored to in place.
    let undone = ended.is_err() && req.is_dax() && req.intent.is_write();
    let done = if undone { 0 } else { done };
    let step = StepEnd { done, stale };
    if done == 0
        && result.is_ok()
        && let Err(error) = ended
    {
        return Ok((step, Err(error)));
    }
    Ok((step, result))
}

/// Checks an answer where it enters, and returns the part of the request it covers.
#[inline]
fn check_answer<L>(req: &MapRequest, mapped: &Mapped<L>) -> Result<FileRange, ProtocolError> {
    let asked = req.range.start();
    for iomap in std::iter::once(&mapped.iomap).chain(&mapped.source) {
        if !iomap.range.contains(asked) {
            return Err(ProtocolError::NotCovering {
                asked,
                got: iomap.range,
            });
        }
        if matches!(iomap.kind, MapKind::Inline { .. }) && iomap.range.start().bytes() != 0 {
            return Err(ProtocolError::BadKind {
                what: "inline data not at position 0",
                pos: asked,
            });
        }
        if let MapKind::Mapped { addr } | MapKind::Unwritten { addr } = iomap.kind
            && addr.checked_add(iomap.range.len()).is_none()
        {
            return Err(ProtocolError::BadKind {
                what: "an extent past 2^64 bytes",
                pos: asked,
            });
        }
    }
    let writes = matches!(req.intent, Intent::Write | Intent::WriteFault);
    if writes && matches!(mapped.iomap.kind, MapKind::Hole) {
        return Err(ProtocolError::BadKind {
            what: "a hole to write to",
            pos: asked,
        });
    }
    let range = req.range.intersect(mapped.iomap.range);
    Ok(match &mapped.source {
        // A hole as source limits nothing: the destination itself is the source then.
        Some(source) if !matches!(source.kind, MapKind::Hole) => range.intersect(source.range),
        _ => range,
    })
}
