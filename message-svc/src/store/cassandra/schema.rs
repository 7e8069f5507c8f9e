//! The tables' versions: applied by `confab migrate`, checked by whoever opens the store.
//!
//! Who applies a version claims it by a lightweight transaction, so that of many at once one does it and the others wait.
//! A claim lasts a minute, in case who has it dies. A version's statements may be applied again, for it may have died half
//! way.

use std::time::Duration;

use scylla::client::session::Session;
use scylla::serialize::row::SerializeRow;
use scylla::statement::{Consistency, Statement};
use tokio::time::Instant;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::{CassandraConfig, ConnectError, connect};

/// Statements by version, the first being 1.
const VERSIONS: [&str; 2] = [include_str!("schema/0001_chats.cql"), include_str!("schema/0002_users.cql")];

/// Other services may keep their tables in the same keyspace.
const SERVICE: &str = "message-svc";

/// Until then a migration waits for another's.
const MIGRATE_MAX: Duration = Duration::from_secs(300);

/// Between two looks at how far another is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Of one statement: changing a table has all nodes agree.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the keyspace, unless it is there, and brings its tables to this program's version, which it returns. It may be
/// called by many at once, and again.
///
/// # Errors
/// [`ConnectError`], if Cassandra can't be reached, refuses, or the tables are of a newer program.
pub async fn migrate(cfg: &CassandraConfig) -> Result<i32, ConnectError> {
    let session = connect(cfg).await?;
    run(&session, &create_keyspace(cfg), ()).await?;
    session.use_keyspace(&cfg.keyspace, false).await.map_err(ConnectError::failed)?;
    run(&session, &create_versions(&cfg.keyspace), ()).await?;
    if let Some(found) = version(&session).await? {
        refuse_newer(&cfg.keyspace, found)?;
    }
    for (version, statements) in (1..).zip(VERSIONS) {
        apply(&session, version, statements).await?;
    }
    Ok(newest())
}

/// Whether the tables are of this program's version.
pub(super) async fn check(session: &Session, keyspace: &str) -> Result<(), ConnectError> {
    let missing = || ConnectError::Missing { keyspace: keyspace.to_owned() };
    let text = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'schema_versions'";
    let found = run(session, text, (keyspace,)).await?;
    if found.into_rows_result().map_err(ConnectError::failed)?.rows_num() == 0 {
        return Err(missing());
    }
    session.use_keyspace(keyspace, false).await.map_err(ConnectError::failed)?;
    let found = version(session).await?.ok_or_else(missing)?;
    refuse_newer(keyspace, found)?;
    if found < newest() {
        return Err(ConnectError::Older { keyspace: keyspace.to_owned(), found, needed: newest() });
    }
    Ok(())
}

fn newest() -> i32 {
    i32::try_from(VERSIONS.len()).unwrap_or(i32::MAX)
}

fn refuse_newer(keyspace: &str, found: i32) -> Result<(), ConnectError> {
    let needed = newest();
    if found > needed {
        return Err(ConnectError::Newer { keyspace: keyspace.to_owned(), found, needed });
    }
    Ok(())
}

/// The highest version that was applied.
async fn version(session: &Session) -> Result<Option<i32>, ConnectError> {
    let found = run(session, "SELECT version, applied FROM schema_versions WHERE service = ?", (SERVICE,)).await?;
    let rows = found.into_rows_result().map_err(ConnectError::failed)?;
    let rows = rows.rows::<(i32, Option<bool>)>().map_err(ConnectError::failed)?;
    let rows: Vec<(i32, Option<bool>)> = rows.collect::<Result<_, _>>().map_err(ConnectError::failed)?;
    Ok(rows.into_iter().filter(|(_, applied)| *applied == Some(true)).map(|(version, _)| version).max())
}

