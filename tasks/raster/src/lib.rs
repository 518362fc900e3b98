//! raster.composite, indices, normalise, chips, preview.
