//! What every public type promises beside its own methods.

use std::error::Error as _;
use std::io;

use calve::*;

/// Sent to other threads, shared with them, printed.
fn is_a_good_citizen<T: Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
fn is_a_value<T: Clone + Send + Sync + Unpin + std::fmt::Debug + 'static>() {}
#[cfg(all(unix, feature = "store"))]
fn is_an_id<T: Copy + Ord + std::hash::Hash + std::fmt::Display + std::str::FromStr>() {}

#[test]
fn everything_public_can_be_sent_shared_and_printed() {
    is_a_good_citizen::<Error>();
    is_a_good_citizen::<Progress>();
    is_a_good_citizen::<Probe>();
    is_a_value::<CloneOptions>();
    is_a_value::<Cancel>();
    is_a_value::<CloneReport>();
    is_a_value::<DestinationReport>();
    is_a_value::<Skipped>();
    is_a_value::<ErrorKind>();
    is_a_value::<ReflinkOutcome>();
}

#[cfg(all(unix, feature = "store"))]
#[test]
fn stores_and_worktrees_can_be_sent_shared_and_printed() {
    is_a_value::<Store>();
    is_a_value::<Worktree>();
    is_a_value::<Discovered>();
    is_a_value::<Diff>();
    is_a_good_citizen::<DroppedWorktree>();
    is_a_good_citizen::<FillPlan>();
    is_a_value::<StoreOptions>();
    is_a_value::<StartOptions>();
    is_a_value::<GcOptions>();
    is_a_value::<PackOptions>();
    is_a_value::<SnapshotOptions>();
    is_a_value::<SwitchOptions>();
    is_a_value::<DropOptions>();
    is_a_value::<VerifyOptions>();
    is_a_value::<Snapshot>();
    is_a_value::<SnapshotReport>();
    is_a_value::<StartReport>();
    is_a_value::<SwitchReport>();
    is_a_value::<WorktreeStatus>();
    is_a_value::<VerifyReport>();
    is_a_value::<GcReport>();
    is_a_value::<PackReport>();
    is_a_value::<WarmReport>();
    is_a_value::<StoreStats>();
    is_an_id::<SnapshotId>();
    is_an_id::<BlobId>();
}

#[cfg(all(unix, feature = "remote"))]
#[test]
fn remotes_can_be_sent_shared_and_printed() {
    is_a_value::<Remote>();
    is_a_value::<RemoteName>();
    is_a_value::<RemoteSettings>();
    is_a_value::<KnownRemote>();
    is_a_value::<PushOptions>();
    is_a_value::<PushReport>();
    is_a_value::<PullOptions>();
    is_a_value::<PullReport>();
    is_a_value::<RemoteGcOptions>();
    is_a_value::<RemoteGcReport>();
    is_a_value::<RemoteVerifyOptions>();
    is_a_value::<RemoteVerifyReport>();
    is_a_value::<PublicKey>();
    is_a_value::<SigningKey>();
}

#[cfg(all(unix, feature = "store"))]
#[test]
fn an_id_is_read_as_it_is_printed_and_nothing_else_is() {
    let id = SnapshotId::from_bytes(std::array::from_fn(|at| u8::try_from(at * 8).unwrap()));
    let text = id.to_string();
    assert_eq!(text.parse::<SnapshotId>().unwrap(), id);
    assert_eq!(text.to_uppercase().parse::<SnapshotId>().unwrap(), id);
    let long = format!("{text}0");
    let wide = format!("{}é", &text[2..]);
    for wrong in
        ["", "00", &text[1..], &long, &text.replace('0', "g"), &wide, &text.replace("00", "+0")]
    {
        let error = wrong.parse::<SnapshotId>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{wrong}");
    }
}

#[test]
fn an_error_becomes_one_of_the_standard_librarys_with_its_kind_and_its_text() {
    let scratch = tempfile::tempdir().unwrap();
    let there = scratch.path().join("there");
    std::fs::create_dir(&there).unwrap();
    let options = CloneOptions::new();
    for (source, dest, kind) in [
        ("gone", "new", io::ErrorKind::NotFound),
        ("there", "there/in/none", io::ErrorKind::NotFound),
    ] {
        let error = clone_tree(scratch.path().join(source), &[scratch.path().join(dest)], &options)
            .unwrap_err();
        let (text, cause) = (error.to_string(), error.source().unwrap().to_string());
        assert!(text.ends_with(&cause), "{text}");
        let standard = io::Error::from(error);
        assert_eq!((standard.kind(), standard.to_string()), (kind, text));
        let back = standard.downcast::<Error>().unwrap();
        assert_eq!(back.io_error().kind(), kind);
    }
}
