//! Every way in which a folder is not a usable store has its own error, and none changes what lies there.

use std::path::Path;

use crate::support::{append, new_run};
use swath_store::{Access, Deployments, Error, Home, RunFilter, SqliteStore, Store};

async fn refusal(home: &Path, access: Access) -> Error {
    match SqliteStore::open(home, access).await {
        Ok(_) => panic!("`{}` was opened", home.display()),
        Err(error) => error,
    }
}

async fn sql(path: &Path, text: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn made(home: &Path) -> std::path::PathBuf {
    let store = SqliteStore::open(home, Access::Write).await.unwrap();
    store.create_run(new_run("r")).await.unwrap();
    store.append(append("r", 0, 3)).await.unwrap();
    store.close().await;
    store.path().to_owned()
}

#[tokio::test]
async fn reading_where_there_is_no_store_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("none");
    let error = refusal(&home, Access::Read).await;
    assert_eq!((error.code(), home.exists()), ("E102", false), "{error}");
    assert!(!Home::new(&home).exists());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = Home::new(home.path()).database();
    std::fs::write(&path, "these are notes, not a database\n".repeat(500)).unwrap();
    let before = std::fs::read(&path).unwrap();
    for access in [Access::Write, Access::Read] {
        let error = refusal(home.path(), access).await;
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn another_programs_database_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = Home::new(home.path()).database();
    sql(&path, "CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x')").await;
    let before = std::fs::read(&path).unwrap();
    for access in [Access::Write, Access::Read] {
        let error = refusal(home.path(), access).await;
        assert_eq!(error.code(), "E103");
        assert!(error.to_string().contains("another program"), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_later_schema_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = made(home.path()).await;
    sql(&path, "PRAGMA user_version = 99").await;
    for access in [Access::Write, Access::Exclusive, Access::Read] {
        let error = refusal(home.path(), access).await;
        assert!(matches!(error, Error::SchemaNewer { found: 99, .. }), "{error:?}");
        assert_eq!(error.code(), "E104");
    }
}

#[tokio::test]
async fn an_earlier_schema_is_not_read_but_brought_up_to_date_by_a_writer() {
    let home = tempfile::tempdir().unwrap();
    let path = Home::new(home.path()).database();
    // Schema 0 is an empty database.
    sql(&path, "PRAGMA user_version = 0; VACUUM").await;
    let error = refusal(home.path(), Access::Read).await;
    assert!(matches!(error, Error::SchemaOlder { found: 0, .. }), "{error:?}");
    made(home.path()).await;
    let store = SqliteStore::open(home.path(), Access::Read).await.unwrap();
    assert_eq!(store.get_run("r").await.unwrap().row.seq, 3);
}

#[tokio::test]
async fn what_schema_1_kept_in_files_is_brought_into_the_database() {
    let home = tempfile::tempdir().unwrap();
    let path = Home::new(home.path()).database();
    sql(&path, include_str!("../../src/sqlite/migrations/0001.sql")).await;
    sql(
        &path,
        "PRAGMA application_id = 0x53575448; PRAGMA user_version = 1; \
         INSERT INTO run (id, flow, source, state, created_at, updated_at) VALUES ('r', 'f', 's', 'running', 1, 1)",
    )
    .await;
    std::fs::create_dir(home.path().join("runs")).unwrap();
    for (name, content) in [("r.lock", ""), ("r.served", "digest"), ("r.out", "/srv/results"), ("q.served", "")] {
        std::fs::write(home.path().join("runs").join(name), content).unwrap();
    }
    assert!(matches!(refusal(home.path(), Access::Read).await, Error::SchemaOlder { found: 1, .. }));
    let store = SqliteStore::open(home.path(), Access::Write).await.unwrap();
    assert_eq!(store.served_by("r").await.unwrap().as_deref(), Some("digest"));
    assert_eq!(store.outputs_of("r").await.unwrap().as_deref(), Some(Path::new("/srv/results")));
    assert_eq!(store.served_by("q").await.unwrap().as_deref(), Some(""), "by no request that is known");
    let lease = store.lease_run("r").await.unwrap();
    assert_eq!((lease.epoch(), store.run_row("r").await.unwrap().seq), (1, 0));
    store.append(swath_store::Append { epoch: 1, ..append("r", 0, 2) }).await.unwrap();
}

#[tokio::test]
async fn where_the_flows_of_schema_4_were_read_is_brought_out_of_their_content() {
    let home = tempfile::tempdir().unwrap();
    let path = Home::new(home.path()).database();
    for migration in [
        include_str!("../../src/sqlite/migrations/0001.sql"),
        include_str!("../../src/sqlite/migrations/0002.sql"),
        include_str!("../../src/sqlite/migrations/0003.sql"),
        include_str!("../../src/sqlite/migrations/0004.sql"),
    ] {
        sql(&path, migration).await;
    }
    sql(
        &path,
        r#"PRAGMA application_id = 0x53575448; PRAGMA user_version = 4;
           INSERT INTO deployment VALUES (1, 'scan', 1, 0, 0, 0, 0);
           INSERT INTO deployment_version VALUES (1, 1, 'd', 0, 'scan', '{}', '{"source":"/flows/scan.yaml","text":"t"}')"#,
    )
    .await;
    let store = SqliteStore::open(home.path(), Access::Write).await.unwrap();
    assert_eq!(store.versions("scan").await.unwrap()[0].source, "/flows/scan.yaml");
    assert!(store.content("scan", 1).await.unwrap().unwrap().contains("\"text\""));
}

#[tokio::test]
async fn a_truncated_database_is_refused_or_told_when_read() {
    let home = tempfile::tempdir().unwrap();
    let path = made(home.path()).await;
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = match SqliteStore::open(home.path(), Access::Read).await {
        Err(error) => error,
        Ok(store) => store.load_events("r", 0, 10).await.unwrap_err(),
    };
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_home_that_cannot_be_a_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = refusal(&file.join("home"), Access::Write).await;
    assert!(error.to_string().contains(&file.display().to_string()), "{error}");
    assert_eq!(error.code(), "E118");
}

#[tokio::test]
async fn a_reader_works_beside_a_live_writer_and_may_not_write() {
    let home = tempfile::tempdir().unwrap();
    let writer = SqliteStore::open(home.path(), Access::Write).await.unwrap();
    writer.create_run(new_run("r")).await.unwrap();
    let reader = SqliteStore::open(home.path(), Access::Read).await.unwrap();
    for seq in 0..20 {
        writer.append(append("r", seq, 1)).await.unwrap();
        assert_eq!(reader.load_events("r", seq, 10).await.unwrap().len(), 1);
    }
    let refused = reader.append(append("r", 20, 1)).await.unwrap_err();
    assert_eq!(refused.code(), "E112");
    assert!(reader.create_run(new_run("q")).await.is_err());
    assert_eq!(reader.list_runs(&RunFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn many_processes_may_create_a_store_at_once() {
    let home = tempfile::tempdir().unwrap();
    let opened: Vec<_> = (0..8)
        .map(|n| {
            let home = home.path().to_owned();
            tokio::spawn(async move {
                let store = SqliteStore::open(home, Access::Write).await.unwrap();
                store.create_run(new_run(&format!("r{n}"))).await.unwrap();
            })
        })
        .collect();
    for one in opened {
        one.await.unwrap();
    }
    let store = SqliteStore::open(home.path(), Access::Read).await.unwrap();
    assert_eq!(store.list_runs(&RunFilter::default()).await.unwrap().len(), 8);
}

#[test]
fn every_error_has_a_page() {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
    for number in (101..=119).chain(121..=123) {
        let page = std::fs::read_to_string(pages.join(format!("E{number}.md"))).unwrap();
        assert!(page.starts_with(&format!("# E{number}: ")), "E{number}");
    }
}
