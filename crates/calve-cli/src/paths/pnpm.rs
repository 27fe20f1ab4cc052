//! pnpm links a project's packages to its store. No hard link leads into a subvolume of btrfs, so in
//! such a worktree pnpm takes a store of its own, inside the worktree: it downloads everything
//! again, and git may see the store. A store that is configured is taken everywhere, and pnpm clones
//! from it. docs/design/start.md says what was tried.

use std::fs::{File, metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::text::{shell_word, shown};

/// Larger files are not read.
const MOST_BYTES: u64 = 1 << 20;

/// The warning for a worktree of this project, if pnpm would take another store there.
pub(crate) fn warning(project: &Path, worktree: &Path) -> Option<String> {
    let text = read(&project.join("node_modules/.modules.yaml"))?;
    let store = store_in(&text)?;
    let device = |path: &Path| metadata(path).ok().map(|it| it.dev());
    let linked = device(&store)?;
    if device(&project.join("node_modules"))? != linked
        || device(worktree)? == linked
        || is_configured(project)
    {
        return None;
    }
    // The last part is the version of its format, which pnpm adds.
    let configured = store.parent()?;
    Some(format!(
        "no hard link leads from pnpm's store into {}, a subvolume of btrfs, so pnpm there downloads again, into a store \
         in the worktree, and 'pnpm add' may fail (ERR_PNPM_UNEXPECTED_STORE). Once for all worktrees: 'pnpm config \
         set store-dir {}'; then pnpm clones from its store, and shares blocks",
        shown(worktree),
        shell_word(configured)
    ))
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The store that the packages were linked from: the file is YAML, or JSON.
fn store_in(text: &str) -> Option<PathBuf> {
    let line = text.lines().find(|line| line.contains("storeDir"))?;
    let (_, value) = line.split_once(':')?;
    let value = value.trim().trim_end_matches(',').trim_matches(['"', '\'']);
    value.starts_with('/').then(|| PathBuf::from(value))
}

/// Whether the user chose the store: then pnpm takes it in a worktree, too.
fn is_configured(project: &Path) -> bool {
    let variables = ["npm_config_store_dir", "pnpm_config_store_dir"];
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let settings = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let settings = settings.unwrap_or_else(|| home.join(".config")).join("pnpm");
    let files = [
        project.join(".npmrc"),
        project.join("pnpm-workspace.yaml"),
        home.join(".npmrc"),
        settings.join("rc"),
        settings.join("config.yaml"),
    ];
    let names_it = |text: String| text.contains("store-dir") || text.contains("storeDir");
    variables.iter().any(|name| std::env::var_os(name).is_some())
        || files.iter().any(|file| read(file).is_some_and(names_it))
}
