//! The task `run.command`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use swath_kinds::Any;
use swath_task::{
    Artifact, ArtifactRecord, Context, Fault, LocalPath, Needs, Port, PortType, Ports, Problem, Purity, Task, TaskError,
};
use tokio::process::Command;

use crate::child;
use crate::ending::{judge, present, take_over};
use crate::output::{Secrets, Tail};
use crate::ports::{AnyDraft, InputSpec, OutputSpec, input_problem};
use crate::template::{Piece, pieces, whole};

const STANDS_FOR_NOTHING: &str = "stands for nothing";

/// Runs a program as a step. Its inputs and outputs are declared, so that the flow's edges are checked; there is no
/// shell. In `command` and `env`, `{inputs.NAME}` is the path of an input (or a plain value), `{outputs.NAME}` the
/// path to write an output to, `{files.NAME}` a file named in `files`, `{scratch}` a folder that is removed
/// afterwards, `{cpus}` the number of threads granted, `{idempotency_key}` the same text for every attempt.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCommand {
    /// Program and arguments, one list item each. An argument that is only `{inputs.NAME}` of a list becomes one
    /// argument an item, of an open optional input none.
    #[schemars(length(min = 1))]
    pub command: Vec<Argument>,
    /// Inputs: name to artifact kind (`raster.cog`, `raster.cog[]` for a list, `raster.cog?` for one that may stay
    /// open) or to `string`, `integer`, `number`, `boolean` for plain values.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// Outputs: name to artifact kind, or to `{ kind, name, path }`.
    #[serde(default)]
    pub outputs: BTreeMap<String, OutputSpec>,
    /// Files and folders beside the flow that the program reads (scripts, tables): their content is part of the
    /// cache key, `{files.NAME}` is their path.
    #[serde(default)]
    pub files: BTreeMap<String, LocalPath>,
    /// Environment variables. Beside them the program sees PATH, HOME, LANG, TMPDIR and OMP_NUM_THREADS only.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Environment variables passed on from the engine, where they are set.
    #[serde(default)]
    pub env_pass: Vec<String>,
    /// Environment variables whose values are secrets: variable to the secret's name.
    #[serde(default)]
    pub secret_env: BTreeMap<String, String>,
    /// Working folder; a new one in the scratch folder when left out.
    #[serde(default)]
    pub cwd: Option<LocalPath>,
    /// Name of the input whose file the program reads on its standard input.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Name of the output that is what the program writes to its standard output; left out, that is logged.
    #[serde(default)]
    pub stdout: Option<String>,
    /// Whether results may be reused.
    #[serde(default)]
    pub purity: Reuse,
    /// Exit codes that mean success.
    #[serde(default = "default_ok_codes")]
    pub ok_codes: Vec<i32>,
    /// Exit codes that mean a failure that may pass, so that `retry` tries again.
    #[serde(default = "default_transient_codes")]
    pub transient_codes: Vec<i32>,
    /// Seconds from the request to stop until the program is killed.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 60))]
    pub grace: f64,
}

/// An argument: text, or a number or truth value that becomes text.
///
/// The example also stands in for arguments that a planner cannot know yet: it never counts as a mistake about outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(extend("examples" = ["{outputs.NAME}"]))]
pub enum Argument {
    /// `--threads`
    Text(String),
    /// `4`
    Integer(i64),
    /// `0.5`
    Number(f64),
    /// `true`
    Truth(bool),
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Truth(truth) => write!(f, "{truth}"),
        }
    }
}

/// How far results may be reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reuse {
    /// Equal inputs, files and arguments give equal outputs: reused for ever.
    Pure,
    /// The world may have changed: runs again, unless the flow gives its cache a time to live.
    #[default]
    Volatile,
    /// Changes the world: never reused.
    Effect,
}

fn default_ok_codes() -> Vec<i32> {
    vec![0]
}

/// `EX_TEMPFAIL` of sysexits.h.
fn default_transient_codes() -> Vec<i32> {
    vec![75]
}

