//! The page: one file without references to others, to be put in a mail or opened from a disk.

use crate::compare::budgets::{Judged, Verdict};
use crate::compare::sample::{GroupResult, SideResult, ratio};

use super::{Memory, Report, bytes, escape, svg, time};

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--text:#1b1b1b;--soft:#595959;--line:#ccc;--faint:#e6e6e6;\
--head:#f4f4f4;--good:#1f7a46;--bad:#b3261e;--open:#8a6d00}\
@media (prefers-color-scheme:dark){:root{--back:#15171a;--text:#e6e6e6;--soft:#a5a9ae;--line:#4a4f55;\
--faint:#2c3035;--head:#212529;--good:#5cc389;--bad:#f2867d;--open:#d8b84a}}\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;\
color:var(--text);background:var(--back)}\
h1{font-size:1.6rem}h2{margin-top:2.2rem;font-size:1.25rem}h3{margin:1.6rem 0 .3rem;font-size:1rem}\
table{border-collapse:collapse;width:100%;font-size:.87rem}th,td{padding:.25rem .6rem;text-align:right;\
border-bottom:1px solid var(--faint);font-variant-numeric:tabular-nums}th{background:var(--head);font-weight:600}\
td:first-child,th:first-child,td.l,th.l{text-align:left}tr.ours td:first-child{font-weight:600}\
.ahead{color:var(--good);font-weight:600}.behind{color:var(--bad);font-weight:600}\
.even{color:var(--open);font-weight:600}.none{color:var(--soft)}\
svg{max-width:100%;height:auto}svg.bars{width:100%}svg.bars text{font-size:12.5px;fill:var(--text)}\
svg.bars .grid{stroke:var(--faint)}svg.bars .bound{stroke:var(--text);stroke-width:1.5}\
svg.bars .span{stroke:var(--text);stroke-width:1}svg.bars rect.ahead,svg.bars text.ahead{fill:var(--good)}\
svg.bars rect.behind,svg.bars text.behind{fill:var(--bad)}svg.bars rect.even,svg.bars text.even{fill:var(--open)}\
.note{color:var(--soft);font-size:.87rem;margin:.2rem 0 .6rem}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;font-size:.9rem}dt{color:var(--soft)}dd{margin:0}";

/// How to read the verdicts.
const RULE: &str = "<p class=\"note\">A ratio is the median of the ratios inside each round, where every side \
did the same work one after the other. Its interval holds the true median with 95 % confidence. \
<span class=\"ahead\">Ahead</span> and <span class=\"behind\">behind</span>: the whole interval is on one \
side of the bound, and the median more than a thirtieth away from it. <span class=\"even\">Even</span>: \
this run cannot tell.</p>\n";

/// The whole page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Direct against buffered, ours against the floor and the kernel</title>\
         <style>{STYLE}</style></head><body>\n\
         <h1>Direct against buffered, ours against the floor and the kernel</h1>\n"
    );
    out += &machine(report);
    out += "<h2>Budgets</h2>\n";
    out += RULE;
    out += &bars(&report.budgets);
    out += &budgets(&report.budgets, &report.memory);
    out += &pictures(&report.groups);
    out += "<h2>Every row</h2>\n<p class=\"note\">Median of the rounds, with the quartiles; the ratio \
            is the median of the ratios inside each round, against the first row. \
            Device bytes are those of all rounds.</p>\n";
    for group in &report.groups {
        out += &table(group);
    }
    out += "</body></html>\n";
    out
}

fn machine(report: &Report) -> String {
    let m = &report.machine;
    let rows = [
        ("processor", format!("{} × {}", m.cpus, m.cpu)),
        ("memory", format!("{} MiB", m.memory_mib)),
        ("kernel", m.kernel.clone()),
        ("files on", m.temporary.clone()),
        ("huge pages", m.huge_pages.clone()),
        ("load at the start", m.load.clone()),
        ("rounds", format!("{} or more", report.rounds)),
    ];
    let rows = rows.map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escape(&value)));
    format!("<dl>{}</dl>\n", rows.concat())
}

fn bars(judged: &[Judged]) -> String {
    svg::bars(judged).map_or_else(
        |why| format!("<p class=\"note\">{}</p>\n", escape(&why.to_string())),
        |svg| format!("{svg}\n"),
    )
}

fn budgets(judged: &[Judged], memory: &[Memory]) -> String {
    let mut out = String::from(
        "<table><tr><th>Budget</th><th>Measured</th><th>95 % interval</th><th class=\"l\">Verdict</th></tr>\n",
    );
    for j in judged {
        let (number, spread) = j.measured.map_or(("-".into(), "-".into()), |s| {
            (
                format!("{:.2}", s.median),
                format!("{:.2} – {:.2}", s.least, s.most),
            )
        });
        let note = match j.note() {
            none if none.is_empty() => none,
            some => format!(": {}", escape(&some)),
        };
        out += &budget_row(j.text, &number, &spread, j.verdict, &note);
    }
    for m in memory {
        let text = format!("metadata of {}: at most {} bytes a page", m.folios, m.bound);
        let verdict = if m.bytes_per_page <= m.bound {
            Verdict::Ahead
        } else {
            Verdict::Behind
        };
        out += &budget_row(&text, &format!("{:.1}", m.bytes_per_page), "-", verdict, "");
    }
    out + "</table>\n"
}

