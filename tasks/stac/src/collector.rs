//! Gathers what a search finds: filters, drops duplicates and twins, and counts.

use std::collections::HashMap;

use serde_json::Value;
use swath_kinds::Scene;
use swath_task::{Fault, TaskError};

use crate::filter::{Filter, Funnel};
use crate::item::{self, Choice};
use crate::search::Sort;
use crate::twins::Identity;

/// Most scenes one search may keep: bounds its memory.
const MOST_SCENES: usize = 200_000;

#[derive(Default)]
pub(crate) struct Collector {
    filter: Filter,
    choice: Choice,
    kept: HashMap<String, Vec<(Identity, Scene)>>,
    scenes: usize,
    /// The items told so far, each with the listing that told it last.
    ids: HashMap<(String, String), u64>,
    listing: u64,
    /// How many items passed each condition.
    pub funnel: Funnel,
    /// Items told twice, and items that a newer baseline replaced.
    pub duplicates: u64,
    pub twins: u64,
    /// Some item came from Planetary Computer.
    pub from_planetary_computer: bool,
}

impl Collector {
    pub fn new(filter: Filter, choice: Choice) -> Self {
        Self {
            filter,
            choice,
            kept: HashMap::new(),
            scenes: 0,
            ids: HashMap::new(),
            listing: 0,
            funnel: Funnel::default(),
            duplicates: 0,
            twins: 0,
            from_planetary_computer: false,
        }
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// How many scenes are kept now.
    pub fn len(&self) -> usize {
        self.scenes
    }

    /// Begins another listing: what it tells first is fresh, though another one has told it.
    pub fn begin_listing(&mut self) {
        self.listing += 1;
    }

    /// Takes an item in, if it is wanted. `false`: this listing has told it before. `placed`: a server has looked at the
    /// area.
    pub fn offer(&mut self, value: Value, document: &str, embedded: bool, placed: bool) -> Result<bool, TaskError> {
        let candidate = item::read(value, document, embedded, &self.choice)?;
        let id = (candidate.scene.collection.clone().unwrap_or_default(), candidate.scene.id.clone());
        if let Some(told_by) = self.ids.insert(id, self.listing) {
            self.duplicates += 1;
            return Ok(told_by != self.listing);
        }
        if !self.filter.wants(&candidate, placed, &mut self.funnel) {
            return Ok(true);
        }
        self.from_planetary_computer |= candidate.from_planetary_computer;
        let (identity, scene) = (candidate.identity, candidate.scene);
        let group = self.kept.entry(identity.key.clone()).or_default();
        if group.iter().any(|(other, _)| other.is_twin(&identity) && other.rank >= identity.rank) {
            self.twins += 1;
            return Ok(true);
        }
        let before = group.len();
        group.retain(|(other, _)| !other.is_twin(&identity));
        let replaced = before - group.len();
        group.push((identity, scene));
        self.twins += replaced as u64;
        self.scenes = self.scenes + 1 - replaced;
        if self.scenes > MOST_SCENES {
            return Err(Fault::new("S128", format!("more than {MOST_SCENES} scenes match"))
                .help("narrow the area or the period, or set `max_items`")
                .permanent());
        }
        Ok(true)
    }

    /// The scenes: of each twin one, at most `max`, by `sort` the first; then sorted by time and id.
    pub fn finish(self, sort: Option<Sort>, max: Option<usize>) -> Vec<Scene> {
        let mut scenes: Vec<Scene> = self.kept.into_values().flatten().map(|(_, scene)| scene).collect();
        let by_time =
            |a: &Scene, b: &Scene| (instant(a), &a.id, &a.collection).cmp(&(instant(b), &b.id, &b.collection));
        scenes.sort_by(by_time);
        if let Some(max) = max {
            match sort {
                None | Some(Sort::Newest) => {
                    // Those kept are the newest; the order stays oldest first.
                    scenes.drain(..scenes.len().saturating_sub(max));
                }
                Some(Sort::Oldest) => scenes.truncate(max),
                Some(Sort::LeastCloud) => {
                    let cover = |scene: &Scene| scene.cloud_cover.unwrap_or(f64::INFINITY);
                    scenes.sort_by(|a, b| cover(a).total_cmp(&cover(b)));
                    scenes.truncate(max);
                    scenes.sort_by(by_time);
                }
            }
        }
        scenes
    }
}

/// Texts of instants do not sort when one has a fraction and the other has none.
fn instant(scene: &Scene) -> Option<jiff::Timestamp> {
    scene.datetime.parse().ok()
}
