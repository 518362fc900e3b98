//! The task trait, and its erased form that the engine works on.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::panic_fault;
use crate::port::ports_of;
use crate::{Context, Fault, Needs, Ports, Problem, TaskError};

/// How far results may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purity {
    /// Equal parameters and inputs give equal outputs, and nothing else happens: reused for ever.
    Pure,
    /// The world may have changed: runs again, unless the flow gives its cache a time to live.
    Volatile,
    /// Changes the world: never reused.
    Effect,
    /// Changes the world and can tell whether the change is still there: reused while [`Task::stands`] says so.
    Lasting,
}

/// One unit of work. The struct is its parameters.
///
/// # Contract
/// - `run` may be called again with the same input after a crash, also when an earlier attempt had finished its work.
/// - `run` keeps its memory within [`Task::needs`] and leaves the async loop free ([`Context::blocking`]).
/// - `run` stops within a second of [`Context::is_cancelled`].
/// - Parameters refuse unknown fields (`#[serde(deny_unknown_fields)]`).
pub trait Task: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// `family.verb`, as a flow writes it.
    const NAME: &'static str;
    /// Part of the cache key: raise it when equal inputs give other outputs.
    const VERSION: u32;
    /// How far results may be reused.
    const PURITY: Purity;
    /// It calls native code (GDAL, ONNX Runtime), which can take its whole process down: a server runs it in a process of
    /// its own unless the flow says otherwise.
    const NATIVE: bool = false;
    /// What it reads: a struct of [`crate::Artifact`]s and plain values.
    type Inputs: DeserializeOwned + JsonSchema + Send;
    /// What it makes: a struct of [`crate::Artifact`]s and plain values.
    type Outputs: Serialize + JsonSchema + Send;

    /// What types cannot say about the parameters. Pure: no I/O, no clock.
    fn check(&self) -> Result<(), Vec<Problem>> {
        Ok(())
    }

    /// Slots one attempt holds unless the flow says otherwise.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Purity of this very step, where parameters decide (a search of a local catalogue is pure, of a server volatile).
    fn purity(&self) -> Purity {
        Self::PURITY
    }

    /// Local files and folders named by parameters: their content becomes part of the cache key.
    fn reads(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Variables of the environment that decide the result, such as the address of a server: their values become part of the
    /// cache key, as digests. One that is not set changes no key.
    fn variables(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// For a lasting effect: whether what it did, as these outputs of an earlier run tell, is still so. May read files.
    fn stands(&self, _outputs: &Value) -> bool {
        false
    }

    /// Ports, where parameters declare them (`run.command`). `None`: those of `Inputs` and `Outputs`.
    fn ports(&self) -> Option<Ports> {
        None
    }

    /// Does the work.
    fn run(&self, inputs: Self::Inputs, ctx: &Context)
    -> impl Future<Output = Result<Self::Outputs, TaskError>> + Send;
}

/// The inputs of a task that reads nothing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoInputs {}

/// A task with its parameters bound and its types erased.
pub trait ErasedTask: Send + Sync {
    /// The parameters with every default filled in, as the cache key sees them.
    fn params(&self) -> Value;
    /// See [`Task::needs`].
    fn needs(&self) -> Needs;
    /// See [`Task::purity`].
    fn purity(&self) -> Purity;
    /// See [`Task::reads`].
    fn reads(&self) -> Vec<PathBuf>;
    /// See [`Task::variables`].
    fn variables(&self) -> Vec<&'static str>;
    /// See [`Task::stands`].
    fn stands(&self, outputs: &Value) -> bool;
    /// The ports of this step.
    fn ports(&self) -> Ports;
    /// The ports its parameters declare; `None`: those of its type, [`TaskDef::ports`]. Cheap, unlike both.
    fn own_ports(&self) -> Option<Ports>;
    /// See [`Task::run`]; `inputs` is an object keyed by port. A panic becomes a permanent fault.
    fn run(self: Arc<Self>, inputs: Value, ctx: Context) -> Running;
}

/// A task at work.
pub type Running = Pin<Box<dyn Future<Output = Result<Value, TaskError>> + Send>>;

/// A task type as the engine knows it.
#[derive(Clone, Copy)]
pub struct TaskDef {
    /// [`Task::NAME`].
    pub name: &'static str,
    /// [`Task::VERSION`].
    pub version: u32,
    /// [`Task::PURITY`].
    pub purity: Purity,
    /// [`Task::NATIVE`].
    pub native: bool,
    params_schema: fn() -> Value,
    ports: fn() -> Ports,
    bind: fn(Value) -> BindResult,
}

/// A task with its parameters, or everything that is wrong with them.
pub type BindResult = Result<Arc<dyn ErasedTask>, Vec<Problem>>;

impl std::fmt::Debug for TaskDef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TaskDef({} v{})", self.name, self.version)
    }
}

