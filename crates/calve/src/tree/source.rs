//! Where a tree comes from: a live directory ([`walk`](super::walk)), or the manifest of a snapshot in a store.
//!
//! A source says which entries there are, where their content is, and which metadata they shall have. The engine makes them.

use std::ffi::{CStr, CString};
use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FileType;

use super::engine::Worker;
use super::file::Job;
use super::node::Handles;
use super::op::Node;
use super::special::Special;
use super::tally::Because;
use crate::error::{Error, Operation};
use crate::reflink::meta::{Attrs, Meta};

/// See the module.
pub(crate) trait Source: Sized + Sync {
    /// What it knows of a directory.
    type Directory: Debug + Send + Sync;
    /// A directory that it found in another.
    type Child: Send;
    /// What each thread keeps.
    type Thread: Send;

    /// What the operation is called in errors.
    const OPERATION: Operation;
    /// How many sides of a directory are its own: 1, or 0 where nothing of it is open.
    const SIDES: usize;
    /// Whether a file that a clone makes has its metadata already, where cloning makes the file.
    const CLONES_HAVE_METADATA: bool;
    /// Whether it wants to know what stands at the destinations in the end.
    const NOTES: bool;

    fn thread(&self) -> Self::Thread;

    /// Opens a directory that it found; `None` where it is gone or no part of the tree.
    fn open(
        worker: &mut Worker<'_, '_, Self>,
        parent: &Arc<Node<Self>>,
        above: &Handles,
        child: Self::Child,
    ) -> Result<Option<Opened<Self>>, Error>;

    /// Hands over everything that is in a directory.
    fn read(
        worker: &mut Worker<'_, '_, Self>,
        node: &Arc<Node<Self>>,
        handles: &Arc<Handles>,
    ) -> Result<(), Error>;

    /// Opens the content of a regular file; `None` where it is gone, or none any more.
    fn file(
        worker: &mut Worker<'_, '_, Self>,
        node: &Arc<Node<Self>>,
        handles: &Handles,
        entry: Named<'_>,
    ) -> Result<Option<Job<Self>>, Error>;

    /// What a symbolic link or a FIFO is; `None` where it is gone, or none any more.
    fn special(
        worker: &mut Worker<'_, '_, Self>,
        node: &Node<Self>,
        handles: &Handles,
        entry: Named<'_>,
    ) -> Result<Option<Special<Self>>, Error>;

    /// The attributes that a file shall have.
    fn attributes(&self, node: &Node<Self>, job: &Job<Self>) -> io::Result<Option<Box<Attrs>>>;

    /// A file could not be made.
    fn failed(source: PathBuf, dest: PathBuf, error: io::Error) -> Error;

    /// Why a file is copied, where a clone from `from` was refused `because` of something.
    fn refused(&self, because: Because, from: &Meta) -> Because;

    /// Notes what stands for an entry at a destination.
    fn note(thread: &mut Self::Thread, dest: usize, number: u32, found: &Meta);

    /// The number of a directory.
    fn number(&self, node: &Node<Self>) -> u32;
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named<'a> {
    pub(crate) name: &'a CStr,
    pub(crate) kind: FileType,
    /// Its number, where entries have numbers.
    pub(crate) number: u32,
}

/// A directory that is to be made.
pub(crate) struct Opened<S: Source> {
    pub(crate) name: CString,
    /// The source's side.
    pub(crate) side: Option<OwnedFd>,
    pub(crate) meta: Meta,
    pub(crate) attrs: Option<Box<Attrs>>,
    pub(crate) own: S::Directory,
}
