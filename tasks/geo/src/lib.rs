//! GDAL behind a safe, small face: windows, warps, COG and GeoPackage writing.
