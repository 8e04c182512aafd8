//! `[[caller]]`: who may call the proxy, for which merchants and methods.

use std::fmt;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::document::Item;
use crate::config::error::Mismatch;
use crate::config::listen::Listen;
use crate::config::misfits::Given;
use crate::config::proxy::selector;
use crate::config::section::{Reading, Section};
use crate::config::{value, view};
use crate::model::selector::Selector;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::secret::Secret;

/// One `[[caller]]`.
#[derive(Debug, Clone)]
pub struct CallerConfig {
    /// The name in logs.
    pub name: String,
    /// How it proves who it is.
    pub identity: CallerIdentity,
    /// Whom it may call for.
    pub merchants: Vec<MerchantRule>,
    /// Globs over methods and v3 paths.
    pub methods: Vec<String>,
    /// Whether what it may not do is refused or only logged.
    pub mode: CallerMode,
    /// Whether it may claim events.
    pub events: bool,
}

impl CallerConfig {
    pub(crate) fn read_all(reading: &Reading, item: Option<Item>, proxy: &Listen) -> Vec<Self> {
        let mut callers: Vec<Self> = Vec::new();
        for section in Section::of_list(reading, ("caller", "caller"), item) {
            let caller = Self::read(&section, proxy);
            section.finish();
            let Some(caller) = caller else { continue };
            for (key, mismatch) in caller.taken_by(&callers) {
                section.fault(key, mismatch);
            }
            callers.push(caller);
        }
        callers
    }

    /// What it has that one of `others` has, too, by its key.
    fn taken_by(&self, others: &[Self]) -> impl Iterator<Item = (&'static str, Mismatch)> {
        let name = others.iter().find(|other| other.name == self.name);
        let name = name.map(|other| {
            let mismatch = Mismatch::of_text(&other.name, "a name no other caller has");
            ("name", mismatch)
        });
        let identity = others.iter().find(|other| other.identity == self.identity);
        let identity = identity.map(|other| {
            let found = format!("the identity of caller \"{}\"", other.name);
            let mismatch = Mismatch::new(found, "one that no other caller has");
            (self.identity.key(), mismatch)
        });
        name.into_iter().chain(identity)
    }

    /// A uid is no fault beside a TCP listener of ours: a host may have a unix socket of its own.
    pub(super) fn judge_all(callers: &[Self], mut root: Given<'_>) {
        for (at, caller) in callers.iter().enumerate() {
            let mut given = root.list_item("caller", at);
            if caller.name.is_empty() {
                given.fault("name", Mismatch::new("nothing", NAME_NEEDED));
            }
            given.check(caller.identity.key(), caller.identity.check());
            for method in &caller.methods {
                given.check("methods", value::glob(method));
            }
            for (key, mismatch) in caller.taken_by(callers.get(..at).unwrap_or_default()) {
                given.fault(key, mismatch);
            }
        }
    }

    fn read(section: &Section<'_>, proxy: &Listen) -> Option<Self> {
        let name = section.optional("name", |text| Ok(text.to_owned()));
        section.require("name", NAME_NEEDED);
        let identity = CallerIdentity::read(section, proxy);
        // Neither has a default: who forgets one would have allowed everything.
        let merchants = section.list("merchants", merchant);
        require(
            section,
            "merchants",
            "`[\"*\"]` is all but \"self\", `[]` none",
        );
        let methods = section.list("methods", value::glob);
        require(
            section,
            "methods",
            "`[\"*\"]` is all but the credential methods, `[]` none",
        );
        let mode = section.word("mode", &MODES);
        let events = section.flag("events");
        Some(Self {
            name: name?,
            identity: identity?,
            merchants: merchants?,
            methods: methods?,
            mode: mode.unwrap_or(CallerMode::Enforce),
            events: events.unwrap_or_default(),
        })
    }

    pub(crate) fn view(&self) -> Value {
        let identity = match &self.identity {
            CallerIdentity::PublicKey(key) => json!(key.fingerprint()),
            CallerIdentity::Token(_) => json!(view::SET),
            CallerIdentity::Uid(uid) => json!(uid),
        };
        let merchants = self.merchants.iter().map(MerchantRule::view);
        json!({
            "name": self.name,
            self.identity.key(): identity,
            "merchants": merchants.collect::<Vec<_>>(),
            "methods": self.methods,
            "mode": view::word(&MODES, self.mode),
            "events": self.events,
        })
    }
}

/// What is expected of a caller's `name`.
const NAME_NEEDED: &str = "a name for the log";

/// Whom a caller may call for, as one item of its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MerchantRule {
    /// `*`: every merchant, but not the ISV itself.
    All,
    /// Whom a selector names; `self` among them.
    Selected(Selector),
}

impl MerchantRule {
    fn view(&self) -> String {
        match self {
            Self::All => "*".to_owned(),
            Self::Selected(chosen) => view::selector(chosen),
        }
    }
}

