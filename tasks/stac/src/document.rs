//! Reads a document: its features go to the collector one by one, so that a page of a thousand items is never a tree
//! in memory; what is left is small.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use swath_access::redact;
use swath_task::{Context, Fault, TaskError};

use crate::collector::Collector;
use crate::source::Text;

/// Larger texts are read off the async loop.
const SMALL: usize = 64 << 10;

/// A document that was read.
pub(crate) struct Document {
    /// Its members without `features`.
    pub members: Value,
    /// Where it lies.
    pub href: String,
    /// What became of its features; `None` when it has no such list.
    pub features: Option<Features>,
}

/// How many features a document had, and how many of them were not told before.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Features {
    pub count: u64,
    pub fresh: u64,
}

/// Reads `text`, offering its features to `found`. `placed`: they come from a server that has looked at the area.
/// S120: it is JSON and no document.
pub(crate) async fn take_in(
    text: Text,
    placed: bool,
    found: &mut Collector,
    ctx: &Context,
) -> Result<Document, TaskError> {
    if text.bytes().len() <= SMALL {
        return read(&text, placed, found);
    }
    let mut collector = std::mem::take(found);
    let (collector, read) = ctx
        .blocking(move |_| {
            let read = read(&text, placed, &mut collector);
            Ok((collector, read))
        })
        .await?;
    *found = collector;
    read
}

fn read(text: &Text, placed: bool, found: &mut Collector) -> Result<Document, TaskError> {
    let mut reading = Reading { href: text.href(), placed, found, members: Map::new(), features: None, failed: None };
    let mut json = serde_json::Deserializer::from_slice(text.bytes());
    let outcome = (&mut reading).deserialize(&mut json).and_then(|()| json.end());
    if let Some(failed) = reading.failed {
        return Err(failed);
    }
    match outcome {
        Ok(()) => {
            let (members, features) = (Value::Object(reading.members), reading.features);
            Ok(Document { members, href: text.href().to_owned(), features })
        }
        // Every object can be read: what has another form is a list, a text, a number.
        Err(error) if error.is_data() => Err(not_stac(text.href())),
        Err(error) => Err(text.error(&error)),
    }
}

/// The error of JSON that is none of the documents of STAC.
pub(crate) fn not_stac(href: &str) -> TaskError {
    Fault::new("S120", format!("`{}` is not a STAC document", redact(href)))
        .help("a catalogue, collection, item or item collection has a `type` that says so")
        .permanent()
}

struct Reading<'a> {
    href: &'a str,
    placed: bool,
    found: &'a mut Collector,
    members: Map<String, Value>,
    features: Option<Features>,
    failed: Option<TaskError>,
}

impl<'de> DeserializeSeed<'de> for &mut Reading<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Reading<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a STAC document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "features" {
                map.next_value_seed(FeatureList(&mut *self))?;
            } else {
                let value = map.next_value()?;
                self.members.insert(name, value);
            }
        }
        Ok(())
    }
}

/// The value of `features`: a list, or something that makes it no item collection.
struct FeatureList<'a, 'b>(&'a mut Reading<'b>);

impl<'de> DeserializeSeed<'de> for FeatureList<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FeatureList<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of items")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut features = Features::default();
        while let Some(feature) = list.next_element::<Value>()? {
            features.count += 1;
            match self.0.found.offer(feature, self.0.href, true, self.0.placed) {
                Ok(fresh) => features.fresh += u64::from(fresh),
                Err(error) => {
                    self.0.failed = Some(error);
                    return Err(serde::de::Error::custom("an item cannot be used"));
                }
            }
        }
        self.0.features = Some(features);
        Ok(())
    }
}
