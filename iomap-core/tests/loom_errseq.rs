//! The error sequence under every interleaving: no error is lost, none is reported twice to a file.

#![cfg(iomap_loom)]
#![expect(clippy::unwrap_used, reason = "tests")]

use iomap_core::error::Errno;
use iomap_core::page_cache::ErrorSequence;
use iomap_core::sync::thread;
use loom::sync::Arc;

fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(f);
}

/// Two open files sync while writeback fails: each is told, once.
#[test]
fn each_file_is_told_once_of_an_error_that_comes_meanwhile() {
    model(|| {
        let errors = Arc::new(ErrorSequence::new());
        let files: Vec<_> = (0..2)
            .map(|_| {
                let errors = Arc::clone(&errors);
                let mut since = errors.sample();
                thread::spawn(move || {
                    let early = errors.check_and_advance(&mut since).is_err();
                    (since, u32::from(early))
                })
            })
            .collect();
        errors.record(Errno::IO);
        for file in files {
            let (mut since, told) = file.join().unwrap();
            let late = u32::from(errors.check_and_advance(&mut since).is_err());
            assert_eq!(told + late, 1);
            assert_eq!(errors.check_and_advance(&mut since), Ok(()));
        }
    });
}

/// A second error that comes while the first is being reported is reported as well, unless it came
/// before anybody had seen the first.
#[test]
fn an_error_behind_one_that_was_seen_is_not_lost() {
    model(|| {
        let errors = Arc::new(ErrorSequence::new());
        let mut since = errors.sample();
        errors.record(Errno::IO);
        let writeback = {
            let errors = Arc::clone(&errors);
            thread::spawn(move || errors.record(Errno::NOSPC))
        };
        let first = errors.check_and_advance(&mut since).unwrap_err();
        writeback.join().unwrap();
        let second = errors.check_and_advance(&mut since);
        match first {
            Errno::IO => assert_eq!(second, Err(Errno::NOSPC), "the second error was lost"),
            first => assert_eq!((first, second), (Errno::NOSPC, Ok(()))),
        }
    });
}

/// A file that is opened beside a failure is told by its first sync, or sampled behind an error
/// that somebody else was told.
#[test]
fn an_open_beside_a_failure_does_not_hide_it() {
    model(|| {
        let errors = Arc::new(ErrorSequence::new());
        let opener = {
            let errors = Arc::clone(&errors);
            thread::spawn(move || errors.sample())
        };
        errors.record(Errno::IO);
        let mut since = opener.join().unwrap();
        assert_eq!(errors.check_and_advance(&mut since), Err(Errno::IO));
    });
}
