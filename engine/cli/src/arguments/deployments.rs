//! The command line of flows that go by themselves, and of who may ask a server for what.

use clap::{Args, Subcommand};

use super::{FlowArguments, duration, pair};

#[derive(Args)]
pub(crate) struct Deploy {
    #[command(flatten)]
    pub flow: FlowArguments,
    /// Name of the deployment [default: that of the flow]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub schedule: ScheduleArguments,
    /// Without the flow's own schedule.
    #[arg(long, conflicts_with_all = ["cron", "every", "at"])]
    pub no_schedule: bool,
    /// Begin paused.
    #[arg(long)]
    pub paused: bool,
    /// Deploy on this server, `http://127.0.0.1:7475` for example [default: in the store of `--home`]
    #[arg(long, value_name = "URL", env = "SWATH_SERVER")]
    pub server: Option<String>,
}

/// A schedule in the place of the flow's own.
#[derive(Args)]
pub(crate) struct ScheduleArguments {
    /// Minute, hour, day of month, month, day of week: `30 6 * * MON`; or `@daily` and the like.
    #[arg(long, value_name = "FIELDS", conflicts_with_all = ["every", "at"])]
    pub cron: Option<String>,
    /// A length of time from one to the next: `6h`.
    #[arg(long, value_name = "TIME", conflicts_with = "at")]
    pub every: Option<String>,
    /// An instant, `2025-03-01T06:00Z`; may be repeated.
    #[arg(long, value_name = "INSTANT")]
    pub at: Vec<String>,
    /// Time zone of `--cron`, `Europe/Berlin` for example [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    pub zone: Option<String>,
    /// What becomes of a time that the zone's clock leaves out [default: shift]
    #[arg(long, value_name = "RULE", requires = "cron", value_parser = ["shift", "skip"])]
    pub gap: Option<String>,
    /// What becomes of a time that the zone's clock shows twice [default: first, or both where it goes round the clock]
    #[arg(long, value_name = "RULE", requires = "cron", value_parser = ["first", "last", "both"])]
    pub overlap: Option<String>,
    /// Nothing is due before this instant.
    #[arg(long, value_name = "INSTANT")]
    pub start: Option<String>,
    /// Nothing is due after this instant.
    #[arg(long, value_name = "INSTANT")]
    pub end: Option<String>,
    /// Start each run up to this much later: `10m`.
    #[arg(long, value_name = "TIME")]
    pub jitter: Option<String>,
    /// What becomes of runs that were due while no server ran [default: last]
    #[arg(long, value_name = "POLICY", value_parser = ["none", "last", "all"])]
    pub catch_up: Option<String>,
}

#[derive(Args)]
#[command(args_conflicts_with_subcommands = false)]
pub(crate) struct Deployments {
    /// Ask this server, `http://127.0.0.1:7475` for example [default: the store of `--home`]
    #[arg(long, value_name = "URL", env = "SWATH_SERVER", global = true)]
    pub server: Option<String>,
    #[command(subcommand)]
    pub command: Option<DeploymentsCommand>,
}

#[derive(Subcommand)]
pub(crate) enum DeploymentsCommand {
    /// Show a deployment: its versions, and when it last ran.
    Show {
        /// Its name.
        name: String,
    },
    /// Start no more runs of it. Live runs go on.
    Pause {
        /// Its name.
        name: String,
    },
    /// Let it go on; what was due by its schedule meanwhile is left out.
    Resume {
        /// Its name.
        name: String,
    },
    /// Run it now.
    Trigger {
        /// Its name.
        name: String,
        /// A parameter in the place of the one it was deployed with; may be repeated.
        #[arg(long = "param", short, value_name = "NAME=VALUE", value_parser = pair)]
        params: Vec<(String, String)>,
        /// Asks for a run once, however often it is asked with this key.
        #[arg(long, value_name = "TEXT")]
        key: Option<String>,
    },
    /// Tell when it is next due.
    Next {
        /// Its name.
        name: String,
        /// How many times.
        #[arg(long, default_value = "5", value_name = "COUNT", value_parser = clap::value_parser!(i32).range(1..=1000))]
        count: i32,
    },
    /// Remove it with its versions. Its runs stay.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Args)]
pub(crate) struct Backfill {
    /// Name of the deployment.
    pub name: String,
    /// The first day, month or instant: `2024-06-01`.
    #[arg(long, value_name = "TIME")]
    pub from: String,
    /// The last day, month or instant [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Also those that it ran before.
    #[arg(long)]
    pub again: bool,
    /// Ask this server, `http://127.0.0.1:7475` for example [default: the store of `--home`]
    #[arg(long, value_name = "URL", env = "SWATH_SERVER")]
    pub server: Option<String>,
}

#[derive(Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub command: TokenCommand,
}

#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it, this once.
    Create {
        /// Who or what it is for.
        name: String,
        /// What it allows: looking; starting and ending runs, which is the right to run programs on the server; all.
        #[arg(long, value_parser = ["read", "run", "admin"])]
        scope: String,
        /// After how long it is good for nothing: `90d` [default: never]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        expires: Option<std::time::Duration>,
    },
    /// List the tokens.
    List,
    /// End a token.
    Revoke {
        /// Its name.
        name: String,
    },
}
