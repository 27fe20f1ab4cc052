//! The two output streams: results go to standard output, everything else to standard error, as
//! text or as JSON.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anstream::AutoStream;
use clap::builder::styling::{AnsiColor, Style};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::exit::Exit;
use crate::failure::{Failure, Kind};
use crate::hints::placed;
#[cfg(unix)]
use crate::table::Table;
use crate::text::{count, fitted, harmless, shown};

/// Without `-v`, calve lists this many findings and counts the others.
const LISTED: usize = 10;

/// The flags that say what to print, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    pub(crate) color: clap::ColorChoice,
}

impl Output {
    /// Writes results as they are.
    pub(crate) fn results(self, bytes: &[u8]) -> Result<(), Failure> {
        write_all(io::stdout().lock(), bytes).map_err(|error| Failure::output(&error))
    }

    /// Writes results that contain colors. Colors stay only if the stream takes them.
    pub(crate) fn styled_results(self, text: &str) -> Result<(), Failure> {
        let stdout = AutoStream::new(io::stdout().lock(), self.choice());
        write_all(stdout, text.as_bytes()).map_err(|error| Failure::output(&error))
    }

    /// Writes rows as results.
    #[cfg(unix)]
    pub(crate) fn table(self, table: &Table) -> Result<(), Failure> {
        // With `-v` calve cuts nothing, and the terminal breaks the lines.
        let width = self.width().filter(|_| !self.verbose);
        self.results(&table.lines(width, self.has_colors()))
    }

    /// The width of the terminal that standard output goes to, if it goes to one.
    pub(crate) fn width(self) -> Option<usize> {
        let (width, _) = terminal_size::terminal_size_of(io::stdout())?;
        Some(width.0.into())
    }

    /// Whether results may contain colors.
    #[cfg(unix)]
    pub(crate) fn has_colors(self) -> bool {
        match self.choice() {
            anstream::ColorChoice::Auto => {
                AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
            }
            choice => choice != anstream::ColorChoice::Never,
        }
    }

    /// A size for people; exact with `-v`.
    #[cfg(unix)]
    pub(crate) fn size(self, bytes: u64) -> String {
        if self.verbose { crate::text::exact_bytes(bytes) } else { crate::text::bytes(bytes) }
    }

    /// Writes the one JSON document.
    pub(crate) fn document(self, document: &impl Serialize) -> Result<(), Failure> {
        let mut bytes =
            serde_json::to_vec(document).map_err(|error| Failure::output(&error.into()))?;
        bytes.push(b'\n');
        self.results(&bytes)
    }

    /// Writes the one JSON document, if that has one field.
    #[cfg(unix)]
    pub(crate) fn document_of(self, field: &str, value: &impl Serialize) -> Result<(), Failure> {
        self.document(&std::collections::BTreeMap::from([(field, value)]))
    }

    /// Prints what calve did, for people. `-q` silences it.
    pub(crate) fn summary(self, line: impl Display) {
        if !self.quiet {
            self.say(placed(&line.to_string()));
        }
    }

    /// Prints a finding.
    pub(crate) fn warning(self, line: impl Display) {
        self.say(format_args!(
            "{CAUTION}warning:{CAUTION:#} {}",
            harmless(&placed(&line.to_string()))
        ));
    }

    /// Lets the library's waits for the locks of other processes be told. They come while a bar may
    /// be there, which draws itself again below.
    #[cfg(unix)]
    pub(crate) fn tells_of_waits(self) {
        calve::tell_of_waits_with(move |lock, holder| {
            if self.wants_bar() {
                let _ = write_all(io::stderr().lock(), b"\r\x1b[2K");
            }
            self.warning(format_args!("waits for {}: {holder} holds it", shown(lock)));
        });
    }

    /// Prints findings: all of them with `-v`, else the first ones and how many others there are.
    /// Returns the exit code that says whether there are any.
    pub(crate) fn warnings(self, lines: &[String]) -> Exit {
        let listed = if self.verbose { lines.len() } else { LISTED };
        for line in lines.iter().take(listed) {
            self.warning(line);
        }
        if let more @ 1.. = lines.len().saturating_sub(listed) {
            self.warning(format_args!("and {} more; -v lists all", count(more as u64)));
        }
        if lines.is_empty() { Exit::Done } else { Exit::Findings }
    }

