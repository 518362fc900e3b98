//! Trainings of small networks on small datasets: what they learn, what they leave, and what becomes of them when they are
//! killed, damaged or given what they cannot use.

mod faults;
mod learning;
mod pytorch;
mod resume;
mod support;
