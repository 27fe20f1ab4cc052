//! The values that some flags take, and their meaning to the library.

use clap::ValueEnum;

/// Defines the values of a flag that mean those of a type of the library: they have the same names.
macro_rules! choices {
    ($($(#[$meta:meta])* $name:ident = $of:ty {
        $($(#[$about:meta])* $choice:ident,)+
    })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub(crate) enum $name {
            $($(#[$about])* $choice,)+
        }

        impl From<$name> for $of {
            fn from(choice: $name) -> Self {
                match choice {
                    $($name::$choice => Self::$choice,)+
                }
            }
        }
    )+};
}

/// Whether a start may copy; see [`calve::StartOptions::reflink`].
#[cfg(unix)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StartReflink {
    /// Reflink where the filesystem can, else copy
    #[default]
    Auto,
    /// Reflink, or refuse before anything is made
    Always,
}

choices! {
    /// See [`calve::Reflink`].
    Reflink = calve::Reflink {
        /// Reflink where the filesystem can, else copy
        Auto,
        /// Reflink, or fail before anything appears
        Always,
        /// Copy the bytes
        Never,
    }

    /// See [`calve::CloneMode`].
    Mode = calve::CloneMode {
        /// As --reflink says; isolated from SRC
        Clone,
        /// Copies that share nothing; isolated from SRC
        Copy,
        /// Hard links: a write to either name changes both
        Hardlink,
        /// Symbolic links to SRC's files: not isolated
        Symlink,
    }

    /// See [`calve::Existing`].
    Existing = calve::Existing {
        /// Fail, and change nothing
        Fail,
        /// Leave that destination as it is
        Skip,
        /// Replace the whole tree, atomically
        Replace,
        /// Merge into it, atomically for each file
        Merge,
        /// Merge into it, but leave what exists as it is
        Keep,
    }

    /// See [`calve::GitIndex`].
    GitIndex = calve::GitIndex {
        /// Record the clone's files, so that git need not read them
        Ready,
        /// Copy them byte for byte; the first git status reads every file
        Exact,
    }
}
