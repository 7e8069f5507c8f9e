//! What a cluster consists of, in a file: so that it outlives who started it, and any later command finds it.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::kernel::{self, Id};

/// Where a cluster keeps everything: one folder, which ends with it.
#[derive(Clone, Debug)]
pub struct Place {
    target: PathBuf,
}

/// How a process is started, the first time and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Names it in the table, and its log.
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// Beside an environment without `CONFAB_*`. Paths of secrets, never secrets.
    pub env: Vec<(String, String)>,
    /// Where others call it.
    pub addr: SocketAddr,
    /// Where `/readyz` is.
    pub ready: SocketAddr,
}

/// A process of the cluster, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub launch: Launch,
    /// The last one that was started.
    pub id: Option<Id>,
}

/// How far a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Starting,
    Up,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Processes are told by their numbers, which mean nothing after the machine's next start.
    boot: String,
    /// Seconds since 1970.
    pub since: u64,
    pub phase: Phase,
    /// Of users 1 and 2.
    pub chat: u64,
    /// In the order in which they are started.
    pub members: Vec<Member>,
}

/// Held while something is started or ended, so that only one command does.
#[derive(Debug)]
pub struct Lock {
    _target: File,
}

impl Place {
    /// Beside the build that this program is of: `target/cluster`.
    ///
    /// # Errors
    /// If this program isn't in a folder of a build.
    pub fn of_this_build() -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("where this program is")?;
        let target = this.ancestors().nth(2).context("this program is in no folder of a build")?;
        Ok(Self { target: target.to_owned() })
    }

    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.target.join("cluster")
    }

    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder().join("logs")
    }

    /// A data folder for `confab token` and `confab chat`: with the key that the edges believe.
    #[must_use]
    pub fn clients(&self) -> PathBuf {
        self.folder().join("clients")
    }

    fn state(&self) -> PathBuf {
        self.folder().join("state.json")
    }

    /// Makes the folder, for this user alone: there are keys in it.
    ///
    /// # Errors
    /// If there is one.
    pub fn create(&self) -> anyhow::Result<()> {
        let folder = self.folder();
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(|| folder.display().to_string())
    }

    /// # Errors
    /// If something in it can't be removed.
    pub fn remove(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.folder().display()))
            }
            _ => Ok(()),
        }
    }

    /// Until it is dropped, or the process ends in whatever way.
    ///
    /// # Errors
    /// If another command has it.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        // A folder can be locked, too, and this one leaves no file behind.
        let target = File::open(&self.target).with_context(|| self.target.display().to_string())?;
        match target.try_lock() {
            Ok(()) => Ok(Lock { _target: target }),
            Err(fs::TryLockError::WouldBlock) => {
                bail!("another `cargo xtask cluster` is starting or ending something here: wait until it has done so")
            }
            Err(fs::TryLockError::Error(error)) => Err(error).context("locking the target folder"),
        }
    }

    /// None if there is no cluster, or nothing is written of it yet.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn load(&self) -> anyhow::Result<Option<State>> {
        let path = self.state();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let state: State = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is of another version, or damaged: end what runs by hand, and remove the folder",
                path.display()
            )
        })?;
        Ok(Some(state.after_boot(&kernel::boot())))
    }

    /// Whoever reads it finds the old one or the new one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn save(&self, state: &State) -> anyhow::Result<()> {
        let (path, draft) = (self.state(), self.folder().join("state.json.draft"));
        let text = serde_json::to_string_pretty(state).context("the state as JSON")?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        let written = options.open(&draft).and_then(|mut file| file.write_all(text.as_bytes()));
        written.and_then(|()| fs::rename(&draft, &path)).with_context(|| path.display().to_string())
    }
}

impl State {
    #[must_use]
    pub fn new(launches: Vec<Launch>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let members = launches.into_iter().map(|launch| Member { launch, id: None }).collect();
        Self { boot: kernel::boot(), since, phase: Phase::Starting, chat: 0, members }
    }

    /// As it is after the machine's start of that name: of another one, nothing runs any more.
    fn after_boot(mut self, boot: &str) -> Self {
        if self.boot != boot {
            for member in &mut self.members {
                member.id = None;
            }
        }
        self
    }

    /// All of it was started, and some of it is still there.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.phase == Phase::Up && self.members.iter().any(|member| member.id.is_some_and(Id::is_running))
    }

    /// Where clients connect: what is started last is in front of all.
    #[must_use]
    pub fn front(&self) -> Option<&Launch> {
        self.members.last().map(|member| &member.launch)
    }
}

/// The end of a log, for an error. At most `bytes` of it.
#[must_use]
pub fn tail(path: &Path, bytes: usize) -> String {
    let log = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&log[log.len().saturating_sub(bytes)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let addr = "127.0.0.1:1".parse().unwrap();
        let launch = Launch {
            name: "edge-0".to_owned(),
            program: "/bin/true".into(),
            args: vec![],
            env: vec![],
            addr,
            ready: addr,
        };
        let mut state = State::new(vec![launch]);
        state.members[0].id = Id::of(std::process::id());
        state
    }

    #[test]
    fn it_is_found_again_and_its_folder_is_for_one_user_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let place = Place { target: dir.path().to_owned() };
        assert_eq!(place.load().unwrap(), None);
        place.create().unwrap();
        assert_eq!(fs::metadata(place.folder()).unwrap().permissions().mode() & 0o777, 0o700);
        place.create().unwrap_err();
        assert_eq!(place.load().unwrap(), None);
        place.save(&state()).unwrap();
        let mut later = state();
        later.phase = Phase::Up;
        place.save(&later).unwrap();
        assert_eq!(place.load().unwrap(), Some(later));
        place.remove().unwrap();
        place.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn numbers_of_another_start_of_the_machine_are_nobody() {
        let same = state();
        assert!(same.clone().after_boot(&kernel::boot()).members[0].id.is_some());
        assert!(same.after_boot("another").members[0].id.is_none());
    }

    #[test]
    fn one_command_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { target: dir.path().to_owned() };
        let lock = place.lock().unwrap();
        place.lock().unwrap_err();
        drop(lock);
        place.lock().unwrap();
    }
}
