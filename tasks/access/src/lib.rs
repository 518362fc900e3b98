//! Reaching remote bytes: HTTP client, retry classes, URL signing; shared by task crates.
