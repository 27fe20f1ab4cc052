//! Time and disk against the number of copies, an SVG for each filesystem.
//!
//! A picture carries both of its colour schemes, and its own background, so that it can be read on
//! a page of either kind: the colours that are drawn are the light ones, and a style at the top
//! replaces them where the reader's scheme is dark.

use std::error::Error;
use std::fs;
use std::path::Path;

use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::copies::{Copies, Series};
use crate::results::{Results, median};
use crate::table;
use crate::tools::Tool;

/// A README's column is some 830 wide.
const SIZE: (u32, u32) = (830, 360);
/// The space for a panel's labels, right of the lines.
const LABELS_WIDTH: i32 = 180;
const LINE_HEIGHT: i32 = 17;
/// The average letter at the size of the labels.
const LETTER_WIDTH: f64 = 6.2;

/// A colour on a light page and on a dark one.
type Ink = (RGBColor, RGBColor);
const PAPER: Ink = (RGBColor(255, 255, 255), RGBColor(13, 17, 23));
const TEXT: Ink = (RGBColor(31, 35, 40), RGBColor(230, 237, 243));
const FAINT: Ink = (RGBColor(101, 109, 118), RGBColor(139, 148, 158));
const GRID: Ink = (RGBColor(216, 222, 228), RGBColor(48, 54, 61));

/// The tools to draw, their names, and their colours. These are from Okabe and Ito's palette, which
/// colour-blind readers can tell apart.
const LINES: [(Tool, &str, Ink, u32); 7] = [
    (Tool::CalveStart, "calve start", (RGBColor(213, 94, 0), RGBColor(255, 138, 61)), 4),
    (Tool::CalveN, "calve clone", (RGBColor(0, 96, 160), RGBColor(86, 180, 233)), 4),
    (Tool::CpReflink, "cp --reflink", (RGBColor(122, 106, 18), RGBColor(214, 194, 94)), 2),
    (Tool::CpCopy, "cp -a", (RGBColor(122, 106, 19), RGBColor(214, 194, 95)), 2),
    (Tool::Xcp, "xcp -r", (RGBColor(0, 128, 94), RGBColor(46, 190, 148)), 2),
    (Tool::Rsync, "rsync -a", (RGBColor(168, 84, 134), RGBColor(214, 138, 184)), 2),
    (Tool::GitWorktree, "git worktree add", (RGBColor(87, 96, 106), RGBColor(158, 167, 177)), 2),
];

/// Writes `FILESYSTEM.svg` for each that has copies in its results.
pub(crate) fn write(all: &[Results], out: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let mut drawn = 0;
    for results in all {
        let Some(copies) = &results.copies else { continue };
        let file = out.join(format!("{}.svg", results.machine.filesystem));
        fs::write(&file, picture(results, copies)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        println!("{}", file.display());
        drawn += 1;
    }
    if drawn == 0 { Err("no file has copies in it; see --copies".into()) } else { Ok(()) }
}

/// One tool's line.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    width: u32,
    points: Vec<(u32, f64)>,
    /// The value of the last point.
    value: String,
}

fn picture(results: &Results, copies: &Copies) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&PAPER.0)?;
        let census = &results.tree.census;
        let title = format!(
            "{} on {}: {} files, {}",
            results.tree.name,
            results.machine.filesystem_name(),
            table::count(census.regular_files),
            table::bytes(census.content_bytes)
        );
        text(&root, &title, (14, 20), 18, TEXT, HPos::Left)?;
        let (_, body) = root.split_vertically(34);
        let (left, right) = body.split_horizontally(SIZE.0 / 2);
        let seconds = |series: &Series| {
            let at = series.points.iter();
            at.filter_map(|at| Some((at.copies, median(&at.run_seconds)?))).collect()
        };
        panel(&left, "seconds until N copies are there", copies, &seconds, &table::seconds)?;
        #[expect(clippy::cast_precision_loss, reason = "a picture")]
        let gigabytes = |series: &Series| {
            let at = series.points.iter();
            at.map(|at| (at.copies, at.disk_bytes as f64 / 1e9)).collect()
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was bytes")]
        let bytes = |gigabytes| table::bytes((gigabytes * 1e9) as u64);
        panel(&right, "gigabytes of new disk for N copies", copies, &gigabytes, &bytes)?;
        root.present()?;
    }
    with_dark_scheme(&svg)
}

