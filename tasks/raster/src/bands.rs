//! Finding a band in a scene by asset key or common name.

use swath_kinds::{Scene, SceneAsset};

/// Sentinel-2 band numbers and the common names of the STAC eo extension, with the older ones after it.
const SENTINEL_2: &[(&str, &[&str])] = &[
    ("B01", &["coastal"]),
    ("B02", &["blue"]),
    ("B03", &["green"]),
    ("B04", &["red"]),
    ("B05", &["rededge071", "rededge1", "rededge"]),
    ("B06", &["rededge075", "rededge2"]),
    ("B07", &["rededge078", "rededge3"]),
    ("B08", &["nir"]),
    ("B8A", &["nir08"]),
    ("B09", &["nir09"]),
    ("B11", &["swir16"]),
    ("B12", &["swir22"]),
];

/// The asset that holds a band, and its index in the file when the asset lists several bands. Asked for `B08`, an
/// asset `B08`, `b08`, one that lists the band `B08`, and one called or listing `nir` are found, in this order.
pub fn find_asset<'a>(scene: &'a Scene, name: &str) -> Option<(&'a SceneAsset, Option<usize>)> {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let by_name = |name: &str| {
        let exact = scene.assets.get(name);
        let found = exact.or_else(|| scene.assets.iter().find(|(key, _)| same(key, name)).map(|(_, asset)| asset));
        if let Some(asset) = found {
            return Some((asset, None));
        }
        // Assets of one band first: a picture (`visual`) also lists red, green and blue.
        let mut listing: Vec<(&SceneAsset, usize)> = scene
            .assets
            .values()
            .filter_map(|asset| Some((asset, asset.bands.iter().position(|band| same(band, name))?)))
            .collect();
        listing.sort_by_key(|(asset, _)| asset.bands.len());
        let (asset, index) = *listing.first()?;
        Some((asset, (asset.bands.len() > 1).then_some(index)))
    };
    by_name(name).or_else(|| aliases(name).find_map(by_name))
}

/// All names of the band that has this name, number first.
pub fn aliases(name: &str) -> impl Iterator<Item = &'static str> {
    let same = |other: &&str| other.eq_ignore_ascii_case(name);
    let known = SENTINEL_2.iter().find(|(band, common)| same(band) || common.iter().any(same));
    known.into_iter().flat_map(|(band, common)| std::iter::once(*band).chain(common.iter().copied()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn scene(assets: &[(&str, &[&str])]) -> Scene {
        let assets: BTreeMap<String, SceneAsset> = assets
            .iter()
            .map(|(key, bands)| {
                let bands = bands.iter().map(|b| (*b).to_owned()).collect();
                ((*key).to_owned(), SceneAsset { href: (*key).to_owned(), bands, ..SceneAsset::default() })
            })
            .collect();
        serde_json::from_value(serde_json::json!({"id": "s", "datetime": "2024-01-01T00:00:00Z", "assets": assets}))
            .unwrap()
    }

    #[test]
    fn a_band_is_found_by_key_by_listing_and_by_its_common_name() {
        let earth_search =
            scene(&[("nir", &["nir"]), ("scl", &[]), ("visual", &["red", "green", "blue"]), ("red", &["red"])]);
        let find =
            |scene: &Scene, name: &str| find_asset(scene, name).map(|(asset, index)| (asset.href.clone(), index));
        assert_eq!(find(&earth_search, "B08"), Some(("nir".into(), None)));
        assert_eq!(find(&earth_search, "SCL"), Some(("scl".into(), None)));
        assert_eq!(find(&earth_search, "B04"), Some(("red".into(), None)));
        assert_eq!(find(&earth_search, "B11"), None);
        let naip = scene(&[("image", &["red", "green", "blue", "nir"])]);
        assert_eq!(find(&naip, "nir"), Some(("image".into(), Some(3))));
        let computer = scene(&[("B08", &["nir"]), ("B04", &["red"])]);
        assert_eq!(find(&computer, "nir"), Some(("B08".into(), None)));
    }
}
