//! The kinds of files that name the project's root by its absolute path, and what each means in a
//! worktree: one table, for `start`, `doctor` and `clone`.
//!
//! Most kinds show when a file's content is read. A file that speaks for many others, such as
//! `CMakeCache.txt`, is [looked at](looked_at) for its name, also where no other content is read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::LazyLock;

use crate::macros::named;

named! {
    listed:
    /// What kind of file names the project's root.
    // A kind's place here is its number in a store.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum PathKind {
        /// `pyvenv.cfg`, the description of a Python environment.
        EnvironmentConfig = "environment_config",
        /// `activate` and its forms for other shells.
        Activation = "activation",
        /// The first line of a program in a Python environment names the environment's interpreter.
        Script = "script",
        /// A `.pth` or `.egg-link` file: a folder that Python imports from.
        PathFile = "path_file",
        /// The module that finds a package which is installed in editable form.
        EditableFinder = "editable_finder",
        /// `direct_url.json`: the place that a package was installed from.
        DirectUrl = "direct_url",
        /// `RECORD`: the hashes of a package's files.
        Record = "record",
        /// A symbolic link with an absolute target.
        Link = "link",
        /// CMake's cache, and the files for build programs that CMake and Meson write.
        Build = "build",
        /// A program in `node_modules/.bin`.
        NodeShim = "node_shim",
        /// `.envrc` or `.env`.
        ShellEnvironment = "shell_environment",
        /// A list of the sources that a compiler read.
        DependencyInfo = "dependency_info",
        /// Any other text.
        Other = "other",
        /// An environment of conda or pixi.
        Conda = "conda",
        /// A symbolic link that leads out of the tree, from where another link leads back.
        LinkBack = "link_back",
        /// What cargo notes of a build, for itself.
        BuildRecord = "build_record",
        /// A file that names a running process: a pid file, or the note of a daemon.
        Process = "process",
        /// A symbolic link with a relative target outside of the tree, and a repository of git that
        /// borrows objects from such a place.
        LinkOut = "link_out",
    }
}

impl PathKind {
    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether calve knows the format, and so can give a worktree its own path.
    pub(crate) fn is_known(self) -> bool {
        self <= Self::Link
    }
}

named! {
    /// What it means for a worktree that one of its files names the project's root.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    #[non_exhaustive]
    pub enum PathMeaning {
        /// A build, a test or a program that uses the file takes the project's sources, and says
        /// nothing.
        FalseGreen = "false_green",
        /// A process runs that uses the project's files, and the file leads to it.
        Living = "living",
        /// A program that reads the file finds the project's files.
        LeadsBack = "leads_back",
        /// It names a place outside of the project by a relative path, which from the worktree
        /// leads elsewhere, or nowhere.
        LeadsElsewhere = "leads_elsewhere",
        /// The tool that wrote the file sees for itself that it is elsewhere.
        Harmless = "harmless",
        /// The worktree has the file with its own path.
        Rewritten = "rewritten",
    }
}

