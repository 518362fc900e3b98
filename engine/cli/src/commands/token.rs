//! `swath token`: who may ask a server on this store, and for what.

use std::process::ExitCode;

use jiff::Timestamp;
use serde_json::json;
use swath_control::{Scope, new_token};
use swath_store::Access;

use crate::arguments::{Global, Token, TokenCommand};
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global, command: Token) -> Result<ExitCode, Failure> {
    super::block_on(async move {
        let store = global.address().open(Access::Write).await?;
        let now = Timestamp::now();
        match command.command {
            TokenCommand::Create { name, scope, expires } => {
                let scope = Scope::named(&scope).unwrap_or(Scope::Read);
                let end = expires.map(|length| now.checked_add(length)).transpose();
                let end = end.map_err(|error| Failure::Usage(format!("`--expires`: {error}")))?;
                let (text, kept) = new_token(&name, scope, now, end);
                if !store.add_token(kept).await? {
                    let message = format!("there is a token `{name}` already: `swath token revoke {name}` ends it");
                    return Err(Failure::Usage(message));
                }
                if !global.quiet {
                    tell!("a token for `{name}` with the scope `{}`; it is not shown again:", scope.name());
                }
                match global.json {
                    true => super::print_json(&json!({ "name": name, "scope": scope.name(), "token": text }))?,
                    false => super::print(&format!("{text}\n"))?,
                }
            }
            TokenCommand::List => {
                let tokens = store.tokens().await?;
                if global.json {
                    super::print_json(&tokens)?;
                } else {
                    let end = |end: Option<i64>| match end {
                        None => "never".to_owned(),
                        Some(end) if end <= now.as_millisecond() => format!("{} (over)", style::time(end)),
                        Some(end) => style::time(end),
                    };
                    let row = |one: &swath_store::TokenRow| {
                        vec![one.name.clone(), one.scope.clone(), style::time(one.created_at), end(one.expires_at)]
                    };
                    let rows: Vec<_> = tokens.iter().map(row).collect();
                    super::print(&style::table(&["TOKEN", "SCOPE", "CREATED", "EXPIRES"], &rows, false))?;
                }
            }
            TokenCommand::Revoke { name } => {
                if !store.revoke_token(&name, now.as_millisecond()).await? {
                    let message = format!("there is no token `{name}`; `swath token list` tells which there are");
                    return Err(Failure::Usage(message));
                }
                tell!("the token `{name}` is good for nothing any more");
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    })
}
