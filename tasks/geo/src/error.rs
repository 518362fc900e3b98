//! What can go wrong with rasters and vectors, in classes a caller acts on.

use std::fmt;

/// Classes of failure. Each has a code with a page under `docs/errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No such file or object.
    NotFound,
    /// The file is not a raster (or vector file) of an accepted format: empty, truncated in its header, a VRT.
    NotARaster,
    /// The file is a raster whose pixels cannot be read: truncated or damaged.
    Damaged,
    /// The server did not answer, answered with an error that may pass, or broke off.
    Unreachable,
    /// The object store refused access: there are no credentials, or not the right ones.
    Denied,
    /// The raster has no coordinate reference system or no geotransform.
    NotGeoreferenced,
    /// The raster is rotated, sheared or south-up.
    NotNorthUp,
    /// More pixels, bands or features than are accepted.
    TooLarge,
    /// Two things that must meet have no pixel in common.
    NoOverlap,
    /// An unknown coordinate reference system, or coordinates outside of where a projection is defined.
    Projection,
    /// A file could not be written: disk full, no permission.
    Write,
    /// A geometry that is not valid GeoJSON or WKB, or of the wrong type.
    Geometry,
    /// A vector file (or layer of it) cannot be opened, read or changed.
    Vector,
    /// The file is not the one that was listed: its size or content changed since.
    Changed,
    /// The caller asked for what the raster does not have: a band, a window, a buffer of another size.
    Request,
    /// The GDAL library is not on this machine.
    Missing,
}

impl ErrorKind {
    /// The code whose page explains it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "R101",
            Self::NotARaster => "R102",
            Self::Damaged => "R103",
            Self::Unreachable => "R104",
            Self::Denied => "R105",
            Self::NotGeoreferenced => "R106",
            Self::NotNorthUp => "R107",
            Self::TooLarge => "R108",
            Self::NoOverlap => "R109",
            Self::Projection => "R110",
            Self::Write => "R111",
            Self::Geometry => "R112",
            Self::Vector => "R113",
            Self::Changed => "R114",
            Self::Request => "R115",
            Self::Missing => "X103",
        }
    }

    /// What a person can do about it.
    pub const fn help(self) -> &'static str {
        match self {
            Self::NotFound => "check the path or address; a search older than its files must run again",
            Self::NotARaster => "give a GeoTIFF, COG or JPEG 2000 file",
            Self::Damaged => "fetch or write the file again, then compare its size with the source",
            Self::Unreachable => "try again later; `retry` on the step does so by itself",
            Self::Denied => "give credentials that may read it, or `AWS_NO_SIGN_REQUEST=YES` for a public bucket",
            Self::NotGeoreferenced => "assign a CRS and a geotransform, for example with `gdal_edit.py -a_srs`",
            Self::NotNorthUp => "warp it to a north-up grid first, for example with `gdalwarp`",
            Self::TooLarge => "choose a smaller area, fewer bands or a coarser resolution",
            Self::NoOverlap => "compare the area with the footprint of the data: coordinates are longitude, latitude",
            Self::Projection => "write the CRS as `EPSG:32633`, one that is defined where the data lies",
            Self::Write => "free disk space or choose a folder that can be written",
            Self::Geometry => "give GeoJSON polygons in degrees (RFC 7946)",
            Self::Vector => {
                "check the file and the name of its layer, and that no other program holds it open for writing"
            }
            Self::Changed => "run the search again, so that the list of scenes matches the files",
            Self::Missing => "run `make setup`, or name the library in `GDAL_LIBRARY`",
            Self::Request => "compare the bands asked for with those of the raster (`gdalinfo` lists them)",
        }
    }
}

/// An error that names the file and what happened to it.
#[derive(Clone, Debug)]
pub struct GeoError {
    kind: ErrorKind,
    message: String,
}

impl GeoError {
    /// An error of a kind, told in a sentence without a final period. Query strings of addresses are removed from it.
    pub fn new(kind: ErrorKind, message: impl AsRef<str>) -> Self {
        Self { kind, message: without_queries(message.as_ref()) }
    }

    /// Its class.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The code whose page explains it.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// What happened, where.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn help(&self) -> &'static str {
        self.kind.help()
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        self.kind == ErrorKind::Unreachable
    }
}

impl fmt::Display for GeoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for GeoError {}

/// Shorthand within the crate.
pub(crate) type Result<T> = std::result::Result<T, GeoError>;

/// Removes `?...` from every address in a text: signatures are secrets.
pub(crate) fn without_queries(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let after = start + 3;
        let end = rest[after..]
            .find(|c: char| c.is_whitespace() || matches!(c, '`' | '\'' | '"' | '<' | '>'))
            .map_or(rest.len(), |n| after + n);
        let address = &rest[..end];
        out.push_str(address.find('?').map_or(address, |query| &address[..query]));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_query_string_reaches_a_message() {
        let error = GeoError::new(
            ErrorKind::Unreachable,
            "cannot read `https://a.example/x.tif?sig=SECRET&se=1`: HTTP response code on '/vsicurl/https://a.example/x.tif?sig=SECRET' : 503",
        );
        assert_eq!(
            error.message(),
            "cannot read `https://a.example/x.tif`: HTTP response code on '/vsicurl/https://a.example/x.tif' : 503"
        );
        assert_eq!(without_queries("a question? yes"), "a question? yes");
    }
}
