//! Users who log in: `auth_code`, `access_token`, their shared profile.
use std::collections::BTreeMap;

use super::{
    calendar, ids,
    node::{Node, Refusal},
    world::{Call, World},
};

/// `expires_in` of an `access_token` in seconds: 15 days.
const EXPIRES_IN: i64 = 1_296_000;
/// `re_expires_in` of a user's `refresh_token` in seconds: 30 days.
const RE_EXPIRES_IN: i64 = 2_592_000;
/// How long an `auth_code` is valid: a day, the longest the documents name.
const CODE_LIFE_MS: i64 = 24 * 3600 * 1000;

/// The users' codes and tokens.
pub(super) struct Users {
    codes: BTreeMap<String, Consent>,
    access_tokens: BTreeMap<String, Access>,
    refresh_tokens: BTreeMap<String, Refreshable>,
    /// `expires_in` and `re_expires_in` of what is issued, seconds.
    life: (i64, i64),
}

impl Default for Users {
    fn default() -> Self {
        Self {
            codes: BTreeMap::new(),
            access_tokens: BTreeMap::new(),
            refresh_tokens: BTreeMap::new(),
            life: (EXPIRES_IN, RE_EXPIRES_IN),
        }
    }
}

/// A user's consent towards one application.
#[derive(Clone, Debug)]
struct Consent {
    /// The application the user was in: the host mini program, or the app itself.
    owner: String,
    user_id: String,
    since: i64,
}

/// An access token; milliseconds since 1970.
#[derive(Clone, Debug)]
struct Access {
    consent: Consent,
    expires_at: i64,
}

#[derive(Clone, Debug)]
struct Refreshable {
    consent: Consent,
    access_token: String,
    /// Does not move when the tokens are renewed; milliseconds since 1970.
    ends_at: i64,
}

impl Users {
    /// Issues an `auth_code` of a user inside the application `owner`.
    pub(super) fn issue_code(&mut self, owner: &str, user_id: &str, now: i64) -> String {
        let code = ids::code();
        let consent = Consent {
            owner: owner.to_owned(),
            user_id: user_id.to_owned(),
            since: now,
        };
        self.codes.insert(code.clone(), consent);
        code
    }

    /// Sets the `expires_in` and `re_expires_in` of what is issued from now on, seconds.
    pub(super) fn set_life(&mut self, expires_in: i64, re_expires_in: i64) {
        self.life = (expires_in, re_expires_in);
    }

    /// Lets all access tokens end; tells how many there were.
    pub(super) fn time_out(&mut self) -> usize {
        for access in self.access_tokens.values_mut() {
            access.expires_at = i64::MIN;
        }
        self.access_tokens.len()
    }

    /// Takes every consent back; tells how many access tokens there were.
    pub(super) fn forget(&mut self) -> usize {
        self.refresh_tokens.clear();
        std::mem::take(&mut self.access_tokens).len()
    }

    fn issue_tokens(&mut self, consent: &Consent, (ends_at, now): (i64, i64)) -> (String, String) {
        let (access_token, refresh_token) = (ids::access_token(), ids::access_token());
        let issued = Access {
            consent: consent.clone(),
            expires_at: now + self.life.0 * 1000,
        };
        self.access_tokens.insert(access_token.clone(), issued);
        let access = access_token.clone();
        let record = Refreshable {
            consent: consent.clone(),
            access_token: access,
            ends_at,
        };
        self.refresh_tokens.insert(refresh_token.clone(), record);
        (access_token, refresh_token)
    }
}

/// `alipay.system.oauth.token`: top-level parameters, success without `code` and `msg`.
///
/// The code belongs to the host mini program: without the host's `app_auth_token` it is foreign,
/// and it is used up all the same.
pub(super) fn oauth_token(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let owner = call.caller.owner();
    let (consent, ends_at) = match call.param("grant_type") {
        "authorization_code" => {
            let consent = world.users.codes.remove(call.param("code"));
            let consent = consent
                .filter(|consent| consent.owner == owner)
                .filter(|consent| call.now - consent.since <= CODE_LIFE_MS)
                .ok_or_else(|| Refusal::new("40002", "isv.code-invalid", "授权码code无效"))?;
            (consent, call.now + world.users.life.1 * 1000)
        }
        "refresh_token" => {
            let old = call.param("refresh_token");
            let invalid = || {
                Refusal::new(
                    "40002",
                    "isv.refresh-token-invalid",
                    "刷新令牌refresh_token无效",
                )
            };
            let record = world
                .users
                .refresh_tokens
                .get(old)
                .cloned()
                .ok_or_else(invalid)?;
            if record.consent.owner != owner || record.ends_at < call.now {
                return Err(invalid());
            }
            world.users.refresh_tokens.remove(old);
            world.users.access_tokens.remove(&record.access_token);
            (record.consent, record.ends_at)
        }
        "" => return Err(Refusal::parameter("参数有误grant_type不能为空")),
        other => return Err(Refusal::parameter(format!("grant_type `{other}` 不支持"))),
    };
    let (access_token, refresh_token) = world.users.issue_tokens(&consent, (ends_at, call.now));
    Ok(Node::bare()
        .with("access_token", access_token)
        .with("auth_start", calendar::spell(call.now))
        .with("expires_in", world.users.life.0)
        .with("open_id", open_id(&consent))
        .with("re_expires_in", (ends_at - call.now) / 1000)
        .with("refresh_token", refresh_token)
        .with("user_id", consent.user_id))
}

/// `alipay.user.info.share`: the user's profile for a valid `auth_token`.
pub(super) fn info_share(world: &mut World, call: &Call) -> Result<Node, Refusal> {
    let invalid = || Refusal::new("20001", "aop.invalid-auth-token", "无效的访问令牌");
    let access = world
        .users
        .access_tokens
        .get(call.param("auth_token"))
        .filter(|access| access.consent.owner == call.caller.owner())
        .ok_or_else(invalid)?;
    if access.expires_at <= call.now {
        return Err(Refusal::new(
            "20001",
            "aop.auth-token-time-out",
            "访问令牌已过期",
        ));
    }
    let consent = &access.consent;
    Ok(Node::success()
        .with(
            "avatar",
            "https://tfs.alipayobjects.com/images/partner/simulated",
        )
        .with("city", "杭州市")
        .with("gender", "F")
        .with("nick_name", "模拟买家")
        .with("open_id", open_id(consent))
        .with("province", "浙江省")
        .with("user_id", consent.user_id.as_str()))
}

fn open_id(consent: &Consent) -> String {
    format!("sim-{}-{}", consent.owner, consent.user_id)
}
