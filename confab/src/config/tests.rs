mod roles;

use super::*;

fn resolve(flags: &Flags, env: &[(&str, &str)]) -> Result<Config, Problems> {
    Config::resolve(flags, env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
}

fn from_toml(text: &str) -> Result<Config, Problems> {
    let mut problems = Vec::new();
    let layer = source::from_toml(Path::new("confab.toml"), text, &mut problems);
    Config::read(Reader::new(vec![layer], problems), Use::Serve)
}

fn refusal(text: &str) -> String {
    from_toml(text).expect_err("this file is wrong").to_string()
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    assert_eq!(from_toml(DEFAULT_TOML), Ok(Config::default()));
    assert_eq!(from_toml(""), Ok(Config::default()));
}

#[test]
fn every_optional_setting_is_in_the_printed_file() {
    // What has no default stands there as a comment: taken out of it, the file is still one that Confab knows, but for the paths.
    let uncommented: String = DEFAULT_TOML
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    for key in ["tls_cert", "tls_key", "otlp_endpoint", "secret_file"] {
        assert!(uncommented.contains(&format!("\n{key} = ")), "{key} is missing");
    }
    assert!(!refusal(&uncommented).contains("is not a setting"));
}

#[test]
fn flags_beat_variables_beat_the_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("confab.toml");
    std::fs::write(&path, "listen = \"127.0.0.1:1\"\ndata = \"file\"\n[edge]\nwatch_max = 1\nin_flight_max = 1\n")
        .expect("written");
    let flags = Flags { config: Some(path), listen: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
    let env = [
        ("CONFAB_LISTEN", "127.0.0.1:2"),
        ("CONFAB_EDGE__WATCH_MAX", "2"),
        ("CONFAB_BEHIND_PROXY", "10.0.0.0/8, 10.1.2.3"),
    ];
    let config = resolve(&flags, &env).expect("a good configuration");
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.edge.watch_max, 2);
    assert_eq!(config.edge.in_flight_max, 1);
    assert_eq!(config.data, PathBuf::from("file"));
    assert_eq!(config.behind_proxy.len(), 2);
}

#[test]
fn everything_wrong_is_said_at_once() {
    let text = r#"
listen = "0.0.0.0:8080"
tls_cert = "/nonexistent/cert.pem"
colour = "blue"
behind_proxy = ["10.0.0.0/64"]
otlp_endpoint = 4317

[log]
format = "xml"

[edge]
frame_bytes_max = 12
in_flight_max = "many"
wach_max = 3
ping_interval_seconds = 60
"#;
    assert_eq!(
        refusal(text),
        r#"11 problems in the configuration

  tls_cert = "/nonexistent/cert.pem" (confab.toml, line 3)
    must be a file that can be read: No such file or directory (os error 2)
  tls_cert = "/nonexistent/cert.pem" (confab.toml, line 3)
    needs tls_key, too: the file with the certificate's private key
  behind_proxy = ["10.0.0.0/64"] (confab.toml, line 5)
    must be a list of networks, such as ["10.0.0.0/8"]
  otlp_endpoint = 4317 (confab.toml, line 6)
    must be an address such as http://127.0.0.1:4317
  log.format = "xml" (confab.toml, line 9)
    must be auto, text or json
  edge.frame_bytes_max = 12 (confab.toml, line 12)
    must be a whole number from 1024 to 16777216
  edge.in_flight_max = "many" (confab.toml, line 13)
    must be a whole number from 1 to 4096
  listen = "0.0.0.0:8080" (confab.toml, line 2)
    can be reached from other machines, and would be plain text.
    Give --tls-cert and --tls-key, or --behind-proxy (the networks of a reverse proxy that does TLS), or listen on 127.0.0.1
  edge.ping_interval_seconds = 60 (confab.toml, line 15)
    must be under edge.silence_seconds, 45, or idle clients are closed
  colour = "blue" (confab.toml, line 4)
    is not a setting; `confab default-config` shows them all
  edge.wach_max = 3 (confab.toml, line 14)
    is not a setting; did you mean edge.watch_max?"#
    );
}

#[test]
fn flags_and_variables_are_named_as_they_were_written() {
    let flags =
        Flags { listen: Some("8080".to_owned()), config: Some(PathBuf::from("/nonexistent.toml")), ..Flags::default() };
    let refusal = resolve(&flags, &[("CONFAB_EDGE__WATCH_MAX", "-1"), ("CONFAB_EDGE_DRAIN_SECONDS", "3")]);
    assert_eq!(
        refusal.expect_err("this is wrong").to_string(),
        r#"4 problems in the configuration

  config = /nonexistent.toml (--config)
    must be a TOML file that can be read: No such file or directory (os error 2)
  listen = 8080 (--listen)
    must be an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080
  edge.watch_max = -1 (CONFAB_EDGE__WATCH_MAX)
    must be a whole number from 0 to 10000
  edge_drain_seconds = 3 (CONFAB_EDGE_DRAIN_SECONDS)
    is not a setting; did you mean CONFAB_EDGE__DRAIN_SECONDS?"#
    );
}

#[test]
fn what_is_no_toml_is_said_by_its_line() {
    let refusal = refusal(
        "listen = \"127.0.0.1:1\"\nlisten = \"127.0.0.1:2\"\n[edge\nwatch_max = 0x7fffffffffffffffffffffffffffffffff\n",
    );
    assert!(refusal.contains("confab.toml, line 2\n    duplicate key"), "{refusal}");
    assert!(refusal.contains("confab.toml, line 3"), "{refusal}");
}

#[test]
fn plain_text_stays_on_this_machine() {
    for fine in ["127.0.0.1:0", "127.9.9.9:80", "[::1]:8080", "[::ffff:127.0.0.1]:8080", "localhost:8080"] {
        assert!(from_toml(&format!("listen = {fine:?}")).is_ok(), "{fine}");
    }
    for exposed in ["0.0.0.0:8080", "[::]:8080", "192.168.1.2:8080"] {
        assert!(refusal(&format!("listen = {exposed:?}")).contains("plain text"), "{exposed}");
        assert!(from_toml(&format!("listen = {exposed:?}\nbehind_proxy = \"10.0.0.1\"")).is_ok(), "{exposed}");
    }
}

#[test]
fn two_files_make_tls() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "").expect("written");
        path
    };
    let flags = Flags {
        listen: Some("0.0.0.0:443".to_owned()),
        tls_cert: Some(path("cert")),
        tls_key: Some(path("key")),
        ..Flags::default()
    };
    assert!(resolve(&flags, &[]).is_ok_and(|config| config.tls.is_some()));
    let folder = Flags { tls_cert: Some(dir.path().to_owned()), tls_key: Some(path("key")), ..Flags::default() };
    assert!(
        resolve(&folder, &[])
            .expect_err("a folder is no file")
            .to_string()
            .contains("must be a file that can be read: is a directory")
    );
}
