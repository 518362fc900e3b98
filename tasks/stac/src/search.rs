//! The task `stac.search`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use swath_access::{Limits, PLANETARY_COMPUTER_TOKENS, redact};
use swath_kinds::{Area, SceneList, Scenes, Signing};
use swath_task::{Artifact, Bytes, Context, Fault, Location, Needs, NoInputs, Problem, Purity, Task, TaskError};
use url::Url;

use crate::api::{self, Endpoint, Paging};
use crate::catalogue;
use crate::collector::Collector;
use crate::document::take_in;
use crate::filter::{Filter, Footprint, Interval};
use crate::href::{is_address, normal};
use crate::item::{self, Choice, is_planetary_computer};
use crate::period::Period;
use crate::source::{LARGEST_ANSWER, Source};

/// Finds the scenes of an area and a period in a STAC API, a static catalogue or an item collection, local or remote.
/// Each (tile, datatake) comes once, in its newest processing baseline. Items without cloud cover are kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// Root address of a STAC API, or address or path of a `catalog.json`, a collection, an item collection or an item.
    pub catalog: Location,
    /// Collection ids; all when left out. One may be written as plain text.
    #[serde(default)]
    pub collections: Names,
    /// The same, for a single collection.
    #[serde(default)]
    pub collection: Names,
    /// Area the scenes must touch: `[west, south, east, north]` in degrees or a GeoJSON file.
    #[serde(default)]
    pub area: Option<Area>,
    /// Period of acquisition, ISO 8601: `2024-01-01/2024-06-30`; `..` leaves a side open; days are whole, UTC.
    #[serde(default)]
    #[schemars(extend("x-swath-period" = true))]
    pub period: Option<String>,
    /// Only scenes that are new since an earlier search: of intervals that meet, each scene is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<New>,
    /// Most cloud cover of a scene in percent. Scenes that do not tell theirs are kept and counted.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub max_cloud_cover: Option<f64>,
    /// Conditions on further item properties: `{ platform: { eq: sentinel-2b } }`.
    #[serde(default)]
    pub query: BTreeMap<String, Comparison>,
    /// Items a page, where a server pages. Not a limit of the result: that is `max_items`.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1, max = 10000))]
    pub limit: u32,
    /// Most scenes in all.
    #[serde(default)]
    #[schemars(range(min = 1, max = 200000))]
    pub max_items: Option<u32>,
    /// Which scenes are kept when there are more than `max_items`. Left out, a server's own order decides (mostly
    /// newest first) and no more pages are read than needed; given, all are read first. Has no say in the order of
    /// the result: that is oldest first.
    #[serde(default)]
    pub sort: Option<Sort>,
    /// Assets to keep by key (`[B04, B08, SCL]`); all rasters when left out.
    #[serde(default)]
    pub assets: Vec<String>,
    /// Name of the alternate location to read from where an asset has it (`s3`).
    #[serde(default)]
    pub alternate: Option<String>,
    /// How hrefs are signed at the moment of reading.
    #[serde(default)]
    pub signing: SignWith,
    /// Token endpoint for `planetary_computer`, for a service of the same form elsewhere.
    #[serde(default)]
    pub token_endpoint: Option<String>,
    /// HTTP headers for the catalogue's own host: header name to the name of the secret that holds its value.
    #[serde(default)]
    pub secret_headers: BTreeMap<String, String>,
    /// Longest a single request may take, in seconds.
    #[serde(default = "default_request_timeout")]
    #[schemars(range(min = 1, max = 3600))]
    pub request_timeout: u32,
    /// An empty result is a result; otherwise it is a failure that tells where the items were lost.
    #[serde(default)]
    pub allow_empty: bool,
}

/// Scenes of an interval that a search before did not cover: `{ after: $schedule.start, up_to: $schedule.end }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct New {
    /// Later than this instant, RFC 3339.
    pub after: String,
    /// Up to this instant, itself included, RFC 3339.
    pub up_to: String,
    /// By which of its times a scene is new.
    #[serde(default)]
    pub by: NewBy,
}

