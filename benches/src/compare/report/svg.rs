//! The pictures: curves over block size, and the budgets as bars. SVG only, so that nothing of the
//! host (fonts, libraries) is needed.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::compare::Role;
use crate::compare::budgets::Judged;
use crate::compare::sample::GroupResult;

type Failed = Box<dyn std::error::Error>;

const WIDTH: u32 = 860;
const HEIGHT: u32 = 420;
const COLORS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x5f, 0xa8),
    RGBColor(0xc4, 0x4e, 0x1c),
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0x8a, 0x4f, 0xb0),
    RGBColor(0x9a, 0x7d, 0x0a),
    RGBColor(0x70, 0x70, 0x70),
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
            .x_labels((x1 - x0) as usize + 1)
            .x_desc("bytes of a call")
            .y_desc(unit)
            .x_label_formatter(&|x| super::bytes(x.exp2()))
            .y_label_formatter(&|y| format!("{y}"))
            .draw()?;
        for (n, curve) in curves.iter().enumerate() {
            draw_curve(&mut chart, curve, COLORS[n % COLORS.len()])?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc))
            .position(SeriesLabelPosition::LowerRight)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
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

/// The smallest and the largest value, if there are any.
fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |found: Option<(f64, f64)>, v| {
        Some(found.map_or((v, v), |(low, high)| (low.min(v), high.max(v))))
    })
}

/// The budgets as bars: measured over bound, turned so that below 1 is ahead.
///
/// # Errors
///
/// No budget was measured, or what plotters says.
pub fn bars(judged: &[Judged]) -> Result<String, Failed> {
    let rows: Vec<_> = judged
        .iter()
        .filter_map(|j| Some((j, used(j, j.measured?.median))))
        .collect();
    let most = rows.iter().map(|r| r.1).fold(f64::NAN, f64::max);
    if rows.is_empty() {
        return Err("no budget was measured".into());
    }
    let height = 60 + 26 * u32::try_from(rows.len())?;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .x_label_area_size(34)
            .margin_left(430)
            .build_cartesian_2d(0f64..most.max(1.2) * 1.1, 0f64..rows.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc("part of the budget used; 1 is the bound")
            .draw()?;
        for (n, (budget, used)) in rows.iter().enumerate() {
            draw_bar(&mut chart, &root, rows.len() - n, budget, *used)?;
        }
        let line = [(1.0, 0.0), (1.0, rows.len() as f64)];
        chart.draw_series([PathElement::new(line, BLACK.stroke_width(1))])?;
        root.present()?;
    }
    Ok(svg)
}

/// The part of the budget that is used.
fn used(budget: &Judged, measured: f64) -> f64 {
    if budget.at_least {
        budget.bound / measured
    } else {
        (measured / budget.bound).max(0.0)
    }
}

type Bars<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn draw_bar(
    chart: &mut Bars<'_, '_>,
    root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    row: usize,
    budget: &Judged,
    used: f64,
) -> Result<(), Failed> {
    let color = match (used <= 1.0, budget.close) {
        (true, _) => RGBColor(0x2e, 0x8b, 0x57),
        (false, true) => RGBColor(0xd9, 0x9a, 0x1c),
        (false, false) => RGBColor(0xc4, 0x3c, 0x2c),
    };
    let top = row as f64;
    let bar = Rectangle::new([(0.0, top - 0.8), (used, top - 0.2)], color.filled());
    chart.draw_series([bar])?;
    let (_, y) = chart.backend_coord(&(0.0, top - 0.5));
    let style = ("sans-serif", 13).into_font().color(&BLACK);
    root.draw_text(budget.text, &style, (12, y - 7))?;
    Ok(())
}
