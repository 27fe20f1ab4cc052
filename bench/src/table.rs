//! The results as markdown, printed or put into pages.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use crate::results::{Machine, Results, extremes, median};
use crate::tools::Tool;
use crate::worktrees::{Day, steps};

/// Makes a table of the documents of all filesystems.
type Make = fn(&[Results]) -> String;

/// By the name that pages give them.
const TABLES: [(&str, Make); 5] = [
    ("machine", machine),
    ("summary", summary),
    ("compare", compare),
    ("copies", copies),
    ("worktrees", worktrees),
];

/// Prints all tables, or puts those that `pages` name into them.
pub(crate) fn write(all: &[Results], pages: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    if pages.is_empty() {
        for (name, make) in TABLES {
            println!("<!-- bench:{name} -->\n{}<!-- /bench -->\n", make(all));
        }
    }
    for page in pages {
        let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", page.display());
        let text = fs::read_to_string(page).map_err(|error| fault(&error))?;
        let text = fill(&text, all).map_err(|error| fault(&error))?;
        fs::write(page, text).map_err(|error| fault(&error))?;
    }
    Ok(())
}

/// Replaces each table between its marks in `page`.
fn fill(page: &str, all: &[Results]) -> Result<String, String> {
    const OPEN: &str = "<!-- bench:";
    const SHUT: &str = " -->\n";
    const CLOSE: &str = "<!-- /bench -->";
    let mut parts = page.split(OPEN);
    let mut filled = parts.next().unwrap_or_default().to_owned();
    let mut tables = 0;
    for part in parts {
        let (name, rest) = part.split_once(SHUT).ok_or("a mark that does not end its line")?;
        let (_, rest) = rest.split_once(CLOSE).ok_or(format!("bench:{name} is not closed"))?;
        let (_, make) = TABLES
            .into_iter()
            .find(|(known, _)| *known == name)
            .ok_or(format!("there is no table {name}"))?;
        filled += &format!("{OPEN}{name}{SHUT}{}{CLOSE}{rest}", make(all));
        tables += 1;
    }
    if tables == 0 { Err(format!("it has no {OPEN}NAME{}", SHUT.trim_end())) } else { Ok(filled) }
}

fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head);
    text += &format!("|---|{}\n", "---:|".repeat(head.len().saturating_sub(1)));
    rows.iter().for_each(|row| text += &line(row));
    text
}

/// With three digits.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.0995 => format!("{:.0} ms", seconds * 1000.0),
        ..9.995 => format!("{seconds:.2} s"),
        ..99.95 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn bytes(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        ..9.95e6 => format!("{:.1} MB", bytes / 1e6),
        ..9.995e8 => format!("{:.0} MB", bytes / 1e6),
        ..9.995e9 => format!("{:.2} GB", bytes / 1e9),
        _ => format!("{:.1} GB", bytes / 1e9),
    }
}

/// With a comma every three digits.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How many times as fast as `other` is `ours`.
fn times(other: Option<f64>, ours: Option<f64>) -> Option<String> {
    Some(format!("{:.1} ×", other? / ours?))
}

fn dash(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "–".to_owned())
}

fn names(all: &[Results]) -> impl Iterator<Item = String> {
    all.iter().map(|results| results.machine.filesystem_name().to_owned())
}

fn described(machine: &Machine) -> String {
    format!(
        "{} processors ({}), {} memory, Linux {}",
        machine.processors,
        machine.processor,
        bytes(machine.memory_bytes),
        // Without the suffix of a distribution.
        machine.kernel.split('-').next().unwrap_or_default()
    )
}

