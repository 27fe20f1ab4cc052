//! Patterns with the meaning that they have in a `.gitignore`, and the ignore files of a tree.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{Error, ErrorKind, Operation};

/// The compiled patterns of one list.
#[derive(Debug)]
pub(super) struct Patterns(Gitignore);

impl Patterns {
    /// Compiles the patterns that lead to those with a path: `a/` and `a/b/` for `a/b/c`.
    pub(super) fn leading_to(patterns: &[String]) -> Result<Self, Error> {
        let mut leading = Vec::new();
        for pattern in patterns {
            let parts = components(pattern);
            for end in 1..parts.len() {
                leading.push(format!("/{}/", parts[..end].join("/")));
            }
        }
        Self::compile(&leading)
    }

    pub(super) fn compile(patterns: &[String]) -> Result<Self, Error> {
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let bad = |cause: String| {
                Error::new(
                    ErrorKind::InvalidPattern,
                    Operation::ReadPattern,
                    pattern,
                    io::Error::new(io::ErrorKind::InvalidInput, cause),
                )
            };
            if pattern.is_empty() || pattern.starts_with('!') || pattern.starts_with('#') {
                return Err(bad(
                    "a pattern must not be empty or start with ! or # (put a \\ before it)".into(),
                ));
            }
            let glob = as_glob(pattern).ok_or_else(|| {
                bad("a character class that is not closed, or that names none there is".into())
            })?;
            builder.add_line(None, &glob).map_err(|error| bad(error.to_string()))?;
        }
        builder.build().map(Self).map_err(|error| {
            Error::new(
                ErrorKind::InvalidPattern,
                Operation::ReadPatterns,
                "",
                io::Error::other(error.to_string()),
            )
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn match_path(&self, path: &Path, is_dir: bool) -> bool {
        self.0.matched(path, is_dir).is_ignore()
    }
}

/// The ignore files of a directory and of those above it.
#[derive(Debug)]
pub(crate) struct IgnoreChain {
    matcher: Gitignore,
    /// How many components of an entry's path, relative to the source, lead to the directory of
    /// this ignore file. The patterns start there.
    depth: usize,
    above: Option<Arc<IgnoreChain>>,
}

impl IgnoreChain {
    /// Puts the ignore file with this `text` on top of `above`. `path` is the ignore file's
    /// directory, relative to the source. calve skips lines that it cannot parse, as git does.
    pub(crate) fn push(above: Option<Arc<Self>>, path: &Path, text: &[u8]) -> Arc<Self> {
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        let globs: Vec<String> = text
            .split(|byte| *byte == b'\n')
            .filter_map(|line| std::str::from_utf8(line).ok())
            .map(|line| line.strip_suffix('\r').unwrap_or(line))
            .filter(|line| !is_nothing(line))
            .filter_map(as_glob)
            .collect();
        Self::stacked(above, path.components().count(), &globs, &|globs| {
            let mut builder = GitignoreBuilder::new("");
            for glob in globs {
                let _ = builder.add_line(None, glob);
            }
            builder.build().ok()
        })
    }

    /// Puts the globs of one ignore file on top of `above`. If their compiled program would be too
    /// large, calve splits them in two halves. The later lines are on top of the earlier ones, so
    /// they decide as they do in one file.
    fn stacked(
        above: Option<Arc<Self>>,
        depth: usize,
        globs: &[String],
        compiled: &dyn Fn(&[String]) -> Option<Gitignore>,
    ) -> Arc<Self> {
        let matcher = compiled(globs);
        if matcher.is_none() && globs.len() > 1 {
            let (earlier, later) = globs.split_at(globs.len() / 2);
            let earlier = Self::stacked(above, depth, earlier, compiled);
            return Self::stacked(Some(earlier), depth, later, compiled);
        }
        Arc::new(Self { matcher: matcher.unwrap_or_else(Gitignore::empty), depth, above })
    }

    pub(crate) fn excludes(&self, path: &Path, is_dir: bool) -> bool {
        let mut link = Some(self);
        while let Some(chain) = link {
            let below: std::path::PathBuf = path.components().skip(chain.depth).collect();
            let matched = chain.matcher.matched(&below, is_dir);
            if !matched.is_none() {
                return matched.is_ignore();
            }
            link = chain.above.as_deref();
        }
        false
    }
}

/// Splits a pattern at its slashes. A slash in a character class does not split.
fn components(pattern: &str) -> Vec<&str> {
    let pattern = pattern.trim_matches('/');
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while let Some(char) = pattern[at..].chars().next() {
        at += char.len_utf8();
        match char {
            '\\' => at += pattern[at..].chars().next().map_or(0, char::len_utf8),
            '[' => {
                if let Some((_, rest)) = class(&pattern[at..]) {
                    at = pattern.len() - rest.len();
                }
            }
            '/' => {
                parts.push(&pattern[start..at - 1]);
                start = at;
            }
            _ => {}
        }
    }
    parts.push(&pattern[start..]);
    parts
}

/// Whether a line says nothing to git. To the parser of globs, a lone `!` would take back all
/// patterns above it.
fn is_nothing(line: &str) -> bool {
    let line = without_spaces_at_end(line);
    matches!(line.strip_prefix('!').unwrap_or(line), "" | "/")
}

/// A line of an ignore file, or a pattern, as a glob with the same meaning. To git, braces are
/// ordinary characters, and so is any white space at the end that is no space. A character class
/// never matches a slash, and may name POSIX's classes. `None` if git matches nothing, because a
/// class is not closed or has a name that does not exist.
fn as_glob(line: &str) -> Option<String> {
    let line = without_spaces_at_end(line);
    let mut glob = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        // In braces, so that the parser of globs does not cut it off.
        let mut push_blank = |blank| glob.extend(['{', blank, '}']);
        match char {
            '\\' => match chars.next() {
                Some(next) if is_blank(next) => push_blank(next),
                next => glob.extend(['\\'].into_iter().chain(next)),
            },
            _ if is_blank(char) => push_blank(char),
            '[' => {
                let (members, rest) = class(chars.as_str())?;
                glob.push_str(&members);
                chars = rest.chars();
            }
            '{' | '}' => glob.extend(['\\', char]),
            _ => glob.push(char),
        }
    }
    let slashes = |text: &str| text.strip_suffix('/').unwrap_or(text).contains('/');
    let start = usize::from(glob.starts_with('!'));
    match (slashes(line), slashes(&glob)) {
        // The line has no slash, but the class in the glob has one, which it must not match. That
        // slash would anchor the glob to the folder of its ignore file.
        (false, true) => glob.insert_str(start, "**/"),
        // The line's only slash is in a class, and the glob has none. To git that slash anchors the
        // pattern.
        (true, false) => glob.insert(start, '/'),
        _ => {}
    }
    Some(glob)
}

/// White space, but no space: only spaces at the end of a line mean nothing to git.
fn is_blank(char: char) -> bool {
    char.is_whitespace() && char != ' '
}

/// Cuts the spaces at the end. One with a backslash before it stays (`trim_trailing_spaces` of
/// git's dir.c).
fn without_spaces_at_end(line: &str) -> &str {
    let (mut end, mut escaped) = (0, false);
    for (at, char) in line.char_indices() {
        if escaped || char != ' ' {
            end = at + char.len_utf8();
        }
        escaped = !escaped && char == '\\';
    }
    &line[..end]
}

/// The character class that starts with `text`, after its opening bracket, as a glob with the same
/// meaning; and the text after the class. calve reads the class as git's wildmatch.c does, and
/// writes a new one, because a glob's class has no escapes.
fn class(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix(['!', '^']);
    let mut members = Members { negated: inside.is_some(), ..Members::default() };
    let mut chars = inside.unwrap_or(text).chars();
    let mut char = chars.next()?;
    // The character that a range may start with: the member before, unless it was a range or a
    // named class.
    let mut before = None;
    loop {
        let rest = chars.as_str();
        if char == '\\' {
            char = chars.next()?;
            members.add(char, char);
            before = Some(char);
        } else if let Some(first) = before
            && char == '-'
            && !rest.is_empty()
            && !rest.starts_with(']')
        {
            let mut last = chars.next()?;
            if last == '\\' {
                last = chars.next()?;
            }
            members.add(first, last);
            before = None;
        } else if char == '['
            && let Some(named) = rest.strip_prefix(':')
            && let Some((name, rest)) = named.split_once(']')
            && let Some(name) = name.strip_suffix(':')
        {
            members.ranges.push_str(posix_class(name)?);
            chars = rest.chars();
            before = None;
        } else {
            members.add(char, char);
            before = Some(char);
        }
        char = chars.next()?;
        // The first character is a member even if it is a bracket.
        if char == ']' {
            return Some((members.into_glob(), chars.as_str()));
        }
    }
}

/// The members of a character class.
#[derive(Default)]
struct Members {
    negated: bool,
    ranges: String,
    /// Members that have a special meaning in a glob's class, except at certain places.
    bracket: bool,
    dash: bool,
    marks: String,
}

impl Members {
    /// Adds all characters of a range but the slash.
    fn add(&mut self, mut first: char, mut last: char) {
        while first <= last && self.add_special(first) {
            first = char::from_u32(u32::from(first) + 1).unwrap_or(char::MAX);
        }
        while first <= last && self.add_special(last) {
            last = char::from_u32(u32::from(last) - 1).unwrap_or('\0');
        }
        if first < '/' && '/' < last {
            self.ranges.extend([first, '-', '.', '0', '-', last]);
        } else if first <= last {
            self.ranges.extend([first, '-', last]);
        }
    }

