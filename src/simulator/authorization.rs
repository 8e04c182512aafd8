//! Merchants' authorizations: `app_auth_code`, `app_auth_token`, `app_refresh_token`.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    calendar, ids,
    node::{Node, Refusal},
    seed::SimulatedGrant,
    world::{Call, World},
};

/// `expires_in` of an `app_auth_token` in seconds: 365 days, stated but not enforced.
pub(super) const EXPIRES_IN: i64 = 31_536_000;
/// `re_expires_in` of an `app_refresh_token` in seconds: 372 days, stated but not enforced.
pub(super) const RE_EXPIRES_IN: i64 = 32_140_800;
/// How long an `app_auth_code` is valid: 24 hours.
const CODE_LIFE_MS: i64 = 24 * 3600 * 1000;

/// All authorizations that were ever given.
#[derive(Default)]
pub(super) struct Grants {
    tokens: BTreeMap<String, Grant>,
    refresh_tokens: BTreeMap<String, GrantKey>,
    codes: BTreeMap<String, AppAuthCode>,
    order: u64,
}

/// Which app may act for which merchant application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GrantKey {
    pub(super) app_id: String,
    pub(super) auth_app_id: String,
}

/// One `app_auth_token`.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) key: GrantKey,
    pub(super) app_auth_token: String,
    pub(super) app_refresh_token: String,
    /// Milliseconds since 1970.
    pub(super) auth_time: i64,
    pub(super) state: TokenState,
    order: u64,
}

/// What the gateway says to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenState {
    Valid,
    /// Cancelled by the merchant: `aop.invalid-app-auth-token`.
    Cancelled,
    /// Timed out on a test's demand: `aop.app-auth-token-time-out`.
    TimedOut,
}

struct AppAuthCode {
    app_id: String,
    auth_app_ids: Vec<String>,
    issued_at: i64,
}

impl Grants {
    /// Takes over a grant that existed before the start.
    pub(super) fn adopt(&mut self, grant: &SimulatedGrant, auth_app_id: &str, now: i64) {
        let key = GrantKey {
            app_id: grant.app_id.clone(),
            auth_app_id: auth_app_id.to_owned(),
        };
        self.insert(
            key,
            (
                grant.app_auth_token.clone(),
                grant.app_refresh_token.clone(),
            ),
            now,
        );
    }

    /// Issues a new pair; the older tokens stay valid until cancelled.
    pub(super) fn issue(&mut self, key: GrantKey, now: i64) -> Grant {
        self.insert(key, (ids::app_auth_token(), ids::app_auth_token()), now)
    }

    fn insert(&mut self, key: GrantKey, (token, refresh): (String, String), now: i64) -> Grant {
        self.order += 1;
        let grant = Grant {
            key: key.clone(),
            app_auth_token: token.clone(),
            app_refresh_token: refresh.clone(),
            auth_time: now,
            state: TokenState::Valid,
            order: self.order,
        };
        self.tokens.insert(token, grant.clone());
        self.refresh_tokens.insert(refresh, key);
        grant
    }

    /// Gives the newest valid token of a pair of applications.
    pub(super) fn newest(&self, key: &GrantKey) -> Option<&Grant> {
        self.tokens
            .values()
            .filter(|grant| grant.key == *key && grant.state == TokenState::Valid)
            .max_by_key(|grant| grant.order)
    }

    /// Sets the state of all tokens of a pair of applications and gives how many there were.
    pub(super) fn set_state(&mut self, key: &GrantKey, state: TokenState) -> usize {
        let mut count = 0;
        for grant in self.tokens.values_mut() {
            if grant.key == *key && grant.state != TokenState::Cancelled {
                grant.state = state;
                count += 1;
            }
        }
        if state == TokenState::Cancelled {
            self.refresh_tokens.retain(|_, other| other != key);
        }
        count
    }

    /// Issues an `app_auth_code` that is exchanged for one token per merchant application.
    pub(super) fn issue_code(
        &mut self,
        app_id: &str,
        auth_app_ids: Vec<String>,
        now: i64,
    ) -> String {
        let code = ids::code();
        let record = AppAuthCode {
            app_id: app_id.to_owned(),
            auth_app_ids,
            issued_at: now,
        };
        self.codes.insert(code.clone(), record);
        code
    }

    /// Finds the merchant application behind a token that `app_id` presents.
    pub(super) fn check(&self, app_id: &str, token: &str) -> Result<&Grant, Refusal> {
        let grant = self.tokens.get(token).ok_or_else(invalid)?;
        match grant.state {
            _ if grant.key.app_id != app_id => Err(invalid()),
            TokenState::Cancelled => Err(invalid()),
            TokenState::TimedOut => Err(timed_out()),
            TokenState::Valid => Ok(grant),
        }
    }