/// The time by which a scene is new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NewBy {
    /// When it entered the catalogue (`published`, else `created`): right for catalogues that go on, which get scenes
    /// hours or days after they were acquired. Its `period` should reach back as far as scenes may be late. What shows only
    /// some time after the moment that it tells is not found by a search that comes in between.
    #[default]
    Published,
    /// When it was acquired: a scene that comes later than the search of its interval is never found.
    Acquired,
}

/// One name, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    /// `sentinel-2-l2a`
    One(String),
    /// `[sentinel-2-l2a, landsat-c2-l2]`
    Many(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl New {
    fn interval(&self) -> Result<Interval, TaskError> {
        let at = |text: &str| {
            let instant = text.parse::<Timestamp>();
            instant.map_err(|error| Fault::new("S129", format!("`{text}` is no instant: {error}")).permanent())
        };
        Ok(Interval { after: at(&self.after)?, up_to: at(&self.up_to)?, by: self.by })
    }
}

impl Names {
    fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Which scenes come first when not all may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// The latest acquisitions.
    Newest,
    /// The earliest acquisitions.
    Oldest,
    /// The least cloud cover; unknown cover comes last.
    LeastCloud,
}

/// How hrefs become readable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignWith {
    /// `planetary_computer` for catalogues and items of Planetary Computer, `none` elsewhere.
    #[default]
    Auto,
    /// They are readable as they are.
    None,
    /// A token a storage account and container from the token endpoint.
    PlanetaryComputer,
    /// What this binary registered under a name: `{ custom: my_archive }`.
    Custom(String),
}

/// A condition on one property; all that are given must hold. An item without the property fails.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    /// Equal to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eq: Option<Scalar>,
    /// Other than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neq: Option<Scalar>,
    /// Less than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lt: Option<Number>,
    /// At most this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lte: Option<Number>,
    /// More than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gt: Option<Number>,
    /// At least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gte: Option<Number>,
    /// One of these.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Scalar>>,
}

/// Text, number or truth value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// `true`
    Truth(bool),
    /// `0.6`
    Number(Number),
    /// `sentinel-2b`
    Text(String),
}

impl Scalar {
    fn is(&self, value: &Value) -> bool {
        match self {
            Self::Truth(truth) => value.as_bool() == Some(*truth),
            Self::Number(number) => value.as_f64().is_some() && value.as_f64() == number.as_f64(),
            Self::Text(text) => value.as_str() == Some(text),
        }
    }
}

impl Comparison {
    pub(crate) fn holds(&self, value: Option<&Value>) -> bool {
        let Some(value) = value else { return false };
        let ordered = |bound: &Option<Number>, holds: fn(f64, f64) -> bool| match bound {
            None => true,
            Some(bound) => value.as_f64().zip(bound.as_f64()).is_some_and(|(value, bound)| holds(value, bound)),
        };
        self.eq.as_ref().is_none_or(|wanted| wanted.is(value))
            && self.neq.as_ref().is_none_or(|unwanted| !unwanted.is(value))
            && ordered(&self.lt, |value, bound| value < bound)
            && ordered(&self.lte, |value, bound| value <= bound)
            && ordered(&self.gt, |value, bound| value > bound)
            && ordered(&self.gte, |value, bound| value >= bound)
            && self.one_of.as_ref().is_none_or(|all| all.iter().any(|wanted| wanted.is(value)))
    }
}

fn default_limit() -> u32 {
    100
}

fn default_request_timeout() -> u32 {
    120
}

/// What was found.
#[derive(Serialize, JsonSchema)]
pub struct Found {
    /// The scenes, oldest first, hrefs unsigned.
    pub scenes: Artifact<SceneList>,
    /// How many they are.
    pub count: u64,
}