    fn add_special(&mut self, char: char) -> bool {
        match char {
            ']' => self.bracket = true,
            '-' => self.dash = true,
            '!' | '^' => self.marks.push(char),
            '/' => {}
            _ => return false,
        }
        true
    }

    fn into_glob(self) -> String {
        // NUL is in no name. It takes the first place if there is no bracket, so that the class is
        // never empty and no mark comes first.
        let first = if self.bracket { ']' } else { '\0' };
        let (not, slash) = if self.negated { ("!", "/") } else { ("", "") };
        let dash = if self.dash { "-" } else { "" };
        format!("[{not}{first}{slash}{}{}{dash}]", self.ranges, self.marks)
    }
}

/// The members of one of POSIX's classes, as ranges. None of them starts with a character that
/// would negate the class, and none contains a slash.
fn posix_class(name: &str) -> Option<&'static str> {
    Some(match name {
        "alnum" => "0-9A-Za-z",
        "alpha" => "A-Za-z",
        "blank" => " \t",
        "cntrl" => "\u{1}-\u{1f}\u{7f}",
        "digit" => "0-9",
        "graph" => "0-~!-.",
        "lower" => "a-z",
        "print" => " -.0-~",
        "punct" => ":-@!-.[-`{-~",
        "space" => " \t-\n\r",
        "upper" => "A-Z",
        "xdigit" => "0-9A-Fa-f",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Such an ignore file once had no effect at all, if its patterns made too large a program
    /// together. It takes ten megabytes of patterns, and minutes, to reach that here.
    #[test]
    fn an_ignore_file_is_obeyed_however_large_its_program_would_be() {
        let lines =
            ["*.first", "!keep.first", "*.second", "huge", "!x.second", "/*.last", "!z.last"];
        let lines = lines.map(str::to_owned);
        for most in [1, 2, 3, 7] {
            let compiled = |globs: &[String]| {
                let mut builder = GitignoreBuilder::new("");
                for glob in globs {
                    builder.add_line(None, glob).unwrap();
                }
                let fits = globs.len() <= most && globs != ["huge"];
                fits.then(|| builder.build().unwrap())
            };
            // To git, the last four lines say nothing.
            let above = b"!y.first\n*.above\n!\n!/\n! \n/\n";
            let above = IgnoreChain::push(None, Path::new(""), above);
            let chain = IgnoreChain::stacked(Some(above), 1, &lines, &compiled);
            for (path, expected) in [
                ("d/x.first", true),
                ("d/y.first", true),
                ("d/keep.first", false),
                ("d/x.second", false),
                ("d/y.second", true),
                ("d/x.last", true),
                ("d/z.last", false),
                ("d/deep/x.last", false),
                ("d/x.above", true),
                ("d/x", false),
            ] {
                assert_eq!(chain.excludes(Path::new(path), false), expected, "{most} {path}");
            }
        }
    }
}