    /// Prints a failure for people, and with `--json` for programs as well.
    pub(crate) fn failure(self, failure: &Failure) {
        if failure.kind == Kind::BrokenPipe {
            return;
        }
        self.say(format_args!("{BAD}error:{BAD:#} {}", failure.message()));
        let listed = if self.verbose { failure.details.len() } else { LISTED };
        for path in failure.details.iter().take(listed) {
            self.put(&format!("  {}", shown(path)));
        }
        if let more @ 1.. = failure.details.len().saturating_sub(listed) {
            self.say(format_args!("  and {} more; -v lists all", count(more as u64)));
        }
        if let Some(hint) = &failure.hint {
            self.say(format_args!("{STRONG}hint:{STRONG:#} {}", harmless(&placed(hint))));
        }
        self.failure_document(failure);
    }

    /// Writes the JSON document of a failure, if JSON was asked for and standard output still takes
    /// it.
    pub(crate) fn failure_document(self, failure: &Failure) {
        if self.json && !matches!(failure.kind, Kind::Output | Kind::BrokenPipe) {
            let (paths, paths_encoding) = encoded_all(&failure.paths);
            let (details, details_encoding) = encoded_all(&failure.details);
            let error = ErrorFields {
                operation: failure.operation,
                paths,
                paths_encoding,
                details: (!details.is_empty()).then_some(details),
                details_encoding,
                kind: failure.kind.as_str(),
                cause: &failure.cause,
                hint: failure.hint.as_deref().map(placed),
            };
            // The exit code already reports the first failure, so a second one here changes
            // nothing.
            let _ = self.document(&ErrorDocument { error });
        }
    }

    /// Prints text, which may hold colors, to standard error. A terminal does not wrap lines
    /// between words, so calve does it there. Elsewhere a line stays one line.
    pub(crate) fn say(self, text: impl Display) {
        let text = text.to_string();
        match terminal_size::terminal_size_of(io::stderr()) {
            Some((width, _)) => self.put(&fitted(&text, width.0.into())),
            None => self.put(&text),
        }
    }

    /// Prints text as it is. An error is ignored: a closed standard error must not change what the
    /// command does.
    fn put(self, text: &str) {
        let stderr = AutoStream::new(io::stderr().lock(), self.choice());
        let _ = write_all(stderr, format!("{text}\n").as_bytes());
    }

    /// A path as a result: its exact bytes for programs, harmless ones for a terminal.
    pub(crate) fn path(self, path: &Path) -> Vec<u8> {
        if io::stdout().is_terminal() {
            shown(path).into_bytes()
        } else {
            path.as_os_str().as_encoded_bytes().to_owned()
        }
    }

    /// Paths as results, one per line.
    pub(crate) fn path_lines<'a>(self, paths: impl IntoIterator<Item = &'a Path>) -> Vec<u8> {
        paths.into_iter().flat_map(|path| [self.path(path), b"\n".to_vec()].concat()).collect()
    }

    /// Prints the document for programs that ask for JSON, and otherwise the paths, one per line.
    pub(crate) fn document_or_paths<'a>(
        self,
        document: &impl Serialize,
        paths: impl IntoIterator<Item = &'a Path>,
    ) -> Result<(), Failure> {
        match self.json {
            true => self.document(document),
            false => self.results(&self.path_lines(paths)),
        }
    }

    /// Whether to show a progress bar: standard error must be a terminal that can rewrite a line.
    pub(crate) fn wants_bar(self) -> bool {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        !self.quiet && !self.json && !is_dumb && io::stderr().is_terminal()
    }

    fn choice(self) -> anstream::ColorChoice {
        match self.color {
            clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
            clap::ColorChoice::Always => anstream::ColorChoice::Always,
            clap::ColorChoice::Never => anstream::ColorChoice::Never,
        }
    }
}

// These colors can be read on black and on white. Yellow, cyan and blue cannot.

/// The style of good news.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// The style of bad news.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// The style of a cell that needs attention.
pub(crate) const CAUTION: Style = AnsiColor::Magenta.on_default().bold();
/// The style of headings.
pub(crate) const STRONG: Style = Style::new().bold();