fn default_grace() -> f64 {
    3.0
}

/// What a step was given, by input name.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Given(BTreeMap<String, Gift>);

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Gift {
    Artifact(ArtifactRecord),
    Artifacts(Vec<ArtifactRecord>),
    Value(Argument),
    Values(Vec<Argument>),
    Nothing,
}

/// What it made, by output name.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Made(BTreeMap<String, ArtifactRecord>);

macro_rules! any_object {
    ($($name:ident)+) => {$(
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "object", "description": "as the parameters declare" })
            }
        }
    )+};
}
any_object! { Given Made }

impl Task for RunCommand {
    const NAME: &'static str = "run.command";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Volatile;
    type Inputs = Given;
    type Outputs = Made;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if self.command.first().is_none_or(|program| program.to_string().trim().is_empty()) {
            problems.push(
                Problem::new("/command", "there is no program to run")
                    .help("write `command: [program, argument, ...]`"),
            );
        }
        for (index, argument) in self.command.iter().enumerate() {
            self.check_text(&format!("/command/{index}"), &argument.to_string(), true, &mut problems);
        }
        for (name, value) in &self.env {
            self.check_text(&format!("/env/{name}"), value, false, &mut problems);
        }
        for (name, spec) in &self.inputs {
            problems.extend(input_problem(spec).map(|why| Problem::new(format!("/inputs/{name}"), why)));
            problems.extend(name_problem("inputs", name));
        }
        for (name, spec) in &self.outputs {
            problems.extend(spec.problem().map(|why| Problem::new(format!("/outputs/{name}"), why)));
            problems.extend(name_problem("outputs", name));
        }
        problems.extend(self.files.keys().filter_map(|name| name_problem("files", name)));
        for name in self.env.keys().chain(self.secret_env.keys()).chain(&self.env_pass) {
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.push(Problem::new("/env", format!("`{name}` cannot be the name of an environment variable")));
            }
        }
        if let Some(name) = self.stdin.as_ref().filter(|name| {
            self.inputs.get(*name).is_none_or(|spec| {
                let spec = InputSpec::parse(spec);
                spec.list || !matches!(spec.port_type(), PortType::Artifact(_))
            })
        }) {
            problems.push(Problem::new("/stdin", format!("`{name}` is not an input that is a single artifact")));
        }
        if let Some(name) = &self.stdout {
            match self.outputs.get(name) {
                None => problems.push(Problem::new("/stdout", format!("there is no output `{name}`"))),
                Some(spec) if spec.path().is_some() => {
                    problems.push(Problem::new(
                        "/stdout",
                        format!("the output `{name}` has a `path`: it is one or the other"),
                    ));
                }
                Some(_) => {}
            }
        }
        // A placeholder that stands for nothing may be meant for any output.
        let dangling = problems.iter().any(|problem| problem.message.ends_with(STANDS_FOR_NOTHING));
        for (name, spec) in self.outputs.iter().filter(|_| !dangling) {
            let placeholder = format!("outputs.{name}");
            let mut texts = self.command.iter().map(ToString::to_string).chain(self.env.values().cloned());
            let named = texts.any(|text| pieces(&text).contains(&Piece::Placeholder(&placeholder)));
            if !named && spec.path().is_none() && self.stdout.as_ref() != Some(name) {
                let why = format!("nothing tells the program where to write the output `{name}`");
                let help = format!(
                    "use `{{{placeholder}}}` in `command` or `env`, give the output a `path`, or set `stdout: {name}`"
                );
                problems.push(Problem::new(format!("/outputs/{name}"), why).help(help));
            }
        }
        if !(0.0..=60.0).contains(&self.grace) {
            problems.push(Problem::new("/grace", "`grace` is from 0 to 60 seconds"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn purity(&self) -> Purity {
        match self.purity {
            Reuse::Pure => Purity::Pure,
            Reuse::Volatile => Purity::Volatile,
            Reuse::Effect => Purity::Effect,
        }
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.files.values().map(|path| path.0.clone()).collect()
    }

    fn ports(&self) -> Option<Ports> {
        let inputs = self.inputs.iter().map(|(name, spec)| {
            let spec = InputSpec::parse(spec);
            let of = spec.port_type();
            let list = spec.list && matches!(of, PortType::Artifact(_));
            Port { name: name.clone(), of, list, required: !spec.optional, about: String::new() }
        });
        let outputs = self.outputs.iter().map(|(name, spec)| {
            let of = PortType::Artifact(spec.kind().to_owned());
            Port { name: name.clone(), of, list: false, required: true, about: String::new() }
        });
        Some(Ports { inputs: inputs.collect(), outputs: outputs.collect() })
    }

    async fn run(&self, inputs: Given, ctx: &Context) -> Result<Made, TaskError> {
        let values = self.locate(inputs, ctx).await?;
        // A folder of its own, so that nothing an earlier program left can be taken for an output.
        let own = ctx.scratch()?;
        let scratch = tempfile::Builder::new().prefix("command-").tempdir_in(own).map_err(no_folder(own))?;
        let (work, temporary) = (scratch.path().join("work"), scratch.path().join("tmp"));
        for path in [&work, &temporary] {
            std::fs::create_dir(path).map_err(no_folder(path))?;
        }
        let folder = self.cwd.as_ref().map_or(work, |path| path.0.clone());
        let mut drafts = BTreeMap::new();
        for (name, spec) in &self.outputs {
            drafts.insert(name.as_str(), AnyDraft::new(ctx, spec.kind(), &spec.file_name(name))?);
        }

        let fill = Fill { task: self, values: &values, drafts: &drafts, scratch: &temporary, ctx };
        let mut arguments = Vec::new();
        for argument in &self.command {
            fill.argument(&argument.to_string(), &mut arguments)?;
        }
        let Some((program, arguments)) = arguments.split_first() else {
            return Err(Fault::new("C107", "the program's name is an empty list").permanent());
        };
        let shown = program.to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&folder);
        let secrets = self.environment(&mut command, &fill, ctx)?;
        command.stdin(self.stdin(&values)?);
        command.stdout(self.stdout(&drafts)?);

        let tail = Tail::default();
        let status = child::run(command, Duration::from_secs_f64(self.grace), &tail, &secrets, ctx).await?;
        let status = status.map_err(|error| not_started(&shown, &folder, &error))?;
        judge(&shown, status, own, &self.ok_codes, &self.transient_codes, &tail)?;

        let mut made = BTreeMap::new();
        for (name, draft) in drafts {
            let spec = &self.outputs[name];
            if let Some(path) = spec.path() {
                take_over(&shown, name, &folder.join(path), draft.path())?;
            }
            present(&shown, name, draft.path(), &tail)?;
            made.insert(name.to_owned(), draft.commit().await?);
        }
        Ok(Made(made))
    }
}

impl RunCommand {
    fn check_text(&self, at: &str, text: &str, is_argument: bool, problems: &mut Vec<Problem>) {
        if text.contains('\0') {
            problems.push(Problem::new(at, "a NUL character cannot be passed to a program"));
        }
        let alone = is_argument && whole(text).is_some();
        for piece in pieces(text) {
            let Piece::Placeholder(name) = piece else { continue };
            let known = match name.split_once('.') {
                Some(("inputs", input)) => match self.inputs.get(input) {
                    Some(spec) if InputSpec::parse(spec).list && !alone => {
                        let why = format!("`{{{name}}}` is a list: it must be an argument of its own");
                        problems.push(Problem::new(at, why));
                        true
                    }
                    known => known.is_some(),
                },
                Some(("outputs", output)) => self.outputs.contains_key(output),
                Some(("files", file)) => self.files.contains_key(file),
                _ => matches!(name, "scratch" | "cpus" | "idempotency_key"),
            };
            if !known {
                let help = "known are `{inputs.NAME}`, `{outputs.NAME}`, `{files.NAME}` of what is declared, `{scratch}`, \
                            `{cpus}` and `{idempotency_key}`; double braces are text";
                problems.push(Problem::new(at, format!("`{{{name}}}` {STANDS_FOR_NOTHING}")).help(help));
            }
        }
    }

    /// Paths and values of the inputs as texts.
    async fn locate(&self, inputs: Given, ctx: &Context) -> Result<BTreeMap<String, Vec<OsString>>, TaskError> {
        let mut values = BTreeMap::new();
        for (name, gift) in inputs.0 {
            let records = match gift {
                Gift::Nothing => continue,
                Gift::Value(value) => {
                    values.insert(name, vec![value.to_string().into()]);
                    continue;
                }
                Gift::Values(all) => {
                    values.insert(name, all.iter().map(|value| value.to_string().into()).collect());
                    continue;
                }
                Gift::Artifact(record) => vec![record],
                Gift::Artifacts(records) => records,
            };
            let mut paths = Vec::new();
            for record in records {
                let artifact: Artifact<Any> = Artifact::typed(record)
                    .ok_or_else(|| Fault::new("C107", format!("the input `{name}` is not an artifact")))?;
                paths.push(ctx.locate(&artifact).await?.into_os_string());
            }
            values.insert(name, paths);
        }
        for (name, spec) in &self.inputs {
            let spec = InputSpec::parse(spec);
            let count = values.get(name).map_or(0, Vec::len);
            if count != 1 && !spec.list && !(spec.optional && count == 0) {
                return Err(
                    Fault::new("C107", format!("the input `{name}` came as {count} values, not as one")).permanent()
                );
            }
        }
        Ok(values)
    }

    fn environment(&self, command: &mut Command, fill: &Fill<'_>, ctx: &Context) -> Result<Secrets, TaskError> {
        command.env_clear();
        for name in ["PATH", "HOME"].into_iter().chain(self.env_pass.iter().map(String::as_str)) {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // What it traces itself belongs below this attempt.
        for (name, value) in traced() {
            command.env(name.to_ascii_uppercase(), value);
        }
        command.env("LANG", "C.UTF-8").env("TMPDIR", fill.scratch).env("OMP_NUM_THREADS", ctx.cpus().to_string());
        if !ctx.gpus().is_empty() {
            // Of the GPUs that this process sees, the program sees those that the attempt holds.
            let seen = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
            let seen: Vec<&str> = seen.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
            let name = |gpu: &u32| seen.get(*gpu as usize).map_or_else(|| gpu.to_string(), |name| (*name).to_owned());
            command.env("CUDA_VISIBLE_DEVICES", ctx.gpus().iter().map(name).collect::<Vec<_>>().join(","));
        }
        for (name, value) in &self.env {
            command.env(name, fill.text(value)?);
        }
        let mut secrets = Vec::new();
        for (name, secret) in &self.secret_env {
            let value = ctx.secret(secret).ok_or_else(|| {
                Fault::new("C109", format!("the secret `{secret}` for the environment variable `{name}` is not set"))
                    .help("set it where the flow's secrets are set")
            })?;
            command.env(name, &value);
            secrets.push(value);
        }
        Ok(Secrets::new(secrets))
    }

    fn stdin(&self, values: &BTreeMap<String, Vec<OsString>>) -> Result<Stdio, TaskError> {
        let Some(path) = self.stdin.as_ref().and_then(|name| values.get(name)?.first()) else {
            return Ok(Stdio::null());
        };
        let file = std::fs::File::open(path).map_err(|error| {
            Fault::new(
                "C107",
                format!("cannot open `{}` for the program's standard input: {error}", Path::new(path).display()),
            )
        })?;
        Ok(file.into())
    }

    fn stdout(&self, drafts: &BTreeMap<&str, AnyDraft>) -> Result<Stdio, TaskError> {
        let Some(draft) = self.stdout.as_ref().and_then(|name| drafts.get(name.as_str())) else {
            return Ok(Stdio::piped());
        };
        let file = std::fs::File::create(draft.path()).map_err(|error| {
            Fault::new("C108", format!("cannot create `{}`: {error}", draft.path().display())).transient(None)
        })?;
        Ok(file.into())
    }
}

/// What placeholders stand for in one attempt.
struct Fill<'a> {
    task: &'a RunCommand,
    values: &'a BTreeMap<String, Vec<OsString>>,
    drafts: &'a BTreeMap<&'a str, AnyDraft>,
    scratch: &'a Path,
    ctx: &'a Context,
}

impl Fill<'_> {
    /// Adds one argument, or one an item where it is a list.
    fn argument(&self, text: &str, arguments: &mut Vec<OsString>) -> Result<(), TaskError> {
        match whole(text).and_then(|name| name.strip_prefix("inputs.")) {
            Some(input) => arguments.extend(self.values.get(input).into_iter().flatten().cloned()),
            None => arguments.push(self.text(text)?),
        }
        Ok(())
    }

    fn text(&self, text: &str) -> Result<OsString, TaskError> {
        let mut filled = OsString::new();
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => filled.push(text),
                Piece::Placeholder(name) => filled.push(self.value(name)?),
            }
        }
        Ok(filled)
    }

    fn value(&self, name: &str) -> Result<OsString, TaskError> {
        let found: Option<OsString> = match name.split_once('.') {
            Some(("inputs", input)) => {
                Some(self.values.get(input).and_then(|all| all.first()).cloned().unwrap_or_default())
            }
            Some(("outputs", output)) => self.drafts.get(output).map(|draft| draft.path().as_os_str().to_owned()),
            Some(("files", file)) => self.task.files.get(file).map(|path| absolute(&path.0)),
            _ => match name {
                "scratch" => Some(self.scratch.as_os_str().to_owned()),
                "cpus" => Some(self.ctx.cpus().to_string().into()),
                "idempotency_key" => Some(self.ctx.idempotency_key().into()),
                _ => None,
            },
        };
        found.ok_or_else(|| Fault::new("C107", format!("`{{{name}}}` {STANDS_FOR_NOTHING}")).permanent())
    }
}

