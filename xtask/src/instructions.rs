//! Instructions of the hot paths, counted by callgrind: a guard that noise cannot disturb.
//!
//! Owns the table `benches/instructions.txt` and the comparison with it. What the paths are is in
//! `benches/src/bin/hot.rs`. A path that takes more than a twentieth more than its line fails until
//! the line is changed as well (`--refresh`), so that growth is seen in review.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Counts, Step};
use crate::tools;

const TABLE: &str = "benches/instructions.txt";
/// Operations of the two runs whose difference is taken.
const FEW: u64 = 1000;
const MANY: u64 = 3000;
/// Part by which a path may grow without a changed table.
const GROWTH: f64 = 0.05;

const HEAD: &str = "\
# Instructions of one operation of each hot path, counted by callgrind.
# `cargo xtask instructions` compares, `cargo xtask instructions --refresh` writes this file.
";

/// Instructions by path, and the compiler they are true for.
#[derive(Debug, Default, PartialEq)]
struct Table {
    compiler: String,
    paths: BTreeMap<String, u64>,
}

impl Table {
    fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        for line in text
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            match line.split_once(char::is_whitespace) {
                Some(("compiler", version)) => version.trim().clone_into(&mut table.compiler),
                Some((path, count)) => {
                    let count = count.trim().parse();
                    let count = count.map_err(|_| format!("{TABLE}: no number: {line}"))?;
                    table.paths.insert(path.to_owned(), count);
                }
                None => return Err(format!("{TABLE}: {line}")),
            }
        }
        Ok(table)
    }

    fn text(&self) -> String {
        let mut text = format!("{HEAD}compiler {}\n", self.compiler);
        for (path, count) in &self.paths {
            text += &format!("{path:<26}{count}\n");
        }
        text
    }

    /// What grew more than allowed, is new, or is gone.
    fn findings(&self, measured: &Self) -> Vec<String> {
        let mut findings = Vec::new();
        for (path, &now) in &measured.paths {
            match self.paths.get(path) {
                None => findings.push(format!("{path}: {now} instructions, not in {TABLE}")),
                Some(&then) if now as f64 > then as f64 * (1.0 + GROWTH) => findings.push(format!(
                    "{path}: {now} instructions, {then} in {TABLE}: find the cause, or --refresh"
                )),
                Some(_) => {}
            }
        }
        let gone = self
            .paths
            .keys()
            .filter(|p| !measured.paths.contains_key(*p));
        findings.extend(gone.map(|path| format!("{path}: in {TABLE}, but no path of hot")));
        findings
    }
}

/// Counts, and compares with the table or with `refresh` writes it.
pub(crate) fn run(root: &Path, refresh: bool) -> Result<Counts, String> {
    tools::package("valgrind", "valgrind")?;
    let build = ["build", "--release", "--package", "benches", "--bin", "hot"];
    let built = Step::cargo("instructions of the hot paths", &build).check();
    if built.failed > 0 {
        return Ok(built);
    }
    let measured = measure(&program(root))?;
    if refresh {
        std::fs::write(root.join(TABLE), measured.text()).map_err(|e| format!("{TABLE}: {e}"))?;
        println!("{}", measured.text());
        return Ok(Counts::one(true));
    }
    let text = std::fs::read_to_string(root.join(TABLE)).map_err(|e| format!("{TABLE}: {e}"))?;
    let table = Table::parse(&text)?;
    for (path, now) in &measured.paths {
        let then = table.paths.get(path).copied().unwrap_or(0);
        println!("{path:<26}{now:>8} (table: {then})");
    }
    if table.compiler != measured.compiler {
        let skip = format!(
            "instructions: the table is of {}, this is {}",
            table.compiler, measured.compiler
        );
        return Ok(Counts {
            skips: vec![skip],
            ..Counts::default()
        });
    }
    let findings = table.findings(&measured);
    findings.iter().for_each(|f| println!("{f}"));
    Ok(Counts::one(findings.is_empty()))
}

fn program(root: &Path) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    root.join(target).join("release/hot")
}

fn measure(hot: &Path) -> Result<Table, String> {
    let mut table = Table {
        compiler: output(Command::new("rustc").arg("--version"))?
            .0
            .trim()
            .to_owned(),
        ..Table::default()
    };
    for path in output(&mut Command::new(hot))?.0.lines() {
        let (few, many) = (count(hot, path, FEW)?, count(hot, path, MANY)?);
        let each = many.saturating_sub(few) / (MANY - FEW);
        table.paths.insert(path.to_owned(), each);
    }
    Ok(table)
}

/// Instructions of the whole program.
fn count(hot: &Path, path: &str, operations: u64) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.arg(hot).arg(path).arg(operations.to_string());
    let (_, errors) = output(&mut command)?;
    collected(&errors).ok_or_else(|| format!("callgrind told no count for {path}:\n{errors}"))
}

/// The count in callgrind's last words: `==1== Collected : 123`.
fn collected(errors: &str) -> Option<u64> {
    let line = errors.lines().find(|l| l.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn output(command: &mut Command) -> Result<(String, String), String> {
    let out = command.output();
    let out = out.map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let errors = text(&out.stderr);
    if out.status.success() {
        Ok((text(&out.stdout), errors))
    } else {
        let program = command.get_program().display();
        Err(format!("{program}: {}:\n{errors}", out.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, u64)]) -> Table {
        Table {
            compiler: "rustc 1".into(),
            paths: rows.iter().map(|&(p, n)| (p.to_owned(), n)).collect(),
        }
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let table = table(&[("a", 100), ("b-path", 7)]);
        assert_eq!(Table::parse(&table.text()), Ok(table));
        assert!(Table::parse("a many").is_err());
        assert!(Table::parse("a").is_err());
    }

    #[test]
    fn growth_above_a_twentieth_and_unknown_paths_are_found() {
        let old = table(&[("same", 100), ("grown", 100), ("gone", 1)]);
        let new = table(&[("same", 105), ("grown", 106), ("new", 1)]);
        let findings = old.findings(&new);
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings.iter().any(|f| f.starts_with("grown: 106")));
        assert!(findings.iter().any(|f| f.starts_with("new: ")));
        assert!(findings.iter().any(|f| f.starts_with("gone: ")));
        assert!(
            old.findings(&table(&[("same", 1), ("grown", 1), ("gone", 1)]))
                .is_empty()
        );
    }

    #[test]
    fn the_count_is_found_in_what_callgrind_says() {
        let said = "==7== Events    : Ir\n==7== Collected : 2147\n==7==\n";
        assert_eq!(collected(said), Some(2147));
        assert_eq!(collected("==7== nothing"), None);
    }
}
