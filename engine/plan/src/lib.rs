//! A flow, a catalogue and parameters to a checked plan, or every diagnostic at once.
