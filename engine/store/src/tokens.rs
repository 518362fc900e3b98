//! Who may ask a server for what: tokens, of which a digest is kept and never the secret.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::deployments::{Tables, statement};
use crate::error::Error;
use crate::read::{Ask, Columns};

/// Tokens.
///
/// # Contract
/// - A name belongs to one token, as long as that is not revoked.
/// - What is revoked stays so.
#[async_trait]
pub trait Tokens: Send + Sync + 'static {
    /// Adds a token. `false`: another of its name is there.
    async fn add_token(&self, token: NewToken) -> Result<bool, Error>;

    /// All that are not revoked, by name.
    async fn tokens(&self) -> Result<Vec<TokenRow>, Error>;

    /// The token of an id, unless it is revoked.
    async fn token(&self, id: &str) -> Result<Option<TokenRow>, Error>;

    /// Revokes a token by its name. `false`: there is none.
    async fn revoke_token(&self, name: &str, now: i64) -> Result<bool, Error>;
}

/// A token to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The public part of the token, by which it is found.
    pub id: String,
    /// Who or what it is for.
    pub name: String,
    /// What it allows, opaque to the store.
    pub scope: String,
    /// Digest of the secret part.
    pub digest: String,
    /// When it was made.
    pub created_at: i64,
    /// From when on it is good for nothing.
    pub expires_at: Option<i64>,
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// See [`NewToken::id`].
    pub id: String,
    /// See [`NewToken::name`].
    pub name: String,
    /// See [`NewToken::scope`].
    pub scope: String,
    /// See [`NewToken::digest`].
    #[serde(skip)]
    pub digest: String,
    /// See [`NewToken::created_at`].
    pub created_at: i64,
    /// See [`NewToken::expires_at`].
    pub expires_at: Option<i64>,
}

const TOKEN: &str = "SELECT id, name, scope, digest, created_at, expires_at FROM token WHERE revoked_at IS NULL";

fn token(row: &impl Columns) -> Result<TokenRow, Error> {
    Ok(TokenRow {
        id: row.text(0)?,
        name: row.text(1)?,
        scope: row.text(2)?,
        digest: row.text(3)?,
        created_at: row.integer(4)?,
        expires_at: row.integer_or_none(5)?,
    })
}

#[async_trait]
impl<D: Tables> Tokens for D {
    async fn add_token(&self, new: NewToken) -> Result<bool, Error> {
        let added = self
            .alter(vec![statement!(
                "INSERT INTO token (id, name, scope, digest, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT DO NOTHING RETURNING n",
                new.id.as_str(),
                new.name.as_str(),
                new.scope.as_str(),
                new.digest.as_str(),
                new.created_at,
                new.expires_at,
            )])
            .await?;
        Ok(added.iter().flatten().count() == 1)
    }

    async fn tokens(&self) -> Result<Vec<TokenRow>, Error> {
        self.reads().ask(&format!("{TOKEN} ORDER BY name"), &[]).await?.iter().map(token).collect()
    }

    async fn token(&self, id: &str) -> Result<Option<TokenRow>, Error> {
        let rows = self.reads().ask(&format!("{TOKEN} AND id = $1"), &[id.into()]).await?;
        rows.first().map(token).transpose()
    }

    async fn revoke_token(&self, name: &str, now: i64) -> Result<bool, Error> {
        let text = "UPDATE token SET revoked_at = $2 WHERE name = $1 AND revoked_at IS NULL RETURNING n";
        Ok(self.alter(vec![statement!(text, name, now)]).await?.iter().flatten().count() > 0)
    }
}
