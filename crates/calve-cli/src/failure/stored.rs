//! Hints for errors of stores and worktrees: what to do now.

use std::io;
use std::path::{Path, PathBuf};

use calve::{ErrorKind, Operation, Worktree};

use super::{CURRENT_IS_GONE, Failure, Kind, df, told};
use crate::text::shell_word;

/// An error of the library about a store.
pub(crate) fn store_failure(error: &calve::Error) -> Failure {
    told(error, hint(error, None))
}

/// An error of the library about this worktree.
pub(crate) fn worktree_failure(error: &calve::Error, worktree: &Worktree) -> Failure {
    told(error, hint(error, Some(worktree)))
}

/// The command itself looked for a worktree and found none.
pub(crate) fn no_worktree(path: &Path, cause: &str) -> Failure {
    own(
        Operation::FindWorktree.as_str(),
        path,
        ErrorKind::WorktreeNotFound,
        cause,
        "'calve list' lists the worktrees",
    )
}

/// The folder of this worktree is gone.
pub(crate) fn missing(worktree: &Worktree) -> Failure {
    let (kind, gone) = (ErrorKind::WorktreeMissing, io::Error::from(io::ErrorKind::NotFound));
    let name = argument(worktree);
    let hint = way_out(kind, Operation::OpenWorktree, (worktree.path(), None), &gone, &name);
    let operation = Operation::OpenWorktree.as_str();
    own(operation, worktree.path(), kind, "its folder is gone", hint.unwrap_or_default())
}

/// An error that the command itself finds.
pub(crate) fn own(
    operation: &'static str,
    path: &Path,
    kind: ErrorKind,
    cause: &str,
    hint: impl Into<String>,
) -> Failure {
    Failure {
        operation,
        paths: [PathBuf::from(path)].into(),
        joint: "and",
        details: Box::default(),
        kind: Kind::Library(kind),
        cause: cause.into(),
        hint: Some(hint.into()),
    }
}

/// What to do if the remote at this URL has no such name or id.
pub(crate) fn no_such_snapshot(url: &str) -> &'static str {
    match is_web(Path::new(url)) {
        true => "a web server cannot list the names: ask the person who pushes; ids must be whole",
        false => "'calve remote names' lists the names of a remote; ids must be whole",
    }
}

/// Whether a remote is a web server.
pub(crate) fn is_web(url: &Path) -> bool {
    url.to_str().is_some_and(|url| url.starts_with("https://") || url.starts_with("http://"))
}

/// How the commands of a hint name a store, if commands in the project do not find it by
/// themselves.
pub(crate) fn store_flag(store: &Path, is_found: bool) -> String {
    if is_found { String::new() } else { format!(" --store {}", shell_word(store)) }
}

/// The argument that names a worktree in the commands of a hint, with a space before it. The
/// project needs none.
pub(crate) fn argument(worktree: &Worktree) -> String {
    match worktree.is_project() {
        true => String::new(),
        false => format!(" {}", shell_word(Path::new(worktree.name()))),
    }
}

fn hint(error: &calve::Error, worktree: Option<&Worktree>) -> Option<String> {
    let name = worktree.map(argument).unwrap_or_default();
    let paths = (error.path(), error.other_path());
    way_out(error.kind(), error.operation(), paths, error.io_error(), &name)
}