impl Task for Search {
    const NAME: &'static str = "stac.search";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Volatile;
    type Inputs = NoInputs;
    type Outputs = Found;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |at: &str, message: String| problems.push(Problem::new(at, message));
        if self.catalog.is_remote() && !self.catalog.0.starts_with("http://") && !self.catalog.0.starts_with("https://")
        {
            let scheme = self.catalog.0.split("://").next().unwrap_or_default();
            problem("/catalog", format!("catalogues are read from files, http and https, not from `{scheme}`"));
        }
        if !self.collections.all().is_empty() && !self.collection.all().is_empty() {
            problem("/collection", "give `collection` or `collections`, not both".into());
        }
        if self.collections.all().iter().chain(self.collection.all()).any(|id| id.trim().is_empty()) {
            problem("/collections", "a collection id is empty".into());
        }
        if let Some(Err(why)) = self.period.as_deref().map(Period::parse) {
            problem("/period", why);
        }
        if let Some(new) = &self.new {
            for (field, text) in [("after", &new.after), ("up_to", &new.up_to)] {
                if text.parse::<Timestamp>().is_err() {
                    problem(&format!("/new/{field}"), format!("`{text}` is no instant: write `2024-06-01T00:00:00Z`"));
                }
            }
        }
        if self.max_cloud_cover.is_some_and(|cover| !(0.0..=100.0).contains(&cover)) {
            problem("/max_cloud_cover", "cloud cover is a percentage from 0 to 100".into());
        }
        if !(1..=10_000).contains(&self.limit) {
            problem("/limit", "a page has from 1 to 10,000 items".into());
        }
        if self.max_items.is_some_and(|max| !(1..=200_000).contains(&max)) {
            problem("/max_items", "`max_items` is from 1 to 200,000".into());
        }
        if !(1..=3600).contains(&self.request_timeout) {
            problem("/request_timeout", "a request may take from 1 to 3,600 seconds".into());
        }
        if self.token_endpoint.as_deref().is_some_and(|address| Url::parse(address).is_err()) {
            problem("/token_endpoint", "the token endpoint is not an address".into());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs { memory: Bytes::mib(256), ..Needs::waiting() }
    }

    /// A local catalogue gives the same scenes as long as all below its folder is the same. The rasters of an item
    /// collection or a single item may lie anywhere: whether they have changed is found out by looking again.
    fn purity(&self) -> Purity {
        if self.folder().is_some() { Purity::Pure } else { Purity::Volatile }
    }

    /// A catalogue or collection is read with all below its folder; another file is read alone.
    fn reads(&self) -> Vec<PathBuf> {
        let catalog = self.folder().or_else(|| self.catalog.local().map(Path::to_owned));
        catalog.into_iter().chain(self.area.as_ref().and_then(Area::file)).collect()
    }

    async fn run(&self, _: NoInputs, ctx: &Context) -> Result<Found, TaskError> {
        let searched = tokio::select! {
            searched = self.search(ctx) => searched?,
            () = ctx.cancelled() => return Err(TaskError::Cancelled),
        };
        let scenes = ctx
            .blocking(move |ctx| {
                let mut searched = searched;
                for (index, scene) in searched.scenes.iter_mut().enumerate() {
                    if index % 64 == 0 {
                        ctx.check_cancelled()?;
                    }
                    item::look_at_files(scene)?;
                }
                Ok(searched)
            })
            .await?;
        let count = scenes.scenes.len() as u64;
        let draft = ctx.draft::<SceneList>("scenes.json")?;
        let path = draft.path().to_owned();
        ctx.blocking(move |_| write(&path, &scenes)).await?;
        Ok(Found { scenes: draft.commit().await?, count })
    }
}

fn write(path: &Path, scenes: &Scenes) -> Result<(), TaskError> {
    let failed = |error: String| Fault::new("S127", format!("cannot write the scene list: {error}")).transient(None);
    let json = serde_json::to_vec_pretty(scenes).map_err(|error| failed(error.to_string()))?;
    std::fs::write(path, json).map_err(|error| failed(error.to_string()))
}

impl Search {
    /// The folder of a local static catalogue, by its name alone.
    fn folder(&self) -> Option<PathBuf> {
        let path = self.catalog.local()?;
        match path.file_name().and_then(|name| name.to_str()) {
            Some("catalog.json" | "collection.json") => Some(path.parent().unwrap_or(Path::new("/")).to_owned()),
            _ => path.extension().is_none().then(|| path.to_owned()),
        }
    }

