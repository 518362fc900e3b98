//! What must outlive a crash: journal, cache index, artifacts.
