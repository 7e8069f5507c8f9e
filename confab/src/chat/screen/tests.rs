use super::*;

fn theirs(text: &str) -> Line {
    Line::Theirs { at: "12:03".to_owned(), user: 2, text: text.to_owned() }
}

fn mine(id: u64, text: &str, tick: Tick) -> Line {
    Line::Mine { id, at: "12:03".to_owned(), text: text.to_owned(), tick }
}

fn typed(text: &str) -> Editor {
    let mut editor = Editor::default();
    editor.insert(text);
    editor
}

/// A terminal small enough to check by eye: it understands what [`Screen`] writes, and nothing else.
struct Terminal {
    rows: Vec<Vec<char>>,
    /// The first row of the window; those above have scrolled away.
    top: usize,
    row: usize,
    column: usize,
    height: usize,
}

impl Terminal {
    fn new(height: usize) -> Self {
        Self { rows: vec![Vec::new()], top: 0, row: 0, column: 0, height }
    }

    fn write(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\r' => self.column = 0,
                '\n' => {
                    self.row += 1;
                    if self.row == self.rows.len() {
                        self.rows.push(Vec::new());
                    }
                    self.top = self.top.max((self.row + 1).saturating_sub(self.height));
                }
                c => {
                    let row = &mut self.rows[self.row];
                    row.resize(row.len().max(self.column + 1), ' ');
                    row[self.column] = c;
                    self.column += 1;
                }
            }
        }
    }

    fn obey(&mut self, sequence: &str) {
        let (number, command) = sequence.split_at(sequence.len() - 1);
        let count = || number.parse::<usize>().unwrap_or(1);
        match command {
            "A" => self.row = self.row.saturating_sub(count()).max(self.top),
            "C" => self.column += number.parse::<usize>().expect("a number"),
            "J" => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            other => panic!("unknown: {other}"),
        }
    }

    fn all(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
    }
}

/// Text as it is, sequences obeyed.
fn draw(terminal: &mut Terminal, text: &str) {
    let mut rest = text;
    while let Some(at) = rest.find('\u{1b}') {
        terminal.write(&rest[..at]);
        let end = at + rest[at..].find(|c: char| c.is_ascii_alphabetic()).expect("a sequence ends") + 1;
        terminal.obey(&rest[at + 2..end]);
        rest = &rest[end..];
    }
    terminal.write(rest);
}

#[test]
fn a_tick_changes_in_its_place() {
    let (mut screen, mut terminal) = (Screen::new(40, 10, false), Terminal::new(10));
    screen.show(mine(1, "hello", Tick::Sending));
    draw(&mut terminal, &screen.draw("chat 1", &Editor::default()));
    screen.show(theirs("hi"));
    draw(&mut terminal, &screen.draw("chat 1", &typed("wri")));
    screen.show(mine(1, "hello", Tick::Read));
    draw(&mut terminal, &screen.draw("chat 1 · user 2 online", &typed("writing")));
    assert_eq!(terminal.all(), ["12:03 you: hello ✓✓ read", "12:03 user 2: hi", "chat 1 · user 2 online", "> writing"]);
    assert_eq!((terminal.row, terminal.column), (3, 9));
}

#[test]
fn old_lines_scroll_away_whole_and_once() {
    let (mut screen, mut terminal) = (Screen::new(40, 5, false), Terminal::new(5));
    for number in 1..=9 {
        screen.show(mine(number, &format!("line {number}"), Tick::Sending));
        draw(&mut terminal, &screen.draw("status", &typed("x")));
    }
    for number in 1..=9 {
        screen.show(mine(number, &format!("line {number}"), Tick::Delivered));
        draw(&mut terminal, &screen.draw("status", &typed("x")));
    }
    let all = terminal.all();
    assert_eq!(all.len(), 11);
    for (number, row) in (1..=6).zip(&all) {
        assert_eq!(*row, format!("12:03 you: line {number} …"), "out of reach");
    }
    assert_eq!(all[6..], ["12:03 you: line 7 ✓✓", "12:03 you: line 8 ✓✓", "12:03 you: line 9 ✓✓", "status", "> x"]);
}

#[test]
fn many_lines_at_once_are_all_there() {
    let (mut screen, mut terminal) = (Screen::new(40, 5, false), Terminal::new(5));
    for number in 1..=20 {
        screen.show(theirs(&format!("line {number}")));
    }
    draw(&mut terminal, &screen.draw("status", &Editor::default()));
    draw(&mut terminal, &screen.draw("status", &typed("x")));
    assert_eq!(terminal.all().len(), 22);
    draw(&mut terminal, &screen.leave());
    assert_eq!(terminal.all()[19..], ["12:03 user 2: line 20", ""]);
}

#[test]
fn a_long_input_wraps_and_the_cursor_stays_right() {
    let (mut screen, mut terminal) = (Screen::new(20, 10, false), Terminal::new(10));
    let mut editor = typed("0123456789012345678901234567");
    draw(&mut terminal, &screen.draw("status", &editor));
    assert_eq!(terminal.all(), ["status", "> 01234567890123456", "78901234567"]);
    assert_eq!((terminal.row, terminal.column), (2, 11));
    editor.home();
    draw(&mut terminal, &screen.draw("status", &editor));
    assert_eq!((terminal.row, terminal.column), (1, 2));
    editor.take();
    draw(&mut terminal, &screen.draw("status", &editor));
    assert_eq!(terminal.all(), ["status", ">"]);
}

#[test]
fn words_stay_whole_where_they_can() {
    assert_eq!(
        wrap("12:03 user 2: a rather long message", 24, INDENT),
        ["12:03 user 2: a rather ", "      long message"]
    );
    assert_eq!(wrap("一二三四五六七八九十", 9, ""), ["一二三四", "五六七八", "九十"]);
    assert_eq!(wrap("one\n      two", 20, INDENT), ["one", "      two"]);
    assert_eq!(wrap("", 20, INDENT), [""]);
}

#[test]
fn colours_do_not_change_the_text() {
    let plain = Screen::new(40, 10, false);
    let coloured = Screen::new(40, 10, true);
    let strip = |row: &str| {
        let mut parts = row.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').expect("a colour").1)
    };
    for line in [
        theirs("hi"),
        mine(1, "a message that takes more than one row of it", Tick::Read),
        Line::Note("note".to_owned()),
        Line::Problem("bad".to_owned()),
    ] {
        let rows = coloured.rows(&line);
        assert!(rows.iter().any(|row| row.contains('\u{1b}')), "{line:?}");
        assert_eq!(rows.iter().map(|row| strip(row)).collect::<Vec<_>>(), plain.rows(&line));
    }
}
