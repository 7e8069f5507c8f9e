//! Against a real Cassandra: one for the whole process, a keyspace for each test.

mod server;

use std::collections::BTreeSet;

use confab_ids::{ChatId, Seq};
use confab_proto::message::v1::ChatKind;
use futures_util::future::join;

use self::server::Server;
use super::*;
use crate::core::ownership::lease::{Incarnation, LeaseRow, Standing, Swapped};
use crate::store::Ledger;
use crate::store::Meta;
use crate::store::suite::{self, Writers};

/// A keyspace of one's own, with its tables.
pub(super) async fn store(keyspace: &str) -> (CassandraConfig, Cassandra) {
    let cfg = Server::get().await.config(keyspace);
    migrate(&cfg).await.expect("migrated");
    let store = Cassandra::open(&cfg).await.expect("a store");
    (cfg, store)
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (_, store) = store("contract").await;
    suite::run(&store, Writers::Many).await;
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let (cfg, store) = store("reopened").await;
    suite::fill(&store, Writers::Many).await;
    drop(store);
    suite::check(&Cassandra::open(&cfg).await.expect("a store"), Writers::Many).await;
}

#[tokio::test]
async fn the_newer_timestamp_stays_in_every_table() {
    let (_, store) = store("stamps").await;
    suite::stamps::run(&store).await;
}

#[tokio::test]
async fn leases_map_and_ids_are_changed_by_one_at_a_time() {
    let (cfg, a) = store("ledger").await;
    let b = Cassandra::open(&cfg).await.expect("a second session");
    suite::ledger::run(&a, &b).await;
}

#[tokio::test]
async fn a_transaction_that_timed_out_is_unknown_and_its_ids_are_nobodys() {
    let (cfg, other) = store("unknown").await;
    let mut statements = Statements::prepare(&other.session).await.expect("prepared");
    statements.renew_first.set_request_timeout(Some(Duration::from_nanos(1)));
    // About as long as one takes.
    statements.ids_next.set_request_timeout(Some(Duration::from_millis(6)));
    let session = connect(&cfg).await.expect("a session");
    session.use_keyspace("unknown", false).await.expect("used");
    let hasty = Cassandra { session: Arc::new(session), statements: Arc::new(statements) };
    let row =
        LeaseRow { incarnation: Incarnation(5), addr: "here:1".into(), counter: 1, hi: 5, standing: Standing::Serving };
    assert_eq!(hasty.renew(row).await, Swapped::Unknown);

    let mut given = BTreeSet::new();
    for _ in 0..100 {
        let (one, two) = join(hasty.take_chat_ids(1), other.take_chat_ids(1)).await;
        let patient = two.expect("this one has time");
        for id in one.into_iter().chain([patient]) {
            assert!(given.insert(id), "{id} is given twice");
        }
    }
}

#[tokio::test]
async fn the_driver_repeats_what_may_be_repeated() {
    let (_, store) = store("repeated").await;
    let Statements { chat, sends, renew, map_swap, ids_next, .. } = &*store.statements;
    assert!([chat, sends].iter().all(|read| read.get_is_idempotent()));
    assert!([renew, map_swap, ids_next].iter().all(|swap| !swap.get_is_idempotent()));
    let profile = |statement: &PreparedStatement| statement.get_execution_profile_handle().expect("one").to_profile();
    assert!(profile(chat).get_speculative_execution_policy().is_some());
    for written in [renew, map_swap, ids_next, store.statements.insert.of(statements::Table::Chats).statement()] {
        assert!(profile(written).get_speculative_execution_policy().is_none());
    }
    // Writes go out as batches, which have the session's own profile.
    let of_session = store.session.get_default_execution_profile_handle().to_profile();
    assert!(of_session.get_speculative_execution_policy().is_none());
}

#[tokio::test]
async fn two_may_migrate_at_once_and_again() {
    let cfg = Server::get().await.config("migrations");
    let refused = Cassandra::open(&cfg).await.err().expect("refused").to_string();
    assert!(refused.contains("run `confab migrate`"), "{refused}");
    for _ in 0..2 {
        let (one, other) = join(migrate(&cfg), migrate(&cfg)).await;
        assert_eq!((one.expect("migrated"), other.expect("migrated")), (2, 2));
        Cassandra::open(&cfg).await.expect("it opens");
    }
    let session = connect(&cfg).await.expect("a session");
    let text = "SELECT table_name, read_repair FROM system_schema.tables WHERE keyspace_name = 'migrations'";
    let found = session.query_unpaged(text, ()).await.expect("read").into_rows_result().expect("rows");
    let tables: Vec<(String, String)> =
        found.rows().expect("typed").collect::<Result<_, _>>().expect("tables and their repair");
    assert_eq!(tables.len(), 12, "{tables:?}");
    // Two quorums in a row would else be able to see a row and then not.
    assert!(tables.iter().all(|(_, repair)| repair == "BLOCKING"), "{tables:?}");
}

#[tokio::test]
async fn tables_of_another_version_are_refused_in_words() {
    let (cfg, store) = store("versions").await;
    let set = async |version: i32, applied: &str| {
        let text = format!(
            "UPDATE versions.schema_versions SET applied = {applied} WHERE service = 'message-svc' AND version = {version}"
        );
        store.session.query_unpaged(text, ()).await.expect("written");
    };
    set(3, "true").await;
    let newer = Cassandra::open(&cfg).await.err().expect("refused").to_string();
    assert!(newer.contains("version 3") && newer.contains("`confab migrate`"), "{newer}");
    assert!(matches!(migrate(&cfg).await, Err(ConnectError::Newer { found: 3, needed: 2, .. })));
    set(3, "null").await;
    set(2, "null").await;
    set(1, "null").await;
    set(0, "true").await;
    let older = Cassandra::open(&cfg).await.err().expect("refused");
    assert!(matches!(older, ConnectError::Older { found: 0, needed: 2, .. }), "{older}");
    assert!(older.to_string().contains("run `confab migrate`"), "{older}");
}

#[tokio::test]
async fn a_chat_without_its_roster_is_refused() {
    let (_, store) = store("rosterless").await;
    let meta = Meta {
        chat: ChatId(1),
        kind: ChatKind::Group,
        title: String::new(),
        created_by: UserId(1),
        created_at_ms: 0,
        openings: Vec::new(),
        expired_upto: Seq::ZERO,
    };
    let event = Row::Event { chat: ChatId(1), seq: Seq(3), epoch: 1, bytes: Bytes::new() };
    let rows = vec![event, Row::Chat { meta, roster: None }];
    assert!(store.commit(rows, 5).await.is_err());
    let tails = store.tails(vec![(ChatId(1), 0, 10)]).await.expect("read");
    assert!(tails[0].is_empty(), "nothing of the commit is written");
}

#[tokio::test]
async fn who_can_not_connect_is_told_why() {
    let mut cfg = CassandraConfig {
        contact_points: vec!["127.0.0.1:1".into()],
        keyspace: "confab".into(),
        datacenter: None,
        replication_factor: 1,
        username: Some("confab".into()),
        password: Some("secret".into()),
        tls: None,
    };
    let unreachable = Cassandra::open(&cfg).await.err().expect("refused").to_string();
    assert!(unreachable.contains("127.0.0.1:1"), "{unreachable}");
    assert!(!format!("{cfg:?}").contains("secret"));
    for keyspace in ["", "Confab", "con fab", "1c", "c;d"] {
        cfg.keyspace = keyspace.into();
        assert!(matches!(Cassandra::open(&cfg).await, Err(ConnectError::Config(_))), "{keyspace}");
    }
}