fn way_out(
    kind: ErrorKind,
    operation: Operation,
    (path, other): (&Path, Option<&Path>),
    error: &io::Error,
    name: &str,
) -> Option<String> {
    if let Some(hint) = path.to_str().and_then(|url| of_remote(kind, operation, url, error)) {
        return Some(hint);
    }
    let hint = match kind {
        // The user dropped the worktree that the shell is in.
        _ if path == Path::new(".") && error.kind() == io::ErrorKind::NotFound => {
            CURRENT_IS_GONE.to_owned()
        }
        ErrorKind::ReflinkRefused => {
            let (path, other) = (shell_word(path), shell_word(other.unwrap_or(path)));
            format!("'calve doctor {path} {other}' says why; --reflink auto makes copies")
        }
        ErrorKind::SourceNotFound if operation == Operation::Compare => {
            "paths after -- start at the worktree's root, as 'calve status' prints them".to_owned()
        }
        ErrorKind::StoreNotFound if operation == Operation::FindStore => {
            "run 'calve init' in the project's root to make a store; if it is elsewhere, name it with \
             --store DIR or CALVE_STORE"
                .to_owned()
        }
        ErrorKind::StoreNotFound if operation == Operation::FindStoreOfProject => {
            let pointer = shell_word(&path.join(".calve/project"));
            let mount = match other.and_then(how_to_mount) {
                Some(command) => format!("its volume is not mounted; to mount it: {command}"),
                None => "if its disk is not mounted, mount it".to_owned(),
            };
            format!(
                "{mount}; if the store was moved or is lost, run 'calve init --store DIR' with its new place after rm {pointer}"
            )
        }
        ErrorKind::StoreNotFound if operation == Operation::FindStoreOfWorktree => {
            "if the project was moved, run 'calve list' in there, and calve finds the store again; if the project \
             was deleted, this is now a plain folder"
                .to_owned()
        }
        ErrorKind::StoreNotFound => {
            "name the store's own folder with --store or CALVE_STORE, such as PROJECT/.calve; \
             'calve init' makes a store"
                .to_owned()
        }
        ErrorKind::StoreExists => {
            let named = store_flag(path, path.file_name().is_some_and(|name| name == ".calve"));
            format!(
                "a project has one store, and a store one project: choose another --store, or use this one: 'calve{named} \
                 start NAME'"
            )
        }
        // `git clean` keeps repositories that are inside the folders that it deletes. Ready trees
        // contain the project's.
        ErrorKind::DestinationExists
            if operation == Operation::MakeStore && path.join("templates").is_dir() =>
        {
            format!(
                "'git clean', for example, deleted most of this store, but left copies of the project in {}: save what you \
                 need of them, then remove the rest and try again: rm -rf {}",
                shell_word(&path.join("templates")),
                shell_word(path)
            )
        }
        ErrorKind::DestinationExists if operation == Operation::MakeStore => {
            format!("if you need nothing in it, remove it and try again: rm -r {}", shell_word(path))
        }
        // The filesystem has no locks, or no shared memory, for a database.
        ErrorKind::Io if operation == Operation::MakeStoreIn && error.kind() == io::ErrorKind::Unsupported => {
            "make the store in a new folder on a local disk: calve init --store DIR".to_owned()
        }
        ErrorKind::StoreIncompatible if error.kind() == io::ErrorKind::Unsupported => {
            let project = path.parent().filter(|_| path.ends_with(".calve"));
            let project = project.map_or_else(|| "PROJECT".to_owned(), shell_word);
            let mut hint = format!(
                "use this store only on the side that made it; on this side, work in a copy with a store on a local disk: \
                 calve clone {project} COPY && calve init --store DIR COPY"
            );
            let why = error.to_string();
            if why.starts_with("it was used last") {
                let view = shell_word(&path.join("locks/database"));
                hint += &format!("; if the store was copied here: rm {view}");
            }
            if why.starts_with("it was made through") {
                let format = shell_word(&path.join("format"));
                hint += &format!("; if the store was copied here: sed -i /memory-not-shared/d {format}");
            }
            hint
        }
        ErrorKind::StoreIncompatible => {
            "use the version of calve that wrote to the store last, or a later one".to_owned()
        }
        ErrorKind::StoreUntrusted if operation != Operation::UseStore => {
            let what = other.unwrap_or(path);
            format!(
                "if it is not yours, leave this folder; if it is: chown -R \"$(id -u)\" {what} && chmod o-w,-t {what}",
                what = shell_word(what)
            )
        }
        ErrorKind::StoreUntrusted => format!(
            "if you trust it, name it: --store {}; if not, leave this folder, or delete the store",
            shell_word(path)
        ),
        ErrorKind::Damaged if operation == Operation::FindRemote => {
            format!("remove the file and add the remote again: rm {}", shell_word(path))
        }
        ErrorKind::Damaged => {
            "'calve store verify --repair' lists all damage, and mends what it can".to_owned()
        }
        ErrorKind::ReadOnly if operation == Operation::StartWorktreeOf => {
            "with --from SNAPSHOT and --at DIR calve can still make the trees, but the store will not know them"
                .to_owned()
        }
        ErrorKind::ReadOnly => format!(
            "commands that only read still work; to change something, make {} writable",
            shell_word(path)
        ),
        ErrorKind::Busy
            if operation == Operation::DropWorktree
                && error.kind() != io::ErrorKind::WouldBlock =>
        {
            format!(
                "end these processes, or let them leave the folder; 'calve drop --force{name}' drops the worktree under \
                 them"
            )
        }
        ErrorKind::Busy => "try again when the other process has finished".to_owned(),
        ErrorKind::SnapshotNotFound if operation == Operation::Compare => {
            "'calve snapshot' takes the first one".to_owned()
        }
        // The other path is a URL, so a remote lacks this snapshot.
        ErrorKind::SnapshotNotFound
            if other.and_then(Path::to_str).is_some_and(|other| other.contains("://")) =>
        {
            no_such_snapshot(&other.unwrap_or(path).to_string_lossy()).to_owned()
        }
        ErrorKind::RemoteNotFound if operation == Operation::FindRemote => {
            "'calve remote list' lists them, 'calve remote add NAME URL' adds one".to_owned()
        }
        ErrorKind::RemoteNotFound if is_web(path) => {
            "check the URL: it is that of the folder, or bucket, in which the remote was made"
                .to_owned()
        }
        ErrorKind::RemoteNotFound => {
            let url = path.to_str().unwrap_or_default();
            match folder_of(url).filter(|folder| !folder.is_dir()) {
                Some(folder) => format!(
                    "there is no folder {}: check the URL, and whether its disk is mounted",
                    shell_word(folder)
                ),
                None => format!(
                    "check the URL; 'calve remote init {}' makes a remote there",
                    shell_word(path)
                ),
            }
        }
        ErrorKind::RemoteExists if operation == Operation::AddRemote => {
            let name = shell_word(path);
            format!("choose another name, or run 'calve remote remove {name}' first")
        }
        ErrorKind::RemoteExists => {
            format!("'calve remote add NAME {}' lets a project's store know it", shell_word(path))
        }
        ErrorKind::RemoteUnfit if is_web(path) => match operation {
            Operation::MakeRemote => {
                "make it where the web server finds its files: 'calve remote init file:///FOLDER' there, or s3://BUCKET/PREFIX"
            }
            Operation::Push | Operation::CollectRemote => {
                "add the place behind the web server as a remote, too, such as file:///FOLDER or s3://BUCKET/PREFIX, and name that one"
            }
            Operation::ListRemote => {
                "'calve remote log NAME' and 'calve pull NAME' work; for the rest add the place behind the web server, such as file:///FOLDER, too"
            }
            _ => "the server must send parts of files as they are, as nginx, Apache, Caddy and buckets do",
        }
        .to_owned(),
        ErrorKind::RemoteUnfit => {
            "choose an empty place that refuses to write what exists, such as a new local folder"
                .to_owned()
        }
        ErrorKind::Untrusted if operation == Operation::OpenRemote => {
            "if that is right, remove it and add it again: 'calve remote remove NAME', 'calve remote add NAME URL'".to_owned()
        }
        ErrorKind::Untrusted => {
            "'calve remote log NAME' lists who signed what; somebody with a configured key can push the name again"
                .to_owned()
        }
        ErrorKind::InvalidName if operation == Operation::OpenRemote => {
            "give a URL such as file:///srv/trees".to_owned()
        }
        ErrorKind::SnapshotNotFound => "'calve log' lists the snapshots".to_owned(),
        ErrorKind::SnapshotAmbiguous => {
            "give more digits of the id; 'calve log -v' prints whole ids".to_owned()
        }
        ErrorKind::WorktreeNotFound => "'calve list' lists the worktrees".to_owned(),
        ErrorKind::WorktreeExists => format!(
            "choose another name, or run 'calve drop {}' first",
            shell_word(path)
        ),
        ErrorKind::WorktreeMissing if path.is_dir() => format!(
            "if only its folder .calve is missing ('git clean -x' deletes that), move the folder away, run \
             'calve restore{name}', and copy your changes back; 'calve drop --force{name}' forgets the worktree \
             and leaves the folder"
        ),
        ErrorKind::WorktreeMissing => format!(
            "'calve restore{name}' makes it again from its base snapshot, 'calve drop --force{name}' forgets it; if \
             you moved it, run 'calve status' once inside it"
        ),
        ErrorKind::Changed if operation == Operation::DropWorktree => format!(
            "commit it, or keep it in a snapshot with 'calve capture{name}'; 'calve drop --force{name}' drops the \
             worktree, and 'calve restore --dropped{name}' brings it back for seven days"
        ),
        ErrorKind::CommitsOnlyHere => format!(
            "'git -C {} switch -c BRANCH' keeps them on a branch; 'calve drop --force{name}' keeps them as \
             refs/calve/dropped/NAME in the project",
            shell_word(path)
        ),
        ErrorKind::BranchExists => {
            "-b BRANCH names another branch, --detach makes none".to_owned()
        }
        ErrorKind::CommitNotFound => {
            "'git log --oneline --all' lists commits; 'git fetch' brings those of others".to_owned()
        }
        ErrorKind::Git if operation == Operation::CheckOut => format!(
            "'git worktree add DIR {}' shows whether git alone can do it; without --base git writes nothing",
            shell_word(path)
        ),
        ErrorKind::Git if operation == Operation::DropWorktree => {
            format!("'calve drop --force{name}' drops it anyway")
        }
        ErrorKind::Git if matches!(operation, Operation::Fill | Operation::FillFrom) => match other {
            Some(_) => "--from DIR names another working tree of that repository".to_owned(),
            None => "'git worktree list' lists the working trees of a repository".to_owned(),
        },
        ErrorKind::Overlap | ErrorKind::Conflict if operation == Operation::Fill => {
            "'git worktree list' lists the working trees of a repository; --from DIR names the one to take files from"
                .to_owned()
        }
        ErrorKind::InvalidPattern if operation == Operation::ReadPatterns => {
            "a relative path starts at the root of the working tree that files are taken from".to_owned()
        }
        // Only a start and a restore do these, and both have the option.
        ErrorKind::Git
            if matches!(operation, Operation::LinkWorktrees | Operation::RegisterWorktree) =>
        {
            "--git copy gives each worktree a repository of its own, --git none only files".to_owned()
        }
        ErrorKind::Git if path.is_dir() => {
            format!("'git -C {} status' shows whether git works there", shell_word(path))
        }
        ErrorKind::InvalidName if operation == Operation::UseBranch => {
            "-b BRANCH names another branch, one for each worktree; --detach makes none".to_owned()
        }
        ErrorKind::Changed => format!(
            "'calve capture{name}' keeps the changes in a snapshot; --force overwrites them, and \
             'calve switch{name} --undo' brings them back"
        ),
        ErrorKind::InvalidName => {
            "choose a name of at most 200 bytes with no slash, space or control character; it must not start with \
             a dash or a dot, look like a whole id, or be given twice"
                .to_owned()
        }
        ErrorKind::Overlap if operation == Operation::DropWorktree => {
            "drop the worktrees inside it first: 'calve drop NAME', or 'git worktree remove PATH' for those that calve did not make".to_owned()
        }
        ErrorKind::Overlap
            if operation == Operation::MakeStoreFor
                && error.kind() == io::ErrorKind::Unsupported =>
        {
            let git = path.ancestors().find(|above| above.ends_with(".git"));
            let tree = git.and_then(Path::parent).unwrap_or(Path::new("DIR"));
            format!("name the root of a working tree: 'calve init {}'", shell_word(tree))
        }
        ErrorKind::Overlap if operation == Operation::MakeStoreFor => {
            "it needs no store of its own: 'calve status' and the other commands work there".to_owned()
        }
        ErrorKind::Overlap => format!(
            "work in {}, or delete {} to make this a plain folder; 'calve start NAME' makes another worktree",
            shell_word(other.unwrap_or(Path::new("the worktree"))),
            shell_word(&path.join(".calve"))
        ),
        // The folder is empty, but it is a mount point, which nothing can replace.
        ErrorKind::DestinationExists if error.kind() == io::ErrorKind::ResourceBusy => {
            format!("name a folder inside it, such as {}", shell_word(&path.join("app")))
        }
        // Two names of the project are one on the filesystem of the worktrees.
        ErrorKind::Conflict if operation == Operation::Make => {
            "choose a folder on a filesystem that tells the names apart, or leave one of them out by a line in the \
             project's .calveignore"
                .to_owned()
        }
        ErrorKind::PermissionDenied if operation == Operation::DeleteDropped => {
            let path = shell_word(path);
            format!(
                "it has files of another user, or immutable ones: sudo chattr -R -f -i {path}; sudo rm -rf {path}"
            )
        }
        _ if operation == Operation::DeleteDropped
            && error.kind() == io::ErrorKind::ReadOnlyFilesystem =>
        {
            // The root of each subvolume has this number.
            format!(
                "it has a read-only subvolume of btrfs, or the filesystem is read-only: find {} -inum 256 -exec \
                 btrfs property set {{}} ro false ';'",
                shell_word(path)
            )
        }
        // Not all words of SQLite have an errno.
        ErrorKind::Io if error.raw_os_error().is_none() && path.ends_with("index.db") => format!(
            "see 'dmesg' and 'calve doctor {}': the disk fails, or the filesystem or a sandbox refuses what a \
             database needs (locks, shared memory); 'calve init --store DIR' makes a store elsewhere",
            shell_word(path.parent().unwrap_or(path))
        ),
        ErrorKind::DestinationExists => {
            "move it away, choose another name, or choose another folder with --at".to_owned()
        }
        ErrorKind::StorageFull if operation == Operation::MakeStore => {
            format!("free some space ({})", df(path.parent().unwrap_or(path), error))
        }
        ErrorKind::StorageFull => format!(
            "free some space ({}); 'calve drop NAME' and 'calve store gc --expire 30d' work on a full disk, too",
            df(path.parent().unwrap_or(path), error)
        ),
        // calve could not read a file or a folder of the tree.
        ErrorKind::PermissionDenied if matches!(operation, Operation::TakeIn | Operation::OpenDirectory | Operation::ReadDirectory) => {
            let name = path.file_name().map_or(path, Path::new);
            let looks = super::hint(kind, path, error).unwrap_or_default();
            let ignore = path.parent().unwrap_or(path).join(".calveignore");
            format!(
                "to leave it out, add the line /{} to {}; or {looks}",
                name.display(),
                shell_word(&ignore)
            )
        }
        kind => return super::hint(kind, path, error),
    };
    Some(hint)
}

