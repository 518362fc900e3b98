//! store.geopackage.
