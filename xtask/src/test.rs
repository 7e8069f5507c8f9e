//! `cargo xtask test`: every test, after installing what they need.
//!
//! `cargo test` runs one test program after the other, and half of the time they wait: for servers to start, for timeouts to pass. So
//! those that start servers run two at a time, and those that only compute beside them, at the lowest priority. What measures times
//! runs alone, after all others.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::install::{Needed, install};

const NEEDED: [Needed; 9] = [
    ("fusermount3", "fuse3"),
    ("chromium", "chromium"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("pip", "python3-pip"),
    // Cassandra's, which `tests/services/cassandra` fetches.
    ("java", "openjdk-17-jre-headless"),
    ("mvn", "maven"),
    ("redis-server", "redis-server"),
    // Builds grpcurl.
    ("go", "golang-go"),
];

/// Unit tests that start servers.
const SERVES: [&str; 1] = ["confab_message_svc"];
/// So many of those that start servers run at once.
const SERVING_MAX: usize = 2;
/// They take the longest, so they begin: what is left at the end is short.
const LONGEST: [&str; 2] = ["power_loss", "confab_message_svc"];
/// End-to-end tests of what is measured while it goes on.
const MEASURES: [&str; 2] = ["faults", "storms"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Computes,
    Serves,
    Measures,
}

/// A test program.
struct Program {
    name: String,
    /// Of its target.
    target: String,
    path: PathBuf,
    /// Its package's folder, where it runs.
    package: PathBuf,
    lane: Lane,
}

/// What came of one.
struct Ended {
    name: String,
    success: bool,
    /// As libtest says it: `ok. 10 passed; 0 failed; …`.
    result: String,
    took: Duration,
}

pub(crate) fn run() -> anyhow::Result<()> {
    install(&NEEDED)?;
    // The program first: the end-to-end tests start it. With `--tests`, for what tests depend on has features of its own: a plain
    // build's services would be built a second time.
    crate::cargo(&["build", "--workspace", "--bins", "--tests"])?;
    let mut programs = programs()?;
    ensure!(!programs.is_empty(), "there are no tests");
    programs.sort_by_key(|program| !LONGEST.contains(&program.target.as_str()));
    let run_all = |wanted: Lane| lane(&programs, wanted);
    println!("{} test programs; beside each other as far as they can", programs.len());
    let mut ended = std::thread::scope(|scope| {
        let computing = scope.spawn(|| run_all(Lane::Computes));
        let mut ended = run_all(Lane::Serves)?;
        ended.extend(computing.join().map_err(|_| anyhow::anyhow!("a lane panicked"))??);
        anyhow::Ok(ended)
    })?;
    ended.extend(run_all(Lane::Measures)?);
    println!("\n{}", table(&mut ended));
    let documented = crate::cargo(&["test", "--workspace", "--doc"]);
    let failed: Vec<&str> = ended.iter().filter(|ended| !ended.success).map(|ended| ended.name.as_str()).collect();
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    documented
}

/// All test programs, built; the names are as `cargo test` says them.
fn programs() -> anyhow::Result<Vec<Program>> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]);
    let output = cargo.current_dir(crate::root()).stderr(Stdio::inherit()).output().context("cargo test --no-run")?;
    ensure!(output.status.success(), "the tests can't be built");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let messages = lines.map(serde_json::from_slice).collect::<Result<Vec<Value>, _>>()?;
    Ok(messages.iter().filter_map(program).collect())
}

/// What an artifact's message says of a test program.
fn program(message: &Value) -> Option<Program> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let path = PathBuf::from(message["executable"].as_str()?);
    let package = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let target = message["target"]["name"].as_str()?;
    let is_test = message["target"]["kind"] == serde_json::json!(["test"]);
    let lane = match target {
        _ if SERVES.contains(&target) => Lane::Serves,
        _ if is_test && MEASURES.contains(&target) => Lane::Measures,
        _ if is_test => Lane::Serves,
        _ => Lane::Computes,
    };
    let folder = package.file_name()?.to_string_lossy();
    let name = if is_test { format!("{folder}/tests/{target}") } else { format!("{folder} ({target})") };
    Some(Program { name, target: target.to_owned(), path, package, lane })
}

