//! The operations that an error can name.

use crate::macros::named;

/// Adds each operation's name to its documentation.
macro_rules! operations {
    ($($variant:ident = $text:literal,)*) => {
        named! {
            /// What calve was doing when it failed.
            ///
            /// The text of an [`Error`](crate::Error) starts with the operation's name; the paths
            /// follow. If the name ends with `of`, `in`, `from` or `with`, the path is the thing
            /// that the operation works on, mostly the store.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            #[non_exhaustive]
            pub enum Operation {
                $(#[doc = concat!("`", $text, "`")] $variant = $text,)*
            }
        }

        #[cfg(test)]
        impl Operation {
            const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

operations! {
    AddRemote = "add remote",
    AskGit = "ask git about",
    BringBack = "bring back what was moved aside in",
    CheckOut = "check out",
    CheckOutInto = "check out into",
    Clone = "clone",
    CloneTo = "clone to",
    Close = "close",
    CollectGarbage = "collect garbage in",
    CollectRemote = "collect garbage of the remote",
    Compare = "compare",
    Copy = "copy",
    CopyRepository = "copy the repository",
    DeleteBranch = "delete the branch",
    DeleteDropped = "delete what was dropped in",
    Drop = "drop",
    DropWorktree = "drop worktree",
    DropWorktreeOf = "drop a worktree of",
    EmptyTrash = "empty the trash of",
    Fill = "fill",
    FillFrom = "fill from",
    FindCommit = "find the commit",
    FindRemote = "find remote",
    FindSnapshot = "find snapshot",
    FindStore = "find the store of",
    FindStoreOfProject = "find the store of project",
    FindStoreOfWorktree = "find the store of worktree",
    FindWorktree = "find worktree",
    Flush = "flush",
    ForkWorktree = "fork worktree",
    Link = "link",
    LinkWorktrees = "link worktrees to",
    ListRemote = "list the remote",
    Lock = "lock",
    LookAt = "look at",
    LookForProcesses = "look for living processes in",
    Make = "make",
    MakeBranch = "make the branch",
    MakeDirectory = "make directory",
    MakeFolder = "make folder",
    MakeRemote = "make remote",
    MakeStore = "make store",
    MakeStoreFor = "make store for",
    MakeStoreIn = "make store in",
    MakeSymbolicLink = "make symbolic link",
    MakeKey = "make a key from",
    MakeReadyTree = "make ready tree",
    MakeReadyTreeIn = "make ready tree in",
    Mark = "mark",
    Measure = "measure",
    Merge = "merge",
    MergeDirectory = "merge directory",
    MergeFile = "merge file",
    Migrate = "migrate",
    Mount = "mount",
    MoveAside = "move aside",
    NameSnapshot = "name a snapshot in",
    Open = "open",
    OpenDirectory = "open directory",
    OpenProject = "open project",
    OpenRemote = "open remote",
    OpenStore = "open store",
    OpenWorktree = "open worktree",
    Pack = "pack",
    PackAgain = "pack again",
    Publish = "publish",
    Pull = "pull into",
    Push = "push",
    Put = "put",
    Read = "read",
    ReadAttributes = "read attributes of",
    ReadBlob = "read blob",
    ReadDirectory = "read directory",
    ReadId = "read the id",
    ReadIgnoreFile = "read the ignore file of",
    ReadKey = "read the key",
    ReadLink = "read link",
    ReadPattern = "read pattern",
    ReadPatterns = "read patterns",
    ReadRemote = "read from the remote",
    Reflink = "reflink",
    RegisterWorktree = "register worktree",
    Remove = "remove",
    RemoveLeftovers = "remove what was staged, now that all is done, in",
    RemoveName = "remove a name from",
    RemoveReplaced = "remove what was replaced, now",
    RemoveStage = "remove the stage in",
    RenameIntoPlace = "rename into place",
    Repair = "repair",
    Replace = "replace",
    Reshare = "reshare",
    Resolve = "resolve",
    RestoreWorktree = "restore worktree",
    RestoreWorktreeOf = "restore a worktree of",
    RewritePaths = "rewrite paths in",
    Seal = "seal",
    SetAside = "set aside",
    SetMetadata = "set metadata of",
    Shed = "shed build output of",
    ShowAtProject = "show at the project's path",
    Stage = "stage",
    StageIn = "stage in",
    StartManyWorktrees = "start so many worktrees of",
    StartWorktree = "start worktree",
    StartWorktreeOf = "start a worktree of",
    TakeIn = "take in",
    TakeSnapshot = "take a snapshot of",
    TakeSnapshotWith = "take a snapshot with",
    Undo = "undo",
    Unlock = "unlock the registration of",
    Unregister = "remove git's registration of",
    Unpack = "unpack",
    Update = "update",
    Use = "use",
    UseBranch = "use the branch",
    UseName = "use the name",
    UseStore = "use the store",
    UseProject = "use project",
    UseWorktree = "use worktree",
    Verify = "verify",
    Warm = "warm",
    Write = "write",
    WriteIndex = "write index",
    WritePack = "write pack",
    WritePackIn = "write pack in",
    WritePatch = "write the patch of",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_has_a_name_of_its_own() {
        let names: std::collections::HashSet<_> =
            Operation::ALL.iter().map(|operation| operation.as_str()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
