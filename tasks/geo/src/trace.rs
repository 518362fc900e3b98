//! Spans of work on pixels: a file, a window, a layer; never a row.

/// Enters a span until it is dropped, within a span of the caller's only: by itself such work is no trace.
macro_rules! traced {
    ($name:literal, $($field:tt)*) => {
        match tracing::Span::current().is_none() {
            true => tracing::Span::none(),
            false => tracing::debug_span!(target: "swath::gdal", $name, $($field)*),
        }
        .entered()
    };
}
