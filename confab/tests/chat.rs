//! Two pipes that chat through a real server.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long anything may take that should be quick: CI has two busy cores.
const BOUND: Duration = Duration::from_secs(20);

/// A process that is gone when the test is.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Process {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_confab"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CONFAB_")) {
            command.env_remove(name);
        }
        command.args(args).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Self { child, stdin, stdout: lines(stdout.expect("a pipe")), stderr: lines(stderr.expect("a pipe")) }
    }

    fn write(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("input goes on");
        writeln!(stdin, "{line}").expect("written");
    }

    /// Waits for the next line of stdout; without its time, `12:03 `.
    #[track_caller]
    fn says(&self) -> String {
        let line = self.stdout.recv_timeout(BOUND).expect("a line in time");
        line.split_once(' ')
            .filter(|(time, _)| time.contains(':') && time.len() == 5)
            .map_or(line.clone(), |(_, rest)| rest.to_owned())
    }

    /// The input ends; waits for the program's end.
    #[track_caller]
    fn end(mut self) {
        drop(self.stdin.take());
        while self.stdout.recv_timeout(BOUND).is_ok() {}
        assert!(self.child.wait().expect("ended").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A server on a free port, and its URL.
fn server(dir: &Path, listen: &str) -> (Process, String) {
    let server = Process::start(dir, &["serve", "--listen", listen]);
    loop {
        let line = server.stderr.recv_timeout(BOUND).expect("the server starts");
        let Some(at) = line.find(r#""url":""#).filter(|_| line.contains("listening")) else { continue };
        let url = line[at + 7..].split('"').next().expect("a URL").to_owned();
        return (server, url);
    }
}

#[test]
fn two_pipes_talk() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_server, url) = server(dir.path(), "127.0.0.1:0");
    let mut one = Process::start(dir.path(), &["chat", "--user", "1", "--url", &url]);
    one.write("hello");
    assert_eq!(one.says(), "you: hello ✓");
    let mut two = Process::start(dir.path(), &["chat", "--user", "2", "--url", &url]);
    assert_eq!(two.says(), "user 1: hello");
    assert_eq!(one.says(), "✓✓: hello");
    two.write("hi, \u{1b}[31mone\u{1b}[0m");
    assert_eq!(one.says(), "user 2: hi, \u{fffd}[31mone\u{fffd}[0m", "nothing that a terminal obeys");
    assert_eq!(one.stderr.recv_timeout(BOUND).as_deref(), Ok("user 2 is offline"));
    assert_eq!(one.stderr.recv_timeout(BOUND).as_deref(), Ok("user 2 is online"));
    one.end();
    two.end();
}

#[test]
fn what_is_written_while_the_server_is_dead_arrives_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (mut first, url) = server(dir.path(), "127.0.0.1:0");
    let mut one = Process::start(dir.path(), &["chat", "--user", "1", "--url", &url]);
    one.write("before");
    assert_eq!(one.says(), "you: before ✓");
    first.child.kill().expect("killed");
    first.child.wait().expect("ended");
    one.write("meanwhile");
    let (_second, again) = server(dir.path(), url.trim_start_matches("http://"));
    assert_eq!(again, url);
    assert_eq!(one.says(), "you: meanwhile ✓");
    one.end();
    let mut two = Process::start(dir.path(), &["chat", "--user", "2", "--url", &url]);
    assert_eq!([two.says(), two.says()], ["user 1: before", "user 1: meanwhile"]);
    two.write("got it");
    assert_eq!(two.says(), "you: got it ✓");
    two.end();
}

#[test]
fn a_stranger_is_told_and_a_wrong_key_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (_server, url) = server(dir.path(), "127.0.0.1:0");
    let complaint = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_confab"));
        let mut child = command
            .args(args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut text = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut text).expect("text");
        assert!(!child.wait().expect("ended").success());
        text
    };
    assert_eq!(
        complaint(&["chat", "--user", "3", "--url", &url]),
        "error: user 3 is not in chat 1, or there is no such chat.\nIn a fresh data folder, users 1 and 2 have chat 1\n"
    );
    let made = Command::new(env!("CARGO_BIN_EXE_confab"))
        .args(["token", "--user", "1", "--data", "other"])
        .current_dir(dir.path())
        .output();
    assert!(made.expect("the program starts").status.success());
    assert_eq!(
        complaint(&["chat", "--user", "1", "--data", "other", "--url", &url]),
        format!(
            "error: {url} does not accept a token made with the key in other.\nSay which data folder that server uses: --data DIR\n"
        )
    );
}
