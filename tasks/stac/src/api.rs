//! Searches of a STAC API: POST with paging by body token or link, GET where POST is not offered.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use stac::Link;
use swath_access::{Request, redact};
use swath_kinds::BoundingBox;
use swath_task::{Context, Fault, TaskError};
use url::Url;

use crate::collector::Collector;
use crate::document::{Document, Features, take_in};
use crate::href::resolve;
use crate::source::Source;

/// Most pages of one search, and most empty pages in a row.
const MOST_PAGES: usize = 20_000;
const MOST_EMPTY_PAGES: usize = 20;

/// A server's search endpoint, as its landing page tells.
pub(crate) struct Endpoint {
    /// Address of the search.
    pub search: String,
    /// POST is offered.
    pub post: bool,
    /// Address of the landing page, where it was read.
    pub root: Option<String>,
}

/// How a search is bounded.
pub(crate) struct Paging {
    /// Items a page.
    pub page_size: u32,
    /// Stop when this many scenes are kept.
    pub enough: Option<usize>,
}

/// The search endpoint of a landing page; `None` for a static catalogue.
pub(crate) fn endpoint(landing: &Document) -> Option<Endpoint> {
    let (landing, address) = (&landing.members, landing.href.as_str());
    if !crate::href::is_address(address) {
        return None;
    }
    let links = landing["links"].as_array()?;
    let searches: Vec<&Value> =
        links.iter().filter(|link| link["rel"] == "search" && link["href"].is_string()).collect();
    let conforms = landing["conformsTo"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut promised = conforms.filter(|class| class.contains("item-search"));
    let href = match searches.first() {
        Some(link) => resolve(address, link["href"].as_str()?)?,
        None => promised.next().map(|_| format!("{}/search", address.trim_end_matches('/')))?,
    };
    // A link without a method is a GET link by the specification; servers that list none still take POST mostly,
    // and the fallback finds out.
    let only_get = !searches.is_empty() && searches.iter().all(|link| link["method"] == "GET");
    Some(Endpoint { search: href, post: !only_get, root: Some(address.to_owned()) })
}

enum Ask {
    Post(String, Map<String, Value>),
    Get(String),
}

/// Runs the search: once, or once a side where the area crosses the antimeridian and boxes are all that can be sent.
pub(crate) async fn search(
    source: &Source,
    endpoint: &Endpoint,
    paging: &Paging,
    found: &mut Collector,
    ctx: &Context,
) -> Result<(), TaskError> {
    let mut post = endpoint.post;
    let mut area = areas(found, post);
    let mut next_area = 0;
    while next_area < area.len() {
        let first = ask(endpoint, post, paging, found, &area[next_area])?;
        match pages(source, first, true, paging, found, ctx).await {
            Ok(()) => next_area += 1,
            Err(error) if post && next_area == 0 && found.funnel.seen == 0 && post_not_offered(&error) => {
                tracing::info!(search = redact(&endpoint.search), "POST is not offered: searching with GET");
                post = false;
                area = areas(found, post);
            }
            Err(error) => return Err(error),
        }
        if paging.enough.is_some_and(|enough| found.len() >= enough) {
            break;
        }
    }
    Ok(())
}

enum Where {
    Everywhere,
    Box(BoundingBox),
    Shape(Value),
}

fn areas(found: &Collector, post: bool) -> Vec<Where> {
    match &found.filter().area {
        None => vec![Where::Everywhere],
        Some(area) if area.is_box || !post => area.bounds.split().into_iter().map(Where::Box).collect(),
        Some(area) => vec![Where::Shape(area.geojson.clone())],
    }
}

fn post_not_offered(error: &TaskError) -> bool {
    matches!(error, TaskError::Permanent(fault)
        if fault.code == "S106" || (fault.code == "S107" && [" 405 ", " 501 "].iter().any(|status| fault.message.contains(status))))
}

fn ask(endpoint: &Endpoint, post: bool, paging: &Paging, found: &Collector, area: &Where) -> Result<Ask, TaskError> {
    let filter = found.filter();
    let period = filter.period.map(|period| period.to_stac());
    let numbers = |b: &BoundingBox| [b.west, b.south, b.east, b.north];
    let query = (!filter.query.is_empty()).then(|| json!(filter.query));
    if post {
        let mut body = Map::new();
        body.insert("limit".into(), json!(paging.page_size));
        if !filter.collections.is_empty() {
            body.insert("collections".into(), json!(filter.collections));
        }
        match area {
            Where::Everywhere => None,
            Where::Box(area) => body.insert("bbox".into(), json!(numbers(area))),
            Where::Shape(shape) => body.insert("intersects".into(), shape.clone()),
        };
        body.extend(period.map(|period| ("datetime".to_owned(), json!(period))));
        body.extend(query.map(|query| ("query".to_owned(), query)));
        return Ok(Ask::Post(endpoint.search.clone(), body));
    }
    let mut url = Url::parse(&endpoint.search).map_err(|error| {
        Fault::new("S113", format!("`{}` is not an address that can be asked: {error}", redact(&endpoint.search)))
    })?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("limit", &paging.page_size.to_string());
        if !filter.collections.is_empty() {
            pairs.append_pair("collections", &filter.collections.join(","));
        }
        if let Where::Box(area) = area {
            pairs.append_pair("bbox", &numbers(area).map(|n| n.to_string()).join(","));
        }
        if let Some(period) = &period {
            pairs.append_pair("datetime", period);
        }
        if let Some(query) = &query {
            pairs.append_pair("query", &query.to_string());
        }
    }
    Ok(Ask::Get(url.into()))
}

