//! The stores: one suite that all of them pass, and what is particular to each. Read back by independent programs.

mod conformance;
mod geopackage;
mod postgis;
mod postgis_refusals;
mod support;