    async fn search(&self, ctx: &Context) -> Result<Scenes, TaskError> {
        let filter = self.filter(ctx).await?;
        let mut found =
            Collector::new(filter, Choice { assets: self.assets.clone(), alternate: self.alternate.clone() });
        let location = self.location()?;
        let source = Source::new(&location, self.limits(), self.headers(ctx)?)?;
        let enough = if self.sort.is_none() { self.max_items.map(|max| max as usize) } else { None };
        let paging = Paging { page_size: self.limit, enough };
        let searched = self.look_in(&source, &location, &paging, &mut found, ctx).await?;

        let funnel = found.funnel.clone();
        ctx.metric("items_seen", funnel.seen as f64);
        ctx.metric("duplicates", found.duplicates as f64);
        ctx.metric("replaced_by_newer_baseline", found.twins as f64);
        ctx.metric("without_cloud_cover", funnel.without_cloud_cover as f64);
        let explained = found.filter().explain(&funnel);
        if funnel.untold > 0 {
            let message = format!(
                "{} of {} items do not tell when they were published (`published` or `created`): what is new among them \
                 cannot be known",
                funnel.untold, funnel.matching
            );
            let help = "write `new: { ..., by: acquired }`: scenes that the catalogue gets late are not found then";
            return Err(Fault::new("S133", message).help(help).permanent());
        }
        tracing::info!(catalogue = redact(&location), "{explained}");
        let signing = self.signing(&location, found.from_planetary_computer);
        let mut scenes = found.finish(self.sort, self.max_items.map(|max| max as usize));
        scenes.iter_mut().try_for_each(|scene| item::take_signatures_off(scene, &signing))?;
        ctx.metric("scenes", scenes.len() as f64);
        if scenes.is_empty() && !self.allow_empty {
            return Err(self.nothing_found(&source, &location, &searched, funnel.in_collections, &explained).await);
        }
        Ok(Scenes { signing, scenes })
    }

    /// Finds out what `location` is, and searches it.
    async fn look_in(
        &self,
        source: &Source,
        location: &str,
        paging: &Paging,
        found: &mut Collector,
        ctx: &Context,
    ) -> Result<Searched, TaskError> {
        if is_address(location) && location.trim_end_matches('/').ends_with("/search") {
            let endpoint = Endpoint { search: location.to_owned(), post: true, root: None };
            api::search(source, &endpoint, paging, found, ctx).await?;
            return Ok(Searched::Api(endpoint));
        }
        let document = take_in(source.read(location).await?, false, found, ctx).await?;
        if let Some(endpoint) = api::endpoint(&document) {
            api::search(source, &endpoint, paging, found, ctx).await?;
            return Ok(Searched::Api(endpoint));
        }
        if document.features.is_some() {
            api::further_pages(source, &document, paging, found, ctx).await?;
            return Ok(Searched::Items);
        }
        catalogue::walk(source, document, paging, found, ctx).await.map(Searched::Catalogue)
    }

    async fn filter(&self, ctx: &Context) -> Result<Filter, TaskError> {
        let area = match self.area.clone() {
            Some(area) => Some(
                ctx.blocking(move |_| {
                    Footprint::of(&area).map_err(|error| Fault::new("S124", error.to_string()).permanent())
                })
                .await?,
            ),
            None => None,
        };
        let period = self.period.as_deref().map(Period::parse).transpose();
        Ok(Filter {
            collections: self.collections().to_vec(),
            period: period.map_err(|why| Fault::new("S129", why).permanent())?,
            area,
            new: self.new.as_ref().map(New::interval).transpose()?,
            max_cloud_cover: self.max_cloud_cover,
            query: self.query.clone(),
        })
    }

    fn collections(&self) -> &[String] {
        if self.collections.all().is_empty() { self.collection.all() } else { self.collections.all() }
    }

