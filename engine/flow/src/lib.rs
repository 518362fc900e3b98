//! Flow text to a spanned flow, or every diagnostic at once.
