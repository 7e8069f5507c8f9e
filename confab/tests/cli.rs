//! The program as its users meet it: what it prints, where, and how it exits.

use std::path::Path;
use std::process::{Command, Output};

use jsonwebtoken::{Algorithm, DecodingKey, Validation};

/// Runs `confab` in `dir`, free of settings from around the test.
fn confab(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_confab"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONFAB_")) {
        command.env_remove(name);
    }
    command.args(args).current_dir(dir).output().expect("the program starts")
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// What a successful run says on stdout.
#[track_caller]
fn says(output: &Output) -> &str {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stdout).expect("text")
}

/// What a failed run says on stderr.
#[track_caller]
fn complains(output: &Output) -> &str {
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    std::str::from_utf8(&output.stderr).expect("text")
}

#[test]
fn a_token_of_a_fresh_folder_is_signed_with_the_key_it_made() {
    let dir = temporary();
    let output = confab(dir.path(), &["token", "--user", "7", "--device", "phone", "--ttl", "90s"]);
    let token = says(&output).strip_suffix('\n').expect("a line");
    let key = std::fs::read_to_string(dir.path().join("confab-data/token.key")).expect("made");
    let key = DecodingKey::from_secret(key.trim_end().as_bytes());
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &Validation::new(Algorithm::HS256))
        .expect("a valid token")
        .claims;
    assert_eq!((&claims["sub"], &claims["device"]), (&"7".into(), &"phone".into()));
    let another = confab(dir.path(), &["token", "--user", "8", "--data", "confab-data"]);
    jsonwebtoken::decode::<serde_json::Value>(says(&another).trim_end(), &key, &Validation::new(Algorithm::HS256))
        .expect("the same key");
}

#[test]
fn a_bad_argument_says_what_is_right() {
    let dir = temporary();
    for (args, words) in [
        (&["token", "--user", "0"][..], "an id is a whole number from 1 to 9007199254740991"),
        (&["token", "--user", "1", "--device", "my phone"], "a device's name has 1 to 64 of A-Z a-z 0-9 . _ -"),
        (&["token", "--user", "1", "--ttl", "soon"], "a duration is a number and a unit, such as 90s, 15m, 1h, 7d"),
        (&["token"], "--user <ID>"),
        (&["chat", "--user", "1"], "confab-data is not a data folder of Confab"),
        (&["dance"], "unrecognized subcommand 'dance'"),
    ] {
        let output = confab(dir.path(), args);
        assert!(complains(&output).contains(words), "{args:?}: {output:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0, "nothing was made");
}

#[test]
fn the_default_configuration_is_good_and_a_bad_one_is_told_whole() {
    let dir = temporary();
    let default = confab(dir.path(), &["default-config"]);
    std::fs::write(dir.path().join("confab.toml"), says(&default)).expect("written");
    assert_eq!(says(&confab(dir.path(), &["check-config", "--config", "confab.toml"])), "The configuration is good.\n");
    std::fs::write(dir.path().join("bad.toml"), "listne = 1\n[edge]\nwatch_max = -1\n").expect("written");
    let bad = confab(dir.path(), &["check-config", "--config", "bad.toml", "--listen", "0.0.0.0:80"]);
    assert_eq!(
        complains(&bad),
        "error: 3 problems in the configuration

  edge.watch_max = -1 (bad.toml, line 3)
    must be a whole number from 0 to 10000
  listen = 0.0.0.0:80 (--listen)
    can be reached from other machines, and would be plain text.
    Give --tls-cert and --tls-key, or --behind-proxy (the networks of a reverse proxy that does TLS), or listen on 127.0.0.1
  listne = 1 (bad.toml, line 1)
    is not a setting; did you mean listen?
"
    );
}

#[test]
fn a_chat_without_a_server_says_how_to_start_one() {
    let dir = temporary();
    says(&confab(dir.path(), &["token", "--user", "1"]));
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let output = confab(dir.path(), &["chat", "--user", "1", "--url", &url]);
    assert_eq!(
        complains(&output),
        format!(
            "error: can't reach {url}: Connection refused (os error 111).\n\
             Is the server running? Start it in another terminal: confab serve\n\
             If it listens elsewhere, say where: --url URL\n"
        )
    );
}

#[test]
fn help_leads_on() {
    let dir = temporary();
    assert_eq!(
        says(&confab(dir.path(), &["--help"])),
        "A chat backend: one program, no database to install, and an acked message is never lost

Usage: confab <COMMAND>

Commands:
  serve           Run the server: every service in one process, on embedded storage
  migrate         Make or update the tables in a cluster's Cassandra; safe to run twice, and by two at once
  token           Print a token that lets a client in as a user
  chat            Chat in this terminal
  certs           Make certificates by which the services of a cluster know each other, for trying it out
  check-config    Say everything that is wrong with the configuration, and start nothing
  default-config  Print every setting with its default and what it means

Options:
  -h, --help     Print help
  -V, --version  Print version

Examples:
  confab serve                    a chat server on http://127.0.0.1:8080, data in ./confab-data
  confab chat --user 1            talk to user 2, who does the same in another terminal
  confab token --user 1           a token for any other client

Users 1 and 2 have chat 1 in a fresh data folder.
"
    );
    assert_eq!(says(&confab(dir.path(), &["--version"])), format!("confab {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn certs_says_what_it_wrote() {
    let dir = temporary();
    let output = confab(dir.path(), &["certs", "--out", "certs", "--role", "edge", "--days", "7"]);
    let table = says(&output);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    for (line, (path, what)) in lines.iter().zip([
        ("certs/ca.crt  ", "the authority: every role trusts it"),
        ("certs/ca.key  ", "its key: keep it off the servers"),
        ("certs/edge.crt", "the certificate of edge, until 2"),
        ("certs/edge.key", "its key"),
    ]) {
        assert!(line.starts_with(&format!("{path}  {what}")), "{line}");
        assert!(dir.path().join(path.trim_end()).exists(), "{path}");
    }
    let output = confab(dir.path(), &["certs", "--out", "certs", "--role", "edge"]);
    let again = says(&output);
    assert_eq!(again.lines().count(), 2, "the authority stays: {again}");
    assert!(
        complains(&confab(dir.path(), &["certs", "--out", "certs", "--role", "Edge"])).contains("1 to 63 of a-z 0-9 -")
    );
}
