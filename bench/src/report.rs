//! The results, as a table and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::measure::{Census, Run};
use crate::tools::Tool;

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processors: usize,
    filesystem: String,
}

impl Machine {
    pub(crate) fn here(directory: &Path) -> std::io::Result<Self> {
        // statfs has one number for ext2, ext3 and ext4.
        let output =
            Command::new("findmnt").args(["-n", "-o", "FSTYPE", "-T"]).arg(directory).output()?;
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processors: std::thread::available_parallelism()?.get(),
            filesystem: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        })
    }
}

/// What one tool did, over all rounds.
#[derive(Debug, Serialize)]
pub(crate) struct ToolReport {
    pub(crate) tool: Tool,
    command: String,
    copies: u64,
    /// Why it cannot work here.
    pub(crate) cannot: Option<String>,
    /// By round, until the command returned.
    pub(crate) run_seconds: Vec<f64>,
    /// By round, of all its threads.
    pub(crate) cpu_seconds: Vec<f64>,
    /// By round, to write back what the command left in memory.
    pub(crate) flush_seconds: Vec<f64>,
    /// In the first round.
    pub(crate) disk_per_copy_bytes: u64,
    pub(crate) peak_memory_bytes: u64,
    median_seconds: Option<f64>,
    files_per_second: Option<f64>,
}

impl From<Tool> for ToolReport {
    fn from(tool: Tool) -> Self {
        Self {
            tool,
            command: tool.to_string(),
            copies: tool.copies(),
            cannot: None,
            run_seconds: Vec::new(),
            cpu_seconds: Vec::new(),
            flush_seconds: Vec::new(),
            disk_per_copy_bytes: 0,
            peak_memory_bytes: 0,
            median_seconds: None,
            files_per_second: None,
        }
    }
}

impl ToolReport {
    pub(crate) fn add(&mut self, run: &Run, flush_seconds: f64) {
        self.run_seconds.push(run.wall_seconds);
        self.cpu_seconds.push(run.cpu_seconds);
        self.flush_seconds.push(flush_seconds);
        self.peak_memory_bytes = self.peak_memory_bytes.max(run.peak_memory_bytes);
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    machine: Machine,
    source: PathBuf,
    census: Census,
    rounds: u32,
    cold: bool,
    pub(crate) tools: Vec<ToolReport>,
}

impl Comparison {
    pub(crate) fn new(
        machine: Machine,
        source: PathBuf,
        census: Census,
        rounds: u32,
        cold: bool,
        mut tools: Vec<ToolReport>,
    ) -> Self {
        for tool in &mut tools {
            tool.median_seconds = median(&tool.run_seconds);
            #[expect(clippy::cast_precision_loss, reason = "far fewer files than 2^52")]
            let files = (census.regular_files * tool.copies) as f64;
            tool.files_per_second = tool.median_seconds.map(|seconds| files / seconds);
        }
        Self { machine, source, census, rounds, cold, tools }
    }

    /// The tool that the others are compared with: cp's clone, or its copy where it cannot clone.
    fn yardstick(&self) -> Option<(Tool, f64)> {
        [Tool::CpReflink, Tool::CpCopy].into_iter().find_map(|wanted| {
            let tool = self.tools.iter().find(|tool| tool.tool == wanted)?;
            Some((wanted, tool.median_seconds?))
        })
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

fn mib(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yardstick = self.yardstick();
        writeln!(
            f,
            "{}: {} entries, {} files, {:.0} MiB; {}, Linux {}, {} processors; {} rounds, {} cache",
            self.source.display(),
            self.census.entries,
            self.census.regular_files,
            mib(self.census.content_bytes),
            self.machine.filesystem,
            self.machine.kernel,
            self.machine.processors,
            self.rounds,
            if self.cold { "cold" } else { "warm" },
        )?;
        writeln!(
            f,
            "{:<27}  {:>8}  {:>15}  {:>6}  {:>9}  {:>7}  {:>7}  {:>11}  {:>8}",
            "", "median", "min–max", "ratio", "files/s", "cpu", "flush", "disk/copy", "memory"
        )?;
        for tool in &self.tools {
            write!(f, "{:<27}  ", tool.tool)?;
            let (None, Some(seconds)) = (&tool.cannot, tool.median_seconds) else {
                let why = tool.cannot.as_deref().unwrap_or("it never ran");
                // The cause stands last, after the paths; all of it is in the JSON.
                writeln!(f, "cannot: {}", why.rsplit(": ").next().unwrap_or(why))?;
                continue;
            };
            let min = tool.run_seconds.iter().copied().fold(f64::INFINITY, f64::min);
            let max = tool.run_seconds.iter().copied().fold(0.0, f64::max);
            let copies = u32::try_from(tool.copies).map_or(f64::NAN, f64::from);
            let ratio = yardstick
                .map_or("-".to_owned(), |(_, yard)| format!("{:.2}", seconds / copies / yard));
            writeln!(
                f,
                "{:>6.2} s  {:>15}  {ratio:>6}  {:>9.0}  {:>5.2} s  {:>5.2} s  {:>7.1} MiB  {:>4.0} MiB",
                seconds,
                format!("{min:.2}–{max:.2} s"),
                tool.files_per_second.unwrap_or_default(),
                median(&tool.cpu_seconds).unwrap_or_default(),
                median(&tool.flush_seconds).unwrap_or_default(),
                mib(tool.disk_per_copy_bytes),
                mib(tool.peak_memory_bytes),
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

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_value_or_the_mean_of_the_two_middle_ones() {
        let rows: [(&[f64], Option<f64>); 4] = [
            (&[], None),
            (&[2.0], Some(2.0)),
            (&[4.0, 1.0], Some(2.5)),
            (&[9.0, 1.0, 3.0], Some(3.0)),
        ];
        for (values, expected) in rows {
            assert_eq!(median(values), expected, "{values:?}");
        }
    }
}
