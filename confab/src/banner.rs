//! What `confab serve` says to a person at a terminal. Never part of a log.

use std::path::Path;

use crate::config::{DEFAULT_DATA, DEFAULT_LISTEN};

/// What there is to tell.
pub(crate) struct Banner<'a> {
    /// How this program was called: `confab`, or `cargo run --`.
    pub(crate) program: &'a str,
    /// `http://127.0.0.1:8080`
    pub(crate) url: &'a str,
    pub(crate) data: &'a Path,
    /// Whether `GET /` has tokens: on loopback only.
    pub(crate) page: bool,
}

impl Banner<'_> {
    pub(crate) fn text(&self) -> String {
        let Self { program, url, .. } = self;
        let data = self.data.display();
        let data_flag = if self.data == Path::new(DEFAULT_DATA) {
            String::new()
        } else {
            format!(" --data {}", shell_word(&data.to_string()))
        };
        let url_flag = if *url == format!("http://{DEFAULT_LISTEN}") { String::new() } else { format!(" --url {url}") };
        let ws = url.replacen("http", "ws", 1);
        let page = if self.page { "   (open it: a page where user 1 and user 2 talk)" } else { "" };
        format!(
            r#"
  Confab is up:  {url}{page}
  Data folder:   {data}

  Two terminals that talk:
    {program} chat --user 1{data_flag}{url_flag}
    {program} chat --user 2{data_flag}{url_flag}

  Any other WebSocket client, as user 1:
    npx wscat -c "{ws}/ws?token=$({program} token --user 1{data_flag})"
    > {{"type":"message","chat_id":1,"content":"Hello!"}}

  Ctrl-C stops it.

"#
        )
    }
}

/// As one types it in a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// How to call this program again: as one did. `cargo run` tells its children that it is there.
pub(crate) fn program(cargo: bool, argv0: Option<&str>) -> String {
    match argv0 {
        _ if cargo => "cargo run -q --".to_owned(),
        Some(path) => shell_word(path),
        None => "confab".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_defaults_it_is_short() {
        let banner =
            Banner { program: "confab", url: "http://127.0.0.1:8080", data: Path::new("confab-data"), page: true };
        assert_eq!(
            banner.text(),
            r#"
  Confab is up:  http://127.0.0.1:8080   (open it: a page where user 1 and user 2 talk)
  Data folder:   confab-data

  Two terminals that talk:
    confab chat --user 1
    confab chat --user 2

  Any other WebSocket client, as user 1:
    npx wscat -c "ws://127.0.0.1:8080/ws?token=$(confab token --user 1)"
    > {"type":"message","chat_id":1,"content":"Hello!"}

  Ctrl-C stops it.

"#
        );
    }

    #[test]
    fn what_is_not_default_is_in_the_lines() {
        let banner = Banner {
            program: "cargo run -q --",
            url: "https://[::1]:8443",
            data: Path::new("/tmp/my data"),
            page: false,
        };
        let text = banner.text();
        assert!(
            text.contains("\n    cargo run -q -- chat --user 2 --data '/tmp/my data' --url https://[::1]:8443\n"),
            "{text}"
        );
        assert!(
            text.contains(
                r#"npx wscat -c "wss://[::1]:8443/ws?token=$(cargo run -q -- token --user 1 --data '/tmp/my data')""#
            ),
            "{text}"
        );
        assert!(!text.contains("page where"), "{text}");
    }

    #[test]
    fn the_program_is_called_as_it_was() {
        assert_eq!(program(true, Some("target/debug/confab")), "cargo run -q --");
        assert_eq!(program(false, Some("target/debug/confab")), "target/debug/confab");
        assert_eq!(program(false, Some("./my confab")), "'./my confab'");
        assert_eq!(program(false, None), "confab");
    }
}