/// As many at a time as the lane is wide.
fn lane(programs: &[Program], lane: Lane) -> anyhow::Result<Vec<Ended>> {
    let width = if lane == Lane::Serves { SERVING_MAX } else { 1 };
    let waiting = Mutex::new(programs.iter().filter(|program| program.lane == lane));
    // The lock is let go before the program runs.
    let next = || waiting.lock().ok()?.next();
    let one_after_the_other = || std::iter::from_fn(next).map(run_one).collect::<anyhow::Result<Vec<Ended>>>();
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..width).map(|_| scope.spawn(one_after_the_other)).collect();
        let ended = running.into_iter().map(|one| one.join().map_err(|_| anyhow::anyhow!("a lane panicked"))?);
        Ok(ended.collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect())
    })
}

fn run_one(program: &Program) -> anyhow::Result<Ended> {
    let mut command = match program.lane {
        Lane::Computes => {
            let mut nice = Command::new("nice");
            nice.args(["-n", "19"]).arg(&program.path);
            nice
        }
        _ => Command::new(&program.path),
    };
    println!("     Running {}", program.name);
    let at = Instant::now();
    // Into files: a pipe would be waited for as long as anything holds it that the tests have left behind.
    let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
    command.current_dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
    command.stdin(Stdio::null()).stdout(out.reopen()?).stderr(err.reopen()?);
    let status = command.status().with_context(|| program.path.display().to_string())?;
    let took = at.elapsed();
    let read = |file: &Path| std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let (said, complained) = (read(out.path())?, read(err.path())?);
    let result = said.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    let result = result.unwrap_or("no result").split("; finished").next().unwrap_or_default().to_owned();
    // At once, so that what two lanes say doesn't mix.
    println!("\n     {} ({:.0} s)\n{said}{complained}", program.name, took.as_secs_f64());
    Ok(Ended { name: program.name.clone(), success: status.success(), result, took })
}

/// Longest first.
fn table(ended: &mut [Ended]) -> String {
    ended.sort_by_key(|ended| std::cmp::Reverse(ended.took));
    let width = ended.iter().map(|ended| ended.name.len()).max().unwrap_or(0);
    let rows = ended
        .iter()
        .map(|Ended { name, result, took, .. }| format!("{name:width$} {:>5.0} s  {result}\n", took.as_secs_f64()));
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn artifact(folder: &str, kind: &str, target: &str) -> Value {
        json!({
            "reason": "compiler-artifact",
            "manifest_path": format!("/w/{folder}/Cargo.toml"),
            "target": { "name": target, "kind": [kind] },
            "profile": { "test": true },
            "executable": format!("/w/target/{target}-1"),
        })
    }

    #[test]
    fn each_program_has_its_lane_and_a_name_that_says_where_it_is() {
        let of = |folder, kind, target| {
            let program = program(&artifact(folder, kind, target)).expect("a program");
            (program.name, program.lane)
        };
        assert_eq!(of("edge", "lib", "confab_edge"), ("edge (confab_edge)".to_owned(), Lane::Computes));
        assert_eq!(of("message-svc", "lib", "confab_message_svc").1, Lane::Serves);
        assert_eq!(of("tests", "test", "roles"), ("tests/tests/roles".to_owned(), Lane::Serves));
        assert_eq!(of("tests", "test", "faults").1, Lane::Measures);
    }

    #[test]
    fn what_is_no_test_program_is_left_out() {
        let mut plain = artifact("confab", "bin", "confab");
        plain["profile"]["test"] = json!(false);
        assert!(program(&plain).is_none());
        let mut library = artifact("edge", "lib", "confab_edge");
        library["executable"] = Value::Null;
        assert!(program(&library).is_none());
        assert!(program(&json!({ "reason": "build-finished", "success": true })).is_none());
    }
}
