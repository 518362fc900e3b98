//! Our own list of sites, `[{"name", "lon", "lat"}]` or the same under `"sites"`, read entry by entry: what else a text holds is
//! passed over and takes no memory.

use std::fmt;

use geo::Point;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use swath_geo::Value;

use super::{Found, Refused, Site, number, on_globe, own_buffer, short, shown};

/// What a JSON text is.
pub enum Document {
    /// A list of sites in our own form.
    List(Found),
    /// A GeoJSON collection of features.
    Collection,
    /// Anything else.
    Other,
}

/// What is looked at of an object.
#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    sites: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
}

/// What is looked at of a site.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow, alias = "longitude")]
    lon: Option<&'a RawValue>,
    #[serde(borrow, alias = "latitude")]
    lat: Option<&'a RawValue>,
    #[serde(borrow)]
    buffer_km: Option<&'a RawValue>,
    #[serde(borrow)]
    buffer_m: Option<&'a RawValue>,
    #[serde(borrow)]
    buffer: Option<&'a RawValue>,
}

/// Reads a text.
pub fn read(text: &str) -> serde_json::Result<Document> {
    let whole: &RawValue = serde_json::from_str(text)?;
    let list = match whole.get().as_bytes() {
        [b'[', ..] => Some(whole),
        [b'{', ..] => {
            let outer: Outer = serde_json::from_str(text)?;
            if outer.kind.is_some_and(|kind| kind.get() == r#""FeatureCollection""#) {
                return Ok(Document::Collection);
            }
            outer.sites.filter(|sites| sites.get().starts_with('['))
        }
        _ => None,
    };
    Ok(match list {
        Some(list) => Document::List(serde_json::Deserializer::from_str(list.get()).deserialize_seq(Entries)?),
        None => Document::Other,
    })
}

/// The entries of a list, until there are too many.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sites")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        let mut found = Found::default();
        while let Some(entry) = seq.next_element::<&RawValue>()? {
            // What is no object has no coordinates, nor has one that names them twice.
            let object = entry.get().starts_with('{').then(|| serde_json::from_str(entry.get()));
            let fields: Entry = object.and_then(Result::ok).unwrap_or_default();
            let site = listed(found.count(), &fields);
            if !found.add(site) {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(found)
    }
}

/// A site of a list.
fn listed(index: usize, entry: &Entry) -> Result<Site, Refused> {
    let name = match entry.name.map(value) {
        Some(Value::Text(name)) => short(name),
        _ => format!("site {}", index + 1),
    };
    let [lon, lat] = [entry.lon, entry.lat].map(|field| field.map_or(Value::Null, value));
    let (Some(x), Some(y)) = (number(&lon), number(&lat)) else {
        let (lon, lat) = (shown(&lon), shown(&lat));
        return Err(("L102", format!("`{name}` has no coordinates: `lon` is {lon}, `lat` is {lat}")));
    };
    let shape = on_globe(&name, Point::new(x, y).into())?;
    let field = |wanted: &str| {
        let found = match wanted {
            "buffer_km" => entry.buffer_km,
            "buffer_m" => entry.buffer_m,
            _ => entry.buffer,
        };
        found.map(value).filter(|value| *value != Value::Null)
    };
    let buffer = own_buffer(&name, field)?;
    Ok(Site { name, shape, buffer })
}

/// A field that is one value; a list or an object is the text that it is.
fn value(raw: &RawValue) -> Value {
    let text = raw.get();
    match text.as_bytes() {
        [b'n', ..] => Value::Null,
        [b't', ..] => Value::Boolean(true),
        [b'f', ..] => Value::Boolean(false),
        [b'-' | b'0'..=b'9', ..] => text.parse().map_or(Value::Null, Value::Real),
        [b'"', ..] => Value::Text(serde_json::from_str(text).unwrap_or_default()),
        _ => Value::Text(short(text.to_owned())),
    }
}