/// Asks page after page. `placed`: the server was told the area.
async fn pages(
    source: &Source,
    first: Ask,
    placed: bool,
    paging: &Paging,
    found: &mut Collector,
    ctx: &Context,
) -> Result<(), TaskError> {
    found.begin_listing();
    let mut asked = HashSet::new();
    let mut empty_pages = 0;
    let mut ask = first;
    loop {
        ctx.check_cancelled()?;
        if !asked.insert(signature(&ask)) {
            return Err(looping(&ask, "the link to the next page leads to a page that was read already"));
        }
        if asked.len() > MOST_PAGES {
            return Err(looping(&ask, &format!("there is no end after {MOST_PAGES} pages")));
        }
        let request = match &ask {
            Ask::Post(address, body) => Request::post(address, body)?,
            Ask::Get(address) => Request::get(address)?,
        };
        let page = take_in(source.send(request).await?, placed, found, ctx).await?;
        let Some(features) = page.features else { return Err(no_items(&page)) };
        let total = page.members["numberMatched"].as_u64().or_else(|| page.members["context"]["matched"].as_u64());
        ctx.progress(found.funnel.seen, found.funnel.seen.max(total.unwrap_or(0)), "items");
        let next = next_ask(&page, &ask)?;
        let Some(next) = next else { return Ok(()) };
        if paging.enough.is_some_and(|enough| found.len() >= enough) {
            return Ok(());
        }
        match features {
            Features { count: 0, .. } if empty_pages < MOST_EMPTY_PAGES => empty_pages += 1,
            Features { count: 0, .. } => return Err(looping(&next, "page after page is empty")),
            Features { fresh: 0, .. } => {
                return Err(looping(&next, "a page repeats items that were on the pages before and nothing else"));
            }
            Features { .. } => empty_pages = 0,
        }
        ask = next;
    }
}

/// S120: a page is no item collection. What it says may tell why.
fn no_items(page: &Document) -> TaskError {
    let members = &page.members;
    let what = members["type"].as_str().map_or_else(|| "JSON".to_owned(), |kind| format!("a {kind}"));
    let said = ["detail", "description", "message"].iter().find_map(|name| members[*name].as_str()).unwrap_or_default();
    let said = said.chars().take(200).collect::<String>();
    let said = if said.is_empty() { said } else { format!(" ({said})") };
    let message = format!("`{}` answered with {what} without `features`, not with items{said}", redact(&page.href));
    Fault::new("S120", message)
        .help("check that `catalog` is the root of a STAC API, a catalogue or an item collection")
        .permanent()
}

/// What the `next` link of a page asks for. S123: it leads to another host.
fn next_ask(page: &Document, current: &Ask) -> Result<Option<Ask>, TaskError> {
    let address = page.href.as_str();
    let links = page.members["links"].as_array().into_iter().flatten();
    let Some(link) = links.filter(|link| link["rel"] == "next").find(|link| link["href"].is_string()) else {
        return Ok(None);
    };
    let broken =
        |why: String| Fault::new("S122", format!("the `next` link of `{}` {why}", redact(address))).permanent();
    let link: Link =
        serde_json::from_value(link.clone()).map_err(|error| broken(format!("cannot be read: {error}")))?;
    let target = resolve(address, &link.href).ok_or_else(|| broken("leads nowhere".into()))?;
    let (mut target, here) = match (Url::parse(&target), Url::parse(address)) {
        (Ok(target), Ok(here)) => (target, here),
        _ => return Err(broken("is not an address".into())),
    };
    if target.host_str() != here.host_str() {
        let message =
            format!("the `next` link of `{}` leads to another host: `{}`", redact(address), redact(target.as_str()));
        return Err(Fault::new("S123", message)
            .help("a search stays on the host it was sent to: if the other host is right, search it directly")
            .permanent());
    }
    // Servers behind a TLS proxy often write `http` into their links: stay on the scheme and port in use.
    if target.scheme() == "http" && here.scheme() == "https" && target.port().is_none() {
        let _ = target.set_scheme("https");
    }
    if target.scheme() != here.scheme() || target.port_or_known_default() != here.port_or_known_default() {
        let message =
            format!("the `next` link of `{}` leads to another port: `{}`", redact(address), redact(target.as_str()));
        return Err(Fault::new("S123", message).help("search the other server directly, if it is right").permanent());
    }
    let posts = link.method.as_deref().is_some_and(|method| method.eq_ignore_ascii_case("POST"));
    if !posts {
        return Ok(Some(Ask::Get(target.into())));
    }
    let mut body = match (current, link.merge) {
        (Ask::Post(_, body), Some(true)) => body.clone(),
        _ => Map::new(),
    };
    body.extend(link.body.unwrap_or_default());
    Ok(Some(Ask::Post(target.into(), body)))
}

fn signature(ask: &Ask) -> String {
    match ask {
        Ask::Get(address) => format!("GET {address}"),
        Ask::Post(address, body) => format!("POST {address} {}", Value::Object(body.clone())),
    }
}

fn looping(ask: &Ask, why: &str) -> TaskError {
    let (Ask::Get(address) | Ask::Post(address, _)) = ask;
    Fault::new("S122", format!("the pages of `{}` do not end: {why}", redact(address)))
        .help("the server's paging is broken: narrow the search to one page with a larger `limit`")
        .permanent()
}

/// Follows the pages of an item collection (the `items` of a collection, on a server). A saved page still
/// carries the `next` link of the server it came from: a file has no next page.
pub(crate) async fn further_pages(
    source: &Source,
    page: &Document,
    paging: &Paging,
    found: &mut Collector,
    ctx: &Context,
) -> Result<(), TaskError> {
    if !crate::href::is_address(&page.href) {
        return Ok(());
    }
    match next_ask(page, &Ask::Get(page.href.clone()))? {
        Some(next) => pages(source, next, false, paging, found, ctx).await,
        None => Ok(()),
    }
}
