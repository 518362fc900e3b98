//! Databases and addresses that cannot be stored into: each told by its own code, none with the password.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use swath_stores::{StorePostgis, StoreScenes, StoreSites};
use swath_task::{Fault, Task, TaskError};
use swath_testkit::postgres::{Postgres, psql};

use crate::support::{Bench, POSTGRES, detection, fault};

const PASSWORD: &str = "Tr0ub4dor";

/// What storing one detection into the database at an address ends in.
async fn refusal(address: &str) -> TaskError {
    let stored = Bench::with_database(address).store_postgis("run/store/0", &[detection("a", 10.0, 0.9)]).await;
    let error = stored.unwrap_err();
    let told = format!("{error:?}");
    assert!(!told.contains(PASSWORD), "{told}");
    error
}

fn permanent(error: TaskError) -> Fault {
    assert!(matches!(error, TaskError::Permanent(_)), "{error:?}");
    fault(error)
}

fn transient(error: TaskError) -> Fault {
    assert!(matches!(error, TaskError::Transient { .. }), "{error:?}");
    fault(error)
}

/// An address with another user, and the password.
fn as_user(url: &str, user: &str) -> String {
    url.replace("postgres@", &format!("{user}:{PASSWORD}@"))
}

#[tokio::test]
async fn a_secret_that_is_missing_or_no_address_is_told_without_repeating_it() {
    let stored = Bench::new().store_postgis("run/store/0", &[]).await;
    let told = permanent(stored.unwrap_err());
    assert!(told.code == "D120" && told.message.contains("`DB`"), "{told}");
    for address in [PASSWORD, "mysql://u:Tr0ub4dor@h/d", "postgres://u:Tr0ub4dor@h:port/d", "host=h password=Tr0ub4dor"]
    {
        assert_eq!(permanent(refusal(address).await).code, "D121", "{address}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_may_come_up() {
    let closed = swath_testkit::closed::Closed::take();
    let port = closed.address().port();
    let told = transient(refusal(&format!("postgres://u:{PASSWORD}@127.0.0.1:{port}/d")).await);
    assert!(told.code == "D122" && told.message.contains(&format!("127.0.0.1:{port}/d")), "{told}");
    // What listens there is no PostgreSQL.
    let web = swath_testkit::http::Server::start(|_| swath_testkit::http::Reply::status(404));
    let told = transient(refusal(&format!("postgres://u:{PASSWORD}@{}/d", web.host())).await);
    assert_eq!(told.code, "D122", "{told}");
}

#[tokio::test]
async fn a_server_that_never_answers_does_not_keep_a_cancelled_step() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = Bench::with_database(&format!("postgres://u@{}/d", silent.local_addr().unwrap()));
    let cancel = tokio_util::sync::CancellationToken::new();
    let task: StorePostgis = serde_json::from_value(json!({ "database": "DB" })).unwrap();
    let inputs = swath_stores::PostgisInputs { detections: bench.detections(&[]), composite: None };
    let context = bench.host.attempt("run/store/0", cancel.clone());
    let started = Instant::now();
    let (stored, ()) = tokio::join!(task.run(inputs, &context), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    });
    assert!(matches!(stored, Err(TaskError::Cancelled)), "{stored:?}");
    // Whoever waits for the server gives it up after 15 seconds.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_login_that_is_refused_is_told() {
    let database = POSTGRES.create_database();
    psql(&database, "create role guarded; create role ann login password 'right' in role guarded");
    let told = permanent(refusal(&as_user(&database, "ann")).await);
    assert!(told.code == "D123" && told.message.contains("ann"), "{told}");
    assert_eq!(permanent(refusal(&as_user(&database, "nobody_here")).await).code, "D123");
    assert_eq!(permanent(refusal(&POSTGRES.url("nowhere")).await).code, "D124");
}

#[tokio::test]
async fn a_database_without_postgis_is_told_to_those_who_may_not_add_it() {
    let database = POSTGRES.create_database();
    psql(
        &database,
        "drop extension postgis; create role owner_only login; grant create on database postgres to owner_only",
    );
    psql(&database, &format!("alter database {} owner to owner_only", database.rsplit('/').next().unwrap()));
    let told = permanent(refusal(&as_user(&database, "owner_only")).await);
    assert!(
        told.code == "D126" && told.help.as_deref().is_some_and(|help| help.contains("CREATE EXTENSION")),
        "{told:?}"
    );
    // Once somebody has added it, an owner without further rights is enough.
    psql(&database, "create extension postgis");
    let bench = Bench::with_database(&as_user(&database, "owner_only"));
    assert_eq!(bench.store_postgis("run/store/0", &[detection("a", 1.0, 0.5)]).await.unwrap().rows_added, 1);
}

#[tokio::test]
async fn a_user_without_rights_is_told() {
    let database = POSTGRES.create_database();
    Bench::with_database(&database).store_postgis("first/store/0", &[]).await.unwrap();
    psql(&database, "create role reader login");
    assert_eq!(permanent(refusal(&as_user(&database, "reader")).await).code, "D125", "none at all");
    psql(
        &database,
        "grant usage on schema swath_geo to reader; grant select on all tables in schema swath_geo to reader",
    );
    assert_eq!(permanent(refusal(&as_user(&database, "reader")).await).code, "D125", "reading only");
    psql(&database, "grant insert, update, delete on all tables in schema swath_geo to reader");
    let bench = Bench::with_database(&as_user(&database, "reader"));
    assert_eq!(bench.store_postgis("run/store/0", &[detection("a", 1.0, 0.5)]).await.unwrap().rows_added, 1);
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_told_and_nothing_is_stored() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    let mut odd = detection("b", 10.0, 0.9);
    odd["properties"]["class"] = json!("a\u{0}b");
    let told = permanent(bench.store_postgis("run/store/0", &[detection("a", 10.0, 0.9), odd]).await.unwrap_err());
    assert_eq!(told.code, "D128", "{told}");
    assert_eq!(
        psql(&database, "select (select count(*) from swath_geo.detections), (select count(*) from swath_geo.ledger)"),
        "0|0"
    );
}

#[tokio::test]
async fn a_server_without_room_for_another_connection_may_have_some_later() {
    let server = Postgres::start(false);
    let database = server.create_database();
    psql(&database, "create role busy login connection limit 0");
    let told = transient(refusal(&as_user(&database, "busy")).await);
    assert_eq!(told.code, "D130", "{told}");
}

#[test]
fn parameters_without_a_meaning_are_told_before_anything_runs() {
    let address = format!("postgres://u:{PASSWORD}@h/d");
    for (parameters, at) in [
        (json!({ "database": address }), "/database"),
        (json!({ "database": "" }), "/database"),
        (json!({ "database": "DB", "layer": "" }), "/layer"),
        (json!({ "database": "DB", "key": "" }), "/key"),
    ] {
        let task: StorePostgis = serde_json::from_value(parameters).unwrap();
        let problems = task.check().unwrap_err();
        assert_eq!(problems[0].at, at);
        assert!(!format!("{problems:?}").contains(PASSWORD), "{problems:?}");
    }
    let scenes: StoreScenes = serde_json::from_value(json!({ "database": address })).unwrap();
    let sites: StoreSites = serde_json::from_value(json!({ "database": address, "sites": "a.json" })).unwrap();
    assert!(scenes.check().is_err() && sites.check().is_err());
}
