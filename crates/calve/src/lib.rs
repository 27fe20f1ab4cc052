//! Isolated, ready-to-work copies of a directory tree at about one copy's worth of disk.
//!
//! # Nouns
//! * A *reflink* is a file that shares its blocks with another file. A write to one of them goes to
//!   new blocks, so neither file ever has the other's changes. Making a reflink takes almost no
//!   time and no data blocks.
//! * A *tree* is a directory with everything in it. A *clone* of a tree is a new tree whose files
//!   are reflinks of the first tree's files. If the filesystem cannot share blocks, they are
//!   copies.
//! * A *stage* is a tree under construction. It has another name and becomes the destination by one
//!   rename.
//! * A *snapshot* is a tree as it was at some moment, named by its content. A *store* keeps
//!   snapshots. A *worktree* is a tree that was made from a snapshot, and its store knows it.
//! * A *verdict* is the meaning of a refusal to clone. It may concern the two filesystems (calve
//!   remembers it), the file (calve copies that file) or the moment (calve tries again). After any
//!   other refusal the operation fails.
//!
//! # One tree, eight times
//! ```
//! use calve::{CloneOptions, clone_tree};
//!
//! # let desk = tempfile::tempdir()?;
//! # std::env::set_current_dir(&desk)?;
//! # std::fs::create_dir("project")?;
//! # std::fs::write("project/main.rs", "fn main() {}")?;
//! let worktrees: Vec<_> = (1..=8).map(|n| format!("project-{n}")).collect();
//! let report = clone_tree("project", &worktrees, &CloneOptions::new())?;
//! for tree in &report.destinations {
//!     println!("{}: {} of {} files share their blocks", tree.path.display(), tree.reflinked_files, tree.files);
//! }
//! # assert_eq!(report.destinations[7].files, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! All eight appear, or none. If the filesystem cannot share blocks, calve copies the files, and
//! the [`CloneReport`] says how many and why. With [`Reflink::Always`] that is an error.
//!
//! # A cache into an environment
//! ```
//! use calve::{CloneMode, CloneOptions, Existing, clone_tree};
//!
//! # let desk = tempfile::tempdir()?;
//! # std::env::set_current_dir(&desk)?;
//! # std::fs::create_dir_all("cache/numpy-2.1/numpy")?;
//! # std::fs::create_dir_all("venv/lib/python3.13")?;
//! # std::fs::write("cache/numpy-2.1/numpy/__init__.py", "")?;
//! let options = CloneOptions::new()
//!     .existing(Existing::Merge) // others may merge into it at the same time
//!     .mode(CloneMode::Hardlink) // asked for by name; never a fallback
//!     .mutable_if(|path| path.ends_with("RECORD")); // will be written to, so it must not be a link
//! let report = clone_tree("cache/numpy-2.1", &["venv/lib/python3.13/site-packages"], &options)?;
//! # assert_eq!(report.destinations[0].linked_files, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! `examples/site_packages.rs` is a program of this kind, and the [guide for linkers] says when to
//! use which mode. `clone_list` makes a tree of files that are anywhere, such as a store with a file
//! for each content: `examples/node_modules.rs`.
//!
//! # Snapshots and worktrees
//! On Unix, with the feature `store`, a *store* keeps *snapshots* of a project, each content once,
//! and makes *worktrees* of them. It lists the changes in a worktree, takes new snapshots of it,
//! and switches it from one snapshot to another.
//! ```
//! # #[cfg(all(unix, feature = "store"))] {
//! use calve::{DropOptions, SnapshotOptions, StartOptions, Store};
//! use calve::{StoreOptions, SwitchOptions};
//!
//! # let desk = tempfile::tempdir()?;
//! # std::env::set_current_dir(&desk)?;
//! # std::fs::create_dir("project")?;
//! # std::fs::write("project/main.rs", "fn main() {}")?;
//! let options = StoreOptions::new();
//! let store = Store::init("project")?; // the next time: Store::discover("project")?.store
//! let named = SnapshotOptions::new().message("dependencies installed").name("ready");
//! let ready = store.snapshot(&named, &options)?;
//!
//! // All of them, or none.
//! let start = store.start(&["agent-1", "agent-2"], &StartOptions::new().from(ready.id), &options)?;
//! for started in &start.worktrees {
//!     println!("{} is in {}", started.name, started.report.path.display());
//! }
//!
//! let worktree = store.worktree("agent-1")?;
//! // … somebody works in worktree.path() …
//! # std::fs::write(worktree.path().join("main.rs"), "fn main() { todo!() }")?;
//! for change in worktree.status(&options)?.changes {
//!     println!("{} {}", change.kind.letter(), change.path.display());
//! }
//! worktree.diff(&options)?.patch(&mut std::io::stdout())?; // for `git apply`
//! let done = worktree.capture(&SnapshotOptions::new().message("tests pass"), &options)?;
//! # assert!(done.new);
//! store.worktree("agent-2")?.switch(done.id, &SwitchOptions::new(), &options)?;
//!
//! // Fails if the worktree has local changes. Its name is free at once.
//! worktree.drop(&DropOptions::new(), &options)?.delete()?;
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! `examples/worktrees.rs` is a program of this kind. The documentation's module `store_format`
//! describes a store on the disk. The [guide of stores] says what is durable when, and how to
//! maintain a store.
//!
//! # One file
//! [`clonefile_or_copy`] replaces a file atomically by a reflink or a copy. [`try_reflink`] says
//! which of four things happened, and leaves the fallback to the caller.
//! ```
//! # let desk = tempfile::tempdir()?;
//! # std::env::set_current_dir(&desk)?;
//! # std::fs::write("base.img", [7; 100_000])?;
//! let shared = calve::clonefile_or_copy("base.img", "machine-1.img")?;
//! println!("{}", if shared { "no data was copied" } else { "this filesystem cannot share blocks" });
//! # assert_eq!(std::fs::read("machine-1.img")?, [7; 100_000]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Errors, outcomes, findings
//! * An [`Error`] means that the call did not do its work. Each function's `# Errors` says what it
//!   leaves behind, which is nothing wherever possible. [`Error::kind`] and [`Error::operation`]
//!   are for programs; the text, with operation, paths and cause, is for people. `?` turns an error
//!   into a [`std::io::Error`] with the cause's kind.
//! * An outcome says how the work was done, and is counted: see [`CloneReport`], [`Method`] and
//!   [`CopiedBecause`].
//! * A finding (an entry that was left out, a change, damage) is returned as data. The caller
//!   judges it.
//!
//! Every call that takes options can be stopped: [`Cancel`] is a flag that another thread or a
//! signal handler sets. The call then fails with [`ErrorKind::Cancelled`], and leaves behind what
//! it leaves after any other error. A killed process leaves stages. The next call in the same
//! folder or store removes them.
//!
//! # Options
//! [`CloneOptions`], `StoreOptions`, `StartOptions` and the others are built by value. Each has a
//! `new` that is the usual case. The methods `jobs`, `cancel` and `progress` set threads,
//! cancellation and progress. For every call on a store they are in `StoreOptions`, the last
//! argument. Everything is `Send` and `Sync`. A `Store` is cheap to clone, and its clones are the
//! same open store.
//!
//! # Hazards
//! * A clone costs no data blocks *now*. A later write to a shared block needs a new one, so writes
//!   to the trees can fill the disk.
//! * [`CloneMode::Hardlink`] and [`CloneMode::Symlink`] do not isolate: a write in one tree shows
//!   in the other.
//! * If a process forks while a file is open for writing, `execve` of that file fails with
//!   `ETXTBSY` for as long as the child holds the descriptor. Do not start programs from a tree
//!   while calve makes it.
//! * A tree may have absolute paths to itself inside (Python environments, build caches). In a
//!   clone they still lead to the first tree; `rewrite_paths` changes those whose format calve
//!   knows. A worktree gets these files with its own path.
//! * calve trusts a store: a user who may write to it decides what its worktrees contain, and where
//!   they are. Do not open a store of a user whom you do not trust.
//! * The calls block. They start threads, which end with the call. These threads have their own
//!   umask; calve neither reads nor changes the process's.
//!
//! # Platforms
//! | | files | trees | stores, worktrees |
//! |---|---|---|---|
//! | Linux: XFS, btrfs, ZFS ≥ 2.2, bcachefs, overlay over these | reflink | reflink; btrfs subvolumes by snapshot | yes |
//! | macOS, iOS: APFS | reflink | reflink | yes |
//! | Windows: ReFS, Dev Drive | reflink | reflink; no owners, ACLs, alternate data streams | no |
//! | any other filesystem, any other system | copy | copy | Unix: yes, with copies |
//!
//! A table in `reflink/sys.rs` lists the features that calve uses of each system, since when the
//! system has them, and what calve does without. The [guide to filesystems] says which filesystem
//! to choose, and how to get one without repartitioning.
//!
//! # Features
//! * `store` (default): snapshots and worktrees. It needs a C compiler, for SQLite and zstd. The next
//!   two come with it.
//! * `patterns`: [`exclude`](CloneOptions::exclude), [`include`](CloneOptions::include),
//!   [`mutable`](CloneOptions::mutable) and [`gitignore`](CloneOptions::gitignore). 14 packages.
//! * `git-index`: [`CloneOptions::git_index`]. One package.
//! * `remote`: stores push snapshots to, and pull them from, a place that several machines can
//!   reach: a folder.
//! * `cloud`: the same in buckets of S3, Google Cloud Storage and Azure. 130 packages more.
//!
//! Without the feature `store` the crate is the linker alone: [`clone_tree`], `clone_list`,
//! [`clonefile_or_copy`] and the other functions for one file. Then it needs no C compiler, and
//! without any feature it depends on 4 crates on Linux (rustix and what that needs):
//! ```toml
//! calve = { version = "0.1", default-features = false }
//! ```
//! No feature changes what a function does. The library prints nothing and reads no environment.
//!
//! [guide for linkers]: https://github.com/calve-rs/calve/blob/main/docs/linker.md
//! [guide of stores]: https://github.com/calve-rs/calve/blob/main/docs/store.md
//! [guide to filesystems]: https://github.com/calve-rs/calve/blob/main/docs/filesystems.md

