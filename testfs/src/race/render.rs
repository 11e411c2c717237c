//! A run as text for a mail, and as a picture.
//!
//! Owns the layout: one column for each thread, time downwards, beside it the locks the thread held
//! and the state after the step. Pure functions of a [`Trace`].

use std::fmt::Write as _;

use super::trace::{End, Event, Trace};

/// The widest a column of the text gets.
const WIDEST: usize = 24;

/// The run as text, 100 columns or so.
#[must_use]
pub fn text(trace: &Trace) -> String {
    let widths: Vec<usize> = (0..trace.columns.len()).map(|n| width(trace, n)).collect();
    let locks = trace
        .events
        .iter()
        .map(|e| e.locks.len())
        .max()
        .unwrap_or(0);
    let mut out = format!("{}\n\n", trace.title);
    let heads: Vec<Vec<String>> = trace
        .columns
        .iter()
        .zip(&widths)
        .map(|(head, width)| wrap(head, *width))
        .collect();
    let (lock_head, state_head) = if locks > 0 {
        ("locks", "state after the step")
    } else {
        ("", "")
    };
    push_row(
        &mut out,
        "   #",
        &heads,
        &widths,
        (lock_head, locks.max(lock_head.len())),
        state_head,
    );
    let rule: usize = widths.iter().sum::<usize>() + 3 * widths.len() + 4;
    let _ = writeln!(out, "{}", "-".repeat(rule + if locks > 0 { 34 } else { 0 }));
    for (n, event) in trace.events.iter().enumerate() {
        let mut cells = vec![Vec::new(); widths.len()];
        if let Some(cell) = cells.get_mut(event.column) {
            *cell = wrap(&event.text, widths[event.column]);
        }
        let number = format!("{:>4}", n + 1);
        let locks = (event.locks.as_str(), locks.max(lock_head.len()));
        push_row(&mut out, &number, &cells, &widths, locks, &event.state);
    }
    match &trace.end {
        End::Good => out.push_str("\nnothing was read, lost or written that must not have been\n"),
        End::Bad(what) => {
            let _ = writeln!(out, "\nBAD: {what}");
        }
    }
    out
}

fn width(trace: &Trace, column: usize) -> usize {
    let texts = trace
        .events
        .iter()
        .filter(|e| e.column == column)
        .map(|e| e.text.len());
    let head = trace.columns[column].len();
    texts.chain([head]).max().unwrap_or(0).clamp(8, WIDEST)
}

/// One row of the table, as many lines as its longest cell.
fn push_row(
    out: &mut String,
    number: &str,
    cells: &[Vec<String>],
    widths: &[usize],
    (locks, lock_width): (&str, usize),
    state: &str,
) {
    let lines = cells.iter().map(Vec::len).max().unwrap_or(1).max(1);
    for line in 0..lines {
        let mut row = if line == 0 {
            number.to_owned()
        } else {
            "    ".to_owned()
        };
        for (cell, width) in cells.iter().zip(widths) {
            let text = cell.get(line).map_or("", String::as_str);
            let _ = write!(row, " | {text:<width$}");
        }
        if line == 0 && (!locks.is_empty() || !state.is_empty()) {
            let _ = write!(row, " | {locks:<lock_width$} {state}");
        }
        let _ = writeln!(out, "{}", row.trim_end());
    }
}

/// `text` in lines of at most `width` characters, broken between words where that is possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

const COLUMN: usize = 190;
const ROW: usize = 46;
const HEAD: usize = 76;
/// Room for the numbers of the steps.
const LEFT: usize = 30;
/// Room for the state beside the steps, where there is any.
const SIDE: usize = 330;
/// Characters of the title and of the end on a line.
const LINE: usize = 88;
const NARROWEST: usize = 620;

/// The run as a picture: a life line for each column, a box for each step.
#[must_use]
pub fn svg(trace: &Trace) -> String {
    let has_state = |e: &Event| !e.locks.is_empty() || !e.state.is_empty();
    let side = if trace.events.iter().any(has_state) {
        SIDE
    } else {
        0
    };
    let columns = LEFT + COLUMN * trace.columns.len();
    let width = (columns + side + 10).max(NARROWEST);
    let foot = HEAD + ROW * trace.events.len() + 10;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        foot + 40
    );
    let style = "font-size=\"13\" font-weight=\"bold\"";
    push_lines(&mut out, 20, style, &trace.title);
    for (n, head) in trace.columns.iter().enumerate() {
        let x = LEFT + COLUMN * n + COLUMN / 2;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"58\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\n\
             <line x1=\"{x}\" y1=\"64\" x2=\"{x}\" y2=\"{foot}\" stroke=\"#bbb\"/>",
            escape(head)
        );
    }
    for (n, event) in trace.events.iter().enumerate() {
        push_box(&mut out, n, event.column, &event.text);
        let y = HEAD + ROW * n + 20;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
            LEFT - 4,
            n + 1
        );
        let beside = format!("{} {}", event.locks, event.state);
        if has_state(event) {
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{y}\" fill=\"#555\">{}</text>",
                columns + 10,
                escape(beside.trim())
            );
        }
    }
    let (what, colour) = match &trace.end {
        End::Good => (
            "nothing was read, lost or written that must not have been",
            "#060",
        ),
        End::Bad(what) => (what.as_str(), "#b00"),
    };
    let style = format!("font-size=\"13\" fill=\"{colour}\"");
    push_lines(&mut out, foot + 18, &style, what);
    out.push_str("</svg>\n");
    out
}

/// At most two lines of text at the left margin.
fn push_lines(out: &mut String, y: usize, style: &str, text: &str) {
    for (n, line) in wrap(text, LINE).iter().take(2).enumerate() {
        let y = y + 16 * n;
        let line = escape(line);
        let _ = writeln!(out, "<text x=\"10\" y=\"{y}\" {style}>{line}</text>");
    }
}

fn push_box(out: &mut String, row: usize, column: usize, text: &str) {
    let (x, y) = (LEFT + COLUMN * column + 6, HEAD + ROW * row);
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"4\" fill=\"#eef\" stroke=\"#88a\"/>",
        COLUMN - 12,
        ROW - 8
    );
    for (n, line) in wrap(text, 30).iter().take(3).enumerate() {
        let (x, y) = (LEFT + COLUMN * column + COLUMN / 2, y + 13 + 11 * n);
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
            escape(line)
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::RACES;

    #[test]
    fn each_step_stands_in_the_column_of_its_thread() {
        let trace = RACES[0].drawn();
        let text = text(&trace);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[2].contains("large write") && lines[2].contains("| disk"),
            "{text}"
        );
        let flusher = lines[2].find("flusher").map(|at| at..at + 4);
        let asked = lines
            .iter()
            .find(|line| line.contains("writes page 1"))
            .map(|line| line.find("writes page"));
        assert_eq!(asked.flatten(), flusher.map(|at| at.start), "{text}");
        assert!(text.ends_with(&format!("BAD: {}\n", RACES[0].harm)));
    }

    #[test]
    fn a_picture_is_well_formed_whatever_the_texts_hold() {
        let mut trace = RACES[0].drawn();
        trace.end = End::Bad("a < b & c".to_owned());
        let svg = svg(&trace);
        assert!(svg.contains("a &lt; b &amp; c"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.ends_with("</svg>\n"));
    }

    #[test]
    fn words_are_wrapped_and_never_lost() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("incomprehensible", 4), ["incomprehensible"]);
    }
}
