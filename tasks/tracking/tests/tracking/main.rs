//! Trainings that tell a real MLflow server, or a folder, and what MLflow's own client finds there; servers that are down,
//! slow, wrong or hostile to strangers; trainings that are killed.

mod folder;
mod misbehaving;
mod models;
mod server;
mod support;
