//! Words and numbers as people read them: sizes, durations, names, system errors.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::time::Duration;
#[cfg(unix)]
use std::time::SystemTime;

#[cfg(unix)]
use calve::SnapshotId;
use indicatif::HumanCount;
use unicode_width::UnicodeWidthStr;

/// `628,632`.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// `1 tree`, `628,632 files`, `2 entries`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let number_of = count(number);
    match noun.strip_suffix("ry") {
        _ if number == 1 => format!("{number_of} {noun}"),
        Some(stem) => format!("{number_of} {stem}ries"),
        None => format!("{number_of} {noun}s"),
    }
}

/// `a, b and 1,234 more`: the first of these, at most `most`.
#[cfg(unix)]
pub(crate) fn first(most: usize, names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(most);
    let names = names.take(most).collect::<Vec<_>>().join(", ");
    if more == 0 { names } else { format!("{names} and {} more", count(more as u64)) }
}

/// `1.3 GB`, in decimal units.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if number < 1000 {
        return format!("{number} B");
    }
    // Rounded in integers, to a tenth of the unit, so that 999,950 is 1.0 MB and never 1000.0 kB.
    let mut tenths = u128::from(number).saturating_add(50) / 100;
    let mut unit = 0;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths = (tenths + 500) / 1000;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `1,300,000,000 B`.
pub(crate) fn exact_bytes(number: u64) -> String {
    format!("{} B", count(number))
}

/// `42 ms`, `14.2 s`, `2 min 5 s`, `1 h 2 min`.
pub(crate) fn duration(time: Duration) -> String {
    let millis = time.as_millis();
    let seconds = (millis + 500) / 1000;
    match millis {
        0..1_000 => format!("{millis} ms"),
        // In tenths, rounded in integers. A time that would round up to 60.0 s belongs to the next
        // row.
        1_000..59_950 => format!("{}.{} s", (millis + 50) / 1000, (millis + 50) % 1000 / 100),
        59_950..3_600_000 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How long ago something was, in a narrow column: `new`, `5m`, `3h`, `12d`.
#[cfg(unix)]
pub(crate) fn age(since: Duration) -> String {
    let minutes = since.as_secs() / 60;
    match minutes {
        0 => "new".to_owned(),
        1..60 => format!("{minutes}m"),
        60..1_440 => format!("{}h", minutes / 60),
        _ => format!("{}d", minutes / 1_440),
    }
}

/// The first digits of an id, for people.
#[cfg(unix)]
pub(crate) fn short(id: SnapshotId) -> String {
    let mut digits = id.to_string();
    digits.truncate(12);
    digits
}

/// `2026-11-21T04:33:10Z`. Formatting fails before 1970 and after 9999, and a store can say
/// anything.
#[cfg(unix)]
pub(crate) fn utc(time: SystemTime) -> String {
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_seconds(time.clamp(SystemTime::UNIX_EPOCH, last)).to_string()
}

/// A path for a message: plain if it is harmless, else quoted and escaped, so that a hostile name
/// cannot steer a terminal or forge a line.
pub(crate) fn shown(path: &Path) -> String {
    let quoted = format!("{path:?}");
    match path.to_str() {
        // `Debug` escapes quotes and backslashes too, which are harmless.
        Some(plain) if !plain.is_empty() && is_quoted_plainly(&quoted, plain) => plain.to_owned(),
        _ => quoted,
    }
}

fn is_quoted_plainly(quoted: &str, plain: &str) -> bool {
    quoted[1..quoted.len() - 1].replace("\\\"", "\"").replace("\\\\", "\\") == plain
}

/// A text from another source, with its control characters escaped.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

/// A path, quoted for a shell, for commands in hints.
pub(crate) fn shell_word(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    let is_safe = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./-+:@%,=".contains(byte);
    match path.to_str() {
        Some("") => "''".to_owned(),
        Some(word) if bytes.iter().all(is_safe) => word.to_owned(),
        Some(word) if shown(path) == word => format!("'{}'", word.replace('\'', r"'\''")),
        // Bash, zsh and POSIX 2024 know $'…'.
        _ => format!("$'{}'", bytes.escape_ascii()),
    }
}

/// A system error without Rust's `(os error 17)`, and with the name of its errno.
pub(crate) fn cause(error: &io::Error) -> String {
    let text = error.to_string();
    let Some(code) = error.raw_os_error() else { return harmless(&text).into_owned() };
    let plain = text.strip_suffix(&format!(" (os error {code})")).unwrap_or(&text);
    let plain = harmless(plain);
    match errno_name(code) {
        Some(name) => format!("{plain} ({name})"),
        None => format!("{plain} (error {code})"),
    }
}

/// The name of an errno that calls on files return.
#[cfg(unix)]
pub(crate) fn errno_name(code: i32) -> Option<&'static str> {
    use rustix::io::Errno;
    // A list and not a match: some systems give two names to one number.
    let names = [
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOTSUP, "ENOTSUP"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::INVAL, "EINVAL"),
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::ROFS, "EROFS"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::BUSY, "EBUSY"),
        (Errno::BADF, "EBADF"),
        (Errno::EXIST, "EEXIST"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::MLINK, "EMLINK"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::FBIG, "EFBIG"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::IO, "EIO"),
        (Errno::NXIO, "ENXIO"),
        (Errno::NODEV, "ENODEV"),
        (Errno::STALE, "ESTALE"),
        (Errno::DEADLK, "EDEADLK"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::NOLCK, "ENOLCK"),
        (Errno::INTR, "EINTR"),
        (Errno::PIPE, "EPIPE"),
    ];
    names.iter().find(|(errno, _)| errno.raw_os_error() == code).map(|(_, name)| *name)
}