/// Applies a version, or waits until another has. What its own transactions came to is seen in the row.
async fn apply(session: &Session, version: i32, statements: &str) -> Result<(), ConnectError> {
    let claim = Uuid::new_v4();
    let until = Instant::now() + MIGRATE_MAX;
    let mut last = Ok(());
    while Instant::now() < until {
        match row_of(session, version).await? {
            Some((_, Some(true))) => return Ok(()),
            Some((Some(holder), _)) if holder == claim => {
                for statement in statements_in(statements) {
                    run(session, &statement, ()).await?;
                }
                last = finish(session, version, claim).await;
            }
            None => {
                last = try_claim(session, version, claim).await;
                if last.is_ok() {
                    continue;
                }
            }
            Some(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    last?;
    Err(ConnectError::Failed(format!(
        "another `confab migrate` has been at version {version} of the tables for {} s",
        MIGRATE_MAX.as_secs()
    )))
}

/// Claim and whether it is applied.
async fn row_of(session: &Session, version: i32) -> Result<Option<(Option<Uuid>, Option<bool>)>, ConnectError> {
    let mut text = Statement::new("SELECT claim, applied FROM schema_versions WHERE service = ? AND version = ?");
    // It completes what another's transaction has left open.
    text.set_consistency(Consistency::LocalSerial);
    let found = session.query_unpaged(text, (SERVICE, version)).await.map_err(ConnectError::failed)?;
    let rows = found.into_rows_result().map_err(ConnectError::failed)?;
    rows.maybe_first_row().map_err(ConnectError::failed)
}

async fn try_claim(session: &Session, version: i32, claim: Uuid) -> Result<(), ConnectError> {
    let text = "INSERT INTO schema_versions (service, version, claim, applied) VALUES (?, ?, ?, false) IF NOT EXISTS \
                USING TTL 60";
    run(session, text, (SERVICE, version, claim)).await.map(drop)
}

async fn finish(session: &Session, version: i32, claim: Uuid) -> Result<(), ConnectError> {
    let text = "UPDATE schema_versions SET applied = true WHERE service = ? AND version = ? IF claim = ?";
    run(session, text, (SERVICE, version, claim)).await.map(drop)
}

async fn run(
    session: &Session,
    text: &str,
    values: impl SerializeRow,
) -> Result<scylla::response::query_result::QueryResult, ConnectError> {
    let mut statement = Statement::new(text);
    statement.set_request_timeout(Some(CHANGE_TIMEOUT));
    session.query_unpaged(statement, values).await.map_err(ConnectError::failed)
}

fn create_keyspace(cfg: &CassandraConfig) -> String {
    let copies = cfg.replication_factor;
    let replication = match &cfg.datacenter {
        Some(name) => format!("{{'class': 'NetworkTopologyStrategy', '{}': {copies}}}", name.replace('\'', "''")),
        None => format!("{{'class': 'SimpleStrategy', 'replication_factor': {copies}}}"),
    };
    format!("CREATE KEYSPACE IF NOT EXISTS {} WITH replication = {replication}", cfg.keyspace)
}

/// It can't be claimed before it is there. Made by two at once on two nodes, it would be two tables of one name, had it not
/// the same id on both.
fn create_versions(keyspace: &str) -> String {
    let id = Uuid::from_u128(xxh3_128(format!("{keyspace}.schema_versions").as_bytes()));
    format!(
        "CREATE TABLE IF NOT EXISTS schema_versions (service text, version int, claim uuid, applied boolean, \
         PRIMARY KEY ((service), version)) WITH id = '{id}'"
    )
}

/// A file's statements, without comments.
fn statements_in(file: &str) -> Vec<String> {
    let lines = file.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code));
    let code: String = lines.flat_map(|line| [line.trim(), " "]).collect();
    code.split(';').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_versions_statements_may_be_applied_again() {
        for statement in VERSIONS.iter().flat_map(|file| statements_in(file)) {
            assert!(statement.contains("IF NOT EXISTS") && !statement.contains("--"), "{statement}");
        }
        assert_eq!(VERSIONS.map(|file| statements_in(file).len()), [9, 2]);
    }

    #[test]
    fn a_keyspace_is_kept_in_its_data_centre() {
        let mut cfg = CassandraConfig {
            contact_points: Vec::new(),
            keyspace: "confab".into(),
            datacenter: Some("dc'1".into()),
            replication_factor: 3,
            username: None,
            password: None,
            tls: None,
        };
        assert!(create_keyspace(&cfg).ends_with("{'class': 'NetworkTopologyStrategy', 'dc''1': 3}"));
        cfg.datacenter = None;
        assert!(create_keyspace(&cfg).ends_with("{'class': 'SimpleStrategy', 'replication_factor': 3}"));
    }
}