    /// Describes every token for `GET /simulator/state`.
    pub(super) fn state(&self) -> Value {
        let mut grants: Vec<_> = self.tokens.values().collect();
        grants.sort_by_key(|grant| grant.order);
        grants
            .iter()
            .map(|grant| {
                json!({
                    "app_id": grant.key.app_id,
                    "auth_app_id": grant.key.auth_app_id,
                    "app_auth_token": grant.app_auth_token,
                    "app_refresh_token": grant.app_refresh_token,
                    "auth_time": grant.auth_time,
                    "state": format!("{:?}", grant.state),
                })
            })
            .collect()
    }
}

/// The answer to a token that doesn't hold.
pub(super) fn invalid() -> Refusal {
    Refusal::new("20001", "aop.invalid-app-auth-token", "无效的应用授权令牌")
}

/// The answer to a token that has timed out.
pub(super) fn timed_out() -> Refusal {
    Refusal::new("20001", "aop.app-auth-token-time-out", "应用授权令牌已过期")
}

/// `alipay.open.auth.token.app`.
///
/// Protocol: 换取应用授权令牌; the code is single use and dies with the first try of its owner.
pub(super) fn token_app(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    if call.params.contains_key("app_auth_token") {
        return Err(Refusal::parameter("该接口不允许传入app_auth_token"));
    }
    let keys = match call.required("grant_type")?.as_str() {
        "authorization_code" => redeem_code(world, call, &call.required("code")?)?,
        "refresh_token" => redeem_refresh(world, call, &call.required("refresh_token")?)?,
        other => return Err(Refusal::parameter(format!("grant_type `{other}` 不支持"))),
    };
    let tokens: Vec<_> = keys
        .into_iter()
        .map(|key| {
            let pid = world.pid(&key.auth_app_id);
            token_json(&world.grants.issue(key, call.now), &pid)
        })
        .collect();
    Ok(Node::success().with("tokens", tokens))
}

fn redeem_code(world: &mut World, call: &Call, code: &str) -> Result<Vec<GrantKey>, Refusal> {
    let invalid = || Refusal::new("40002", "isv.code-invalid", "授权码code无效");
    let app_id = &call.caller.app_id;
    let record = world.grants.codes.remove(code).ok_or_else(invalid)?;
    if record.app_id != *app_id || call.now - record.issued_at > CODE_LIFE_MS {
        return Err(invalid());
    }
    let key = |auth_app_id| GrantKey {
        app_id: app_id.clone(),
        auth_app_id,
    };
    Ok(record.auth_app_ids.into_iter().map(key).collect())
}

fn redeem_refresh(world: &mut World, call: &Call, token: &str) -> Result<Vec<GrantKey>, Refusal> {
    let invalid = || Refusal::new("40002", "isv.refresh-token-invalid", "刷新令牌无效");
    let key = world.grants.refresh_tokens.get(token).ok_or_else(invalid)?;
    if key.app_id != call.caller.app_id {
        return Err(invalid());
    }
    world
        .grants
        .refresh_tokens
        .remove(token)
        .map(|key| vec![key])
        .ok_or_else(invalid)
}

fn token_json(grant: &Grant, pid: &str) -> Value {
    json!({
        "app_auth_token": grant.app_auth_token,
        "app_refresh_token": grant.app_refresh_token,
        "auth_app_id": grant.key.auth_app_id,
        "expires_in": EXPIRES_IN,
        "re_expires_in": RE_EXPIRES_IN,
        "user_id": pid,
    })
}

/// `alipay.open.auth.token.app.query`.
pub(super) fn token_app_query(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let token = call.required("app_auth_token")?;
    let grant = world
        .grants
        .tokens
        .get(&token)
        .filter(|grant| grant.key.app_id == call.caller.app_id)
        .ok_or_else(invalid)?;
    let status = if grant.state == TokenState::Valid {
        "valid"
    } else {
        "invalid"
    };
    Ok(Node::success()
        .with("user_id", world.pid(&grant.key.auth_app_id))
        .with("auth_app_id", grant.key.auth_app_id.as_str())
        .with("expires_in", EXPIRES_IN)
        .with(
            "auth_methods",
            json!(["alipay.trade.*", "alipay.system.oauth.token"]),
        )
        .with("auth_start", calendar::spell(grant.auth_time))
        .with(
            "auth_end",
            calendar::spell(grant.auth_time + EXPIRES_IN * 1000),
        )
        .with("status", status)
        .with("is_by_app_auth", true))
}
