//! stac.search and signing.