/// Records a fault where a list isn't there at all.
fn require(section: &Section<'_>, key: &'static str, hint: &str) {
    if section.item(key).is_none() {
        let mismatch = Mismatch::new("nothing", "a list: what it doesn't name is refused");
        section.fault(key, mismatch.hint(hint));
    }
}

fn merchant(text: &str) -> Result<MerchantRule, Mismatch> {
    match text {
        "*" => Ok(MerchantRule::All),
        text => selector(text).map(MerchantRule::Selected),
    }
}

const MODES: [(&str, CallerMode); 2] = [
    ("enforce", CallerMode::Enforce),
    ("report", CallerMode::Report),
];

/// How a caller proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerIdentity {
    /// The signature an SDK makes with its throw-away key; the public half.
    PublicKey(RsaPublicKey),
    /// `Authorization: Bearer`.
    Token(TokenDigest),
    /// The peer's uid on a unix socket.
    Uid(u32),
}

impl CallerIdentity {
    /// The one identity that is set; `None`: a fault was recorded.
    fn read(section: &Section<'_>, proxy: &Listen) -> Option<Self> {
        const EXPECTED: &str = "one of `token`, `uid` and `public_key`";
        let is_set = |key| {
            section
                .item(key)
                .is_some_and(|item| item.text() != Some(""))
        };
        let (token, uid) = (is_set("token"), is_set("uid"));
        match (token, uid, is_set("public_key")) {
            (true, false, false) => {
                let token = section.secret_of_form("token", check_token)?;
                Some(Self::Token(TokenDigest::of(token.expose())))
            }
            (false, true, false) => Self::read_uid(section, proxy),
            (false, false, true) => section
                .optional("public_key", |text| public_key(section, text))
                .map(Self::PublicKey),
            (false, false, false) => {
                section.fault("token", Mismatch::new("no identity", EXPECTED));
                None
            }
            _ => {
                section.fault("token", Mismatch::new("several identities", EXPECTED));
                None
            }
        }
    }

    fn read_uid(section: &Section<'_>, proxy: &Listen) -> Option<Self> {
        let uid = section.integer("uid", 0..=i64::from(u32::MAX))?;
        if matches!(proxy, Listen::Tcp(_)) {
            let mismatch = Mismatch::new("a uid", "a `token` or `public_key`");
            let hint = "only a unix socket tells the peer's uid";
            section.fault("uid", mismatch.hint(hint));
        }
        u32::try_from(uid).ok().map(Self::Uid)
    }

    /// Of a digest only that it is none of the empty token, which anybody has.
    fn check(&self) -> Result<(), Mismatch> {
        match self {
            Self::Token(digest) if digest.is_of_nothing() => {
                check_token(&Secret::new(String::new()))
            }
            _ => Ok(()),
        }
    }

    /// Its key in the file.
    fn key(&self) -> &'static str {
        match self {
            Self::PublicKey(_) => "public_key",
            Self::Token(_) => "token",
            Self::Uid(_) => "uid",
        }
    }
}

fn public_key(section: &Section<'_>, reference: &str) -> Result<RsaPublicKey, Mismatch> {
    let text = section.reading.references().public(reference)?;
    RsaPublicKey::from_text(&text).map_err(|error| {
        let found = format!("a text that is no usable key ({error})");
        Mismatch::new(found, "the public half of the SDK's key")
    })
}

/// What can't stand in the header could never be given.
fn check_token(token: &Secret<String>) -> Result<(), Mismatch> {
    let token = token.expose();
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Mismatch::new(
            "something else (not shown)",
            "a token of visible ASCII characters without spaces, such as 32 random bytes in base64",
        )),
    }
}

/// What is kept of a caller's bearer token: its SHA-256. Comparing doesn't tell how much was right.
#[derive(Clone)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether it is that of the empty token.
    fn is_of_nothing(&self) -> bool {
        *self == Self::of("")
    }

    /// For a MAC alone: of a short token the digest would tell the token.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TokenDigest {}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of a short token the digest would tell the token.
        f.write_str("TokenDigest(…)")
    }
}

/// Whether what a caller may not do is refused or only logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerMode {
    /// Refused.
    Enforce,
    /// Logged.
    Report,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_names_merchants_as_they_are_written_and_shows_no_token() {
        let caller = CallerConfig {
            name: "shop".to_owned(),
            identity: CallerIdentity::Token(TokenDigest::of("a-token")),
            merchants: vec![
                MerchantRule::All,
                MerchantRule::Selected("pid:2088000000001001".parse().expect("a selector")),
                MerchantRule::Selected(Selector::Own),
            ],
            methods: vec!["alipay.trade.*".to_owned()],
            mode: CallerMode::Report,
            events: true,
        };
        let expected = json!({
            "name": "shop",
            "token": view::SET,
            "merchants": ["*", "pid:2088000000001001", "self"],
            "methods": ["alipay.trade.*"],
            "mode": "report",
            "events": true,
        });
        assert_eq!(caller.view(), expected);
    }
}
