//! The comparison of single tools, as a table on a terminal.

use std::fmt;

use crate::results::{Comparison, Results, extremes, mebibytes, median};
use crate::tools::Tool;

impl Comparison {
    /// The tool that the others are compared with: cp's clone, or its copy where it cannot clone.
    pub(crate) fn yardstick(&self) -> Option<(Tool, f64)> {
        [Tool::CpReflink, Tool::CpCopy]
            .into_iter()
            .find_map(|wanted| Some((wanted, self.seconds_per_copy(wanted)?)))
    }

    /// The median.
    pub(crate) fn seconds_per_copy(&self, wanted: Tool) -> Option<f64> {
        let report = self.tools.iter().find(|report| report.tool == wanted)?;
        Some(median(&report.run_seconds)? / f64::from(wanted.copies()))
    }
}

/// Prints it for people.
pub(crate) struct Terminal<'a>(pub(crate) &'a Results, pub(crate) &'a Comparison);

impl fmt::Display for Terminal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(Results { machine, tree, .. }, comparison) = self;
        let yardstick = comparison.yardstick();
        writeln!(
            f,
            "{}: {} entries, {} files, {:.0} MiB; {}, Linux {}, {} processors; {} rounds, {} cache",
            tree.name,
            tree.census.entries,
            tree.census.regular_files,
            mebibytes(tree.census.content_bytes),
            machine.filesystem,
            machine.kernel,
            machine.processors,
            comparison.rounds,
            if comparison.cold { "cold" } else { "warm" },
        )?;
        writeln!(
            f,
            "{:<27}  {:>8}  {:>15}  {:>6}  {:>9}  {:>7}  {:>7}  {:>11}  {:>8}",
            "", "median", "min–max", "ratio", "files/s", "cpu", "flush", "disk/copy", "memory"
        )?;
        for report in &comparison.tools {
            let tool = report.tool;
            write!(f, "{tool:<27}  ")?;
            let (None, Some(seconds), Some((least, largest))) =
                (&report.cannot, median(&report.run_seconds), extremes(&report.run_seconds))
            else {
                let why = report.cannot.as_deref().unwrap_or("it never ran");
                // The cause is the last part, after the paths. The JSON has all of it.
                writeln!(f, "cannot: {}", why.rsplit(": ").next().unwrap_or(why))?;
                continue;
            };
            let per_copy = seconds / f64::from(tool.copies());
            let ratio =
                yardstick.map_or("-".to_owned(), |(_, yard)| format!("{:.2}", per_copy / yard));
            #[expect(clippy::cast_precision_loss, reason = "far fewer files than 2^52")]
            let files = tree.census.regular_files as f64;
            writeln!(
                f,
                "{seconds:>6.2} s  {:>15}  {ratio:>6}  {:>9.0}  {:>5.2} s  {:>5.2} s  {:>7.1} MiB  {:>4.0} MiB",
                format!("{least:.2}–{largest:.2} s"),
                files / per_copy,
                median(&report.cpu_seconds).unwrap_or_default(),
                median(&report.flush_seconds).unwrap_or_default(),
                mebibytes(report.disk_per_copy_bytes),
                mebibytes(report.peak_memory_bytes),
            )?;
        }
        match yardstick {
            Some((tool, _)) => {
                write!(f, "ratio: seconds per copy to those of `{tool}`; below 1 is faster")
            }
            None => write!(f, "ratio: neither kind of cp ran"),
        }
    }
}
