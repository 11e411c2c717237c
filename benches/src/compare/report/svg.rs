//! The pictures: curves over block size, and the budgets as bars. SVG only, so that nothing of the
//! host (fonts, libraries) is needed.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::escape;
use crate::compare::Role;
use crate::compare::budgets::Judged;
use crate::compare::sample::{GroupResult, Spread};

type Failed = Box<dyn std::error::Error>;

const WIDTH: u32 = 860;
const HEIGHT: u32 = 420;
const COLORS: [RGBColor; 6] = [
    RGBColor(0x3b, 0x82, 0xd0),
    RGBColor(0xd8, 0x62, 0x2e),
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0xa8, 0x6f, 0xd0),
    RGBColor(0x9a, 0x7d, 0x0a),
    RGBColor(0x88, 0x88, 0x88),
];

/// One line of a picture: `(x, value)` in ascending order.
struct Curve {
    name: &'static str,
    role: Role,
    points: Vec<(f64, f64)>,
}

/// The names of the pictures that the groups ask for, in their order.
#[must_use]
pub fn pictures(groups: &[GroupResult]) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for plot in groups.iter().filter_map(|g| g.plot.as_ref()) {
        if !names.contains(&plot.picture) {
            names.push(plot.picture);
        }
    }
    names
}

/// Throughput of the groups of one picture over the size of a call, both axes logarithmic.
///
/// # Errors
///
/// Nothing to draw, or what plotters says.
pub fn throughput(picture: &str, groups: &[GroupResult]) -> Result<String, Failed> {
    let groups: Vec<_> = groups
        .iter()
        .filter(|g| g.plot.as_ref().is_some_and(|p| p.picture == picture))
        .collect();
    let curves = curves(&groups, |g, side| {
        side.throughput(g.bytes).map(|b| b / (1u64 << 20) as f64)
    });
    draw(picture, "MiB/s", &curves)
}

/// Time of a call over its size.
///
/// # Errors
///
/// As [`throughput`].
pub fn latency(picture: &str, groups: &[GroupResult]) -> Result<String, Failed> {
    let groups: Vec<_> = groups
        .iter()
        .filter(|g| g.plot.as_ref().is_some_and(|p| p.picture == picture))
        .collect();
    let curves = curves(&groups, |_, side| side.ns.map(|ns| ns.median / 1e3));
    draw(picture, "µs for one operation", &curves)
}

fn curves(
    groups: &[&GroupResult],
    value: impl Fn(&GroupResult, &crate::compare::sample::SideResult) -> Option<f64>,
) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for group in groups {
        let Some(plot) = &group.plot else { continue };
        for side in &group.sides {
            let Some(y) = value(group, side) else {
                continue;
            };
            let at = curves.iter().position(|c| c.name == side.name);
            let at = at.unwrap_or_else(|| {
                curves.push(Curve {
                    name: side.name,
                    role: side.role,
                    points: Vec::new(),
                });
                curves.len() - 1
            });
            // Sizes are powers of two: so are the marks of the axis.
            curves[at].points.push((plot.x.log2(), y));
        }
    }
    // A side of one group only is a point, not a curve.
    curves.retain(|c| c.points.len() > 1);
    curves
}

fn draw(title: &str, unit: &str, curves: &[Curve]) -> Result<String, Failed> {
    let points = || curves.iter().flat_map(|c| c.points.iter().copied());
    let (xs, ys) = (bounds(points().map(|p| p.0)), bounds(points().map(|p| p.1)));
    let ((x0, x1), (y0, y1)) = xs.zip(ys).ok_or("nothing was measured")?;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(76)
            .build_cartesian_2d(x0 - 0.1..x1 + 0.1, (y0 / 1.3..y1 * 1.3).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(0xee, 0xee, 0xee))
            .bold_line_style(RGBColor(0xcc, 0xcc, 0xcc))
            .max_light_lines(1)
            .y_labels(4)
            .label_style(("sans-serif", 15))
            .axis_desc_style(("sans-serif", 15))
            .x_labels((x1 - x0) as usize + 1)
            .x_desc("bytes of a call")
            .y_desc(unit)
            .x_label_formatter(&|x| super::bytes(x.exp2()).replace(".0 ", " "))
            .y_label_formatter(&|y| number(*y))
            .draw()?;
        for (n, curve) in curves.iter().enumerate() {
            draw_curve(&mut chart, curve, COLORS[n % COLORS.len()])?;
        }
        chart
            .configure_series_labels()
            .label_font(("sans-serif", 15))
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc))
            .position(SeriesLabelPosition::LowerRight)
            .draw()?;
        root.present()?;
    }
    Ok(themed(&svg))
}

type LogChart<'a, 'b> = ChartContext<
    'a,
    SVGBackend<'b>,
    Cartesian2d<RangedCoordf64, plotters::coord::combinators::LogCoord<f64>>,
>;

fn draw_curve(chart: &mut LogChart<'_, '_>, curve: &Curve, color: RGBColor) -> Result<(), Failed> {
    let width = if curve.role == Role::Ours { 3 } else { 1 };
    let style = color.stroke_width(width);
    chart
        .draw_series(LineSeries::new(curve.points.iter().copied(), style))?
        .label(curve.name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    chart.draw_series(
        curve
            .points
            .iter()
            .map(|&p| Circle::new(p, 3, color.filled())),
    )?;
    Ok(())
}

/// A mark of the vertical axis: no more digits than it has.
fn number(value: f64) -> String {
    if value >= 1.0 {
        format!("{value:.0}")
    } else {
        format!("{value}")
    }
}

/// The smallest and the largest value, if there are any.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |found: Option<(f64, f64)>, v| {
        Some(found.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
    })
}