/// Windows' error codes have numbers that people look up, not errno names.
#[cfg(not(unix))]
pub(crate) fn errno_name(_code: i32) -> Option<&'static str> {
    None
}

/// Breaks `text` between words, so that no line is wider than `width`, unless one word is. `indent`
/// goes before each line except the first. A quoted part stays on one line if it fits, because it
/// is mostly a command that the user may copy. Style codes have no width.
pub(crate) fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let room = width.saturating_sub(indent.width());
    let (first, mut rest) = first_word(text, room);
    let mut wrapped = first.to_owned();
    let mut at = cells(first);
    while let Some(text) = rest {
        let word;
        (word, rest) = first_word(text, room);
        let taken = cells(word);
        if at + 1 + taken > width {
            wrapped.push('\n');
            wrapped.push_str(indent);
            at = indent.width();
        } else {
            wrapped.push(' ');
            at += 1;
        }
        wrapped.push_str(word);
        at += taken;
    }
    wrapped
}

/// The first word, or the quoted part at the start if it is at most `room` wide; and the text after
/// the next space.
fn first_word(text: &str, room: usize) -> (&str, Option<&str>) {
    let (word, rest) = text.split_once(' ').map_or((text, None), |(word, rest)| (word, Some(rest)));
    let closes = |word: &str| {
        let word = word.trim_end_matches([',', ';', ':', '.', ')']);
        word.len() > 1 && word.ends_with('\'')
    };
    if !word.starts_with('\'') || closes(word) {
        return (word, rest);
    }
    let ends = text.match_indices(' ').map(|(at, _)| at).chain([text.len()]);
    let quoted = ends.map(|end| &text[..end]).find(|quoted| closes(quoted));
    match quoted.filter(|quoted| cells(quoted) <= room) {
        Some(quoted) => (quoted, text[quoted.len()..].strip_prefix(' ')),
        None => (word, rest),
    }
}

/// The width of `text`, which may contain style codes.
fn cells(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(UnicodeWidthStr::width).sum()
}

