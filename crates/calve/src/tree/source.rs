//! A source of trees: a live directory ([`walk`](super::walk)), a list of files that are anywhere
//! ([`list`](super::list)), or the manifest of a snapshot in a store.
//!
//! A source says which entries there are, where their content is, and which metadata they get. The
//! engine makes them.

use std::ffi::{CStr, CString};
use std::fmt::Debug;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::FileType;

use super::engine::Worker;
use super::file::Job;
use super::links::LaterName;
use super::op::{Dir, NewNode, Op, OpenNode};
use super::special::Special;
use super::tally::Because;
use crate::error::{Error, Operation};
use crate::reflink::meta::{Attrs, Meta};

/// A source of trees. See the module.
pub(crate) trait Source: Sized + Sync {
    /// The source's knowledge of a directory.
    type Directory: Debug + Send + Sync;
    /// A child directory that the source found and did not open yet.
    type Child: Send;
    /// The source's own values for each thread.
    type Thread: Send;

    /// The operation's name in errors.
    const OPERATION: Operation;
    /// How many descriptors the source keeps for a directory: 1, or 0 if it opens none.
    const SIDES: usize;
    /// On systems where cloning makes the file: whether the clone already has its metadata.
    const CLONES_HAVE_METADATA: bool = true;
    /// Whether the source wants to know each inode that the engine made (`note`).
    const NOTES: bool = false;

    fn thread(&self) -> Self::Thread;

    /// Opens a child directory. `None` if the child is gone or is no part of the tree.
    fn open(
        worker: &mut Worker<'_, '_, Self>,
        parent: &OpenNode<Self>,
        child: Self::Child,
    ) -> Result<Option<Opened<Self>>, Error>;

    /// Hands over all entries of a directory.
    fn read(worker: &mut Worker<'_, '_, Self>, node: &OpenNode<Self>) -> Result<(), Error>;

    /// Opens the content of a regular file. `None` if the file is gone, or is no regular file any
    /// more.
    fn file(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        entry: NamedEntry<'_>,
    ) -> Result<Option<Job<Self>>, Error>;

    /// Looks at a symbolic link or a FIFO. `None` if the entry is gone, or is neither any more.
    fn special(
        worker: &mut Worker<'_, '_, Self>,
        node: &OpenNode<Self>,
        entry: NamedEntry<'_>,
    ) -> Result<Option<Special<Self>>, Error>;

    /// Where a regular file is, for links to it. `None` if no file of this source is linked to.
    fn original<'h>(
        _op: &'h Op<'_, Self>,
        _node: &'h OpenNode<Self>,
        _entry: NamedEntry<'h>,
    ) -> Option<Original<'h>> {
        None
    }

    /// The path of an entry in the source, for messages.
    fn path_of(op: &Op<'_, Self>, node: &NewNode<Self>, name: &CStr) -> PathBuf {
        op.source.join(node.path_of(name))
    }

    /// Whether the further name of a file, which [is not certain](LaterName::is_certain), has the
    /// same bytes as the first.
    fn is_same_file(
        _worker: &mut Worker<'_, '_, Self>,
        _node: &OpenNode<Self>,
        _name: &LaterName<Dir<Self>>,
    ) -> Result<bool, Error> {
        Ok(true)
    }

    /// The extended attributes that a file gets.
    fn attributes(&self, node: &NewNode<Self>, job: &Job<Self>) -> io::Result<Option<Box<Attrs>>>;

    /// The error for a file that could not be made.
    fn failed(source: PathBuf, dest: PathBuf, error: io::Error) -> Error {
        Error::io(Operation::Clone, source, error).with_other(dest)
    }

    /// The reason to report for a copied file: calve tried to clone `from` and was refused
    /// `because` of something.
    fn refused(&self, because: Because, _from: &Meta) -> Because {
        because
    }

    /// Notes the inode `found`, which a destination now has for the entry `number`.
    fn note(_thread: &mut Self::Thread, _dest: usize, _number: u32, _found: &Meta) {}

    /// The number of a directory, where entries have numbers.
    fn number(&self, _node: &NewNode<Self>) -> u32 {
        0
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedEntry<'a> {
    pub(crate) name: &'a CStr,
    pub(crate) kind: FileType,
    /// The entry's number, where entries have numbers.
    pub(crate) number: u32,
}

/// A regular file that can be linked to.
pub(crate) struct Original<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    /// The device, for what calve remembers of links from it.
    pub(crate) dev: u64,
    /// The target of symbolic links to the file. Empty if there will be none.
    pub(crate) absolute: PathBuf,
}

/// A directory that is to be made.
pub(crate) struct Opened<S: Source> {
    pub(crate) name: CString,
    /// The source's descriptor, if it has one.
    pub(crate) side: Option<OwnedFd>,
    pub(crate) meta: Meta,
    pub(crate) attrs: Option<Box<Attrs>>,
    pub(crate) own: S::Directory,
}
