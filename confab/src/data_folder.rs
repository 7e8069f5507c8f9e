//! The data folder: whose it is, which version of Confab wrote it, and that one process uses it at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// The version of the folder's layout that this program writes, and the only one that it can read.
const LAYOUT: u32 = 2;

const VERSION: &str = "VERSION";
const LOCK: &str = "lock";
/// The token secret that is made at the first start.
pub(crate) const SECRET: &str = "token.key";

/// A folder that this program may use. Not yet locked: `confab token` works beside a running server.
#[derive(Clone, Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
}

/// The folder is this process's until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl DataFolder {
    /// Makes the folder if it isn't there, for this user only, and checks that it is one of ours.
    pub(crate) fn open_or_create(path: &Path) -> anyhow::Result<Self> {
        create(path).with_context(|| format!("can't make the data folder {}", path.display()))?;
        let folder = Self { path: path.to_owned() };
        match folder.version()? {
            Some(_) => {}
            None => folder.claim()?,
        }
        Ok(folder)
    }

    /// Opens the folder that a server has made.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let folder = Self { path: path.to_owned() };
        if !path.join(VERSION).exists() {
            bail!(
                "{} is not a data folder of Confab.\nStart the server first (`confab serve`), or say where its data folder is (--data DIR)",
                path.display()
            );
        }
        folder.version()?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the folder for this process.
    pub(crate) fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.path.join(LOCK);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("can't open the lock file {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(self.in_use(&mut file)),
            Err(TryLockError::Error(error)) => {
                return Err(error)
                    .with_context(|| format!("can't lock {}: does its file system support locks?", path.display()));
            }
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Lock { _file: file })
    }

    fn in_use(&self, lock: &mut File) -> String {
        let mut pid = String::new();
        let _ = lock.read_to_string(&mut pid);
        let holder = match pid.trim() {
            "" => "another process".to_owned(),
            pid => format!("process {pid}"),
        };
        format!(
            "the data folder {} is in use by {holder}.\nStop that server, or give this one a folder of its own: --data DIR",
            self.path.display()
        )
    }

    /// The layout's version; `None` in a folder that is new.
    fn version(&self) -> anyhow::Result<Option<u32>> {
        let path = self.path.join(VERSION);
        let text = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let version = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        match version {
            Some(LAYOUT) => Ok(Some(LAYOUT)),
            Some(version @ 1..LAYOUT) => bail!(
                "the data folder {} was written by an older Confab, before the first release: its layout is version {version}, this program reads {LAYOUT}.\n\
                 Use another folder: --data DIR",
                self.path.display()
            ),
            Some(version) if version > LAYOUT => bail!(
                "the data folder {} was written by a newer Confab: its layout is version {version}, this program ({}) knows up to {LAYOUT}.\n\
                 Use the newer program, or another folder: --data DIR",
                self.path.display(),
                env!("CARGO_PKG_VERSION")
            ),
            _ => bail!(
                "the data folder {} is damaged: its file VERSION does not hold a version.\n\
                 Restore the folder from a backup; if all else in it is whole, `echo {LAYOUT} > {}` repairs it",
                self.path.display(),
                path.display()
            ),
        }
    }

    /// Marks a new folder as ours. Somebody's files are refused: they were hardly meant.
    fn claim(&self) -> anyhow::Result<()> {
        for entry in
            fs::read_dir(&self.path).with_context(|| format!("can't read the data folder {}", self.path.display()))?
        {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // What a crash at the very first start can leave, a key put there beforehand, and what file systems keep in their root.
            let harmless = name.starts_with('.') || [LOCK, SECRET, VERSION, "lost+found"].contains(&name.as_str());
            if !harmless {
                bail!(
                    "{} is not a data folder of Confab, and not empty: there is {name}, but no file VERSION.\n\
                     Give an empty or a new folder (--data DIR); if this was one, restore it from a backup",
                    self.path.display()
                );
            }
        }
        write_new(&self.path.join(VERSION), format!("{LAYOUT}\n").as_bytes())
            .context("can't mark the data folder as Confab's")
    }
}

/// Writes a file that is there in whole or not at all, after a power cut, too, readable by this user only. If it is there already it
/// stays as it is: of two processes that start at once, both use what the first wrote.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().context("the file has no folder")?;
    let name = path.file_name().context("the file has no name")?.to_string_lossy();
    let draft = dir.join(format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
    let written = write_durably(&draft, content).and_then(|()| publish(&draft, path));
    let _ = fs::remove_file(&draft);
    written.with_context(|| format!("can't write {}", path.display()))?;
    sync_dir(dir)?;
    Ok(())
}

fn write_durably(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A hard link refuses to replace. Where the file system has none, a rename must do.
fn publish(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) if !path.exists() => fs::rename(draft, path),
        linked => linked,
    }
}

fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    sync_dir(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Makes the folder's entries durable.
fn sync_dir(dir: &Path) -> io::Result<()> {
    // Elsewhere a folder can't be opened as a file, and its entries are durable by themselves.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    fn refusal<T: std::fmt::Debug>(result: anyhow::Result<T>) -> String {
        format!("{:#}", result.expect_err("refused"))
    }

    #[test]
    #[cfg(unix)]
    fn a_new_folder_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = temporary();
        let path = dir.path().join("a/b");
        let folder = DataFolder::open_or_create(&path).expect("made");
        assert_eq!(fs::metadata(folder.path()).expect("there").permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(path.join(VERSION)).expect("there"), "2\n");
        DataFolder::open_or_create(&path).expect("opened again");
    }

    #[test]
    fn one_process_at_a_time() {
        let dir = temporary();
        let folder = DataFolder::open_or_create(dir.path()).expect("made");
        let lock = folder.lock().expect("free");
        let words = refusal(folder.lock());
        assert!(words.contains(&format!("is in use by process {}", std::process::id())), "{words}");
        assert!(words.contains(&dir.path().display().to_string()), "{words}");
        drop(lock);
        folder.lock().expect("free again");
    }

    #[test]
    fn a_newer_or_damaged_folder_is_refused() {
        let dir = temporary();
        for (version, words) in [
            ("3\n", "written by a newer Confab"),
            ("1\n", "written by an older Confab"),
            ("", "is damaged"),
            ("one", "is damaged"),
            ("0", "is damaged"),
        ] {
            fs::write(dir.path().join(VERSION), version).expect("written");
            let refusal = refusal(DataFolder::open_or_create(dir.path()));
            assert!(refusal.contains(words), "{version:?}: {refusal}");
        }
    }

    #[test]
    fn a_folder_of_other_things_is_refused() {
        let dir = temporary();
        fs::write(dir.path().join("thesis.odt"), "").expect("written");
        assert!(refusal(DataFolder::open_or_create(dir.path())).contains("there is thesis.odt"));
        assert!(refusal(DataFolder::open(dir.path())).contains("Start the server first"));
        let file = dir.path().join("thesis.odt");
        assert!(refusal(DataFolder::open_or_create(&file)).contains(&file.display().to_string()));
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let dir = temporary();
        let path = dir.path().join("x");
        write_new(&path, b"first").expect("written");
        write_new(&path, b"second").expect("left alone");
        assert_eq!(fs::read(&path).expect("there"), b"first");
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