/// The position of a chart's point in an area.
type Place<'a> = &'a dyn Fn(&(u32, f64)) -> (i32, i32);

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn panel(
    area: &Area<'_>,
    title: &str,
    copies: &Copies,
    points: &dyn Fn(&Series) -> Vec<(u32, f64)>,
    value: &dyn Fn(f64) -> String,
) -> Result<(), Box<dyn Error>> {
    let lines: Vec<Line<'_>> = copies
        .series
        .iter()
        .filter(|series| series.cannot.is_none())
        .filter_map(|series| {
            let (_, name, ink, width) = LINES.into_iter().find(|line| line.0 == series.tool)?;
            let points = points(series);
            let value = value(points.last()?.1);
            Some(Line { name, color: ink.0, width, points, value })
        })
        .collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let mut numbers: Vec<u32> = all().map(|point| point.0).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let (Some(&last), Some(top)) =
        (numbers.last(), all().map(|point| point.1).max_by(f64::total_cmp))
    else {
        return Ok(());
    };

    text(area, title, (14, 8), 15, FAINT, HPos::Left)?;
    let mut chart = ChartBuilder::on(area)
        .margin_top(26)
        .margin_bottom(8)
        .margin_left(8)
        .margin_right(LABELS_WIDTH)
        .x_label_area_size(40)
        .y_label_area_size(36)
        .build_cartesian_2d((0..last).with_key_points(numbers), 0.0..top * 1.06)?;
    let small = |ink: Ink| ("sans-serif", 15).into_font().color(&ink.0);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.0)
        .axis_style(GRID.0)
        .label_style(small(FAINT))
        .x_desc("copies")
        .axis_desc_style(small(FAINT))
        .y_labels(6)
        .x_label_formatter(&|number| number.to_string())
        .y_label_formatter(&|number| axis_number(*number, top))
        .draw()?;
    // The thick ones last, so that they lie on top.
    for width in [2, 4] {
        for line in lines.iter().filter(|line| line.width == width) {
            let style = line.color.stroke_width(line.width);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
            let radius = line.width / 2 + 2;
            let dots = line.points.iter().map(|&at| Circle::new(at, radius, line.color.filled()));
            chart.draw_series(dots)?;
        }
    }

    // Backend coordinates are those of the whole picture; drawing on an area takes its own.
    let (from_x, from_y) = area.get_base_pixel();
    let at = |point: &(u32, f64)| {
        let (x, y) = chart.backend_coord(point);
        (x - from_x, y - from_y)
    };
    let (_, bottom) = at(&(0, 0.0));
    labels(area, &lines, last, &at, bottom)
}

