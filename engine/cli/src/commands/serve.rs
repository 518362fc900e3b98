//! `swath serve`: the control plane over this store, until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use swath_control::{Changes, Fleet, Limits, Rules, ServeError, Tls};
use swath_host::{Engine, Isolated};
use swath_plan::Catalogue;
use swath_store::Home;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::run::{Session, isolation};
use crate::arguments::{Global, Serve};
use crate::attempt_logs::{self, AttemptLogs};
use crate::failure::Failure;

pub(crate) fn run(global: &Global, command: Serve, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let rules = rules(&command)?;
        let tokens = rules.tokens;
        let session =
            Session::open(global, &command.slots, isolation(global, &command.isolate, Isolated::Native)).await?;
        let (stop, changes) = (CancellationToken::new(), Arc::new(Changes::default()));
        let exporting = attempt_logs::exporting(true);
        let logs = AttemptLogs::start(session.store.clone(), global.verbose, &exporting);
        let mut observers = exporting.observers();
        observers.push(changes.clone());
        let engine = Engine::new(
            session.store.clone(),
            session.home.clone(),
            session.artifacts.clone(),
            session.capacity.clone(),
            Arc::new(observers),
            stop.clone(),
            swath_telemetry::attempt_span,
        );
        let engine = engine.isolating(session.isolation.clone()).with_drive_span(swath_telemetry::drive_span);
        let engine = Arc::new(engine);
        if let Some(metrics) = exporting.metrics() {
            metrics.watch_slots(attempt_logs::slots(&engine));
        }
        let fleet = Fleet::new(engine, catalogue, changes, stop, command.max_runs as usize);
        // Nothing begins before the port is this process' own.
        let refused = |error: ServeError| match error {
            ServeError::Listen(..) => Failure::Usage(format!("{error}; `--listen` names another address")),
            error => Failure::Usage(error.to_string()),
        };
        let listener = swath_control::listen(command.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(|error| Failure::Usage(error.to_string()))?;
        let _served = Home::new(&global.home).mark_server()?;
        let adopted = fleet.adopt().await?;
        if global.json {
            // Scripts read the port from here.
            super::print_json(&json!({ "listening": address.to_string(), "adopted": adopted }))?;
        } else if !global.quiet {
            tell!("listening on {address} (gRPC, swath.v1); Ctrl-C stops");
            if tokens && session.store.tokens().await?.is_empty() {
                tell!(
                    "note: requests need a token, and there is none: `swath token create NAME --scope run` makes one"
                );
            }
            if adopted > 0 {
                tell!("going on with {adopted} run{} of an earlier server", if adopted == 1 { "" } else { "s" });
            }
        }
        let stopped = told_to_stop(global.quiet);
        let served = swath_control::serve(fleet, exporting.page(), super::doctor::page, listener, rules, stopped).await;
        logs.finish().await;
        attempt_logs::sent(exporting).await;
        session.store.close().await;
        served.map(|()| ExitCode::SUCCESS).map_err(refused)
    })
}

/// By what rules the server is run: what other machines can reach is closed unless somebody opens it.
fn rules(command: &Serve) -> Result<Rules, Failure> {
    let read = |path: &PathBuf| std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error));
    let tls = match (&command.tls_cert, &command.tls_key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate: read(certificate)?,
            key: read(key)?,
            client_roots: command.tls_client_ca.as_ref().map(read).transpose()?,
        }),
        _ => None,
    };
    let open = !command.listen.ip().is_loopback();
    if open && tls.is_none() && !command.no_tls {
        return Err(Failure::Usage(format!(
            "{} can be reached from other machines: give `--tls-cert` and `--tls-key`, or `--no-tls` where a proxy in front \
             has TLS; or listen on 127.0.0.1",
            command.listen
        )));
    }
    let limits = Limits {
        connections: command.max_connections as usize,
        strangers: command.max_strangers as usize,
        patience: command.patience,
        ..Limits::default()
    };
    let origins = command.web_origins.clone();
    Ok(Rules { grace: command.grace, tokens: open || command.tokens, tls, origins, limits })
}

/// The first signal is awaited here; the second ends the process at once.
async fn told_to_stop(quiet: bool) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if !quiet {
        tell!("stopping: no more runs are started; once more to stop at once");
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(130);
    });
}