/// Wraps each line of `text` to `width`. After a label like `error:`, the next lines are indented
/// to the text after the label, if there is room for that.
pub(crate) fn fitted(text: &str, width: usize) -> String {
    /// On a terminal narrower than this, the indent would take too much of the line.
    const ROOMY: usize = 40;
    let line = |line: &str| {
        let blanks = line.len() - line.trim_start_matches(' ').len();
        let label = line.trim_start_matches(' ').split(' ').next().unwrap_or_default();
        let label = anstream::adapter::strip_str(label).to_string();
        let is_label = ["error:", "warning:", "hint:", "tip:"].contains(&label.as_str());
        let indent = match is_label {
            _ if width < ROOMY => 0,
            true => blanks + label.width() + 1,
            false => blanks,
        };
        wrapped(line, width, &" ".repeat(indent))
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal_and_never_a_thousand_of_a_unit() {
        for (number, expected) in [
            (0, "0 B"),
            (1, "1 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (1_049, "1.0 kB"),
            (1_050, "1.1 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (1_300_000_000, "1.3 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(number), expected, "{number}");
        }
        assert_eq!(exact_bytes(1_300_000_000), "1,300,000,000 B");
    }

    #[test]
    fn counts_have_separators_and_a_plural() {
        for (number, expected) in [(0, "0 files"), (1, "1 file"), (628_632, "628,632 files")] {
            assert_eq!(counted(number, "file"), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn ages_have_one_unit() {
        for (seconds, expected) in [
            (0, "new"),
            (59, "new"),
            (60, "1m"),
            (3_599, "59m"),
            (3_600, "1h"),
            (86_399, "23h"),
            (86_400, "1d"),
            (86_400 * 400, "400d"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn durations_are_short_and_never_sixty_of_a_unit() {
        for (millis, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_000, "1.0 s"),
            (14_249, "14.2 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min 0 s"),
            (125_000, "2 min 5 s"),
            (3_599_999, "60 min 0 s"),
            (3_720_000, "1 h 2 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), expected, "{millis}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn times_are_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (253_402_300_800, "9999-12-31T23:59:59Z"),
            (9_223_372_036_854_775_807, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn names_are_plain_where_harmless_and_escaped_where_not() {
        for (path, expected_shown, expected_word) in [
            ("a/b.c", "a/b.c", "a/b.c"),
            ("a b", "a b", "'a b'"),
            ("it's", "it's", r"'it'\''s'"),
            (r#"back\slash"quote"#, r#"back\slash"quote"#, r#"'back\slash"quote'"#),
            ("größe", "größe", "'größe'"),
            ("", r#""""#, "''"),
            ("a\nerror: b", r#""a\nerror: b""#, r"$'a\nerror: b'"),
            ("\u{1b}[2J", r#""\u{1b}[2J""#, r"$'\x1b[2J'"),
            ("\u{202e}txt", r#""\u{202e}txt""#, r"$'\xe2\x80\xaetxt'"),
        ] {
            assert_eq!(shown(Path::new(path)), expected_shown);
            assert_eq!(shell_word(Path::new(path)), expected_word);
        }
        assert_eq!(harmless("a\u{1b}b\r"), r"a\u{1b}b\r");
    }

    #[cfg(unix)]
    #[test]
    fn a_cause_names_its_errno_and_not_rusts_number() {
        use rustix::io::Errno;
        for (error, expected) in [
            (io::Error::from(Errno::OPNOTSUPP), "Operation not supported (EOPNOTSUPP)"),
            (io::Error::from(Errno::XDEV), "Invalid cross-device link (EXDEV)"),
            (io::Error::other("a\u{7}b"), r"a\u{7}b"),
        ] {
            let got = cause(&error);
            // The system chooses the words; the name is ours.
            let name = expected.rsplit_once('(').map_or(expected, |(_, name)| name);
            assert!(got.ends_with(name), "{got}");
            #[cfg(target_os = "linux")]
            assert_eq!(got, expected);
        }
    }
}
