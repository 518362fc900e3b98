//! Static catalogues: from the root over children to items, with bounded concurrency and a guard against circles.
//!
//! A collection of a server links to its `items`, which come in pages: those are followed when all else was read.

use std::collections::HashSet;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use swath_access::redact;
use swath_task::{Context, Fault, TaskError};
use url::Url;

use crate::api::{Paging, further_pages};
use crate::collector::Collector;
use crate::document::{Document, not_stac, take_in};
use crate::href::{is_address, resolve};
use crate::source::Source;

/// Documents read at the same time.
const AT_ONCE: usize = 16;
/// Deepest nesting of catalogues, and most documents of one walk.
const DEEPEST: usize = 32;
const MOST_DOCUMENTS: usize = 1_000_000;

struct Visit {
    href: String,
    depth: usize,
}

/// One walk: where it has been, where it has to go.
struct Walk {
    host: Option<String>,
    visited: HashSet<String>,
    waiting: Vec<Visit>,
    collections: Vec<String>,
    /// First pages of item collections.
    paged: Vec<Document>,
}

/// Walks on from `root`. Returns the collection ids that were met.
pub(crate) async fn walk(
    source: &Source,
    root: Document,
    paging: &Paging,
    found: &mut Collector,
    ctx: &Context,
) -> Result<Vec<String>, TaskError> {
    let address = root.href.clone();
    let mut walk = Walk {
        host: Url::parse(&address).ok().and_then(|url| url.host_str().map(str::to_owned)),
        visited: HashSet::from([address.clone()]),
        waiting: Vec::new(),
        collections: Vec::new(),
        paged: Vec::new(),
    };
    let mut documents = 1_usize;
    walk.open(root, 0, found)?;
    let mut reading = FuturesUnordered::new();
    loop {
        ctx.check_cancelled()?;
        while reading.len() < AT_ONCE
            && let Some(visit) = walk.waiting.pop()
        {
            documents += 1;
            if documents > MOST_DOCUMENTS {
                let message = format!("the catalogue `{}` has more than {MOST_DOCUMENTS} documents", redact(&address));
                return Err(Fault::new("S128", message).help("start from one of its collections").permanent());
            }
            reading.push(async move { (source.read(&visit.href).await, visit.depth) });
        }
        let Some((text, depth)) = reading.next().await else { break };
        let document = take_in(text?, false, found, ctx).await?;
        walk.open(document, depth, found)?;
        ctx.progress(documents as u64, (documents + walk.waiting.len() + reading.len()) as u64, "documents");
    }
    // Enough of one collection is not enough of another.
    let paging = Paging { enough: paging.enough.filter(|_| walk.paged.len() == 1), ..*paging };
    for page in &walk.paged {
        further_pages(source, page, &paging, found, ctx).await?;
    }
    Ok(walk.collections)
}

impl Walk {
    /// Takes in one document: offers an item, queues the children and items of a catalogue.
    fn open(&mut self, document: Document, depth: usize, found: &mut Collector) -> Result<(), TaskError> {
        if document.features.is_some() && document.members["type"] == "FeatureCollection" {
            self.paged.push(document);
            return Ok(());
        }
        let Document { members: document, href, .. } = document;
        match document["type"].as_str() {
            Some("Feature") => {
                found.offer(document, &href, false, false)?;
                return Ok(());
            }
            Some("Catalog" | "Collection") => {}
            // STAC 0.9 catalogues have no `type`; what has links and an id is taken for one.
            None if document["links"].is_array() && document["id"].is_string() => {}
            _ => return Err(not_stac(&href)),
        }
        if depth >= DEEPEST {
            let message = format!("the catalogue is nested more than {DEEPEST} deep at `{}`", redact(&href));
            return Err(Fault::new("S128", message).help("it may contain itself under other names").permanent());
        }
        let wanted = match document["type"].as_str() {
            Some("Collection") => {
                let id = document["id"].as_str().unwrap_or_default().to_owned();
                let all = found.filter().collections.is_empty();
                let wanted = all || found.filter().collections.contains(&id);
                self.collections.push(id);
                wanted
            }
            _ => true,
        };
        for link in document["links"].as_array().into_iter().flatten() {
            let follow = match link["rel"].as_str() {
                Some("child") => true,
                Some("item" | "items") => wanted,
                _ => false,
            };
            let Some(target) = link["href"].as_str().filter(|_| follow) else { continue };
            let Some(target) = resolve(&href, target) else { continue };
            if is_address(&target) {
                let there = Url::parse(&target).ok().and_then(|url| url.host_str().map(str::to_owned));
                if there != self.host {
                    let message = format!("`{}` links to another host: `{}`", redact(&href), redact(&target));
                    return Err(Fault::new("S123", message)
                        .help("a search stays on the host it was sent to: search the other one directly")
                        .permanent());
                }
            }
            if self.visited.insert(target.clone()) {
                self.waiting.push(Visit { href: target, depth: depth + 1 });
            }
        }
        Ok(())
    }
}
