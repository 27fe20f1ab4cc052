//! The stored measurements: one document for each filesystem, with every sample.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::compare::ToolReport;
use crate::copies::Copies;
use crate::measure::Census;
use crate::tools::Binaries;
use crate::worktrees::Day;

/// One run of this program. A part that nobody asked for is absent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The form of this document.
    pub(crate) version: u32,
    /// The day, in UTC.
    pub(crate) measured: String,
    pub(crate) machine: Machine,
    /// The machine and the day of each part that was merged in from another file.
    #[serde(skip)]
    pub(crate) others: Vec<(Machine, String)>,
    pub(crate) tree: Tree,
    /// Each tool on its own.
    pub(crate) compare: Option<Comparison>,
    /// Time and disk against the number of copies.
    pub(crate) copies: Option<Copies>,
    /// The steps of a day with a store.
    pub(crate) worktrees: Option<Day>,
}

impl Results {
    /// The machine and the day of each run, the last one at the end.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (&Machine, &str)> {
        let others = self.others.iter().map(|(machine, day)| (machine, day.as_str()));
        others.chain([(&self.machine, self.measured.as_str())])
    }

    const VERSION: u32 = 1;

    pub(crate) fn new(machine: Machine, tree: Tree) -> Self {
        Self {
            version: Self::VERSION,
            measured: said("date", &["-u", "+%F"]).unwrap_or_default(),
            machine,
            others: Vec::new(),
            tree,
            compare: None,
            copies: None,
            worktrees: None,
        }
    }

    pub(crate) fn write(&self, file: &Path) -> Result<(), Box<dyn Error>> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()).into())
    }

    /// Reads one document for each filesystem, in the order of the first file about it. Several
    /// files may have parts of one filesystem, if they are about the same tree. A part in a later
    /// file replaces the part of an earlier one.
    pub(crate) fn read(files: &[impl AsRef<Path>]) -> Result<Vec<Self>, Box<dyn Error>> {
        let mut all: Vec<Self> = Vec::new();
        for file in files.iter().map(AsRef::as_ref) {
            let fault = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
            let text = fs::read_to_string(file).map_err(|error| fault(&error))?;
            let found: Self = serde_json::from_str(&text).map_err(|error| fault(&error))?;
            if found.version != Self::VERSION {
                return Err(
                    fault(&format!("version {}, not {}", found.version, Self::VERSION)).into()
                );
            }
            let same = |known: &&mut Self| known.machine.filesystem == found.machine.filesystem;
            let Some(known) = all.iter_mut().find(same) else {
                all.push(found);
                continue;
            };
            if known.tree != found.tree {
                return Err(fault(&"another tree than in the file before it").into());
            }
            known.compare = found.compare.or(known.compare.take());
            known.copies = found.copies.or(known.copies.take());
            known.worktrees = found.worktrees.or(known.worktrees.take());
            let machine = std::mem::replace(&mut known.machine, found.machine);
            let measured = std::mem::replace(&mut known.measured, found.measured);
            known.others.push((machine, measured));
        }
        Ok(all)
    }
}

/// The copied tree.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tree {
    /// For people.
    pub(crate) name: String,
    pub(crate) census: Census,
}

/// Each tool on its own.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) rounds: u32,
    /// The kernel's caches were emptied before each run.
    pub(crate) cold: bool,
    pub(crate) tools: Vec<ToolReport>,
}

/// The machine of the measurements.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processors: usize,
    pub(crate) processor: String,
    pub(crate) memory_bytes: u64,
    pub(crate) filesystem: String,
    pub(crate) mount_options: String,
    /// Whether the filesystem is in a file of another.
    pub(crate) loop_image: bool,
    /// For each program, its own description of its version.
    pub(crate) programs: BTreeMap<String, String>,
}

impl Machine {
    pub(crate) fn here(directory: &Path, binaries: &Binaries) -> Result<Self, Box<dyn Error>> {
        // statfs has one number for ext2, ext3 and ext4.
        let place = directory.to_string_lossy();
        let mount =
            |what| said("findmnt", &["-n", "-o", what, "-T", &place]).ok_or("findmnt says nothing");
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib: u64 = field(&memory, "MemTotal")
            .and_then(|kib| kib.strip_suffix(" kB")?.parse().ok())
            .unwrap_or_default();
        let mut programs = BTreeMap::new();
        for (name, program) in [
            ("calve", Some(binaries.calve())),
            ("xcp", binaries.xcp()),
            ("cp", Some(Path::new("cp"))),
            ("rsync", Some(Path::new("rsync"))),
            ("git", Some(Path::new("git"))),
            ("b3sum", Some(Path::new("b3sum"))),
        ] {
            let version = program.and_then(|program| said(program, &["--version"]));
            if let Some(version) = version {
                let version = version.split_whitespace().find(|word| {
                    word.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit())
                });
                programs.insert(name.to_owned(), version.unwrap_or("?").to_owned());
            }
        }
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            processors: std::thread::available_parallelism()?.get(),
            processor: field(&cpu, "model name").unwrap_or_default(),
            memory_bytes: memory_kib * 1024,
            filesystem: mount("FSTYPE")?,
            mount_options: mount("OPTIONS")?,
            loop_image: mount("SOURCE")?.starts_with("/dev/loop"),
            programs,
        })
    }

    /// The name as its authors write it.
    pub(crate) fn filesystem_name(&self) -> &str {
        match &*self.filesystem {
            "xfs" => "XFS",
            other => other,
        }
    }
}

/// The first line a program writes.
fn said(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next()?.trim().to_owned())
}

/// The middle value, or the mean of the two middle ones.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[middle - 1], upper) })
}

/// The least and the largest; nothing of nothing.
pub(crate) fn extremes(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let largest = values.iter().copied().max_by(f64::total_cmp)?;
    Some((least, largest))
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
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