/// Writes all bytes at once, and flushes here, where an error can still be reported.
fn write_all(mut stream: impl Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)?;
    stream.flush()
}

#[derive(serde::Serialize)]
struct ErrorDocument<'a> {
    error: ErrorFields<'a>,
}

#[derive(serde::Serialize)]
struct ErrorFields<'a> {
    operation: &'static str,
    paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths_encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details_encoding: Option<&'static str>,
    kind: &'static str,
    cause: &'a str,
    hint: Option<Cow<'a, str>>,
}

/// A path for JSON, and the name of its encoding if it is not UTF-8.
fn encoded(path: &Path) -> (String, Option<&'static str>) {
    match path.to_str() {
        Some(path) => (path.to_owned(), None),
        None => (percent_encoded(path), Some("percent")),
    }
}

/// Defines a JSON document, and its `new`, which makes it from the arguments: each field stands
/// with its type and its value, so no list of fields can lack what another one has. Statements in
/// brackets come before the values.
macro_rules! document {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(<$life:lifetime>)? ($($from:ident: $type:ty),+ $(,)?)
        $([$($first:tt)*])? {
            $($(#[$about:meta])* $field:ident: $is:ty = $value:expr,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(serde::Serialize)]
        $vis struct $name $(<$life>)? {
            $($(#[$about])* $field: $is,)+
        }

        impl $(<$life>)? $name $(<$life>)? {
            $vis fn new($($from: $type),+) -> Self {
                $($($first)*)?
                Self { $($field: $value),+ }
            }
        }
    };
}
pub(crate) use document;

/// A field with a path, which documents flatten into themselves: `path`, or another name. If the
/// path is not UTF-8, a second field `path_encoding` says how it is encoded.
#[derive(Debug)]
pub(crate) struct PathFields {
    name: &'static str,
    path: Option<String>,
    encoding: Option<&'static str>,
}

impl Serialize for PathFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(None)?;
        fields.serialize_entry(self.name, &self.path)?;
        if let Some(encoding) = self.encoding {
            fields.serialize_entry(&format!("{}_encoding", self.name), encoding)?;
        }
        fields.end()
    }
}

impl PathFields {
    pub(crate) fn new(path: &Path) -> Self {
        Self::named("path", path)
    }

    pub(crate) fn named(name: &'static str, path: &Path) -> Self {
        Self::if_any(name, Some(path))
    }

    /// Without a path, the field is `null`.
    pub(crate) fn if_any(name: &'static str, path: Option<&Path>) -> Self {
        let (path, encoding) = path.map(encoded).unzip();
        Self { name, path, encoding: encoding.flatten() }
    }

    pub(crate) fn all<P: AsRef<Path>>(paths: &[P]) -> Vec<Self> {
        paths.iter().map(|path| Self::new(path.as_ref())).collect()
    }
}

/// Several paths for one JSON list. If one of them must be encoded, all are.
fn encoded_all(paths: &[PathBuf]) -> (Vec<String>, Option<&'static str>) {
    let plain: Option<Vec<&str>> = paths.iter().map(|path| path.to_str()).collect();
    match plain {
        Some(plain) => (plain.into_iter().map(str::to_owned).collect(), None),
        None => (paths.iter().map(|path| percent_encoded(path)).collect(), Some("percent")),
    }
}

/// Encodes every byte except the unreserved ones of RFC 3986 and the slash, so that any decoder
/// gives the bytes back.
fn percent_encoded(path: &Path) -> String {
    let mut encoded = String::new();
    for &byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_utf8_is_percent_encoded_and_says_so() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for (bytes, expected) in [
            (&b"a/b c"[..], ("a/b c", None)),
            (b"100%", ("100%", None)),
            ("größe".as_bytes(), ("größe", None)),
            (b"a/\xff b%", ("a/%FF%20b%25", Some("percent"))),
        ] {
            let (path, encoding) = encoded(Path::new(OsStr::from_bytes(bytes)));
            assert_eq!((path.as_str(), encoding), expected);
        }
        let paths = [PathBuf::from("a b"), PathBuf::from(OsStr::from_bytes(b"\xff"))];
        assert_eq!(
            encoded_all(&paths),
            (vec!["a%20b".to_owned(), "%FF".to_owned()], Some("percent"))
        );
    }
}
