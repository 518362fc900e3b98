//! sample.catalogue: synthetic Sentinel-2-like catalogues with a known truth.
