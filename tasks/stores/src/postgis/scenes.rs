//! `store.postgis_scenes`: the scenes of a search to a PostGIS database.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use swath_kinds::SceneList;
use swath_task::{Artifact, Bytes, Context, Needs, Problem, Purity, Task, TaskError};

use super::ROWS_AT_ONCE;
use super::database::check_secret_name;
use super::images::{self, Image};
use super::ledger::{Key, PostgisOutputs, Stored};

/// Stores the scenes of a search in a PostGIS database: a row each in `swath_geo.imagery_catalog`, and a row a grid tile
/// in `swath_geo.tiles` with its scenes counted.
///
/// Scenes are told apart by collection and id: storing the same scenes again adds nothing. The rest is as in
/// `store.postgis`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreScenes {
    /// Name of the secret that holds the address, `postgres://user:password@host/database`: a parameter of the type
    /// `secret`.
    pub database: String,
}

/// What it reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The scenes to store.
    pub scenes: Artifact<SceneList>,
}

impl Task for StoreScenes {
    const NAME: &'static str = "store.postgis_scenes";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Effect;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = PostgisOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        check_secret_name(&self.database).map_err(|problem| vec![problem])
    }

    fn needs(&self) -> Needs {
        Needs::new(0.5, Bytes::mib(128))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<PostgisOutputs, TaskError> {
        let path = ctx.locate(&inputs.scenes).await?;
        let mut scenes = ctx.blocking(move |_| Image::of_scenes(&path)).await?;
        scenes.sort_by(|a, b| a.id.cmp(&b.id));
        let key = Key::of(self, &[Some(inputs.scenes.record())], ctx);
        let work = async |transaction: &mut PgConnection| store(&scenes, &key, transaction).await;
        key.store(&self.database, "swath_geo.imagery_catalog", ctx, work).await
    }
}

/// What is new, what has changed, and the rows of the table now.
async fn store(scenes: &[Image], key: &Key, transaction: &mut PgConnection) -> Result<(Stored, i64), sqlx::Error> {
    let mut stored = Stored::default();
    for scenes in scenes.chunks(ROWS_AT_ONCE) {
        stored += images::store(scenes, key, transaction).await?;
    }
    let mut tiles: Vec<&str> = scenes.iter().filter_map(|scene| scene.tile.as_deref()).collect();
    tiles.sort_unstable();
    tiles.dedup();
    // Counted anew from all of their scenes, so that nothing depends on what was there before.
    let count = "INSERT INTO swath_geo.tiles (tile, scenes, first_datetime, last_datetime, geometry)
        SELECT tile, count(*), min(datetime), max(datetime), ST_ConvexHull(ST_Collect(geometry))
        FROM swath_geo.imagery_catalog WHERE tile = ANY($1) GROUP BY tile
        ON CONFLICT (tile) DO UPDATE SET (scenes, first_datetime, last_datetime, geometry)
            = ROW (excluded.scenes, excluded.first_datetime, excluded.last_datetime, excluded.geometry)";
    sqlx::query(count).bind(tiles).execute(&mut *transaction).await?;
    let total = sqlx::query_scalar("SELECT count(*) FROM swath_geo.imagery_catalog");
    Ok((stored, total.fetch_one(transaction).await?))
}