    /// Absolute path or address; a folder is its `catalog.json` or `collection.json`.
    fn location(&self) -> Result<String, TaskError> {
        let Some(path) = self.catalog.local() else { return Ok(self.catalog.0.clone()) };
        let absolute = std::path::absolute(path)
            .map_err(|error| Fault::new("S125", format!("cannot resolve `{}`: {error}", path.display())))?;
        let mut absolute = normal(&absolute);
        if absolute.is_dir() {
            let inside = ["catalog.json", "collection.json"].map(|name| absolute.join(name));
            absolute = inside.into_iter().find(|file| file.is_file()).ok_or_else(|| {
                let message = format!("the folder `{}` has no `catalog.json` or `collection.json`", absolute.display());
                Fault::new("S125", message).help("name the file of the catalogue").permanent()
            })?;
        }
        Ok(absolute.to_string_lossy().into_owned())
    }

    fn limits(&self) -> Limits {
        let total = Duration::from_secs(self.request_timeout.into());
        let limits = Limits::default();
        Limits {
            connect: limits.connect.min(total),
            first_byte: total,
            idle: limits.idle.min(total),
            total,
            body: LARGEST_ANSWER,
            ..limits
        }
    }

    fn headers(&self, ctx: &Context) -> Result<Vec<(String, String)>, TaskError> {
        let secret = |(header, name): (&String, &String)| match ctx.secret(name) {
            Some(value) => Ok((header.clone(), value)),
            None => Err(Fault::new("S114", format!("the secret `{name}` for the header `{header}` is not set"))
                .help("set it where the flow's secrets are set")
                .permanent()),
        };
        self.secret_headers.iter().map(secret).collect()
    }

    fn signing(&self, location: &str, found_there: bool) -> Signing {
        let there = found_there || Url::parse(location).is_ok_and(|url| is_planetary_computer(&url));
        match &self.signing {
            SignWith::None => Signing::None,
            SignWith::Custom(name) => Signing::Custom(name.clone()),
            SignWith::Auto if !there => Signing::None,
            SignWith::Auto | SignWith::PlanetaryComputer => Signing::PlanetaryComputer {
                endpoint: self.token_endpoint.clone().unwrap_or_else(|| PLANETARY_COMPUTER_TOKENS.to_owned()),
            },
        }
    }

    /// S131 with the funnel, or S130 when a collection that was asked for does not exist.
    async fn nothing_found(
        &self,
        source: &Source,
        location: &str,
        searched: &Searched,
        in_collections: u64,
        explained: &str,
    ) -> TaskError {
        let place = redact(location);
        let wanted = self.collections();
        let unknown = |missing: &str, known: &[String]| {
            let fault = Fault::new("S130", format!("the catalogue `{place}` has no collection `{missing}`"));
            match known {
                [] => fault.permanent(),
                known => {
                    // They were met in whatever order the catalogue's files were read.
                    let mut known = known.to_vec();
                    known.sort();
                    fault.help(format!("it has {}", list(&known))).permanent()
                }
            }
        };
        match searched {
            Searched::Catalogue(known) if !known.is_empty() && in_collections == 0 => {
                if let Some(missing) = wanted.iter().find(|id| !known.contains(id)) {
                    return unknown(missing, known);
                }
            }
            Searched::Api(Endpoint { root: Some(root), .. }) if in_collections == 0 => {
                for id in wanted {
                    let address = format!("{}/collections/{id}", root.trim_end_matches('/'));
                    if let Err(TaskError::Permanent(fault)) = source.read(&address).await
                        && fault.code == "S106"
                    {
                        return unknown(id, &[]);
                    }
                }
            }
            _ => {}
        }
        Fault::new("S131", format!("no scenes in `{place}`: {explained}"))
            .help("widen the condition that leaves nothing, or set `allow_empty: true`")
            .permanent()
    }
}

enum Searched {
    Api(Endpoint),
    Items,
    Catalogue(Vec<String>),
}

/// Names in backticks, at most ten of them.
pub(crate) fn list(names: &[String]) -> String {
    let mut shown: Vec<String> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
    if names.len() > shown.len() {
        shown.push(format!("{} more", names.len() - shown.len()));
    }
    shown.join(", ")
}