/// Where in its trace this attempt is, by W3C's names (`traceparent`); empty where the program sends no traces.
fn traced() -> HashMap<String, String> {
    let mut place = HashMap::new();
    let here = opentelemetry::Context::current();
    opentelemetry::global::get_text_map_propagator(|propagator| propagator.inject_context(&here, &mut place));
    place.retain(|_, value| !value.is_empty());
    place
}

fn no_folder(path: &Path) -> impl Fn(std::io::Error) -> TaskError {
    move |error| {
        Fault::new("C108", format!("cannot create a folder at `{}`: {error}", path.display()))
            .help("free disk space, or set `--home` to a disk that has some")
            .transient(None)
    }
}

/// The program runs in another folder than the engine.
fn absolute(path: &Path) -> OsString {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).into_os_string()
}

fn name_problem(group: &str, name: &str) -> Option<Problem> {
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    (!fits).then(|| Problem::new(format!("/{group}"), format!("`{name}` is not a name: letters, digits, `_` and `-`")))
}

fn not_started(program: &str, folder: &Path, error: &std::io::Error) -> TaskError {
    if !folder.is_dir() {
        return Fault::new("C102", format!("the working folder `{}` of `{program}` does not exist", folder.display()))
            .permanent();
    }
    if error.kind() == std::io::ErrorKind::NotFound {
        return Fault::new("C101", format!("the program `{program}` was not found"))
            .help("install it, write its full path, or add its folder to PATH; a script also needs the interpreter of its first line")
            .permanent();
    }
    let busy = matches!(error.kind(), std::io::ErrorKind::ExecutableFileBusy | std::io::ErrorKind::WouldBlock);
    let fault = Fault::new("C102", format!("the program `{program}` cannot be started: {error}"));
    if busy {
        fault.transient(None)
    } else {
        fault.help("check that the file is executable and made for this machine").permanent()
    }
}
