//! The linker of a package manager: merges every wheel of a cache into one `site-packages`, several
//! at once.
//!
//! ```sh
//! cargo run --release -p calve --example site_packages -- CACHE SITE_PACKAGES [clone|copy|hardlink|symlink]
//! ```
//! CACHE holds one unpacked wheel in each folder, as `unzip -d CACHE/NAME NAME.whl` leaves it.
//! `docs/linker.md` says which mode to use, and why.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::iter;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use calve::{Cancel, CloneMode, CloneOptions, DestinationReport, ErrorKind, Existing, clone_tree};

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: site_packages CACHE SITE_PACKAGES [clone|copy|hardlink|symlink]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (cache, site, mode) = match arguments.as_slice() {
        [cache, site] => (cache, site, CloneMode::Clone),
        [cache, site, mode] => match mode.as_str() {
            "clone" => (cache, site, CloneMode::Clone),
            "copy" => (cache, site, CloneMode::Copy),
            "hardlink" => (cache, site, CloneMode::Hardlink),
            "symlink" => (cache, site, CloneMode::Symlink),
            _ => return Err(usage.into()),
        },
        _ => return Err(usage.into()),
    };
    let mut out = std::io::stdout().lock();
    for (wheel, report) in install(Path::new(cache), Path::new(site), mode)? {
        let name = wheel.file_name().unwrap_or_default();
        writeln!(out, "{:<32} {}", name.display(), told(&report))?;
    }
    Ok(())
}

/// Merges every wheel of `cache` into `site`, and writes what an installer writes there.
///
/// # Errors
/// The first error, which stops the other threads. Files that were merged until then stay, each of
/// them whole. It does no harm to merge them again.
pub fn install(
    cache: &Path,
    site: &Path,
    mode: CloneMode,
) -> Result<Vec<(PathBuf, DestinationReport)>, Box<dyn Error>> {
    let mut wheels = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            wheels.push(entry.path());
        }
    }
    wheels.sort();
    // A merge makes the last folder of its destination, and no more.
    if let Some(parent) = site.parent() {
        fs::create_dir_all(parent)?;
    }

    let cancel = Cancel::new();
    let options = CloneOptions::new()
        .existing(Existing::Merge)
        .mode(mode)
        // The installer writes to these in place. Byte code is not among them: Python replaces it
        // by a rename.
        .mutable_if(|path| path.ends_with("RECORD") && is_named(path.parent(), ".dist-info"))
        // Scripts, headers and data go elsewhere; see `sources` for the rest of it.
        .exclude_if(|path| path.iter().count() == 1 && is_named(Some(path), ".data"))
        // Many merges at once, each of one thread, rather than one after the other of many: most
        // wheels are small.
        .jobs(NonZeroUsize::MIN)
        .cancel(&cancel);
    // One memory for all of them, so that a filesystem which cannot clone is asked once.
    #[cfg(unix)]
    let options = options.linker(&calve::Linker::new());
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(8);
    let queue = Mutex::new(wheels.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<Vec<(PathBuf, DestinationReport)>, calve::Error> {
        let mut done = Vec::new();
        while let Some(wheel) = next() {
            for source in sources(&wheel) {
                let report =
                    clone_tree(source, &[site], &options).inspect_err(|_| cancel.cancel())?;
                done.extend(report.destinations.into_iter().map(|report| (wheel.clone(), report)));
            }
        }
        Ok(done)
    };
    let results: Vec<_> = thread::scope(|scope| {
        // The system may refuse threads. The caller's own thread works in any case.
        let workers: Vec<_> = (1..threads)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let own = work();
        let joined = workers.into_iter().map(|worker| worker.join().expect("no worker panics"));
        iter::once(own).chain(joined).collect()
    });

    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(reports) => done.extend(reports),
            Err(error) => failed.push(error),
        }
    }
    // The one that stopped the others says why.
    failed.sort_by_key(|error| error.kind() == ErrorKind::Cancelled);
    if let Some(error) = failed.into_iter().next() {
        return Err(error.into());
    }
    done.sort_by(|a, b| a.0.cmp(&b.0));
    for (wheel, report) in &done {
        // Another process pruned the cache, or the cache has an entry that no wheel has. This wheel
        // is not whole.
        if let Some(skipped) = report.skipped.first() {
            let path = wheel.join(&skipped.path);
            return Err(format!("{}: {}", path.display(), skipped.reason).into());
        }
    }
    for entry in fs::read_dir(site)? {
        let folder = entry?.path();
        if folder.extension().is_some_and(|extension| extension == "dist-info") {
            note(&folder)?;
        }
    }
    Ok(done)
}

/// Whether a path is one of the folders whose names the wheel format has: `NAME-VERSION.data`.
fn is_named(path: Option<&Path>, ending: &str) -> bool {
    let stem = path.and_then(|path| path.to_str()?.strip_suffix(ending));
    stem.is_some_and(|stem| stem.contains('-'))
}

/// The trees of a wheel that go into `site-packages`: the wheel itself, and the parts that it keeps
/// apart for either kind of platform.
fn sources(wheel: &Path) -> Vec<PathBuf> {
    let mut sources = vec![wheel.to_owned()];
    for entry in fs::read_dir(wheel).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "data") {
            let parts = ["purelib", "platlib"].map(|part| entry.path().join(part));
            sources.extend(parts.into_iter().filter(|part| part.is_dir()));
        }
    }
    sources
}

/// Says who installed it, and adds that to the list of its files. With hard links this would reach
/// the cache, were it not `mutable`.
fn note(dist_info: &Path) -> std::io::Result<()> {
    let name = dist_info.file_name().unwrap_or_default().to_string_lossy();
    let (record, mut line) = (dist_info.join("RECORD"), format!("{name}/INSTALLER,,\n"));
    // What is no wheel's has none; what was there before has the line already.
    match fs::read_to_string(&record) {
        Ok(text) if !text.contains(&line) => {
            if !text.ends_with('\n') {
                line.insert(0, '\n');
            }
        }
        _ => return Ok(()),
    }
    fs::write(dist_info.join("INSTALLER"), "calve\n")?;
    fs::OpenOptions::new().append(true).open(record)?.write_all(line.as_bytes())
}

/// How the files of one wheel arrived, and the files that did not arrive as requested.
fn told(report: &DestinationReport) -> String {
    let mut text = format!(
        "{} files: {} reflinked, {} linked, {} copied",
        report.files, report.reflinked_files, report.linked_files, report.copied_files
    );
    for (reason, count) in report.copied_because.rows() {
        if count > 0 {
            text += &format!(", {count} because of {reason}");
        }
    }
    text
}
