//! Rows in columns. On a terminal no row is wider than the terminal: calve cuts the longest cells
//! and marks the cut with an ellipsis. In a pipe it cuts nothing.
//!
//! Widths are in cells of a terminal: a Chinese character takes two, and a combining accent takes
//! none.

use clap::builder::styling::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The alignment of a column, and where calve may cut its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Left,
    Right,
    /// calve may cut it in the middle: names differ at their ends.
    Name,
    /// Like a name, but calve cuts paths before names: users type names.
    Path,
    /// calve may cut its end.
    Text,
}

/// The content of a column. It is bytes, because a path in a pipe must stay as it is.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    bytes: Vec<u8>,
    style: Style,
}

impl<T: Into<Vec<u8>>> From<T> for Cell {
    fn from(bytes: T) -> Self {
        Self { bytes: bytes.into(), style: Style::new() }
    }
}

impl Cell {
    pub(crate) fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }

    fn width(&self) -> usize {
        String::from_utf8_lossy(&self.bytes).width()
    }
}

/// The least width of a column that calve narrows.
const NARROWEST: usize = 8;
/// The least width of a path that calve narrows before it narrows a name.
const NARROW_PATH: usize = 9;
const GAP: usize = 2;

/// A table, row by row.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        self.rows.push(cells.into());
    }

    /// The lines, no wider than `width` if it is given.
    pub(crate) fn lines(&self, width: Option<usize>, styled: bool) -> Vec<u8> {
        let widths = self.widths(width);
        let mut lines = Vec::new();
        for row in &self.rows {
            // No line ends in spaces.
            let last = row.iter().rposition(|cell| !cell.bytes.is_empty()).unwrap_or(0);
            for (at, ((cell, column), limit)) in
                row.iter().zip(&self.columns).zip(&widths).enumerate().take(last + 1)
            {
                if at > 0 {
                    lines.extend([b' '; GAP]);
                }
                let text = if cell.width() > *limit {
                    cut(&String::from_utf8_lossy(&cell.bytes), *limit, *column).into()
                } else {
                    cell.clone()
                };
                let blanks = limit.saturating_sub(text.width());
                let (before, after) = match column {
                    Column::Right => (blanks, 0),
                    _ if at == last => (0, 0),
                    _ => (0, blanks),
                };
                lines.extend(std::iter::repeat_n(b' ', before));
                if styled && !cell.style.is_plain() {
                    lines.extend(cell.style.render().to_string().bytes());
                    lines.extend(&text.bytes);
                    lines.extend(cell.style.render_reset().to_string().bytes());
                } else {
                    lines.extend(&text.bytes);
                }
                lines.extend(std::iter::repeat_n(b' ', after));
            }
            lines.push(b'\n');
        }
        lines
    }

    fn widths(&self, width: Option<usize>) -> Vec<usize> {
        let natural =
            |at: usize| self.rows.iter().filter_map(move |row| row.get(at)).map(Cell::width);
        let mut widths: Vec<usize> =
            (0..self.columns.len()).map(|at| natural(at).max().unwrap_or(0)).collect();
        let Some(width) = width else { return widths };
        let gaps = GAP * self.columns.len().saturating_sub(1);
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(width);
        while over > 0 {
            let widest = |may: fn(Column) -> bool, least: usize| {
                let all = (0..widths.len()).filter(|at| may(self.columns[*at]));
                all.max_by_key(|at| widths[*at]).filter(|at| widths[*at] > least)
            };
            // First narrow the paths, while enough of them is left to tell them apart; then the
            // widest column.
            let path = widest(|column| column == Column::Path, NARROW_PATH);
            let other =
                || widest(|column| !matches!(column, Column::Left | Column::Right), NARROWEST);
            match path.or_else(other) {
                Some(at) => widths[at] -= 1,
                None => break,
            }
            over -= 1;
        }
        widths
    }
}

/// Cuts `text` to at most `width` cells, with an ellipsis for the part that is left out.
fn cut(text: &str, width: usize, column: Column) -> String {
    let room = width.saturating_sub(1);
    let in_middle = matches!(column, Column::Name | Column::Path);
    let head = if in_middle { room / 2 } else { room };
    let fitting = |characters: &mut dyn Iterator<Item = char>, room: usize| -> Vec<char> {
        let mut left = room;
        characters
            .take_while(|character| {
                let width = character.width().unwrap_or(0);
                let fits = width <= left;
                left = left.saturating_sub(width);
                fits
            })
            .collect()
    };
    let start: String = fitting(&mut text.chars(), head).into_iter().collect();
    let room = if in_middle { room - start.width() } else { 0 };
    let end: String = fitting(&mut text.chars().rev(), room).into_iter().rev().collect();
    format!("{}…{}", start.trim_end(), end.trim_start())
}

