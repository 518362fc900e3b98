//! The command line.

mod deployments;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use deployments::{
    Backfill, Deploy, Deployments, DeploymentsCommand, ScheduleArguments, Token, TokenCommand,
};

/// Runs Earth-observation flows: search, composite, infer, detect, store.
#[derive(Parser)]
#[command(name = "swath", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options every command takes.
#[derive(Args)]
pub(crate) struct Global {
    /// Folder of the store: journal, cache and artifacts.
    #[arg(long, global = true, env = "SWATH_HOME", default_value = ".swath", value_name = "FOLDER")]
    pub home: PathBuf,
    /// Keep journal and cache in PostgreSQL, `postgres://USER@HOST:5432/DATABASE`, instead of a file in the home folder.
    ///
    /// Artifacts and scratch stay in the home folder, which all processes on one store share. A password is better kept in
    /// the environment or in `~/.pgpass` than written on a command line.
    #[arg(long, global = true, env = "SWATH_STORE", hide_env_values = true, value_name = "URL")]
    pub store: Option<String>,
    /// How long a run stays with a process that is no longer heard of, with PostgreSQL.
    #[arg(long, global = true, env = "SWATH_LEASE", value_name = "TIME", default_value = "15s", value_parser = lease)]
    pub lease: std::time::Duration,
    /// Print JSON on standard output: one document, of `logs` an object a line.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but warnings and errors on standard error.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Log more on standard error; twice for debug.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Global {
    /// Where the store is.
    pub fn address(&self) -> swath_store::Address {
        swath_store::Address { home: self.home.clone(), database: self.store.clone(), lease: self.lease }
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a flow.
    Run(Run),
    /// Go on with a run that was paused, cut off, interrupted or cancelled, or try again what failed of one that failed.
    ///
    /// What had finished is not run again.
    #[command(visible_alias = "retry")]
    Resume(Resume),
    /// Run what a run is pinned to again, as a new run that takes results of the old one over.
    ///
    /// The steps named by --from, and what reads them or comes after them, run again whatever has been kept of earlier runs.
    /// The others take their results from the run, also where their task is not reused in other runs, unless a changed
    /// parameter reaches them.
    Rerun(Rerun),
    /// Tell everything that is wrong with flows, without running anything.
    Validate(Validate),
    /// Run the tests beside flows: `detect.test.yaml` holds those of `detect.yaml`.
    ///
    /// Each runs on the real engine, with a store of its own that is not kept; steps that a test fakes run nothing.
    Test(Test),
    /// Draw the steps of a flow.
    Graph(Graph),
    /// List the tasks, or show one with its parameters.
    Tasks(Tasks),
    /// Explain an error code, or why each step of a run ran, was reused, or is not running now.
    Explain(Explain),
    /// Write the JSON Schema of a flow, for editors, or the task reference.
    Schema(Schema),
    /// Serve the control plane: start, watch and end runs over gRPC.
    ///
    /// On SIGTERM or Ctrl-C it starts no more runs and lets those that are live end within the grace; what is left goes on
    /// when the next server starts on the store.
    Serve(Serve),
    /// Deploy a flow: a server then runs it by its schedule and its triggers.
    ///
    /// The flow is kept as it is now, with its sub-flows and parameters. Deploying it again makes a new version; live runs
    /// stay with theirs.
    Deploy(Deploy),
    /// List deployments, or show, pause, resume, trigger or delete one.
    Deployments(Deployments),
    /// Run a deployment for the times at which its schedule was due in the past, as far as it did not run then.
    Backfill(Backfill),
    /// Make, list and revoke tokens: who may ask a server on this store, and for what.
    Token(Token),
    /// List the servers that live on a store, what they have for steps, and how many runs they drive.
    Workers(At),
    /// List runs, newest first.
    Runs(Runs),
    /// Show a run: its steps, results and failures.
    Show(Show),
    /// Print the logs of a run.
    Logs(Logs),
    /// Pause a run: it starts nothing new until `swath resume`; what runs may end.
    Pause(Pause),
    /// Cancel a run.
    Cancel(Cancel),
    /// List the results that may be reused, or drop some.
    Cache(Cache),
    /// Remove old runs, unused cache entries and what nothing refers to.
    ///
    /// Artifacts that nothing refers to are kept for an hour after they were made.
    Gc(Gc),
    /// Send what trainings told while the tracking server was down.
    Tracking(Tracking),
    /// Make a synthetic Sentinel-2-like catalogue with a known truth.
    Sample(Sample),
    /// Tell what is missing on this machine, and how to get it.
    Doctor,
    /// Check what is stored of every run: its journal by replaying it, its rows by questions to the database.
    ///
    /// Live runs go on meanwhile. Exits with 1 when a rule is broken.
    Check,
    /// Write a shell completion script.
    Completions(Completions),
    /// Run attempts that an engine sends over standard input. Started by `run`, `resume` and `serve`, not by hand.
    #[command(hide = true)]
    AttemptWorker,
}

/// How steps are kept from hurting each other and this process.
#[derive(Args)]
pub(crate) struct Isolate {
    /// Steps that run in processes of their own, where the flow does not say [default: none; of `serve`: native]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub isolate: Option<Isolated>,
    /// How long the process of a step may give no sign of life (it is suspended, its machine hangs) before it is killed.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = heartbeat)]
    pub heartbeat: std::time::Duration,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Isolated {
    /// None.
    None,
    /// Steps that call native code: GDAL, ONNX Runtime.
    Native,
    /// All.
    All,
}

fn heartbeat(text: &str) -> Result<std::time::Duration, String> {
    // A process gives a sign four times a second.
    duration(text)
        .and_then(|time| if time.as_secs() >= 1 { Ok(time) } else { Err("it is at least one second".to_owned()) })
}

#[derive(Args)]
pub(crate) struct Serve {
    /// Address to listen on. Port 0 lets the system choose one. On an address that other machines can reach, requests need a
    /// token (`swath token`), and TLS unless `--no-tls` says that a proxy in front of it has that.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7475")]
    pub listen: std::net::SocketAddr,
    /// Ask for tokens on a loopback address too.
    #[arg(long)]
    pub tokens: bool,
    /// The server's certificate in PEM, with those that lead to a root.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its key in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Roots in PEM of the certificates that clients must have, besides a token.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Without TLS on an address that other machines can reach: tokens then travel in the clear.
    #[arg(long, conflicts_with = "tls_cert")]
    pub no_tls: bool,
    /// Let web pages of this origin ask over gRPC-Web, `https://maps.example.com` for example; may be repeated. Those of the
    /// server's own origin always may. Where no token is needed, they may then start programs on this machine.
    #[arg(long = "web-origin", value_name = "ORIGIN")]
    pub web_origins: Vec<swath_control::Origin>,
    /// Connections that may be open at once.
    #[arg(long, value_name = "COUNT", default_value = "512", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Of them, those on which no token was shown; where none is needed, those without a request yet. One more, and the
    /// oldest of them is closed.
    #[arg(long, value_name = "COUNT", default_value = "128", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_strangers: u32,
    /// How long the first request of a connection may take to come, TLS included.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub patience: std::time::Duration,
    /// How long live runs may take to end when the server is told to stop.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub grace: std::time::Duration,
    /// How many runs to drive at a time: further ones wait, first come first.
    #[arg(long, value_name = "COUNT", default_value = "200", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_runs: u32,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub isolate: Isolate,
}

fn lease(text: &str) -> Result<std::time::Duration, String> {
    let lease = duration(text)?;
    match lease.as_secs() {
        1..=3600 => Ok(lease),
        _ => Err("a lease is from 1s to 1h".to_owned()),
    }
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    swath_flow::parse_duration(text).map(std::time::Duration::from_millis)
}

/// A flow and its parameters.
#[derive(Args)]
pub(crate) struct FlowArguments {
    /// The flow: a YAML file, or `-` for standard input.
    pub flow: PathBuf,
    /// A parameter of the flow; may be repeated.
    #[arg(long = "param", short, value_name = "NAME=VALUE", value_parser = pair)]
    pub params: Vec<(String, String)>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it NAME=VALUE")?;
    if name.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Args)]
pub(crate) struct Slots {
    /// CPU cores that steps may hold together. A step that asks for more takes them all.
    #[arg(long, value_name = "CORES", value_parser = cores)]
    pub cpus: Option<f32>,
    /// Memory that steps may hold together, `8 GiB` for example. A step that asks for more runs alone.
    #[arg(long, value_name = "AMOUNT")]
    pub memory: Option<swath_task::Bytes>,
    /// GPUs that steps may hold together.
    #[arg(long, value_name = "COUNT", value_parser = gpus)]
    pub gpus: Option<f32>,
    /// A named limit; may be repeated.
    #[arg(long = "limit", value_name = "NAME=COUNT", value_parser = limit)]
    pub limits: Vec<(String, u32)>,
}

fn cores(text: &str) -> Result<f32, String> {
    let cores = text.parse::<f32>().ok().filter(|cores| cores.is_finite() && *cores > 0.0);
    cores.ok_or_else(|| format!("`{text}` is no number of cores above 0"))
}

fn gpus(text: &str) -> Result<f32, String> {
    let gpus = text.parse::<f32>().ok().filter(|gpus| gpus.is_finite() && *gpus >= 0.0);
    gpus.ok_or_else(|| format!("`{text}` is no number of GPUs"))
}

fn limit(text: &str) -> Result<(String, u32), String> {
    let (name, count) = pair(text)?;
    Ok((name, count.parse().map_err(|_| format!("`{count}` is no count"))?))
}

#[derive(Args)]
pub(crate) struct Run {
    /// Start the run on a server, `http://127.0.0.1:7475` for example, and follow it: it goes on when this command ends.
    #[arg(long, value_name = "URL", env = "SWATH_SERVER", conflicts_with_all = ["out", "explain", "resume"])]
    pub server: Option<String>,
    #[command(flatten)]
    pub flow: FlowArguments,
    /// What the run covers, as a flow that goes by a schedule reads it: `2024-06-01/2024-06-07` [default: the time since
    /// the schedule was last due]
    #[arg(long, value_name = "START/END")]
    pub interval: Option<String>,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub isolate: Isolate,
    /// Where to put the flow's outputs [default: results/FLOW]
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Go on with the newest unfinished run of this flow, if there is one.
    #[arg(long)]
    pub resume: bool,
    /// Say at the end why each step ran or was reused.
    #[arg(long)]
    pub explain: bool,
}

#[derive(Args)]
pub(crate) struct Resume {
    /// Id of the run, or its beginning.
    pub run: String,
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub isolate: Isolate,
    /// Where to put the flow's outputs [default: where the run was to put them]
    #[arg(long, value_name = "FOLDER", conflicts_with = "server")]
    pub out: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Rerun {
    /// Id of the run, or its beginning.
    pub run: String,
    /// Run this step again, and what comes after it; may be repeated [default: every step]
    #[arg(long, value_name = "STEP")]
    pub from: Vec<String>,
    /// A parameter of the flow that changes; may be repeated. The others stay as they were.
    #[arg(long = "param", short, value_name = "NAME=VALUE", value_parser = pair)]
    pub params: Vec<(String, String)>,
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub slots: Slots,
    #[command(flatten)]
    pub isolate: Isolate,
    /// Where to put the flow's outputs [default: where the run was to put them]
    #[arg(long, value_name = "FOLDER", conflicts_with = "server")]
    pub out: Option<PathBuf>,
}

/// Where the runs are.
#[derive(Args)]
pub(crate) struct At {
    /// Ask the server at this address, `http://127.0.0.1:7475` for example, by the whole id of the run.
    #[arg(long, value_name = "URL", env = "SWATH_SERVER")]
    pub server: Option<String>,
}

#[derive(Args)]
pub(crate) struct Validate {
    /// The flows: YAML files, or `-` for standard input.
    #[arg(required = true)]
    pub flows: Vec<PathBuf>,
    /// A parameter, checked against its type; may be repeated.
    #[arg(long = "param", short, value_name = "NAME=VALUE", value_parser = pair)]
    pub params: Vec<(String, String)>,
}

#[derive(Args)]
pub(crate) struct Test {
    /// The flows, or their files of tests.
    #[arg(required = true)]
    pub flows: Vec<PathBuf>,
    /// Only tests whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
}

#[derive(Args)]
pub(crate) struct Graph {
    #[command(flatten)]
    pub flow: FlowArguments,
    /// How to draw it [default: terminal]
    #[arg(long, value_enum, conflicts_with = "json")]
    pub format: Option<GraphFormat>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum GraphFormat {
    /// Lines and boxes.
    Terminal,
    /// Mermaid, for Markdown.
    Mermaid,
    /// Graphviz.
    Dot,
}

#[derive(Args)]
pub(crate) struct Tasks {
    /// Show this task.
    pub task: Option<String>,
}

#[derive(Args)]
pub(crate) struct Explain {
    /// An error code (`F201`), the id of a run, or a file or folder that a run put somewhere.
    pub what: String,
    /// Only this step of the run.
    pub step: Option<String>,
    /// Ask the server at this address what a step waits for: it knows what its steps lack to start.
    #[arg(long, value_name = "URL", requires = "step")]
    pub server: Option<String>,
}

#[derive(Args)]
pub(crate) struct Schema {
    /// Write the reference, a page a task and the schema, into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub reference: Option<PathBuf>,
    /// With --reference: write nothing, fail when something is not up to date.
    #[arg(long, requires = "reference")]
    pub check: bool,
}

/// States of runs as they are shown.
const STATES: [&str; 8] =
    ["pending", "running", "paused", "interrupted", "cancelling", "completed", "failed", "cancelled"];

#[derive(Args)]
pub(crate) struct Runs {
    /// Only runs in this state; may be repeated.
    #[arg(long, value_name = "STATE", value_parser = STATES)]
    pub state: Vec<String>,
    /// Only runs of this flow.
    #[arg(long, value_name = "NAME")]
    pub flow: Option<String>,
    /// At most so many.
    #[arg(long, default_value = "20")]
    pub limit: u32,
    /// Runs of sub-flows too.
    #[arg(long, conflicts_with = "server")]
    pub all: bool,
    /// Ask the server at this address, `http://127.0.0.1:7475` for example.
    #[arg(long, value_name = "URL", env = "SWATH_SERVER")]
    pub server: Option<String>,
}

#[derive(Args)]
pub(crate) struct Show {
    /// Id of the run, or its beginning.
    pub run: String,
    #[command(flatten)]
    pub at: At,
}

#[derive(Args)]
pub(crate) struct Logs {
    /// Id of the run, or its beginning.
    pub run: String,
    /// Only of this step.
    pub step: Option<String>,
    /// Print the lines to come, too, until the run has ended.
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub at: At,
}

#[derive(Args)]
pub(crate) struct Pause {
    /// Id of the run, or its beginning.
    pub run: String,
    #[command(flatten)]
    pub at: At,
}

#[derive(Args)]
pub(crate) struct Cancel {
    /// Id of the run, or its beginning.
    pub run: String,
    #[command(flatten)]
    pub at: At,
}

#[derive(Args)]
pub(crate) struct Cache {
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Subcommand)]
pub(crate) enum CacheCommand {
    /// List results, newest first.
    List {
        #[command(flatten)]
        choice: CacheChoice,
        /// At most so many.
        #[arg(long, default_value = "50")]
        limit: usize,
    },
    /// Drop results: steps that would have reused them run.
    Drop {
        #[command(flatten)]
        choice: CacheChoice,
        /// Only the result with this key, or its beginning; may be repeated.
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
        /// Every result.
        #[arg(long)]
        all: bool,
        /// Drop nothing, and say what would be.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Which results.
#[derive(Args)]
pub(crate) struct CacheChoice {
    /// Only results of this task.
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Only results of steps of this id.
    #[arg(long, value_name = "STEP")]
    pub step: Option<String>,
    /// Only results that this run made, by its whole id.
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only results that are older than this, `30d` for example.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub older: Option<std::time::Duration>,
}

#[derive(Args)]
pub(crate) struct Gc {
    /// Remove nothing, and say what would be.
    #[arg(long)]
    pub dry_run: bool,
    /// Remove runs that ended before so many days.
    #[arg(long, default_value = "30", value_name = "DAYS")]
    pub older_than: f64,
    /// Remove cache entries that were not used for so many days.
    #[arg(long, default_value = "30", value_name = "DAYS")]
    pub unused_for: f64,
}

#[derive(Args)]
pub(crate) struct Tracking {
    #[command(subcommand)]
    pub command: TrackingCommand,
}

#[derive(Subcommand)]
pub(crate) enum TrackingCommand {
    /// Send what waits in a folder: the `folder` of a step's `tracking`, or one spool folder.
    ///
    /// Each goes where its step told it to, as the user that MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
    /// MLFLOW_TRACKING_TOKEN, name. Exits with 1 when something still waits.
    Send {
        /// The folder.
        folder: PathBuf,
        /// How long all of it may take.
        #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration)]
        patience: std::time::Duration,
    },
}

#[derive(Args)]
pub(crate) struct Sample {
    /// Where to write the catalogue: a folder that is missing or empty.
    pub folder: PathBuf,
    /// Rows and columns at 10 m, even.
    #[arg(long, default_value = "512")]
    pub size: u32,
    /// Dates, five days apart.
    #[arg(long, default_value = "6")]
    pub dates: u32,
    /// UTM zones, 1 or 2.
    #[arg(long, default_value = "2")]
    pub zones: u8,
    /// Planted sites.
    #[arg(long, default_value = "12")]
    pub sites: u32,
    /// Mean share of thick cloud, 0 to 0.9.
    #[arg(long, default_value = "0.3")]
    pub cloud: f64,
    /// Equal seeds make equal catalogues.
    #[arg(long, default_value = "0")]
    pub seed: u64,
}

#[derive(Args)]
pub(crate) struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}