// Without the store, some functions are unused. A build with the store checks the whole library for
// dead code.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    all(unix, not(feature = "store")),
    expect(dead_code, unused_imports, reason = "the store uses it")
)]

#[cfg(all(calve_check, not(feature = "store")))]
compile_error!("the checking build compares with the store: it needs the feature `store`");

#[cfg(calve_check)]
#[path = "../tests/checked/mod.rs"]
mod check;
mod error;
mod macros;
mod reflink;
mod report;
mod tree;

pub use error::{Error, ErrorKind, Operation};
pub use reflink::filesystem::{Filesystem, SharesBlocks};
pub use reflink::{
    Probe, ReflinkOutcome, clone_range, clonefile_or_copy, filesystem_name,
    filesystem_supports_reflink, probe, probe_between, reflink_file, try_reflink,
};
pub use report::{
    Cancel, CloneReport, CopiedBecause, DestinationReport, LinkedBecause, Method, Progress,
    SkipReason, Skipped, UnlinkedBecause,
};
#[cfg(all(unix, feature = "store"))]
pub use store::background::{inherit_streams_only, keep_answers_of_children, lowest_priority};
#[cfg(all(unix, feature = "store"))]
pub use store::git::{GIT_VARIABLES, git_under_way, output_of, why_git_did_not_run};
#[cfg(all(unix, feature = "remote"))]
pub use store::remote::{
    KnownRemote, PublicKey, PullOptions, PullReport, PushOptions, PushReport, Remote, RemoteBroken,
    RemoteDamage, RemoteDamageKind, RemoteGarbage, RemoteGcOptions, RemoteGcReport, RemoteName,
    RemoteSettings, RemoteVerifyOptions, RemoteVerifyReport, SigningKey,
};
#[cfg(all(unix, feature = "store"))]
pub use store::stopping::{end_waits_with, tell_of_waits_with};
#[cfg(all(unix, feature = "store"))]
pub use store::{
    BlobId, Damage, DamageKind, Discovered, GcOptions, GcReport, NamingReport, NotInGit,
    PackOptions, PackReport, PathKept, PathKind, PathMeaning, PathMention, ReadyReport, Secret,
    SecretKind, Snapshot, SnapshotId, SnapshotLog, SnapshotOptions, SnapshotReport, Store,
    StoreOptions, StoreStats, VerifyOptions, VerifyReport, WarmReport, secrets_in,
};
#[cfg(feature = "git-index")]
pub use tree::GitIndex;
pub use tree::cost::{CopyCost, must_copy, never_shares_blocks};
#[cfg(unix)]
pub use tree::linker::Linker;
#[cfg(unix)]
pub use tree::staging::left_behind;
#[cfg(unix)]
pub use tree::tally::Because;
pub use tree::{CloneMode, CloneOptions, Existing, Reflink, clone_tree};
#[cfg(unix)]
pub use tree::{FinishedFile, TreeEntry, clone_list};
#[cfg(all(unix, feature = "store"))]
pub use worktree::{
    Change, ChangeKind, ChangeScope, CheckedWorktree, ChosenWorktree, Diff, DiskUsage, DropFilter,
    DropOptions, DroppedWorktree, FileDiff, FillOptions, FillPlan, FillReport, FilteredWorktrees,
    FoundBranch, FoundBranches, FreedBytes, GitMode, GitOutcome, GitStatus, GitWorktree, HeadAgain,
    KeptWorktree, LastChange, LinkedWorktree, LivingProcess, NoRepository, NotReshared, PathMode,
    ReshareOptions, ReshareReport, ShedFolder, ShedKind, ShedReport, Sheddable, StartBranch,
    StartOptions, StartReport, StartedWorktree, StayReason, StayedPath, StayedReason,
    StayingWorktree, SwitchOptions, SwitchReport, TreeUsage, UpdateOptions, UpdateReport, Worktree,
    WorktreeState, WorktreeStatus, clone_with_own_paths, fill, must_lose_no_work, path_mentions,
    reshare_folders, rewrite_paths,
};
#[cfg(all(unix, feature = "remote"))]
pub use worktree::{CheckoutOptions, CheckoutReport};
#[cfg(all(unix, feature = "store", any(test, fuzzing)))]
#[doc(hidden)]
#[path = "../tests/fuzzing/mod.rs"]
pub mod fuzzing;
#[cfg(all(unix, feature = "store"))]
mod store;
#[cfg(all(doc, feature = "store"))]
pub mod store_format;
#[cfg(all(unix, feature = "store"))]
mod worktree;