#[cfg(test)]
mod tests {
    use clap::builder::styling::AnsiColor;

    use super::*;
    use crate::text::{fitted, wrapped};

    fn table(rows: &[[&str; 3]]) -> Table {
        let mut table = Table::new([Column::Name, Column::Right, Column::Text]);
        for row in rows {
            table.row(row.map(Cell::from));
        }
        table
    }

    fn lines(rows: &[[&str; 3]], width: Option<usize>) -> String {
        String::from_utf8(table(rows).lines(width, false)).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them_takes_on_a_terminal() {
        let rows =
            [["a", "1", "x"], ["größe", "22", ""], ["漢字", "333", "y z"], ["e\u{301}", "", ""]];
        let expected = "a        1  x\ngröße   22\n漢字   333  y z\ne\u{301}\n";
        assert_eq!(lines(&rows, None), expected);
        assert_eq!(lines(&[], None), "");
    }

    #[test]
    fn what_may_be_cut_is_cut_to_the_width_and_never_without_one() {
        let rows =
            [["a-long-name-of-an-agent-1", "10", "why it was done at all"], ["b", "2", "short"]];
        for width in 24..80 {
            let lines = lines(&rows, Some(width));
            assert!(lines.lines().all(|line| line.width() <= width), "{width}: {lines}");
        }
        let cut = lines(&rows, Some(30));
        assert_eq!(cut, "a-lon…gent-1  10  why it was…\nb              2  short\n");
        assert!(
            lines(&rows, None).contains("a-long-name-of-an-agent-1  10  why it was done at all")
        );
        // A width that is too small gives the narrowest table.
        assert!(lines(&rows, Some(1)).starts_with("a-l…nt-1  10  why it…\n"));
    }

    #[test]
    fn a_path_gives_way_to_names_while_something_can_be_told_from_it() {
        let mut table = Table::new([Column::Name, Column::Path]);
        let path = "/mnt/xfs/repo.worktrees/a-long-name-of-an-agent-1";
        table.row(["a-long-name-of-an-agent-1", path].map(Cell::from));
        let line = |width| String::from_utf8(table.lines(Some(width), false)).unwrap();
        assert_eq!(line(60), "a-long-name-of-an-agent-1  /mnt/xfs/repo.wo…me-of-an-agent-1\n");
        assert_eq!(line(36), "a-long-name-of-an-agent-1  /mnt…nt-1\n");
        assert_eq!(line(32), "a-long-nam…an-agent-1  /mnt…nt-1\n");
    }

    #[test]
    fn a_wide_character_is_never_cut_in_half() {
        for width in 8..24 {
            for column in [Column::Name, Column::Path, Column::Text] {
                let cut = cut("漢字漢字漢字漢字漢字漢字", width, column);
                assert!(cut.width() <= width && cut.contains('…'), "{width}: {cut}");
            }
        }
    }

    #[test]
    fn bytes_in_a_pipe_stay_what_they_are_and_styles_are_for_who_wants_them() {
        let mut table = Table::new([Column::Left, Column::Name]);
        let cell = Cell::from("x").styled(AnsiColor::Red.on_default());
        table.row([cell, Cell::from(b"a\xffb".to_vec())]);
        assert_eq!(table.lines(None, false), b"x  a\xffb\n");
        assert_eq!(table.lines(None, true), b"\x1b[31mx\x1b[0m  a\xffb\n");
    }

    #[test]
    fn words_are_wrapped_and_long_ones_stand_alone() {
        for (text, width, expected) in [
            ("a bb ccc", 80, "a bb ccc"),
            ("a bb ccc", 4, "a bb\n ccc"),
            ("longer word", 3, "longer\n word"),
            ("漢字 漢字 x", 6, "漢字\n 漢字\n x"),
            ("", 5, ""),
            ("take it 'a b' now", 10, "take it\n 'a b' now"),
            ("take 'a b', now", 9, "take\n 'a b',\n now"),
            ("'a b c d e f' g", 8, "'a b c d\n e f' g"),
            ("it's a's 'b", 9, "it's a's\n 'b"),
            ("\u{1b}[1mhint:\u{1b}[0m a b", 9, "\u{1b}[1mhint:\u{1b}[0m a b"),
            ("  a b", 4, "  a\n b"),
        ] {
            assert_eq!(wrapped(text, width, " "), expected, "{text} {width}");
        }
        let text = "error: one two three four five six seven eight\n  tip: one two three four five six seven eight";
        let indented = "error: one two three four five six seven\n       eight\n  tip: one two three four five six seven\n       eight";
        assert_eq!(fitted(text, 40), indented);
        assert_eq!(fitted("hint: a bb ccc dd", 10), "hint: a bb\nccc dd");
    }
}