/// The budgets as bars: measured over bound, turned so that left of 1 is ahead. The axis is
/// logarithmic and ends at an eighth and at four times the bound: a bar that goes on beyond has an
/// arrow. The line through a bar is the interval of its median.
///
/// # Errors
///
/// No budget was measured.
pub fn bars(judged: &[Judged]) -> Result<String, Failed> {
    let rows: Vec<_> = judged
        .iter()
        .filter_map(|j| Some((j, j.measured?)))
        .collect();
    if rows.is_empty() {
        return Err("no budget was measured".into());
    }
    let bottom = TOP + ROW * rows.len() as f64;
    let mut out = format!(
        "<svg class=\"bars\" viewBox=\"0 0 {BARS_WIDTH} {}\" role=\"img\" \
         aria-label=\"budgets as bars\">\n",
        bottom + 46.0
    );
    for &(label, at) in &MARKS {
        let x = place(at);
        let class = if at == 1.0 { "bound" } else { "grid" };
        out += &format!(
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>\n",
            bottom + 16.0
        );
    }
    for (n, (budget, measured)) in rows.iter().enumerate() {
        out += &bar(TOP + ROW * n as f64, budget, measured);
    }
    out += &format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">measured / bound, turned so that less is \
         better (logarithmic)</text>\n</svg>",
        (BARS_LEFT + BARS_RIGHT) / 2.0,
        bottom + 36.0
    );
    Ok(out)
}

const BARS_WIDTH: f64 = 1040.0;
/// Where the smallest and the largest ratio lie.
const BARS_LEFT: f64 = 470.0;
const BARS_RIGHT: f64 = 880.0;
const TOP: f64 = 8.0;
const ROW: f64 = 24.0;
const LEAST: f64 = 0.125;
const MOST: f64 = 4.0;
const MARKS: [(&str, f64); 6] = [
    ("1/8", 0.125),
    ("1/4", 0.25),
    ("1/2", 0.5),
    ("1", 1.0),
    ("2", 2.0),
    ("4", 4.0),
];

/// The horizontal place of a ratio that is on the axis.
fn place(ratio: f64) -> f64 {
    let part = (ratio.clamp(LEAST, MOST) / LEAST).ln() / (MOST / LEAST).ln();
    BARS_LEFT + part * (BARS_RIGHT - BARS_LEFT)
}

fn bar(top: f64, budget: &Judged, measured: &Spread) -> String {
    let ratio = used(budget, measured.median);
    let ends = [measured.least, measured.most].map(|end| place(used(budget, end)));
    let (from, to) = (place(1.0).min(place(ratio)), place(1.0).max(place(ratio)));
    let (middle, class) = (top + ROW / 2.0, budget.verdict.name());
    let text = escape(budget.text);
    let mut out = format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>\
         <rect class=\"{class}\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\"/>\
         <line class=\"span\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
        BARS_LEFT - 18.0,
        middle + 4.0,
        middle - 6.0,
        (to - from).max(1.5),
        ends[0],
        ends[1],
    );
    // Which way it goes on.
    let beyond = match ratio {
        r if r < LEAST => Some(("\u{25c0}", BARS_LEFT - 14.0)),
        r if r > MOST => Some(("\u{25b6}", BARS_RIGHT + 3.0)),
        _ => None,
    };
    if let Some((arrow, x)) = beyond {
        let y = middle + 4.0;
        out += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{arrow}</text>");
    }
    let sign = if budget.at_least {
        "\u{2265}"
    } else {
        "\u{2264}"
    };
    out += &format!(
        "<text x=\"{:.1}\" y=\"{:.1}\">{:.2} ({sign} {})</text>\n",
        BARS_RIGHT + 22.0,
        middle + 4.0,
        measured.median,
        budget.bound
    );
    out
}

/// The part of the budget that is used.
fn used(budget: &Judged, measured: f64) -> f64 {
    let part = if budget.at_least {
        budget.bound / measured
    } else {
        measured / budget.bound
    };
    // Less than nothing is the best there is.
    part.max(0.0)
}

/// Colours of the page in place of fixed ones, which are for light pages only.
fn themed(svg: &str) -> String {
    [
        ("#FFFFFF", "var(--back,#fff)"),
        ("#000000", "var(--text,#000)"),
        ("#EEEEEE", "var(--faint,#eee)"),
        ("#CCCCCC", "var(--line,#ccc)"),
    ]
    .iter()
    .fold(svg.to_owned(), |svg, (fixed, by)| svg.replace(fixed, by))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::budgets::Verdict;

    fn judged(median: f64, at_least: bool) -> Judged {
        Judged {
            text: "a < b",
            group: "g",
            bound: 2.0,
            at_least,
            measured: Some(Spread::of(&[median])),
            floor: None,
            verdict: Verdict::Ahead,
            close: false,
            missing: None,
        }
    }

    #[test]
    fn a_bar_beyond_the_axis_is_cut_and_has_an_arrow() {
        let svg = bars(&[judged(40.0, true)]).expect("one row");
        assert!(svg.contains("\u{25c0}") && svg.contains("40.00 (\u{2265} 2)"));
        assert!(svg.contains("a &lt; b"));
        let svg = bars(&[judged(40.0, false)]).expect("one row");
        assert!(svg.contains("\u{25b6}"));
        let svg = bars(&[judged(2.2, false), judged(1.9, true)]).expect("two rows");
        assert!(!svg.contains("\u{25b6}") && !svg.contains("\u{25c0}"));
        assert!(bars(&[]).is_err());
    }

    #[test]
    fn equal_steps_of_the_ratio_are_equal_on_the_axis() {
        let step = place(0.5) - place(0.25);
        assert!((place(2.0) - place(1.0) - step).abs() < 1e-9);
        assert!((place(100.0) - BARS_RIGHT).abs() < 1e-9);
    }
}