fn machine(all: &[Results]) -> String {
    let Some(last) = all.last() else { return String::new() };
    let runs = || all.iter().flat_map(Results::runs);
    let days: BTreeSet<&str> = runs().map(|(_, day)| day).collect();
    // Each machine once, in the order of the days.
    let mut by_day: Vec<_> = runs().map(|(machine, day)| (day, described(machine))).collect();
    by_day.sort();
    let mut machines: Vec<String> = Vec::new();
    for (_, machine) in by_day {
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    let mut programs = BTreeMap::new();
    for (machine, _) in runs() {
        for (name, version) in &machine.programs {
            programs.entry(name).or_insert_with(BTreeSet::new).insert(version.as_str());
        }
    }
    let listed = |texts: BTreeSet<&str>| texts.into_iter().collect::<Vec<_>>().join(" and ");
    let filesystems = all.iter().map(|results| {
        let mount = |Machine { mount_options, loop_image, .. }: &Machine| {
            let image = if *loop_image { ", a loop image" } else { "" };
            format!("`{mount_options}`{image}")
        };
        let mounts: BTreeSet<String> = results.runs().map(|(machine, _)| mount(machine)).collect();
        let mounts = mounts.into_iter().collect::<Vec<_>>().join("; or ");
        format!("{} ({mounts})", results.machine.filesystem_name())
    });
    let programs =
        programs.into_iter().map(|(name, versions)| format!("{name} {}", listed(versions)));
    let census = &last.tree.census;
    let rows = [
        ("machine", machines.join("; ")),
        ("filesystems", filesystems.collect::<Vec<_>>().join("; ")),
        (
            "tree",
            format!(
                "{}: {} files, {} entries, {}",
                last.tree.name,
                count(census.regular_files),
                count(census.entries),
                bytes(census.content_bytes)
            ),
        ),
        ("programs", programs.collect::<Vec<_>>().join(", ")),
        ("measured", listed(days)),
    ];
    let rows = rows.map(|(what, text)| vec![what.to_owned(), text]);
    markdown(&[String::new(), String::new()], &rows).replace("---:|", "---|")
}

/// calve against the others; the first table that anybody reads.
fn summary(all: &[Results]) -> String {
    type Cell = fn(&Results) -> Option<String>;
    fn tool(results: &Results, tool: Tool) -> Option<f64> {
        results.compare.as_ref()?.seconds_per_copy(tool)
    }
    fn against(results: &Results, other: Tool) -> Option<String> {
        times(tool(results, other), tool(results, Tool::Calve))
    }
    fn steps(results: &Results, other: &str, ours: &str) -> Option<String> {
        let day = results.worktrees.as_ref()?;
        times(day.seconds(other), day.seconds(ours))
    }
    fn disk(results: &Results, wanted: Tool) -> Option<u64> {
        let tools = &results.compare.as_ref()?.tools;
        let report = tools.iter().find(|report| report.tool == wanted)?;
        report.cannot.is_none().then_some(report.disk_per_copy_bytes)
    }
    fn eight(results: &Results, wanted: Tool) -> Option<f64> {
        let series = &results.copies.as_ref()?.series;
        let series = series.iter().find(|series| series.tool == wanted)?;
        median(&series.points.iter().find(|at| at.copies == 8)?.run_seconds)
    }
    let rows: [(&str, Cell); 12] = [
        ("`calve clone` against `cp -a --reflink=always` (`never` without reflinks)", |r| {
            let (_, yard) = r.compare.as_ref()?.yardstick()?;
            times(Some(yard), tool(r, Tool::Calve))
        }),
        ("… against `xcp -r`", |r| against(r, Tool::Xcp)),
        ("… against `rsync -a`", |r| against(r, Tool::Rsync)),
        ("`calve clone --reflink never` against `cp -a --reflink=never`", |r| {
            times(tool(r, Tool::CpCopy), tool(r, Tool::CalveNever))
        }),
        ("`calve clone -n 8` against eight of `cp -a --reflink=always`", |r| {
            times(eight(r, Tool::CpReflink), eight(r, Tool::CalveN))
        }),
        ("`calve start -n 8` against eight of `cp -a --reflink=always`", |r| {
            times(eight(r, Tool::CpReflink), eight(r, Tool::CalveStart))
        }),
        ("`calve start` of a worktree against `git worktree add`", |r| {
            steps(r, self::steps::GIT_WORKTREE, self::steps::START_FIRST)
        }),
        ("… of a second worktree of the same snapshot", |r| {
            steps(r, self::steps::GIT_WORKTREE, self::steps::START)
        }),
        ("`calve status` against `git status`, both clean", |r| {
            steps(r, self::steps::GIT_STATUS, self::steps::STATUS)
        }),
        ("disk of a clone; of a copy by cp", |r| {
            let cp = disk(r, Tool::CpReflink).or_else(|| disk(r, Tool::CpCopy))?;
            Some(format!("{}; {}", bytes(disk(r, Tool::Calve)?), bytes(cp)))
        }),
        ("memory of `calve clone`", |r| {
            let tools = &r.compare.as_ref()?.tools;
            let report = tools.iter().find(|report| report.tool == Tool::Calve)?;
            Some(bytes(report.peak_memory_bytes))
        }),
        ("disk of the store; of a worktree", |r| {
            let Day { store_disk_bytes, worktree_disk_bytes, .. } = r.worktrees.as_ref()?;
            Some(format!("{}; {}", bytes(*store_disk_bytes), bytes(*worktree_disk_bytes)))
        }),
    ];
    let head: Vec<_> = std::iter::once("times as fast".to_owned()).chain(names(all)).collect();
    let rows = rows.map(|(what, cell)| {
        std::iter::once(what.to_owned()).chain(all.iter().map(|r| dash(cell(r)))).collect()
    });
    markdown(&head, &rows)
}

fn compare(all: &[Results]) -> String {
    let mut text = String::new();
    for results in all {
        let Some(comparison) = &results.compare else { continue };
        let rounds = comparison.rounds;
        let head = [
            format!("{}, rounds: {rounds}", results.machine.filesystem_name()),
            "median".to_owned(),
            "min–max".to_owned(),
            "calve is".to_owned(),
            "processor".to_owned(),
            "write-back".to_owned(),
            "disk".to_owned(),
            "memory".to_owned(),
        ];
        let ours = comparison.seconds_per_copy(Tool::Calve);
        let rows = comparison.tools.iter().map(|report| {
            let name = format!("`{}`", report.tool);
            let Some((least, largest)) =
                extremes(&report.run_seconds).filter(|_| report.cannot.is_none())
            else {
                return [name, "cannot".to_owned()]
                    .into_iter()
                    .chain(std::iter::repeat_n("–".to_owned(), 6))
                    .collect();
            };
            let ratio = times(comparison.seconds_per_copy(report.tool), ours);
            vec![
                name,
                dash(median(&report.run_seconds).map(seconds)),
                format!("{least:.2}–{largest:.2} s"),
                if report.tool == Tool::Calve { String::new() } else { dash(ratio) },
                dash(median(&report.cpu_seconds).map(seconds)),
                dash(median(&report.flush_seconds).map(seconds)),
                bytes(report.disk_per_copy_bytes),
                bytes(report.peak_memory_bytes),
            ]
        });
        let rows: Vec<_> = rows.collect();
        text += &markdown(&head, &rows);
        text.push('\n');
    }
    trimmed(text)
}

/// The terminal shows this, too.
pub(crate) fn copies(all: &[Results]) -> String {
    let mut text = String::new();
    for results in all {
        let Some(copies) = &results.copies else { continue };
        let mut numbers: Vec<u32> =
            copies.series.iter().flat_map(|series| &series.points).map(|at| at.copies).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let head = |what: &str| -> Vec<String> {
            let first = format!("{}, {what}", results.machine.filesystem_name());
            let numbers = numbers.iter().map(|&number| match number {
                1 => "1 copy".to_owned(),
                _ => format!("{number} copies"),
            });
            std::iter::once(first).chain(numbers).collect()
        };
        let (mut times, mut disks) = (Vec::new(), Vec::new());
        for series in &copies.series {
            let name = format!("`{}`", series.tool);
            let (mut time, mut disk) = (vec![name.clone()], vec![name]);
            for number in &numbers {
                let at = series.points.iter().find(|at| at.copies == *number);
                let at = at.filter(|_| series.cannot.is_none());
                time.push(dash(at.and_then(|at| median(&at.run_seconds)).map(seconds)));
                disk.push(dash(at.map(|at| bytes(at.disk_bytes))));
            }
            times.push(time);
            disks.push(disk);
            if let (Some(setup), Some(store)) =
                (median(&series.setup_seconds), series.setup_disk_bytes)
            {
                let row = |what: &str, cell| {
                    let rest = std::iter::repeat_n(String::new(), numbers.len().saturating_sub(1));
                    [what.to_owned(), cell].into_iter().chain(rest).collect()
                };
                times.push(row("… and before, once: `init`, `snapshot`", seconds(setup)));
                disks.push(row("… of which the store", bytes(store)));
            }
        }
        let rounds = copies.rounds;
        text += &markdown(&head(&format!("time, medians; rounds: {rounds}")), &times);
        text.push('\n');
        text += &markdown(&head("new disk"), &disks);
        text.push('\n');
    }
    trimmed(text)
}

fn worktrees(all: &[Results]) -> String {
    let mut known: Vec<&str> = Vec::new();
    let days = || all.iter().filter_map(|results| results.worktrees.as_ref());
    for step in days().flat_map(|day| &day.steps) {
        if !known.contains(&&*step.step) {
            known.push(&step.step);
        }
    }
    let cells = |cell: &dyn Fn(&Day) -> Option<String>| -> Vec<String> {
        all.iter().map(|results| dash(results.worktrees.as_ref().and_then(cell))).collect()
    };
    let row = |what: &str, cells: Vec<String>| -> Vec<String> {
        std::iter::once(what.to_owned()).chain(cells).collect()
    };
    let mut rows: Vec<_> = known
        .into_iter()
        .map(|step| row(step, cells(&|day| day.seconds(step).map(seconds))))
        .collect();
    rows.push(row(
        "the first snapshot against `b3sum` and a clone together",
        cells(&|day| {
            let parts = day.seconds(steps::B3SUM)? + day.seconds(steps::CLONE)?;
            Some(format!("{:.2}", day.seconds(steps::INIT)? / parts))
        }),
    ));
    rows.push(row(
        "`start` against `cp -a --reflink=always`",
        cells(&|day| times(day.seconds(steps::CP), day.seconds(steps::START_FIRST))),
    ));
    rows.push(row("disk: the store", cells(&|day| Some(bytes(day.store_disk_bytes)))));
    rows.push(row("disk: a worktree", cells(&|day| Some(bytes(day.worktree_disk_bytes)))));
    let rounds = days().map(|day| day.rounds).min().unwrap_or_default();
    let head: Vec<_> =
        std::iter::once(format!("medians; rounds: {rounds}")).chain(names(all)).collect();
    markdown(&head, &rows)
}

/// Leaves one line break at the end.
fn trimmed(mut text: String) -> String {
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::{bytes, count, fill, seconds};

    #[test]
    fn numbers_are_written_for_people() {
        let times = [
            (0.0041, "4 ms"),
            (0.2, "0.20 s"),
            (9.994, "9.99 s"),
            (9.996, "10.0 s"),
            (123.4, "123 s"),
        ];
        for (number, expected) in times {
            assert_eq!(seconds(number), expected);
        }
        let sizes = [
            (0, "0.0 MB"),
            (52_400_000, "52 MB"),
            (1_240_000_000, "1.24 GB"),
            (11_240_000_000, "11.2 GB"),
        ];
        for (number, expected) in sizes {
            assert_eq!(bytes(number), expected);
        }
        for (number, expected) in
            [(7, "7"), (999, "999"), (78_579, "78,579"), (1_000_000, "1,000,000")]
        {
            assert_eq!(count(number), expected);
        }
    }

    #[test]
    fn only_what_is_between_the_marks_of_a_page_is_made_anew() {
        let page = "a\n<!-- bench:copies -->\nold\n<!-- /bench -->\nb\n";
        let filled = fill(page, &[]).unwrap();
        assert_eq!(filled, "a\n<!-- bench:copies -->\n\n<!-- /bench -->\nb\n");
        assert_eq!(fill(&filled, &[]).unwrap(), filled);
        let rows = [
            ("nothing", "it has no <!-- bench:NAME -->"),
            ("<!-- bench:copies -->\n", "bench:copies is not closed"),
            ("<!-- bench:what -->\n<!-- /bench -->", "there is no table what"),
            ("<!-- bench:copies --> <!-- /bench -->", "a mark that does not end its line"),
        ];
        for (page, expected) in rows {
            assert_eq!(fill(page, &[]), Err(expected.to_owned()), "{page}");
        }
    }
}