/// The folder or the file of a `file://` URL.
fn folder_of(url: &str) -> Option<&Path> {
    url.strip_prefix("file://").map(Path::new)
}

/// What to do about an object of a remote, which the error names by its URL.
fn of_remote(
    kind: ErrorKind,
    operation: Operation,
    url: &str,
    error: &io::Error,
) -> Option<String> {
    if !url.contains("://") {
        return None;
    }
    let file = folder_of(url);
    let there = file.map(|file| match file.is_dir() {
        true => file,
        false => super::as_far_as_there(file).0,
    });
    let hint = match kind {
        ErrorKind::Damaged if url.contains("/found/") => {
            "'calve push NAME' from a store that has the snapshot sends this list again; a pull of the snapshot's whole id does without it, and its worktrees keep the other machine's paths".to_owned()
        }
        ErrorKind::Io if operation == Operation::MakeRemote && error.kind() == io::ErrorKind::NotFound => {
            format!("make the folder first: mkdir -p {}", shell_word(file?))
        }
        ErrorKind::Io if is_web(Path::new(url)) => {
            "check the URL, whether the server can be reached from here, and for https:// its certificate".to_owned()
        }
        ErrorKind::PermissionDenied if is_web(Path::new(url)) => {
            "a bucket also denies access to an object that does not exist, unless everybody may list the bucket: let everybody read and list it".to_owned()
        }
        ErrorKind::PermissionDenied => match there {
            Some(folder) => format!(
                "run calve as a user who has access there; to see who has: ls -ld {}; docs/fleet.md says what a remote of several \
                 users needs",
                shell_word(folder)
            ),
            None => "check the credentials, and what they allow: calve reads, writes, lists and removes objects".to_owned(),
        },
        ErrorKind::StorageFull => {
            let free = match there {
                Some(folder) => format!("free some space there ({})", df(folder, error)),
                None => "give the remote more room".to_owned(),
            };
            match operation {
                Operation::CollectRemote => format!(
                    "{free}: about 1 MB is enough for 'calve remote gc', which had no reserve left"
                ),
                Operation::MakeRemote => free,
                _ => format!(
                    "{free}, or have calve remove older snapshots: 'calve remote gc --keep 2 --grace 1h' marks objects \
                     that no name needs then, and the same command removes them an hour later"
                ),
            }
        }
        // A push sends a missing object again.
        ErrorKind::Damaged if error.kind() == io::ErrorKind::NotFound => {
            "try again; if it stays so, push the snapshot again from a machine that has it: 'calve push SNAPSHOT'".to_owned()
        }
        ErrorKind::Damaged if is_of_content(url) => {
            let remove = match file {
                Some(file) => format!("rm {}", shell_word(file)),
                None => "remove that object".to_owned(),
            };
            format!(
                "try again; if it stays so, remove what is damaged and push the snapshot again from a machine that has it: {remove}; \
                 calve push SNAPSHOT"
            )
        }
        ErrorKind::Damaged => {
            "try again; if it stays so, 'calve remote verify' says which objects are damaged".to_owned()
        }
        _ => return None,
    };
    Some(hint)
}

