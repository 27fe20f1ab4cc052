use super::*;

/// The way out of a failure in the worktree w.
fn way_out(
    kind: ErrorKind,
    operation: Operation,
    path: &Path,
    other: Option<&Path>,
    error: &io::Error,
) -> Option<String> {
    let details = &[PathBuf::from("0123456789ab one (in the repository /r)")];
    super::way_out(&Case { kind, operation, path, other, error, details, name: " w" })
}

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
        (ErrorKind::StoreUntrusted, Operation::MakeFolder, "'--at DIR'"),
        (ErrorKind::Damaged, Operation::ReadBlob, "calve store verify --repair"),
        (ErrorKind::ReadOnly, Operation::StartWorktreeOf, "--at DIR"),
        (ErrorKind::ReadOnly, Operation::DropWorktreeOf, "make '/a b/c' writable"),
        (ErrorKind::Busy, Operation::Write, "try again"),
        (ErrorKind::SnapshotNotFound, Operation::FindSnapshot, "calve log"),
        (ErrorKind::SnapshotNotFound, Operation::Compare, "calve snapshot"),
        (ErrorKind::SnapshotAmbiguous, Operation::FindSnapshot, "calve log -v"),
        (ErrorKind::WorktreeNotFound, Operation::FindWorktree, "calve list"),
        (ErrorKind::WorktreeExists, Operation::StartWorktree, "calve list"),
        (ErrorKind::WorktreeMissing, Operation::OpenWorktree, "'calve restore w'"),
        (ErrorKind::WorktreeMissing, Operation::OpenWorktree, "'calve drop --force w'"),
        (ErrorKind::Changed, Operation::DropWorktree, "'calve drop --force w'"),
        (
            ErrorKind::CommitsOnlyHere,
            Operation::DropWorktree,
            "'git -C /r push REMOTE 0123456789ab:refs/heads/NEW'",
        ),
        (ErrorKind::CommitsOnlyHere, Operation::DropWorktree, "'calve drop --force w'"),
        (ErrorKind::Busy, Operation::DropWorktree, "'calve drop --force w'"),
        (ErrorKind::BranchExists, Operation::MakeBranch, "-b BRANCH"),
        (ErrorKind::CommitNotFound, Operation::FindCommit, "git log --oneline --all"),
        (ErrorKind::Git, Operation::CheckOut, "'git worktree add DIR '/a b/c''"),
        // Its folder is gone.
        (ErrorKind::Git, Operation::DropWorktree, "'calve drop --force --discard w'"),
        (ErrorKind::Git, Operation::LinkWorktrees, "--git copy"),
        (ErrorKind::Git, Operation::Fill, "--from DIR"),
        (ErrorKind::Overlap, Operation::Fill, "git worktree list"),
        (ErrorKind::Conflict, Operation::Fill, "--from DIR"),
        (ErrorKind::InvalidPattern, Operation::ReadPatterns, "relative path"),
        (ErrorKind::InvalidName, Operation::UseBranch, "--detach"),
        (ErrorKind::Changed, Operation::RestoreWorktree, "'calve snapshot --of w'"),
        (ErrorKind::InvalidName, Operation::UseName, "no slash"),
        (
            ErrorKind::Overlap,
            Operation::UseWorktree,
            "work in '/the worktree', or delete '/a b/c/.git'",
        ),
        (ErrorKind::Overlap, Operation::DropWorktree, "'git worktree remove PATH'"),
        (ErrorKind::Overlap, Operation::MakeFolder, "outside of the store"),
        (ErrorKind::Overlap, Operation::MakeStoreFor, "calve status"),
        (ErrorKind::Overlap, Operation::MakeStore, "outside of it"),
        (ErrorKind::DestinationExists, Operation::StartWorktree, "--at"),
        (ErrorKind::StoreNotFound, Operation::FindStoreOfWorktree, "'calve list'"),
        (ErrorKind::StoreNotFound, Operation::FindStoreOfProject, "mount it"),
        (ErrorKind::Overlap, Operation::UseProject, "work in '/the worktree'"),
        (ErrorKind::ParentNotFound, Operation::Open, "mkdir -p"),
        (ErrorKind::StorageFull, Operation::MakeStore, "free some space (df -h /)"),
        (ErrorKind::StorageFull, Operation::Write, "df -h /"),
        (ErrorKind::StorageFull, Operation::Write, "calve drop"),
        (ErrorKind::PermissionDenied, Operation::Open, "ls -ld"),
        (ErrorKind::RemoteUnfit, Operation::MakeRemote, "empty place"),
    ] {
        let error = io::Error::other("cause");
        let (path, other) = (Path::new("/a b/c"), Some(Path::new("/the worktree")));
        let got = way_out(kind, operation, path, other, &error);
        assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{kind:?}: {got:?}");
    }
}

#[test]
fn a_stopped_process_that_holds_a_lock_is_named_with_the_ways_to_go_on() {
    for (cause, expected) in [
        ("process 4711 (calve, stopped) holds it, for more than 20 s now", "'kill -CONT 4711'"),
        ("database is locked: process 4711 (a (b), stopped) writes to it", "'kill -KILL 4711'"),
        ("process 4711 (calve) holds it, for more than 1800 s now", "try again"),
    ] {
        let (error, lock) = (io::Error::other(cause), Path::new("/s/locks/content"));
        let got = way_out(ErrorKind::Busy, Operation::Lock, lock, None, &error);
        assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{cause}: {got:?}");
    }
}

#[test]
fn a_snapshot_that_a_remote_lacks_is_looked_for_among_the_names_of_the_remote() {
    let gone = io::Error::from(io::ErrorKind::NotFound);
    let (path, other) = (Path::new("ready"), Some(Path::new("s3://bucket/trees")));
    let got = way_out(ErrorKind::SnapshotNotFound, Operation::FindSnapshot, path, other, &gone);
    assert!(got.is_some_and(|got| got.contains("'calve remote names'")));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row for each case")]
fn what_fails_at_a_remote_has_a_way_out_that_is_about_the_remote() {
    use io::ErrorKind as Io;
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_str().unwrap();
    let pack = "a".repeat(64);
    let change = "0".repeat(20);
    for (kind, operation, url, cause, expected) in [
        (
            ErrorKind::RemoteUnfit,
            Operation::MakeRemote,
            "file://HERE",
            Io::InvalidInput,
            "outside of all projects",
        ),
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
        let got = way_out(kind, operation, Path::new(&url), None, &error);
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
        let got = way_out(kind, operation, url, Some(url), &error);
        assert!(got.as_ref().is_some_and(|got| got.contains(expected)), "{kind:?}: {got:?}");
    }
}

#[test]
fn in_a_mount_point_a_folder_inside_it_is_named() {
    let busy = io::Error::from(io::ErrorKind::ResourceBusy);
    let (path, other) = (Path::new("/a b"), None);
    let got = way_out(ErrorKind::DestinationExists, Operation::CheckOutInto, path, other, &busy);
    assert_eq!(got.as_deref(), Some("name a folder inside it, such as '/a b/app'"));
}

#[test]
fn a_current_folder_that_is_gone_has_a_way_out() {
    let gone = io::Error::from(io::ErrorKind::NotFound);
    let got = way_out(ErrorKind::Io, Operation::Open, Path::new("."), None, &gone);
    assert!(got.is_some_and(|got| got.contains("'cd'")));
}