/// Names each line at its end. Labels of lines that end at the right edge share a column, without
/// overlap, and a thin line leads to each. A line that ends earlier has its name where no other
/// line passes.
fn labels(
    area: &Area<'_>,
    lines: &[Line<'_>],
    last: u32,
    at: Place<'_>,
    bottom: i32,
) -> Result<(), Box<dyn Error>> {
    let end = |line: &Line<'_>| line.points.last().copied().unwrap_or_default();
    let (mut column, mut short): (Vec<&Line<'_>>, Vec<_>) =
        lines.iter().partition(|line| end(line).0 >= last);
    for lines in [&mut column, &mut short] {
        lines.sort_by(|one, other| end(one).1.total_cmp(&end(other).1).reverse());
    }
    let places: Vec<i32> = column.iter().map(|line| at(&end(line)).1).collect();
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred")]
    let width_of =
        |line: &Line<'_>| (LETTER_WIDTH * (line.name.len() + line.value.len() + 1) as f64) as i32;
    // A label may not cover these: lines, leader lines, and boxes of other labels.
    let mut segments: Vec<_> = lines
        .iter()
        .flat_map(|line| {
            line.points.windows(2).map(|pair| Segment { from: at(&pair[0]), to: at(&pair[1]) })
        })
        .collect();
    let mut taken: Vec<LabelBox> = Vec::new();
    for (line, y) in column.into_iter().zip(spread(&places, LINE_HEIGHT, bottom)) {
        let (end_x, end_y) = at(&end(line));
        let style = line.color.stroke_width(1);
        let lead = Segment { from: (end_x + 5, end_y), to: (end_x + 17, y) };
        area.draw(&PathElement::new([lead.from, lead.to], style))?;
        label(area, line, (end_x + 21, y))?;
        segments.push(lead);
        let left = end_x + 21;
        taken.push(LabelBox { left, right: left + width_of(line), middle: y });
    }
    for line in short {
        let (x, y) = at(&end(line));
        let width = width_of(line);
        // A label that is not directly beside its line's end has a leader line.
        let lead = |(left, middle): (i32, i32)| {
            let half = if (left..=left + width).contains(&x) { LINE_HEIGHT / 2 } else { 0 };
            let near = (x.clamp(left - 3, left + width + 3), y.clamp(middle - half, middle + half));
            let is_far = (x - near.0).abs() + (y - near.1).abs() > 2 * LINE_HEIGHT;
            is_far.then_some(Segment { from: (x, y), to: near })
        };
        let free = |&(left, middle): &(i32, i32)| {
            let own = LabelBox { left, right: left + width, middle };
            let covered = taken.iter().any(|other| {
                left < other.right
                    && other.left < own.right
                    && (middle - other.middle).abs() < LINE_HEIGHT
            });
            let leads = lead((left, middle));
            left > 44
                && (24..bottom - LINE_HEIGHT / 2).contains(&middle)
                && !covered
                && !segments.iter().any(|segment| crosses(*segment, own))
                && !leads.is_some_and(|lead| taken.iter().any(|other| crosses(lead, *other)))
        };
        let place = around(x, y, width).into_iter().find(free).unwrap_or((x + 10, y));
        taken.push(LabelBox { left: place.0, right: place.0 + width, middle: place.1 });
        let (top, bottom) = (place.1 - LINE_HEIGHT / 2, place.1 + LINE_HEIGHT / 2);
        let paper = [(place.0 - 2, top), (place.0 + width, bottom)];
        area.draw(&Rectangle::new(paper, PAPER.0.filled()))?;
        if let Some(lead) = lead(place) {
            area.draw(&PathElement::new([lead.from, lead.to], line.color.stroke_width(1)))?;
            segments.push(lead);
        }
        label(area, line, place)?;
    }
    Ok(())
}

type Pixel = (i32, i32);

#[derive(Clone, Copy)]
struct Segment {
    from: Pixel,
    to: Pixel,
}

/// The box of a label. All are of one height.
#[derive(Clone, Copy)]
struct LabelBox {
    left: i32,
    right: i32,
    middle: i32,
}

/// Whether a line passes through the box of a label.
fn crosses(line: Segment, label: LabelBox) -> bool {
    let (Segment { from: one, to: other }, LabelBox { left, right, middle }) = (line, label);
    let steps = (one.0 - other.0).abs().max((one.1 - other.1).abs()).max(1);
    (0..=steps).any(|step| {
        let x = one.0 + (other.0 - one.0) * step / steps;
        let y = one.1 + (other.1 - one.1) * step / steps;
        (left..=right).contains(&x) && (y - middle).abs() <= LINE_HEIGHT / 2 + 2
    })
}

/// The places for a label of this width around a point, the nearest first. If two are equally near,
/// the one to the right comes first.
fn around(x: i32, y: i32, width: i32) -> Vec<(i32, i32)> {
    let lefts = [x + 10, x + 30, x + 50, x - width / 2, x - width - 8, x - width - 28];
    let far = |place: &(i32, i32)| {
        let gap = (place.0 - x).max(x - place.0 - width).max(0);
        gap.pow(2) + (place.1 - y).pow(2)
    };
    let mut places: Vec<(i32, i32)> = lefts
        .into_iter()
        .flat_map(|left| (-24..=24).map(move |step| (left, y + step * 6)))
        .filter(|place| place.0 > x || place.0 + width < x || (place.1 - y).abs() >= 14)
        .collect();
    places.sort_by_key(far);
    places
}

/// The places, from top to bottom, moved so that they are `gap` apart and none is below `bottom`.
fn spread(places: &[i32], gap: i32, bottom: i32) -> Vec<i32> {
    let mut places = places.to_vec();
    for at in 1..places.len() {
        places[at] = places[at].max(places[at - 1] + gap);
    }
    let mut limit = bottom;
    for place in places.iter_mut().rev() {
        *place = (*place).min(limit);
        limit = *place - gap;
    }
    places
}

fn label(area: &Area<'_>, line: &Line<'_>, place: (i32, i32)) -> Result<(), Box<dyn Error>> {
    let ours = line.name.starts_with("calve");
    let style = if ours { FontStyle::Bold } else { FontStyle::Normal };
    let font = FontDesc::new(FontFamily::SansSerif, 15.0, style).color(&line.color);
    let words = format!("{} {}", line.name, line.value);
    area.draw(&Text::new(words, place, font.pos(Pos::new(HPos::Left, VPos::Center))))?;
    Ok(())
}

fn text(
    area: &Area<'_>,
    words: &str,
    place: (i32, i32),
    size: u32,
    ink: Ink,
    side: HPos,
) -> Result<(), Box<dyn Error>> {
    let font = ("sans-serif", size).into_font().color(&ink.0);
    area.draw(&Text::new(words.to_owned(), place, font.pos(Pos::new(side, VPos::Center))))?;
    Ok(())
}

fn axis_number(number: f64, top: f64) -> String {
    match top {
        ..0.1 => format!("{number:.3}"),
        ..1.0 => format!("{number:.2}"),
        ..8.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// The rule is above the attributes that name the light colours.
fn with_dark_scheme(svg: &str) -> Result<String, Box<dyn Error>> {
    let hex = |RGBColor(red, green, blue): RGBColor| format!("#{red:02X}{green:02X}{blue:02X}");
    let inks = [PAPER, TEXT, FAINT, GRID].into_iter().chain(LINES.map(|line| line.2));
    let rules: String = inks
        .flat_map(|(light, dark)| {
            ["fill", "stroke"]
                .map(|what| format!("[{what}=\"{}\"]{{{what}:{}}}\n", hex(light), hex(dark)))
        })
        .collect();
    let style = format!("<style>@media (prefers-color-scheme: dark) {{\n{rules}}}</style>\n");
    let (head, body) = svg.split_once(">\n").ok_or("plotters wrote no SVG")?;
    Ok(format!("{head}>\n{style}{body}"))
}

#[cfg(test)]
mod tests {
    use super::{spread, with_dark_scheme};

    #[test]
    fn labels_are_a_gap_apart_in_their_order_and_above_the_bottom() {
        let rows: [(&[i32], &[i32]); 6] = [
            (&[], &[]),
            (&[5], &[5]),
            (&[120], &[100]),
            (&[10, 50, 90], &[10, 50, 90]),
            (&[10, 12, 14], &[10, 27, 44]),
            (&[10, 98, 99, 100], &[10, 66, 83, 100]),
        ];
        for (places, expected) in rows {
            assert_eq!(spread(places, 17, 100), expected, "{places:?}");
        }
    }

    #[test]
    fn each_light_colour_has_a_dark_one_and_no_two_share_it_by_mistake() {
        let svg = with_dark_scheme("<svg>\n</svg>\n").unwrap();
        let selectors: Vec<_> = svg.lines().filter_map(|line| line.split_once('{')).collect();
        let rules = selectors.iter().filter(|(selector, _)| selector.starts_with('['));
        let mut known = std::collections::BTreeSet::new();
        for (selector, rule) in rules {
            assert!(known.insert(selector), "{selector} twice: {rule}");
        }
        assert_eq!(known.len(), 2 * (4 + super::LINES.len()));
    }
}
