//! What a verb answers when it cannot do what was asked.
//!
//! Owns the message, the advice that goes with it and the exit code. Words it for a person: what,
//! where, and what now. Printing is the caller's.

use std::fmt::Display;
use std::path::Path;

use iomap_core::error::FsError;

/// Exit codes of the verbs other than `check` and `mount`.
pub(crate) mod code {
    /// Something could not be done.
    pub(crate) const FAILED: u8 = 1;
    /// The arguments make no sense.
    pub(crate) const USAGE: u8 = 2;
    /// Ended by a signal from the terminal.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a verb ends early.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is wrong and where.
    pub(crate) message: String,
    /// What the user can do about it.
    pub(crate) hint: Option<String>,
    /// The exit code.
    pub(crate) code: u8,
}

/// The answer of a verb: its exit code.
pub(crate) type Outcome<T = u8> = Result<T, Failure>;

impl Failure {
    /// Something could not be done.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            code: code::FAILED,
        }
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: code::USAGE,
            ..Self::new(message)
        }
    }

    /// The reader of our output is gone: end without a word.
    pub(crate) fn quiet() -> Self {
        Self::new(String::new())
    }

    /// `what: error`.
    pub(crate) fn of(what: impl Display, error: impl Display) -> Self {
        Self::new(format!("{what}: {error}"))
    }

    /// A host file and what the kernel said about it.
    pub(crate) fn host(path: &Path, error: impl Into<std::io::Error>) -> Self {
        Self::of(path.display(), words(&error.into()))
    }

    /// With advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With advice, if there is none yet.
    pub(crate) fn or_hint(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// With another exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints it on the standard error.
    pub(crate) fn print(&self) {
        if self.message.is_empty() {
            return;
        }
        complain(&self.message);
        if let Some(hint) = &self.hint {
            crate::out::warn_line(&format!("  hint: {hint}"));
        }
    }
}

/// Prints an error line on the standard error.
pub(crate) fn complain(message: &str) {
    crate::out::warn_line(&format!("iomapfs: {message}"));
}

impl From<std::io::Error> for Failure {
    /// Of writing the output: a closed pipe ends the program without a word.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::quiet();
        }
        Self::of("standard output", words(&error))
    }
}

/// The words of the system for an error, without Rust's number behind them.
pub(crate) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let text = &text[..end];
    let mut letters = text.chars();
    match letters.next() {
        // "No such file" reads better behind a colon in lower case; "I/O error" does not.
        Some(first) if letters.clone().next().is_none_or(|c| c != '/') => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// The words for an error of a file system.
pub(crate) fn fs_words(error: &FsError) -> String {
    match error {
        FsError::Os { errno } | FsError::Writeback(errno) => {
            words(&std::io::Error::from_raw_os_error(errno.raw_os_error()))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_told_without_numbers_and_shouting() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(words(&error), "no such file or directory");
        assert_eq!(
            words(&std::io::Error::from_raw_os_error(5)),
            "input/output error"
        );
    }
}
