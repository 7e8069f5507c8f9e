use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::LossyFs;

struct Rig {
    dir: tempfile::TempDir,
    seed: u64,
}

impl Rig {
    fn new(seed: u64) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), seed }
    }

    fn mount(&self, from: Option<&Path>) -> LossyFs {
        LossyFs::mount(&self.dir.path().join("mnt"), from, self.seed).unwrap()
    }

    fn left(&self) -> PathBuf {
        self.dir.path().join("left")
    }
}

#[test]
fn behaves_like_a_file_system_while_the_power_is_on() {
    let rig = Rig::new(1);
    let fs_ = rig.mount(None);
    let root = fs_.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(root.join("a/b/f")).unwrap();
    file.write_all(b"hello world").unwrap();
    file.seek(SeekFrom::Start(6)).unwrap();
    file.write_all(b"there").unwrap();
    file.set_len(1 << 26).unwrap();
    file.set_len(11).unwrap();
    file.sync_all().unwrap();
    fs::rename(root.join("a/b/f"), root.join("a/g")).unwrap();
    let mut text = String::new();
    File::open(root.join("a/g")).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello there");
    let mut more = OpenOptions::new().append(true).open(root.join("a/g")).unwrap();
    more.write_all(b"!").unwrap();
    assert_eq!(fs::read_to_string(root.join("a/g")).unwrap(), "hello there!");
    assert!(fs::remove_dir(root.join("a")).is_err(), "not empty");
    fs::remove_file(root.join("a/g")).unwrap();
    fs::remove_dir_all(root.join("a")).unwrap();
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
    for name in 0..500 {
        fs::write(root.join(format!("file-{name}")), [7; 100]).unwrap();
    }
    assert_eq!(fs::read_dir(root).unwrap().count(), 500, "readdir goes on after a full buffer");
    let lock = File::create(root.join("lock")).unwrap();
    lock.try_lock().unwrap();
    assert!(File::open(root.join("lock")).unwrap().try_lock().is_err(), "flock excludes");
}

#[test]
fn what_was_synced_survives_and_unsynced_names_and_data_can_be_lost() {
    let mut lost_name = 0;
    let mut lost_data = 0;
    let mut lost_rename = 0;
    for seed in 0..40 {
        let rig = Rig::new(seed);
        let fs_ = rig.mount(None);
        let root = fs_.path().to_owned();
        fs::create_dir(root.join("d")).unwrap();
        let mut kept = File::create(root.join("d/kept")).unwrap();
        kept.write_all(b"synced").unwrap();
        kept.sync_data().unwrap();
        fs::write(root.join("d/old"), b"").unwrap();
        sync_dir(&root.join("d"));
        sync_dir(&root);
        kept.write_all(b" and not").unwrap();
        fs::rename(root.join("d/old"), root.join("d/new")).unwrap();
        let named = File::create(root.join("d/nameless")).unwrap();
        named.sync_all().unwrap();
        fs_.cut();
        assert!(kept.write_all(b"late").is_err());
        assert!(kept.sync_all().is_err());
        drop((kept, named));
        fs_.materialise(&rig.left()).unwrap();
        let text = fs::read(rig.left().join("d/kept")).unwrap();
        assert!(text.starts_with(b"synced"), "seed {seed}: {text:?}");
        assert!(b"synced and not".starts_with(&text), "seed {seed}: {text:?}");
        lost_data += u64::from(text.len() < 14);
        lost_name += u64::from(!rig.left().join("d/nameless").exists());
        let (old, new) = (rig.left().join("d/old").exists(), rig.left().join("d/new").exists());
        assert!(old ^ new, "seed {seed}: a rename is atomic");
        lost_rename += u64::from(old);
    }
    println!("of 40 cuts: data lost {lost_data}, new name lost {lost_name}, rename undone {lost_rename}");
    for lost in [lost_data, lost_name, lost_rename] {
        assert!((1..40).contains(&lost), "a draw that always falls the same way is no draw");
    }
}

#[test]
fn the_cut_comes_at_the_armed_operation_and_the_rest_can_be_mounted_again() {
    let rig = Rig::new(3);
    let fs_ = rig.mount(None);
    let mut file = File::create(fs_.path().join("f")).unwrap();
    sync_dir(fs_.path());
    let cut = fs_.watch_cut();
    fs_.arm(3);
    file.write_all(b"one").unwrap();
    file.sync_all().unwrap();
    assert!(!*cut.borrow());
    assert!(file.write_all(b"two").is_err());
    assert!(*cut.borrow());
    assert_eq!(fs_.counts().file_syncs, 1);
    drop(file);
    fs_.materialise(&rig.left()).unwrap();

    let again = LossyFs::mount(&rig.dir.path().join("again"), Some(&rig.left()), 4).unwrap();
    let text = fs::read(again.path().join("f")).unwrap();
    assert!(text.starts_with(b"one"), "{text:?}");
}

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}