fn budget_row(text: &str, number: &str, spread: &str, verdict: Verdict, note: &str) -> String {
    let class = match verdict {
        Verdict::Ahead => "ahead",
        Verdict::Behind => "behind",
        Verdict::Even => "even",
        Verdict::NotMeasured => "none",
    };
    format!(
        "<tr><td>{}</td><td>{number}</td><td>{spread}</td><td class=\"l\">\
         <span class=\"{class}\">{}</span>{note}</td></tr>\n",
        escape(text),
        verdict.name()
    )
}

fn pictures(groups: &[GroupResult]) -> String {
    let mut out = String::new();
    for picture in svg::pictures(groups) {
        out += &format!("<h2>{}</h2>\n", escape(&capital(picture)));
        for drawn in [
            svg::throughput(picture, groups),
            svg::latency(picture, groups),
        ] {
            match drawn {
                Ok(svg) => out += &format!("{svg}\n"),
                Err(why) => out += &format!("<p class=\"note\">{}</p>\n", escape(&why.to_string())),
            }
        }
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

fn table(group: &GroupResult) -> String {
    let mut out = format!(
        "<h3>{}</h3>\n<p class=\"note\">One operation: {}. Leaves out: {}.</p>\n<table>\
         <tr><th>Row</th><th>Time</th><th>Quartiles</th><th>Processor</th><th>Ratio</th>\
         <th>Rate</th><th>Device read</th><th>Device written</th></tr>\n",
        escape(&group.id),
        escape(&group.operation),
        escape(group.excludes)
    );
    let base = group.sides.iter().find(|s| s.ns.is_some());
    for side in &group.sides {
        out += &side_row(group, side, base);
    }
    out + "</table>\n"
}

fn side_row(group: &GroupResult, side: &SideResult, base: Option<&SideResult>) -> String {
    let class = match side.role {
        super::super::Role::Ours => " class=\"ours\"",
        _ => "",
    };
    let Some(ns) = side.ns else {
        let why = side.missing.as_deref().unwrap_or("no reason given");
        return format!(
            "<tr{class}><td>{}</td><td class=\"l none\" colspan=\"7\">not measured: {}</td></tr>\n",
            escape(side.name),
            escape(why)
        );
    };
    let against = base.map_or(1.0, |b| ratio(&side.rounds, &b.rounds).median);
    let rate = side
        .throughput(group.bytes)
        .map_or_else(|| "-".into(), |b| format!("{}/s", bytes(b)));
    format!(
        "<tr{class}><td>{}</td><td>{}</td><td>{} – {}</td><td>{}</td><td>{against:.2}</td>\
         <td>{rate}</td><td>{}</td><td>{}</td></tr>\n",
        escape(side.name),
        time(ns.median),
        time(ns.low),
        time(ns.high),
        time(side.cpu_ns.map_or(0.0, |c| c.median)),
        bytes(side.device.read as f64),
        bytes(side.device.written as f64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::machine::Machine;
    use crate::compare::sample::{DeviceBytes, Spread};
    use crate::compare::{Plot, Role, budgets};

    fn group(id: &str, x: f64, ns: f64) -> GroupResult {
        let side = |name, role, ns: f64| SideResult {
            name,
            role,
            missing: None,
            ns: Some(Spread::of(&[ns])),
            cpu_ns: Some(Spread::of(&[ns])),
            device: DeviceBytes::default(),
            served: 0,
            rounds: vec![ns],
            cpu_rounds: vec![ns],
        };
        GroupResult {
            id: id.into(),
            operation: "read <some>".into(),
            excludes: "nothing",
            bytes: 4096,
            plot: Some(Plot {
                picture: "reads",
                x,
            }),
            sides: vec![
                side("floor", Role::Floor, ns),
                side("ours", Role::Ours, 1.5 * ns),
            ],
        }
    }

    #[test]
    fn the_page_is_whole_without_other_files_and_shows_every_row() {
        let groups = vec![group("a & b", 4096.0, 100.0), group("c", 8192.0, 180.0)];
        let report = Report {
            version: super::super::VERSION,
            machine: Machine::read(),
            rounds: 1,
            budgets: budgets::judge(&groups),
            groups,
            memory: Vec::new(),
        };
        let page = page(&report);
        assert!(page.contains("a &amp; b") && page.contains("read &lt;some&gt;"));
        assert!(page.contains("<svg") && page.ends_with("</html>\n"));
        assert!(page.contains("1.50"), "the ratio to the first row");
        let styled = page.contains("prefers-color-scheme:dark");
        assert!(
            styled && !page.contains("#FFFFFF"),
            "a dark page has no white pictures"
        );
        for outside in ["src=", "href=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
