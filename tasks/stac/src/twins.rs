//! Twins: several items of one acquisition. The newest processing baseline of a (tile, datatake) stays.

use stac::Item;

/// What two items must share to be twins, and which of them stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Tile and datatake, or collection and id.
    pub key: String,
    /// Begin of the data strip, seconds since 1970, where it is told.
    pub strip: Option<i64>,
    /// The greater stays: baseline, then time of processing, then id.
    pub rank: (Vec<u32>, String, String),
    /// Grid tile.
    pub tile: Option<String>,
    /// Processing baseline, `05.10`.
    pub baseline: Option<String>,
}

/// Begins of one data strip differ by seconds from baseline to baseline, those of two strips by minutes.
const SAME_STRIP: u64 = 30;

impl Identity {
    /// Whether `other`, of the same key, holds the same pixels. One datatake may come down in two strips that share
    /// a tile: neither replaces the other. Where strips are not told, another baseline tells reprocessing; two items
    /// of one baseline are taken for two strips.
    pub fn is_twin(&self, other: &Self) -> bool {
        match (self.strip, other.strip) {
            (Some(one), Some(two)) => one.abs_diff(two) <= SAME_STRIP,
            _ => self.rank.0 != other.rank.0,
        }
    }
}

/// Reads tile, datatake and baseline off an item, from its properties or a Sentinel-2 product name.
pub(crate) fn identify(item: &Item) -> Identity {
    let text = |names: &[&str]| {
        let fields = &item.properties.additional_fields;
        names.iter().find_map(|name| match fields.get(*name)? {
            serde_json::Value::String(text) if !text.is_empty() => Some(text.clone()),
            serde_json::Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
    };
    let product = [Some(item.id.clone()), text(&["s2:product_uri", "sentinel:product_id", "sentinel2:product_id"])];
    let product = product.into_iter().flatten().find_map(|name| Product::parse(&name));

    let grid = text(&["grid:code"]).map(|code| code.split_once('-').map_or(code.clone(), |(_, tile)| tile.to_owned()));
    let mgrs = text(&["mgrs:utm_zone", "sentinel:utm_zone"])
        .zip(text(&["mgrs:latitude_band", "sentinel:latitude_band"]))
        .zip(text(&["mgrs:grid_square", "sentinel:grid_square"]))
        .map(|((zone, band), square)| format!("{zone:0>2}{band}{square}"));
    let wrs =
        text(&["landsat:wrs_path"]).zip(text(&["landsat:wrs_row"])).map(|(path, row)| format!("{path:0>3}{row:0>3}"));
    let tile = text(&["s2:mgrs_tile", "sentinel2:mgrs_tile"]).or(grid).or(mgrs).or(wrs);
    let tile =
        tile.map(|tile| tile.trim_start_matches('T').to_owned()).or_else(|| product.as_ref().map(|p| p.tile.clone()));

    let baseline = text(&["s2:processing_baseline", "processing:version", "sentinel2:processing_baseline"])
        .filter(|text| !numbers(text).is_empty())
        .or_else(|| product.as_ref().and_then(|p| p.baseline.clone()));

    // The datatake's own name ends with the baseline it was first processed with: `GS2A_..._026434_N02.09`.
    let datatake = text(&["s2:datatake_id", "sentinel2:datatake_id"])
        .map(|id| id.rsplit_once("_N").map_or(id.clone(), |(stem, _)| stem.to_owned()))
        .or_else(|| product.as_ref().map(|p| p.datatake.clone()));
    let strip =
        text(&["s2:datastrip_id"]).and_then(|id| id.rsplit('_').find_map(|part| sensing(part.strip_prefix('S')?)));

    let collection = item.collection.clone().unwrap_or_default();
    let key = match (&tile, &datatake) {
        (Some(tile), Some(datatake)) => format!("{collection}\n{tile}\n{datatake}"),
        _ => format!("{collection}\n{}", item.id),
    };
    let processed = text(&["s2:generation_time", "processing:datetime"])
        .or_else(|| product.map(|p| p.processed))
        .or_else(|| item.properties.updated.clone())
        .unwrap_or_default();
    let rank = (baseline.as_deref().map(numbers).unwrap_or_default(), processed, item.id.clone());
    Identity { key, strip, rank, tile, baseline }
}

/// `20190629T212530`, UTC, in seconds since 1970.
fn sensing(text: &str) -> Option<i64> {
    let at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%S", text).ok()?;
    Some(jiff::tz::TimeZone::UTC.to_timestamp(at).ok()?.as_second())
}

fn numbers(text: &str) -> Vec<u32> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

/// A Sentinel-2 product name, `S2B_MSIL2A_20190629T212529_N0212_R043_T06VVN_20201006T080531`.
struct Product {
    tile: String,
    datatake: String,
    baseline: Option<String>,
    processed: String,
}

impl Product {
    fn parse(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".SAFE").unwrap_or(name);
        let mut parts = name.split('_');
        let (platform, level, sensed) = (parts.next()?, parts.next()?, parts.next()?);
        if !platform.starts_with("S2") || !level.starts_with("MSI") || sensed.len() != 15 {
            return None;
        }
        let mut product = Self {
            tile: String::new(),
            datatake: format!("{platform}_{sensed}"),
            baseline: None,
            processed: String::new(),
        };
        for part in parts {
            match (part.as_bytes(), part.len()) {
                ([b'N', digits @ ..], 5) if digits.iter().all(u8::is_ascii_digit) => {
                    product.baseline = Some(format!("{}.{}", &part[1..3], &part[3..5]));
                }
                ([b'T', ..], 6) => product.tile = part[1..].to_owned(),
                (_, 15) => product.processed = part.to_owned(),
                _ => {}
            }
        }
        (!product.tile.is_empty()).then_some(product)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, properties: serde_json::Value) -> Item {
        let json = serde_json::json!({"type": "Feature", "id": id, "collection": "s2", "geometry": null,
            "properties": properties, "links": [], "assets": {}, "stac_version": "1.0.0"});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn reprocessed_products_are_twins_and_the_newest_baseline_ranks_highest() {
        let old =
            identify(&item("S2A_MSIL2A_20200714T112121_N0214_R037_T28QCH_20200714T140000", serde_json::json!({})));
        let new =
            identify(&item("S2A_MSIL2A_20200714T112121_N0500_R037_T28QCH_20230401T010101", serde_json::json!({})));
        let tenth =
            identify(&item("S2A_MSIL2A_20200714T112121_N0510_R037_T28QCH_20230401T010101", serde_json::json!({})));
        assert_eq!(old.key, new.key);
        assert!(old.is_twin(&new) && !old.is_twin(&old), "one baseline and no strip told: two strips");
        assert!(old.rank < new.rank && new.rank < tenth.rank);
        assert_eq!((old.tile.as_deref(), new.baseline.as_deref()), (Some("28QCH"), Some("05.00")));
    }

    #[test]
    fn tiles_and_strips_of_one_datatake_are_not_twins() {
        let of = |tile: &str, strip: &str, baseline: &str| {
            identify(&item(
                &format!("{tile}{strip}"),
                serde_json::json!({"s2:mgrs_tile": tile, "s2:datatake_id": format!("GS2A_20200714T112121_026434_N{baseline}"),
                    "s2:datastrip_id": format!("S2A_OPER_MSI_L2A_DS_X_20201006T080532_S{strip}_N{baseline}"),
                    "s2:processing_baseline": baseline}),
            ))
        };
        let one = of("28QCH", "20200714T112121", "02.09");
        assert_ne!(one.key, of("28QCJ", "20200714T112121", "02.09").key);
        let later = of("T28QCH", "20200714T112500", "02.09");
        assert!(one.key == later.key && !one.is_twin(&later));
        let reprocessed = of("28QCH", "20200714T112122", "05.00");
        assert!(one.key == reprocessed.key && one.is_twin(&reprocessed) && one.rank < reprocessed.rank);
    }

    #[test]
    fn items_of_other_missions_are_told_apart_by_id() {
        let key =
            |id: &str| identify(&item(id, serde_json::json!({"landsat:wrs_path": "35", "landsat:wrs_row": 32}))).key;
        assert_ne!(key("LE07_1"), key("LE07_2"));
        assert_eq!(
            identify(&item("x", serde_json::json!({"landsat:wrs_path": "35", "landsat:wrs_row": 32}))).tile.as_deref(),
            Some("035032")
        );
    }
}
