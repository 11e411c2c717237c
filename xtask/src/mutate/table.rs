//! What a row of the table is made of: a rule, where it comes from, the tests that must fail when
//! it is off. The rows are in [`rows`](mod@super::rows).

use std::fmt;

/// One rule.
#[derive(Debug)]
pub(super) struct Row {
    /// Its name in `iomap_core::mutation::Rule`.
    pub(super) rule: &'static str,
    /// Section and name in the semantics reference.
    pub(super) source: &'static str,
    /// These must fail with the rule off.
    pub(super) tests: &'static [Case],
}

/// A test that must fail with the rule off.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) package: &'static str,
    pub(super) flavour: Flavour,
    pub(super) target: Target,
    pub(super) test: &'static str,
    pub(super) how: How,
    /// Runs with `--long` only.
    pub(super) long: bool,
}

/// How a test fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It prints these words.
    Says(&'static str),
    /// It does not end. For rules whose absence is a hang that nothing else detects.
    Hangs,
}

/// How a test program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavour {
    Plain,
    Loom,
    Shuttle,
}

/// A test program of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Lib,
    Test(&'static str),
}

impl Row {
    /// The tests to run.
    pub(super) fn cases(&self, long: bool) -> impl Iterator<Item = &'static Case> + use<> {
        self.tests.iter().filter(move |case| long || !case.long)
    }
}

impl Case {
    /// The test in one word.
    pub(super) fn id(&self) -> String {
        format!("{} {} {}", self.package, self.target, self.test)
    }

    pub(super) const fn hangs(&self) -> bool {
        matches!(self.how, How::Hangs)
    }

    pub(super) const fn new(
        package: &'static str,
        flavour: Flavour,
        target: Target,
        test: &'static str,
        words: &'static str,
    ) -> Self {
        let how = How::Says(words);
        Self {
            package,
            flavour,
            target,
            test,
            how,
            long: false,
        }
    }

    /// Only with `--long`.
    pub(super) const fn long(mut self) -> Self {
        self.long = true;
        self
    }
}

impl Flavour {
    /// The target folder.
    pub(super) const fn folder(self) -> &'static str {
        match self {
            Self::Plain => "target/mutate",
            Self::Loom => "target/mutate-loom",
            Self::Shuttle => "target/mutate-shuttle",
        }
    }

    /// The `--cfg` of the build.
    pub(super) const fn cfg(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Loom => Some("iomap_loom"),
            Self::Shuttle => Some("iomap_shuttle"),
        }
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cfg().unwrap_or("plain"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lib => "lib",
            Self::Test(name) => name,
        })
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Says(words) => write!(f, "\"{words}\""),
            Self::Hangs => f.write_str("does not end"),
        }
    }
}