impl TaskDef {
    /// The definition of `T`.
    pub const fn of<T: Task>() -> Self {
        Self {
            name: T::NAME,
            version: T::VERSION,
            purity: T::PURITY,
            native: T::NATIVE,
            params_schema: schema_of::<T>,
            ports: static_ports::<T>,
            bind: bind::<T>,
        }
    }

    /// JSON Schema (2020-12) of the parameters; its `description` is the task's documentation.
    pub fn params_schema(&self) -> Value {
        (self.params_schema)()
    }

    /// The ports, before parameters are known.
    pub fn ports(&self) -> Ports {
        (self.ports)()
    }

    /// The task's documentation: the doc comment of its struct.
    pub fn about(&self) -> String {
        self.params_schema()["description"].as_str().unwrap_or_default().to_owned()
    }

    /// Binds parameters: deserialises them and asks [`Task::check`]. Pure.
    pub fn bind(&self, params: Value) -> BindResult {
        (self.bind)(params)
    }
}

fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn static_ports<T: Task>() -> Ports {
    let mut inputs = SchemaSettings::draft2020_12();
    inputs.inline_subschemas = true;
    let outputs = inputs.clone().for_serialize();
    Ports {
        inputs: ports_of(&inputs.into_generator().into_root_schema_for::<T::Inputs>().to_value()),
        outputs: ports_of(&outputs.into_generator().into_root_schema_for::<T::Outputs>().to_value()),
    }
}

fn bind<T: Task>(params: Value) -> BindResult {
    let task: T = serde_json::from_value(params).map_err(|error| vec![Problem::new("", error.to_string())])?;
    task.check()?;
    Ok(Arc::new(Bound(task)))
}

struct Bound<T>(T);

impl<T: Task> ErasedTask for Bound<T> {
    fn params(&self) -> Value {
        serde_json::to_value(&self.0).unwrap_or(Value::Null)
    }
    fn needs(&self) -> Needs {
        self.0.needs()
    }
    fn purity(&self) -> Purity {
        self.0.purity()
    }
    fn reads(&self) -> Vec<PathBuf> {
        self.0.reads()
    }
    fn variables(&self) -> Vec<&'static str> {
        self.0.variables()
    }
    fn stands(&self, outputs: &Value) -> bool {
        self.0.stands(outputs)
    }
    fn ports(&self) -> Ports {
        self.0.ports().unwrap_or_else(static_ports::<T>)
    }
    fn own_ports(&self) -> Option<Ports> {
        self.0.ports()
    }
    fn run(self: Arc<Self>, inputs: Value, ctx: Context) -> Running {
        Box::pin(async move {
            let inputs: T::Inputs = serde_json::from_value(inputs).map_err(|error| {
                Fault::new("E204", format!("the inputs of `{}` do not have the promised form: {error}", T::NAME))
                    .permanent()
            })?;
            let outputs = match AssertUnwindSafe(self.0.run(inputs, &ctx)).catch_unwind().await {
                Ok(outputs) => outputs?,
                Err(payload) => return Err(panic_fault(payload).permanent()),
            };
            serde_json::to_value(outputs).map_err(|error| {
                Fault::new("E205", format!("the outputs of `{}` cannot be written as JSON: {error}", T::NAME))
                    .permanent()
            })
        })
    }
}