/// Whether a URL names one object. Its name is a hash or the number of a change.
fn is_of_content(url: &str) -> bool {
    let name = url.rsplit('/').next().unwrap_or_default();
    matches!(name.len(), 20 | 64) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(target_os = "linux")]
use crate::volume::facts::how_to_mount;

#[cfg(not(target_os = "linux"))]
fn how_to_mount(_: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_a_store_knows_has_a_way_out() {
        for (kind, operation, expected) in [
            (ErrorKind::SourceNotFound, Operation::Compare, "root"),
            (ErrorKind::StoreNotFound, Operation::FindStore, "calve init"),
            (ErrorKind::StoreNotFound, Operation::OpenStore, "--store"),
            (ErrorKind::StoreExists, Operation::MakeStore, "'calve --store '/a b/c' start NAME'"),
            (ErrorKind::DestinationExists, Operation::MakeStore, "rm -r '/a b/c'"),
            (ErrorKind::StoreIncompatible, Operation::OpenStore, "version"),
            (ErrorKind::StoreUntrusted, Operation::UseStore, "--store '/a b/c'"),
            (ErrorKind::StoreUntrusted, Operation::UseWorktree, "chown -R"),
            (ErrorKind::Damaged, Operation::ReadBlob, "calve store verify --repair"),
            (ErrorKind::ReadOnly, Operation::StartWorktreeOf, "--at DIR"),
            (ErrorKind::ReadOnly, Operation::DropWorktreeOf, "make '/a b/c' writable"),
            (ErrorKind::Busy, Operation::Write, "try again"),
            (ErrorKind::SnapshotNotFound, Operation::FindSnapshot, "calve log"),
            (ErrorKind::SnapshotNotFound, Operation::Compare, "calve snapshot"),
            (ErrorKind::SnapshotAmbiguous, Operation::FindSnapshot, "calve log -v"),
            (ErrorKind::WorktreeNotFound, Operation::FindWorktree, "calve list"),
            (ErrorKind::WorktreeExists, Operation::StartWorktree, "calve drop"),
            (ErrorKind::WorktreeMissing, Operation::OpenWorktree, "'calve restore w'"),
            (ErrorKind::WorktreeMissing, Operation::OpenWorktree, "'calve drop --force w'"),
            (ErrorKind::Changed, Operation::DropWorktree, "'calve drop --force w'"),
            (
                ErrorKind::CommitsOnlyHere,
                Operation::DropWorktree,
                "'git -C '/a b/c' switch -c BRANCH'",
            ),
            (ErrorKind::CommitsOnlyHere, Operation::DropWorktree, "'calve drop --force w'"),
            (ErrorKind::Busy, Operation::DropWorktree, "'calve drop --force w'"),
            (ErrorKind::BranchExists, Operation::MakeBranch, "-b BRANCH"),
            (ErrorKind::CommitNotFound, Operation::FindCommit, "git log --oneline --all"),
            (ErrorKind::Git, Operation::CheckOut, "'git worktree add DIR '/a b/c''"),
            (ErrorKind::Git, Operation::DropWorktree, "'calve drop --force w'"),
            (ErrorKind::Git, Operation::LinkWorktrees, "--git copy"),
            (ErrorKind::Git, Operation::Fill, "--from DIR"),
            (ErrorKind::Overlap, Operation::Fill, "git worktree list"),
            (ErrorKind::Conflict, Operation::Fill, "--from DIR"),
            (ErrorKind::InvalidPattern, Operation::ReadPatterns, "relative path"),
            (ErrorKind::InvalidName, Operation::UseBranch, "--detach"),
            (ErrorKind::Changed, Operation::SwitchWorktree, "'calve capture w'"),
            (ErrorKind::Changed, Operation::SwitchWorktree, "'calve switch w --undo'"),
            (ErrorKind::InvalidName, Operation::UseName, "no slash"),
            (
                ErrorKind::Overlap,
                Operation::UseWorktree,
                "work in '/the worktree', or delete '/a b/c/.calve'",
            ),
            (ErrorKind::Overlap, Operation::DropWorktree, "'git worktree remove PATH'"),
            (ErrorKind::Overlap, Operation::MakeStoreFor, "calve status"),
            (ErrorKind::DestinationExists, Operation::StartWorktree, "--at"),
            (ErrorKind::StoreNotFound, Operation::FindStoreOfWorktree, "'calve list'"),
            (ErrorKind::StoreNotFound, Operation::FindStoreOfProject, "mount it"),
            (ErrorKind::Overlap, Operation::UseProject, "work in '/the worktree'"),
            (ErrorKind::ParentNotFound, Operation::Open, "mkdir -p"),
            (ErrorKind::StorageFull, Operation::MakeStore, "free some space (df -h '/a b')"),
            (ErrorKind::StorageFull, Operation::Write, "df -h '/a b'"),
            (ErrorKind::StorageFull, Operation::Write, "calve drop"),
            (ErrorKind::PermissionDenied, Operation::Open, "ls -ld"),
            (ErrorKind::RemoteUnfit, Operation::MakeRemote, "empty place"),
        ] {
            let error = io::Error::other("cause");
            let paths = (Path::new("/a b/c"), Some(Path::new("/the worktree")));
            let got = way_out(kind, operation, paths, &error, " w");
            assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{kind:?}: {got:?}");
        }
    }

    #[test]
    fn a_snapshot_that_a_remote_lacks_is_looked_for_among_the_names_of_the_remote() {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let paths = (Path::new("ready"), Some(Path::new("s3://bucket/trees")));
        let got = way_out(ErrorKind::SnapshotNotFound, Operation::FindSnapshot, paths, &gone, "");
        assert!(got.is_some_and(|got| got.contains("'calve remote names'")));
    }

    #[test]
    fn what_fails_at_a_remote_has_a_way_out_that_is_about_the_remote() {
        use io::ErrorKind as Io;
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        let pack = "a".repeat(64);
        let change = "0".repeat(20);
        for (kind, operation, url, cause, expected) in [
            (
                ErrorKind::StorageFull,
                Operation::Push,
                "file://HERE/packs/x",
                Io::StorageFull,
                "df -h HERE)",
            ),
            (
                ErrorKind::StorageFull,
                Operation::Push,
                "file://HERE/packs/x",
                Io::StorageFull,
                "calve remote gc",
            ),
            (
                ErrorKind::StorageFull,
                Operation::Push,
                "file://HERE/packs/x",
                Io::QuotaExceeded,
                "quota -s",
            ),
            (
                ErrorKind::StorageFull,
                Operation::Push,
                "s3://b/packs/x",
                Io::StorageFull,
                "give the remote more room",
            ),
            (
                ErrorKind::StorageFull,
                Operation::CollectRemote,
                "file://HERE/x",
                Io::StorageFull,
                "about 1 MB",
            ),
            (
                ErrorKind::StorageFull,
                Operation::MakeRemote,
                "file://HERE/x",
                Io::StorageFull,
                "df -h HERE)",
            ),
            (
                ErrorKind::PermissionDenied,
                Operation::Push,
                "file://HERE/packs/x",
                Io::PermissionDenied,
                "ls -ld HERE;",
            ),
            (
                ErrorKind::PermissionDenied,
                Operation::ReadRemote,
                "s3://b/x",
                Io::PermissionDenied,
                "credentials",
            ),
            (
                ErrorKind::Io,
                Operation::MakeRemote,
                "file://HERE/none",
                Io::NotFound,
                "mkdir -p HERE/none",
            ),
            (
                ErrorKind::RemoteNotFound,
                Operation::OpenRemote,
                "file://HERE",
                Io::NotFound,
                "remote init file://HERE",
            ),
            (
                ErrorKind::RemoteNotFound,
                Operation::OpenRemote,
                "file://HERE/none",
                Io::NotFound,
                "no folder HERE/none",
            ),
            (
                ErrorKind::RemoteNotFound,
                Operation::OpenRemote,
                "s3://b",
                Io::NotFound,
                "remote init s3://b",
            ),
            (
                ErrorKind::Damaged,
                Operation::ReadRemote,
                "file://HERE/packs/PACK",
                Io::InvalidData,
                "rm HERE/packs/PACK;",
            ),
            (
                ErrorKind::Damaged,
                Operation::Push,
                "file://HERE/packs/PACK",
                Io::InvalidData,
                "rm HERE/packs/PACK;",
            ),
            (
                ErrorKind::Damaged,
                Operation::CollectRemote,
                "file://HERE/names/n/CHANGE",
                Io::InvalidData,
                "/names/n/CHANGE;",
            ),
            (
                ErrorKind::Damaged,
                Operation::ReadRemote,
                "s3://b/packs/PACK",
                Io::InvalidData,
                "remove that object",
            ),
            (
                ErrorKind::Damaged,
                Operation::ReadRemote,
                "file://HERE/packs/PACK",
                Io::NotFound,
                "'calve push SNAPSHOT'",
            ),
            (
                ErrorKind::Damaged,
                Operation::ReadRemote,
                "file://HERE/parts",
                Io::InvalidData,
                "calve remote verify",
            ),
        ] {
            let full = |text: &str| {
                text.replace("HERE", here).replace("PACK", &pack).replace("CHANGE", &change)
            };
            let (url, error) = (full(url), io::Error::from(cause));
            let got = way_out(kind, operation, (Path::new(&url), None), &error, "");
            let expected = full(expected);
            assert!(got.as_ref().is_some_and(|got| got.contains(&expected)), "{url}: {got:?}");
        }
    }

    #[test]
    fn what_a_web_server_cannot_do_has_a_way_out() {
        for (kind, operation, expected) in [
            (ErrorKind::RemoteUnfit, Operation::MakeRemote, "remote init file:///FOLDER"),
            (ErrorKind::RemoteUnfit, Operation::Push, "the place behind the web server"),
            (ErrorKind::RemoteUnfit, Operation::CollectRemote, "the place behind the web server"),
            (ErrorKind::RemoteUnfit, Operation::ListRemote, "'calve remote log NAME'"),
            (ErrorKind::RemoteUnfit, Operation::ReadRemote, "nginx"),
            (ErrorKind::RemoteNotFound, Operation::OpenRemote, "check the URL"),
            (ErrorKind::PermissionDenied, Operation::ReadRemote, "read and list"),
            (ErrorKind::Io, Operation::OpenRemote, "its certificate"),
            (ErrorKind::SnapshotNotFound, Operation::FindSnapshot, "ask the person who pushes"),
        ] {
            let error = io::Error::other("cause");
            let url = Path::new("https://host/trees");
            let got = way_out(kind, operation, (url, Some(url)), &error, "");
            assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{kind:?}: {got:?}");
        }
    }

    #[test]
    fn in_a_mount_point_a_folder_inside_it_is_named() {
        let busy = io::Error::from(io::ErrorKind::ResourceBusy);
        let paths = (Path::new("/a b"), None);
        let got = way_out(ErrorKind::DestinationExists, Operation::CheckOutInto, paths, &busy, "");
        assert_eq!(got.as_deref(), Some("name a folder inside it, such as '/a b/app'"));
    }

    #[test]
    fn a_current_folder_that_is_gone_has_a_way_out() {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let got = way_out(ErrorKind::Io, Operation::Open, (Path::new("."), None), &gone, "");
        assert!(got.is_some_and(|got| got.contains("'cd'")));
    }
}
