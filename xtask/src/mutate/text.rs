//! The table against the source text: every rule has a row, and every row without an excuse has a
//! switch in product code.

use std::collections::BTreeSet;
use std::path::Path;

use super::rows::rows;
use crate::source::{self, Source};

/// Where the rules are declared.
const RULES: &str = "iomap-core/src/mutation.rs";

/// What does not fit.
pub(super) fn check(root: &Path) -> Vec<String> {
    findings(&source::workspace(root))
}

fn findings(sources: &[Source]) -> Vec<String> {
    let declared: BTreeSet<String> = sources
        .iter()
        .filter(|source| source.path == RULES)
        .flat_map(declared)
        .collect();
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows() {
        let rule = row.rule;
        if !seen.insert(rule) {
            findings.push(format!("mutate: {rule} has two rows"));
        }
        if !declared.contains(rule) {
            findings.push(format!("mutate: {rule} is no rule of {RULES}"));
        }
        if row.tests.iter().all(|case| case.long) {
            findings.push(format!("mutate: {rule} has no test in the short form"));
        }
        if !has_switch(sources, rule) {
            findings.push(format!(
                "mutate: {rule} has tests, but no product code asks off(Rule::{rule})"
            ));
        }
    }
    let missing = declared.iter().filter(|rule| !seen.contains(rule.as_str()));
    findings.extend(missing.map(|rule| format!("mutate: {rule} has no row in the table")));
    findings
}

/// The names in the list `rules! { NAME = "…", }`.
fn declared(source: &Source) -> Vec<String> {
    let lines = source.product_lines().map(|(_, line)| line);
    let list = lines
        .skip_while(|line| !line.starts_with("rules! {"))
        .skip(1);
    list.take_while(|line| !line.starts_with('}'))
        .filter_map(|line| Some(line.trim().split_once(" =")?.0.to_owned()))
        .collect()
}

/// Whether product code asks for the switch of `rule`.
fn has_switch(sources: &[Source], rule: &str) -> bool {
    let asked = format!("off(Rule::{rule})");
    let mut product = sources.iter().filter(|source| source.path != RULES);
    product.any(|source| {
        source
            .product_lines()
            .any(|(_, line)| line.contains(&asked))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_the_code() {
        let found = check(&crate::workspace());
        assert!(found.is_empty(), "{}", found.join("\n"));
    }

    #[test]
    fn a_switch_in_a_comment_or_a_test_does_not_count() {
        let text = "// off(Rule::O1)\n#[cfg(test)]\nmod tests {\n    fn f() { off(Rule::O2); }\n}\n\
                    fn g() { if !off(Rule::O3) {} }\n";
        let sources = [Source::new("iomap-core/src/x.rs".to_owned(), text)];
        let has = ["O1", "O2", "O3"].map(|rule| has_switch(&sources, rule));
        assert_eq!(has, [false, false, true]);
    }

    #[test]
    fn the_declared_rules_are_found() {
        let text = "macro_rules! rules { }\nrules! {\n    J1 = \"a\",\n    O10 = \"b\",\n}\n";
        let source = Source::new(RULES.to_owned(), text);
        assert_eq!(declared(&source), ["J1", "O10"]);
    }
}