/// Which files a row is about.
enum KindFiles {
    /// Files of this name.
    Named(&'static str),
    /// Files whose names begin so.
    Begins(&'static str),
    /// Files whose names end so.
    Ends(&'static str),
    /// Files with the second name in a folder with the first.
    In(&'static str, &'static str),
    /// Files with the second name anywhere below a folder with the first.
    NamedBelow(&'static str, &'static str),
    /// All files in a folder of this name.
    AllIn(&'static str),
    /// All files below a folder of this name.
    Below(&'static str),
    /// What cargo writes for each build script: `build/NAME-HASH/NAME`.
    OfBuildScript(&'static str),
    /// Build files that a build script wrote: the script looks at them itself.
    BuiltByScript,
}

/// How a row's files are found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KindLook {
    /// calve finds them by their content, when it reads all contents.
    WithAll,
    /// Also where no content is read: these few are read then.
    First,
    /// By being there.
    Name,
}

struct Row(KindFiles, PathKind, &'static str, PathMeaning, KindLook);

/// The first row that is about a file decides.
static TABLE: &[Row] = {
    use KindFiles::{
        AllIn, Begins, Below, BuiltByScript, Ends, In, Named, NamedBelow, OfBuildScript,
    };
    use KindLook::{First, Name, WithAll};
    use PathKind::{
        Build, BuildRecord, Conda, DependencyInfo, LinkOut, NodeShim, ShellEnvironment,
    };
    use PathMeaning::{FalseGreen, Harmless, LeadsBack, LeadsElsewhere};
    &[
        // cargo compares `root-output` with the folder, and replaces the one by the other.
        Row(OfBuildScript("root-output"), BuildRecord, "cargo", Harmless, WithAll),
        Row(OfBuildScript("output"), BuildRecord, "cargo", Harmless, WithAll),
        Row(OfBuildScript("stderr"), BuildRecord, "cargo", Harmless, WithAll),
        Row(Below(".fingerprint"), BuildRecord, "cargo", Harmless, WithAll),
        Row(BuiltByScript, Build, "cargo", Harmless, WithAll),
        Row(Named("CMakeCache.txt"), Build, "cmake", FalseGreen, First),
        Row(Named("CTestTestfile.cmake"), Build, "cmake", FalseGreen, WithAll),
        Row(Named("cmake_install.cmake"), Build, "cmake", FalseGreen, WithAll),
        Row(Below("CMakeFiles"), Build, "cmake", FalseGreen, WithAll),
        Row(In("meson-info", "meson-info.json"), Build, "meson", FalseGreen, First),
        Row(Below("meson-info"), Build, "meson", FalseGreen, WithAll),
        Row(Below("meson-logs"), Build, "meson", Harmless, WithAll),
        Row(Below("meson-private"), Build, "meson", FalseGreen, WithAll),
        Row(Named("config.status"), Build, "configure", FalseGreen, First),
        Row(Named("config.log"), Build, "configure", Harmless, WithAll),
        Row(Begins(".lock-waf"), Build, "waf", FalseGreen, First),
        Row(Named("build.ninja"), Build, "ninja", FalseGreen, First),
        Row(Named(".ninja_deps"), Build, "ninja", FalseGreen, WithAll),
        // npm's native packages are built where they are installed, and not by hand.
        Row(NamedBelow("node_modules", "Makefile"), Build, "", LeadsBack, WithAll),
        Row(Named("Makefile"), Build, "make", FalseGreen, WithAll),
        Row(Named("compile_commands.json"), Build, "", LeadsBack, WithAll),
        Row(In("conda-meta", "history"), Conda, "conda", FalseGreen, Name),
        Row(Named(".pdm-python"), ShellEnvironment, "pdm", FalseGreen, First),
        Row(Named(".envrc"), ShellEnvironment, "", LeadsBack, First),
        Row(Named(".env"), ShellEnvironment, "", LeadsBack, First),
        Row(In("info", "alternates"), LinkOut, "git", LeadsElsewhere, First),
        Row(AllIn(".bin"), NodeShim, "", LeadsBack, WithAll),
        Row(Ends(".d"), DependencyInfo, "", Harmless, WithAll),
    ]
};

/// The rows of files that name a process. Each scan asks them about each name, so they are apart.
static PROCESSES: &[Row] = {
    use KindFiles::{Begins, Ends, Named};
    use KindLook::Name;
    use PathKind::Process;
    use PathMeaning::Living;
    &[
        Row(Ends(".pid"), Process, "", Living, Name),
        Row(Ends(".pid.lock"), Process, "", Living, Name),
        Row(Named("server-process.json"), Process, "", Living, Name),
        Row(Named(".dmypy.json"), Process, "", Living, Name),
        Row(Named("puma.state"), Process, "", Living, Name),
        Row(Begins(".s.PGSQL."), Process, "", Living, Name),
        Row(Ends(".sock.lock"), Process, "", Living, Name),
    ]
};

/// Whether a file of this name may name a process.
pub(super) fn may_name_process(name: &[u8]) -> bool {
    static BY_ENDS: LazyLock<RowsByEnds> =
        LazyLock::new(|| RowsByEnds::of(PROCESSES.iter().map(|row| row.0.ends())));
    BY_ENDS.rows(name).any(|row| PROCESSES[row].0.may_be(name))
}

/// The first and the last byte of names. `None`: any.
pub(super) struct NameEnds(Option<u8>, Option<u8>);

impl NameEnds {
    pub(super) fn of(begins: &str, ends: &str) -> Self {
        Self(begins.bytes().next(), ends.bytes().next_back())
    }
}

/// The rows of a table that may be about a name, by the name's first and last byte in either case. A
/// name of most files has none, and costs two looks.
pub(super) struct RowsByEnds {
    /// A bit for each row.
    first: [u64; 256],
    last: [u64; 256],
}

impl RowsByEnds {
    /// # Panics
    /// The table has more than 64 rows.
    pub(super) fn of(rows: impl Iterator<Item = NameEnds>) -> Self {
        let mut of = Self { first: [0; 256], last: [0; 256] };
        for (row, NameEnds(first, last)) in rows.enumerate() {
            assert!(row < 64, "a bit for each row");
            for byte in u8::MIN..=u8::MAX {
                let is = |end: Option<u8>| end.is_none_or(|end| end.eq_ignore_ascii_case(&byte));
                of.first[usize::from(byte)] |= u64::from(is(first)) << row;
                of.last[usize::from(byte)] |= u64::from(is(last)) << row;
            }
        }
        of
    }

    pub(super) fn rows(&self, name: &[u8]) -> impl Iterator<Item = usize> {
        let ends = name.first().zip(name.last());
        let mut left = ends.map_or(0, |(first, last)| {
            self.first[usize::from(*first)] & self.last[usize::from(*last)]
        });
        std::iter::from_fn(move || {
            let row = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (row < 64).then_some(row as usize)
        })
    }
}

impl KindFiles {
    /// What the names begin and end with, as far as the row says.
    fn ends(&self) -> NameEnds {
        match self {
            Self::Named(it) | Self::In(_, it) => NameEnds::of(it, it),
            Self::Begins(it) => NameEnds::of(it, ""),
            Self::Ends(it) => NameEnds::of("", it),
            _ => NameEnds::of("", ""),
        }
    }

    /// Whether a file of this name may be it, wherever it is.
    fn may_be(&self, name: &[u8]) -> bool {
        match self {
            Self::Named(it) | Self::In(_, it) => name == it.as_bytes(),
            Self::Begins(it) => name.starts_with(it.as_bytes()),
            Self::Ends(it) => name.len() > it.len() && name.ends_with(it.as_bytes()),
            _ => true,
        }
    }

    fn is(&self, path: &Path, name: &[u8]) -> bool {
        let above = |levels: usize| path.ancestors().nth(levels).and_then(Path::file_name);
        let is_below = |folder: &str| path.iter().rev().skip(1).any(|part| part == folder);
        match *self {
            Self::Named(it) => name == it.as_bytes(),
            Self::Begins(it) => name.starts_with(it.as_bytes()),
            Self::Ends(it) => name.len() > it.len() && name.ends_with(it.as_bytes()),
            Self::In(folder, it) => name == it.as_bytes() && above(1) == Some(OsStr::new(folder)),
            Self::NamedBelow(folder, it) => name == it.as_bytes() && is_below(folder),
            Self::AllIn(folder) => above(1) == Some(OsStr::new(folder)),
            Self::Below(folder) => is_below(folder),
            Self::OfBuildScript(it) => name == it.as_bytes() && is_of_build_script(path, 1),
            Self::BuiltByScript => {
                let places = path.iter().count();
                let is_build = BUILD_FILES.iter().any(|it| name == it.as_bytes())
                    || is_below("CMakeFiles")
                    || is_below("meson-info");
                is_build
                    && (2..places).any(|levels| {
                        above(levels - 1) == Some(OsStr::new("out"))
                            && is_of_build_script(path, levels)
                    })
            }
        }
    }
}

/// Files that a build program writes for itself.
const BUILD_FILES: [&str; 7] = [
    "CMakeCache.txt",
    "CTestTestfile.cmake",
    "Makefile",
    "build.ninja",
    "cmake_install.cmake",
    "config.status",
    "compile_commands.json",
];

/// Whether the folder `levels` above `path` is one that cargo made for a build script:
/// `build/NAME-` and sixteen digits.
fn is_of_build_script(path: &Path, levels: usize) -> bool {
    let name = |levels: usize| path.ancestors().nth(levels).and_then(Path::file_name);
    let Some((_, hash)) =
        name(levels).and_then(|it| it.to_str()).and_then(|it| it.rsplit_once('-'))
    else {
        return false;
    };
    let is_hash = hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash && name(levels + 1) == Some(OsStr::new("build"))
}

fn row(path: &Path) -> Option<&'static Row> {
    let name = path.file_name()?.as_bytes();
    TABLE.iter().chain(PROCESSES).find(|row| row.0.is(path, name))
}

/// The folder and the file that make a folder an environment of conda.
const CONDA: [&str; 2] = ["conda-meta", "history"];

/// The environment of conda or pixi that a file is in: the folder for which `has` says that it has
/// conda's history. A file of an environment that has a kind of its own, such as a pid file, keeps
/// it.
pub(crate) fn in_conda(path: &Path, has: impl Fn(&Path) -> bool) -> bool {
    let [folder, history] = CONDA;
    path.ancestors().skip(1).any(|above| has(&above.join(folder).join(history)))
}

/// The kind of a file that has no known format.
pub(crate) fn elsewhere(path: &Path) -> PathKind {
    row(path).map_or(PathKind::Other, |row| row.1)
}

/// The kind of a file without a known format that calve looks at for its name, and whether it must
/// be read: others count because they are there. They are few in a tree, and each speaks for many.
pub(crate) fn looked_at(path: &Path) -> Option<(PathKind, bool)> {
    row(path).filter(|row| row.4 != KindLook::WithAll).map(|row| (row.1, row.4 == KindLook::First))
}

/// Whether a file of this name may be [looked at](looked_at), wherever it is.
pub(crate) fn may_be_looked_at(name: &[u8]) -> bool {
    static LOOKED_AT: LazyLock<Vec<&Row>> =
        LazyLock::new(|| TABLE.iter().filter(|row| row.4 != KindLook::WithAll).collect());
    static BY_ENDS: LazyLock<RowsByEnds> =
        LazyLock::new(|| RowsByEnds::of(LOOKED_AT.iter().map(|row| row.0.ends())));
    may_name_process(name) || BY_ENDS.rows(name).any(|row| LOOKED_AT[row].0.may_be(name))
}

/// The program that made a file of this kind, by its usual name, if that decides what to do.
pub(crate) fn tool(path: &Path, kind: PathKind) -> &'static str {
    match kind {
        PathKind::Conda if path.iter().any(|part| part == ".pixi") => "pixi",
        PathKind::Conda => "conda",
        PathKind::LinkBack if is_of_bazel(path) => "bazel",
        PathKind::LinkBack | PathKind::LinkOut => "",
        kind if kind.is_known() => "",
        _ => row(path).map_or("", |row| row.2),
    }
}

/// Whether a link has a name that bazel gives: `bazel-bin`, `bazel-out`, `bazel-PROJECT`.
pub(crate) fn is_of_bazel(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"bazel-"))
}

/// What a file of this kind means that keeps the project's path.
pub(crate) fn meaning(path: &Path, kind: PathKind) -> PathMeaning {
    match kind {
        PathKind::Conda | PathKind::LinkBack => PathMeaning::FalseGreen,
        PathKind::Process => PathMeaning::Living,
        PathKind::LinkOut => PathMeaning::LeadsElsewhere,
        PathKind::Link => PathMeaning::LeadsBack,
        // Tests in an environment that names the project test the project.
        kind if kind.is_known() => PathMeaning::FalseGreen,
        _ => row(path).map_or(PathMeaning::LeadsBack, |row| row.3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_a_file_means_and_whether_its_name_is_enough_to_look() {
        use PathMeaning::{FalseGreen, Harmless, LeadsBack, Living};
        let hash = "0123456789abcdef";
        let script = format!("target/debug/build/x-{hash}");
        for (path, tool_of, means, is_looked_at) in [
            ("build/CMakeCache.txt", "cmake", FalseGreen, true),
            ("build/CMakeFiles/a.dir/build.make", "cmake", FalseGreen, false),
            ("build/meson-info/meson-info.json", "meson", FalseGreen, true),
            ("out/build.ninja", "ninja", FalseGreen, true),
            ("build/config.status", "configure", FalseGreen, true),
            ("config.log", "configure", Harmless, false),
            (".lock-waf_linux_build", "waf", FalseGreen, true),
            ("Makefile", "make", FalseGreen, false),
            ("node_modules/a/build/Makefile", "", LeadsBack, false),
            (".pdm-python", "pdm", FalseGreen, true),
            (".pixi/envs/default/conda-meta/history", "conda", FalseGreen, true),
            ("history", "", LeadsBack, false),
            (".env", "", LeadsBack, true),
            ("notes", "", LeadsBack, false),
            ("node_modules/.bin/tsc", "", LeadsBack, false),
            ("target/debug/deps/x.d", "", Harmless, false),
            (&format!("{script}/root-output"), "cargo", Harmless, false),
            (&format!("{script}/output"), "cargo", Harmless, false),
            (&format!("{script}/out/build/CMakeCache.txt"), "cargo", Harmless, false),
            (&format!("{script}/out/build/CMakeFiles/x/y"), "cargo", Harmless, false),
            (&format!("{script}/out/paths.rs"), "", LeadsBack, false),
            ("build/root-output", "", LeadsBack, false),
            ("build/x-1/root-output", "", LeadsBack, false),
            ("tmp/pids/server.pid", "", Living, true),
            (".pid", "", LeadsBack, false),
        ] {
            let path = Path::new(path);
            let found = row(path).map_or("", |row| row.2);
            let looked = looked_at(path).is_some();
            let is = (found, meaning(path, elsewhere(path)), looked);
            assert_eq!(is, (tool_of, means, is_looked_at), "{path:?}");
            let name = path.file_name().unwrap().as_bytes();
            assert!(!is_looked_at || may_be_looked_at(name), "{path:?}");
        }
    }

    #[test]
    fn a_kind_has_one_number_and_one_name() {
        let mut names: Vec<&str> = PathKind::ALL.iter().map(|kind| kind.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PathKind::ALL.len());
        for kind in PathKind::ALL {
            assert_eq!(PathKind::of_number(*kind as u8), Some(*kind));
        }
    }
}
