//! The linker of a package manager: merges every wheel of a cache into one `site-packages`, several
//! at once.
//!
//! ```sh
//! cargo run --release -p calve --example site_packages -- CACHE SITE_PACKAGES [clone|copy|hardlink|symlink]
//! ```
//! CACHE holds one unpacked wheel in each folder, as `unzip -d CACHE/NAME NAME.whl` leaves it.
//! `docs/linker.md` says which mode to use, and why.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io, num::NonZeroUsize};

use calve::CloneMode::{self, Clone, Copy, Hardlink, Symlink};
use calve::{CloneOptions, DestinationReport, Existing, clone_tree};
use rayon::prelude::*;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (cache, site, mode) = match arguments[..] {
        [cache, site] | [cache, site, "clone"] => (cache, site, Clone),
        [cache, site, "copy"] => (cache, site, Copy),
        [cache, site, "hardlink"] => (cache, site, Hardlink),
        [cache, site, "symlink"] => (cache, site, Symlink),
        _ => return Err("usage: site_packages CACHE SITE_PACKAGES [MODE]".into()),
    };
    for (wheel, made) in install(Path::new(cache), Path::new(site), mode)? {
        let (shared, links, copies) = (made.reflinked_files, made.linked_files, made.copied_files);
        let text = format!("{shared} reflinked, {links} linked, {copies} copied");
        writeln!(io::stdout(), "{:<32} {text}", wheel.file_name().unwrap_or_default().display())?;
    }
    Ok(())
}

/// Merges every wheel of `cache` into `site`, and writes what an installer writes there.
///
/// # Errors
/// The first error. No further wheel begins then. Files that were merged until then stay, each of
/// them whole. It does no harm to merge them again.
pub fn install(
    cache: &Path,
    site: &Path,
    mode: CloneMode,
) -> Result<Vec<(PathBuf, DestinationReport)>, Failure> {
    // A merge makes the last folder of its destination, and no more.
    fs::create_dir_all(site.parent().unwrap_or(site))?;
    let options = CloneOptions::new()
        .existing(Existing::Merge)
        .mode(mode)
        // `note` writes to these in place. Byte code is not among them: Python renames over it.
        .mutable_if(|path| path.ends_with("RECORD") && path.iter().count() == 2)
        // Scripts, headers and data go elsewhere.
        .exclude_if(|path| path.iter().count() == 1 && is_named(path, ".data"))
        // Many merges of one thread each, rather than few of many: most wheels are small.
        .jobs(NonZeroUsize::MIN);
    // One memory for all of them, so that a filesystem which cannot clone is asked once.
    #[cfg(unix)]
    let options = options.linker(&calve::Linker::new());
    let merge = |(wheel, source): (PathBuf, PathBuf)| {
        let made = clone_tree(source, &[site], &options)?.destinations.remove(0);
        // Another process pruned the cache, or the cache has an entry that no wheel has.
        if let Some(skipped) = made.skipped.first() {
            let path = wheel.join(&skipped.path);
            return Err(format!("{}: {}", path.display(), skipped.reason).into());
        }
        Ok((wheel, made))
    };
    let done = sources(cache)?.into_par_iter().map(merge).collect::<Result<Vec<_>, Failure>>()?;
    for folder in folders(site)?.iter().filter(|folder| is_named(folder, ".dist-info")) {
        note(folder)?;
    }
    Ok(done)
}

fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<_>> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect();
    Ok(paths?.into_iter().filter(|path| path.is_dir()).collect())
}

/// Whether a path is one of the folders whose names the wheel format has: `NAME-VERSION.data`.
fn is_named(path: &Path, ending: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_str();
    name.and_then(|name| name.strip_suffix(ending)).is_some_and(|stem| stem.contains('-'))
}

/// Each wheel, and the trees of it that go into `site-packages`: the wheel itself, and the parts
/// that it keeps apart for either kind of platform.
fn sources(cache: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut sources = Vec::new();
    for wheel in folders(cache)? {
        let data = folders(&wheel)?.into_iter().filter(|path| is_named(path, ".data"));
        let parts = data.flat_map(|data| ["purelib", "platlib"].map(|part| data.join(part)));
        let trees = [wheel.clone()].into_iter().chain(parts.filter(|part| part.is_dir()));
        sources.extend(trees.map(|tree| (wheel.clone(), tree)));
    }
    Ok(sources)
}

/// Says who installed it, and adds that to the list of its files. With hard links this would reach
/// the cache, were it not `mutable`.
fn note(dist_info: &Path) -> io::Result<()> {
    let name = dist_info.file_name().unwrap_or_default().display();
    let (record, line) = (dist_info.join("RECORD"), format!("{name}/INSTALLER,,\n"));
    // What is no wheel's has no record; what was there before has the line already.
    if fs::read_to_string(&record).is_ok_and(|text| !text.contains(&line)) {
        fs::write(dist_info.join("INSTALLER"), "calve\n")?;
        fs::OpenOptions::new().append(true).open(record)?.write_all(line.as_bytes())?;
    }
    Ok(())
}
