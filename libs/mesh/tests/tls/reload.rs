//! Credentials follow their files.

use std::{fs, time::Duration};

use confab_mesh::{
    drain,
    identity::tls::{ClientAuth, Credentials},
};

use crate::{
    authority::{Authority, files, in_days, write},
    handshakes::shake,
    log,
};

/// Waits until the credentials are `instance`'s: half a minute at most, of paused time.
async fn becomes(credentials: &Credentials, instance: &str) {
    for _ in 0..30 {
        if credentials.identity().instance() == Some(instance) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("still {}", credentials.identity());
}

#[tokio::test(start_paused = true)]
async fn new_files_hold_from_the_next_connection_on_and_bad_ones_never() {
    let log = log::listen();
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (folder, messages) = old.credentials("message-svc/before");
    let (_edge, edge) = new.credentials("edge/e1");
    let (_drainer, drain) = drain::channel();
    messages.follow(&drain);
    let server = || messages.server_config(ClientAuth::Required);
    let refused = shake(edge.client_config("message-svc"), server()).await;
    assert!(refused.1.is_err(), "they have no authority in common");

    write(folder.path(), &new.role("message-svc/after"), &new.pem());
    becomes(&messages, "after").await;
    let (seen, heard) = shake(edge.client_config("message-svc"), server()).await;
    heard.expect("both are the new authority's");
    seen.expect("both are the new authority's");

    fs::write(files(folder.path()).cert, "rubbish").expect("written");
    log.soon(&["WARN", "the old ones hold", folder.path().to_str().expect("utf-8")]).await;
    assert_eq!(messages.identity().instance(), Some("after"));
    let (seen, _) = shake(edge.client_config("message-svc"), server()).await;
    seen.expect("the old ones hold");

    write(folder.path(), &new.role("message-svc/again"), &new.pem());
    becomes(&messages, "again").await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_ends_soon_is_named_in_the_log() {
    let log = log::listen();
    let authority = Authority::new("ours");
    let (_drainer, drain) = drain::channel();
    let mut folders = Vec::new();
    for (name, days) in [("edge/ends-in-six-days", 6), ("edge/ends-in-eight-days", 8)] {
        let folder = tempfile::tempdir().expect("a folder");
        let own = authority.issue(&[&format!("spiffe://confab/{name}")], in_days(days));
        write(folder.path(), &own, &authority.pem());
        Credentials::load(files(folder.path())).expect("good").follow(&drain);
        folders.push(folder);
    }
    let line = log.soon(&["WARN", "ends soon", "edge/ends-in-six-days"]).await;
    assert!(line.contains("hours_left=144") || line.contains("hours_left=143"), "{line}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(log.lines(&["ends soon", "edge/ends-in-eight-days"]).is_empty());
    assert_eq!(log.lines(&["ends soon", "edge/ends-in-six-days"]).len(), 1, "once a day");
}
